"""``tritoninit inspect``: every Triton kernel compiled without a GPU, counted, and how fast it could be.

The prediction is a roofline: an element takes as long as what it needs most of, be it memory bandwidth, issue
slots or lanes of a unit (``architectures``). Memory takes what a memset took on that machine in the same run
where one was measured, or else 94 % of the data sheet's bandwidth, the best that was found published. It
assumes the highest clock, warps enough that no latency shows, and units that never wait for each other. So it
is a bound, and measured throughputs are the further below, the closer two resources are; but only if the
rates are right, and where no vendor gives one it is assumed: a measurement above 100 % says that one is
higher.
"""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import signal
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

from tritoninit.bench.architectures import (
    ARCHITECTURES,
    ATTAINABLE,
    RESIDENCIES,
    Architecture,
    architecture_of,
    resident_warps,
)
from tritoninit.kernels.stream import STREAM_VERSION
from tritoninit.outputs import UsageError, replacing
from tritoninit.registry import interpreting
from tritoninit.terminal import print_lines, progress_display, table

DEFAULT_ARCHS: Final = ("sm_80", "sm_89", "sm_90", "sm_100", "gfx90a", "gfx942")
RESULTS: Final = Path(__file__).parent / "results" / "static.json"
_KERNELS: Final = (
    *("run_kernel", "table_kernel", "rows_kernel", "edged_rows_kernel"),
    *("rows_table_kernel", "edged_rows_table_kernel", "scattered_kernel"),
)
_DISTRIBUTIONS: Final = ("constant", "uniform", "normal", "central_normal", "truncated_normal")
_BYTES: Final = {"float32": 4, "bfloat16": 2, "float16": 2}
# What the benchmarks call the kernels' distributions: their truncated normal, cut at two standard deviations,
# needs no tail.
BENCHMARKED: Final = {"uniform": "uniform", "normal": "normal", "central_normal": "truncated_normal"}
_WIDTH: Final = 110


class Specialization(NamedTuple):
    """What is compiled: a kernel of ``triton_kernels``, its DISTRIBUTION by name, a dtype and a target."""

    kernel: str
    distribution: str
    dtype: str
    arch: str


@dataclass(frozen=True)
class Counts:
    """What one compiled kernel costs.

    Attributes:
        kernel, distribution, dtype, arch: as of a :class:`Specialization`.
        tiles: that a program writes, one after the other.
        kinds: instructions an element on the hot path, by kind (``KINDS``); those that are 0 left out.
        registers: a thread's; on AMD its vector registers.
        scalar_registers: a wave's on AMD, else 0.
        scalar_spills: of those, how many are kept in lanes of vector registers.
        stack_bytes: stack and local memory a thread, spilled registers included.
        shared_bytes: shared memory a program.
        store_bytes: of the widest store on the hot path, a thread.
        warps: that a multiprocessor holds, or waves that an AMD one's SIMD holds; predictions take no notice.
    """

    kernel: str
    distribution: str
    dtype: str
    arch: str
    tiles: int
    kinds: Mapping[str, float]
    registers: int
    scalar_registers: int
    scalar_spills: int
    stack_bytes: int
    shared_bytes: int
    store_bytes: int
    warps: int

    @property
    def instructions(self) -> float:
        """Instructions an element."""
        return sum(self.kinds.values())


@dataclass(frozen=True)
class Prediction:
    """The throughput that a GPU could reach.

    Attributes:
        gs_per_s: in 1e9 elements a second.
        bound: what takes longest: "memory", or a resource of ``architectures``.
        bandwidth_fraction: of the memory's bandwidth that it uses; 1 where memory bounds it.
        memory: which bandwidth that is, in words.
    """

    gs_per_s: float
    bound: str
    bandwidth_fraction: float
    memory: str = ""


def predict(counts: Counts, architecture: Architecture, memset: float | None = None) -> Prediction:
    """The throughput that the counts allow, on memory that is written once and read never.

    Args:
        counts: of a kernel.
        architecture: what it runs on.
        memset: 1e9 bytes a second that one wrote there; None where none was measured.
    """
    seconds = seconds_an_element(counts, architecture, memset)
    bound = max(seconds, key=lambda name: seconds[name])
    return Prediction(
        1e-9 / seconds[bound], bound, seconds["memory"] / seconds[bound], memory_words(architecture, memset)
    )


def memory_words(architecture: Architecture, memset: float | None) -> str:
    """Which bandwidth a prediction divides by."""
    sheet = architecture.bandwidth_gb_per_s
    if memset is None:
        return f"{ATTAINABLE:.0%} of the data sheet's {sheet:,.0f} GB/s"
    return f"{memset:,.0f} GB/s, which a memset wrote there ({memset / sheet:.0%} of the data sheet's)"


def seconds_an_element(
    counts: Counts, architecture: Architecture, memset: float | None = None
) -> dict[str, float]:
    """What an element takes of the memory's bandwidth ("memory"), and of each resource, all of it used."""
    clocks = architecture.multiprocessors * architecture.clock_mhz * 1e6
    bandwidth = architecture.attainable_gb_per_s if memset is None else memset
    seconds = {"memory": _BYTES[counts.dtype] / (bandwidth * 1e9)}
    for resource in architecture.resources:
        passes = sum(number * resource.passes.get(kind, 0) for kind, number in counts.kinds.items())
        seconds[resource.name] = passes / resource.lanes / clocks
    return seconds


def predictions(
    machine_info: Mapping[str, Any], memset: float | None = None
) -> dict[tuple[str, str], Prediction]:
    """What to expect of a large fill by Triton's kernels, by (distribution, dtype), on a measured machine.

    From the stored counts (``RESULTS``). Empty where the machine is none of ``ARCHITECTURES``.

    Args:
        machine_info: of a result file.
        memset: 1e9 bytes a second that one wrote there; None where none was measured.
    """
    architecture = architecture_of(machine_info)
    return {} if architecture is None else of_benchmarks(stored()["rows"], architecture, memset)


def of_benchmarks(
    rows: Iterable[Counts], architecture: Architecture, memset: float | None = None
) -> dict[tuple[str, str], Prediction]:
    """Of counted kernels those that the benchmarks run, by what these call them."""
    found = {
        (BENCHMARKED[row.distribution], row.dtype): predict(row, architecture, memset)
        for row in rows
        if row.arch == architecture.arch and row.kernel == "run_kernel" and row.distribution in BENCHMARKED
    }
    for distribution in BENCHMARKED.values():  # see specializations
        if (distribution, "bfloat16") in found:
            found.setdefault((distribution, "float16"), found[distribution, "bfloat16"])
    return found


def stored() -> dict[str, Any]:
    """The committed file, its rows as :class:`Counts`."""
    document: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    document["rows"] = [Counts(**row) for row in document["rows"]]
    return document


def specializations(archs: Iterable[str]) -> list[Specialization]:
    """Every kernel, distribution and dtype of every target; float16 only where it costs other than bfloat16.

    ptxas makes as many instructions of either, and half of what there is to compile would be for the second.
    """
    return [
        Specialization(kernel, distribution, dtype, arch)
        for arch in archs
        for kernel in _KERNELS
        for distribution in _DISTRIBUTIONS
        for dtype in _BYTES
        if dtype != "float16" or arch.startswith("gfx")
    ]


def count(specialization: Specialization) -> Counts:
    """Compile a kernel and count its instructions.

    Raises:
        ValueError: its machine code holds what no count can be sure of.
    """
    from tritoninit.bench import static
    from tritoninit.kernels import triton_kernels

    cost = static.cost_of(*specialization)
    tiles = triton_kernels.MOST_TILES if specialization.kernel.endswith("table_kernel") else 1
    registers = (cost.registers, cost.scalar_registers)
    return Counts(
        **specialization._asdict(),
        tiles=tiles,
        kinds={kind: round(number, 4) for kind, number in cost.kinds_per_element(tiles).items() if number},
        registers=cost.registers,
        scalar_registers=cost.scalar_registers,
        scalar_spills=cost.scalar_spills,
        stack_bytes=cost.stack_bytes,
        shared_bytes=cost.shared_bytes,
        store_bytes=max(cost.store_bytes),
        warps=resident_warps(specialization.arch, triton_kernels.NUM_WARPS, *registers, cost.shared_bytes),
    )


def run(archs: Sequence[str], out: Path | None) -> int:
    """Compile, count, predict and print.

    Args:
        archs: keys of ``RESIDENCIES``; without any, ``DEFAULT_ARCHS``.
        out: where to write the counts as JSON, if anywhere.

    Returns:
        0, an exit code.

    Raises:
        UsageError: a target that is not known, or no Triton here that compiles.
    """
    archs = compilable(archs or DEFAULT_ARCHS, "inspect")
    start = time.perf_counter()
    rows = _compiled(specializations(archs))
    seconds = time.perf_counter() - start
    if out is not None:
        with replacing(out) as temporary:
            temporary.write_text(_document(rows), encoding="utf-8")
    print_lines(*_lines(rows, seconds))
    return 0


def compilable(archs: Sequence[str], command: str) -> tuple[str, ...]:
    """The architectures, each once.

    Raises:
        UsageError: one is not known, or what ``command`` needs, Triton's compiler, is not here.
    """
    unknown = [arch or "''" for arch in archs if arch not in RESIDENCIES]
    if unknown:
        raise UsageError(f"unknown architecture {', '.join(unknown)}; known are {', '.join(RESIDENCIES)}")
    if importlib.util.find_spec("triton") is None:
        raise UsageError(f"{command} needs Triton's compiler, and triton is not installed (it is for Linux)")
    if interpreting():
        raise UsageError(f"{command} needs Triton's compiler, which TRITON_INTERPRET=1 replaces: unset it")
    return tuple(dict.fromkeys(archs))


def _compiled(todo: Sequence[Specialization]) -> list[Counts]:
    """Their rows, in order; compiled in as many processes as there are CPUs."""
    workers = min(os.cpu_count() or 1, len(todo))
    # Not forked: torch has threads. An interrupt is for this process, which then gives up what is left to do.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, signal.signal, (signal.SIGINT, signal.SIG_IGN))
    try:
        with progress_display(counted=True) as progress:
            done: Iterable[Counts] = pool.map(count, todo)
            if progress is not None:
                done = progress.track(done, total=len(todo), description="compiling")
            rows = list(done)
    finally:
        pool.shutdown(cancel_futures=True)
    return rows


def _document(rows: Sequence[Counts]) -> str:
    """The file's text: a line for each row, so that a difference between two files can be read."""
    import triton

    head = {
        "what": "instructions an element on the hot path, by kind, compiled ahead of time",
        "triton": triton.__version__,
        "stream_version": STREAM_VERSION,
    }
    archs = {row.arch for row in rows}
    lists = {
        "architectures": [asdict(a) for a in ARCHITECTURES if a.arch in archs],
        "rows": [asdict(row) for row in rows],
    }
    fields = [f"{json.dumps(name)}: {json.dumps(value)}" for name, value in head.items()]
    for name, values in lists.items():
        lines = ",\n  ".join(map(json.dumps, values))
        fields.append(f"{json.dumps(name)}: [\n  {lines}\n ]")
    return "{\n " + ",\n ".join(fields) + "\n}\n"


# The columns of the table, and the kinds that each adds up.
_COLUMNS: Final = {
    "FP32": ("fp32", "packed fp32"),
    "integer": ("integer",),
    "mult": ("multiply", "wide multiply"),
    "special": ("special",),
    "scalar": ("scalar",),
    "mem": ("memory",),
    "ctrl": ("control",),
}
_LEGEND: Final = (
    "instr: instructions that a thread executes for an element of a full tile, and of these",
    "  FP32: float32 arithmetic; integer: adds, shifts, logic, and all compares, selects and moves;",
    "  mult: integer products; special: conversions, reciprocals, roots; scalar: once for a warp or wave;",
    "  mem: loads and stores; ctrl: branches, barriers, waits.",
    "spill: bytes of stack and spilled registers a thread; store: of the widest store.",
    "warps: that a multiprocessor has registers and shared memory for; on AMD, waves a SIMD.",
    "run: one tensor; table: many in one launch, a program drawing {tiles} tiles; rows: a matrix cut from a",
    "  wider one, whose rows 16-byte stores fit; edged_rows: but for their ends; rows_table and",
    "  edged_rows_table: many such matrices in one launch; scattered: any strides.",
    "central: a truncated normal that keeps 0.1 % or more beyond either end, as at two standard deviations.",
    "On NVIDIA fp16 costs what bf16 does, and is not shown.",
    "GS/s: 1e9 elements a second, the most that memory, issue slots and units allow, at the highest clock",
    f"  and with warps enough to hide every latency, where memory keeps {ATTAINABLE:.0%} of its data sheet's",
    "  bandwidth, the best found published. A bound if the rates are right, of which some are assumed. The",
    "  scattered kernel has no prediction: its bytes depend on the strides.",
)


def _lines(rows: Sequence[Counts], seconds: float) -> Iterator[str]:
    import triton

    count = len({row.arch for row in rows})
    archs = f"{count} architecture{'' if count == 1 else 's'}"
    compiler = f"Triton {triton.__version__}"
    yield f"{len(rows)} kernels compiled for {archs} by {compiler} in {seconds:.0f} s."
    tiles = max(row.tiles for row in rows)
    yield from (line.format(tiles=tiles) for line in _LEGEND)
    for arch, group in groupby(rows, key=lambda row: row.arch):
        of_arch = list(group)
        yield ""
        yield f"{arch}, instructions an element:"
        yield from _count_lines(of_arch)
        yield from _spilled_scalars(of_arch)
        known = [a for a in ARCHITECTURES if a.arch == arch]
        if not known:
            yield f"No prediction: the table of GPUs has none of {arch}."
        for architecture in known:
            yield ""
            yield from _predicted([row for row in of_arch if row.kernel != "scattered_kernel"], architecture)


def _names(row: Counts) -> tuple[str, str, str]:
    dtype = row.dtype.replace("bfloat", "bf").replace("float", "fp")
    return row.kernel.removesuffix("_kernel"), row.distribution.removesuffix("_normal"), dtype


_NAMES: Final = ("kernel", "fill", "dtype")


def _count_lines(rows: Sequence[Counts]) -> list[str]:
    headings = (*_NAMES, ">instr", *(f">{name}" for name in _COLUMNS), ">regs", ">spill", ">store", ">warps")
    lines = []
    for row in rows:
        kinds = (sum(row.kinds.get(kind, 0) for kind in group) for group in _COLUMNS.values())
        counts = [f"{row.instructions:.2f}", *(f"{number:.1f}" for number in kinds)]
        numbers = map(str, (row.registers, row.stack_bytes, row.store_bytes, row.warps))
        lines.append((*_names(row), *counts, *numbers))
    return table(headings, lines, width=_WIDTH)


def _spilled_scalars(rows: Sequence[Counts]) -> Iterator[str]:
    spilled = [f"{' '.join(_names(row))} {row.scalar_spills}" for row in rows if row.scalar_spills]
    if spilled:
        text = f"Scalar registers kept in lanes of vector registers: {', '.join(spilled)}."
        yield from textwrap.wrap(text, _WIDTH)


def _predicted(rows: Sequence[Counts], architecture: Architecture) -> Iterator[str]:
    clock = f"{architecture.multiprocessors} multiprocessors at {architecture.clock_mhz} MHz"
    yield f"{architecture.name}, {clock}, {memory_words(architecture, None)}, predicted:"
    found = [(row, predict(row, architecture)) for row in rows]
    cells = [(*_names(row), f"{p.gs_per_s:.0f}", p.bound, f"{p.bandwidth_fraction:.0%}") for row, p in found]
    yield from table((*_NAMES, ">GS/s", "bound by", ">of that bandwidth"), cells, width=_WIDTH)
    bound = sum(p.bound == "memory" for _, p in found)
    text = f"{bound} of {len(found)} are bound by memory. Figures: {architecture.source}."
    yield from textwrap.wrap(text, _WIDTH)
