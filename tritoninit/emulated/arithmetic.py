"""float32 on 32-bit patterns, rounded as IEEE 754-2019 says: what instructions compute, not what kernels do.

Operands and results are uint32 arrays that hold the bits; a NaN that comes out is always ``NAN``.
"""

from __future__ import annotations

from collections.abc import Callable
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


def floats(bits: Array) -> npt.NDArray[np.float32]:
    """The numbers that the patterns stand for."""
    return np.ascontiguousarray(bits).view(np.float32)


def patterns(numbers: Array) -> Words:
    """The patterns of float32 numbers, with one NaN for all."""
    bits = np.ascontiguousarray(numbers).view(u32)
    wrong = numbers != numbers
    return np.where(wrong, NAN, bits) if wrong.any() else bits


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


def add(a: Words, b: Words) -> Words:
    return patterns(floats(a) + floats(b))


def subtract(a: Words, b: Words) -> Words:
    return patterns(floats(a) - floats(b))


def multiply(a: Words, b: Words) -> Words:
    return patterns(floats(a) * floats(b))


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


def square_root(a: Words) -> Words:
    return patterns(np.sqrt(floats(a)))


def minimum(a: Words, b: Words) -> Words:
    """The smaller; of zeros the negative one; of a number and a NaN the number."""
    return _chosen(a, b, np.less, a | b)


def maximum(a: Words, b: Words) -> Words:
    """The larger; of zeros the positive one; of a number and a NaN the number."""
    return _chosen(a, b, np.greater, a & b)


def _chosen(a: Words, b: Words, before: Callable[..., Array], equal: Words) -> Words:
    x, y = floats(a), floats(b)
    found = np.where(before(x, y), a, np.where(before(y, x), b, equal))
    return np.where(x != x, np.where(y != y, NAN, b), np.where(y != y, a, found))


def absolute(a: Words) -> Words:
    return a & ~SIGN


def negative(a: Words) -> Words:
    return a ^ SIGN


def from_signed(a: Words) -> Words:
    return patterns(signed(a).astype(np.float64).astype(np.float32))


def from_unsigned(a: Words) -> Words:
    return patterns(a.astype(np.float64).astype(np.float32))


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
