"""Functions of the stream's numbers compiled for the CPU by numba: the bits that ``distributions`` computes.

An element is drawn from one to three streams and computed at once, in a tile that stays in the cache. In
float64, of sums, products and quotients alone, each rounded once, in the order in which NumPy has them there:
LLVM contracts and reorders none that it is not told to. What is exact there, such as a power of two, may be
come by in another way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Final

import numpy as np
from numba import types

from tritoninit import exact
from tritoninit.exact import ATANH, COSINE, EXPM1, LARGEST, LN2_HIGH, LN2_LOW, LOG2_E, SINE, SMALLEST
from tritoninit.kernels import chunks, numba_kernels, reference
from tritoninit.kernels.chunks import Array, Coordinates, Drawer, Item, Places
from tritoninit.kernels.numba_kernels import DTYPES, FLOAT8, FLOAT32, store_tile, transform_tile
from tritoninit.kernels.numba_words import (
    BLOCKS,
    NORMAL,
    copy_piece,
    double_bits,
    double_of,
    gather_tile,
    inlined,
    kernel,
    key_words,
    philox4x32,
)
from tritoninit.kernels.stream import Draw

f32, f64, i32, i64, u8 = np.float32, np.float64, np.int32, np.int64, np.uint8
u16, u32, u64 = np.uint16, np.uint32, np.uint64

CHUNK: Final = 1 << 16  # elements a call, 0.1 ms and more

# Of two uniforms, of a normal, and of one uniform.
EXPONENTIAL, CAUCHY, GEOMETRIC, LOG_NORMAL, LOG_UNIFORM, LOG_OF_UNIFORM, TIME_STEP, RING = range(8)
FLOATS = {
    "exponential": EXPONENTIAL,
    "cauchy": CAUCHY,
    "geometric": GEOMETRIC,
    "log_normal": LOG_NORMAL,
    "log_uniform": LOG_UNIFORM,
    "log_of_uniform": LOG_OF_UNIFORM,
    "time_step_bias": TIME_STEP,
    "ring_decay": RING,
}
BERNOULLI, INTEGERS = range(2)
WHOLE = {"bernoulli": BERNOULLI, "integers": INTEGERS}
# How an integer lies in memory: by so many bytes, whatever its sign, or as a float.
_BYTES_1, _BYTES_2, _BYTES_4, _BYTES_8, _FLOAT32, _FLOAT64 = range(6)
_KINDS = {
    **dict.fromkeys(("bool", "uint8", "int8"), _BYTES_1),
    **dict.fromkeys(("uint16", "int16"), _BYTES_2),
    **dict.fromkeys(("uint32", "int32"), _BYTES_4),
    **dict.fromkeys(("uint64", "int64"), _BYTES_8),
    "float32": _FLOAT32,
    "float64": _FLOAT64,
}

_ROOT_HALF, _PI = math.sqrt(0.5), math.pi
_TO_INTEGER = 1.5 * 2.0**52  # of a sum with it the last bits are those of the integer next to the other
_INTEGER_BITS = u64(0x4338000000000000)


@inlined
def polynomial_10(c, x):
    v = (((c[9] * x + c[8]) * x + c[7]) * x + c[6]) * x + c[5]
    return ((((v * x + c[4]) * x + c[3]) * x + c[2]) * x + c[1]) * x + c[0]


@inlined
def polynomial_12(c, x):
    v = (((((c[11] * x + c[10]) * x + c[9]) * x + c[8]) * x + c[7]) * x + c[6]) * x + c[5]
    return ((((v * x + c[4]) * x + c[3]) * x + c[2]) * x + c[1]) * x + c[0]


@inlined
def polynomial_15(c, x):
    v = ((((c[14] * x + c[13]) * x + c[12]) * x + c[11]) * x + c[10]) * x + c[9]
    v = ((((v * x + c[8]) * x + c[7]) * x + c[6]) * x + c[5]) * x + c[4]
    return (((v * x + c[3]) * x + c[2]) * x + c[1]) * x + c[0]


@inlined
def log(x):
    """The natural logarithm of normal positive numbers."""
    b = double_bits(x)
    mantissa = double_of((b & u64(0xFFFFFFFFFFFFF)) | u64(0x3FE0000000000000))  # in [1/2, 1)
    exponent = i32(i32(b >> u64(52)) - i32(1022))
    small = mantissa < _ROOT_HALF
    mantissa = 2 * mantissa if small else mantissa
    exponent = i32(exponent - i32(1)) if small else exponent
    ratio = (mantissa - 1) / (mantissa + 1)
    near = 2 * ratio * polynomial_12(ATANH, ratio * ratio)
    power = f64(exponent)
    return power * LN2_HIGH + (power * LN2_LOW + near)


@inlined
def power_of_two(n):
    """2**n of an integer between -1022 and 1023."""
    return double_of(u64(u64(n + i64(1023)) << u64(52)))


@inlined
def exp(x):
    """The exponential of numbers that are not NaN."""
    x = SMALLEST if x < SMALLEST else x
    x = LARGEST if x > LARGEST else x
    shifted = x * LOG2_E + _TO_INTEGER
    power = shifted - _TO_INTEGER
    rest = (x - power * LN2_HIGH) - power * LN2_LOW
    near = rest * polynomial_15(EXPM1, rest)
    n = i64(double_bits(shifted) - _INTEGER_BITS)
    half = i64(n >> i64(1))
    return (near + 1) * power_of_two(half) * power_of_two(i64(n - half))


@inlined
def expm1(x):
    """The exponential less one of numbers that are not positive."""
    x = SMALLEST if x < SMALLEST else x
    shifted = x * LOG2_E + _TO_INTEGER
    power = shifted - _TO_INTEGER
    rest = (x - power * LN2_HIGH) - power * LN2_LOW
    near = rest * polynomial_15(EXPM1, rest)
    n = i64(double_bits(shifted) - _INTEGER_BITS)
    half = i64(n >> i64(1))
    first, second = power_of_two(half), power_of_two(i64(n - half))
    return near * first * second + (first * second - 1)


@inlined
def cotangent(turns):
    """The cotangent of pi times numbers in (0, 1/4]."""
    angle = _PI * turns
    square = angle * angle
    return polynomial_10(COSINE, square) / (angle * polynomial_10(SINE, square))


@inlined
def of_48_bits(high, low):
    """Uniform numbers in (0, 1), in the middles of 2**48 equal intervals, of two words."""
    return f64(i32(high >> u32(8))) * 2.0**-24 + (f64(i32(low >> u32(8))) * 2.0**-24 + 2.0**-25) * 2.0**-24


@inlined
def cauchy(u, median, scale):
    turns = u if u < 1 - u else 1 - u
    outer = turns <= 0.25
    inner = 0.5 - turns
    angle = turns if outer else inner
    found = cotangent(angle if angle > 0 else 0.25)
    found = found if outer else (1 / found if inner > 0 else 0.0)
    found = found if u >= 0.5 else -found
    return median + scale * found


@inlined
def of_24_bits(word):
    """A uniform number in [0, 1), of one word."""
    return f64(i32(word >> u32(8))) * 2.0**-24


@inlined
def between(x, low, high):
    x = low if x < low else x
    return high if x > high else x


@inlined
def time_step_bias(step):
    return step + log(-expm1(-step))


@inlined
def ring_decay(u, square, span, low, high):
    return log(1 / between(np.sqrt(square + span * u), low, high) - 1)


@inlined
def of_64_bits(high, middle, low):
    """A word of 64 bits, of three of which 24 bits count."""
    return (u64(high >> u32(8)) << u64(40)) | (u64(middle >> u32(8)) << u64(16)) | u64(low >> u32(16))


@inlined
def times_high(word, low, high):
    """floor(w (high 2**32 + low) / 2**64), by halves."""
    first, second = word & u64(0xFFFFFFFF), word >> u64(32)
    carried = second * low + ((first * low) >> u64(32))
    middle = first * high + (carried & u64(0xFFFFFFFF))
    return second * high + (carried >> u64(32)) + (middle >> u64(32))


@inlined
def draw_words(y, x, count, key):
    """The words y of the blocks of which x has the numbers."""
    low, high, a, b, c, d = x[0], x[1], y[0], y[1], y[2], y[3]
    for j in range(count):
        a[j], b[j], c[j], d[j] = philox4x32(low[j], high[j], key[0], key[1], key[2], key[3])


@inlined
def draw_in_place(x, count, key):
    a, b, c, d = x[0], x[1], x[2], x[3]
    for j in range(count):
        a[j], b[j], c[j], d[j] = philox4x32(a[j], b[j], key[0], key[1], key[2], key[3])


_PLACED = (types.uint64, types.int64[::1], types.uint64[::1], *(types.int64,) * 4)


@kernel(*_PLACED, *(types.uint64,) * 3, *(types.float64,) * 5, constants=exact, beside=(numba_kernels,))
def floats_kernel(
    address, offsets, places, length, stride, dtype, function, seed, stream, second, p0, p1, p2, p3, p4
):
    """``length`` elements from each of the places on, to memory of a stride in bytes, computed in float64.

    Args:
        address, offsets, places: a row begins so many bytes behind the address, at a place in the stream.
        stream, second: of the first and the second number of each element.
        p0, p1, p2, p3, p4: what the function takes.
    """
    key, other = key_words(seed, stream), key_words(seed, second)
    x, y = np.empty((4, BLOCKS), np.uint32), np.empty((4, BLOCKS), np.uint32)
    z = np.empty((4, BLOCKS), np.float32)
    wide, narrow = np.empty(4 * BLOCKS, np.float32), np.empty(4 * BLOCKS, np.uint16)
    short = np.empty(4 * BLOCKS, np.uint8)
    pieces = np.empty((BLOCKS, 4), np.int64)
    standard = (f32(0), f32(1), f32(0), f32(0), f32(0), f32(0), f32(0), f32(0))
    row = done = 0
    while row < places.size:
        count, number, row, done = gather_tile(x, pieces, places, row, done, length)
        if function <= GEOMETRIC:
            draw_words(y, x, count, other)
        draw_in_place(x, count, key)
        if function == LOG_NORMAL:
            transform_tile(z, x, count, standard, NORMAL)
            for lane in range(4):
                values = z[lane]
                for j in range(count):
                    values[j] = f32(exp(p0 + p1 * f64(values[j])))
        elif function == EXPONENTIAL:
            for lane in range(4):
                high, low, values = x[lane], y[lane], z[lane]
                for j in range(count):
                    values[j] = f32(-log(of_48_bits(high[j], low[j])) / p0)
        elif function == GEOMETRIC:
            for lane in range(4):
                high, low, values = x[lane], y[lane], z[lane]
                for j in range(count):
                    trials = np.ceil(log(of_48_bits(high[j], low[j])) / p0)
                    values[j] = f32(trials if trials > 1 else 1.0)
        elif function == CAUCHY:
            for lane in range(4):
                high, low, values = x[lane], y[lane], z[lane]
                for j in range(count):
                    values[j] = f32(cauchy(of_48_bits(high[j], low[j]), p0, p1))
        elif function == LOG_OF_UNIFORM:
            for lane in range(4):
                word, values = x[lane], z[lane]
                for j in range(count):
                    values[j] = f32(log(p0 + p1 * of_24_bits(word[j])))
        elif function == RING:
            for lane in range(4):
                word, values = x[lane], z[lane]
                for j in range(count):
                    values[j] = f32(ring_decay(of_24_bits(word[j]), p0, p1, p2, p3))
        else:
            for lane in range(4):
                word, values = x[lane], z[lane]
                for j in range(count):
                    step = between(exp(p0 + p1 * of_24_bits(word[j])), p2, p3)
                    if function == TIME_STEP:
                        step = time_step_bias(step if step > p4 else p4)
                    values[j] = f32(step)
        store_tile(z, wide, narrow, short, dtype, 0)
        for k in range(number):
            first = address + u64(offsets[pieces[k, 0]] + pieces[k, 1] * stride)
            if dtype == FLOAT32:
                copy_piece(wide, pieces[k, 3], first, pieces[k, 2], stride)
            elif dtype >= FLOAT8:
                copy_piece(short, pieces[k, 3], first, pieces[k, 2], stride)
            else:
                copy_piece(narrow, pieces[k, 3], first, pieces[k, 2], stride)


@inlined
def interleave(out, v, count):
    for j in range(count):
        for lane in range(4):
            out[4 * j + lane] = out.dtype.type(v[lane, j])


@kernel(*_PLACED, *(types.uint64,) * 6, types.float64, constants=exact, beside=(numba_kernels,))
def whole_kernel(
    address, offsets, places, length, stride, kind, function, seed, stream, second, third, low, count, p
):
    """As :func:`floats_kernel`, of whole numbers in memory of any ``kind``.

    Args:
        third: of the third number of each element.
        low, count: of integers the least, modulo 2**64, and how many there are, 0 for 2**64.
        p: of ones the share.
    """
    keys = key_words(seed, stream), key_words(seed, second), key_words(seed, third)
    x, y = np.empty((4, BLOCKS), np.uint32), np.empty((4, BLOCKS), np.uint32)
    t, v = np.empty((4, BLOCKS), np.uint32), np.empty((4, BLOCKS), np.uint64)
    bytes_1, bytes_2 = np.empty(4 * BLOCKS, np.uint8), np.empty(4 * BLOCKS, np.uint16)
    bytes_4, bytes_8 = np.empty(4 * BLOCKS, np.uint32), np.empty(4 * BLOCKS, np.uint64)
    wide, double = np.empty(4 * BLOCKS, np.float32), np.empty(4 * BLOCKS, np.float64)
    pieces = np.empty((BLOCKS, 4), np.int64)
    below, above = count & u64(0xFFFFFFFF), count >> u64(32)
    row = done = 0
    while row < places.size:
        blocks, number, row, done = gather_tile(x, pieces, places, row, done, length)
        draw_words(y, x, blocks, keys[1])
        if function == INTEGERS:
            draw_words(t, x, blocks, keys[2])
        draw_in_place(x, blocks, keys[0])
        for lane in range(4):
            a, b, c, values = x[lane], y[lane], t[lane], v[lane]
            if function == BERNOULLI:
                for j in range(blocks):
                    u = f64(i32(a[j] >> u32(8))) * 2.0**-24 + f64(i32(b[j] >> u32(8))) * 2.0**-48
                    values[j] = u64(1) if u < p else u64(0)
            elif count == 0:
                for j in range(blocks):
                    values[j] = of_64_bits(a[j], b[j], c[j]) + low
            elif above == 0:
                for j in range(blocks):
                    values[j] = times_high(of_64_bits(a[j], b[j], c[j]), below, u64(0)) + low
            else:
                for j in range(blocks):
                    values[j] = times_high(of_64_bits(a[j], b[j], c[j]), below, above) + low
        if kind == _BYTES_1:
            interleave(bytes_1, v, blocks)
        elif kind == _BYTES_2:
            interleave(bytes_2, v, blocks)
        elif kind == _BYTES_4:
            interleave(bytes_4, v, blocks)
        elif kind == _BYTES_8:
            interleave(bytes_8, v, blocks)
        elif kind == _FLOAT32:
            interleave(wide, v.view(np.int64), blocks)
        else:
            interleave(double, v.view(np.int64), blocks)
        for k in range(number):
            first, source = address + u64(offsets[pieces[k, 0]] + pieces[k, 1] * stride), pieces[k, 3]
            if kind == _BYTES_1:
                copy_piece(bytes_1, source, first, pieces[k, 2], stride)
            elif kind == _BYTES_2:
                copy_piece(bytes_2, source, first, pieces[k, 2], stride)
            elif kind == _BYTES_4:
                copy_piece(bytes_4, source, first, pieces[k, 2], stride)
            elif kind == _BYTES_8:
                copy_piece(bytes_8, source, first, pieces[k, 2], stride)
            elif kind == _FLOAT32:
                copy_piece(wide, source, first, pieces[k, 2], stride)
            else:
                copy_piece(double, source, first, pieces[k, 2], stride)


def serves(function: str, dtype: str) -> bool:
    """Whether :func:`fill` has a function, for elements of a dtype."""
    return dtype in (DTYPES if function in FLOATS else _KINDS) and function in FLOATS | WHOLE


def fill(item: Item, streams: Sequence[int], threads: int) -> None:
    """Write a function of draws into an array of any layout.

    Args:
        item: the array, its dtype, and a draw whose distribution is the function's name, its parameters what
            that takes, and its stream that of the first number of each element.
        streams: of all its numbers.
        threads: how many share it.
    """
    drawer = Drawer(reference.constant, partial(_run, streams), partial(_rows, streams), CHUNK)
    chunks.fill(drawer, [item], threads)


if [len(each) for each in (ATANH, EXPM1, SINE, COSINE)] != [12, 15, 10, 10]:
    raise ImportError("a polynomial has another length than the one that is written out here")
_AT_ONCE: Final = np.zeros(1, np.int64)


def _run(streams: Sequence[int], out: Array, dtype: str, draw: Draw, first: int) -> None:
    places = np.array([first], np.uint64)
    _write(streams, out, out.size, out.itemsize, _AT_ONCE, places, dtype, draw)


def _rows(
    streams: Sequence[int], out: Array, dtype: str, draw: Draw, places: Places, at: Coordinates
) -> None:
    offsets = np.zeros(places.size, np.int64)
    for coordinate, stride in zip(at, out.strides[:-1], strict=True):
        offsets += coordinate * stride
    _write(streams, out, out.shape[-1], out.strides[-1], offsets, places, dtype, draw)


def _write(
    streams: Sequence[int],
    out: Array,
    length: int,
    stride: int,
    offsets: Array,
    places: Places,
    dtype: str,
    draw: Draw,
) -> None:
    where = out.__array_interface__["data"][0], offsets, places, length, stride
    function, numbers = draw.distribution, draw.parameters
    if function in FLOATS:
        first, second = (*streams, 0)[:2]
        floats_kernel(*where, DTYPES[dtype], FLOATS[function], draw.seed, first, second, *numbers)
    else:
        low, count, p = (0, 0, *numbers) if function == "bernoulli" else (*numbers, 0.0)
        codes = _KINDS[dtype], WHOLE[function]
        whole_kernel(*where, *codes, draw.seed, *(*streams, 0)[:3], low, count, p)
