"""What compiled code is executed on, by ``tritoninit.emulated``, and compared with the reference on.

Cases are few and chosen so that every instruction that a launch compiles is executed at least once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from typing import Any

import pytest
import torch
from cut_cases import CUTS
from kernel_cases import (
    FILLS,
    GUARD,
    STARTS,
    Layout,
    assert_fill_matches,
    contiguous,
    edge_draws,
    make_draw,
    permuted,
)
from many_cases import Case, assert_many_match
from triton_at_hand import joins_products_and_sums, skipping

from tritoninit.emulated.engine import Undecoded
from tritoninit.emulated.launch import Emulated
from tritoninit.kernels import rows, stream
from tritoninit.kernels.stream import row_major_strides

# Two tiles of 4096 elements and a part of one where a run is aligned; a part, two and a part where it is not.
SIZE = 9000


@contextmanager
def emulated(code: str, arch: str, **options: Any) -> Iterator[Emulated]:
    """An emulator. Of another Triton than the one that the project pins, what nobody decodes is a skip."""
    if code == "sass" and joins_products_and_sums(arch):
        pytest.skip(f"the registry refuses this ptxas for {arch}, whose code has other bits")
    with skipping(Undecoded), Emulated(code, arch, **options) as gpu:
        yield gpu


def run_cases(gpu: Emulated, dtype: str, fills: tuple[str, ...] = tuple(FILLS)) -> None:
    """Runs, aligned or not, whose counter's low word overflows on the way or not."""
    for name in fills:
        starts = (0, 2**34 - 4080, 2**34 - 5, 2**32 - 4090, 2**62 + 5)
        for size, start in zip((SIZE, SIZE, SIZE, 4099, 3), starts, strict=True):
            assert_fill_matches(gpu.fill, contiguous(size), dtype, make_draw(name, dtype, start, (1,)))
        shifted = contiguous(SIZE, offset=1)
        assert_fill_matches(gpu.fill, shifted, dtype, make_draw(name, dtype, 16, (1,)))


LONG = {"float32": "standard", "bfloat16": "central", "float16": "truncated"}


def long_run_cases(gpu: Emulated, dtype: str) -> None:
    """Enough that a coefficient's last bit shows: in float32, the sine's first changes one of 24,000."""
    assert_fill_matches(gpu.fill, contiguous(2**18), dtype, make_draw(LONG[dtype], dtype, 0, (1,)))


def table_cases(gpu: Emulated, dtype: str, fills: tuple[str, ...] = tuple(FILLS)) -> None:
    """Many runs in a launch, programs of one tile and of several; a third lies off the grid of 16 bytes."""
    starts = cycle(STARTS)
    cases = [
        Case(contiguous(size, offset=offset), dtype, make_draw(name, dtype, start, (1,)))
        for name in fills
        for size, offset, start in (
            (SIZE, 0, 0),
            (5, 0, 2**34),
            (4096, 0, 2**63 - 2**18),
            (SIZE, 1, 0),
            (1, 1, next(starts)),
            (0, 0, 3),
            (SIZE, 0, next(starts)),
        )
    ]
    for tiles in (None, 2):
        assert_many_match(partial(gpu.fill_many, tiles_per_program=tiles), cases)


def rows_cases(gpu: Emulated, dtype: str, fills: tuple[str, ...] = tuple(FILLS)) -> None:
    """Cut rectangles: those that one form of the kernel serves by one fill, the next form's by the next."""
    names: dict[object, str] = {}
    size = getattr(torch, dtype).itemsize
    for cut in CUTS:
        dims = stream.collapse(cut.layout.shape, cut.layout.strides, cut.strides)
        form = rows.grouping(dims[-4:], GUARD + cut.layout.offset, cut.start, size)[:4]
        name = names.setdefault(form, fills[len(names) % len(fills)])
        assert_fill_matches(gpu.fill, cut.layout, dtype, cut.draw(name, dtype))


def cut_table_cases(gpu: Emulated, dtype: str, fills: tuple[str, ...] = ("uniform", "normal")) -> None:
    """Cut rectangles of every form in a few launches, programs of one tile and of several."""
    cases = [Case(cut.layout, dtype, cut.draw(name, dtype)) for name in fills for cut in CUTS]
    for tiles in (None, 2):
        assert_many_match(partial(gpu.fill_many, tiles_per_program=tiles), cases)


def every_rows_cases(gpu: Emulated, dtype: str) -> None:
    """Each form by each fill."""
    for name in FILLS:
        rows_cases(gpu, dtype, (name,))


def scattered_cases(gpu: Emulated, dtype: str, fills: tuple[str, ...] = tuple(FILLS)) -> None:
    """Every other element of the stream, and a transposed matrix of rows too short for rows_kernel."""
    layouts = Layout("every other", (777,), (2,), 1), permuted("transposed", (307, 7), (1, 0))
    for name in fills:
        for layout in layouts:
            strides = row_major_strides(layout.shape) if len(layout.shape) > 1 else (2,)
            draw = make_draw(name, dtype, 2**34 - 5, strides)
            assert_fill_matches(gpu.fill, layout, dtype, draw)


def edge_cases(gpu: Emulated, dtype: str, fills: tuple[str, ...] = tuple(FILLS)) -> None:
    """Subnormal numbers, ends of ranges and zeros."""
    for name in fills:
        for draw in edge_draws(name, dtype):
            assert_fill_matches(gpu.fill, contiguous(4096), dtype, draw)


CASES: dict[str, Callable[..., None]] = {
    "run": run_cases,
    "long run": long_run_cases,
    "table": table_cases,
    "rows": rows_cases,
    "rows table": cut_table_cases,
    "every rows": every_rows_cases,
    "scattered": scattered_cases,
    "edges": edge_cases,
}
