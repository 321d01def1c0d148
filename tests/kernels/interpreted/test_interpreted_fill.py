"""Fills by the Triton kernels, in Triton's interpreter, equal the reference's bit for bit."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import numpy as np
import pytest
from cut_cases import CUTS
from kernel_cases import (
    DTYPES,
    FILLS,
    LAYOUTS,
    SIZES,
    STARTS,
    WINDOWS,
    assert_fill_matches,
    contiguous,
    edge_draws,
    make_draw,
    permuted,
)

from tritoninit.kernels import triton_kernels
from tritoninit.kernels.stream import row_major_strides

# The interpreter is slow. Compiled, the kernels are executed with more (tests/kernels/emulated/): standard
# normals, too, and every start. Here each fill is drawn in one dtype, each dtype by one or two fills; where
# elements lie, which is the same code for all fills, is tried with two, the largest size with one of them.
# The rest is slow.
NAMES = [name for name in FILLS if name != "standard"]
QUICK = {
    ("constant", "bfloat16"),
    ("uniform", "float16"),
    ("normal", "float32"),
    ("truncated", "float16"),
    ("central", "bfloat16"),
}
PAIRS = [(name, dtype, (name, dtype) not in QUICK) for name in NAMES for dtype in DTYPES]
TWO = ("normal", "float32"), ("uniform", "float16")
every_fill = pytest.mark.parametrize(
    ("name", "dtype"),
    [pytest.param(*pair, marks=[pytest.mark.slow] * other) for *pair, other in PAIRS],
)
two_fills = pytest.mark.parametrize(
    ("name", "dtype"),
    [pytest.param(*pair, marks=[pytest.mark.slow] * ((*pair,) not in TWO)) for *pair, _ in PAIRS],
)


def fill_for(size: int):
    """The interpreter's cost is largely the program's: few programs, large enough. No value depends on it."""
    return partial(triton_kernels.fill, counters=16384 if size > 4096 else 512, places=4096)


@pytest.mark.parametrize(
    ("name", "dtype", "size"),
    [
        pytest.param(
            name,
            dtype,
            size,
            marks=[pytest.mark.slow]
            * (
                other
                or (size > 5 and (name, dtype) not in TWO)
                or (size > 4096 and (name, dtype) != ("normal", "float32"))
            ),
        )
        for size in SIZES
        for name, dtype, other in PAIRS
    ],
)
def test_sizes_and_starts(name, dtype, size):
    for start in STARTS if size < 1023 else STARTS[::2]:
        assert_fill_matches(fill_for(size), contiguous(size), dtype, make_draw(name, dtype, start, (1,)))


@two_fills
def test_layouts(name, dtype):
    """The elements' order is the logical one, whatever the memory's."""
    for layout in LAYOUTS:
        draw = make_draw(name, dtype, 2**34 - 5, row_major_strides(layout.shape))
        assert_fill_matches(fill_for(0), layout, dtype, draw)


@two_fills
def test_windows(name, dtype):
    """Local memory holds what its place in the global tensor names, contiguous in memory or not."""
    for window in WINDOWS:
        draw = make_draw(name, dtype, window.start, row_major_strides(window.global_shape))
        reverse = tuple(range(len(window.shape)))[::-1]
        backwards = permuted("reversed", window.shape[::-1], reverse)
        for layout in (contiguous(*window.shape), backwards):
            assert layout.shape == window.shape
            assert_fill_matches(fill_for(0), layout, dtype, draw)


@two_fills
def test_cuts(name, dtype):
    """Rectangles whose last dimension is cut, in memory of any strides."""
    for cut in CUTS:
        assert_fill_matches(fill_for(0), cut.layout, dtype, cut.draw(name, dtype))


@every_fill
def test_edge_parameters(name, dtype):
    with np.errstate(over="ignore"):  # a constant beyond float16's range is infinite, as IEEE 754 says
        for draw in edge_draws(name, dtype):
            assert_fill_matches(fill_for(0), contiguous(2048), dtype, draw)


@every_fill
def test_last_indices(name, dtype):
    """Up to the last index of a signed 64-bit integer, within the last program's tile and on its edge."""
    for stop in (2**63 - 1, 2**63 - 4096, 2**63 - 4097):
        for size in (5, 4096, 5000):
            draw = make_draw(name, dtype, stop - size, (1,))
            assert_fill_matches(triton_kernels.fill, contiguous(size), dtype, draw)


@two_fills
def test_block_size_changes_no_value(name, dtype):
    run, rows = contiguous(700), permuted("transposed", (17, 31), (1, 0))
    scattered = permuted("transposed", (5, 101), (1, 0))
    draw, beside, placed = (make_draw(name, dtype, 3, strides) for strides in ((1,), (17, 1), (5, 1)))
    for size in (32, 64, 512, 2048):
        assert_fill_matches(partial(triton_kernels.fill, counters=size), run, dtype, draw)
        assert_fill_matches(partial(triton_kernels.fill, counters=size), rows, dtype, beside)
        assert_fill_matches(partial(triton_kernels.fill, places=2 * size), scattered, dtype, placed)


@two_fills
def test_cuts_change_no_value(name, dtype):
    """A tensor filled in pieces of any sizes, from any first element, holds what it holds filled at once."""
    size, start = 1100, 2**34 - 1021
    cuts = (0, 1, 2, 7, 8, 24, 1021, 1023, size)

    def fill_in_pieces(tensor, draw):
        for begin, end in pairwise(cuts):
            fill_for(size)(tensor[begin:end], make_draw(name, dtype, draw.start + begin, (1,)))

    assert_fill_matches(fill_in_pieces, contiguous(size), dtype, make_draw(name, dtype, start, (1,)))


@every_fill
def test_wide_divisions(name, dtype, monkeypatch):
    """64-bit divisions, of places and of rows, which tensors of 2**31 elements choose, on small ones."""

    class Wide:
        def __init__(self, name):
            self.kernel, self.launches = getattr(triton_kernels, name), 0
            monkeypatch.setattr(triton_kernels, name, self)

        def __getitem__(self, grid):
            self.launches += 1
            return lambda *arguments, **options: self.kernel[grid](*arguments, **{**options, "WIDE": True})

    kernels = [Wide("scattered_kernel"), Wide("rows_kernel")]
    for shape in ((3, 7, 5, 6), (3, 2, 3, 7)):
        layout = permuted("channels last", shape, (0, 3, 1, 2))
        draw = make_draw(name, dtype, 2**34 - 5, row_major_strides(layout.shape))
        assert_fill_matches(triton_kernels.fill, layout, dtype, draw)
    assert [kernel.launches for kernel in kernels] == [1, 1]
