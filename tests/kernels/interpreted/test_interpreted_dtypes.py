"""8-bit floats and float64 by Triton's kernels, in its interpreter, equal the reference's bit for bit."""

from __future__ import annotations

from functools import partial

import pytest
from cut_cases import CUTS
from kernel_cases import (
    BYTES,
    FILLS,
    LAYOUTS,
    STARTS,
    WINDOWS,
    assert_fill_matches,
    contiguous,
    edge_draws,
    make_draw,
)
from many_cases import Case, assert_many_match

from tritoninit.kernels import triton_kernels
from tritoninit.kernels.stream import row_major_strides

fill = partial(triton_kernels.fill, counters=512, places=4096)
NAMES = list(FILLS)
DTYPES = (*BYTES, "float64")
# Quick: one 8-bit format; all of them are in test_every_dtype_in_one_call, too, and tests/test_float8.py.
QUICK_OR_SLOW = [
    "float64",
    BYTES[0],
    *(pytest.param(each, marks=pytest.mark.slow) for each in BYTES[1:]),
]


@pytest.mark.parametrize("dtype", QUICK_OR_SLOW)
def test_runs_layouts_and_windows(dtype):
    """Each by another fill, and each format begins with another one."""
    names = NAMES * 20
    rotated = iter(names[DTYPES.index(dtype) :])
    for start in STARTS:
        assert_fill_matches(fill, contiguous(1025), dtype, make_draw(next(rotated), dtype, start, (1,)))
    for layout in LAYOUTS:
        draw = make_draw(next(rotated), dtype, 2**34 - 5, row_major_strides(layout.shape))
        assert_fill_matches(fill, layout, dtype, draw)
    for window in WINDOWS:
        draw = make_draw(next(rotated), dtype, window.start, row_major_strides(window.global_shape))
        assert_fill_matches(fill, contiguous(*window.shape), dtype, draw)


@pytest.mark.parametrize("dtype", QUICK_OR_SLOW)
@pytest.mark.parametrize("name", NAMES)
def test_edge_parameters(name, dtype):
    for draw in edge_draws(name, dtype):
        assert_fill_matches(fill, contiguous(2048), dtype, draw)


@pytest.mark.parametrize("dtype", QUICK_OR_SLOW)
def test_cuts(dtype):
    """Rectangles whose last dimension is cut, in memory of any strides: one by one, and in few launches."""
    for cut in CUTS:
        assert_fill_matches(fill, cut.layout, dtype, cut.draw("uniform", dtype))
    cases = [Case(cut.layout, dtype, cut.draw("uniform", dtype)) for cut in CUTS]
    assert_many_match(partial(triton_kernels.fill_many, tiles_per_program=2), cases)


def test_every_dtype_in_one_call():
    cases = [
        Case(contiguous(size, offset=offset), dtype, make_draw(name, dtype, start, (1,)))
        for dtype in DTYPES
        for name, size, offset, start in zip(
            NAMES, (5, 4097, 1300, 16, 1, 0), (0, 1, 0, 5, 3, 0), STARTS[:6], strict=True
        )
    ]
    assert_many_match(triton_kernels.fill_many, cases)
