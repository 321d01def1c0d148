"""Initializers, names and numbers in few words, tables of them, and what ``tritoninit init`` prints."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from tritoninit import registry
from tritoninit._version import __version__
from tritoninit.fills import Constant, Elementwise, Fill, Initializer, Normal, TruncatedNormal, Uniform
from tritoninit.initializers import FanScaled, Ones, Value, Zeros
from tritoninit.kernels.stream import STREAM_VERSION

if TYPE_CHECKING:
    import argparse

    from rich.progress import Progress

    from tritoninit.auditing.findings import Report

_SIGMA = "\N{GREEK SMALL LETTER SIGMA}"
_TIMES = "\N{MULTIPLICATION SIGN}"
_NUMBER = re.compile(r"\d+")


@dataclass(frozen=True)
class Timing:
    """How long it took, as the median of so many runs."""

    seconds: float
    runs: int


def lowered(initializer: Initializer, shape: Sequence[int]) -> Initializer:
    """The one fill that an initializer is for a tensor of ``shape``; itself if there is none, or several."""
    if isinstance(initializer, Elementwise) and not initializer.pieces(shape):
        return initializer.fill(shape)
    return initializer


def describe(initializer: Initializer, shape: Sequence[int]) -> str:
    """An initializer's name and the numbers that it comes to for a tensor of ``shape``.

    >>> describe(Uniform(0.0, 0.5), (2, 3))
    'Uniform [0, 0.5)'
    """
    name = type(initializer).__name__
    if isinstance(initializer, (Zeros, Ones)):
        return name
    fill = lowered(initializer, shape)
    if isinstance(fill, Fill):
        return f"{name} {_numbers(fill)}"
    if isinstance(initializer, FanScaled):
        return f"{name} {' | '.join(_numbers(piece.fill) for piece in initializer.pieces(shape))}"
    if isinstance(initializer, Value):
        return name
    words = [name]
    for field in fields(initializer):
        value = getattr(initializer, field.name)
        if isinstance(value, Initializer):
            words.append(describe(value, shape))
        else:
            words += [field.name, short(value, 3) if isinstance(value, (int, float)) else str(value)]
    return " ".join(words)


def _numbers(fill: Fill) -> str:
    match fill:
        case Constant(value):
            return short(value, 3)
        case Uniform(low, high):
            return _interval(low, high, ")")
        case Normal(mean, std):
            return f"{_centre(mean)}{_SIGMA} {short(std, 3)}"
        case TruncatedNormal(mean, std, a, b):
            return f"{_centre(mean)}{_SIGMA} {short(std, 3)} in {_interval(a, b, ']')}"
    raise NotImplementedError(type(fill).__name__)


def _centre(mean: float) -> str:
    return f"{short(mean, 3)}, " if mean else ""


def _interval(low: float, high: float, close: str) -> str:
    return f"±{short(high, 3)}" if low == -high else f"[{short(low, 3)}, {short(high, 3)}{close}"


def short(x: float | None, digits: int) -> str:
    """A number, or - for none, in few characters: 1.8e-6 and not 1.8e-06."""
    if x is None:
        return "-"
    mantissa, e, exponent = f"{x:.{digits}g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if e else mantissa


def build_report(
    arguments: argparse.Namespace,
    device: torch.device,
    report: Report,
    ours: Timing,
    theirs: Timing | str,
) -> dict[str, Any]:
    """All that ``init`` has to say, as JSON has it."""
    parameters = [row for row in report.audit.rows if row.kind == "parameter"]
    total_bytes = sum(row.bytes for row in parameters)
    totals = {
        "parameters": len(parameters),
        "elements": sum(math.prod(row.shape) for row in parameters),
        "bytes": total_bytes,
        **_rates(ours, total_bytes),
    }
    if isinstance(theirs, Timing):
        compared: dict[str, Any] = {**_rates(theirs, total_bytes), "ratio": theirs.seconds / ours.seconds}
    else:
        compared = {"error": theirs}
    return {
        "spec": arguments.spec,
        "dtype": arguments.dtype,
        "device": str(device),
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        **report.as_dict(),
        "totals": totals,
        "torch_nn_init": compared,
    }


def _rates(timing: Timing, total_bytes: int) -> dict[str, float]:
    return {
        "seconds": timing.seconds,
        "gigabytes_per_second": total_bytes / timing.seconds / 1e9,
        "runs": timing.runs,
    }


def show(report: Report, summary: Mapping[str, Any], scheme: str | None) -> None:
    """Print the model's table, the totals, the comparison, and what the audit found.

    ``scheme`` is where its rules are published; None if its own code was intercepted and its construction
    timed.
    """
    totals, compared = summary["totals"], summary["torch_nn_init"]
    print_lines(
        f"{summary['spec']}, seed {report.seed}, {summary['dtype']} on {summary['device_name']}",
        f"Scheme: {scheme or 'its own code, intercepted; timed is its construction'}",
        "",
        *report.audit.table(_terminal_width()),
        "",
        f"{totals['elements']:,} elements in {totals['parameters']} parameters,"
        f" {totals['bytes'] / 1e6:,.4g} MB: {_speed(totals)}",
    )
    if "error" in compared:
        print_lines(f"torch.nn.init cannot do the same: {compared['error']}")
    else:
        print_lines(
            f"{'torch.nn.init, same distributions and memory, run second' if scheme else 'PyTorch alone'}:"
            f" {_speed(compared)}",
            ratio_in_words(compared["ratio"]),
        )
    left = Counter(
        f"{each['function']} of {each['target']}: {each['reason']}" for each in summary["passed_on"]
    )
    print_lines(
        *(f"Left to PyTorch{f', {n} times' if n > 1 else ''}: {what}" for what, n in left.items()),
        *report.audit.findings,
        report.audit.summary(),
    )


def _speed(rates: Mapping[str, float]) -> str:
    runs = "" if rates["runs"] == 1 else f" (median of {rates['runs']})"
    return f"{rates['seconds']:.3g} s, {rates['gigabytes_per_second']:.3g} GB/s{runs}"


def ratio_in_words(ratio: float) -> str:
    if ratio >= 1:
        return f"{ratio:.2f} times torch.nn.init's speed"
    return f"{100 * ratio:.2g}% of torch.nn.init's speed"


def shape_in_words(shape: Sequence[int]) -> str:
    return _TIMES.join(map(str, shape)) or "scalar"


def range_in_words(values: Sequence[float | None], digits: int) -> str:
    """Numbers that read alike as one, others as their range in two digits: ±0.5 about zero, 0.1..0.5 else."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    least, greatest = min(known), max(known)
    if short(least, digits) == short(greatest, digits):
        return short(least, digits)
    if least < 0 < greatest:
        return f"±{short(max(-least, greatest), 2)}"
    low, high = short(least, 2), short(greatest, 2)
    return low if low == high else f"{low}..{high}"


def name_pattern(name: str) -> str:
    """A qualified name without its numbers, the same for the layers of a stack.

    >>> name_pattern("h.11.ln_1.weight")
    'h.{}.ln_{}.weight'
    """
    return _NUMBER.sub("{}", name)


def name_of_many(names: Sequence[str]) -> str:
    """Names of one pattern in one: every number that differs as the set of those that occur.

    >>> name_of_many(["h.0.ln_1.bias", "h.1.ln_1.bias", "h.2.ln_1.bias"])
    'h.{0..2}.ln_1.bias'
    >>> name_of_many(["0.bias", "2.bias", "4.bias", "5.bias"])
    '{0,2,4,5}.bias'
    """
    places = zip(*map(_NUMBER.findall, names), strict=True)
    words = (found[0] if len(set(found)) == 1 else f"{{{_runs(found)}}}" for found in places)
    return _NUMBER.sub(lambda _: next(words), names[0])


def _runs(numbers: Sequence[str]) -> str:
    """Numbers as runs: 0..11,13, or, one step apart throughout, 0,3..27."""
    found = sorted(set(map(int, numbers)))
    steps = {b - a for a, b in pairwise(found)}
    if len(found) > 3 and len(steps) == 1 and steps != {1}:
        return f"{found[0]},{found[1]}..{found[-1]}"
    words: list[str] = []
    for _, run in groupby(enumerate(found), key=lambda place: place[1] - place[0]):
        first, *_, last = [number for _, number in run] * 2
        words += [f"{first}..{last}"] if last > first + 1 else map(str, sorted({first, last}))
    return ",".join(words)


def print_lines(*lines: str) -> None:
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # the locale may lack some signs
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


@contextmanager
def progress_display(counted: bool = False, refreshes: float = 4) -> Iterator[Progress | None]:
    """A progress display on the terminal that shows standard error, or None elsewhere.

    Args:
        counted: show how many parts are done, of how many.
        refreshes: a second; each takes time from what is being measured.
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    name = TextColumn("{task.description}", markup=False)  # it may have brackets
    columns = (BarColumn(), *([MofNCompleteColumn()] if counted else []), TimeElapsedColumn(), name)
    with Progress(
        *columns,
        console=Console(file=sys.stderr),  # this one: pytest captures what later goes by that name
        transient=True,
        refresh_per_second=refreshes,
        redirect_stdout=False,
        redirect_stderr=False,
    ) as progress:
        yield progress


def _terminal_width() -> int | None:
    """Columns of the terminal that shows standard output; None where it goes elsewhere."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    shrink: Sequence[tuple[int, int]] = (),
    width: int | None = None,
) -> list[str]:
    """Lines of text in columns, those whose heading starts with > to the right.

    If they would exceed ``width``, ``shrink`` says which columns give way, in order, and down to what.
    """
    names = [heading.removeprefix(">") for heading in headings]
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    gap = "  "
    if width is not None:
        if sum(widths) + 2 * (len(widths) - 1) > width:
            gap = " "
        excess = sum(widths) + len(gap) * (len(widths) - 1) - width
        for column, least in shrink:
            cut = max(0, min(excess, widths[column] - least))
            widths[column] -= cut
            excess -= cut
    lines = []
    for first, *rest in (names, *rows):
        # What tells a parameter's name from others is its end.
        texts = [_elide(first[::-1], widths[0])[::-1], *map(_elide, rest, widths[1:])]
        cells = [
            text.rjust(room) if heading.startswith(">") else text.ljust(room)
            for text, room, heading in zip(texts, widths, headings, strict=True)
        ]
        lines.append(gap.join(cells).rstrip())
    return lines


def _elide(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}…"


def versions() -> dict[str, str]:
    """The versions that a result depends on, by name."""
    return {
        "tritoninit": __version__,
        "stream": str(STREAM_VERSION),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{package: _version(package) for package in ("triton", "numpy", "rich", "safetensors")},
    }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        capability = f"{properties.major}.{properties.minor}"
        return f"{properties.name}, capability {capability}, {properties.total_memory / 2**30:.0f} GiB"
    if device.type == "cpu":
        return f"{_processor()}, {torch.get_num_threads()} threads of {os.cpu_count()}"
    return str(device)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def availability(status: registry.Status) -> str:
    return "available" if status.available else f"unavailable: {status.unavailable}"
