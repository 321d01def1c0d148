"""Stochastic rounding on a CUDA GPU: the reference's bits, prepared models and CUDA graphs among them."""

from __future__ import annotations

from functools import partial
from itertools import cycle

import pytest
import torch
from cut_cases import CUTS
from kernel_cases import LAYOUTS, STARTS, WINDOWS, assert_fill_matches, contiguous
from many_cases import Case, assert_many_match
from rounding_cases import DTYPES, FILLS, stochastic_draw

import tritoninit as ti
from tritoninit.kernels import triton_kernels
from tritoninit.kernels.stream import row_major_strides

pytestmark = pytest.mark.gpu

every_dtype = pytest.mark.parametrize("dtype", DTYPES)


@every_dtype
def test_runs_layouts_and_windows(dtype):
    names = cycle(FILLS)
    for start in STARTS:
        draw = stochastic_draw(next(names), dtype, start)
        assert_fill_matches(triton_kernels.fill, contiguous(65537), dtype, draw, "cuda")
    for layout in LAYOUTS:
        draw = stochastic_draw(next(names), dtype, 2**34 - 5, row_major_strides(layout.shape))
        assert_fill_matches(triton_kernels.fill, layout, dtype, draw, "cuda")
    for window in WINDOWS:
        draw = stochastic_draw(next(names), dtype, window.start, row_major_strides(window.global_shape))
        assert_fill_matches(triton_kernels.fill, contiguous(*window.shape), dtype, draw, "cuda")


@pytest.mark.parametrize("name", FILLS)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", DTYPES[0]])
def test_many_values(name, dtype):
    draw = stochastic_draw(name, dtype)
    assert_fill_matches(triton_kernels.fill, contiguous(2_000_011), dtype, draw, "cuda")


def test_many_in_one_call():
    cases = [
        Case(contiguous(size, offset=offset), dtype, stochastic_draw(name, dtype, start))
        for dtype in DTYPES
        for name in FILLS
        for size, offset, start in ((5, 0, 0), (4097, 1, 3), (70_000, 8, 2**34 - 5))
    ]
    cases += [case._replace(draw=case.draw._replace(stochastic=False)) for case in cases]
    cases += [
        Case(cut.layout, dtype, stochastic_draw("small", dtype, cut.start, cut.strides))
        for cut, dtype in zip(CUTS, cycle(DTYPES), strict=False)
    ]
    assert_many_match(partial(triton_kernels.fill_many, tiles_per_program=2), cases, "cuda")


@pytest.mark.parametrize("initializer", [ti.Orthogonal(), ti.Sparse(0.3), ti.Exponential()], ids=repr)
def test_what_is_no_fill(initializer):
    """The same words as on a CPU: the same bits of the same float32 values."""
    whole = ti.StochasticallyRounded(initializer)
    found = whole(torch.empty(64, 48, dtype=torch.bfloat16, device="cuda"), key=ti.Key(3)).cpu()
    here = whole(torch.empty(64, 48, dtype=torch.bfloat16), key=ti.Key(3))
    if isinstance(initializer, ti.Orthogonal):  # whose float32 values are equal to rounding
        assert (found != here).float().mean() < 0.05
    else:
        assert torch.equal(found, here)


def test_models_prepared_and_in_a_graph():
    def model(device):
        return torch.nn.Sequential(torch.nn.Linear(256, 128), torch.nn.Linear(128, 33)).to(
            device, torch.bfloat16
        )

    here, there = model("cpu"), model("cuda")
    ti.initialize_(here, seed=5, rounding="stochastic")
    prepared = ti.prepare(there, rounding="stochastic")
    prepared(5)
    for mine, other in zip(here.parameters(), there.parameters(), strict=True):
        assert torch.equal(mine, other.cpu())
    members = ti.ensemble(there, [4, 5], rounding="stochastic")
    for name, mine in here.named_parameters():
        assert torch.equal(mine, members[name][1].cpu())
    seed = torch.zeros(1, dtype=torch.int64, device="cuda")
    prepared(seed)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        prepared(seed)
    seed.fill_(5)
    graph.replay()
    for mine, other in zip(here.parameters(), there.parameters(), strict=True):
        assert torch.equal(mine, other.cpu())
