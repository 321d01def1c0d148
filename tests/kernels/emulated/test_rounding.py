"""Stochastic rounding as every target's compiler has it: executed, and compared with the reference."""

from __future__ import annotations

from functools import partial

import pytest
from cut_cases import CUTS
from emulated_cases import SIZE, emulated
from kernel_cases import assert_fill_matches, contiguous, permuted
from many_cases import Case, assert_many_match
from rounding_cases import FILLS, stochastic_draw

from tritoninit.bench.static import TARGETS
from tritoninit.emulated.launch import codes
from tritoninit.kernels.stream import row_major_strides

SHORT = permuted("transposed, of short rows", (7, 33), (1, 0))


def runs(gpu, dtype, fills):
    for name in fills:
        for layout, start in ((contiguous(SIZE), 2**34 - 4080), (contiguous(4099, offset=1), 5)):
            assert_fill_matches(gpu.fill, layout, dtype, stochastic_draw(name, dtype, start))


def rows(gpu, dtype, fills):
    for name in fills:
        for cut in CUTS[:3]:
            draw = stochastic_draw(name, dtype, cut.start, cut.strides)
            assert_fill_matches(gpu.fill, cut.layout, dtype, draw)


def scattered(gpu, dtype, fills):
    for name in fills:
        draw = stochastic_draw(name, dtype, 2**34 - 5, row_major_strides(SHORT.shape))
        assert_fill_matches(gpu.fill, SHORT, dtype, draw)


def tables(gpu, dtype, fills):
    cut = CUTS[2]
    cases = [
        Case(layout, dtype, stochastic_draw(name, dtype, start, strides))
        for name in fills
        for layout, start, strides in (
            (contiguous(SIZE), 0, (1,)),
            (contiguous(5), 2**34, (1,)),
            (contiguous(4099, offset=1), 7, (1,)),
            (contiguous(3, offset=1), 0, (1,)),
            (cut.layout, cut.start, cut.strides),
            (cut.layout, cut.start + 8, cut.strides),
        )
    ]
    nearest = [case._replace(draw=case.draw._replace(stochastic=False)) for case in cases]
    assert_many_match(partial(gpu.fill_many, tiles_per_program=2), [*cases, *nearest])


KINDS = {kind.__name__: kind for kind in (runs, rows, scattered, tables)}
QUICK = {
    ("ptx", "sm_90", "float16", "runs"): ("small",),
    ("sass", "sm_90", "bfloat16", "runs"): ("normal",),
    ("gcn", "gfx942", "float16", "scattered"): ("small",),
}


@pytest.mark.parametrize(
    ("code", "arch", "dtype", "kind"),
    [
        pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow])
        for arch in TARGETS
        for code in codes(arch)
        for dtype in ("float16", "bfloat16")
        for kind in KINDS
        for case in [(code, arch, dtype, kind)]
    ],
)
def test_every_bit(code, arch, dtype, kind):
    with emulated(code, arch) as gpu:
        KINDS[kind](gpu, dtype, QUICK.get((code, arch, dtype, kind), tuple(FILLS)))
