"""Numbers of about 104 bits, as sums of two float64 numbers, with the same bits on every machine.

For functions that are to be right to the last places of float64, whatever cancels on the way. As
:mod:`tritoninit.exact`: sums, products, quotients and square roots in NumPy, each rounded once.

Sums are Knuth's (TAOCP 2, 4.2.2, theorem B), products Dekker's (Numerische Mathematik 18, 1971), but that a
factor is split by clearing bits, which cannot overflow. Relative errors are at most 2**-100 of a sum's larger
term, a product or a quotient, and 2**-96 of the functions, where nothing is subnormal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np

_UPPER: Final = np.int64(-(1 << 27))  # the sign, the exponent and 26 bits of a mantissa
_LOG2_E: Final = float.fromhex("0x1.71547652b82fep+0")
_LARGEST: Final = 710.0  # whose exponential is out of range, as is that of what is larger
_SMALLEST: Final = -746.0


class Pair(NamedTuple):
    """A sum of two arrays of float64, of which the first is the sum, rounded."""

    high: Any
    low: Any

    def __add__(self, other: Number) -> Pair:
        if not isinstance(other, Pair):
            high, low = _sum(self.high, other)
            return _fast_sum(high, low + self.low)
        high, low = _sum(self.high, other.high)
        more, rest = _sum(self.low, other.low)
        high, low = _fast_sum(high, low + more)
        return _fast_sum(high, low + rest)

    def __neg__(self) -> Pair:
        return Pair(-self.high, -self.low)

    def __sub__(self, other: Number) -> Pair:
        return self + -other

    def __mul__(self, other: Number) -> Pair:
        if not isinstance(other, Pair):
            high, low = _product(self.high, other)
            return _fast_sum(high, low + self.low * other)
        high, low = _product(self.high, other.high)
        return _fast_sum(high, low + (self.high * other.low + self.low * other.high))

    def __truediv__(self, other: Number) -> Pair:
        divisor = other if isinstance(other, Pair) else of(other)
        first = self.high / divisor.high
        rest = self - divisor * first
        return _fast_sum(first, rest.high / divisor.high)


Number: TypeAlias = "Pair | Any"


def of(number: Any) -> Pair:
    """A float64 number, or an array of them."""
    values = np.asarray(number, np.float64)
    return Pair(values, np.zeros_like(values))


def chosen(which: Any, x: Pair, y: Pair) -> Pair:
    """``x`` where that is so, ``y`` elsewhere."""
    return Pair(np.where(which, x.high, y.high), np.where(which, x.low, y.low))


def within(x: Pair, low: float, high: float) -> Pair:
    """The number, or the nearer end of an interval."""
    return chosen(x.high < low, of(low), chosen(x.high > high, of(high), x))


def rounded(x: Pair) -> Any:
    """The nearest float64 numbers."""
    return x.high + x.low


def sqrt(x: Pair) -> Pair:
    """The square root of numbers that are not negative."""
    root = np.sqrt(x.high)
    rest = x - Pair(*_product(root, root))
    return _fast_sum(root, rest.high / np.where(root > 0, 2 * root, 1.0))


def log(x: Pair) -> Pair:
    """The natural logarithm of positive finite numbers, to the last places near one, too."""
    mantissa, exponent = np.frexp(x.high)  # in [1/2, 1)
    exponent = exponent - (mantissa < math.sqrt(0.5))
    scaled = Pair(*(np.ldexp(np.ldexp(part, -(exponent // 2)), exponent // 2 - exponent) for part in x))
    less = scaled - 1.0
    ratio = less / (less + 2.0)  # at most 0.172
    near = ratio * _polynomial(_ATANH, ratio * ratio)
    found: Pair = _LN2 * exponent.astype(np.float64) + near
    return found


def exp(x: Pair) -> Pair:
    """The exponential; infinity or zero of what is out of range."""
    near, power = _expm1_near_zero(within(x, _SMALLEST, _LARGEST))
    half = power // 2  # of 1024 alone there is no power
    return Pair(*(np.ldexp(np.ldexp(part, half), power - half) for part in near + 1.0))


def expm1(x: Pair) -> Pair:
    """The exponential less one of numbers that are not positive, to the last places near zero, too."""
    near, power = _expm1_near_zero(within(x, _SMALLEST, 0.0))
    return Pair(*(np.ldexp(part, power) for part in near)) + Pair(*_sum(np.ldexp(1.0, power), -1.0))


def cotangent(turns: Pair) -> Pair:
    """The cotangent of pi times numbers in (0, 1/4]."""
    angle = turns * _PI
    square = angle * angle
    return _polynomial(_COSINE, square) / (angle * _polynomial(_SINE, square))


def _expm1_near_zero(x: Pair) -> tuple[Pair, Any]:
    """exp(r) - 1 and n, for x = r + n ln 2 with the least r."""
    power = np.rint(x.high * _LOG2_E)
    rest = x - _LN2 * power
    return rest * _polynomial(_EXPM1, rest), power.astype(np.int64)


def _sum(x: Any, y: Any) -> tuple[Any, Any]:
    """The rounded sum, and exactly what it misses."""
    total = x + y
    added = total - x
    return total, (x - (total - added)) + (y - added)


def _fast_sum(x: Any, y: Any) -> Pair:
    """The same of numbers of which the first is the larger."""
    total = x + y
    return Pair(total, y - (total - x))


def _product(x: Any, y: Any) -> tuple[Any, Any]:
    """The rounded product, and what it misses: of that, too, only the last of 106 bits."""
    product = x * y
    (a, b), (c, d) = _halves(x), _halves(y)
    return product, ((a * c - product) + a * d + b * c) + b * d


def _halves(x: Any) -> tuple[Any, Any]:
    upper = (np.asarray(x).view(np.int64) & _UPPER).view(np.float64)
    return upper, x - upper


def _polynomial(coefficients: tuple[Sequence[Pair], Sequence[float]], x: Pair) -> Pair:
    """By Horner's rule, the constant first; those that only reach the last 53 bits in float64 alone."""
    first, others = coefficients
    value = np.full(np.shape(x.high), others[-1])
    for each in reversed(others[:-1]):
        value = value * x.high + each
    found = Pair(value, np.zeros_like(value))
    for pair in reversed(first):
        found = found * x + pair
    return found


def _pair(number: Fraction) -> Pair:
    high = float(number)
    return Pair(np.float64(high), np.float64(float(number - Fraction(high))))


def _coefficients(numbers: Sequence[Fraction], pairs: int) -> tuple[Sequence[Pair], Sequence[float]]:
    return [_pair(each) for each in numbers[:pairs]], [float(each) for each in numbers[pairs:]]


# ln 2 and pi to 107 bits.
_LN2: Final = Pair(
    np.float64(float.fromhex("0x1.62e42fefa39efp-1")), np.float64(float.fromhex("0x1.abc9e3b39803fp-56"))
)
_PI: Final = Pair(
    np.float64(float.fromhex("0x1.921fb54442d18p+1")), np.float64(float.fromhex("0x1.1a62633145c07p-53"))
)
# 2 atanh(s) / s in s**2 <= 0.0295; (exp(r) - 1) / r for |r| <= 0.35; cos(x) and sin(x) / x in x**2 <= 0.62.
_ATANH: Final = _coefficients([Fraction(2, 2 * k + 1) for k in range(22)], 11)
_EXPM1: Final = _coefficients([Fraction(1, math.factorial(k)) for k in range(1, 25)], 13)
_COSINE: Final = _coefficients([Fraction((-1) ** k, math.factorial(2 * k)) for k in range(16)], 8)
_SINE: Final = _coefficients([Fraction((-1) ** k, math.factorial(2 * k + 1)) for k in range(16)], 8)
