"""Every kernel's bits, in every distribution, dtype and size, against the reference's.

A process for each core compiles what it compares. A difference, an error or a hang costs the one combination
of kernel, distribution and dtype.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from tools.on_gpu import pool, rows

KERNELS = ("run_kernel", "table_kernel", "rows_kernel", "rows_table_kernel", "scattered_kernel")
SECONDS = 30.0  # that a combination may take: two to compile each of its kernels, and some to compare
LARGE = 10_000_019
MANY = 250_003  # of a tensor among others, the last of whose starts leaves 2**18 indices
MOST_TELLING = ("normal", "uniform")
MOST_WORKERS = 16  # each has a context of the GPU's, half a gigabyte


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stand-in", action="store_true")
    parser.add_argument("--worker", action="store_true")
    arguments = parser.parse_args()
    if arguments.stand_in:
        os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, by the workers
    if arguments.worker:
        pool.serve(partial(compare, stand_in=arguments.stand_in), pool.gpu_answers)
        return 0
    command = [sys.executable, "-m", "tools.on_gpu.bits", "--worker", f"--out={arguments.out}"]
    command += ["--stand-in"] * arguments.stand_in
    workers = min(MOST_WORKERS, len(os.sched_getaffinity(0)))
    failed = 0
    for task, answer in pool.run(command, tasks(arguments.stand_in), workers, SECONDS):
        row = {"stand_in": arguments.stand_in, **task, **answer}
        rows.append(arguments.out, row)
        failed += bool(answer.get("error") or answer.get("differ"))
        print(" ".join(f"{name}={value}" for name, value in row.items()), flush=True)
    return 1 if failed else 0


def tasks(stand_in: bool) -> list[pool.Task]:
    """The combinations, those of which most is expected first."""
    from kernel_cases import DTYPES, FILLS

    names = sorted(FILLS, key=lambda name: (name not in MOST_TELLING, name))
    found = [(kernel, name, dtype) for kernel in KERNELS for dtype in DTYPES for name in names]
    found.sort(key=lambda each: (each[2] == "float16", KERNELS.index(each[0])))
    if stand_in:  # the interpreter takes a second or more for each
        found = [each for each in found if each[1] == "normal" and each[2] == "float32"]
    return [dict(zip(("kernel", "distribution", "dtype"), each, strict=True)) for each in found]


def compare(task: pool.Task, stand_in: bool) -> pool.Answer:
    """How many tensors and elements were compared, how many tensors differ, and the first of those."""
    start = time.perf_counter()
    tensors = elements = differ = 0
    first: str | None = None
    cases = small_cases if stand_in else all_cases
    for size, check in cases(task["kernel"], task["distribution"], task["dtype"]):
        tensors, elements = tensors + 1, elements + size
        try:
            check()
        except AssertionError as error:
            differ += 1
            first = first or str(error)[:500]
    seconds = round(time.perf_counter() - start, 2)
    return {"tensors": tensors, "elements": elements, "differ": differ, "first": first, "seconds": seconds}


Case = tuple[int, Callable[[], None]]


def all_cases(kernel: str, name: str, dtype: str) -> Iterator[Case]:
    """Sizes and the checks that raise an AssertionError where a bit differs."""
    from cut_cases import CUTS
    from kernel_cases import (
        LAYOUTS,
        SIZES,
        STARTS,
        WINDOWS,
        assert_fill_matches,
        contiguous,
        make_draw,
        permuted,
    )

    from tritoninit.kernels import triton_kernels
    from tritoninit.kernels.stream import row_major_strides

    def check(layout: Any, start: int, strides: tuple[int, ...]) -> Case:
        draw = make_draw(name, dtype, start, strides)
        run = partial(assert_fill_matches, triton_kernels.fill, layout, dtype, draw, "cuda")
        return math.prod(layout.shape), run

    if kernel == "run_kernel":
        for size in (*SIZES, LARGE):
            for start in STARTS if size < LARGE else STARTS[:2]:
                yield check(contiguous(size), start, (1,))
        for offset in (1, 8):
            yield check(contiguous(65537, offset=offset), offset, (1,))
    elif kernel == "table_kernel":
        yield from table_cases(name, dtype, (None, 1, 3, 16), "cuda")
    elif kernel == "rows_table_kernel":
        yield from cut_table_cases(name, dtype, (None, 1, 3, 16), "cuda", CUTS)
    elif kernel == "rows_kernel":
        for cut in CUTS:
            yield check(cut.layout, cut.start, cut.strides)
    else:
        for layout in LAYOUTS:
            for start in (0, 2**34 - 5):
                yield check(layout, start, row_major_strides(layout.shape))
        for window in WINDOWS:
            backwards = permuted("reversed", window.shape[::-1], tuple(range(len(window.shape)))[::-1])
            for layout in (contiguous(*window.shape), backwards):
                yield check(layout, window.start, row_major_strides(window.global_shape))


def table_cases(
    name: str, dtype: str, tiles: tuple[int | None, ...], device: str, sizes: tuple[int, ...] = ()
) -> Iterator[Case]:
    from kernel_cases import FILLS
    from many_cases import SIZES, assert_many_match, runs

    from tritoninit.kernels import triton_kernels

    distribution, parameters = FILLS[name]
    wanted = distribution, parameters(dtype)
    of_task = [
        case
        for case in runs(sizes or (*SIZES, MANY))
        if case.dtype == dtype and (case.draw.distribution, case.draw.parameters) == wanted
    ]
    size = sum(case.layout.shape[0] for case in of_task)
    for number in tiles:
        fill = partial(triton_kernels.fill_many, tiles_per_program=number)
        yield size, partial(assert_many_match, fill, of_task, device)


def cut_table_cases(
    name: str, dtype: str, tiles: tuple[int | None, ...], device: str, cuts: Sequence[Any]
) -> Iterator[Case]:
    from many_cases import Case, assert_many_match

    from tritoninit.kernels import triton_kernels

    cases = [Case(cut.layout, dtype, cut.draw(name, dtype)) for cut in cuts]
    size = sum(math.prod(cut.layout.shape) for cut in cuts)
    for number in tiles:
        fill = partial(triton_kernels.fill_many, tiles_per_program=number)
        yield size, partial(assert_many_match, fill, cases, device)


def small_cases(kernel: str, name: str, dtype: str) -> Iterator[Case]:
    """Of each kernel what Triton's interpreter, standing in for a GPU, can do in seconds."""
    from cut_cases import CUTS
    from kernel_cases import assert_fill_matches, contiguous, make_draw, permuted

    from tritoninit import registry
    from tritoninit.kernels import triton_kernels
    from tritoninit.kernels.stream import row_major_strides

    registry.get("triton").load()  # which makes the interpreter exact
    if kernel == "table_kernel":
        yield from table_cases(name, dtype, (None,), "cpu", (1, 100))
        return
    if kernel == "rows_table_kernel":
        yield from cut_table_cases(name, dtype, (None,), "cpu", CUTS[:3])
        return
    layout = {
        "run_kernel": contiguous(1025),
        "rows_kernel": permuted("transposed", (65, 33), (1, 0)),
        "scattered_kernel": permuted("transposed", (307, 7), (1, 0)),  # rows too short for groups
    }[kernel]
    draw = make_draw(name, dtype, 5, row_major_strides(layout.shape))
    run = partial(assert_fill_matches, triton_kernels.fill, layout, dtype, draw, "cpu")
    yield math.prod(layout.shape), run


if __name__ == "__main__":
    sys.exit(main())
