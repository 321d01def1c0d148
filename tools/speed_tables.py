"""What docs/speed.md says of measurements: blocks that ``tools/report.py`` writes, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from tritoninit.bench import comparison, inspection, tables
from tritoninit.bench.architectures import architecture_of
from tritoninit.bench.comparison import Comparison, Panel
from tritoninit.bench.inspection import Prediction
from tritoninit.bench.result_files import Results, Row
from tritoninit.bench.sizes import size
from tritoninit.bench.tables import number, percent
from tritoninit.words import short

ORDER = (
    *(
        "numpy",
        "numpy-generator",
        "numpy-sfc64",
        "numpy-philox",
        "curand-device",
        "cupy-philox",
        "cupy-xorwow",
    ),
    *("rocrand-philox", "rocrand-xorwow", "flag-gems", "jax", "torch-func", "torch", "memset"),
)
DTYPES = ("float32", "bfloat16")
PANELS = [Panel(s, d) for s in ("uniform", "normal", "truncated_normal") for d in DTYPES]


def place(contender: str) -> int:
    """Where it stands among others: ours first, memset last."""
    return ORDER.index(contender) if contender in ORDER else -1


def contenders(found: Comparison) -> Iterator[str]:
    """By machine: who fills how fast, at the largest size that torch filled too."""
    for column, results in enumerate(found.results):
        telling = {p: row for p in PANELS if (row := comparison.telling(found, p, column)) is not None}
        sizes = sorted({size(row.elements) for row in telling.values()})
        yield f"**{results.name}**, {' and '.join(sizes)} elements, GS/s and share of memset:"
        yield ""
        yield from _by_contender(results, {panel: _alike(results, row) for panel, row in telling.items()})


def cached(found: Comparison) -> Iterator[str]:
    """The same of one tensor that stays in the cache; of files that have such rows."""
    told = False
    for results in found.results:
        rows = [row for row in results.rows if row.kind == "cached"]
        if rows:
            told = True
            cache = f"{results.cache_bytes / 2**20:.0f} MiB"
            yield f"**{results.name}**, one tensor of {_mib(rows)} in a cache of {cache}:"
            yield ""
            yield from _by_contender(
                results, {p: [r for r in rows if Panel(r.subject, r.dtype) == p] for p in PANELS}
            )
    if not told:
        yield "No committed file has such rows yet: they are newer than the files."
        yield ""


def _mib(rows: Sequence[Row]) -> str:
    return " or ".join(f"{each / 2**20:g} MiB" for each in sorted({row.bytes for row in rows}))


def _alike(results: Results, row: Row) -> list[Row]:
    """Everyone's rows of the task of one, with all of the machine."""
    task = comparison.task_of(results, row)
    return [each for each in results.rows if comparison.task_of(results, each) == task]


def _by_contender(results: Results, rows: Mapping[Panel, Sequence[Row]]) -> Iterator[str]:
    cells = {(row.contender, panel): row for panel, group in rows.items() for row in group}
    names = sorted({name for name, _ in cells}, key=place)
    lines = [[name, *(_speed(cells.get((name, panel))) for panel in rows)] for name in names]
    yield from tables.markdown_table(["by", *map(str, rows)], lines, 1)
    yield ""


def _speed(row: Row | None) -> str:
    if row is None:
        return "-"
    share = (
        ""
        if row.memset_fraction is None or row.contender == "memset"
        else f" ({percent(row.memset_fraction)})"
    )
    error = "" if row.uncertainty is None or row.uncertainty < 0.005 else f" ± {percent(row.uncertainty)}"
    return f"{number(row.rate / 1e9)}{error}{share}"


def limits(found: Comparison) -> Iterator[str]:
    """By GPU: what memory and instructions allow, and what was measured."""
    for column, results in enumerate(found.results):
        architecture, memset = architecture_of(results.machine), results.memset_gb_per_s()
        if architecture is None or memset is None:
            continue
        computed = inspection.predictions(results.machine, math.inf)
        counts = {
            inspection.BENCHMARKED[row.distribution]: row.instructions
            for row in inspection.stored()["rows"]
            if (row.kernel, row.dtype, row.arch) == ("run_kernel", "float32", architecture.arch)
            and row.distribution in inspection.BENCHMARKED
        }
        lines = [
            _limit(panel, counts[panel.subject], memset, computed[panel.subject, panel.dtype], row)
            for panel in PANELS
            if (row := comparison.telling(found, panel, column)) is not None
        ]
        yield f"**{results.name}**, GS/s; memory as a memset wrote it, {number(memset)} GB/s:"
        yield ""
        headings = ["fill", "instructions", "memory allows", "instructions allow", "reached", "of the lesser"]
        yield from tables.markdown_table(headings, lines, 1)
        yield ""


def _limit(panel: Panel, instructions: float, memset: float, computed: Prediction, row: Row) -> list[str]:
    memory = memset / getattr(torch, panel.dtype).itemsize
    reached = row.rate / 1e9
    return [
        str(panel),
        f"{instructions:.1f}",
        number(memory),
        f"{number(computed.gs_per_s)} ({computed.bound})",
        number(reached),
        percent(reached / min(memory, computed.gs_per_s)),
    ]


def launches(found: Comparison) -> Iterator[str]:
    """By machine: what a call costs that has almost nothing to write, and what that is worth."""
    lines = []
    for results in found.results:
        for row in results.rows:
            if row.kind != "call" or not (row.default or row.contender == "torch"):
                continue
            rate = _large(results, row.subject.partition(",")[0], row.contender)
            lines.append(
                [
                    results.name,
                    "tritoninit" if row.ours else row.contender,
                    row.subject,
                    short(row.median * 1e6, 3),
                    "-" if rate is None else _rounded(row.median * rate),
                ]
            )
    headings = ["machine", "by", f"call, {_calls(found)} elements", "microseconds", "elements in that time"]
    yield from tables.markdown_table(headings, lines, 3)
    yield ""


def _rounded(elements: float) -> str:
    """To two digits: 22,000 or 41,000,000."""
    unit = 10 ** max(0, math.floor(math.log10(elements)) - 1)
    return f"{round(elements / unit) * unit:,}"


def _calls(found: Comparison) -> str:
    return " or ".join(
        sorted(
            {size(row.elements) for results in found.results for row in results.rows if row.kind == "call"}
        )
    )


def _large(results: Results, subject: str, contender: str) -> float | None:
    rows = comparison.fills(results, subject, "float32", contender)
    return rows[-1].rate if rows else None


def records(found: Comparison) -> Iterator[str]:
    """Of each GPU, what ours reach of the data sheet's bandwidth, and what memset does."""
    lines = []
    for column, results in enumerate(found.results):
        architecture, memset = architecture_of(results.machine), results.memset_gb_per_s()
        if architecture is None:
            continue
        sheet = architecture.bandwidth_gb_per_s
        for panel in PANELS:
            row = comparison.telling(found, panel, column)
            if row is not None:
                speed = row.bytes / row.median / 1e9
                what = f"{panel}, {size(row.elements)}"
                lines.append(
                    [what, results.name, number(row.rate / 1e9), number(speed), percent(speed / sheet)]
                )
        if memset is not None:
            lines.append(["memset, the fastest", results.name, "", number(memset), percent(memset / sheet)])
    yield from tables.markdown_table(["ours", "on", "GS/s", "GB/s", "of the data sheet's"], lines, 2)
    yield ""


BLOCKS: Mapping[str, Callable[[Comparison], Iterator[str]]] = {
    each.__name__: each for each in (contenders, limits, cached, launches, records)
}
