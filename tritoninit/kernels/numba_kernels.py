"""The stream compiled for the CPU by numba: the reference's arithmetic in loops that LLVM vectorises.

A tile of 512 blocks passes through three stages, each a loop over arrays that stay in the L1 cache: words,
values, narrowed store. Uniform float32 numbers are stored by the loop that computes them: they cost less than
to keep and to fetch them. LLVM's ``fma`` is the hardware's, or the C library's ``fmaf`` where there is none:
the same bits either way, which is checked on import. No fast-math: nothing else is fused or reordered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, lru_cache, partial
from itertools import chain, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from llvmlite import ir
from numba import carray, config, njit, types
from numba.extending import intrinsic

from tritoninit.kernels import chunks, lowering, reference, stream
from tritoninit.kernels.chunks import Array, Coordinates, Drawer, Item, Places
from tritoninit.kernels.numba_words import (
    BLOCKS,
    DISTRIBUTIONS,
    NORMAL,
    NUMBERS,
    UNIFORM,
    copy_piece,
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

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT keeps it from compiling")

f32, i32, i64, u8 = np.float32, np.int32, np.int64, np.uint8
u16, u32, u64 = np.uint16, np.uint32, np.uint64

CHUNK = 1 << 18  # elements a call, 0.1 ms and more
CHUNK_BYTES = 1 << 24  # of a constant: memory is slower where threads take turns in it
# Uniforms, normals and truncated normals, of float32 and less and of float64, that a thread draws in 40 to 60
# microseconds. As long another takes to wake and to come back: 12 are the way from core to core, and all is
# twice as much where that one has slept. Of twice as many, two threads are a tenth sooner than one.
WAKE = ((9 << 13, 3 << 14, 5 << 13), (5 << 13, 5 << 12, 1 << 12))
_SOON = [2 * elements for elements in WAKE[0]]
WAKE_BYTES = 5 << 18  # of a constant, likewise

CONSTANT = len(DISTRIBUTIONS)  # of a table's rows alone
FLOAT32, FLOAT16, BFLOAT16 = range(3)
DTYPES = {"float32": FLOAT32, "float16": FLOAT16, "bfloat16": BFLOAT16}
FLOAT8 = len(DTYPES)  # the first of them
DTYPES |= {name: FLOAT8 + k for k, name in enumerate(stream.FLOAT8)}
_MEMORY = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}
_MEMORY |= dict.fromkeys(stream.FLOAT8, np.uint8)
_NAMES = {getattr(torch, name): name for name in (*DTYPES, "float64")}

_LOG = tuple(f32(c) for c in stream.LOG)
_LOG_SPLIT = i32(stream.LOG_SPLIT)
_LN2 = f32(stream.MINUS_TWO_LN2 / 2**23)
_SINE = tuple(f32(c) for c in stream.SINE)
_CENTRE = tuple(f32(c) for c in stream.QUANTILE_CENTRE)
_CENTRE_SHIFT = f32(stream.QUANTILE_CENTRE_SHIFT)
_TAIL = tuple(f32(c) for c in stream.QUANTILE_TAIL)
_TAIL_SHIFT = f32(stream.QUANTILE_TAIL_SHIFT)
_SPLIT = f32(stream.QUANTILE_SPLIT)
_SIGN = u32(1 << 31)
# A row for each format of 8 bits: what ``byte`` takes.
_BYTES = np.array(
    [
        (f.dropped, f.rebias, f.smallest_normal, f.grid, f.largest, f.beyond, f.nan, f.one_zero)
        for f in stream.FLOAT8.values()
    ],
    np.int32,
)
# Of each dtype but float32, which has none: the grid's bits that are dropped, its smallest normal number, its
# step, and what ``stochastic`` makes of the step.
_GRIDS = [(0, 0, 0.0, 0.0, 0.0)] + [
    (g.dropped, g.smallest_normal, g.step, g.step * 2.0**23, g.step * 2.0**-24)
    for g in (stream.GRIDS[name] for name in list(DTYPES)[1:])
]
_GRID_BITS = np.array([each[:2] for each in _GRIDS], np.uint32)
_GRID_STEPS = np.array([each[2:] for each in _GRIDS], np.float32)
_ROUNDING_HIGH_WORD = u32(stream.ROUNDING >> 32)
# The polynomials below are written out.
if (len(_LOG), len(_SINE), len(_CENTRE), len(_TAIL)) != (8, 4, 9, 9):
    raise ImportError("a polynomial of the stream has another length than the one that is written out here")


@intrinsic
def fma(context: Any, a: Any, b: Any, c: Any) -> Any:
    """float32 ``a * b + c``, rounded once."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.fma(*arguments)

    return types.float32(types.float32, types.float32, types.float32), generate


@intrinsic
def sqrt(context: Any, x: Any) -> Any:
    """Correctly rounded float32 square root."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.call(builder.module.declare_intrinsic("llvm.sqrt", [ir.FloatType()]), arguments)

    return types.float32(types.float32), generate


@intrinsic
def bits(context: Any, x: Any) -> Any:
    """The 32 bits of a float32."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.IntType(32))

    return types.uint32(types.float32), generate


@intrinsic
def real(context: Any, x: Any) -> Any:
    """The float32 of 32 bits."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], ir.FloatType())

    return types.float32(types.uint32), generate


@inlined
def log_polynomial(m):
    v = fma(fma(fma(_LOG[0], m, _LOG[1]), m, _LOG[2]), m, _LOG[3])
    return fma(fma(fma(fma(v, m, _LOG[4]), m, _LOG[5]), m, _LOG[6]), m, _LOG[7])


@inlined
def quantile_polynomial(t, c):
    v = fma(fma(fma(fma(c[0], t, c[1]), t, c[2]), t, c[3]), t, c[4])
    return fma(fma(fma(fma(v, t, c[5]), t, c[6]), t, c[7]), t, c[8])


@inlined
def minus_two_log(x, shift):
    """-2 ln(x / 2**k) of positive normal float32 x; ``shift`` is k * 2**23."""
    i = i32(bits(x))
    e = i32(i32(i - i32(_LOG_SPLIT + shift)) & i32(-(1 << 23)))
    m = real(u32(i32(i32(i - e) - shift))) - f32(1)
    return fma(f32(e), _LN2, fma(m, f32(-2), (m * m) * log_polynomial(m)))


@inlined
def sine(f):
    """sin(pi/2 f) of quarter turns f in [-1, 1]."""
    w = fma(-f, f, f32(1))
    p = fma(fma(fma(_SINE[0], w, _SINE[1]), w, _SINE[2]), w, _SINE[3])
    return fma(f, w * p, f)


@inlined
def box_muller(x, y):
    """Two independent standard normals from two words."""
    r = sqrt(minus_two_log(f32(x | u32(1)), i32(32 << 23)))
    f = f32(i32(u32(u32(y << u32(1)) + _SIGN))) * f32(-(2.0**-31))
    signed = real(bits(r) ^ (y & _SIGN))
    return signed * sine(f), signed * sine(f32(1) - abs(f))


@inlined
def clamp(v, floor, cap):
    v = v if v > floor else floor
    return v if v < cap else cap


@inlined
def uniform(x, low, scale, floor, cap):
    """low + u * span, u = (x >> 8) * 2**-24, kept within [floor, cap]."""
    return clamp(f32(i32(x >> u32(8))) * scale + low, floor, cap)


@inlined
def normal(z, mean, std):
    """A standard normal, scaled."""
    return z * std + mean


@inlined
def truncated_normal(x, mean, std, below, above, difference, mass, floor, cap):
    """The quantile of x, kept within [floor, cap]."""
    left = f32(x | u32(1)) * mass + below
    right = f32(u32(~x) | u32(1)) * mass + above
    big = minus_two_log(left * right, i32(-(2 << 23)))
    centre = quantile_polynomial(big - _CENTRE_SHIFT, _CENTRE)
    tail = quantile_polynomial(sqrt(big if big > _SPLIT else _SPLIT) - _TAIL_SHIFT, _TAIL)
    signed = f32(i32((x | u32(1)) ^ _SIGN))
    z = (signed * (f32(2) * mass) + difference) * (centre if big < _SPLIT else tail)
    return clamp(z * std + mean, floor, cap)


@inlined
def half(v):
    """The float16 pattern of a float32, rounded to nearest even."""
    b = bits(v)
    a = b & u32(0x7FFFFFFF)
    # Below 2**-14 float16 is a grid of 2**-24, the grid of float32 at one half: the addition rounds to it.
    small = u32(bits(real(a) + f32(0.5)) - u32(0x3F000000))
    large = u32(u32(a + u32(0xC8000FFF)) + ((a >> u32(13)) & u32(1))) >> u32(13)
    large = large if a < u32(0x477FF000) else u32(0x7C00)
    return u16((small if a < u32(0x38800000) else large) | ((b >> u32(16)) & u32(0x8000)))


@inlined
def brain(v):
    """The bfloat16 pattern of a float32, rounded to nearest even."""
    b = bits(v)
    return u16(u32(u32(b + u32(0x7FFF)) + ((b >> u32(16)) & u32(1))) >> u32(16))


@inlined
def byte(v, form):
    """The pattern of a float32 in a format of 8 bits, as PyTorch casts it."""
    b = i32(bits(v))
    a = i32(b & i32(0x7FFFFFFF))
    small = i32(i32(bits(real(u32(a)) + real(u32(form[3])))) - form[3])
    odd = i32((a >> form[0]) & i32(1))
    half = i32((i32(1) << i32(form[0] - i32(1))) - i32(1))
    large = i32(i32(i32(i32(a - form[1]) + half) + odd) >> form[0])
    pattern = small if a < form[2] else large
    pattern = form[5] if pattern > form[4] else pattern
    pattern = form[6] if a > i32(0x7F800000) else pattern
    sign = i32((b >> i32(24)) & i32(0x80))
    sign = i32(0) if form[7] != 0 and pattern == 0 else sign
    return u8(pattern | sign)


@inlined
def byte_format(dtype):
    row = _BYTES[dtype - FLOAT8]
    return row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7]


@njit(nogil=True, error_model="numpy")
def draw_tile(z, x, blocks, block, key, p, distribution):
    """The values z (4, BLOCKS) of ``blocks`` blocks from ``block`` on; x is scratch for their words."""
    for j in range(blocks):
        x[0, j], x[1, j], x[2, j], x[3, j] = words(block + u64(j), key)
    transform_tile(z, x, blocks, p, distribution)


@inlined
def transform_tile(z, x, blocks, p, distribution):
    """The values z of the words x of ``blocks`` blocks."""
    if distribution == UNIFORM:
        for lane in range(4):
            for j in range(blocks):
                z[lane, j] = uniform(x[lane, j], p[0], p[1], p[2], p[3])
    elif distribution == NORMAL:
        for lane in range(0, 4, 2):
            # Views of their own: with z[lane, j] and z[lane + 1, j] LLVM does not prove that they differ.
            first, second, u, v = x[lane], x[lane + 1], z[lane], z[lane + 1]
            for j in range(blocks):
                z0, z1 = box_muller(first[j], second[j])
                u[j] = normal(z0, p[0], p[1])
                v[j] = normal(z1, p[0], p[1])
    else:
        for lane in range(4):
            for j in range(blocks):
                z[lane, j] = truncated_normal(x[lane, j], p[0], p[1], p[2], p[3], p[4], p[5], p[6], p[7])


@njit(nogil=True, error_model="numpy")
def store_tile(z, wide, narrow, short, dtype, at):
    """All of z, interleaved and rounded to the dtype, to the elements from ``at`` on."""
    if dtype >= FLOAT8:
        octets, form = short[at : at + 4 * BLOCKS], byte_format(dtype)
        for j in range(BLOCKS):
            for lane in range(4):
                octets[4 * j + lane] = byte(z[lane, j], form)
        return
    if dtype == FLOAT32:
        out = wide[at : at + 4 * BLOCKS]
        for j in range(BLOCKS):
            for lane in range(4):
                out[4 * j + lane] = z[lane, j]
        return
    patterns = narrow[at : at + 4 * BLOCKS]
    if dtype == FLOAT16:
        for j in range(BLOCKS):
            for lane in range(4):
                patterns[4 * j + lane] = half(z[lane, j])
    else:
        for j in range(BLOCKS):
            for lane in range(4):
                patterns[4 * j + lane] = brain(z[lane, j])


@njit(nogil=True, error_model="numpy")
def uniform_tile(x, block, key, p, wide, at):
    """The uniform numbers of a whole tile from ``block`` on, to the elements from ``at`` on; x is scratch."""
    for j in range(BLOCKS):
        x[0, j], x[1, j], x[2, j], x[3, j] = words(block + u64(j), key)
    out = wide[at : at + 4 * BLOCKS]
    for j in range(BLOCKS):
        for lane in range(4):
            out[4 * j + lane] = uniform(x[lane, j], p[0], p[1], p[2], p[3])


@inlined
def store(value, wide, narrow, short, dtype, at):
    if dtype >= FLOAT8:
        short[at] = byte(value, byte_format(dtype))
    elif dtype == FLOAT32:
        wide[at] = value
    elif dtype == FLOAT16:
        narrow[at] = half(value)
    else:
        narrow[at] = brain(value)


_REST = [(0.0,) * (8 - used) for used in range(9)]


@inlined
def float32s(p0, p1, p2, p3, p4, p5, p6, p7):
    return f32(p0), f32(p1), f32(p2), f32(p3), f32(p4), f32(p5), f32(p6), f32(p7)


@inlined  # where it is called, it is seen that the tile's arrays are apart
def write_run(address, size, dtype, distribution, first, key, p, x, z):
    """``size`` elements from ``first`` on in the stream, to contiguous memory, by way of a tile."""
    # The same memory; only the one of the dtype is written.
    wide, narrow = carray(pointer(address), size, np.float32), carray(pointer(address), size, np.uint16)
    short = carray(pointer(address), size, np.uint8)
    block = first >> u64(2)
    at = -i64(first & u64(3))  # where the tile's first element goes: before the output, at first
    while at < size:
        whole = at >= 0 and at + 4 * BLOCKS <= size
        if whole and distribution == UNIFORM and dtype == FLOAT32:
            uniform_tile(x, block, key, p, wide, at)
        else:
            draw_tile(z, x, min(BLOCKS, (size - at + 3) >> 2), block, key, p, distribution)
            if whole:
                store_tile(z, wide, narrow, short, dtype, at)
            else:
                for k in range(min(4 * BLOCKS, size - at)):
                    if at + k >= 0:
                        store(z[k & 3, k >> 2], wide, narrow, short, dtype, at + k)
        at += 4 * BLOCKS
        block += u64(BLOCKS)


@kernel(types.uint64, types.int64, types.int64, types.int64, types.uint64, *NUMBERS)
def run_kernel(address, size, dtype, distribution, first, seed, stream, p0, p1, p2, p3, p4, p5, p6, p7):
    """``size`` elements from ``first`` on in the stream, to contiguous memory."""
    p = float32s(p0, p1, p2, p3, p4, p5, p6, p7)
    x = np.empty((4, BLOCKS), np.uint32)
    z = np.empty((4, BLOCKS), np.float32)
    write_run(address, size, dtype, distribution, first, key_words(seed, stream), p, x, z)


call_run = entry(run_kernel)


@kernel(types.uint64, types.int64[::1], types.uint64[::1], *(types.int64,) * 4, *NUMBERS)
def rows_kernel(
    address,
    offsets,
    places,
    length,
    stride,
    dtype,
    distribution,
    seed,
    stream,
    p0,
    p1,
    p2,
    p3,
    p4,
    p5,
    p6,
    p7,
):
    """``length`` elements from each of the places on in the stream, to memory of a stride in bytes.

    A row begins ``offsets`` bytes behind the address. Tiles hold the blocks of one row after another, and of
    those only what the rows need.
    """
    key = key_words(seed, stream)
    p = float32s(p0, p1, p2, p3, p4, p5, p6, p7)
    x = np.empty((4, BLOCKS), np.uint32)
    z = np.empty((4, BLOCKS), np.float32)
    wide, narrow = np.empty(4 * BLOCKS, np.float32), np.empty(4 * BLOCKS, np.uint16)
    short = np.empty(4 * BLOCKS, np.uint8)
    pieces = np.empty((BLOCKS, 4), np.int64)
    row = done = 0
    while row < places.size:
        count, number, row, done = gather_tile(x, pieces, places, row, done, length)
        a, b, c, d = x[0], x[1], x[2], x[3]
        for j in range(count):
            a[j], b[j], c[j], d[j] = philox4x32(a[j], b[j], key[0], key[1], key[2], key[3])
        transform_tile(z, x, count, p, distribution)
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
def carried(v, word, dropped):
    """As ``stochastic``, of what is no less than the smallest normal number."""
    moved = u32(bits(v) + u32(word >> u32(u32(32) - dropped)))
    return real(moved & u32(~u32(u32(u32(1) << dropped) - u32(1))))


@inlined
def stochastic(v, word, dropped, smallest_normal, step, about, unit):
    """The number of a format above or below v, as a float32: v in the mean over the words."""
    b = bits(v)
    a = b & u32(0x7FFFFFFF)
    size = real(a)
    low = (size + about) - about
    low = low - step if low > size else low
    share = f32(i32(u32(~word) >> u32(8))) * unit
    small = bits(low + (step if share < size - low else f32(0))) | (b & _SIGN)
    return real(small) if a < smallest_normal else carried(v, word, dropped)


@njit(nogil=True, error_model="numpy")
def round_tile(z, x, blocks, dtype):
    """Move the values z of ``blocks`` blocks to numbers that the dtype has, by the words x."""
    dropped, smallest_normal = _GRID_BITS[dtype, 0], _GRID_BITS[dtype, 1]
    step, about, unit = _GRID_STEPS[dtype, 0], _GRID_STEPS[dtype, 1], _GRID_STEPS[dtype, 2]
    if smallest_normal == 0:
        for lane in range(4):
            for j in range(blocks):
                z[lane, j] = carried(z[lane, j], x[lane, j], dropped)
        return
    for lane in range(4):
        for j in range(blocks):
            z[lane, j] = stochastic(z[lane, j], x[lane, j], dropped, smallest_normal, step, about, unit)


def _stochastic_rows(
    address,
    offsets,
    places,
    length,
    stride,
    dtype,
    distribution,
    seed,
    stream,
    p0,
    p1,
    p2,
    p3,
    p4,
    p5,
    p6,
    p7,
):
    """As ``rows_kernel``, of elements that are rounded stochastically."""
    key = key_words(seed, stream)
    p = float32s(p0, p1, p2, p3, p4, p5, p6, p7)
    x, y = np.empty((4, BLOCKS), np.uint32), np.empty((4, BLOCKS), np.uint32)
    z = np.empty((4, BLOCKS), np.float32)
    wide, narrow = np.empty(4 * BLOCKS, np.float32), np.empty(4 * BLOCKS, np.uint16)
    short = np.empty(4 * BLOCKS, np.uint8)
    pieces = np.empty((BLOCKS, 4), np.int64)
    row = done = 0
    while row < places.size:
        count, number, row, done = gather_tile(x, pieces, places, row, done, length)
        a, b, c, d, e, f, g, h = x[0], x[1], x[2], x[3], y[0], y[1], y[2], y[3]
        for j in range(count):
            high = b[j] | _ROUNDING_HIGH_WORD
            e[j], f[j], g[j], h[j] = philox4x32(a[j], high, key[0], key[1], key[2], key[3])
        for j in range(count):
            a[j], b[j], c[j], d[j] = philox4x32(a[j], b[j], key[0], key[1], key[2], key[3])
        transform_tile(z, x, count, p, distribution)
        round_tile(z, y, count, dtype)
        store_tile(z, wide, narrow, short, dtype, 0)
        for k in range(number):
            first = address + u64(offsets[pieces[k, 0]] + pieces[k, 1] * stride)
            if dtype >= FLOAT8:
                copy_piece(short, pieces[k, 3], first, pieces[k, 2], stride)
            else:
                copy_piece(narrow, pieces[k, 3], first, pieces[k, 2], stride)


@cache
def _stochastic_kernel() -> Any:
    """Compiled, or loaded, where something first asks for it."""
    arrays = types.uint64, types.int64[::1], types.uint64[::1]
    return kernel(*arrays, *(types.int64,) * 4, *NUMBERS)(_stochastic_rows)


@cache
def _doubles() -> Any:
    """The kernels of float64, compiled where something first asks for them."""
    from tritoninit.kernels import numba_doubles

    return numba_doubles


def _numbers(draw: Draw) -> tuple[Any, ...]:
    return draw.seed, draw.stream, *draw.parameters, *_REST[len(draw.parameters)]


def run(out: Array, dtype: str, draw: Draw, first: int) -> None:
    """Write the elements ``first``, ``first + 1``, ... of the stream into a contiguous 1-d array."""
    address = out.__array_interface__["data"][0]
    distribution = DISTRIBUTIONS[draw.distribution]
    if draw.stochastic:
        rows(out[None], dtype, draw, np.array([first], np.uint64), (np.zeros(1, np.intp),))
        return
    if dtype == "float64":
        _doubles().call_run(address, out.size, distribution, first, *_numbers(draw))
        return
    call_run(address, out.size, DTYPES[dtype], distribution, first, *_numbers(draw))


def rows(out: Array, dtype: str, draw: Draw, places: Places, at: Coordinates) -> None:
    """Write into each row ``out[at]``, along the last dimension, the elements from its place on."""
    offsets = np.zeros(places.size, np.int64)
    for coordinate, stride in zip(at, out.strides[:-1], strict=True):
        offsets += coordinate * stride
    address = out.__array_interface__["data"][0]
    if dtype == "float64":
        numbers = DISTRIBUTIONS[draw.distribution], *_numbers(draw)
        _doubles().rows_kernel(address, offsets, places, out.shape[-1], out.strides[-1], *numbers)
        return
    codes = DTYPES[dtype], DISTRIBUTIONS[draw.distribution]
    write = _stochastic_kernel() if draw.stochastic else rows_kernel
    write(address, offsets, places, out.shape[-1], out.strides[-1], *codes, *_numbers(draw))


def fill_many(items: Sequence[Item], threads: int = 1) -> None:
    """Write draws into arrays of any layout; as ``reference.fill_many``, the same bits."""
    chunks.fill(DRAWER, items, threads)


def fill_contiguous(target: torch.Tensor, draw: Draw) -> bool:
    """Write ``draw`` into a CPU tensor if it is contiguous and in the stream's order.

    To make an array of a few elements, and chunks of the array, takes longer than to draw them.

    Returns:
        Whether it was written.
    """
    distribution, parameters, seed, stream, first, strides, stochastic = draw
    if stochastic or target.stride() != strides or not target.is_contiguous():
        return False
    fill_run(target, _NAMES[target.dtype], distribution, parameters, seed, stream, first)
    return True


def fill_run(
    target: torch.Tensor,
    dtype: str,
    distribution: str,
    parameters: tuple[float, ...],
    seed: int,
    stream: int,
    first: int = 0,
) -> None:
    """:func:`fill_contiguous` of a contiguous tensor, from the element ``first`` of the stream on."""
    size, code, number = target.numel(), DISTRIBUTIONS.get(distribution), DTYPES.get(dtype)
    if code is None:
        _set_constant(target, size, _pattern_of(dtype, parameters))
        return
    begin, rest = target.data_ptr(), _REST[len(parameters)]
    if number is not None and size < _SOON[code]:  # of most there is no more to ask
        call_run(begin, size, number, code, first, seed, stream, *parameters, *rest)
        return
    write, codes = (_doubles().call_run, (code,)) if number is None else (call_run, (number, code))
    numbers, wake = (seed, stream, *parameters, *rest), WAKE[number is None][code]
    threads = min(torch.get_num_threads(), size // wake) if size >= 2 * wake else 1
    if threads == 1 and size <= CHUNK:
        write(begin, size, *codes, first, *numbers)
    else:
        ends = _ends(size, threads, wake)
        chunks.share(_parts(write, begin, target.itemsize, codes, first, numbers, ends), threads)


def _ends(size: int, threads: int, wake: int, most: int = CHUNK) -> Iterable[int]:
    """Where the parts of a run end, each of whole tiles but the last.

    The first is the caller's, who draws ``wake`` elements before others have begun, so that all end together.
    """
    if threads == 1 or size > 4 * most:  # of which nobody waits long for the last
        return chain(range(most, size, most), (size,))
    share = max((size - wake) // threads // (4 * BLOCKS), 1) * 4 * BLOCKS
    return [size - share * others for others in reversed(range(threads))]


def _parts(
    write: Callable[..., None],
    begin: int,
    itemsize: int,
    codes: tuple[int, ...],
    first: int,
    numbers: tuple[float, ...],
    ends: Iterable[int],
) -> Iterator[Callable[[], None]]:
    """What writes a run, in parts."""
    at = 0
    for end in ends:
        yield partial(write, begin + at * itemsize, end - at, *codes, first + at, *numbers)
        at = end


def _set_constant(target: torch.Tensor, size: int, pattern: int) -> None:
    write, begin, itemsize = _call_constant(), target.data_ptr(), target.itemsize
    wake, most = WAKE_BYTES // itemsize, CHUNK_BYTES // itemsize
    threads = 1 if size < 2 * wake else min(torch.get_num_threads(), size // wake)
    if threads == 1 and size <= most:
        write(begin, size, itemsize, 0, pattern)
    else:
        ends = _ends(size, threads, wake, most)
        chunks.share(_parts(write, begin, itemsize, (itemsize,), 0, (pattern,), ends), threads)


@inlined
def write_constant(address, size, itemsize, pattern):
    if itemsize == 4:
        carray(pointer(address), size, np.uint32)[:] = u32(pattern)
    elif itemsize == 2:
        carray(pointer(address), size, np.uint16)[:] = u16(pattern)
    elif itemsize == 1:
        carray(pointer(address), size, np.uint8)[:] = u8(pattern)
    else:
        carray(pointer(address), size, np.uint64)[:] = pattern


def _constant(address, size, itemsize, first, pattern):
    """``size`` elements that are one pattern, to contiguous memory."""
    write_constant(address, size, itemsize, pattern)


@cache
def _call_constant() -> Any:
    """Compiled, or loaded, where something first is set to a constant."""
    return entry(kernel(types.uint64, types.int64, types.int64, types.uint64, types.uint64)(_constant))


@lru_cache(maxsize=1024)
def _pattern(value: float, sign: float, dtype: str) -> int:
    """The bits of a constant in a dtype; the sign tells zeros apart, which are equal."""
    one = np.empty(1, _MEMORY[dtype])
    reference.constant(one, dtype, Draw("constant", (value,), 0, 0, 0, (1,)))
    return int(one.view(f"u{one.itemsize}")[0])


def _pattern_of(dtype: str, parameters: Sequence[float]) -> int:
    (value,) = parameters
    return _pattern(value, math.copysign(1.0, value), dtype)


def constant(out: Array, dtype: str, draw: Draw) -> None:
    """Set an array of any layout to the draw's one parameter."""
    if not out.flags.c_contiguous:
        reference.constant(out, dtype, draw)
        return
    address = out.__array_interface__["data"][0]
    _call_constant()(address, out.size, out.itemsize, 0, _pattern_of(dtype, draw.parameters))


DRAWER = Drawer(constant, run, rows, CHUNK)


# What a table says of each row: where it begins in memory, how many elements, where they begin in the stream
# (of a constant the bits of one), the stream, which of the seeds, the dtype and the distribution.
_COLUMNS = 7


def _table(numbers, parameters, seeds, pieces, begin, end):
    """Pieces ``begin`` to ``end`` of many runs: (row, the first element of it, how many).

    Args:
        numbers: (rows, _COLUMNS) of 64 bits.
        parameters: (rows, 8).
        seeds: of which each row names one.
    """
    x = np.empty((4, BLOCKS), np.uint32)
    z = np.empty((4, BLOCKS), np.float32)
    for piece in range(begin, end):
        row, first, size = pieces[piece, 0], pieces[piece, 1], pieces[piece, 2]
        address, start, stream = numbers[row, 0], numbers[row, 2], numbers[row, 3]
        dtype, distribution = i64(numbers[row, 5]), i64(numbers[row, 6])
        itemsize = u64(4 if dtype == FLOAT32 else 1 if dtype >= FLOAT8 else 2)
        at = address + u64(first) * itemsize
        q = parameters[row]
        if distribution == CONSTANT:
            write_constant(at, size, itemsize, start)
        else:
            key = key_words(seeds[numbers[row, 4]], stream)
            p = (q[0], q[1], q[2], q[3], q[4], q[5], q[6], q[7])
            write_run(at, size, dtype, distribution, start + u64(first), key, p, x, z)


@cache
def _table_kernel() -> Any:
    """Compiled, or loaded, where something is kept: not on import, which has to be quick."""
    numbers, pieces = types.uint64[:, ::1], types.int64[:, ::1]
    return kernel(numbers, types.float32[:, ::1], types.uint64[::1], pieces, types.int64, types.int64)(_table)


class Table:
    """Runs in CPU memory, written again and again by other seeds.

    Args:
        items: as of :func:`fill_many`, contiguous, in the stream's order; each the first of ``count``.
        strides: bytes from one of those to the next.
        count: of each; the k-th by the k-th seed.
    """

    def __init__(self, items: Sequence[Item], strides: Sequence[int], count: int) -> None:
        first = np.zeros((len(items), _COLUMNS), np.uint64)
        parameters = np.zeros((len(items), 8), np.float32)
        for row, (array, dtype, draw) in enumerate(items):
            code = CONSTANT if draw.distribution == "constant" else DISTRIBUTIONS[draw.distribution]
            address = array.__array_interface__["data"][0]
            start = _pattern_of(dtype, draw.parameters) if code == CONSTANT else draw.start
            first[row] = address, array.size, start, draw.stream, 0, DTYPES[dtype], code
            parameters[row, : len(draw.parameters)] = draw.parameters
        self._numbers = np.repeat(first, count, axis=0)
        which = np.tile(np.arange(count, dtype=np.uint64), len(items))
        self._numbers[:, 0] += which * np.repeat(np.array(strides, np.uint64), count)
        self._numbers[:, 4] = which
        self._parameters = np.repeat(parameters, count, axis=0)
        self._pieces = _cut(self._numbers[:, 1].view(np.int64))
        # As many pieces a call as have the elements of a chunk; each costs as much as some elements.
        cost = np.cumsum(self._pieces[:, 2] + 256)
        total = cost[-1] if len(cost) else 0
        edges = np.searchsorted(cost, np.arange(CHUNK, total, CHUNK))
        self._bounds = np.unique([0, *edges, len(cost)]).tolist()
        self._write = _table_kernel()

    def write(self, seeds: npt.NDArray[np.uint64], threads: int) -> None:
        """Write all rows by these seeds."""
        fixed = self._numbers, self._parameters, seeds, self._pieces
        chunks.share((partial(self._write, *fixed, *ends) for ends in pairwise(self._bounds)), threads)


def _cut(sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(row, first element, how many) of the pieces of rows of these sizes, none larger than a chunk."""
    counts = -(-sizes // CHUNK)
    row = np.repeat(np.arange(len(sizes)), counts)
    first = (np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)) * CHUNK
    return np.stack([row, first, np.minimum(sizes[row] - first, CHUNK)], axis=1)


def is_run(target: torch.Tensor, draw: Draw) -> bool:
    """Whether a CPU tensor lies as a :class:`Table` takes it, and is not drawn by other kernels.

    As float64 is, and what is rounded stochastically.
    """
    ours = _NAMES.get(target.dtype) in DTYPES and not draw.stochastic
    return ours and target.is_contiguous() and target.stride() == draw.strides


def _require_the_bits() -> None:
    """A tile of normals, and one of those above 2.9, against the reference's.

    A third of the latter comes of the quantile's polynomial for tails, the others of that for the centre.

    A ``fmaf`` that rounds the product too changes one value in seven. One that rounds the float64 sum does as
    the reference does, and changes none in all of the stream's domain.

    Raises:
        ImportError: they differ; the registry then passes numba over.
    """
    above = lowering.truncated_normal(0.0, 1.0, 2.9, math.inf, "float32")
    for draw in (
        Draw("normal", (0.0, 1.0), 0, 0, 0, (1,)),
        Draw("truncated_normal", above, 0, 0, 0, (1,)),
    ):
        found, expected = np.empty((2, 4 * BLOCKS), np.float32)
        run(found, "float32", draw, 0)
        reference.run(expected, "float32", draw, 0)
        if np.array_equal(found.view(np.uint32), expected.view(np.uint32)):
            continue
        raise ImportError("its values differ from the reference's: this platform's fmaf does not round once")


_require_the_bits()
