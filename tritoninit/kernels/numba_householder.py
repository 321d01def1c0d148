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
from collections.abc import Callable, Sequence
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
_SHARED_FROM: Final = 9 << 15  # elements: in less, to hand rows over takes longer than it saves
_BLOCKS: Final = 6  # of reflectors that rows are handed over for, which takes 0.1 ms

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
def reflect_strip(strip, row, length, columns, vectors, triangle, work):
    """Multiply six rows by reflectors, all told by their addresses; ``work`` has room for twelve vectors."""
    one = work.dtype.type(1)
    lanes = lanes_of(one)
    size = u64(VECTOR // lanes)
    sums, scaled = u64(work.ctypes.data), u64(work.ctypes.data) + u64(STRIP * lanes) * size
    long_product(sums, strip, row, columns, length, one)
    set_product(scaled, lanes, sums, lanes, triangle, lanes, lanes, one)
    for k in range(0, length, lanes):
        moved = u64(k) * size
        subtract_product(strip + moved, row, scaled, lanes, vectors + moved, row, lanes, one)


@_helper
def reflect(rows, begin, end, matrix, first, across, compact):
    """Multiply rows, to the right of ``first``, by the reflectors from there on.

    Args:
        rows: of which those from ``begin`` to before ``end`` are.
        matrix: with the reflectors in its rows.
        across: the same as columns.
        compact: T, or for the transposed product T^T.
    """
    lanes, row = lanes_of(rows), rows.shape[1]
    size = u64(VECTOR // lanes)
    work = np.empty((2 * STRIP, lanes), rows.dtype)
    columns, triangle = u64(across.ctypes.data), u64(compact.ctypes.data)
    vectors = u64(matrix.ctypes.data) + u64(first * row + first) * size
    whole = begin + (end - begin) // STRIP * STRIP
    for number in range(begin, whole, STRIP):
        strip = u64(rows.ctypes.data) + u64(number * row + first) * size
        reflect_strip(strip, row, row - first, columns, vectors, triangle, work)
    if whole < end:  # fewer, among others that are not to be touched
        spare = np.zeros((STRIP, row), rows.dtype)
        spare[: end - whole, first:] = rows[whole:end, first:]
        strip = u64(spare.ctypes.data) + u64(first) * size
        reflect_strip(strip, row, row - first, columns, vectors, triangle, work)
        rows[whole:end, first:] = spare[: end - whole, first:]


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
def factor_group(matrix, first, end, across, compact, signs):
    """:func:`factor` of some blocks of rows, each multiplied before by the reflectors of those above it."""
    lanes = lanes_of(matrix)
    for block in range((end - first + lanes - 1) // lanes):
        begin = first + block * lanes
        after = min(begin + lanes, end)
        factor(matrix, begin, after - begin, across[block], compact[block], signs)
        reflect(matrix, after, end, matrix, begin, across[block], compact[block, 0])


@_helper
def reflect_group(rows, matrix, first, blocks, across, compact, begin, end):
    """Rows below some blocks, multiplied by the reflectors of these, in order."""
    lanes = lanes_of(rows)
    for block in range(blocks):
        reflect(rows, begin, end, matrix, first + block * lanes, across[block], compact[block, 0])


@_helper
def form_group(q, matrix, first, blocks, across, compact, begin, end):
    """Rows of Q, multiplied by the reflectors of blocks that reach them, from the last on."""
    lanes = lanes_of(q)
    for block in range(blocks - 1, -1, -1):
        from_here = first + block * lanes
        reflect(q, max(begin, from_here), end, matrix, from_here, across[block], compact[block, 1])


@_helper
def begin_form(matrix, q, first, end, across, signs):
    """What goes before forming rows of Q: the reflectors as columns, and a signed identity."""
    lanes = lanes_of(q)
    for number in range(first, end):
        q[number, number] = signs[number]
    for begin in range(first, end, lanes):
        transpose(matrix, begin, across[(begin - first) // lanes])


@_helper
def turn(source, top, left, rows, columns, out, block):
    """``out[left + j, top + i] = source[top + i, left + j]`` by way of a block that the cache holds."""
    for i in range(rows):
        for j in range(columns):
            block[i, j] = source[top + i, left + j]
    for j in range(columns):
        for i in range(rows):
            out[left + j, top + i] = block[i, j]


@_helper
def turned(source, out, begin, end, first, last):
    """Rows and columns of a matrix as those of its transposed one."""
    block = np.empty((16, 16), source.dtype)
    for top in range(begin, end, 16):
        for left in range(first, last, 16):
            if top + 16 <= end and left + 16 <= last:
                turn(source, top, left, 16, 16, out, block)  # of a size that the compiler knows
            else:
                turn(source, top, left, min(16, end - top), min(16, last - left), out, block)


@_helper
def copy_in(given, is_tall, matrix, begin, end):
    """The rows of ``matrix`` from ``begin`` to before ``end``: those of what is given, or its columns."""
    if is_tall:
        turned(given, matrix, 0, given.shape[0], begin, end)
    else:
        matrix[begin:end, : given.shape[1]] = given[begin:end]


@_helper
def copy_out(q, given, is_tall, begin, end):
    """The way back."""
    if is_tall:
        turned(q, given, begin, end, 0, given.shape[0])
    else:
        given[begin:end] = q[begin:end, : given.shape[1]]


@_helper
def whole(given, is_tall, matrix, q, across, compact, signs):
    """Q of one matrix, on this thread, written over it; the others are :func:`_memory`."""
    rows, lanes, columns = signs.size, lanes_of(given), across[0]
    blocks = (rows + lanes - 1) // lanes
    copy_in(given, is_tall, matrix, 0, rows)
    for block in range(blocks):
        first, end = block * lanes, min((block + 1) * lanes, rows)
        factor(matrix, first, end - first, columns, compact[block], signs)
        reflect(matrix, end, rows, matrix, first, columns, compact[block, 0])
    for block in range(blocks - 1, -1, -1):
        first, end = block * lanes, min((block + 1) * lanes, rows)
        begin_form(matrix, q, first, end, across, signs)
        reflect(q, first, rows, matrix, first, columns, compact[block, 1])
    copy_out(q, given, is_tall, 0, rows)


@cache
def _compiled(name: str, dtype: str) -> Any:
    """One of these functions for a dtype, compiled when it is first asked for."""
    real, count = getattr(types, dtype), types.int64
    rows, row, flag = real[:, ::1], real[::1], types.boolean
    columns, triangles = real[:, :, ::1], real[:, :, :, ::1]
    reflecting = (rows, rows, count, count, columns, triangles, count, count)
    function, signature = {
        "copy_in": (copy_in, (rows, flag, rows, count, count)),
        "copy_out": (copy_out, (rows, rows, flag, count, count)),
        "factor_group": (factor_group, (rows, count, count, columns, triangles, row)),
        "reflect_group": (reflect_group, reflecting),
        "begin_form": (begin_form, (rows, rows, count, count, columns, row)),
        "form_group": (form_group, reflecting),
        "whole": (whole, (rows, flag, rows, rows, columns, triangles, row)),
    }[name]
    return kernel(*signature)(function.py_func)


def orthogonalize(matrices: Sequence[Matrix], threads: int) -> None:
    """Write over matrices Q of the tall ones that they, or their transposed ones, are; so is Q.

    R's diagonal is positive.

    Args:
        matrices: one shape and dtype, float32 or float64, contiguous.
        threads: how many threads share them, or the rows of one; it does not count for the bits.
    """
    if len(matrices) >= threads or matrices[0].size < _SHARED_FROM:
        share((partial(_whole, matrix) for matrix in matrices), threads)
    else:
        for matrix in matrices:
            _shared(matrix, threads)


def _memory(given: Matrix, blocks: int) -> tuple[Matrix, ...]:
    """For reflectors and for Q, zeros, then columns of some blocks, all triangles, and signs.

    The first two have rows of whole vectors, and as many more as are read with others.
    """
    lanes = VECTOR // given.itemsize
    short, long = sorted(given.shape)
    row = (-(-long // lanes) | 1) * lanes  # of an odd number of lines rows fill a cache evenly
    matrix, q = (np.zeros((short + lanes + STRIP, row), given.dtype) for _ in range(2))
    across = np.empty((blocks, row, lanes), given.dtype)
    compact = np.empty((-(-short // lanes), 2, lanes, lanes), given.dtype)
    return matrix, q, across, compact, np.empty(short, given.dtype)


def _is_tall(given: Matrix) -> bool:
    return bool(given.shape[0] >= given.shape[1])


def _whole(given: Matrix) -> None:
    _compiled("whole", given.dtype.name)(given, _is_tall(given), *_memory(given, 1))


def _shared(given: Matrix, threads: int) -> None:
    """As :func:`whole`; the rows that reflectors reach are shared out, for some blocks of these at a time."""
    names = ("copy_in", "copy_out", "factor_group", "reflect_group", "begin_form", "form_group")
    into, back, factored, reflected, begun, formed = (_compiled(name, given.dtype.name) for name in names)
    matrix, q, across, compact, signs = _memory(given, _BLOCKS)
    lanes, rows, is_tall = VECTOR // given.itemsize, len(signs), _is_tall(given)
    step = _BLOCKS * lanes

    def each(run: Callable[[int, int], None], begin: int, multiple: int) -> None:
        """``run(first row, last row)`` for parts of the rows from ``begin`` on."""
        part = max(-(-(rows - begin) // (2 * threads * multiple)), 1) * multiple
        firsts = range(begin, rows, part)
        share((partial(run, first, min(first + part, rows)) for first in firsts), threads)

    each(partial(into, given, is_tall, matrix), 0, lanes)
    for first in range(0, rows, step):
        after, triangles = min(first + step, rows), compact[first // lanes :]
        factored(matrix, first, after, across, triangles, signs)
        rest = matrix, first, -(-(after - first) // lanes), across, triangles
        each(partial(reflected, matrix, *rest), after, STRIP)
    for first in reversed(range(0, rows, step)):
        after, triangles = min(first + step, rows), compact[first // lanes :]
        begun(matrix, q, first, after, across, signs)
        rest = matrix, first, -(-(after - first) // lanes), across, triangles
        each(partial(formed, q, *rest), first, STRIP)
    each(partial(back, q, given, is_tall), 0, lanes)
