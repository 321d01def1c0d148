"""Q of QR factorisations by Householder's reflectors, compiled for the CPU by numba.

LAPACK's bits depend on who built it and on the processor. Here each number comes of the same operations in
the same order everywhere, sums along fixed lanes and by fused multiply-adds, so that its bits depend neither
on the width of the processor's vectors nor on how many threads share the rows.

What lies in memory is the transposed matrix, whose rows are to be made orthogonal. As many of them as a
vector has lanes are factorised, and the rows after them are multiplied by I - V T V^T, V the reflectors, in
the compact form of Schreiber and Van Loan (SIAM J. Sci. Stat. Comput. 10, 1989). Q comes of the identity, by
the same from the last on. Six rows at a time go through the three products while they are in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache, partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from tritoninit.kernels.chunks import share
from tritoninit.kernels.numba_words import kernel

i64, u64 = np.int64, np.uint64

Matrix = npt.NDArray[Any]

# On these two hang the bits.
VECTOR: Final = 64  # bytes: one of AVX-512, two of AVX2, four of NEON
_DEPTH: Final = 512  # summands of one sum, of which others are then made: errors grow with it
STRIP: Final = 6  # rows: with AVX2 twelve sums, two vectors and a number are all of its registers
_SHARED_FROM: Final = 1 << 19  # elements: in less, to hand rows over takes longer than it saves

_SET, _ADD, _SUBTRACT = range(3)
_helper = njit(nogil=True, error_model="numpy")


def _product(mode: int) -> Any:
    """A strip times a matrix as wide as a vector: ``product(c, c_row, a, a_row, b, b_row, depth, one)``.

    c[i, :] becomes, gets or loses the sum of a[i, k] b[k, :] over k < depth, in this order, i < STRIP. Each
    matrix is told by its address and by how many elements its rows are apart; ``one`` tells the dtype.
    """

    @intrinsic
    def product(
        context: Any, c: Any, c_row: Any, a: Any, a_row: Any, b: Any, b_row: Any, depth: Any, one: Any
    ) -> Any:
        size = one.bitwidth // 8
        lanes = VECTOR // size

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            c, c_row, a, a_row, b, b_row, depth, _ = arguments
            element, word = context.get_value_type(one), ir.IntType(64)
            vector, lane = ir.VectorType(element, lanes), ir.VectorType(ir.IntType(32), lanes)
            fma = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{lanes}f{one.bitwidth}"
            )

            def at(address: Any, place: Any, type_: Any) -> Any:
                moved = builder.add(address, builder.mul(place, word(size)))
                return builder.inttoptr(moved, type_.as_pointer())

            def load(place: Any) -> Any:
                return builder.load(place, align=size)

            def spread(number: Any) -> Any:
                none = vector(ir.Undefined)
                return builder.shuffle_vector(
                    builder.insert_element(none, number, word(0)), none, lane([0] * lanes)
                )

            rows = [at(c, builder.mul(c_row, word(i)), vector) for i in range(STRIP)]
            begin = [load(row) if mode == _SUBTRACT else vector([0.0] * lanes) for row in rows]
            sums = [cgutils.alloca_once_value(builder, value) for value in begin]
            with cgutils.for_range(builder, depth, intp=word) as loop:
                other = load(at(b, builder.mul(b_row, loop.index), vector))
                for i, total in enumerate(sums):
                    number = load(at(a, builder.add(builder.mul(a_row, word(i)), loop.index), element))
                    if mode == _SUBTRACT:
                        number = builder.fneg(number)
                    value = builder.call(fma, [spread(number), other, builder.load(total)])
                    builder.store(value, total)
            for row, total in zip(rows, sums, strict=True):
                value = builder.load(total)
                builder.store(builder.fadd(load(row), value) if mode == _ADD else value, row, align=size)
            return context.get_dummy_value()

        place, count = types.uint64, types.int64
        return types.void(place, count, place, count, place, count, count, one), generate

    return product


@intrinsic
def lanes_of(context: Any, given: Any) -> Any:
    """How many numbers like this, or elements of this array, a vector holds: known where code is compiled."""
    real = getattr(given, "dtype", given)

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return context.get_constant(types.int64, VECTOR * 8 // real.bitwidth)

    return types.int64(given), generate


set_product, add_product, subtract_product = _product(_SET), _product(_ADD), _product(_SUBTRACT)


@_helper
def long_product(out, strip, row, columns, length, one):
    """A strip times as many columns as a vector has lanes, which lie side by side."""
    lanes = lanes_of(one)
    size = u64(VECTOR // lanes)
    set_product(out, lanes, strip, row, columns, lanes, min(length, _DEPTH), one)
    for k in range(_DEPTH, length, _DEPTH):
        part = columns + u64(k * lanes) * size
        add_product(out, lanes, strip + u64(k) * size, row, part, lanes, min(length - k, _DEPTH), one)


@_helper
def dot(x, y, sums):
    """Of two rows of whole vectors; ``sums`` is memory for four vectors."""
    lanes = lanes_of(sums)
    sums[:] = 0
    whole = x.size // (4 * lanes) * 4 * lanes
    for begin in range(0, whole, 4 * lanes):
        for lane in range(4 * lanes):
            sums[lane] += x[begin + lane] * y[begin + lane]
    for begin in range(whole, x.size, lanes):
        for lane in range(lanes):
            sums[lane] += x[begin + lane] * y[begin + lane]
    half = 2 * lanes
    while half:
        for lane in range(half):
            sums[lane] += sums[lane + half]
        half //= 2
    return sums[0]


@_helper
def reflectors(matrix, first, count, scales, signs):
    """Replace rows from ``first`` on, to the right of it, by the reflectors that make them triangular.

    Args:
        scales: of the reflectors; zero, of none, where all to the right of the diagonal is zero.
        signs: of all of R's diagonal; those of these rows are set.
    """
    real = matrix.dtype.type
    least = np.finfo(matrix.dtype).tiny / np.finfo(matrix.dtype).eps  # of squares
    sums = np.empty(4 * lanes_of(matrix), matrix.dtype)
    for number in range(count):
        row = matrix[first + number, first:]
        head = row[number]
        row[: number + 1] = 0
        rest = dot(row, row, sums)
        row[number] = 1
        scales[number] = 0
        diagonal = head
        if rest > least:
            length = real(math.sqrt(head * head + rest))
            diagonal = length if head < 0 else -length
            scales[number] = (diagonal - head) / diagonal
            inverse = real(1) / (head - diagonal)
            for k in range(number + 1, row.size):
                row[k] *= inverse
            for other in range(number + 1, count):
                below = matrix[first + other, first:]
                times = scales[number] * dot(row, below, sums)
                for k in range(row.size):
                    below[k] -= times * row[k]
        signs[first + number] = -1 if diagonal < 0 else 1


@_helper
def transpose(matrix, first, across):
    """The reflectors from row ``first`` on, as columns."""
    lanes = lanes_of(matrix)
    for begin in range(first, matrix.shape[1], lanes):
        for number in range(lanes):
            for lane in range(lanes):
                across[begin - first + lane, number] = matrix[first + number, begin + lane]


@_helper
def reflect(rows, begin, end, matrix, first, across, compact):
    """Multiply rows, to the right of ``first``, by the reflectors from there on.

    Args:
        rows: of which those from ``begin`` to before ``end`` are, and zeros up to a whole strip.
        matrix: with the reflectors in its rows.
        across: the same as columns.
        compact: T, or for the transposed product T^T.
    """
    one = rows.dtype.type(1)
    lanes, row = lanes_of(rows), rows.shape[1]
    size = u64(VECTOR // lanes)
    length = row - first
    work = np.empty((2 * STRIP, lanes), rows.dtype)
    sums, scaled = u64(work.ctypes.data), u64(work.ctypes.data) + u64(STRIP * lanes) * size
    columns, triangle = u64(across.ctypes.data), u64(compact.ctypes.data)
    vectors = u64(matrix.ctypes.data) + u64(first * row + first) * size
    for number in range(begin, end, STRIP):
        strip = u64(rows.ctypes.data) + u64(number * row + first) * size
        long_product(sums, strip, row, columns, length, one)
        set_product(scaled, lanes, sums, lanes, triangle, lanes, lanes, one)
        for k in range(0, length, lanes):
            moved = u64(k) * size
            subtract_product(strip + moved, row, scaled, lanes, vectors + moved, row, lanes, one)


@_helper
def factor(matrix, first, count, across, compact, signs):
    """Make reflectors of ``count`` rows from ``first`` on.

    Args:
        across: becomes them as columns.
        compact: becomes T and T^T: the row of a reflector in the latter is that of the sum of those before
            it, each times its product with this one, times its negative scale.
        signs: of R's diagonal.
    """
    one = matrix.dtype.type(1)
    lanes, row = lanes_of(matrix), matrix.shape[1]
    size = u64(VECTOR // lanes)
    scales = np.zeros(lanes, matrix.dtype)
    gram = np.empty((lanes + STRIP, lanes), matrix.dtype)
    reflectors(matrix, first, count, scales, signs)
    transpose(matrix, first, across)
    vectors = u64(matrix.ctypes.data) + u64(first * row + first) * size
    for number in range(0, count, STRIP):
        products = u64(gram.ctypes.data) + u64(number * lanes) * size
        strip = vectors + u64(number * row) * size
        long_product(products, strip, row, u64(across.ctypes.data), row - first, one)
    compact[:] = 0
    for number in range(count):
        for other in range(number):
            times = -scales[number] * gram[other, number]
            for k in range(other + 1):
                compact[1, number, k] += times * compact[1, other, k]
        compact[1, number, number] = scales[number]
        for k in range(number + 1):
            compact[0, k, number] = compact[1, number, k]


@_helper
def form(matrix, q, first, count, across, signs):
    """What goes before the product that gives rows of Q: the reflectors as columns, and a signed identity."""
    transpose(matrix, first, across)
    for number in range(first, first + count):
        q[number, number] = signs[number]


@_helper
def copy(source, out, rows, columns):
    """Of two matrices of any strides: so that either is read or written a line of the cache at a time."""
    for top in range(0, rows, 16):
        for left in range(0, columns, 16):
            for i in range(top, min(top + 16, rows)):
                for j in range(left, min(left + 16, columns)):
                    out[i, j] = source[i, j]


@_helper
def whole(given, matrix, q):
    """Q of one matrix, on this thread, written over it; the others are zeros, as :func:`_padded` has them."""
    rows, columns = given.shape
    lanes = lanes_of(given)
    across = np.empty((matrix.shape[1], lanes), given.dtype)
    signs = np.empty(rows, given.dtype)
    blocks = (rows + lanes - 1) // lanes
    compact = np.empty((blocks, 2, lanes, lanes), given.dtype)
    copy(given, matrix, rows, columns)
    for block in range(blocks):
        first, end = block * lanes, min((block + 1) * lanes, rows)
        factor(matrix, first, end - first, across, compact[block], signs)
        reflect(matrix, end, rows, matrix, first, across, compact[block, 0])
    for block in range(blocks - 1, -1, -1):
        first, end = block * lanes, min((block + 1) * lanes, rows)
        form(matrix, q, first, end - first, across, signs)
        reflect(q, first, rows, matrix, first, across, compact[block, 1])
    copy(q, given, rows, columns)


@cache
def _compiled(name: str, dtype: str) -> Any:
    """One of these functions for a dtype, compiled when it is first asked for."""
    real, count = getattr(types, dtype), types.int64
    view, rows, row = real[:, :], real[:, ::1], real[::1]
    function, signature = {
        "copy": (copy, (view, view, count, count)),
        "factor": (factor, (rows, count, count, rows, real[:, :, ::1], row)),
        "reflect": (reflect, (rows, count, count, rows, count, rows, rows)),
        "form": (form, (rows, rows, count, count, rows, row)),
        "whole": (whole, (view, rows, rows)),
    }[name]
    return kernel(*signature)(function.py_func)


def orthogonalize(matrices: Sequence[Matrix], threads: int) -> None:
    """Write over matrices the Q of their transposed ones, transposed, R having a positive diagonal.

    Args:
        matrices: (short, long) each, one shape and dtype, float32 or float64, of any strides.
        threads: how many threads share them, or the rows of one; it does not count for the bits.
    """
    if len(matrices) >= threads or matrices[0].size < _SHARED_FROM:
        share((partial(_whole, matrix) for matrix in matrices), threads)
    else:
        for matrix in matrices:
            _shared(matrix, threads)


def _padded(matrix: Matrix) -> Matrix:
    """Zeros: rows of whole vectors, not a page apart, and as many more as are read or written with others."""
    lanes = VECTOR // matrix.itemsize
    row = -(-matrix.shape[1] // lanes) * lanes
    if row * matrix.itemsize % 4096 == 0:
        row += lanes
    return np.zeros((len(matrix) + lanes + STRIP, row), matrix.dtype)


def _whole(matrix: Matrix) -> None:
    _compiled("whole", matrix.dtype.name)(matrix, _padded(matrix), _padded(matrix))


def _shared(given: Matrix, threads: int) -> None:
    """As :func:`whole`; the rows that a block's reflectors reach are shared out."""
    names = ("copy", "factor", "reflect", "form")
    copied, factored, reflected, formed = (_compiled(name, given.dtype.name) for name in names)
    matrix, q = _padded(given), _padded(given)
    rows, columns = given.shape
    lanes = VECTOR // given.itemsize
    across = np.empty((matrix.shape[1], lanes), given.dtype)
    signs = np.empty(rows, given.dtype)
    firsts = range(0, rows, lanes)
    compact = np.empty((len(firsts), 2, lanes, lanes), given.dtype)

    def reflect_from(begin: int, out: Matrix, first: int, by: Matrix) -> None:
        step = max(-(-(rows - begin) // (threads * STRIP)), 1) * STRIP
        parts = ((part, min(part + step, rows)) for part in range(begin, rows, step))
        share((partial(reflected, out, *part, matrix, first, across, by) for part in parts), threads)

    copied(given, matrix, rows, columns)
    for first, both in zip(firsts, compact, strict=True):
        count = min(lanes, rows - first)
        factored(matrix, first, count, across, both, signs)
        reflect_from(first + count, matrix, first, both[0])
    for first, both in zip(reversed(firsts), compact[::-1], strict=True):
        formed(matrix, q, first, min(lanes, rows - first), across, signs)
        reflect_from(first, q, first, both[1])
    copied(q, given, rows, columns)
