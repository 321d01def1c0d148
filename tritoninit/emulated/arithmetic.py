"""float32 and float64 on patterns, rounded as IEEE 754-2019 says: what instructions compute, not kernels.

Operands and results are arrays of uint32, or of uint64, that hold the bits; a NaN that comes out is always
the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Words = npt.NDArray[np.uint32]
Longs = npt.NDArray[np.uint64]

u16, u32, u64 = np.uint16, np.uint32, np.uint64
NAN: Final = u32(0x7FFFFFFF)
SIGN: Final = u32(0x80000000)
_EXPONENT: Final = u32(0x7F800000)
_FLOATS: Final[dict[int, Any]] = {4: np.float32, 8: np.float64}
_NANS: Final[dict[int, Any]] = {4: NAN, 8: u64(0x7FFFFFFFFFFFFFFF)}
_SIGNS: Final[dict[int, Any]] = {4: SIGN, 8: u64(1 << 63)}


def floats(bits: Array) -> Array:
    """The numbers that the patterns stand for, of as many bits."""
    return np.ascontiguousarray(bits).view(_FLOATS[bits.itemsize])


def patterns(numbers: Array) -> Array:
    """The patterns of float32 or float64 numbers, with one NaN for all."""
    bits = np.ascontiguousarray(numbers).view(f"u{numbers.itemsize}")
    wrong = numbers != numbers
    return np.where(wrong, _NANS[numbers.itemsize], bits) if wrong.any() else bits


def signed(words: Words) -> npt.NDArray[np.int32]:
    return np.ascontiguousarray(words).view(np.int32)


def signed_long(longs: Longs) -> npt.NDArray[np.int64]:
    return np.ascontiguousarray(longs).view(np.int64)


def extended(words: Words) -> Longs:
    """32-bit integers with their sign, as 64 bits."""
    return signed(words).astype(np.int64).view(u64)


def joined(low: Words, high: Words) -> Longs:
    return low.astype(u64) | (high.astype(u64) << u64(32))


def low(longs: Longs) -> Words:
    return longs.astype(u32)


def high(longs: Longs) -> Words:
    return (longs >> u64(32)).astype(u32)


def packed(first: Array, second: Array) -> Words:
    """Two 16-bit patterns in a word, the first in its lower half."""
    return first.astype(u32) | (second.astype(u32) << u32(16))


def flushed(bits: Words) -> Words:
    """Subnormals replaced by zeros of their sign."""
    return np.where((bits & _EXPONENT) == 0, bits & SIGN, bits)


def flushing(operation: Callable[..., Words]) -> Callable[..., Words]:
    """An operation whose subnormal operands and results are zeros (.ftz)."""
    return lambda *operands: flushed(operation(*map(flushed, operands)))


def add(a: Array, b: Array) -> Array:
    return patterns(floats(a) + floats(b))


def subtract(a: Array, b: Array) -> Array:
    return patterns(floats(a) - floats(b))


def multiply(a: Array, b: Array) -> Array:
    return patterns(floats(a) * floats(b))


def divide(a: Array, b: Array) -> Array:
    return patterns(floats(a) / floats(b))


def fma(a: Words, b: Words, c: Words) -> Words:
    """a * b + c, rounded once.

    The product is exact in float64, its sum with c exact as total + error (TwoSum: Knuth, TAOCP 2, 4.2.2).
    Rounded to odd, it rounds to float32 as the exact sum would (Boldo and Melquiond, 2008).
    """
    product = floats(a).astype(np.float64) * floats(b).astype(np.float64)
    addend = floats(c).astype(np.float64)
    total = product + addend
    added = total - product
    error = (product - (total - added)) + (addend - added)
    inexact = (error != 0) & np.isfinite(total)
    if inexact.any():
        bits = total.view(np.int64)
        outward = np.where((error > 0) == (total > 0), 1, -1)
        total = np.where(inexact & (bits & 1 == 0), bits + outward, bits).view(np.float64)
    return patterns(total.astype(np.float32))


# Of factors and a sum whose exponents lie between these, all that a product and a sum miss is a number.
_SAFE: Final = 2.0**400


def fma_long(a: Longs, b: Longs, c: Longs) -> Longs:
    """a * b + c of float64, rounded once.

    What a product misses is exact (Dekker, 1971), and what two sums miss, rounded to odd, is enough to have
    the last sum round as the exact one would (Boldo and Melquiond, 2008, figure 4). Numbers that are near the
    ends of the range go by :func:`exact_long`.
    """
    x, y, z = np.broadcast_arrays(*map(floats, (a, b, c)))
    upper, lower = _product(x, y)
    high, low = _sum(z, lower)
    top, middle = _sum(upper, high)
    total = top + _rounded_to_odd(middle, low)
    found: Longs = patterns(np.asarray(total))
    rare = np.zeros(x.shape, np.bool_)
    for number in (x, y, z):
        size = np.abs(number)
        rare |= (size != 0) & ~((size < _SAFE) & (size > 1 / _SAFE))
    if rare.any():
        found = np.where(rare, u64(0), found)
        found[rare] = exact_long(patterns(x[rare]), patterns(y[rare]), patterns(z[rare]))
    return found


def exact_long(a: Longs, b: Longs, c: Longs, toward: float = 0.0) -> Longs:
    """a * b + c of float64 in fractions, rounded to nearest even, or toward an infinity."""
    numbers = np.broadcast_arrays(*map(floats, (a, b, c)))
    each = zip(*(number.tolist() for number in numbers), strict=True)
    rounded = [_rounded(x, y, z, toward) for x, y, z in each]
    return patterns(np.array(rounded, np.float64))


def _rounded(x: float, y: float, z: float, toward: float) -> float:
    if not (math.isfinite(x) and math.isfinite(y)):
        return x * y + z
    if not math.isfinite(z):
        return z
    exact = Fraction(x) * Fraction(y) + Fraction(z)
    if not exact:  # of zeros of one sign that one; else plus zero, toward minus infinity minus zero
        sign = math.copysign(1.0, x) * math.copysign(1.0, y)
        same = sign == math.copysign(1.0, z) and (not x or not y) and not z
        return math.copysign(0.0, sign if same else -1.0 if toward < 0 else 1.0)
    try:
        nearest = float(exact)
    except OverflowError:
        nearest = math.inf if exact > 0 else -math.inf
    if (
        toward
        and not math.isinf(nearest)
        and (exact - Fraction(nearest)) * Fraction(math.copysign(1, toward)) > 0
    ):
        return math.nextafter(nearest, toward)
    return nearest


def _sum(x: Array, y: Array) -> tuple[Array, Array]:
    """The rounded sum, and what it misses (Knuth, TAOCP 2, 4.2.2)."""
    total = x + y
    added = total - x
    return total, (x - (total - added)) + (y - added)


def _product(x: Array, y: Array) -> tuple[Array, Array]:
    """The rounded product, and what it misses, of factors split by Veltkamp's constant."""
    product = x * y
    (a, b), (c, d) = _halves(x), _halves(y)
    return product, ((a * c - product) + a * d + b * c) + b * d


def _halves(x: Array) -> tuple[Array, Array]:
    moved = x * 134217729.0  # 2**27 + 1
    upper = moved - (moved - x)
    return upper, x - upper


def _rounded_to_odd(x: Array, y: Array) -> Array:
    """The sum; where that is not exact, of the two numbers about it the one with an odd last bit."""
    total, missed = _sum(x, y)
    bits = np.asarray(total).view(np.int64)
    outward = np.where((missed > 0) == (total > 0), 1, -1)
    return np.where((missed != 0) & (bits & 1 == 0), bits + outward, bits).view(np.float64)


def square_root(a: Array) -> Array:
    return patterns(np.sqrt(floats(a)))


def minimum(a: Array, b: Array) -> Array:
    """The smaller; of zeros the negative one; of a number and a NaN the number."""
    return _chosen(a, b, np.less, a | b)


def maximum(a: Array, b: Array) -> Array:
    """The larger; of zeros the positive one; of a number and a NaN the number."""
    return _chosen(a, b, np.greater, a & b)


def _chosen(a: Array, b: Array, before: Callable[..., Array], equal: Array) -> Array:
    x, y = floats(a), floats(b)
    found = np.where(before(x, y), a, np.where(before(y, x), b, equal))
    nan = _NANS[a.itemsize]
    return np.where(x != x, np.where(y != y, nan, b), np.where(y != y, a, found))


def absolute(a: Array) -> Array:
    found: Array = a & ~_SIGNS[a.itemsize]
    return found


def negative(a: Array) -> Array:
    found: Array = a ^ _SIGNS[a.itemsize]
    return found


def from_signed(a: Words) -> Words:
    return patterns(signed(a).astype(np.float64).astype(np.float32))


def from_unsigned(a: Words) -> Words:
    return patterns(a.astype(np.float64).astype(np.float32))


def long_from_signed(a: Longs) -> Longs:
    """A float64 of an integer of 64 bits, which rounds."""
    return patterns(signed_long(a).astype(np.float64))


def long_from_unsigned(a: Longs) -> Longs:
    return patterns(a.astype(np.float64))


def to_unsigned(a: Words) -> Words:
    """Toward zero, what lies outside replaced by the nearest; 0 for NaN."""
    number = np.nan_to_num(floats(a).astype(np.float64), nan=0.0, posinf=2.0**33, neginf=-1.0)
    return np.clip(np.trunc(number), 0, 2.0**32 - 1).astype(u32)


def to_float16(a: Words) -> npt.NDArray[np.uint16]:
    number = floats(a)
    return np.where(number != number, u16(0x7FFF), number.astype(np.float16).view(u16))


def to_bfloat16(a: Words) -> npt.NDArray[np.uint16]:
    """To nearest even: half of what is cut off is added before, and one less where the kept part is even."""
    half = u64(0x7FFF) + ((a >> u32(16)) & u32(1))
    found = ((a.astype(u64) + half) >> u64(16)).astype(u16)
    return np.where(floats(a) != floats(a), u16(0x7FFF), found)


def permuted(bytes_of: Longs, selector: Words, step: int, pick: Callable[[Longs, Words], Longs]) -> Words:
    """Four bytes, each ``pick`` of the eight of ``bytes_of`` by ``step`` bits of the selector."""
    found = np.zeros(np.broadcast(bytes_of, selector).shape, u32)
    for k in range(4):
        number = (selector >> u32(step * k)) & u32((1 << step) - 1)
        found = found | (pick(bytes_of, number).astype(u32) << u32(8 * k))
    return found


def byte(bytes_of: Longs, number: Words) -> Longs:
    return (bytes_of >> ((number & u32(7)).astype(u64) * u64(8))) & u64(255)


def prmt(a: Words, b: Words, selector: Words) -> Words:
    """PTX's prmt and SASS's PRMT: four bytes of eight, or where a selector's bit 3 is set, their sign."""

    def pick(eight: Longs, number: Words) -> Longs:
        value = byte(eight, number)
        return np.where(number & u32(8), np.where(value >> u64(7), u64(255), u64(0)), value)

    return permuted(joined(a, b), selector, 4, pick)
