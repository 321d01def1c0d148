"""Many tensors filled by one call: which ones, and that each, and the memory around it, is the reference's.

Used by the tests in Triton's interpreter and by those on a GPU, as ``kernel_cases`` is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import NamedTuple

import torch
from kernel_cases import (
    DTYPES,
    FILLS,
    GUARD,
    LAYOUTS,
    STARTS,
    WINDOWS,
    Layout,
    assert_same_bits,
    contiguous,
    make_draw,
    poisoned_memory,
    reference_bits,
    tensor_patterns,
)

from tritoninit.kernels.stream import Draw, row_major_strides

FillMany = Callable[[Sequence[tuple[torch.Tensor, Draw]]], None]
SIZES = (0, 1, 3, 4095, 4096, 4097, 70_000)


class Case(NamedTuple):
    layout: Layout
    dtype: str
    draw: Draw


def runs(sizes: Sequence[int] = SIZES) -> list[Case]:
    """Every fill and dtype at every size. Starts and offsets in memory change from one to the next, so that
    16 divides both, either or neither."""
    starts, offsets = cycle(STARTS), cycle((0, 0, 0, 1, 8))
    return [
        Case(contiguous(size, offset=next(offsets)), dtype, make_draw(name, dtype, next(starts), (1,)))
        for name in FILLS
        for dtype in DTYPES
        for size in sizes
    ]


def layouts_and_windows() -> list[Case]:
    """Every layout and window, whether or not a run goes through it, each with another fill and dtype."""
    kinds = cycle([(name, dtype) for name in FILLS for dtype in DTYPES])
    cases = []
    for layout in LAYOUTS:
        name, dtype = next(kinds)
        cases.append(Case(layout, dtype, make_draw(name, dtype, 2**34 - 5, row_major_strides(layout.shape))))
    for window in WINDOWS:
        name, dtype = next(kinds)
        draw = make_draw(name, dtype, window.start, row_major_strides(window.global_shape))
        cases.append(Case(contiguous(*window.shape), dtype, draw))
    return cases


def place(case: Case, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Poisoned memory, and the case's tensor in it."""
    layout = case.layout
    memory = poisoned_memory(layout.extent + 2 * GUARD, case.dtype, device)
    return memory, torch.as_strided(memory, layout.shape, layout.strides, GUARD + layout.offset)


def assert_many_match(fill_many: FillMany, cases: Sequence[Case], device: str = "cpu") -> None:
    """Every bit of every tensor, and of the memory around it, is the reference's."""
    placed = [place(case, device) for case in cases]
    fill_many([(tensor, case.draw) for case, (_, tensor) in zip(cases, placed, strict=True)])
    for case, (memory, _) in zip(cases, placed, strict=True):
        assert_same_bits(tensor_patterns(memory), reference_bits(*case), case)
