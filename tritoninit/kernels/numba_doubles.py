"""float64 compiled for the CPU by numba: ``reference_doubles``, in the loops of ``numba_kernels``.

Nothing is fused here: LLVM contracts no product and sum that it is not told to.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic

from tritoninit.kernels import doubles, reference
from tritoninit.kernels.numba_words import (
    BLOCKS,
    NORMAL,
    NUMBERS,
    UNIFORM,
    copy_piece,
    double_bits,
    double_of,
    entry,
    gather_tile,
    inlined,
    kernel,
    key_words,
    philox4x32,
    pointer,
    words,
)
from tritoninit.kernels.stream import Draw

i64, u32, u64, f64 = np.int64, np.uint32, np.uint64, np.float64

_SIGN = u64(1 << 63)
_LOW_HALVES = u64(doubles.LOW_HALVES)
_LOW_HALVES_HIGH_WORD = u32(doubles.LOW_HALVES >> 32)
_LOG = doubles.LOG
_SINE = doubles.SINE
_LOG_SPLIT = i64(doubles.LOG_SPLIT)
_HIGH, _LOW = doubles.MINUS_TWO_LN2_HIGH, doubles.MINUS_TWO_LN2_LOW
_QUANTILE = np.array(doubles.QUANTILE)
_TERMS = _QUANTILE.shape[1]
_SHIFTS = np.array(doubles.QUANTILE_SHIFTS)
_SPLIT = doubles.QUANTILE_SPLIT
_FIRST, _SECOND = doubles.QUANTILE_ROOT_SPLITS
if (len(_LOG), len(_SINE)) != (8, 8):
    raise ImportError("a polynomial of the stream has another length than the one that is written out here")


@intrinsic
def sqrt(context: Any, x: Any) -> Any:
    """Correctly rounded float64 square root."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.call(builder.module.declare_intrinsic("llvm.sqrt", [ir.DoubleType()]), arguments)

    return types.float64(types.float64), generate


@inlined
def horner(x, c):
    v = c[0]
    v = v * x + c[1]
    v = v * x + c[2]
    v = v * x + c[3]
    v = v * x + c[4]
    v = v * x + c[5]
    v = v * x + c[6]
    return v * x + c[7]


@inlined
def minus_two_log(x, exponent):
    """-2 ln(x * 2**-exponent) of positive normal float64 x."""
    i = i64(double_bits(x))
    power = i64(i64(i - _LOG_SPLIT) & i64(-(1 << 52)))
    m = double_of(u64(i64(i - power))) - 1.0
    s = m / (m + 2.0)
    t = s * s
    square = m * m
    near = square - s * (square + t * horner(t, _LOG))
    e = f64(i64(i64(power >> i64(52)) - exponent))
    large, small = e * _HIGH, m * -2.0
    total = large + small
    missed = (large - total) + small
    return total + (missed + (near + e * _LOW))


@inlined
def sine(f):
    """sin(pi/2 f) of quarter turns f in [-1, 1]."""
    w = 1.0 - f * f
    h = f * w
    half = h * 0.5
    total = f + half
    missed = (f - total) + half
    return total + (missed + h * (w * horner(w, _SINE)))


@inlined
def joined(high, low):
    return u64(u64(high) << u64(32)) | u64(low)


@inlined
def real_of(x):
    """float64(x) of a 64-bit word, by its halves: the one sum rounds as the conversion would."""
    return f64(u32(x >> u64(32))) * 4294967296.0 + f64(u32(x))


@inlined
def box_muller(x, y):
    """Two independent standard normals from two 64-bit words."""
    r = sqrt(minus_two_log(real_of(x | u64(1)), i64(64)))
    f = f64(i64(i64(u64(u64(y << u64(1)) + _SIGN)) >> i64(10))) * -(2.0**-53)
    signed = double_of(double_bits(r) ^ (y & _SIGN))
    return signed * sine(f), signed * sine(1.0 - abs(f))


@inlined
def clamp(v, floor, cap):
    v = v if v > floor else floor
    return v if v < cap else cap


@inlined
def uniform(x, low, scale, floor, cap):
    """low + u * span, u = (x >> 11) * 2**-53, kept within [floor, cap]."""
    return clamp(f64(i64(x >> u64(11))) * scale + low, floor, cap)


@inlined
def slope(below, above):
    """z / (below - above) of the standard normal z with those probabilities on either side."""
    big = minus_two_log(below * above, i64(-2))
    root = sqrt(big if big > _SPLIT else _SPLIT)
    piece = 0 if big < _SPLIT else 1 + int(root >= _FIRST) + int(root >= _SECOND)
    x = (big if piece == 0 else root) - _SHIFTS[piece]
    value = _QUANTILE[piece, 0]
    for k in range(1, _TERMS):
        value = value * x + _QUANTILE[piece, k]
    return value


@inlined
def truncated_normal(x, mean, std, below, above, difference, mass, floor, cap):
    """The quantile of x, kept within [floor, cap]."""
    left = real_of(x | u64(1)) * mass + below
    right = real_of(u64(~x) | u64(1)) * mass + above
    signed = f64(i64((x | u64(1)) ^ _SIGN))
    z = (signed * (2.0 * mass) + difference) * slope(left, right)
    return clamp(z * std + mean, floor, cap)


@njit(nogil=True, error_model="numpy")
def transform_tile(z, x, y, blocks, p, distribution):
    """The values z of ``blocks`` blocks, of their words x and those of the low halves y."""
    if distribution == UNIFORM:
        for lane in range(4):
            for j in range(blocks):
                z[lane, j] = uniform(joined(x[lane, j], y[lane, j]), p[0], p[1], p[2], p[3])
    elif distribution == NORMAL:
        for lane in range(0, 4, 2):
            a, b, c, d = x[lane], x[lane + 1], y[lane], y[lane + 1]
            first, second = z[lane], z[lane + 1]
            for j in range(blocks):
                z0, z1 = box_muller(joined(a[j], c[j]), joined(b[j], d[j]))
                first[j] = z0 * p[1] + p[0]
                second[j] = z1 * p[1] + p[0]
    else:
        for lane in range(4):
            for j in range(blocks):
                word = joined(x[lane, j], y[lane, j])
                z[lane, j] = truncated_normal(word, p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7])


@kernel(types.uint64, types.int64, types.int64, types.uint64, *NUMBERS, constants=doubles)
def run_kernel(address, size, distribution, first, seed, stream, p0, p1, p2, p3, p4, p5, p6, p7):
    """``size`` elements from ``first`` on in the stream, to contiguous memory."""
    key = key_words(seed, stream)
    p = (p0, p1, p2, p3, p4, p5, p6, p7)
    out = carray(pointer(address), size, np.float64)
    x, y = np.empty((4, BLOCKS), np.uint32), np.empty((4, BLOCKS), np.uint32)
    z = np.empty((4, BLOCKS), np.float64)
    block = first >> u64(2)
    at = -i64(first & u64(3))  # where the tile's first element goes: before the output, at first
    while at < size:
        blocks = min(BLOCKS, (size - at + 3) >> 2)
        for j in range(blocks):
            x[0, j], x[1, j], x[2, j], x[3, j] = words(block + u64(j), key)
        for j in range(blocks):
            y[0, j], y[1, j], y[2, j], y[3, j] = words((block + u64(j)) | _LOW_HALVES, key)
        transform_tile(z, x, y, blocks, p, distribution)
        for k in range(min(4 * BLOCKS, size - at)):
            if at + k >= 0:
                out[at + k] = z[k & 3, k >> 2]
        at += 4 * BLOCKS
        block += u64(BLOCKS)


call_run = entry(run_kernel)


@kernel(
    types.uint64,
    types.int64[::1],
    types.uint64[::1],
    *(types.int64,) * 3,
    *NUMBERS,
    constants=doubles,
)
def rows_kernel(
    address, offsets, places, length, stride, distribution, seed, stream, p0, p1, p2, p3, p4, p5, p6, p7
):
    """``length`` elements from each of the places on in the stream, to memory of a stride in bytes."""
    key = key_words(seed, stream)
    p = (p0, p1, p2, p3, p4, p5, p6, p7)
    x, y = np.empty((4, BLOCKS), np.uint32), np.empty((4, BLOCKS), np.uint32)
    z, values = np.empty((4, BLOCKS), np.float64), np.empty(4 * BLOCKS, np.float64)
    pieces = np.empty((BLOCKS, 4), np.int64)
    row = done = 0
    while row < places.size:
        count, number, row, done = gather_tile(x, pieces, places, row, done, length)
        for j in range(count):
            low, high = x[0, j], x[1, j] | _LOW_HALVES_HIGH_WORD
            y[0, j], y[1, j], y[2, j], y[3, j] = philox4x32(low, high, key[0], key[1], key[2], key[3])
        for j in range(count):
            x[0, j], x[1, j], x[2, j], x[3, j] = philox4x32(x[0, j], x[1, j], key[0], key[1], key[2], key[3])
        transform_tile(z, x, y, count, p, distribution)
        for j in range(4 * count):
            values[j] = z[j & 3, j >> 2]
        for k in range(number):
            first = address + u64(offsets[pieces[k, 0]] + pieces[k, 1] * stride)
            copy_piece(values, pieces[k, 3], first, pieces[k, 2], stride)


def _require_the_bits() -> None:
    """A tile of each transform against the reference's.

    Raises:
        ImportError: they differ, as where a compiler fuses what it must not.
    """
    above = (0.0, 1.0, 0.999, 0.0, 0.999, 0.001 * 2.0**-64, -9.0, 9.0)
    for distribution, parameters in (("normal", (0.0, 1.0)), ("truncated_normal", above)):
        draw = Draw(distribution, parameters, 0, 0, 0, (1,))
        found, expected = np.empty((2, 4 * BLOCKS))
        code = NORMAL if distribution == "normal" else NORMAL + 1
        rest = (0.0,) * (8 - len(parameters))
        run_kernel(found.ctypes.data, found.size, code, 0, 0, 0, *parameters, *rest)
        reference.run(expected, "float64", draw, 0)
        if not np.array_equal(found.view(np.uint64), expected.view(np.uint64)):
            raise ImportError("numba's float64 values differ from the reference's on this machine")


_require_the_bits()
