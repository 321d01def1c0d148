"""How fast the kernels are around the constants that they are launched with: COUNTERS, warps and tiles.

PROGRAMS and MOST_TILES only say how many tiles a program of the table kernel draws, so that number is swept,
at several sizes: the best ones are what the two have to give.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.on_gpu import pool, rows

if TYPE_CHECKING:
    import torch

DISTRIBUTIONS, DTYPES = ("uniform", "normal"), ("float32", "bfloat16")
COUNTERS, WARPS = (256, 512, 1024, 2048, 4096), (2, 4, 8)
# Fewer elements a thread make no 16-byte stores of 16-bit numbers, more do not fit into registers.
ELEMENTS_PER_THREAD = (8, 64)
SIZES = (2**28, 2**24)  # of the run kernel
TILES, TABLE_SIZES = (1, 2, 4, 8, 16, 32, 64), (2**28, 2**27, 2**30)
TENSORS = 8  # of the table kernel, few, so that the host is not what takes time
ROUNDS, CALLS = 9, 16
# Clocks a second, at most. A round of the GPU begins once the host has queued all of its calls, each of which
# may take the host longer than the GPU.
CLOCK = 2.0e9
LONGEST_WAIT = 0.02  # seconds
SECONDS = 30.0  # that compiling and comparing a configuration may take


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stand-in", action="store_true")
    parser.add_argument("--worker", action="store_true")
    arguments = parser.parse_args()
    if arguments.stand_in:
        os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
    if arguments.worker:
        pool.serve(partial(prepare, stand_in=arguments.stand_in), pool.gpu_answers)
        return 0
    command = [sys.executable, "-m", "tools.on_gpu.sweeps", "--worker", f"--out={arguments.out}"]
    command += ["--stand-in"] * arguments.stand_in
    right, failed = [], 0
    workers = min(16, len(os.sched_getaffinity(0)))
    for task, answer in pool.run(command, configurations(arguments.stand_in), workers, SECONDS):
        if answer.get("error"):
            failed += 1
            rows.append(arguments.out, {"stand_in": arguments.stand_in, **task, **answer})
            print(task, answer, flush=True)
        else:
            right.append(task)
    print(f"{len(right)} configurations compiled, and right", flush=True)
    for row in measured(in_order(right, arguments.stand_in), arguments.stand_in):
        rows.append(arguments.out, {"stand_in": arguments.stand_in, **row})
        failed += "error" in row
    return 1 if failed else 0


def configurations(stand_in: bool) -> list[pool.Task]:
    """What is compiled: a kernel, a distribution, a dtype, counters a tile and warps a program."""
    low, high = ELEMENTS_PER_THREAD
    shapes = [(c, w) for c, w in product(COUNTERS, WARPS) if low <= 4 * c / (32 * w) <= high]
    kinds = list(product(DISTRIBUTIONS, DTYPES))
    if stand_in:
        shapes, kinds = [(256, 2)], [("uniform", "float32")]
    names = ("kernel", "distribution", "dtype", "counters", "warps")
    return [
        dict(zip(names, (kernel, *kind, *shape), strict=True))
        for kernel in ("run_kernel", "table_kernel")
        for kind in kinds
        for shape in shapes
    ]


def in_order(right: Sequence[pool.Task], stand_in: bool) -> list[pool.Task]:
    """Those configurations in the order of :func:`configurations`: they were compiled in no order."""
    return [each for each in configurations(stand_in) if each in right]


def prepare(task: pool.Task, stand_in: bool) -> pool.Answer:
    """Compile a configuration and compare what it draws with the reference; a difference raises."""
    from kernel_cases import assert_fill_matches, contiguous
    from many_cases import Case, assert_many_match

    from tritoninit import registry
    from tritoninit.kernels import triton_kernels

    registry.get("triton").load()
    device = "cpu" if stand_in else "cuda"
    triton_kernels.NUM_WARPS = task["warps"]
    draw = draw_of(task)
    if task["kernel"] == "run_kernel":
        fill = partial(triton_kernels.fill, counters=task["counters"])
        assert_fill_matches(fill, contiguous(3 * task["counters"]), task["dtype"], draw, device)
    else:
        fill_many = partial(triton_kernels.fill_many, counters=task["counters"], tiles_per_program=2)
        cases = [Case(contiguous(size), task["dtype"], draw) for size in (task["counters"], 17)]
        assert_many_match(fill_many, cases, device)
    return {}


def draw_of(task: pool.Task) -> Any:
    from kernel_cases import make_draw

    return make_draw(task["distribution"], task["dtype"], 0, (1,))


def measured(tasks: Sequence[pool.Task], stand_in: bool) -> Iterator[dict[str, Any]]:
    """A row for each configuration and size, and one for memset at each size before them."""
    import torch

    from tritoninit import registry
    from tritoninit.bench.device import Memory, largest
    from tritoninit.kernels import triton_kernels

    registry.get("triton").load()
    memory, memsets = Memory(), {}
    usual = triton_kernels.COUNTERS, triton_kernels.NUM_WARPS
    for task, elements, tiles in launches(tasks, usual, stand_in):
        dtype = getattr(torch, task["dtype"])
        size = elements * dtype.itemsize
        if size > largest():
            continue
        shape = task["counters"], task["warps"]
        default = shape == usual and tiles in (None, usual_tiles(elements, usual[0]))
        row = {**task, "elements": elements, "tiles": tiles, "default": default}
        try:
            buffers = memory.ring(elements, dtype)[:1] if stand_in else memory.ring(elements, dtype)
            if size not in memsets:
                memsets[size] = seconds(lambda x: x.zero_(), buffers, stand_in)
                yield {"kernel": "memset", "dtype": task["dtype"], "elements": elements} | rates(
                    memsets[size], size, memsets[size]
                )
            triton_kernels.NUM_WARPS = task["warps"]
            call = filling(task, tiles)
            yield row | rates(seconds(call, buffers, stand_in), size, memsets[size])
        except Exception as error:  # noqa: BLE001 - the others are to be measured whatever became of this one
            yield row | {"error": f"{type(error).__name__}: {str(error)[:300]}"}
            if not pool.gpu_answers():
                return


def usual_tiles(elements: int, counters: int) -> int:
    """What a program draws by default of so many elements, as ``triton_kernels._table`` has it."""
    from tritoninit.kernels import triton_kernels

    return min(max(elements // (4 * counters) // triton_kernels.PROGRAMS, 1), triton_kernels.MOST_TILES)


def launches(
    tasks: Sequence[pool.Task], usual: tuple[int, int], stand_in: bool
) -> Iterator[tuple[pool.Task, int, int | None]]:
    """Configuration, elements and, for the table kernel, tiles; the largest tensors last, and all of a size
    together, so that memory is allotted few times."""
    if stand_in:
        for task in tasks:
            yield task, 2048, None if task["kernel"] == "run_kernel" else 1
        return
    for elements in SIZES:
        yield from ((task, elements, None) for task in tasks if task["kernel"] == "run_kernel")
    for elements in TABLE_SIZES:
        for task in (task for task in tasks if task["kernel"] == "table_kernel"):
            if (task["counters"], task["warps"]) == usual:
                yield from ((task, elements, tiles) for tiles in TILES)
            elif elements == TABLE_SIZES[0]:
                yield task, elements, usual_tiles(elements, usual[0])


def filling(task: pool.Task, tiles: int | None) -> Callable[[torch.Tensor], object]:
    from tritoninit.kernels import triton_kernels

    draw = draw_of(task)
    if task["kernel"] == "run_kernel":
        return lambda x: triton_kernels.fill(x, draw, counters=task["counters"])
    return lambda x: triton_kernels.fill_many(
        [(part, draw) for part in x.chunk(TENSORS)], counters=task["counters"], tiles_per_program=tiles
    )


def seconds(call: Callable[[torch.Tensor], object], buffers: Sequence[torch.Tensor], stand_in: bool) -> float:
    """The median of rounds of calls, by the GPU's clock; each call fills the next buffer."""
    import torch

    ring = cycle(buffers)
    if stand_in:
        start = time.perf_counter()
        call(next(ring))
        return time.perf_counter() - start
    queueing = LONGEST_WAIT
    for _ in range(3):  # the first of them compiles or loads, and allots
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(CALLS):
            call(next(ring))
        queueing = min(queueing, time.perf_counter() - start)
    found = []
    for _ in range(ROUNDS):
        before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(int(1.5 * queueing * CLOCK))
        before.record()
        for _ in range(CALLS):
            call(next(ring))
        after.record()
        after.synchronize()
        found.append(before.elapsed_time(after) / 1e3 / CALLS)
    return statistics.median(found)


def rates(median: float, size: int, memset: float) -> dict[str, float]:
    return {
        "microseconds": round(1e6 * median, 3),
        "gb_per_s": round(size / median / 1e9, 1),
        "memset_fraction": round(memset / median, 4),
    }


if __name__ == "__main__":
    sys.exit(main())
