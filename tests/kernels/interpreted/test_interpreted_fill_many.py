"""Many tensors filled by a few launches, in Triton's interpreter, equal the reference's bit for bit."""

from __future__ import annotations

from functools import partial
from itertools import accumulate, pairwise

import pytest
import torch
from cut_cases import CUTS
from kernel_cases import DTYPES, FILLS, assert_fill_matches, contiguous, edge_draws, make_draw
from many_cases import Case, assert_many_match, layouts_and_windows, runs

from tritoninit.kernels import reference, triton_kernels
from tritoninit.kernels.stream import Alike
from tritoninit.targets import as_array, dtype_name


def test_every_dtype_fill_and_size_at_once():
    assert_many_match(triton_kernels.fill_many, runs())


def test_layouts_and_windows_at_once():
    assert_many_match(partial(triton_kernels.fill_many, counters=16384), layouts_and_windows())


@pytest.mark.parametrize("tiles", [3, *(pytest.param(tiles, marks=pytest.mark.slow) for tiles in (1, 2, 16))])
def test_tiles_of_a_program_change_no_value(tiles):
    """Tiles of 256 elements: tensors of none to six tiles, cut at and around their edges."""
    fill_many = partial(triton_kernels.fill_many, counters=64, tiles_per_program=tiles)
    assert_many_match(fill_many, runs((0, 1, 255, 256, 257, 1300)))


# Quick: 32-bit divisions (test_interpreted_fill has 64-bit ones, too), and below one dtype each.
@pytest.mark.parametrize(
    "wide", [pytest.param(False, id=""), pytest.param(True, id="64-bit divisions", marks=pytest.mark.slow)]
)
def test_cuts_at_once(wide, monkeypatch):
    """Rectangles whose last dimension is cut, in memory of any strides, of every form."""
    if wide:
        monkeypatch.setattr(triton_kernels, "is_wide", lambda found, size: True)
    monkeypatch.delattr(triton_kernels, "table_kernel")
    cases = [Case(cut.layout, dtype, cut.draw("uniform", dtype)) for dtype in DTYPES[::2] for cut in CUTS]
    assert_many_match(partial(triton_kernels.fill_many, tiles_per_program=2), cases)


@pytest.mark.parametrize(
    "dtype", [pytest.param(dtype, marks=[pytest.mark.slow] * (dtype != "bfloat16")) for dtype in DTYPES]
)
def test_neighbours_in_memory(dtype):
    """One tensor cut into pieces that touch, most of them off any grid: none writes over another."""
    sizes = (1, 3, 4095, 16, 4096, 1, 4097, 5, 8192)
    case = Case(contiguous(sum(sizes)), dtype, make_draw("normal", dtype, 2**34 - 4099, (1,)))

    def fill_in_pieces(items):
        ((tensor, draw),) = items
        pieces = [
            (tensor[begin:end], make_draw("normal", dtype, draw.start + begin, (1,)))
            for begin, end in pairwise((0, *accumulate(sizes)))
        ]
        triton_kernels.fill_many(pieces[::2] + pieces[1::2])

    assert_many_match(fill_in_pieces, [case])


@pytest.mark.parametrize(
    "dtype", [pytest.param(dtype, marks=[pytest.mark.slow] * (dtype != "float32")) for dtype in DTYPES]
)
def test_last_indices(dtype):
    """Up to the last index of a signed 64-bit integer, within the last tile and on its edge."""
    cases = [
        Case(contiguous(size), dtype, make_draw(name, dtype, stop - size, (1,)))
        for name in FILLS
        for stop in (2**63 - 1, 2**63 - 4096, 2**63 - 4097)
        for size in (5, 4096, 5000)
    ]
    assert_many_match(triton_kernels.fill_many, cases)


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")  # constants beyond float16
def test_every_tensor_has_its_own_parameters():
    cases = [
        Case(contiguous(2048), dtype, draw)
        for dtype in DTYPES
        for name in FILLS
        for draw in edge_draws(name, dtype)
    ]
    assert_many_match(triton_kernels.fill_many, cases)


@pytest.mark.parametrize("count", [0, 1])
def test_none_or_one(count):
    assert_many_match(triton_kernels.fill_many, runs((100,))[:count])


def test_one_tensor_takes_the_single_launch(monkeypatch):
    monkeypatch.delattr(triton_kernels, "table_kernel")
    layout, dtype, draw = runs((100,))[0]
    assert_fill_matches(lambda *item: triton_kernels.fill_many([item]), layout, dtype, draw)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_what_is_alike(dtype):
    """Beside others, on and off the grid of 16 bytes, and one alone: as one by one."""
    memory = torch.full((8, 1000), torch.nan, dtype=dtype)
    draw = make_draw("normal", str(dtype).removeprefix("torch."), 0, (1,))
    constant = make_draw("constant", str(dtype).removeprefix("torch."), 0, (1,))
    targets = [memory[0, :300], memory[1, 1:301], memory[2, 8:308], memory[3, 3:303]]
    seeds, streams = [5, 2**64 - 1, 0, 7], [2**63, 1, 0, 3]
    alike = Alike(targets, draw, seeds, streams)
    one = Alike([memory[4, 2:302]], draw._replace(parameters=(0.5, 2.0)), [9], [1])
    zeros = Alike([memory[5, :10], memory[6, :10]], constant, [0, 0], [0, 0])
    items = [(memory[7, :50], draw), (memory[7, 51:], constant)]
    expected = memory.clone()
    triton_kernels.fill_many(items, [alike, one, zeros, Alike([], draw, [], [])], counters=64)
    for target, each in (*items, *(item for group in (alike, one, zeros) for item in group.items())):
        begin = (target.data_ptr() - memory.data_ptr()) // memory.itemsize
        part = expected.view(-1)[begin : begin + target.numel()]
        reference.fill_many([(as_array(part), dtype_name(target), each)])
    assert torch.equal(memory.view(torch.uint8), expected.view(torch.uint8))
