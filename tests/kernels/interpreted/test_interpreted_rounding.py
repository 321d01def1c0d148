"""Stochastic rounding by Triton's kernels, in its interpreter, equals the reference's bit for bit."""

from __future__ import annotations

from functools import partial
from itertools import cycle

import pytest
from cut_cases import CUTS
from kernel_cases import LAYOUTS, STARTS, WINDOWS, assert_fill_matches, contiguous
from many_cases import Case, assert_many_match
from rounding_cases import DTYPES, FILLS, stochastic_draw

from tritoninit.kernels import triton_kernels
from tritoninit.kernels.stream import row_major_strides

fill = partial(triton_kernels.fill, counters=512, places=4096)


# Quick: those of 16 bits; all of them are in test_many_in_one_call, too.
EIGHT_BITS = [pytest.param(dtype, marks=pytest.mark.slow) for dtype in DTYPES if dtype.startswith("float8")]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", *EIGHT_BITS])
def test_runs_layouts_and_windows(dtype):
    names = cycle(FILLS)
    for start in STARTS[::2]:
        assert_fill_matches(fill, contiguous(1025), dtype, stochastic_draw(next(names), dtype, start))
    for layout in LAYOUTS:
        draw = stochastic_draw(next(names), dtype, 2**34 - 5, row_major_strides(layout.shape))
        assert_fill_matches(fill, layout, dtype, draw)
    for window in WINDOWS:
        draw = stochastic_draw(next(names), dtype, window.start, row_major_strides(window.global_shape))
        assert_fill_matches(fill, contiguous(*window.shape), dtype, draw)


def test_many_in_one_call():
    """Beside tensors that are rounded to nearest, of the same distribution and dtype."""
    names = cycle(FILLS)
    cases = [
        Case(contiguous(size, offset=offset), dtype, stochastic_draw(next(names), dtype, start))
        for dtype in DTYPES
        for size, offset, start in ((4097, 1, 3), (16, 0, 2**34 - 5))
    ]
    cases += [case._replace(draw=case.draw._replace(stochastic=False)) for case in cases]
    cases += [
        Case(cut.layout, dtype, stochastic_draw("small", dtype, cut.start, cut.strides))
        for cut, dtype in zip(CUTS, cycle(DTYPES), strict=False)
    ]
    assert_many_match(partial(triton_kernels.fill_many, tiles_per_program=2), cases)
