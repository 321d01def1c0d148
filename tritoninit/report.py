"""What ``tritoninit init`` has to say about a model: rows and totals, as a table and as JSON."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tritoninit import registry
from tritoninit._version import __version__
from tritoninit.fills import Constant, Elementwise, Fill, Initializer, Normal, TruncatedNormal, Uniform
from tritoninit.initializers import Ones, Zeros
from tritoninit.kernels.stream import STREAM_VERSION
from tritoninit.presets import Preset
from tritoninit.rules import Assignment
from tritoninit.targets import dtype_name

if TYPE_CHECKING:
    import argparse

_SIGMA = "\N{GREEK SMALL LETTER SIGMA}"
_TIMES = "\N{MULTIPLICATION SIGN}"


@dataclass(frozen=True)
class Timing:
    """How long it took, as the median of so many runs."""

    seconds: float
    runs: int


@dataclass(frozen=True)
class Row:
    """What became of one parameter: a line of the table, an object of the JSON report."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    initializer: str
    lowered: str
    summary: str
    stream: int
    mean: float | None
    std: float | None
    backend: str


def measure(assignment: Assignment) -> Row:
    parameter, initializer = assignment.parameter.detach(), assignment.initializer
    mean, std = _moments(parameter)
    return Row(
        name=assignment.name,
        shape=tuple(parameter.shape),
        dtype=dtype_name(parameter),
        bytes=parameter.nbytes,
        initializer=repr(initializer),
        lowered=repr(lowered(initializer, parameter.shape)),
        summary=describe(initializer, parameter.shape),
        stream=assignment.key.stream,
        mean=mean,
        std=std,
        backend=assignment.backend,
    )


def lowered(initializer: Initializer, shape: Sequence[int]) -> Initializer:
    return initializer.fill(shape) if isinstance(initializer, Elementwise) else initializer


def _moments(x: Tensor) -> tuple[float | None, float | None]:
    """Mean and standard deviation of the elements themselves; None where they are not finite numbers."""
    if not x.numel():
        return None, None
    std, mean = torch.std_mean(x if x.dtype == torch.float64 else x.float(), correction=0)
    return _finite(float(mean)), _finite(float(std))


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None


def describe(initializer: Initializer, shape: Sequence[int]) -> str:
    """An initializer's name and the numbers that it comes to for a tensor of ``shape``.

    >>> describe(Uniform(0.0, 0.5), (2, 3))
    'Uniform [0, 0.5)'
    """
    name = type(initializer).__name__
    if isinstance(initializer, (Zeros, Ones)):
        return name
    if isinstance(initializer, Elementwise):
        return f"{name} {_numbers(initializer.fill(shape))}"
    words = [name]
    for field in fields(initializer):
        value = getattr(initializer, field.name)
        if isinstance(value, Initializer):
            words.append(describe(value, shape))
        else:
            words += [field.name, _short(value, 3) if isinstance(value, (int, float)) else str(value)]
    return " ".join(words)


def _numbers(fill: Fill) -> str:
    match fill:
        case Constant(value):
            return _short(value, 3)
        case Uniform(low, high):
            return _interval(low, high, ")")
        case Normal(mean, std):
            return f"{_centre(mean)}{_SIGMA} {_short(std, 3)}"
        case TruncatedNormal(mean, std, a, b):
            return f"{_centre(mean)}{_SIGMA} {_short(std, 3)} in {_interval(a, b, ']')}"
    raise NotImplementedError(type(fill).__name__)


def _centre(mean: float) -> str:
    return f"{_short(mean, 3)}, " if mean else ""


def _interval(low: float, high: float, close: str) -> str:
    return f"±{_short(high, 3)}" if low == -high else f"[{_short(low, 3)}, {_short(high, 3)}{close}"


def _short(x: float | None, digits: int) -> str:
    """A number in few characters: 1.8e-6 and not 1.8e-06."""
    if x is None:
        return "-"
    mantissa, e, exponent = f"{x:.{digits}g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if e else mantissa


def build_report(
    arguments: argparse.Namespace,
    device: torch.device,
    rows: Sequence[Row],
    ours: Timing,
    theirs: Timing | str,
) -> dict[str, Any]:
    """All that ``init`` has to say, as JSON has it."""
    total_bytes = sum(row.bytes for row in rows)
    totals = {
        "parameters": len(rows),
        "elements": sum(math.prod(row.shape) for row in rows),
        "bytes": total_bytes,
        **_rates(ours, total_bytes),
    }
    if isinstance(theirs, Timing):
        compared: dict[str, Any] = {**_rates(theirs, total_bytes), "ratio": theirs.seconds / ours.seconds}
    else:
        compared = {"error": theirs}
    return {
        "spec": arguments.spec,
        "seed": arguments.seed,
        "stream_version": STREAM_VERSION,
        "dtype": arguments.dtype,
        "device": str(device),
        "device_name": device_name(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "parameters": [asdict(row) for row in rows],
        "totals": totals,
        "torch_nn_init": compared,
    }


def _rates(timing: Timing, total_bytes: int) -> dict[str, float]:
    return {
        "seconds": timing.seconds,
        "gigabytes_per_second": total_bytes / timing.seconds / 1e9,
        "runs": timing.runs,
    }


def show(report: Mapping[str, Any], preset: Preset) -> None:
    totals, compared = report["totals"], report["torch_nn_init"]
    rows = [
        [
            row["name"],
            _TIMES.join(map(str, row["shape"])) or "scalar",
            row["summary"],
            _short(row["mean"], 2),
            _short(row["std"], 3),
            row["backend"],
        ]
        for row in report["parameters"]
    ]
    headings = ["parameter", "shape", "initializer", ">mean", ">std", "backend"]
    print_lines(
        f"{report['spec']}, seed {report['seed']}, {report['dtype']} on {report['device_name']}",
        f"Scheme: {preset.citation}",
        "",
        *table(headings, rows, shrink=[(0, 28), (2, 22), (0, 12)], width=_terminal_width()),
        "",
        f"{totals['elements']:,} elements in {totals['parameters']} parameters,"
        f" {totals['bytes'] / 1e6:,.4g} MB: {_speed(totals)}",
    )
    if "error" in compared:
        print_lines(f"torch.nn.init cannot do the same: {compared['error']}")
    else:
        print_lines(
            f"torch.nn.init, same distributions and memory, run second: {_speed(compared)}",
            ratio_in_words(compared["ratio"]),
        )


def _speed(rates: Mapping[str, float]) -> str:
    runs = "" if rates["runs"] == 1 else f" (median of {rates['runs']})"
    return f"{rates['seconds']:.3g} s, {rates['gigabytes_per_second']:.3g} GB/s{runs}"


def ratio_in_words(ratio: float) -> str:
    if ratio >= 1:
        return f"{ratio:.2f} times torch.nn.init's speed"
    return f"{100 * ratio:.2g}% of torch.nn.init's speed"


def print_lines(*lines: str) -> None:
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # the locale may lack some signs
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


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
