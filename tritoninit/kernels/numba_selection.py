"""Which elements of a column have its smallest uniforms, and zeros there, compiled for the CPU by numba.

A uniform on [0, 1) is the 24 high bits of its word, so that words tell which is smaller. Tiles of columns are
looked at by themselves: a histogram of each column's highest bits tells where the bound lies, and the few
words that share these bits with it are told apart. Zeros are written row by row, of words drawn once more:
to go through memory by columns takes longer than to draw.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numba import carray, njit, types

from tritoninit.kernels import numba_kernels
from tritoninit.kernels.chunks import Array, share
from tritoninit.kernels.numba_compile import inline, kernel
from tritoninit.kernels.numba_kernels import (
    BLOCKS,
    CHUNK,
    gather_tile,
    i64,
    key_words,
    philox4x32,
    pointer,
    u32,
    u64,
)

_kernel = partial(kernel, files=(numba_kernels.__file__,))

_WIDTH = 32  # columns of a tile, two cache lines of float32
_WORDS = 1 << 17  # of a tile: half a megabyte of a core's L2 cache
_BINS = 512
_SHIFT = u32(15)  # of a uniform's 24 bits, to the number of its bin
_ROW_BITS = u64(32)


@inline
def draw_uniforms(flat, x, count, key):
    """The 24 bits of ``count`` blocks' uniforms, in order; x has the blocks' numbers, and then words."""
    a, b, c, d = x[0], x[1], x[2], x[3]
    for j in range(count):
        a[j], b[j], c[j], d[j] = philox4x32(a[j], b[j], key[0], key[1], key[2], key[3])
    for j in range(count):
        for lane in range(4):
            flat[4 * j + lane] = x[lane, j] >> u32(8)


@inline
def places_of(first, columns, rows):
    """Where in the stream each row begins, of the uniforms of a tile."""
    places = np.empty(rows, np.uint64)
    for row in range(rows):
        places[row] = first + u64(row) * columns
    return places


@njit(nogil=True, error_model="numpy")
def draw_tile(uniforms, first, columns, key):
    """All of a tile's uniforms, (rows, width)."""
    rows, width = uniforms.shape
    places = places_of(first, columns, rows)
    x = np.empty((4, BLOCKS), np.uint32)
    flat = np.empty(4 * BLOCKS, np.uint32)
    pieces = np.empty((BLOCKS, 4), np.int64)
    row = done = 0
    while row < rows:
        count, number, row, done = gather_tile(x, pieces, places, row, done, width)
        draw_uniforms(flat, x, count, key)
        for k in range(number):
            out = uniforms[pieces[k, 0], pieces[k, 1] : pieces[k, 1] + pieces[k, 2]]
            begin = pieces[k, 3]
            for e in range(out.size):
                out[e] = flat[begin + e]


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


@_kernel(types.uint32[::1], types.uint32[::1], types.int64, types.int64, *(types.uint64,) * 4)
def bounds_kernel(bounds, last, rows, count, first, columns, seed, stream):
    """Of each column of a tile the largest of its ``count`` smallest uniforms, and where that ends.

    Args:
        bounds: the uniforms' 24 bits.
        last: the row down to which equal ones are among the smallest.
        rows, columns: of the matrix.
        first: the place in the stream of the first column's first uniform.
    """
    uniforms = np.empty((rows, bounds.size), np.uint32)
    draw_tile(uniforms, first, columns, key_words(seed, stream))
    find_bounds(uniforms, count, bounds, last)


@inline
def zero_row(out, uniforms, bounds, last, row):
    """Zeros in the chosen elements of a row, which are patterns of any width."""
    for c in range(out.size):
        u, bound = uniforms[c], bounds[c]
        chosen = (u < bound) | ((u == bound) & (row <= last[c]))
        out[c] = out.dtype.type(0) if chosen else out[c]


@_kernel(types.uint64, *(types.int64,) * 5, types.uint32[::1], types.uint32[::1], *(types.uint64,) * 4)
def zero_kernel(
    address, row_stride, stride, itemsize, begin, rows, bounds, last, first, columns, seed, stream
):
    """Zeros in rows from row ``begin`` of the matrix on, by the bounds of their columns.

    Args:
        address: of the first row's first element.
        row_stride, stride, itemsize: in bytes.
        first: the place in the stream of that element's uniform.
        columns: of the matrix.
    """
    key = key_words(seed, stream)
    width = bounds.size
    places = places_of(first, columns, rows)
    x = np.empty((4, BLOCKS), np.uint32)
    flat = np.empty(4 * BLOCKS, np.uint32)
    pieces = np.empty((BLOCKS, 4), np.int64)
    row = done = 0
    while row < rows:
        count, number, row, done = gather_tile(x, pieces, places, row, done, width)
        draw_uniforms(flat, x, count, key)
        for k in range(number):
            at, c, size = pieces[k, 0], pieces[k, 1], pieces[k, 2]
            uniforms = flat[pieces[k, 3] : pieces[k, 3] + size]
            limits, ends = bounds[c : c + size], last[c : c + size]
            out = address + u64(at * row_stride + c * stride)
            number_of = u32(begin + at)
            if stride == itemsize == 4:
                zero_row(carray(pointer(out), size, np.uint32), uniforms, limits, ends, number_of)
            elif stride == itemsize == 2:
                zero_row(carray(pointer(out), size, np.uint16), uniforms, limits, ends, number_of)
            else:
                for e in range(size):
                    if uniforms[e] < limits[e] or (uniforms[e] == limits[e] and number_of <= ends[e]):
                        element = carray(pointer(out + u64(e * stride)), itemsize, np.uint8)
                        for byte in range(itemsize):
                            element[byte] = 0


def column_bounds(
    count: int, shape: tuple[int, int], left: int, width: int, key: tuple[int, int], threads: int
) -> tuple[Array, Array]:
    """What tells which elements are among the ``count`` smallest of their column, for some columns.

    Args:
        count: at least one.
        shape: (rows, columns) of the matrix.
        left, width: the first of the columns, and how many.
        key: (seed, stream) of the uniforms.
        threads: how many share the work.

    Returns:
        Each column's largest, in 24 bits, and the row down to which equal ones are among them.
    """
    rows, columns = shape
    bounds, last = np.empty((2, width), np.uint32)
    step = max(1, min(_WIDTH, _WORDS // rows, -(-width // threads)))
    if step > 4:
        step = max(16, step // 16 * 16)
    share(
        (
            partial(
                bounds_kernel, bounds[c : c + step], last[c : c + step], rows, count, left + c, columns, *key
            )
            for c in range(0, width, step)
        ),
        threads,
    )
    return bounds, last


def zero_smallest(
    target: Array,
    bounds: tuple[Array, Array],
    columns: int,
    offsets: tuple[int, int],
    key: tuple[int, int],
    threads: int,
) -> None:
    """Zeros in a part of a matrix, of any strides, by the bounds of the columns that it has.

    Args:
        target: the part.
        bounds: what :func:`column_bounds` gives.
        columns: of the matrix.
        offsets: where in it the part begins.
        key: (seed, stream) of the uniforms.
        threads: how many share the rows.
    """
    (rows, width), (begin, left) = target.shape, offsets
    address = target.__array_interface__["data"][0]
    row_stride, stride = target.strides
    step = max(1, CHUNK // width)

    def chunk(row: int) -> None:
        place = (begin + row) * columns + left
        at = address + row * row_stride, row_stride, stride, target.itemsize
        zero_kernel(*at, begin + row, min(step, rows - row), *bounds, place, columns, *key)

    share((partial(chunk, row) for row in range(0, rows, step)), threads)
