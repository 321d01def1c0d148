"""Stochastic rounding by Triton's kernels, in its interpreter, equals the reference's bit for bit."""

from __future__ import annotations

from functools import partial
from itertools import cycle, product

import pytest
from cut_cases import CUTS
from kernel_cases import LAYOUTS, STARTS, WINDOWS, assert_fill_matches, contiguous
from many_cases import Case, assert_many_match
from rounding_cases import DTYPES, FILLS, stochastic_draw

from tritoninit.kernels import triton_kernels
from tritoninit.kernels.stream import row_major_strides

fill = partial(triton_kernels.fill, counters=512, places=4096)


def compare(layouts, windows, starts, dtypes):
    kinds = cycle(product(dtypes, FILLS))
    cases = [(contiguous(1025), start, (1,)) for start in starts]
    cases += [(layout, 2**34 - 5, row_major_strides(layout.shape)) for layout in layouts]
    cases += [(contiguous(*w.shape), w.start, row_major_strides(w.global_shape)) for w in windows]
    for (layout, start, strides), (dtype, name) in zip(cases, kinds, strict=False):
        assert_fill_matches(fill, layout, dtype, stochastic_draw(name, dtype, start, strides))


def test_runs_layouts_and_windows():
    compare(LAYOUTS[3::5], WINDOWS[1::4], STARTS[:2], DTYPES)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
def test_all_of_them(dtype):
    compare(LAYOUTS, WINDOWS, STARTS, [dtype])


def test_many_in_one_call():
    """Beside tensors that are rounded to nearest, of the same distribution and dtype."""
    cases = [
        Case(contiguous(size, offset=offset), dtype, stochastic_draw(name, dtype, start))
        for dtype, name in zip(DTYPES, FILLS, strict=True)
        for size, offset, start in ((1027, 1, 3), (16, 0, 2**34 - 5))
    ]
    cases += [case._replace(draw=case.draw._replace(stochastic=False)) for case in cases]
    cases += [
        Case(cut.layout, dtype, stochastic_draw("small", dtype, cut.start, cut.strides))
        for cut, dtype in zip(CUTS[2:3], DTYPES[-1:], strict=True)
    ]
    assert_many_match(partial(triton_kernels.fill_many, tiles_per_program=2), cases)
