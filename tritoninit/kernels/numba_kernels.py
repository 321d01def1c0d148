"""The stream compiled for the CPU by numba: the reference's arithmetic in loops that LLVM vectorises.

A tile of 512 blocks passes through three stages, each a loop over arrays that stay in the L1 cache: words,
values, narrowed store. LLVM's ``fma`` is the hardware's, or the C library's ``fmaf`` where there is none: the
same bits either way, which is checked on import. No fast-math, so that nothing else is fused or reordered.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from llvmlite import ir
from numba import carray, config, njit, types
from numba.extending import intrinsic

from tritoninit.kernels import chunks, lowering, reference, stream
from tritoninit.kernels.chunks import Array, Coordinates, Drawer, Item, Places
from tritoninit.kernels.numba_compile import inline as _inline
from tritoninit.kernels.numba_compile import kernel as _kernel
from tritoninit.kernels.stream import Draw

if config.DISABLE_JIT:
    raise ImportError("NUMBA_DISABLE_JIT keeps it from compiling")

f32, i32, i64, u8 = np.float32, np.int32, np.int64, np.uint8
u16, u32, u64 = np.uint16, np.uint32, np.uint64

BLOCKS = 512  # a tile: 8 KiB of words and 8 KiB of values
CHUNK = 1 << 18  # elements a call, 0.1 ms and more

UNIFORM, NORMAL, TRUNCATED_NORMAL = range(3)
DISTRIBUTIONS = {"uniform": UNIFORM, "normal": NORMAL, "truncated_normal": TRUNCATED_NORMAL}
FLOAT32, FLOAT16, BFLOAT16 = range(3)
DTYPES = {"float32": FLOAT32, "float16": FLOAT16, "bfloat16": BFLOAT16}
FLOAT8 = len(DTYPES)  # the first of them
DTYPES |= {name: FLOAT8 + k for k, name in enumerate(stream.FLOAT8)}
_TORCH_DTYPES = {getattr(torch, name): code for name, code in DTYPES.items()}

_M0, _M1 = u64(stream.PHILOX_M0), u64(stream.PHILOX_M1)
_W0, _W1 = u32(stream.PHILOX_W0), u32(stream.PHILOX_W1)
_ROUNDS = stream.PHILOX_ROUNDS
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


@intrinsic
def pointer(context: Any, address: Any) -> Any:
    """The memory at an address, of which ``carray`` makes an array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.uint64), generate


@_inline
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Philox4x32-10 of four uint32 counter words and two uint32 key words: four uint32 words."""
    for _ in range(_ROUNDS):
        p0 = u64(c0) * _M0
        p1 = u64(c2) * _M1
        c0 = u32(p1 >> u64(32)) ^ c1 ^ k0
        c2 = u32(p0 >> u64(32)) ^ c3 ^ k1
        c1 = u32(p1)
        c3 = u32(p0)
        k0 = u32(k0 + _W0)
        k1 = u32(k1 + _W1)
    return c0, c1, c2, c3


@_inline
def words(block, key):
    """The four words of a block; ``key`` is the stream's and the seed's words, low first."""
    return philox4x32(u32(block), u32(block >> u64(32)), key[0], key[1], key[2], key[3])


@_inline
def log_polynomial(m):
    v = fma(fma(fma(_LOG[0], m, _LOG[1]), m, _LOG[2]), m, _LOG[3])
    return fma(fma(fma(fma(v, m, _LOG[4]), m, _LOG[5]), m, _LOG[6]), m, _LOG[7])


@_inline
def quantile_polynomial(t, c):
    v = fma(fma(fma(fma(c[0], t, c[1]), t, c[2]), t, c[3]), t, c[4])
    return fma(fma(fma(fma(v, t, c[5]), t, c[6]), t, c[7]), t, c[8])


@_inline
def minus_two_log(x, shift):
    """-2 ln(x / 2**k) of positive normal float32 x; ``shift`` is k * 2**23."""
    i = i32(bits(x))
    e = i32(i32(i - i32(_LOG_SPLIT + shift)) & i32(-(1 << 23)))
    m = real(u32(i32(i32(i - e) - shift))) - f32(1)
    return fma(f32(e), _LN2, fma(m, f32(-2), (m * m) * log_polynomial(m)))


@_inline
def sine(f):
    """sin(pi/2 f) of quarter turns f in [-1, 1]."""
    w = fma(-f, f, f32(1))
    p = fma(fma(fma(_SINE[0], w, _SINE[1]), w, _SINE[2]), w, _SINE[3])
    return fma(f, w * p, f)


@_inline
def box_muller(x, y):
    """Two independent standard normals from two words."""
    r = sqrt(minus_two_log(f32(x | u32(1)), i32(32 << 23)))
    f = f32(i32(u32(u32(y << u32(1)) + _SIGN))) * f32(-(2.0**-31))
    signed = real(bits(r) ^ (y & _SIGN))
    return signed * sine(f), signed * sine(f32(1) - abs(f))


@_inline
def clamp(v, floor, cap):
    v = v if v > floor else floor
    return v if v < cap else cap


@_inline
def uniform(x, low, scale, floor, cap):
    """low + u * span, u = (x >> 8) * 2**-24, kept within [floor, cap]."""
    return clamp(f32(i32(x >> u32(8))) * scale + low, floor, cap)


@_inline
def normal(z, mean, std):
    """A standard normal, scaled."""
    return z * std + mean


@_inline
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


@_inline
def half(v):
    """The float16 pattern of a float32, rounded to nearest even."""
    b = bits(v)
    a = b & u32(0x7FFFFFFF)
    # Below 2**-14 float16 is a grid of 2**-24, the grid of float32 at one half: the addition rounds to it.
    small = u32(bits(real(a) + f32(0.5)) - u32(0x3F000000))
    large = u32(u32(a + u32(0xC8000FFF)) + ((a >> u32(13)) & u32(1))) >> u32(13)
    large = large if a < u32(0x477FF000) else u32(0x7C00)
    return u16((small if a < u32(0x38800000) else large) | ((b >> u32(16)) & u32(0x8000)))


@_inline
def brain(v):
    """The bfloat16 pattern of a float32, rounded to nearest even."""
    b = bits(v)
    return u16(u32(u32(b + u32(0x7FFF)) + ((b >> u32(16)) & u32(1))) >> u32(16))


@_inline
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


@_inline
def byte_format(dtype):
    row = _BYTES[dtype - FLOAT8]
    return row[0], row[1], row[2], row[3], row[4], row[5], row[6], row[7]


@njit(nogil=True, error_model="numpy")
def draw_tile(z, x, blocks, block, key, p, distribution):
    """The values z (4, BLOCKS) of ``blocks`` blocks from ``block`` on; x is scratch for their words."""
    for j in range(blocks):
        x[0, j], x[1, j], x[2, j], x[3, j] = words(block + u64(j), key)
    transform_tile(z, x, blocks, p, distribution)


@_inline
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


@_inline
def store(value, wide, narrow, short, dtype, at):
    if dtype >= FLOAT8:
        short[at] = byte(value, byte_format(dtype))
    elif dtype == FLOAT32:
        wide[at] = value
    elif dtype == FLOAT16:
        narrow[at] = half(value)
    else:
        narrow[at] = brain(value)


# Seed, stream and eight parameters as Python's own numbers, which cost a call least; all are float32 numbers.
_NUMBERS = (types.uint64, types.uint64, *(types.float64,) * 8)
_REST = [(0.0,) * (8 - used) for used in range(9)]


@_inline
def key_words(seed, stream):
    return u32(stream), u32(stream >> u64(32)), u32(seed), u32(seed >> u64(32))


@_inline
def float32s(p0, p1, p2, p3, p4, p5, p6, p7):
    return f32(p0), f32(p1), f32(p2), f32(p3), f32(p4), f32(p5), f32(p6), f32(p7)


@_kernel(types.uint64, types.int64, types.int64, types.int64, types.uint64, *_NUMBERS)
def run_kernel(address, size, dtype, distribution, first, seed, stream, p0, p1, p2, p3, p4, p5, p6, p7):
    """``size`` elements from ``first`` on in the stream, to contiguous memory."""
    key = key_words(seed, stream)
    p = float32s(p0, p1, p2, p3, p4, p5, p6, p7)
    # The same memory; only the one of the dtype is written.
    wide, narrow = carray(pointer(address), size, np.float32), carray(pointer(address), size, np.uint16)
    short = carray(pointer(address), size, np.uint8)
    x = np.empty((4, BLOCKS), np.uint32)
    z = np.empty((4, BLOCKS), np.float32)
    block = first >> u64(2)
    at = -i64(first & u64(3))  # where the tile's first element goes: before the output, at first
    while at < size:
        draw_tile(z, x, min(BLOCKS, (size - at + 3) >> 2), block, key, p, distribution)
        if at >= 0 and at + 4 * BLOCKS <= size:
            store_tile(z, wide, narrow, short, dtype, at)
        else:
            for k in range(min(4 * BLOCKS, size - at)):
                if at + k >= 0:
                    store(z[k & 3, k >> 2], wide, narrow, short, dtype, at + k)
        at += 4 * BLOCKS
        block += u64(BLOCKS)


@njit(nogil=True, error_model="numpy")
def gather_tile(x, pieces, places, row, done, length):
    """Fill a tile with blocks that rows need: of ``row``, from element ``done`` on, and of the next ones.

    Args:
        x: (4, BLOCKS), of which the first two words become the blocks' numbers in the stream, low first.
        pieces: (BLOCKS, 4), of each part of a row the row's number, the first element, how many, and where
            that one lies in the tile.

    Returns:
        How many blocks and pieces there are, and the row and the element to go on with.
    """
    count = piece = 0
    while row < places.size and count < BLOCKS:
        place = places[row] + u64(done)
        before = i64(place & u64(3))
        taken = min((before + length - done + 3) >> 2, BLOCKS - count)
        low, high = x[0, count : count + taken], x[1, count : count + taken]
        for j in range(taken):
            block = (place >> u64(2)) + u64(j)
            low[j], high[j] = u32(block), u32(block >> u64(32))
        size = min(length - done, 4 * taken - before)
        pieces[piece, 0], pieces[piece, 1], pieces[piece, 2] = row, done, size
        pieces[piece, 3] = 4 * count + before
        count += taken
        piece += 1
        done += size
        if done == length:
            row += 1
            done = 0
    return count, piece, row, done


@_inline
def copy_piece(source, first, address, size, stride):
    """``size`` elements from ``first`` on, to memory that begins at an address and has a stride in bytes."""
    if stride == source.itemsize:
        out = carray(pointer(address), size, source.dtype)
        for k in range(size):
            out[k] = source[first + k]
    else:
        for k in range(size):
            carray(pointer(address + u64(k * stride)), 1, source.dtype)[0] = source[first + k]


@_kernel(types.uint64, types.int64[::1], types.uint64[::1], *(types.int64,) * 4, *_NUMBERS)
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


def _numbers(draw: Draw) -> tuple[Any, ...]:
    return draw.seed, draw.stream, *draw.parameters, *_REST[len(draw.parameters)]


def run(out: Array, dtype: str, draw: Draw, first: int) -> None:
    """Write the elements ``first``, ``first + 1``, ... of the stream into a contiguous 1-d array."""
    address = out.__array_interface__["data"][0]
    run_kernel(address, out.size, DTYPES[dtype], DISTRIBUTIONS[draw.distribution], first, *_numbers(draw))


def rows(out: Array, dtype: str, draw: Draw, places: Places, at: Coordinates) -> None:
    """Write into each row ``out[at]``, along the last dimension, the elements from its place on."""
    offsets = np.zeros(places.size, np.int64)
    for coordinate, stride in zip(at, out.strides[:-1], strict=True):
        offsets += coordinate * stride
    address = out.__array_interface__["data"][0]
    codes = DTYPES[dtype], DISTRIBUTIONS[draw.distribution]
    rows_kernel(address, offsets, places, out.shape[-1], out.strides[-1], *codes, *_numbers(draw))


DRAWER = Drawer(reference.constant, run, rows, CHUNK)


def fill_many(items: Sequence[Item], threads: int = 1) -> None:
    """Write draws into arrays of any layout; as ``reference.fill_many``, the same bits."""
    chunks.fill(DRAWER, items, threads)


def fill_short(target: torch.Tensor, draw: Draw) -> bool:
    """Write ``draw`` into a CPU tensor if one call does it: contiguous, in the stream's order, and not large.

    To make an array of a few elements, and chunks of the array, takes longer than to draw them.

    Returns:
        Whether it was written.
    """
    size = target.numel()
    if size > CHUNK // 4 or not target.is_contiguous() or target.stride() != draw.strides:
        return False
    code = DISTRIBUTIONS.get(draw.distribution)
    if code is None:
        with torch._C.DisableTorchFunction():  # what a TorchFunctionMode watches are its user's calls
            target.detach().fill_(*draw.parameters)
    else:
        dtype, (_, p, seed, stream, first, _) = _TORCH_DTYPES[target.dtype], draw
        run_kernel(target.data_ptr(), size, dtype, code, first, seed, stream, *p, *_REST[len(p)])
    return True


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
