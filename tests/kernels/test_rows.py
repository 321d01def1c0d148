"""How rows are shared into groups: the blocks that a GPU draws, and what may be stored 16 bytes at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cut_cases import CUTS, Cut, beside, blocks_needed
from cut_strategies import cuts
from hypothesis import given
from hypothesis import strategies as st
from kernel_cases import contiguous

from tritoninit.kernels import rows, stream
from tritoninit.kernels.rows import Grouping

SIZES = pytest.mark.parametrize("itemsize", [4, 2])


def grouping(cut: Cut, itemsize: int, address: int = 0, *, among_others: bool = False) -> Grouping:
    """With memory whose first element is at an address of so many elements."""
    dims = stream.collapse(cut.layout.shape, cut.layout.strides, cut.strides)
    offset = address + cut.layout.offset
    return rows.grouping(dims, offset, cut.start, itemsize, among_others=among_others)


def blocks_drawn(found: Grouping) -> int:
    return found.total * found.width // 4


@SIZES
@given(
    length=st.integers(64, 4096),
    start=st.integers(0, 2**62),
    wider=st.integers(1, 4096),
    pitch=st.integers(0, 9),
    address=st.integers(0, 15),
    outer=st.lists(st.integers(1, 4), min_size=1, max_size=3),
)
def test_rows_of_64_draw_few_blocks_in_vain(itemsize, length, start, wider, pitch, address, outer):
    """At most 1.3 for each that they need, whatever the offsets and strides, in memory and in the stream."""
    shape = (*outer, length)
    strides = stream.row_major_strides((*outer, length + wider))
    cut = Cut(beside(shape, pitch), start, strides)
    dims = stream.collapse(shape, cut.layout.strides, strides)
    if math.prod(outer) == 1:
        return  # a run, or one row
    for among_others in (False, True):
        drawn = blocks_drawn(rows.grouping(dims, address, start, itemsize, among_others=among_others))
        assert blocks_needed(cut) <= drawn <= 1.3 * blocks_needed(cut)


@SIZES
@given(cut=cuts(), address=st.integers(0, 15), among_others=st.booleans())
def test_groups_cover_rows(itemsize, cut, address, among_others):
    """Recomputed row by row: where a row begins in its first group, and which groups 16-byte stores fit."""
    dims = stream.collapse(cut.layout.shape, cut.layout.strides, cut.strides)
    if not rows.goes_by_rows(dims):
        return
    found = grouping(cut, itemsize, address, among_others=among_others)
    *outer, (length, step, _) = dims if len(dims) > 1 else [(1, 0, 0), *dims]
    at = [each.astype(np.int64) for each in np.indices([size for size, *_ in outer]).reshape(len(outer), -1)]
    places = sum((k * i for k, (_, _, i) in zip(at, outer, strict=True)), np.int64(cut.start))
    memory = sum(
        (k * m for k, (_, m, _) in zip(at, outer, strict=True)), np.int64(address + cut.layout.offset)
    )
    places, memory = np.atleast_1d(places), np.atleast_1d(memory)
    if found.vectors:
        assert step == 1
        assert found.width * itemsize == 16
        before = (places + ((memory - places) & (found.width - 4))) % found.width
        aligned = (memory - before) % found.width == 0
        # A change of strides that leaves a row aligned may be of rows that are not there.
        assert found.singles or (aligned.all() and not before.any() and length % found.width == 0)
    else:
        assert found.singles
        assert found.width == 4
        before = places % 4
        assert step != 1 or (((memory - places) % 4).all() and not among_others)
    assert found.groups * found.width >= before.max() + length
    assert found.total == found.groups * places.size


@pytest.mark.parametrize(
    ("cut", "itemsize", "expected"),
    [
        (CUTS[0], 4, (True, False, 4, 16)),
        (CUTS[0], 2, (True, False, 8, 8)),
        (CUTS[1], 4, (False, True, 4, 16)),  # memory an element off
        (CUTS[2], 4, (True, False, 4, 25)),
        (CUTS[2], 2, (True, True, 8, 13)),  # half of the rows begin in the middle of 16 bytes
        (CUTS[3], 2, (True, True, 8, 9)),
        (
            Cut.of((9, 136), (1, 68), (7, 64), contiguous(7, 64)),
            2,
            (True, False, 8, 8),
        ),  # the stream does, alone
        (CUTS[4], 4, (True, True, 4, 19)),  # odd together
        (CUTS[5], 4, (False, True, 4, 19)),
        (CUTS[6], 4, (True, True, 4, 85)),  # one row of four fits
        (CUTS[10], 4, (False, True, 4, 19)),  # transposed
    ],
)
def test_forms(cut, itemsize, expected):
    found = grouping(cut, itemsize)
    assert (found.vectors, found.singles, found.width, found.groups) == expected


def test_rows_too_short_and_places_apart():
    assert not rows.goes_by_rows([])
    assert not rows.goes_by_rows([(100, 1, 2)])
    assert not rows.goes_by_rows([(100, 10, 20), (rows.SHORTEST - 1, 1, 1)])
    assert rows.goes_by_rows([(100, 10, 20), (rows.SHORTEST, 3, 1)])
