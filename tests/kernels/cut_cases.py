"""Rectangles of a tensor whose last dimension is cut, in memory of any strides."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
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


# More groups, in each form of rows_kernel, than a program has lanes: an AMD one 256, for 512 groups.
CUTS = (
    Cut.of((43, 128), (1, 64), (41, 64)),  # every row and its memory on the grid of 16 bytes
    Cut.of((43, 128), (1, 64), (41, 64), contiguous(41, 64, offset=1)),
    Cut.of((43, 200), (1, 100), (41, 100)),  # in 16 bits every other row off the grid
    Cut.of((43, 136), (1, 68), (41, 68), contiguous(41, 68, offset=4)),  # whose grid of 8 begins at 4
    Cut.of((43, 131), (2, 33), (41, 70), beside((41, 70), 61, offset=35)),  # as they lie in the whole
    Cut.of((43, 131), (2, 33), (41, 70), beside((41, 70), 61, offset=32)),
    Cut.of((9, 1001), (2, 333), (7, 334)),
    Cut.of((11, 9, 40), (1, 2, 3), (10, 7, 17)),
    Cut.of((6, 7, 6, 40), (1, 2, 1, 8), (5, 4, 5, 24)),
    Cut.of((5, 3, 4, 3, 40), (1, 0, 1, 1, 8), (2, 2, 2, 2, 24)),  # five dimensions
    Cut.of((43, 90), (1, 11), (41, 70), permuted("transposed", (70, 41), (1, 0))),
    Cut.of((43, 90), (1, 11), (41, 70), Layout("every third", (41, 70), (300, 3), 2)),
    Cut.of((5, 21000), (2, 5001), (2, 9003)),  # rows of several tiles
    Cut.of((2**20, 2**14), (2**19 - 1, 2**13), (3, 72)),  # 2**33: a block's number is in the high word, too
    Cut.of((2**20, 2**15), (2**19 - 1, 2**15 - 8), (3, 8)),
    Cut.of((2**40, 2**20), (2**33 + 5, 2**19 + 1), (3, 75)),
    Cut.of((3, 80), (0, 5), (3, 75), start=2**34 - 140),  # the low word overflows within a row
    Cut.of((3, 80), (0, 4), (2, 76), start=2**63 - 2**10),
    Cut.of((4, 6), (0, 2), (4, 4), start=0),  # rows of a block or two, and of an element
    Cut.of((40, 9), (0, 3), (40, 1)),
)
