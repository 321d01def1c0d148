"""How a GPU's threads share a rectangle whose last dimension is cut: by groups of neighbours in a row.

A group is one block of the stream, or two of elements of less than 4 bytes: 16 bytes of memory (8 of 8-bit
floats), if the row's memory and its blocks lie on the same grid. What lies beside the row, at either end of
it, is drawn in vain: less than one group an end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

# A shorter row costs more by groups than by a block for each element, of which no more than one is kept.
SHORTEST = 8
DIMS = 4  # that a kernel can walk, the row's included

Dims = Sequence[tuple[int, int, int]]


class Grouping(NamedTuple):
    """What a kernel has to be told.

    Attributes:
        matrix: the rows lie a stride apart, in memory and in the stream.
        unit: a row's elements are neighbours in memory.
        vectors: some groups may be stored 16 bytes at a time.
        singles: some elements have to be stored alone.
        width: elements a group, 4 or 8.
        groups: that cover any of the rows.
        total: the groups of all rows.
    """

    matrix: bool
    unit: bool
    vectors: bool
    singles: bool
    width: int
    groups: int
    total: int


def goes_by_rows(dims: Dims) -> bool:
    """Whether rows of collapsed dimensions are runs of the stream, of some length."""
    return bool(dims) and dims[-1][2] == 1 and dims[-1][0] >= SHORTEST


def grouping(dims: Dims, address: int, start: int, itemsize: int, *, among_others: bool = False) -> Grouping:
    """For collapsed dimensions, (size, memory stride, stream stride) each, of which the last is the row.

    Args:
        dims: outermost first; strides in elements.
        address: of the first element, in elements: of ``itemsize`` bytes, 1, 2, 4 or 8.
        start: the first element's place in the stream.
        among_others: of a launch over many, in which rows of neighbours in memory have groups of 16 bytes
            and ``vectors`` even where no 16-byte store fits: fewer kinds of kernels.
    """
    *outer, (length, step, _) = dims
    # By how much a row's memory is ahead of its blocks changes, from row to row, by multiples of this.
    ahead, change = address - start, math.gcd(4, *(memory - place for _, memory, place in outer))
    unit = step == 1
    fits = unit and ahead % change == 0
    vectors = fits or (unit and among_others)
    width = (8 if itemsize < 4 else 4) if vectors else 4
    # So does by how much a row begins behind its first group.
    varies = math.gcd(width, *(stride for _, *strides in outer for stride in strides))
    before = (start + (ahead & (width - 4))) % width
    most = width - varies + before % varies
    whole = fits and change == 4 and most == 0 and length % width == 0
    groups = -(-(most + length) // width)
    total = groups * math.prod(size for size, *_ in outer)
    return Grouping(len(dims) <= 2, unit, vectors, not whole, width, groups, total)
