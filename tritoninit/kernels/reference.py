"""The stream in NumPy: the definition that every other backend must equal, bit for bit.

Written to be read beside ``kernels/README.md``. A chunk is drawn at a time, which bounds the scratch whatever
the tensor's size; chunks go to a thread pool.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tritoninit.kernels import chunks, doubles, reference_doubles, stream
from tritoninit.kernels.chunks import Array, Coordinates, Drawer, Item, Places
from tritoninit.kernels.stream import Draw

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint32]
Wide = npt.NDArray[np.uint64]

CHUNK = 1 << 19  # elements: long operations, so that threads seldom meet at the interpreter's lock

_LOW_32 = np.uint64(0xFFFFFFFF)
_HIGH_32 = np.uint64(32)
_MULTIPLIERS = np.array([[stream.PHILOX_M0], [stream.PHILOX_M1]], np.uint64)
_WEYL = np.array([[stream.PHILOX_W0], [stream.PHILOX_W1]], np.uint64)


def philox4x32(even: Wide, odd: Wide, key: Wide) -> None:
    """Philox4x32-10, in place: counters become words.

    Args:
        even: (2, n), the 32-bit words c0 and c2 in uint64, so that products are whole.
        odd: (2, n), c1 and c3.
        key: (2, 1), k0 and k1; left as it is.
    """
    product = np.empty_like(even)
    for _ in range(stream.PHILOX_ROUNDS):
        np.multiply(even, _MULTIPLIERS, out=product)
        crossed = product[::-1]  # c0 comes of the product of c2, and c2 of that of c0
        np.right_shift(crossed, _HIGH_32, out=even)
        even ^= odd
        even ^= key
        np.bitwise_and(crossed, _LOW_32, out=odd)
        key = (key + _WEYL) & _LOW_32


def words(seed: int, stream_: int, blocks: Wide) -> Words:
    """The words (4, n) of n 64-bit blocks of a stream."""
    even, odd = np.empty((2, 2, blocks.size), np.uint64)
    even[0], odd[0] = blocks & _LOW_32, blocks >> _HIGH_32
    even[1], odd[1] = stream_ & 0xFFFFFFFF, stream_ >> 32
    philox4x32(even, odd, np.array([[seed & 0xFFFFFFFF], [seed >> 32]], np.uint64))
    found = np.empty((4, blocks.size), np.uint32)
    found[0::2], found[1::2] = even, odd
    return found


def fma(a: Any, b: Any, c: Any) -> Floats:
    """float32 ``a * b + c``, rounded once.

    The product of two float32 is exact in float64; the sum is rounded to float64 and then to float32. Over
    the stream's whole domain that equals the single rounding of a true fma (tested exhaustively).
    """
    product = np.multiply(a, b, dtype=np.float64)
    rounded = np.empty(product.shape, np.float32)
    np.add(product, c, out=rounded, dtype=np.float64, casting="same_kind")
    return rounded


def polynomial(x: Floats, coefficients: tuple[float, ...]) -> Floats:
    """Horner's rule in float32 fma, highest power first."""
    wide = x.astype(np.float64)
    value = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = fma(value, wide, coefficient)
    return value


def minus_two_log(x: Floats, exponent: int) -> Floats:
    """-2 ln(x * 2**-exponent) of positive normal float32 ``x``."""
    bits = x.view(np.int32)
    shift = exponent << 23
    power = (bits - np.int32(stream.LOG_SPLIT + shift)) & np.int32(-(1 << 23))
    m = (bits - power - np.int32(shift)).view(np.float32) - np.float32(1)
    near = fma(m, -2.0, (m * m) * polynomial(m, stream.LOG))
    return fma(power.astype(np.float32), stream.MINUS_TWO_LN2 / 2**23, near)


def radius(x: Words) -> Floats:
    """sqrt(-2 ln(float32(x | 1) * 2**-32)), in [0, 6.66]."""
    return np.sqrt(minus_two_log((x | np.uint32(1)).astype(np.float32), 32))


def sine(f: Floats) -> Floats:
    """sin(pi/2 f) of quarter turns f in [-1, 1]."""
    w = fma(-f, f, 1.0)
    return fma(f, w * polynomial(w, stream.SINE), f)


def box_muller(x: Words, y: Words) -> tuple[Floats, Floats]:
    """Two independent standard normals r cos t, r sin t from two words (Box and Muller, 1958).

    t = 2 pi y / 2**32 = pi h + pi/2 (1 - f), with h the top bit of y and f in [-1, 1]. So
    cos t = (-1)**h sin(pi/2 f) and sin t = (-1)**h sin(pi/2 (1 - |f|)).
    """
    turned = (y << np.uint32(1)) + np.uint32(1 << 31)
    f = turned.view(np.int32).astype(np.float32) * np.float32(-(2.0**-31))
    half_turn = y & np.uint32(1 << 31)
    signed = (radius(x).view(np.uint32) ^ half_turn).view(np.float32)
    return signed * sine(f), signed * sine(np.float32(1) - np.abs(f))


def _keep_within(value: Floats, floor: float, cap: float) -> Floats:
    np.maximum(value, np.float32(floor), out=value)
    return np.minimum(value, np.float32(cap), out=value)


def uniform(x: Words, low: float, scale: float, floor: float, cap: float) -> Floats:
    """low + u * span in two roundings, u = (x >> 8) * 2**-24, kept within [floor, cap]."""
    value = (x >> np.uint32(8)).view(np.int32).astype(np.float32)
    value *= np.float32(scale)
    value += np.float32(low)
    return _keep_within(value, floor, cap)


def normal(x: Words, mean: float, std: float) -> Floats:
    """mean + z * std in two roundings, z by Box-Muller on the word pairs (0, 1) and (2, 3)."""
    z = np.empty(x.shape, np.float32)
    for pair in (0, 2):  # one at a time, for less scratch
        z[pair], z[pair + 1] = box_muller(x[pair], x[pair + 1])
    z *= np.float32(std)
    z += np.float32(mean)
    return z


def slope(below: Floats, above: Floats) -> Floats:
    """z / (below - above) of the standard normal z with P(Z < z) = below and P(Z > z) = above."""
    big = minus_two_log(below * above, -2)
    centre = polynomial(big - np.float32(stream.QUANTILE_CENTRE_SHIFT), stream.QUANTILE_CENTRE)
    root = np.sqrt(np.maximum(big, np.float32(stream.QUANTILE_SPLIT)))
    tail = polynomial(root - np.float32(stream.QUANTILE_TAIL_SHIFT), stream.QUANTILE_TAIL)
    return np.where(big < np.float32(stream.QUANTILE_SPLIT), centre, tail)


def truncated_normal(
    x: Words,
    mean: float,
    std: float,
    below: float,
    above: float,
    difference: float,
    mass: float,
    floor: float,
    cap: float,
) -> Floats:
    """Inverse distribution function: mean + z * std in two roundings, kept within [floor, cap]."""
    value = np.empty(x.shape, np.float32)
    for lane, word in enumerate(x):  # one at a time, for less scratch
        odd = word | np.uint32(1)
        left = odd.astype(np.float32) * np.float32(mass) + np.float32(below)
        right = (~word | np.uint32(1)).astype(np.float32) * np.float32(mass) + np.float32(above)
        signed = (odd ^ np.uint32(1 << 31)).view(np.int32).astype(np.float32)
        value[lane] = signed * np.float32(2 * mass) + np.float32(difference)
        value[lane] *= slope(left, right)
    value *= np.float32(std)
    value += np.float32(mean)
    return _keep_within(value, floor, cap)


_TRANSFORMS: dict[str, Callable[..., Floats]] = {
    "uniform": uniform,
    "normal": normal,
    "truncated_normal": truncated_normal,
}


def stochastic(x: Floats, word: Words, grid: stream.Grid) -> Floats:
    """The number of a format above or below ``x``, as a float32: ``x`` in the mean over the words."""
    bits, d = x.view(np.uint32), grid.dropped
    moved = (bits + (word >> np.uint32(32 - d))) & np.uint32(2**32 - 2**d)
    if not grid.smallest_normal:
        return moved.view(np.float32)
    # Below its normal numbers the format is a grid, float32's about another number: the sum rounds to it.
    size, step, about = np.abs(x), np.float32(grid.step), np.float32(grid.step * 2**23)
    low = (size + about) - about
    low = np.where(low > size, low - step, low)
    share = (~word >> np.uint32(8)).astype(np.float32) * np.float32(grid.step * 2.0**-24)
    small = np.copysign(low + np.where(share < size - low, step, np.float32(0)), x)
    magnitude = bits & np.uint32(0x7FFFFFFF)
    return np.where(magnitude < np.uint32(grid.smallest_normal), small, moved.view(np.float32))


def byte(x: Floats, form: stream.Float8) -> Array:
    """The patterns of a format of 8 bits, as PyTorch casts float32 to it."""
    bits = x.view(np.int32)
    magnitude = bits & np.int32(0x7FFFFFFF)
    # Below its normal numbers the format is a grid, float32's about another number: the sum rounds to it.
    with np.errstate(all="ignore"):
        moved = magnitude.view(np.float32) + np.int32(form.grid).view(np.float32)
    small = moved.view(np.int32) - np.int32(form.grid)
    odd = (magnitude >> np.int32(form.dropped)) & np.int32(1)
    half = np.int32((1 << (form.dropped - 1)) - 1)
    large = (magnitude - np.int32(form.rebias) + half + odd) >> np.int32(form.dropped)
    pattern = np.where(magnitude < np.int32(form.smallest_normal), small, large)
    pattern = np.where(pattern > np.int32(form.largest), np.int32(form.beyond), pattern)
    pattern = np.where(magnitude > np.int32(0x7F800000), np.int32(form.nan), pattern)
    sign = (bits >> np.int32(24)) & np.int32(0x80)
    if form.one_zero:
        sign = np.where(pattern == 0, np.int32(0), sign)
    patterns: npt.NDArray[np.uint8] = (pattern | sign).astype(np.uint8)
    return patterns


def narrow(x: Array, dtype: str) -> Array:
    """float32 rounded once, to nearest even; bfloat16 and 8-bit floats are given as their patterns."""
    if dtype in ("float32", "float64"):
        return x
    if dtype == "float16":
        with np.errstate(all="ignore"):
            return x.astype(np.float16)
    if dtype in stream.FLOAT8:
        return byte(x, stream.FLOAT8[dtype])
    bits = x.view(np.uint32)
    bits = (bits + (((bits >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF))) >> np.uint32(16)
    return bits.astype(np.uint16)


def values(draw: Draw, blocks: Wide, dtype: str) -> Array:
    """The values (4, n) of n blocks: float64 for that dtype, float32 for all others.

    Those that are rounded stochastically have been, to float32 numbers that the dtype has.
    """
    with np.errstate(all="ignore"):  # whatever the caller's settings would raise
        if dtype == "float64":
            low = words(draw.seed, draw.stream, blocks | np.uint64(doubles.LOW_HALVES))
            wide = reference_doubles.joined(words(draw.seed, draw.stream, blocks), low)
            return reference_doubles.TRANSFORMS[draw.distribution](wide, *draw.parameters)
        drawn = _TRANSFORMS[draw.distribution](words(draw.seed, draw.stream, blocks), *draw.parameters)
        if not draw.stochastic:
            return drawn
        deciding = words(draw.seed, draw.stream, blocks | np.uint64(stream.ROUNDING))
        return stochastic(drawn, deciding, stream.GRIDS[dtype])


def run(out: Array, dtype: str, draw: Draw, first: int) -> None:
    """Write the elements ``first``, ``first + 1``, ... of the stream into a contiguous 1-d array."""
    blocks = np.arange(first // 4, (first + out.size + 3) // 4, dtype=np.uint64)
    in_order = narrow(values(draw, blocks, dtype), dtype).T.reshape(-1)
    out[:] = in_order[first % 4 : first % 4 + out.size]


def rows(out: Array, dtype: str, draw: Draw, places: Places, at: Coordinates) -> None:
    """Write into each row ``out[at]``, along the last dimension, the elements from its place on."""
    length = out.shape[-1]
    words_before = (places % np.uint64(4)).astype(np.intp)  # of a row's first block
    count = (int(words_before.max()) + length + 3) // 4
    blocks = (places // np.uint64(4))[:, None] + np.arange(count, dtype=np.uint64)
    in_order = narrow(values(draw, blocks.reshape(-1), dtype), dtype).T.reshape(places.size, 4 * count)
    for begin in set(words_before.tolist()):
        here = words_before == begin
        out[tuple(each[here] for each in at)] = in_order[here, begin : begin + length]


def constant(out: Array, dtype: str, draw: Draw) -> None:
    """Set an array of any layout to the draw's one parameter."""
    (value,) = draw.parameters
    if dtype in ("float32", "float64"):
        out[...] = out.dtype.type(value)
    else:
        out[...] = narrow(np.array([value], np.float32), dtype)[0]


DRAWER = Drawer(constant, run, rows, CHUNK)


@cache
def _reuse_scratch() -> None:
    """Have glibc keep freed scratch for the next operation.

    Its malloc maps large blocks anew, at a page fault every 4 KiB, until one as large was freed: from then on
    blocks up to that size are kept (mallopt(3), the dynamic M_MMAP_THRESHOLD). Faults took over half of the
    time. Other allocators see one allocation that is never touched.
    """
    np.empty(1 << 24, np.uint8)


def fill_many(items: Sequence[Item], threads: int = 1) -> None:
    """Write draws into arrays of any layout that do not overlap, in place.

    Args:
        items: (target, dtype, draw) each, where the target is float64, float32, float16, the uint16 patterns
            of bfloat16 or the uint8 ones of an 8-bit float, and the dtype one of ``lowering.FLOAT_DTYPES``.
        threads: how many threads share the chunks.
    """
    _reuse_scratch()
    chunks.fill(DRAWER, items, threads)
