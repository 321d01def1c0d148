"""The stream in Triton: device helpers on values, thin kernels, and their launchers.

Helpers take loaded values, never pointers. A float32 multiply and add are fused only where ``tl.fma`` is
written: kernels compile with ``enable_fp_fusion=False``.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import chain
from operator import or_
from types import FunctionType
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
import triton
import triton.language as tl

from tritoninit.kernels import stream, triton_launch
from tritoninit.kernels import triton_doubles as wide
from tritoninit.kernels.rows import DIMS as MAX_DIMS
from tritoninit.kernels.rows import Grouping, goes_by_rows, grouping
from tritoninit.kernels.stream import Alike, Draw, TruncatedNormalNumbers

_M0 = tl.constexpr(stream.PHILOX_M0)
_M1 = tl.constexpr(stream.PHILOX_M1)
_W0 = tl.constexpr(stream.PHILOX_W0)
_W1 = tl.constexpr(stream.PHILOX_W1)
_ROUNDS = tl.constexpr(stream.PHILOX_ROUNDS)
_LOG = tl.constexpr(stream.LOG)
_LOG_TERMS = tl.constexpr(len(stream.LOG))
_LOG_SPLIT = tl.constexpr(stream.LOG_SPLIT)
_LN2 = tl.constexpr(stream.MINUS_TWO_LN2 / 2**23)
_SINE = tl.constexpr(stream.SINE)
_SINE_TERMS = tl.constexpr(len(stream.SINE))
_CENTRE = tl.constexpr(stream.QUANTILE_CENTRE)
_CENTRE_TERMS = tl.constexpr(len(stream.QUANTILE_CENTRE))
_CENTRE_SHIFT = tl.constexpr(stream.QUANTILE_CENTRE_SHIFT)
_TAIL = tl.constexpr(stream.QUANTILE_TAIL)
_TAIL_TERMS = tl.constexpr(len(stream.QUANTILE_TAIL))
_TAIL_SHIFT = tl.constexpr(stream.QUANTILE_TAIL_SHIFT)
_SPLIT = tl.constexpr(stream.QUANTILE_SPLIT)
_MINUS_2_TO_MINUS_31 = tl.constexpr(-(2.0**-31))
# Of each format of 8 bits, and of each that is rounded stochastically.
_FORMS = stream.FLOAT8.values()
_DROPPED = tl.constexpr(tuple(form.dropped for form in _FORMS))
_REBIAS = tl.constexpr(tuple(form.rebias for form in _FORMS))
_SMALLEST_NORMAL = tl.constexpr(tuple(form.smallest_normal for form in _FORMS))
_GRID = tl.constexpr(tuple(form.grid for form in _FORMS))
_LARGEST = tl.constexpr(tuple(form.largest for form in _FORMS))
_BEYOND = tl.constexpr(tuple(form.beyond for form in _FORMS))
_NAN = tl.constexpr(tuple(form.nan for form in _FORMS))
_ONE_ZERO = tl.constexpr(tuple(form.one_zero for form in _FORMS))
_ROUNDING = tl.constexpr(stream.ROUNDING >> 32)  # in the high word of a block's number
_GRID_DROPPED = tl.constexpr(tuple(grid.dropped for grid in stream.GRIDS.values()))
_GRID_SMALLEST_NORMAL = tl.constexpr(tuple(grid.smallest_normal for grid in stream.GRIDS.values()))
_GRID_STEP = tl.constexpr(tuple(grid.step for grid in stream.GRIDS.values()))

CONSTANT = tl.constexpr(0)
UNIFORM = tl.constexpr(1)
NORMAL = tl.constexpr(2)
TRUNCATED_NORMAL = tl.constexpr(3)
# A truncated normal whose tails hold at least this much each stays in the quantile's central piece:
# -2 ln(4 p (1 - p)) = 11.05 there, below the split at 12. The kernel then leaves the other piece out.
CENTRAL_TAIL = 0.001
DISTRIBUTIONS = {"constant": 0, "uniform": 1, "normal": 2, "truncated_normal": 3, "central_normal": 4}

NUM_WARPS = 4
# Counters a program draws: 4096 elements, 32 a thread, over which the key schedule is shared. Registers
# (96 on sm_90) still leave five programs a multiprocessor.
COUNTERS = 1024
PLACES = 512  # elements a program of the scattered kernel draws
DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}
# Floats of 8 bits are rounded here, and written as integers: no architecture has instructions for all of
# them, some for none. Others have no format.
FORMATS = {getattr(torch, name): k for k, name in enumerate(stream.FLOAT8)}
NO_FORMAT = tl.constexpr(-1)
# What is rounded stochastically has the format STOCHASTIC and the number of its grid, of which the first are
# those of 8 bits; its draws are told apart by STOCHASTIC and the distribution's number.
STOCHASTIC = tl.constexpr(8)
_STOCHASTIC_WORDS = tl.constexpr(8 + len(stream.FLOAT8))  # from here on 16 bits
_GRID_NUMBERS = {getattr(torch, name): k for k, name in enumerate(stream.GRIDS)}
DTYPES |= dict.fromkeys(FORMATS, tl.uint8)
DTYPES[torch.float64] = tl.float64

# What a launch over many tensors reads of each. The origin is where element 0 of the stream would lie, modulo
# 2**64; the tile is the one that the launch's first program would begin with, were it this tensor's.
ROW = np.dtype(
    [
        ("origin", np.uint64),
        ("start", np.int64),
        ("stop", np.int64),
        ("tile", np.int64),
        ("stream", np.uint64),
        ("seed", np.uint64),
        ("parameters", np.float32, 8),
    ]
)
_ROW_WORDS = tl.constexpr(ROW.itemsize // 8)
# The same of a tensor that goes by rows: where its first element lies, and what rows_kernel takes of it.
CUT_ROW = np.dtype(
    [
        ("address", np.int64),
        ("start", np.int64),
        ("tile", np.int64),
        ("stream", np.uint64),
        ("seed", np.uint64),
        ("parameters", np.float32, 8),
        ("shape", np.int64, 12),
    ]
)
_CUT_ROW_WORDS = tl.constexpr(CUT_ROW.itemsize // 8)


def _of_doubles(row: np.dtype[Any]) -> np.dtype[Any]:
    """A row of a table of float64 tensors, whose parameters are float64."""
    assert row.fields is not None
    names = [(name, row.fields[name][0]) for name in row.names or ()]
    return np.dtype([(name, np.float64, 8) if name == "parameters" else (name, kind) for name, kind in names])


DOUBLE_ROW, DOUBLE_CUT_ROW = _of_doubles(ROW), _of_doubles(CUT_ROW)
_MORE_WORDS = tl.constexpr((DOUBLE_ROW.itemsize - ROW.itemsize) // 8)
# A program over many tensors draws more tiles, so that reading its row is shared, once there are this many
# programs: enough for the largest GPU, and for its multiprocessors to finish at about the same time. On an
# H200 2 tiles (uniform float32) to 8 (bfloat16) are best from 2**27 elements on; 16 cost up to 6 %.
PROGRAMS = 8192
MOST_TILES = 8


@triton.jit
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Philox4x32-10 of four uint32 counter words and two uint32 key words: four uint32 words."""
    for _ in tl.static_range(_ROUNDS):
        # One 64-bit product gives both halves: IMAD.WIDE instead of IMAD and IMAD.HI.
        p0 = c0.to(tl.uint64) * _M0
        p1 = c2.to(tl.uint64) * _M1
        c0 = (p1 >> 32).to(tl.uint32) ^ c1 ^ k0
        c2 = (p0 >> 32).to(tl.uint32) ^ c3 ^ k1
        c1 = p1.to(tl.uint32)
        c3 = p0.to(tl.uint32)
        k0 = k0 + _W0
        k1 = k1 + _W1
    return c0, c1, c2, c3


@triton.jit
def constant_like(x, VALUE: tl.constexpr):
    return tl.full(x.shape, VALUE, tl.float32)


@triton.jit
def polynomial(x, COEFFICIENTS: tl.constexpr, TERMS: tl.constexpr):
    """Horner's rule in float32 fma, highest power first."""
    value = constant_like(x, COEFFICIENTS[0])
    for k in tl.static_range(1, TERMS):
        value = tl.fma(value, x, constant_like(x, COEFFICIENTS[k]))
    return value


@triton.jit
def minus_two_log(x, EXPONENT: tl.constexpr):
    """-2 ln(x * 2**-EXPONENT) of positive normal float32 x."""
    bits = x.to(tl.int32, bitcast=True)
    # The exponent stays where it stands (times 2**23): no shift, and the scale folds into the constant.
    power = (bits - (_LOG_SPLIT + EXPONENT * 8388608)) & -8388608
    m = (bits - power - EXPONENT * 8388608).to(tl.float32, bitcast=True) - 1.0
    near = tl.fma(m, constant_like(m, -2.0), (m * m) * polynomial(m, _LOG, _LOG_TERMS))
    return tl.fma(power.to(tl.float32), constant_like(m, _LN2), near)


@triton.jit
def sine(f):
    """sin(pi/2 f) of quarter turns f in [-1, 1]."""
    w = tl.fma(-f, f, constant_like(f, 1.0))
    return tl.fma(f, w * polynomial(w, _SINE, _SINE_TERMS), f)


@triton.jit
def box_muller(x, y):
    """Two independent standard normals from two uint32 words."""
    radius = tl.sqrt_rn(minus_two_log((x | 1).to(tl.float32), 32))
    f = ((y << 1) + 0x80000000).to(tl.int32, bitcast=True).to(tl.float32) * _MINUS_2_TO_MINUS_31
    signed = (radius.to(tl.uint32, bitcast=True) ^ (y & 0x80000000)).to(tl.float32, bitcast=True)
    return signed * sine(f), signed * sine(1.0 - tl.abs(f))


@triton.jit
def slope(below, above, TAILS: tl.constexpr):
    """z / (below - above) of the standard normal z with P(Z < z) = below and P(Z > z) = above.

    TAILS where |z| can pass 3.2.
    """
    big = minus_two_log(below * above, -2)
    value = polynomial(big - _CENTRE_SHIFT, _CENTRE, _CENTRE_TERMS)
    if TAILS:
        tail = polynomial(tl.sqrt_rn(tl.maximum(big, _SPLIT)) - _TAIL_SHIFT, _TAIL, _TAIL_TERMS)
        value = tl.where(big < _SPLIT, value, tail)
    return value


@triton.jit
def uniform(x, low, scale, floor, cap, NARROW: tl.constexpr):
    """low + u * span, u = (x >> 8) * 2**-24, kept within [floor, cap]."""
    value = tl.minimum((x >> 8).to(tl.float32) * scale + low, cap)
    if NARROW:  # in float32 the floor is low itself, below which nothing falls
        value = tl.maximum(value, floor)
    return value


@triton.jit
def normal(z, mean, std):
    """A standard normal, scaled."""
    return z * std + mean


@triton.jit
def truncated_normal(x, mean, std, below, above, difference, mass, floor, cap, TAILS: tl.constexpr):
    """The quantile of x, kept within [floor, cap]."""
    left = (x | 1).to(tl.float32) * mass + below
    right = ((x ^ 0xFFFFFFFF) | 1).to(tl.float32) * mass + above
    signed = ((x | 1) ^ 0x80000000).to(tl.int32, bitcast=True).to(tl.float32)
    z = (signed * (2 * mass) + difference) * slope(left, right, TAILS)
    return tl.minimum(tl.maximum(z * std + mean, floor), cap)


@triton.jit
def byte(value, FORMAT: tl.constexpr):
    """The pattern of a float32 in a format of 8 bits, as PyTorch casts it."""
    bits = value.to(tl.int32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    grid = tl.full(value.shape, _GRID[FORMAT], tl.int32).to(tl.float32, bitcast=True)
    small = (magnitude.to(tl.float32, bitcast=True) + grid).to(tl.int32, bitcast=True) - _GRID[FORMAT]
    odd = (magnitude >> _DROPPED[FORMAT]) & 1
    half: tl.constexpr = (1 << (_DROPPED[FORMAT] - 1)) - 1
    large = (magnitude - _REBIAS[FORMAT] + half + odd) >> _DROPPED[FORMAT]
    pattern = tl.where(magnitude < _SMALLEST_NORMAL[FORMAT], small, large)
    pattern = tl.where(pattern > _LARGEST[FORMAT], _BEYOND[FORMAT], pattern)
    pattern = tl.where(magnitude > 0x7F800000, _NAN[FORMAT], pattern)
    sign = (bits >> 24) & 0x80
    if _ONE_ZERO[FORMAT]:
        sign = tl.where(pattern == 0, 0, sign)
    return (pattern | sign).to(tl.uint8)


@triton.jit
def rounded(value, DTYPE: tl.constexpr, FORMAT: tl.constexpr):
    """A float32 as it is stored."""
    if FORMAT == NO_FORMAT:
        return value.to(DTYPE)
    elif FORMAT < STOCHASTIC:
        return byte(value, FORMAT)
    elif FORMAT < _STOCHASTIC_WORDS:
        return byte(value, FORMAT - STOCHASTIC)
    else:
        return value.to(DTYPE)


@triton.jit
def stochastic(value, word, GRID: tl.constexpr):
    """The number of a format above or below a float32, as a float32: the value in the mean over the words."""
    DROPPED: tl.constexpr = _GRID_DROPPED[GRID]
    bits = value.to(tl.uint32, bitcast=True)
    moved = (bits + (word >> (32 - DROPPED))) & (0x100000000 - (1 << DROPPED))
    moved = moved.to(tl.float32, bitcast=True)
    if _GRID_SMALLEST_NORMAL[GRID] != 0:
        STEP: tl.constexpr = _GRID_STEP[GRID]
        size = tl.abs(value)
        low = (size + STEP * 8388608.0) - STEP * 8388608.0
        low = tl.where(low > size, low - STEP, low)
        share = ((word ^ 0xFFFFFFFF) >> 8).to(tl.float32) * (STEP * 5.9604644775390625e-08)  # 2**-24
        small = tl.where(share < size - low, low + STEP, low)
        signed = small.to(tl.uint32, bitcast=True) | (bits & 0x80000000)
        is_small = (bits & 0x7FFFFFFF) < _GRID_SMALLEST_NORMAL[GRID]
        moved = tl.where(is_small, signed.to(tl.float32, bitcast=True), moved)
    return moved


@triton.jit
def words(c0, c1, key):
    """The four words of each block (c0, c1) of the stream (s0, s1) under the key (k0, k1) = key[2:]."""
    # The interpreter ignores the kernels' annotations: it would take a small key word for an int32.
    s0, s1, k0, k1 = key[0].to(tl.uint32), key[1].to(tl.uint32), key[2].to(tl.uint32), key[3].to(tl.uint32)
    return philox4x32(c0, c1, s0, s1, k0, k1)


@triton.jit
def double_words(c0, c1, key):
    """The four 64-bit words of each block."""
    a, b, c, d = words(c0, c1, key)
    e, f, g, h = words(c0, c1 | wide.LOW_HALVES, key)
    return wide.joined(a, e), wide.joined(b, f), wide.joined(c, g), wide.joined(d, h)


@triton.jit
def draw_double_block(c0, c1, key, p, DISTRIBUTION: tl.constexpr):
    """The float64 values of the four elements of each block."""
    a, b, c, d = double_words(c0, c1, key)
    if DISTRIBUTION == UNIFORM:
        return (
            wide.uniform(a, *p[:4]),
            wide.uniform(b, *p[:4]),
            wide.uniform(c, *p[:4]),
            wide.uniform(d, *p[:4]),
        )
    elif DISTRIBUTION == NORMAL:
        a, b = wide.box_muller(a, b)
        c, d = wide.box_muller(c, d)
        return normal(a, *p[:2]), normal(b, *p[:2]), normal(c, *p[:2]), normal(d, *p[:2])
    else:
        TAILS: tl.constexpr = DISTRIBUTION == TRUNCATED_NORMAL
        return (
            wide.truncated_normal(a, *p, TAILS),
            wide.truncated_normal(b, *p, TAILS),
            wide.truncated_normal(c, *p, TAILS),
            wide.truncated_normal(d, *p, TAILS),
        )


@triton.jit
def draw_block(c0, c1, key, p, DISTRIBUTION: tl.constexpr, BITS: tl.constexpr, FORMAT: tl.constexpr):
    """The values of the four elements of each block, float64 of BITS of 64, float32 of fewer."""
    NARROW: tl.constexpr = BITS < 32
    if BITS == 64:
        return draw_double_block(c0, c1, key, p, DISTRIBUTION)
    elif FORMAT >= STOCHASTIC:
        GRID: tl.constexpr = FORMAT - STOCHASTIC
        a, b, c, d = draw_single_block(c0, c1, key, p, DISTRIBUTION, NARROW)
        e, f, g, h = words(c0, c1 | _ROUNDING, key)
        return stochastic(a, e, GRID), stochastic(b, f, GRID), stochastic(c, g, GRID), stochastic(d, h, GRID)
    else:
        return draw_single_block(c0, c1, key, p, DISTRIBUTION, NARROW)


@triton.jit
def draw_single_block(c0, c1, key, p, DISTRIBUTION: tl.constexpr, NARROW: tl.constexpr):
    """The float32 values of the four elements of each block."""
    a, b, c, d = words(c0, c1, key)
    if DISTRIBUTION == UNIFORM:
        a = uniform(a, *p[:4], NARROW)
        b = uniform(b, *p[:4], NARROW)
        c = uniform(c, *p[:4], NARROW)
        d = uniform(d, *p[:4], NARROW)
        return a, b, c, d
    elif DISTRIBUTION == NORMAL:
        a, b = box_muller(a, b)
        c, d = box_muller(c, d)
        return normal(a, *p[:2]), normal(b, *p[:2]), normal(c, *p[:2]), normal(d, *p[:2])
    else:
        TAILS: tl.constexpr = DISTRIBUTION == TRUNCATED_NORMAL
        a = truncated_normal(a, *p, TAILS)
        b = truncated_normal(b, *p, TAILS)
        c = truncated_normal(c, *p, TAILS)
        d = truncated_normal(d, *p, TAILS)
        return a, b, c, d


@triton.jit
def tile_values(
    tile,
    key,
    p,
    DISTRIBUTION: tl.constexpr,
    BITS: tl.constexpr,
    FORMAT: tl.constexpr,
    COUNTERS: tl.constexpr,
):
    """The values, in order, of the 4 * COUNTERS elements of a tile of the stream."""
    if DISTRIBUTION == CONSTANT:
        return tl.full((4 * COUNTERS,), p[0], p[0].dtype)
    else:
        block = tile.to(tl.uint64) * COUNTERS
        low = block.to(tl.uint32)
        high = (block >> 32).to(tl.uint32)
        if BITS < 32:
            # Eight elements fill 16 bytes: a thread holds the two neighbouring blocks that make them.
            even = low | (2 * tl.arange(0, COUNTERS // 2)).to(tl.uint32)
            a, b, c, d = draw_block(even, high, key, p, DISTRIBUTION, BITS, FORMAT)
            e, f, g, h = draw_block(even + 1, high, key, p, DISTRIBUTION, BITS, FORMAT)
            a = tl.join(a, e)
            b = tl.join(b, f)
            c = tl.join(c, g)
            d = tl.join(d, h)
        else:
            lane = low | tl.arange(0, COUNTERS).to(tl.uint32)
            a, b, c, d = draw_block(lane, high, key, p, DISTRIBUTION, BITS, FORMAT)
        return tl.reshape(tl.join(tl.join(a, c), tl.join(b, d)), (4 * COUNTERS,))


@triton.jit
def double_of_word(first, second, odd, p, DISTRIBUTION: tl.constexpr):
    if DISTRIBUTION == UNIFORM:
        return wide.uniform(tl.where(odd, second, first), *p[:4])
    elif DISTRIBUTION == NORMAL:
        z0, z1 = wide.box_muller(first, second)
        return normal(tl.where(odd, z1, z0), *p[:2])
    else:
        return wide.truncated_normal(tl.where(odd, second, first), *p, DISTRIBUTION == TRUNCATED_NORMAL)


@triton.jit
def draw_word(c0, c1, word, key, p, DISTRIBUTION: tl.constexpr, BITS: tl.constexpr, FORMAT: tl.constexpr):
    """The value of one element, ``word`` (0 to 3), of each block."""
    if FORMAT >= STOCHASTIC:
        value = nearest_word(c0, c1, word, key, p, DISTRIBUTION, BITS)
        a, b, c, d = words(c0, c1 | _ROUNDING, key)
        deciding = tl.where((word & 1) == 1, tl.where(word < 2, b, d), tl.where(word < 2, a, c))
        return stochastic(value, deciding, FORMAT - STOCHASTIC)
    else:
        return nearest_word(c0, c1, word, key, p, DISTRIBUTION, BITS)


@triton.jit
def nearest_word(c0, c1, word, key, p, DISTRIBUTION: tl.constexpr, BITS: tl.constexpr):
    """The same, yet to be rounded."""
    NARROW: tl.constexpr = BITS < 32
    if BITS == 64:
        a, b, c, d = double_words(c0, c1, key)
    else:
        a, b, c, d = words(c0, c1, key)
    first = tl.where(word < 2, a, c)
    second = tl.where(word < 2, b, d)
    odd = (word & 1) == 1
    if BITS == 64:
        return double_of_word(first, second, odd, p, DISTRIBUTION)
    elif DISTRIBUTION == UNIFORM:
        return uniform(tl.where(odd, second, first), *p[:4], NARROW)
    elif DISTRIBUTION == NORMAL:
        z0, z1 = box_muller(first, second)
        return normal(tl.where(odd, z1, z0), *p[:2])
    else:
        return truncated_normal(tl.where(odd, second, first), *p, DISTRIBUTION == TRUNCATED_NORMAL)


_SCALARS = [
    *("start", "stop", "s0", "s1", "k0", "k1", "p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7"),
    *("n1", "n2", "n3", "m0", "m1", "m2", "m3", "i0", "i1", "i2", "i3", "groups", "total"),
]
_UNSPECIALIZED = ["start", "stop", "s0", "s1", "k0", "k1", "p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7"]


@triton.jit(do_not_specialize=_UNSPECIALIZED)
def run_kernel(
    pointer,
    start: tl.int64,
    stop: tl.int64,
    s0: tl.uint32,
    s1: tl.uint32,
    k0: tl.uint32,
    k1: tl.uint32,
    p0: tl.float32,
    p1: tl.float32,
    p2: tl.float32,
    p3: tl.float32,
    p4: tl.float32,
    p5: tl.float32,
    p6: tl.float32,
    p7: tl.float32,
    DISTRIBUTION: tl.constexpr,
    ALIGNED: tl.constexpr,
    COUNTERS: tl.constexpr,
    FORMAT: tl.constexpr = -1,
):
    """Elements start to stop of a stream into contiguous memory; ALIGNED says that 16 divides start."""
    TILE: tl.constexpr = 4 * COUNTERS
    BITS: tl.constexpr = pointer.dtype.element_ty.primitive_bitwidth
    key = (s0, s1, k0, k1)
    p = (p0, p1, p2, p3, p4, p5, p6, p7)
    if BITS == 64:
        p = wide.parameters(p)
    start = start.to(tl.int64)
    if ALIGNED:
        start = (start >> 4) << 4  # the compiler sees the alignment, and stores 16 bytes a thread
    # Tiles lie on a grid of the stream, not of the memory, so that a block's high word is the tile's.
    tile = tl.program_id(0).to(tl.int64) + start // TILE
    first = tile * TILE
    values = tile_values(tile, key, p, DISTRIBUTION, BITS, FORMAT, COUNTERS)
    values = rounded(values, pointer.dtype.element_ty, FORMAT)
    index = first + tl.arange(0, TILE)
    if (first >= start) & (stop - first >= TILE):  # first + TILE may overflow
        tl.store(pointer + (index - start), values)
    else:
        tl.store(pointer + (index - start), values, mask=(index >= start) & (index < stop))


@triton.jit
def row_of(program, table, rows, programs, WORDS: tl.constexpr):
    """Where the row of a program's tensor lies in a table that holds rows of WORDS words."""
    number = tl.load((table + programs).to(tl.pointer_type(tl.int32)) + program)
    return table + rows + number.to(tl.int64) * WORDS


@triton.jit
def numbers_at(where, DOUBLE: tl.constexpr):
    """The key and the parameters of a row of a table, in which they lie from ``where`` on."""
    half = where.to(tl.pointer_type(tl.uint32))
    key = (tl.load(half), tl.load(half + 1), tl.load(half + 2), tl.load(half + 3))
    if DOUBLE:
        p0 = (where + 2).to(tl.pointer_type(tl.float64))
    else:
        p0 = (where + 2).to(tl.pointer_type(tl.float32))
    p = (
        tl.load(p0),
        tl.load(p0 + 1),
        tl.load(p0 + 2),
        tl.load(p0 + 3),
        tl.load(p0 + 4),
        tl.load(p0 + 5),
        tl.load(p0 + 6),
        tl.load(p0 + 7),
    )
    return key, p


@triton.jit(do_not_specialize=["rows", "programs", "tiles"])
def table_kernel(
    table,
    rows: tl.int64,
    programs: tl.int64,
    tiles: tl.int32,
    DISTRIBUTION: tl.constexpr,
    DTYPE: tl.constexpr,
    ALIGNED: tl.constexpr,
    COUNTERS: tl.constexpr,
    FORMAT: tl.constexpr = -1,
):
    """Many tensors as run_kernel writes one: each program ``tiles`` tiles of a tensor, or those left of it.

    The table is of 64-bit words: from ``rows`` on the tensors' rows (ROW), from ``programs`` on the number of
    each program's row, in 32 bits. ALIGNED says that 16 divides every origin.
    """
    TILE: tl.constexpr = 4 * COUNTERS
    BITS: tl.constexpr = DTYPE.primitive_bitwidth
    SIZE: tl.constexpr = BITS // 8
    MORE: tl.constexpr = _MORE_WORDS if BITS == 64 else 0
    program = tl.program_id(0)
    row = row_of(program, table, rows, programs, _ROW_WORDS + MORE)
    origin = tl.load(row)
    start = tl.load(row + 1)
    stop = tl.load(row + 2)
    tile = tl.load(row + 3) + program.to(tl.int64) * tiles
    key, p = numbers_at(row + 4, BITS == 64)
    lane = tl.arange(0, TILE)
    left = (stop - 1) // TILE - tile + 1
    # Hoisting what no tile changes saves nothing, and takes 128 registers for a normal's 64 (on sm_90).
    for k in tl.range(tl.minimum(left, tiles).to(tl.int32), disable_licm=True):
        first = (tile + k) * TILE
        values = tile_values(tile + k, key, p, DISTRIBUTION, BITS, FORMAT, COUNTERS)
        values = rounded(values, DTYPE, FORMAT)
        pointer = (origin + first * SIZE).to(tl.pointer_type(DTYPE))
        if ALIGNED:
            pointer = tl.multiple_of(pointer, 16)
        if (first >= start) & (stop - first >= TILE):  # first + TILE may overflow
            tl.store(pointer + lane, values)
        else:
            index = first + lane
            tl.store(pointer + lane, values, mask=(index >= start) & (index < stop))


@triton.jit
def group_values(
    place,
    key,
    p,
    DISTRIBUTION: tl.constexpr,
    BITS: tl.constexpr,
    FORMAT: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The values of the WIDTH (4 or 8) elements from each place of the stream on, first to last."""
    if DISTRIBUTION == CONSTANT:
        a = tl.full(place.shape, p[0], p[0].dtype)
        return (a, a, a, a) if WIDTH == 4 else (a, a, a, a, a, a, a, a)
    else:
        block = (place >> 2).to(tl.uint64)
        c0, c1 = block.to(tl.uint32), (block >> 32).to(tl.uint32)
        first = draw_block(c0, c1, key, p, DISTRIBUTION, BITS, FORMAT)
        if WIDTH == 4:
            return first
        else:
            block += 1
            c0, c1 = block.to(tl.uint32), (block >> 32).to(tl.uint32)
            return first + draw_block(c0, c1, key, p, DISTRIBUTION, BITS, FORMAT)


@triton.jit
def side_by_side(v, WIDTH: tl.constexpr):
    """WIDTH (4 or 8) tensors (n,) as one (n, WIDTH), of which a thread holds whole rows."""
    if WIDTH == 8:
        v = (tl.join(v[0], v[4]), tl.join(v[1], v[5]), tl.join(v[2], v[6]), tl.join(v[3], v[7]))
    return tl.reshape(tl.join(tl.join(v[0], v[2]), tl.join(v[1], v[3])), (v[0].shape[0], WIDTH))


@triton.jit
def draw_groups(
    number,
    shape,
    address,
    start,
    key,
    p,
    DTYPE: tl.constexpr,
    DISTRIBUTION: tl.constexpr,
    MATRIX: tl.constexpr,
    UNIT: tl.constexpr,
    VECTORS: tl.constexpr,
    SINGLES: tl.constexpr,
    WIDTH: tl.constexpr,
    FORMAT: tl.constexpr,
):
    """Write numbered groups of WIDTH elements of a 4-d tensor's rows, which are runs of the stream.

    ``shape`` is what rows_kernel takes from n1 to total; the numbers' dtype is that of all arithmetic but
    that of places and addresses.
    """
    n1, n2, length, m0, m1, m2, m3, i0, i1, i2, groups, total = shape
    BITS: tl.constexpr = DTYPE.primitive_bitwidth
    SIZE: tl.constexpr = BITS // 8
    SHIFT: tl.constexpr = 3 if SIZE == 8 else SIZE // 2  # of an address in bytes to one in elements
    inside = number < total.to(number.dtype)
    row = number // groups.to(number.dtype)
    element = (number - row * groups.to(number.dtype)) * WIDTH
    if MATRIX:
        place = start + row.to(tl.int64) * i2
        where = row.to(tl.int64) * m2
    else:
        n1, n2 = n1.to(number.dtype), n2.to(number.dtype)
        x2 = (row % n2).to(tl.int64)
        rest = row // n2
        x1 = (rest % n1).to(tl.int64)
        x0 = (rest // n1).to(tl.int64)
        place = start + x0 * i0 + x1 * i1 + x2 * i2
        where = x0 * m0 + x1 * m1 + x2 * m2
    # Negative before a row's first element.
    if number.dtype == tl.uint32:
        element, length = element.to(tl.int32), length.to(tl.int32)
    else:
        element, length = element.to(tl.int64), length.to(tl.int64)
    whole = inside
    if SINGLES:
        # Modulo 8, by how much the row's memory is ahead of the stream: on the grid of 16 bytes, by 0 or 4.
        ahead = ((address >> SHIFT) + where - place).to(tl.int32)
        before = (place.to(tl.int32) + (ahead & (WIDTH - 4))) & (WIDTH - 1)
        # What is not to be stored lies past the row's end: one comparison then makes a mask.
        element = tl.where(inside, element - before.to(element.dtype), length)
        whole = (element >= 0) & (element <= length - WIDTH) & ((ahead & 3) == 0)
    values = group_values(place + element, key, p, DISTRIBUTION, BITS, FORMAT, WIDTH)
    where += element if UNIT else element * m3
    first = (address + where * SIZE).to(tl.pointer_type(DTYPE))
    if VECTORS:
        aligned = tl.multiple_of(first, WIDTH * SIZE)[:, None] + tl.arange(0, WIDTH)[None, :]
        tl.store(aligned, rounded(side_by_side(values, WIDTH), DTYPE, FORMAT), mask=whole[:, None])
    if SINGLES:
        if VECTORS:
            element = tl.where(whole, length, element)
        for k in tl.static_range(WIDTH):
            mask = (element + k).to(number.dtype) < length.to(number.dtype)
            if UNIT:
                tl.store(first + k, rounded(values[k], DTYPE, FORMAT), mask=mask)
            else:
                tl.store(first + k * m3, rounded(values[k], DTYPE, FORMAT), mask=mask)


@triton.jit(
    do_not_specialize=[
        *("start", "s0", "s1", "k0", "k1", "p0", "p1", "p2", "p3", "p4", "p5", "p6", "p7"),
        *("n1", "n2", "n3", "m0", "m1", "m2", "m3", "i0", "i1", "i2", "groups", "total"),
    ]
)
def rows_kernel(
    pointer,
    start: tl.int64,
    s0: tl.uint32,
    s1: tl.uint32,
    k0: tl.uint32,
    k1: tl.uint32,
    p0: tl.float32,
    p1: tl.float32,
    p2: tl.float32,
    p3: tl.float32,
    p4: tl.float32,
    p5: tl.float32,
    p6: tl.float32,
    p7: tl.float32,
    n1: tl.int64,
    n2: tl.int64,
    n3: tl.int64,
    m0: tl.int64,
    m1: tl.int64,
    m2: tl.int64,
    m3: tl.int64,
    i0: tl.int64,
    i1: tl.int64,
    i2: tl.int64,
    groups: tl.int64,
    total: tl.int64,
    DISTRIBUTION: tl.constexpr,
    WIDE: tl.constexpr,
    MATRIX: tl.constexpr,
    UNIT: tl.constexpr,
    VECTORS: tl.constexpr,
    SINGLES: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUPS: tl.constexpr,
    FORMAT: tl.constexpr = -1,
):
    """A 4-d tensor of any memory strides m, whose rows of n3 elements are runs of a stream with strides i.

    ``groups`` cover a row, ``total`` all of them; what the constants mean is said by ``rows.Grouping``.
    """
    if WIDE:
        number = (tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS)).to(tl.uint64)
    else:  # 32-bit divisions cost a fifth of 64-bit ones
        number = (tl.program_id(0) * GROUPS + tl.arange(0, GROUPS)).to(tl.uint32)
    shape = (n1, n2, n3, m0, m1, m2, m3, i0, i1, i2, groups, total)
    key = (s0, s1, k0, k1)
    p = (p0, p1, p2, p3, p4, p5, p6, p7)
    DTYPE: tl.constexpr = pointer.dtype.element_ty
    if DTYPE.primitive_bitwidth == 64:
        p = wide.parameters(p)
    address = pointer.to(tl.int64)
    draw_groups(
        number,
        shape,
        address,
        start,
        key,
        p,
        DTYPE,
        DISTRIBUTION,
        MATRIX,
        UNIT,
        VECTORS,
        SINGLES,
        WIDTH,
        FORMAT,
    )


@triton.jit(do_not_specialize=["rows", "programs", "tiles"])
def rows_table_kernel(
    table,
    rows: tl.int64,
    programs: tl.int64,
    tiles: tl.int32,
    DISTRIBUTION: tl.constexpr,
    DTYPE: tl.constexpr,
    WIDE: tl.constexpr,
    MATRIX: tl.constexpr,
    UNIT: tl.constexpr,
    VECTORS: tl.constexpr,
    SINGLES: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUPS: tl.constexpr,
    FORMAT: tl.constexpr = -1,
):
    """Many tensors as rows_kernel writes one: each program ``tiles`` times GROUPS groups, or those left.

    The table is as table_kernel's, of other rows (CUT_ROW).
    """
    DOUBLE: tl.constexpr = DTYPE.primitive_bitwidth == 64
    MORE: tl.constexpr = _MORE_WORDS if DOUBLE else 0
    program = tl.program_id(0)
    row = row_of(program, table, rows, programs, _CUT_ROW_WORDS + MORE)
    address = tl.load(row)
    start = tl.load(row + 1)
    tile = tl.load(row + 2) + program.to(tl.int64) * tiles
    key, p = numbers_at(row + 3, DOUBLE)
    shapes = row + MORE
    shape = (
        tl.load(shapes + 9),
        tl.load(shapes + 10),
        tl.load(shapes + 11),
        tl.load(shapes + 12),
        tl.load(shapes + 13),
        tl.load(shapes + 14),
        tl.load(shapes + 15),
        tl.load(shapes + 16),
        tl.load(shapes + 17),
        tl.load(shapes + 18),
        tl.load(shapes + 19),
        tl.load(shapes + 20),
    )
    left = (shape[11] - 1) // GROUPS - tile + 1
    for k in tl.range(tl.minimum(left, tiles).to(tl.int32), disable_licm=True):
        if WIDE:
            number = ((tile + k) * GROUPS + tl.arange(0, GROUPS)).to(tl.uint64)
        else:
            number = ((tile + k).to(tl.int32) * GROUPS + tl.arange(0, GROUPS)).to(tl.uint32)
        draw_groups(
            number,
            shape,
            address,
            start,
            key,
            p,
            DTYPE,
            DISTRIBUTION,
            MATRIX,
            UNIT,
            VECTORS,
            SINGLES,
            WIDTH,
            FORMAT,
        )


@triton.jit(
    do_not_specialize=[*_UNSPECIALIZED, "n1", "n2", "n3", "m0", "m1", "m2", "m3", "i0", "i1", "i2", "i3"]
)
def scattered_kernel(
    pointer,
    start: tl.int64,
    stop: tl.int64,
    s0: tl.uint32,
    s1: tl.uint32,
    k0: tl.uint32,
    k1: tl.uint32,
    p0: tl.float32,
    p1: tl.float32,
    p2: tl.float32,
    p3: tl.float32,
    p4: tl.float32,
    p5: tl.float32,
    p6: tl.float32,
    p7: tl.float32,
    n1: tl.int64,
    n2: tl.int64,
    n3: tl.int64,
    m0: tl.int64,
    m1: tl.int64,
    m2: tl.int64,
    m3: tl.int64,
    i0: tl.int64,
    i1: tl.int64,
    i2: tl.int64,
    i3: tl.int64,
    DISTRIBUTION: tl.constexpr,
    WIDE: tl.constexpr,
    PLACES: tl.constexpr,
    FORMAT: tl.constexpr = -1,
):
    """A 4-d tensor of any memory strides m from places of a stream with strides i; stop is its size.

    Each element draws a block of its own, for layouts and windows that no run of the stream goes through.
    """
    BITS: tl.constexpr = pointer.dtype.element_ty.primitive_bitwidth
    key = (s0, s1, k0, k1)
    p = (p0, p1, p2, p3, p4, p5, p6, p7)
    if BITS == 64:
        p = wide.parameters(p)
    if WIDE:
        element = tl.program_id(0).to(tl.int64) * PLACES + tl.arange(0, PLACES)
    else:  # 32-bit divisions cost a fifth of 64-bit ones
        element = (tl.program_id(0) * PLACES + tl.arange(0, PLACES)).to(tl.uint32)
        n1, n2, n3 = n1.to(tl.uint32), n2.to(tl.uint32), n3.to(tl.uint32)
    inside = element < stop
    x3 = (element % n3).to(tl.int64)
    rest = element // n3
    x2 = (rest % n2).to(tl.int64)
    rest = rest // n2
    x1 = (rest % n1).to(tl.int64)
    x0 = (rest // n1).to(tl.int64)
    if DISTRIBUTION == CONSTANT:
        values = tl.full((PLACES,), p[0], p[0].dtype)
    else:
        place = (start + x0 * i0 + x1 * i1 + x2 * i2 + x3 * i3).to(tl.uint64)
        block = place >> 2
        c0 = block.to(tl.uint32)
        c1 = (block >> 32).to(tl.uint32)
        word = (place & 3).to(tl.uint32)
        values = draw_word(c0, c1, word, key, p, DISTRIBUTION, BITS, FORMAT)
    where = x0 * m0 + x1 * m1 + x2 * m2 + x3 * m3
    tl.store(pointer + where, rounded(values, pointer.dtype.element_ty, FORMAT), mask=inside)


def _taking_doubles(kernel: Any) -> Any:
    """The same kernel, whose parameters are the bits of float64 numbers."""
    single = kernel.fn
    function = FunctionType(single.__code__, single.__globals__, single.__name__, single.__defaults__)
    function.__module__, function.__qualname__ = single.__module__, single.__qualname__
    function.__doc__ = single.__doc__
    names = [f"p{k}" for k in range(8)]
    function.__annotations__ = {**single.__annotations__, **dict.fromkeys(names, "tl.int64")}
    return triton.jit(do_not_specialize=_SCALARS)(function)


double_run_kernel = _taking_doubles(run_kernel)
double_rows_kernel = _taking_doubles(rows_kernel)
double_scattered_kernel = _taking_doubles(scattered_kernel)


def variant(draw: Draw) -> int:
    """The kernels' DISTRIBUTION for a draw, plus STOCHASTIC if it is rounded so."""
    name = draw.distribution
    if name == "truncated_normal":
        numbers = TruncatedNormalNumbers(*draw.parameters)
        if min(numbers.below, numbers.above) >= CENTRAL_TAIL:
            name = "central_normal"
    return DISTRIBUTIONS[name] + STOCHASTIC.value if draw.stochastic else DISTRIBUTIONS[name]


def is_run(dims: list[tuple[int, int, int]]) -> bool:
    """Whether collapsed dimensions walk memory and stream element by element."""
    return not dims or (len(dims) == 1 and dims[0][1:] == (1, 1))


def fill(tensor: torch.Tensor, draw: Draw, *, counters: int = COUNTERS, places: int = PLACES) -> None:
    """Write ``draw`` into a tensor of any strides, and of a dtype in DTYPES, in place.

    Launches on the tensor's device and that device's current stream, without synchronising.

    Args:
        tensor: where to write.
        draw: what to write.
        counters: blocks a program draws (a power of two); never changes a value.
        places: elements a program of the scattered kernel draws (a power of two); never changes a value.
    """
    if not tensor.numel():
        return
    if tensor.stride() == draw.strides and tensor.is_contiguous():  # as most: a run without a look
        _fill_run(tensor, draw, counters)
        return
    tensor = tensor.detach()
    dims = stream.collapse(tensor.shape, tensor.stride(), draw.strides)
    if is_run(dims):
        _fill_run(tensor, draw, counters)
        return
    numbers = *_key_words(draw), *_parameters(tensor, draw)
    is_double = tensor.dtype == torch.float64
    options = _options(variant(draw), tensor.dtype)
    memory = tensor.view(torch.uint8) if tensor.dtype in FORMATS else tensor
    with triton_launch.on_device(tensor):
        if len(dims) > MAX_DIMS:
            fill_many(_parts(tensor, draw), counters=counters)
            return
        if goes_by_rows(dims):
            found = _grouping(tensor, draw, dims)
            size = 2 * counters // found.width
            kernel = double_rows_kernel if is_double else rows_kernel
            kernel[((found.total + size - 1) // size,)](
                memory,
                draw.start,
                *numbers,
                *_shape(dims, found),
                WIDE=is_wide(found, size),
                **_forms(found),
                GROUPS=size,
                **options,
            )
            return
        sizes, strides, index = zip(*[(1, 0, 0)] * (MAX_DIMS - len(dims)), *dims, strict=True)
        grid = ((tensor.numel() + places - 1) // places,)
        kernel = double_scattered_kernel if is_double else scattered_kernel
        kernel[grid](
            memory,
            draw.start,
            tensor.numel(),
            *numbers,
            *sizes[1:],
            *strides,
            *index,
            WIDE=tensor.numel() >= 2**31 - places,
            PLACES=places,
            **options,
        )


def _fill_run(tensor: torch.Tensor, draw: Draw, counters: int) -> None:
    """:func:`fill` of memory in the order of the stream."""
    dtype, distribution = tensor.dtype, variant(draw)
    start, tile = draw.start, 4 * counters
    stop, aligned = start + tensor.numel(), start % 16 == 0
    grid = (stop + tile - 1) // tile - start // tile
    numbers = start, stop, *_key_words(draw), *_parameters(tensor, draw)
    options = _options(distribution, dtype)
    kernel = double_run_kernel if dtype == torch.float64 else run_kernel
    at_16 = tensor.data_ptr() % 16 == 0
    kind = kernel, tensor.get_device(), dtype, distribution, aligned, counters, at_16
    constants = options["DISTRIBUTION"], aligned, counters, options["FORMAT"]
    with triton_launch.on_device(tensor):
        if not triton_launch.again(kind, grid, tensor, *numbers, *constants):
            memory = tensor.detach()
            memory = memory.view(torch.uint8) if dtype in FORMATS else memory
            named = {"ALIGNED": aligned, "COUNTERS": counters, **options}
            triton_launch.first(kind, grid, (memory, *numbers), named)


def _key_words(draw: Draw) -> tuple[int, int, int, int]:
    """The 32-bit halves of the stream and of the seed."""
    return draw.stream & 0xFFFFFFFF, draw.stream >> 32, draw.seed & 0xFFFFFFFF, draw.seed >> 32


_PADDING = [(0.0,) * (8 - k) for k in range(9)]


def _parameters(tensor: torch.Tensor, draw: Draw) -> tuple[Any, ...]:
    """A draw's parameters as a kernel takes them: eight floats, or the bits of eight float64 numbers."""
    padded = (*draw.parameters, *_PADDING[len(draw.parameters)])
    return struct.unpack("<8q", struct.pack("<8d", *padded)) if tensor.dtype == torch.float64 else padded


def format_of(variant: int, dtype: torch.dtype) -> int:
    """The kernels' FORMAT for a variant of a draw into a tensor of a dtype."""
    if variant >= STOCHASTIC.value:
        return int(STOCHASTIC.value + _GRID_NUMBERS[dtype])
    return int(FORMATS.get(dtype, NO_FORMAT.value))


def _options(variant: int, dtype: torch.dtype) -> dict[str, Any]:
    """What every launch is given."""
    return {
        "DISTRIBUTION": variant % STOCHASTIC.value,
        "FORMAT": format_of(variant, dtype),
        "num_warps": NUM_WARPS,
        "enable_fp_fusion": False,
    }


def _parts(tensor: torch.Tensor, draw: Draw) -> list[tuple[torch.Tensor, Draw]]:
    """What is left to draw of a tensor of more dimensions than a kernel walks, without the first."""
    first, *strides = draw.strides
    inner = [draw._replace(start=draw.start + k * first, strides=tuple(strides)) for k in range(len(tensor))]
    return list(zip(tensor.detach().unbind(), inner, strict=True))


def _grouping(
    tensor: torch.Tensor, draw: Draw, dims: list[tuple[int, int, int]], *, among_others: bool = False
) -> Grouping:
    size = tensor.element_size()
    return grouping(dims, tensor.data_ptr() // size, draw.start, size, among_others=among_others)


def _shape(dims: list[tuple[int, int, int]], found: Grouping) -> tuple[int, ...]:
    """What rows_kernel takes from n1 to total."""
    sizes, memory, places = zip(*[(1, 0, 0)] * (MAX_DIMS - len(dims)), *dims, strict=True)
    return (*sizes[1:], *memory, *places[:-1], found.groups, found.total)


def is_wide(found: Grouping, size: int) -> bool:
    """Whether numbers of groups, of which a program draws ``size``, or of elements need 64 bits."""
    return (found.total + size) * found.width >= 2**31


def _forms(found: Grouping) -> dict[str, Any]:
    """The constants of rows_kernel that say how rows lie."""
    return {
        "MATRIX": found.matrix,
        "UNIT": found.unit,
        "VECTORS": found.vectors,
        "SINGLES": found.singles,
        "WIDTH": found.width,
    }


class Group(NamedTuple):
    """What the runs of one launch have in common: the table kernel's constants."""

    dtype: torch.dtype
    distribution: int
    aligned: bool

    def launch(self, grid: int, counters: int, table: torch.Tensor, *places: int) -> None:
        dtype, distribution, aligned = self
        options = _options(distribution, dtype)
        kind = table_kernel, table.get_device(), *self, counters, table.data_ptr() % 16 == 0
        constants = options["DISTRIBUTION"], DTYPES[dtype], aligned, counters, options["FORMAT"]
        if not triton_launch.again(kind, grid, table, *places, *constants):
            named = {"DTYPE": DTYPES[dtype], "ALIGNED": aligned, "COUNTERS": counters}
            triton_launch.first(kind, grid, (table, *places), {**named, **options})


class Runs(NamedTuple):
    """Tensors that a run of the stream goes through, which differ in where they lie and in their keys alone.

    Attributes:
        tensor: the first of them.
        draw: its, by whatever key.
        size: elements of each.
        origins: where element 0 of the stream would lie, of each.
        seeds: of each.
        streams: of each.
    """

    tensor: torch.Tensor
    draw: Draw
    size: int
    origins: list[int]
    seeds: list[int]
    streams: list[int]


class CutGroup(NamedTuple):
    """What the tensors of one launch that go by rows have in common: the rows' table kernel's constants."""

    dtype: torch.dtype
    distribution: int
    wide: bool
    matrix: bool
    unit: bool
    singles: bool
    width: int

    def launch(self, grid: int, counters: int, *table: Any) -> None:
        rows_table_kernel[(grid,)](*table, **self.options(counters))

    def options(self, counters: int) -> dict[str, Any]:
        return {
            "DTYPE": DTYPES[self.dtype],
            "WIDE": self.wide,
            "MATRIX": self.matrix,
            "UNIT": self.unit,
            "VECTORS": self.unit,
            "SINGLES": self.singles,
            "WIDTH": self.width,
            "GROUPS": 2 * counters // self.width,
            **_options(self.distribution, self.dtype),
        }


class Cut(NamedTuple):
    """A tensor that goes by rows."""

    tensor: torch.Tensor
    draw: Draw
    dims: list[tuple[int, int, int]]
    found: Grouping

    def group(self, counters: int) -> CutGroup:
        matrix, unit, _, singles, width, *_ = self.found
        wide = is_wide(self.found, 2 * counters // width)
        return CutGroup(self.tensor.dtype, variant(self.draw), wide, matrix, unit, singles, width)


Groups: TypeAlias = dict[Group | CutGroup, list[Any]]
Item: TypeAlias = tuple[torch.Tensor, Draw]


def fill_many(
    items: Sequence[tuple[torch.Tensor, Draw]],
    alike: Sequence[Alike] = (),
    *,
    counters: int = COUNTERS,
    tiles_per_program: int | None = None,
) -> None:
    """Write each draw into its tensor as :func:`fill` does, in few launches.

    One launch serves all runs of a device, dtype and distribution, and another those of them whose memory no
    16-byte store fits. Likewise of tensors that go by rows: one launch serves matrices whose every group is
    stored 16 bytes at a time, one other matrices; those of more dimensions, of rows apart in memory and of
    nearly 2**31 elements have their own. All tables go to a device in one copy. Launches on each device's
    current stream, without synchronising. What goes neither way is launched one by one, and so is every
    tensor while a CUDA graph is captured: replayed, the copy would read memory freed since.

    Args:
        items: tensors that do not overlap, and what to write into them.
        alike: others, of which many have the same written.
        counters: blocks that a program draws at a time (a power of two); never changes a value.
        tiles_per_program: how often a program does so, by default more the more there is to draw; never
            changes a value.
    """
    if len(items) == 1 and not alike:
        fill(*items[0], counters=counters)
        return
    devices: dict[torch.device, tuple[list[Item], list[Alike]]] = defaultdict(lambda: ([], []))
    for item in items:
        if item[0].numel():
            devices[item[0].device][0].append(item)
    for each in alike:
        if each.targets:
            devices[each.targets[0].device][1].append(each)
    for device, (members, together) in devices.items():
        any_of = members[0][0] if members else together[0].targets[0]
        with triton_launch.on_device(any_of):
            if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
                groups: Groups = {}
                alone = [*members, *(item for each in together for item in each.items())]
            else:
                groups, alone = _group(members, together, counters)
            for tensor, draw in alone:
                fill(tensor, draw, counters=counters)
            if groups:
                _launch(device, groups, counters, tiles_per_program)


class KeptTable:
    """Tensors of one device, written again and again by other seeds, which lie in its memory.

    Nothing passes from the host to the device at a call but launches: one writes the seeds to where kernels
    read them, and one serves each distribution and dtype, as in :func:`fill_many`. So a call can be captured
    in a CUDA graph, whose replays draw by the seeds that are there then.

    Args:
        items: as :func:`fill_many` takes them; each the first of ``count``.
        strides: bytes from one of those to the next.
        count: of each; the k-th by the k-th seed.

    Attributes:
        left: of the items, with their strides, those that no launch over many serves.
    """

    def __init__(
        self, items: Sequence[Item], strides: Sequence[int], count: int, *, counters: int = COUNTERS
    ) -> None:
        self.left: list[tuple[Item, int]] = []
        self._counters, self._count = counters, count
        groups: Groups = defaultdict(list)
        steps: dict[Group, list[int]] = defaultdict(list)
        for item, stride in zip(items, strides, strict=True):
            found, alone = _grouped([item], counters) if item[0].numel() else ({}, [])
            if alone or (count > 1 and not all(isinstance(group, Group) for group in found)):
                self.left.append((item, stride))
                continue
            for group, members in found.items():
                if isinstance(group, Group):  # 16 has to divide every origin
                    group = group._replace(aligned=group.aligned and (count == 1 or stride % 16 == 0))
                    steps[group].append(stride)
                groups[group] += members
        words, self._launches = _laid_out(groups, counters, None, steps, count)
        places, which = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        for (group, members), (_, rows_at, *_) in zip(groups.items(), self._launches, strict=True):
            one, cut = (DOUBLE_ROW, DOUBLE_CUT_ROW) if group.dtype == torch.float64 else (ROW, CUT_ROW)
            row = one if isinstance(group, Group) else cut
            number = np.arange(len(members) * count)
            offset = row.fields["seed"][1]  # type: ignore[index]
            places.append(rows_at + (number * row.itemsize + offset) // 8)
            which.append(number % count)
        tables = (
            np.concatenate([np.empty(0, np.int64), *words]),
            np.concatenate(places),
            np.concatenate(which),
        )
        device = items[0][0].device
        self._words, self._places, self._which = (torch.from_numpy(each).to(device) for each in tables)

    def write(self, seeds: torch.Tensor) -> None:
        """Write all of them by seeds: int64, on the tensors' device; the k-th is that of the k-th of each."""
        with triton_launch.on_device(self._words):
            own = seeds.expand(self._places.shape) if self._count == 1 else seeds[self._which]
            self._words.index_copy_(0, self._places, own)
            for group, rows_at, programs_at, tiles, grid in self._launches:
                group.launch(grid, self._counters, self._words, rows_at, programs_at, tiles)


def _group(items: list[Item], alike: list[Alike], counters: int) -> tuple[Groups, list[Item]]:
    """The tensors of a device that share launches, and those to launch one by one."""
    groups, alone = _grouped(items, counters)
    for each in alike:
        _add_alike(groups, each)
    several: Groups = {}
    for group, found in groups.items():
        first = found[0]
        if len(found) == 1 and (isinstance(first, Cut) or len(first.origins) == 1):
            draw = first.draw
            if isinstance(first, Runs):
                draw = draw._replace(seed=first.seeds[0], stream=first.streams[0])
            alone.append((first.tensor, draw))
        else:
            several[group] = found
    return several, alone


def _add_alike(groups: Groups, alike: Alike) -> None:
    targets, draw, seeds, streams = alike
    first = targets[0]
    origins = [*map(torch.Tensor.data_ptr, targets)]
    if draw.start:
        before = draw.start * first.itemsize
        origins = [(origin - before) & 0xFFFFFFFFFFFFFFFF for origin in origins]
    dtype, distribution, size = first.dtype, variant(draw), first.numel()
    if not reduce(or_, origins) % 16:  # as torch's allocators have it
        groups[Group(dtype, distribution, True)].append(Runs(first, draw, size, origins, seeds, streams))
        return
    for aligned in (True, False):
        which = [k for k, origin in enumerate(origins) if (origin % 16 == 0) == aligned]
        if which:
            columns = [[column[k] for k in which] for column in (origins, seeds, streams)]
            runs = Runs(targets[which[0]], draw, size, *columns)
            groups[Group(dtype, distribution, aligned)].append(runs)


def _grouped(items: Sequence[Item], counters: int) -> tuple[Groups, list[Item]]:
    """The tensors of a device by what launches over many have in common, and those that none serves."""
    alone: list[Item] = []
    groups: Groups = defaultdict(list)
    kinds: dict[Any, Runs] = {}
    waiting = [*items[::-1]]
    while waiting:
        tensor, draw = waiting.pop()
        if not (tensor.stride() == draw.strides and tensor.is_contiguous()):
            dims = stream.collapse(tensor.shape, tensor.stride(), draw.strides)
            if len(dims) > MAX_DIMS and not is_run(dims):
                waiting += _parts(tensor, draw)[::-1]
                continue
            if not is_run(dims):
                if goes_by_rows(dims):
                    cut = Cut(tensor, draw, dims, _grouping(tensor, draw, dims, among_others=True))
                    groups[cut.group(counters)].append(cut)
                else:
                    alone.append((tensor, draw))
                continue
        dtype, size = tensor.dtype, tensor.numel()
        name, parameters, seed, key_stream, start, _, is_stochastic = draw
        origin = (tensor.data_ptr() - start * tensor.itemsize) & 0xFFFFFFFFFFFFFFFF
        # By what is there already: to find out what a draw's variant is takes longer, and so does a Group.
        kind = dtype, name, is_stochastic, id(parameters), start, size, origin % 16 == 0
        found = kinds.get(kind)
        if found is None:
            found = kinds[kind] = Runs(tensor, draw, size, [], [], [])
            groups[Group(dtype, variant(draw), origin % 16 == 0)].append(found)
        found.origins.append(origin)
        found.seeds.append(seed)
        found.streams.append(key_stream)
    return groups, alone


def _launch(device: torch.device, groups: Groups, counters: int, tiles_per_program: int | None) -> None:
    """Launch the groups of the current device, behind one copy of their tables."""
    words, launches = _laid_out(groups, counters, tiles_per_program)
    # Pinned, so that the host need not wait; torch keeps the memory until the stream has read it.
    size = sum(map(len, words))
    host = torch.empty(size, dtype=torch.int64, device="cpu", pin_memory=device.type == "cuda")
    np.concatenate(words, out=host.numpy())
    table = host.to(device, non_blocking=True)
    for group, rows_at, programs_at, tiles, grid in launches:
        group.launch(grid, counters, table, rows_at, programs_at, tiles)


Launch: TypeAlias = tuple[Group | CutGroup, int, int, int, int]


def _laid_out(
    groups: Groups,
    counters: int,
    tiles_per_program: int | None,
    strides: Mapping[Group, Sequence[int]] | None = None,
    count: int = 1,
) -> tuple[list[npt.NDArray[np.int64]], list[Launch]]:
    """The words of groups' tables, one after another, and of each launch what it is given.

    Of runs there are ``count`` each, so many bytes apart.
    """
    words: list[npt.NDArray[np.int64]] = []
    launches: list[Launch] = []
    end = 0
    for group, members in groups.items():
        if isinstance(group, Group):
            apart = strides[group] if strides else ()
            rows, programs, tiles = _table(members, 4 * counters, tiles_per_program, apart, count)
        else:
            rows, programs, tiles = _cut_table(members, 2 * counters // group.width, tiles_per_program)
        padded = np.append(programs, programs[: programs.size % 2])  # two to a word
        launches.append((group, end, end + rows.nbytes // 8, tiles, programs.size))
        words += [rows.view(np.int64).ravel(), padded.view(np.int64)]
        end += (rows.nbytes + padded.nbytes) // 8
    return words, launches


Table: TypeAlias = tuple[npt.NDArray[np.void], npt.NDArray[np.int32], int]


def _table(
    runs: list[Runs], tile: int, tiles_per_program: int | None, strides: Sequence[int] = (), count: int = 1
) -> Table:
    """The rows of a launch, the number of each program's row, and how many tiles a program draws.

    Of each tensor there are ``count``, so many bytes apart.
    """
    dtype = DOUBLE_ROW if runs[0].tensor.dtype == torch.float64 else ROW
    sizes = [len(run.origins) for run in runs]
    each = np.zeros(len(runs), dtype)  # what all tensors of a run have
    each["start"] = [run.draw.start for run in runs]
    each["stop"] = each["start"] + [run.size for run in runs]
    parameters = np.array([run.draw.parameters for run in runs], dtype["parameters"].base)
    each["parameters"][:, : parameters.shape[1]] = parameters
    first = each["start"] // tile
    tiles = (each["stop"] - 1) // tile - first + 1
    rows, first, tiles = (np.repeat(column, sizes) for column in (each, first, tiles))
    for column, values in (("origin", "origins"), ("seed", "seeds"), ("stream", "streams")):
        found = chain.from_iterable([getattr(run, values) for run in runs])
        rows[column] = np.fromiter(found, np.uint64, len(rows))
    if count > 1:
        rows, first, tiles = (np.repeat(column, count) for column in (rows, first, tiles))
        number = np.tile(np.arange(count, dtype=np.uint64), len(runs))
        rows["origin"] += number * np.repeat(np.array(strides, np.uint64), count)
    return _shared(rows, first, tiles, tiles_per_program)


def _cut_table(cuts: list[Cut], groups: int, tiles_per_program: int | None) -> Table:
    """The same of tensors that go by rows, of which a tile is so many groups."""
    dtype = DOUBLE_CUT_ROW if cuts[0].tensor.dtype == torch.float64 else CUT_ROW
    rows = np.zeros(len(cuts), dtype)
    _, parameters, seeds, streams, starts, *_ = zip(*[cut.draw for cut in cuts], strict=True)
    rows["start"] = starts
    rows["stream"] = np.array(streams, np.uint64)
    rows["seed"] = np.array(seeds, np.uint64)
    rows["parameters"][:, : len(parameters[0])] = np.array(parameters, dtype["parameters"].base)
    rows["address"] = [cut.tensor.data_ptr() for cut in cuts]
    rows["shape"] = [_shape(cut.dims, cut.found) for cut in cuts]
    first = np.zeros(len(cuts), np.int64)
    return _shared(rows, first, -(-rows["shape"][:, -1] // groups), tiles_per_program)


def _shared(
    rows: npt.NDArray[np.void],
    first: npt.NDArray[np.int64],
    count: npt.NDArray[np.int64],
    tiles_per_program: int | None,
) -> Table:
    """Share the ``count`` tiles of each row, from its ``first`` on, among programs."""
    tiles = tiles_per_program or min(max(int(count.sum()) // PROGRAMS, 1), MOST_TILES)
    programs = -(-count // tiles)
    rows["tile"] = first - (np.cumsum(programs) - programs) * tiles
    return rows, np.repeat(np.arange(len(rows), dtype=np.int32), programs), tiles
