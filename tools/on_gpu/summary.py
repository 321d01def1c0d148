"""What a run has found, in short tables: what was predicted beside what was measured.

A prediction is a roofline (``tritoninit.bench.inspection``), a bound. It has failed where

- the measured throughput is above it, by more than the clock's noise: then a rate that it takes for granted
  is wrong, since nothing is faster than what bounds it;
- the measured throughput is below a share of it. A kernel that is bound by memory should get to 85 % of what
  memset wrote in this run. Where instructions are the bound, they wait for each other and for stores, and the
  clock may not be the highest: 70 %.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tools.on_gpu import rows
from tools.on_gpu.bench import CONTENDERS
from tools.on_gpu.runner import Outcome

ABOVE = 1.02
ATTAINABLE = 0.94  # of a data sheet's bandwidth
BELOW = {"memory": 0.85}
BELOW_ELSE = 0.70
# Launches of a whole model, which tests/test_launches.py counts without a GPU.
LAUNCHES = {"gpt2": 2, "llama-3.2-1b": 2, "llama-3-8b": 2, "resnet-50": 4}
FEW = 5  # of a list that may be long
Document = Mapping[str, Any]


class Files(NamedTuple):
    """Where a run's results lie."""

    environment: Path
    bits: Path
    bench: Path
    tests: Path
    sweeps: Path
    log: Path
    summary: Path


class Check(NamedTuple):
    """A prediction beside what was measured, and in words why it failed, if it did."""

    what: str
    predicted: str
    measured: str
    share: str
    verdict: str

    @property
    def failed(self) -> bool:
        return self.verdict != "as predicted"


def text(files: Files, outcomes: Sequence[Outcome]) -> str:
    """All tables, of whatever is there, in Markdown."""
    environment = rows.document(files.environment)
    bench = [row for row in rows.document(files.bench).get("benchmarks", []) if "extra_info" in row]
    parts: dict[str, Callable[[], Iterable[str]]] = {
        "": lambda: _head(environment),
        "Steps": lambda: table(
            ("step", "outcome", "seconds"), [(o.name, str(o), f"{o.seconds:.1f}") for o in outcomes]
        ),
        "Bits against the reference": lambda: _bits(rows.read(files.bits)),
        "Fills, 1e9 elements a second": lambda: _fills(bench),
        "Whole models": lambda: _models(bench),
        "Calls and starts": lambda: _others(bench),
        "Rows without a result": lambda: _lost(rows.document(files.bench)),
        "Sweeps: as launched, and the best": lambda: _sweeps(rows.read(files.sweeps)),
        "Tests marked gpu": lambda: _tests(rows.read(files.tests)),
        "Predicted beside measured": lambda: _checks(environment, bench),
    }
    lines: list[str] = []
    for title, part in parts.items():
        try:
            found = list(part())
        except Exception as error:  # noqa: BLE001 - whatever a row holds, the other parts are to be told
            found = [f"cannot be told: {type(error).__name__}: {error}"]
        if found:
            lines += [*([f"## {title}", ""] if title else []), *found, ""]
    return "\n".join(lines)


def table(headings: Sequence[str], cells: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table with columns as wide as what is in them; empty without cells."""
    if not cells:
        return []
    widths = [max(map(len, column)) for column in zip(headings, *cells, strict=True)]
    lines = [headings, ["-" * width for width in widths], *cells]
    return ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in lines]


def _head(environment: Document) -> Iterator[str]:
    if environment.get("stand_in"):
        yield "**STAND-IN: no GPU was used. Numbers are a CPU's, at tiny sizes, and say nothing of speed.**"
        yield ""
    accelerator = environment.get("accelerator") or {}
    packages = environment.get("packages") or {}
    yield f"{accelerator.get('name', 'no accelerator known')}, {environment.get('time', 'time unknown')}"
    yield ", ".join(f"{name} {packages[name]}" for name in packages if packages[name])
    smi = environment.get("nvidia_smi")
    if isinstance(smi, dict):
        yield ", ".join(f"{name} {value}" for name, value in smi.items())
    elif smi:
        yield f"nvidia-smi: {smi.partition(chr(10))[0]:.200}"
    if why := (environment.get("backends") or {}).get("triton"):
        yield f"**The backend triton cannot run here: {why:.200}**"


def _bits(found: Sequence[Document]) -> Iterator[str]:
    if not found:
        return
    tensors, elements = (sum(row.get(name, 0) for row in found) for name in ("tensors", "elements"))
    wrong = [row for row in found if row.get("differ")]
    errors = [row for row in found if row.get("error")]
    yield (
        f"{len(found)} of kernel, distribution and dtype; {tensors} tensors, {elements} elements compared."
        f" {len(wrong)} differ, {len(errors)} ended in an error."
    )
    for row in [*wrong, *errors][:FEW]:
        yield (
            f"- {row['kernel']} {row['distribution']} {row['dtype']}:"
            f" {row.get('error') or row.get('first')!s:.160}"
        )


def checks(environment: Document, bench: Sequence[Document]) -> list[Check]:
    """Every prediction that something was measured for."""
    found = []
    largest: dict[tuple[str, str], Document] = {}
    for info in (row["extra_info"] for row in bench if row["extra_info"]["contender"] == "triton"):
        if info["kind"] == "fill":
            task = info["subject"], info["dtype"]
            if (
                info["elements"] > largest.get(task, {"elements": 2**24})["elements"]
            ):  # a small one is the call
                largest[task] = info
        elif info["kind"] == "model" and info.get("launches") is not None:
            wanted = LAUNCHES.get(info["subject"])
            if wanted is not None:
                found.append(_launches(info["subject"], wanted, info["launches"]))
    fills = []
    memset = max(_memset_speeds(bench), default=None)
    for prediction in environment.get("predictions") or []:
        task = prediction["subject"], prediction["dtype"]
        if task in largest:
            fills.append(_fill(prediction, largest[task], memset))
    return fills + found


def _fill(prediction: Document, info: Document, memset: float | None) -> Check:
    predicted, bound, measured = prediction["gs_per_s"], prediction["bound"], info["gs_per_s"]
    if memset is not None:
        predicted, bound = min(
            (memset / prediction["bytes"], "memory"),
            (prediction["computed_gs_per_s"], prediction["computed_bound"]),
        )
    share, least = measured / predicted, BELOW.get(bound, BELOW_ELSE)
    verdict = "as predicted"
    if share > ABOVE:
        verdict = f"FAILED: {share - 1:.1%} above what bounds it, so that a rate of {bound} is wrong"
    elif share < least:
        verdict = (
            f"FAILED: {least:.0%} or more of it was expected, {least * predicted / measured - 1:.0%} more"
        )
    what = f"{info['subject']} {info['dtype']}, {info['elements']:.3g} elements"
    return Check(what, f"{predicted:.0f} G/s, {bound}", f"{measured:.0f} G/s", f"{share:.0%}", verdict)


def _launches(model: str, wanted: int, found: int) -> Check:
    verdict = "as predicted" if found == wanted else f"FAILED: {found - wanted:+d} launches"
    return Check(f"{model}, launches", str(wanted), str(found), "", verdict)


def _checks(environment: Document, bench: Sequence[Document]) -> Iterator[str]:
    found = checks(environment, bench)
    if environment and not environment.get("predictions"):
        yield "No throughput is predicted for this machine: bench/architectures.py has none of it."
        yield ""
    yield from table(("what", "predicted", "measured", "share", "verdict"), found)
    failed = [each for each in found if each.failed]
    if found:
        yield ""
        yield f"{len(failed)} of {len(found)} predictions failed."
    yield from _memsets(environment, bench)


def _memsets(environment: Document, bench: Sequence[Document]) -> Iterator[str]:
    sheet = environment.get("bandwidth_gb_per_s")
    speeds = _memset_speeds(bench)
    if sheet and speeds:
        yield (
            f"The fastest memset wrote {max(speeds):.0f} GB/s, {max(speeds) / sheet:.0%} of the data sheet's"
            f" {sheet:.0f}, which is the memory's bound here; {ATTAINABLE:.0%} is the best found published."
        )


def _memset_speeds(bench: Sequence[Document]) -> list[float]:
    """1e9 bytes a second, of each memset that was large."""
    infos = (row["extra_info"] for row in bench)
    return [
        info["gb_per_s"]
        for info in infos
        if (info["kind"], info["contender"]) == ("fill", "memset") and info["elements"] > 2**24
    ]


def _fills(bench: Sequence[Document]) -> Iterator[str]:
    """A line a task, a column a contender; in brackets our share of memset's speed. Then who is missing."""
    tasks: dict[tuple[Any, ...], dict[str, Document]] = {}
    for info in (row["extra_info"] for row in bench if row["extra_info"]["kind"] == "fill"):
        task = info["subject"], info["dtype"], info["elements"]
        tasks.setdefault(task, {})[info["contender"]] = info
    ours = {name for found in tasks.values() for name, info in found.items() if info["ours"]}
    names = sorted({name for found in tasks.values() for name in found}, key=lambda n: (n not in ours, n))

    def cell(info: Document | None) -> str:
        if info is None:
            return ""
        share = f" ({info['memset_fraction']:.0%})" if info["ours"] and info["memset_fraction"] else ""
        return f"{info['gs_per_s']:.3g}{share}"

    lines = [
        (
            *(subject.replace("truncated_normal", "truncated"), dtype, f"2^{elements.bit_length() - 1}"),
            *(cell(found.get(name)) for name in names),
        )
        for (subject, dtype, elements), found in sorted(tasks.items())
    ]
    yield from table(("fill", "dtype", "n", *names), lines)
    missing = [name for group in CONTENDERS for name in group if name not in names]
    if tasks and missing:
        yield ""
        yield f"Not here, or failed: {', '.join(missing)}."


def _models(bench: Sequence[Document]) -> list[str]:
    lines = []
    for row in bench:
        info = row["extra_info"]
        if info["kind"] == "model":
            fraction, ratio = info["memset_fraction"], info["torch_ratio"]
            lines.append(
                (
                    f"{info['subject']} {info['dtype']}",
                    info["contender"],
                    str(info.get("launches", "")),
                    f"{1e6 * row['stats']['median']:.0f}",
                    f"{info['gb_per_s']:.0f}",
                    "" if fraction is None else f"{fraction:.0%}",
                    "" if ratio is None else f"{ratio:.1f}",
                )
            )
    return table(("model", "by", "launches", "us", "GB/s", "of memset", "x torch"), sorted(lines))


def _others(bench: Sequence[Document]) -> list[str]:
    lines = []
    for row in bench:
        info, seconds = row["extra_info"], row["stats"]["median"]
        if info["kind"] in ("call", "start"):
            time = f"{1e6 * seconds:.2f} us" if info["kind"] == "call" else f"{seconds:.2f} s"
            lines.append((f"{info['kind']}: {info['subject']}", info["contender"], time))
    return table(("what", "by", "time"), sorted(lines))


def _lost(document: Document) -> Iterator[str]:
    """The rows that ended their process, or are in it, and those that failed."""
    yield from (f"- {name}: never ended" for name in document.get("unfinished", [])[:FEW])
    failed = document.get("failed", {})
    yield from (f"- {name}: {why:.160}" for name, why in list(failed.items())[:FEW])
    if len(failed) > FEW:
        yield f"- {len(failed) - FEW} more failed"


def _sweeps(found: Sequence[Document]) -> list[str]:
    """For each kernel, distribution, dtype and size: what it is launched with now, and the fastest."""
    groups: dict[tuple[Any, ...], list[Document]] = {}
    for row in found:
        if "gb_per_s" in row and row["kernel"] != "memset":
            key = row["kernel"].removesuffix("_kernel"), row["distribution"], row["dtype"], row["elements"]
            groups.setdefault(key, []).append(row)

    def shape(row: Document) -> str:
        tiles = "" if row["tiles"] is None else f" x{row['tiles']}"
        return f"{row['counters']}/{row['warps']}{tiles}: {row['gb_per_s']:.0f}"

    lines = []
    for (kernel, distribution, dtype, elements), group in groups.items():
        now = [row for row in group if row.get("default")]
        fastest = max(group, key=lambda row: row["gb_per_s"])
        lines.append(
            (
                *(kernel, f"{distribution} {dtype}", f"2^{elements.bit_length() - 1}"),
                *(shape(now[0]) if now else "", shape(fastest), f"{fastest['memset_fraction']:.0%}"),
            )
        )
    errors = [row for row in found if row.get("error")]
    lines_of_errors = [
        f"- {row['kernel']} {row.get('counters')}/{row.get('warps')}: {row['error']:.160}" for row in errors
    ]
    headings = ("kernel", "what", "n", "now, counters/warps xtiles: GB/s", "best", "of memset")
    return [*table(headings, lines), *lines_of_errors[:FEW]]


def _tests(found: Sequence[Document]) -> Iterator[str]:
    last: dict[str, Document] = {row["test"]: row for row in found if "test" in row}
    if not last:
        return
    counts = Counter(row["outcome"] for row in last.values())
    yield ", ".join(
        f"{number} {outcome.replace('begun', 'never ended')}" for outcome, number in counts.items()
    )
    bad = [row for row in last.values() if row["outcome"] not in ("passed", "skipped")]
    for row in bad[:FEW]:
        why = (row.get("why") or "").strip().partition("\n")[0]
        yield f"- {row['test']}: {row['outcome'].replace('begun', 'never ended')} {why:.160}"
    slowest = sorted(last.values(), key=lambda row: -row.get("seconds", 0))[:3]
    yield "Slowest: " + ", ".join(
        f"{row['test'].rpartition('::')[2]} {row.get('seconds', 0):.1f} s" for row in slowest
    )
