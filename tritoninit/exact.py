"""Logarithm, exponential and cotangent in float64, with the same bits on every machine.

A platform's mathematical library rounds as it likes. These are sums, products and quotients alone, each
rounded once as IEEE 754 says, in NumPy, which fuses none of them. They are right to a few units in the last
place, far more than the float32 numbers that are made of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Final

import numpy as np

# ln 2 as a number of 33 bits, whose products with exponents are exact, and the rest of it.
LN2_HIGH: Final = float.fromhex("0x1.62e42feep-1")
LN2_LOW: Final = float.fromhex("0x1.a39ef35793c76p-33")
LOG2_E: Final = float.fromhex("0x1.71547652b82fep+0")
LARGEST: Final = 710.0  # whose exponential is out of range, as is that of what is larger
SMALLEST: Final = -746.0

ATANH: Final = tuple(float(Fraction(1, 2 * k + 1)) for k in range(12))
EXPM1: Final = tuple(float(Fraction(1, math.factorial(k))) for k in range(1, 16))
SINE: Final = tuple(float(Fraction((-1) ** k, math.factorial(2 * k + 1))) for k in range(10))
COSINE: Final = tuple(float(Fraction((-1) ** k, math.factorial(2 * k))) for k in range(10))


def log(x: Any) -> Any:
    """The natural logarithm of positive finite numbers."""
    mantissa, exponent = np.frexp(x)  # in [1/2, 1)
    small = mantissa < math.sqrt(0.5)
    mantissa = np.where(small, 2 * mantissa, mantissa)
    exponent = exponent - small
    ratio = (mantissa - 1) / (mantissa + 1)  # at most 0.172
    near = 2 * ratio * _polynomial(ATANH, ratio * ratio)
    return exponent * LN2_HIGH + (exponent * LN2_LOW + near)


def log1p(x: Any) -> Any:
    """The natural logarithm of 1 + x, to the last places near zero, too, of numbers above -1."""
    near = np.abs(x) < 0.25
    ratio = np.where(near, x / (2 + x), 0.0)
    return np.where(near, 2 * ratio * _polynomial(ATANH, ratio * ratio), log(1 + np.where(near, 0.0, x)))


def exp(x: Any) -> Any:
    """The exponential of finite numbers; infinity or zero of those that are out of range."""
    near, power = _expm1_near_zero(np.clip(x, SMALLEST, LARGEST))
    half = power // 2  # of 1024 alone there is no power
    return np.ldexp(np.ldexp(near + 1, half), power - half)


def expm1(x: Any) -> Any:
    """The exponential less one of numbers that are not positive, to the last places near zero, too."""
    near, power = _expm1_near_zero(np.clip(x, SMALLEST, 0.0))
    return np.ldexp(near, power) + (np.ldexp(1.0, power) - 1)


def cotangent(turns: Any) -> Any:
    """The cotangent of pi times numbers in (0, 1/4]."""
    angle = math.pi * np.asarray(turns)
    square = angle * angle
    return _polynomial(COSINE, square) / (angle * _polynomial(SINE, square))


def _expm1_near_zero(x: Any) -> tuple[Any, Any]:
    """exp(r) - 1 and n, for x = r + n ln 2 with the least r."""
    power = np.rint(x * LOG2_E)
    rest = (x - power * LN2_HIGH) - power * LN2_LOW
    return rest * _polynomial(EXPM1, rest), power.astype(np.int64)


def _polynomial(coefficients: Sequence[float], x: Any) -> Any:
    """By Horner's rule, the constant first."""
    *others, last = coefficients
    value = np.full(np.shape(x), last)
    for each in reversed(others):
        value = value * x + each
    return value
