"""Rectangles of a tensor whose last dimension is cut, in memory of any strides: named ones and random ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st
from kernel_cases import Layout, contiguous, make_draw, permuted

from tritoninit.kernels.stream import Draw, row_major_strides


@dataclass(frozen=True)
class Cut:
    """A hyper-rectangle of a row-major global tensor, and the memory that is to hold it."""

    layout: Layout
    start: int
    strides: tuple[int, ...]

    @staticmethod
    def of(
        whole: tuple[int, ...],
        offsets: tuple[int, ...],
        shape: tuple[int, ...],
        layout: Layout | None = None,
        start: int = 0,
    ) -> Cut:
        strides = row_major_strides(whole)
        first = start + sum(offset * stride for offset, stride in zip(offsets, strides, strict=True))
        return Cut(layout or contiguous(*shape), first, strides)

    def draw(self, name: str, dtype: str) -> Draw:
        return make_draw(name, dtype, self.start, self.strides)


def blocks_needed(cut: Cut) -> int:
    """Philox blocks of which its rows hold at least one element, each row's counted by itself."""
    *outer, length = cut.layout.shape
    at = np.unravel_index(np.arange(math.prod(outer)), outer)
    first = cut.start + sum(k * stride for k, stride in zip(at, cut.strides, strict=False))
    return int(((first + length + 3) // 4 - first // 4).sum())


def beside(shape: tuple[int, ...], wider: int, offset: int = 0) -> Layout:
    """Rows of a matrix that is wider in memory."""
    strides = row_major_strides((*shape[:-1], shape[-1] + wider))
    return Layout(f"beside {wider}", shape, strides, offset)


CUTS = (
    Cut.of((9, 128), (1, 64), (7, 64)),  # every row and its memory on the grid of 16 bytes
    Cut.of((9, 128), (1, 64), (7, 64), contiguous(7, 64, offset=1)),
    Cut.of((9, 200), (1, 100), (7, 100)),  # in 16 bits every other row off the grid
    Cut.of((9, 136), (1, 68), (7, 68), contiguous(7, 68, offset=4)),  # whose grid of 8 begins at 4
    Cut.of((9, 131), (2, 33), (7, 70), beside((7, 70), 61, offset=35)),  # as they lie in the whole
    Cut.of((9, 131), (2, 33), (7, 70), beside((7, 70), 61, offset=32)),
    Cut.of((9, 1001), (2, 333), (7, 334)),
    Cut.of((6, 7, 40), (1, 2, 3), (3, 4, 17)),
    Cut.of((6, 7, 4, 40), (1, 2, 1, 8), (3, 4, 2, 24)),
    Cut.of((5, 3, 4, 3, 40), (1, 0, 1, 1, 8), (2, 2, 2, 2, 24)),  # five dimensions
    Cut.of((9, 90), (1, 11), (7, 70), permuted("transposed", (70, 7), (1, 0))),
    Cut.of((9, 90), (1, 11), (7, 70), Layout("every third", (7, 70), (300, 3), 2)),
    Cut.of((5, 21000), (2, 5001), (2, 9003)),  # rows of several tiles
    Cut.of((2**20, 2**14), (2**19 - 1, 2**13), (3, 72)),  # 2**33: a block's number is in the high word, too
    Cut.of((2**20, 2**15), (2**19 - 1, 2**15 - 8), (3, 8)),
    Cut.of((2**40, 2**20), (2**33 + 5, 2**19 + 1), (3, 75)),
    Cut.of((3, 80), (0, 5), (3, 75), start=2**34 - 140),  # the low word overflows within a row
    Cut.of((3, 80), (0, 4), (2, 76), start=2**63 - 2**10),
    Cut.of((4, 6), (0, 2), (4, 4), start=0),  # rows of a block or two, and of an element
    Cut.of((40, 9), (0, 3), (40, 1)),
)


@st.composite
def cuts(draw: st.DrawFn, most: int = 300) -> Cut:
    """Any rectangle of rows of up to ``most`` elements, anywhere in the stream, in any memory order."""
    outer = tuple(draw(st.lists(st.integers(1, 5), min_size=1, max_size=3)))
    length = draw(st.integers(1, most))
    whole = (*(n + draw(st.integers(0, 2)) for n in outer), length + draw(st.integers(1, 9)))
    offsets = tuple(draw(st.integers(0, have - n)) for have, n in zip(whole, (*outer, length), strict=True))
    start = draw(st.sampled_from((0, 1, 2, 3, 4, 8, 2**32 - 100, 2**34 - 100, 2**62 + 4)))
    shape = (*outer, length)
    kind = draw(st.sampled_from(("contiguous", "wider", "stepped", "permuted")))
    offset = draw(st.integers(0, 9))
    if kind == "contiguous":
        layout = contiguous(*shape, offset=offset)
    elif kind == "wider":
        layout = beside(shape, draw(st.integers(1, 9)), offset)
    elif kind == "stepped":
        step = draw(st.integers(2, 5))
        strides = tuple(step * stride for stride in row_major_strides(shape))
        layout = Layout("stepped", shape, strides, offset)
    else:
        order = draw(st.permutations(range(len(shape))))
        inverse = tuple(int(k) for k in np.argsort(order))
        layout = permuted("permuted", tuple(shape[k] for k in order), inverse)
    return Cut.of(whole, offsets, shape, layout, start)
