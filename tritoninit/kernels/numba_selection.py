"""Which elements of a column have its smallest uniforms, and zeros there, compiled for the CPU by numba.

A uniform on [0, 1) is the 24 high bits of its word, so that words tell which is smaller. Tiles of columns are
looked at by themselves: a histogram of each column's highest bits tells where the bound lies, and the few
words that share these bits with it are told apart. What is chosen is a byte an element, by which zeros are
written row by row: to go through a large matrix by columns takes longer than all else.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numba import carray, njit, types

from tritoninit.kernels.chunks import Array, share
from tritoninit.kernels.numba_kernels import CHUNK
from tritoninit.kernels.numba_words import inlined, kernel, key_words, pointer, words

i64, u8, u32, u64 = np.int64, np.uint8, np.uint32, np.uint64

_WIDTH = 64  # columns of a tile; half as many took twice as long
_BINS = 512
_SHIFT = u32(15)  # of a uniform's 24 bits, to the number of its bin
_ROW_BITS = u64(32)


@njit(nogil=True, error_model="numpy")
def draw_tile(uniforms, first, columns, key):
    """The 24 bits of a tile's uniforms, (rows, width): row r begins at ``first + r * columns``."""
    rows, width = uniforms.shape
    most = (width + 6) >> 2  # blocks that a row has elements of, wherever it begins
    x = np.empty((4, most), np.uint32)
    flat = np.empty(4 * most, np.uint32)
    a, b, c, d = x[0], x[1], x[2], x[3]
    for row in range(rows):
        place = first + u64(row) * columns
        block, before = place >> u64(2), i64(place & u64(3))
        for j in range(most):
            a[j], b[j], c[j], d[j] = words(block + u64(j), key)
        for j in range(most):
            for lane in range(4):
                flat[4 * j + lane] = x[lane, j] >> u32(8)
        out, own = uniforms[row], flat[before : before + width]
        for e in range(width):
            out[e] = own[e]


@njit(nogil=True, error_model="numpy")
def find_bounds(uniforms, count, bounds, last):
    """Of each column the largest of its ``count`` smallest uniforms, and the row down to which it counts."""
    rows, width = uniforms.shape
    histogram = np.zeros((width, _BINS), np.uint32)
    for row in range(rows):
        for c in range(width):
            histogram[c, uniforms[row, c] >> _SHIFT] += u32(1)
    bins, rank = np.empty(width, np.uint32), np.empty(width, np.int64)
    most = i64(0)
    for c in range(width):
        before, k = i64(0), 0
        while before + i64(histogram[c, k]) < count:
            before += i64(histogram[c, k])
            k += 1
        bins[c], rank[c] = k, count - before
        most = i64(max(most, histogram[c, k]))
    found = np.empty((width, most), np.uint64)
    filled = np.zeros(width, np.int64)
    for row in range(rows):
        some = False
        for c in range(width):
            some |= (uniforms[row, c] >> _SHIFT) == bins[c]
        if some:
            for c in range(width):
                if uniforms[row, c] >> _SHIFT == bins[c]:
                    found[c, filled[c]] = (u64(uniforms[row, c]) << _ROW_BITS) | u64(row)
                    filled[c] += 1
    for c in range(width):
        chosen = np.partition(found[c, : filled[c]], rank[c] - 1)[rank[c] - 1]
        bounds[c] = u32(chosen >> _ROW_BITS)
        last[c] = u32(chosen & ((u64(1) << _ROW_BITS) - u64(1)))


@kernel(types.uint8[:, ::1], *(types.int64,) * 4, *(types.uint64,) * 4)
def choose_kernel(chosen, rows, begin, width, count, first, columns, seed, stream):
    """Whether each of a tile's elements in some rows is among its column's ``count`` smallest.

    Args:
        chosen: of as many rows, and of columns at least the tile's; becomes ones and zeros.
        rows, columns: of the matrix.
        begin: the first of the rows.
        width: of the tile.
        first: the place in the stream of its first column's first uniform.
    """
    uniforms = np.empty((rows, width), np.uint32)
    bounds, last = np.empty(width, np.uint32), np.empty(width, np.uint32)
    draw_tile(uniforms, first, columns, key_words(seed, stream))
    find_bounds(uniforms, count, bounds, last)
    for k in range(chosen.shape[0]):
        row, out, own = u32(begin + k), chosen[k], uniforms[begin + k]
        for c in range(width):
            # The bound itself counts down to a row: below it the next smaller number is the bound.
            out[c] = u8(own[c] < u32(bounds[c] + u32(row <= last[c])))


@inlined
def zero_row(out, chosen):
    """Zeros in the chosen elements of a row, which are patterns of any width."""
    for c in range(out.size):
        out[c] = out.dtype.type(0) if chosen[c] else out[c]


@kernel(types.uint64, *(types.int64,) * 7, types.uint8[:, :, ::1])
def zero_kernel(address, row_stride, stride, itemsize, begin, rows, before, width, chosen):
    """Zeros in the chosen elements of some rows.

    Args:
        address: of the first row's first element.
        row_stride, stride, itemsize: in bytes.
        begin, rows: which of the rows that ``chosen`` has.
        before, width: which of its columns.
        chosen: tile by tile, so that those of a few rows are not pages apart.
    """
    step = chosen.shape[2]
    for tile in range(before // step, (before + width - 1) // step + 1):
        low, high = max(before, tile * step), min(before + width, (tile + 1) * step)
        size = high - low
        for row in range(rows):
            at = address + u64(row * row_stride + (low - before) * stride)
            own = chosen[tile, begin + row, low - tile * step : high - tile * step]
            if stride == itemsize == 4:
                zero_row(carray(pointer(at), size, np.uint32), own)
            elif stride == itemsize == 2:
                zero_row(carray(pointer(at), size, np.uint16), own)
            else:
                for c in range(size):
                    if own[c]:
                        element = carray(pointer(at + u64(c * stride)), itemsize, np.uint8)
                        for byte in range(itemsize):
                            element[byte] = 0


def choose(
    count: int,
    shape: tuple[int, int],
    offsets: tuple[int, int],
    part: tuple[int, int],
    key: tuple[int, int],
    threads: int,
) -> Array:
    """Which elements of a part of a matrix are among the ``count`` smallest of their column.

    Args:
        count: at least one.
        shape: of the matrix.
        offsets: where in it the part begins.
        part: the part's shape.
        key: (seed, stream) of the uniforms.
        threads: how many share the columns.

    Returns:
        (tiles of columns, rows, columns of a tile), a byte an element, one or zero.
    """
    (rows, columns), (begin, left), (here, width) = shape, offsets, part
    step = max(1, min(_WIDTH, -(-width // threads)) // 16) * 16
    chosen = np.empty((-(-width // step), here, step), np.uint8)

    def tile(number: int) -> None:
        c = number * step
        first, size = left + c, min(step, width - c)
        choose_kernel(chosen[number], rows, begin, size, count, first, columns, *key)

    share((partial(tile, number) for number in range(len(chosen))), threads)
    return chosen


def zero(target: Array, chosen: Array, offsets: tuple[int, int], threads: int) -> None:
    """Zeros in a target, of any strides.

    Args:
        target: a part of that which :func:`choose` was asked about.
        chosen: what it said.
        offsets: where in that part the target begins.
        threads: how many share the rows.
    """
    (rows, width), (begin, before) = target.shape, offsets
    address = target.__array_interface__["data"][0]
    row_stride, stride = target.strides
    step = max(1, CHUNK // width)

    def chunk(row: int) -> None:
        at = address + row * row_stride, row_stride, stride, target.itemsize
        zero_kernel(*at, begin + row, min(step, rows - row), before, width, chosen)

    share((partial(chunk, row) for row in range(0, rows, step)), threads)
