"""8-bit floats, float64 and complex numbers on a CUDA GPU: the reference's bits."""

from __future__ import annotations

from functools import partial

import pytest
import torch
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

import tritoninit as ti
from tritoninit.kernels import triton_kernels
from tritoninit.kernels.stream import row_major_strides

pytestmark = pytest.mark.gpu

DTYPES = (*BYTES, "float64")
every_fill = pytest.mark.parametrize(("name", "dtype"), [(name, dtype) for name in FILLS for dtype in DTYPES])


@every_fill
def test_sizes_and_starts(name, dtype):
    for size in (1, 5, 1025, 65537):
        for start in STARTS:
            draw = make_draw(name, dtype, start, (1,))
            assert_fill_matches(triton_kernels.fill, contiguous(size), dtype, draw, "cuda")


@every_fill
def test_many_values(name, dtype):
    """Enough that a division or a root that is not rounded right shows, and any bit of a coefficient."""
    draw = make_draw(name, dtype, 0, (1,))
    assert_fill_matches(triton_kernels.fill, contiguous(5_000_011), dtype, draw, "cuda")


@every_fill
def test_layouts_windows_and_edges(name, dtype):
    for layout in LAYOUTS:
        draw = make_draw(name, dtype, 2**34 - 5, row_major_strides(layout.shape))
        assert_fill_matches(triton_kernels.fill, layout, dtype, draw, "cuda")
    for window in WINDOWS:
        draw = make_draw(name, dtype, window.start, row_major_strides(window.global_shape))
        assert_fill_matches(triton_kernels.fill, contiguous(*window.shape), dtype, draw, "cuda")
    for draw in edge_draws(name, dtype):
        assert_fill_matches(triton_kernels.fill, contiguous(100_003), dtype, draw, "cuda")


@pytest.mark.parametrize("dtype", DTYPES)
def test_cuts(dtype):
    for cut in CUTS:
        assert_fill_matches(triton_kernels.fill, cut.layout, dtype, cut.draw("normal", dtype), "cuda")
    cases = [Case(cut.layout, dtype, cut.draw("uniform", dtype)) for cut in CUTS]
    assert_many_match(partial(triton_kernels.fill_many, tiles_per_program=2), cases, "cuda")


@pytest.mark.slow
def test_every_dtype_in_one_call():
    cases = [
        Case(contiguous(size, offset=offset), dtype, make_draw(name, dtype, start, (1,)))
        for dtype in (*DTYPES, "float32", "bfloat16")
        for name in FILLS
        for size, offset, start in ((5, 0, 0), (4097, 1, 3), (70_000, 8, 2**34 - 5))
    ]
    assert_many_match(triton_kernels.fill_many, cases, "cuda")


@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
@pytest.mark.parametrize("initializer", [ti.Normal(0.1, 0.5), ti.Uniform(-0.3, 0.7)])
def test_complex_numbers(dtype, initializer):
    here = initializer(torch.empty(37, 129, dtype=dtype), key=ti.Key(3))
    there = initializer(torch.empty(129, 37, dtype=dtype, device="cuda").T, key=ti.Key(3))
    assert there.cpu().equal(here)
