"""float64 in NumPy: the definition that every other backend must equal, bit for bit.

Plain additions, multiplications, divisions and square roots, each rounded once: nothing is fused, so that
NumPy, compilers and GPUs have the same instructions for it. Written to be read beside ``kernels/README.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tritoninit.kernels import doubles

Doubles = npt.NDArray[np.float64]
Words = npt.NDArray[np.uint32]
Wide = npt.NDArray[np.uint64]

_SHIFTS = np.array(doubles.QUANTILE_SHIFTS)
_QUANTILE = np.array(doubles.QUANTILE).T.copy()  # (power, piece)


def joined(high: Words, low: Words) -> Wide:
    """64-bit words from their halves."""
    return (high.astype(np.uint64) << np.uint64(32)) | low


def polynomial(x: Doubles, coefficients: Any) -> Doubles:
    """Horner's rule, each product and each sum rounded, highest power first."""
    value: Doubles = np.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value *= x
        value += coefficient
    return value


def sum_of(large: Doubles, small: Doubles) -> tuple[Doubles, Doubles]:
    """The rounded sum, and what it misses, exact where ``large`` is the larger one (Dekker, 1971)."""
    total = large + small
    return total, (large - total) + small


def minus_two_log(x: Doubles, exponent: int) -> Doubles:
    """-2 ln(x * 2**-exponent) of positive normal float64 ``x``."""
    bits = x.view(np.int64)
    power = (bits - np.int64(doubles.LOG_SPLIT)) & np.int64(-(1 << 52))
    m = (bits - power).view(np.float64) - 1.0
    s = m / (m + 2.0)
    t = s * s
    square = m * m
    near = square - s * (square + t * polynomial(t, doubles.LOG))
    e = ((power >> np.int64(52)) - np.int64(exponent)).astype(np.float64)
    total, missed = sum_of(e * doubles.MINUS_TWO_LN2_HIGH, m * -2.0)
    return total + (missed + (near + e * doubles.MINUS_TWO_LN2_LOW))


def sine(f: Doubles) -> Doubles:
    """sin(pi/2 f) of quarter turns f in [-1, 1]."""
    w = 1.0 - f * f
    h = f * w
    total, missed = sum_of(f, h * 0.5)
    return total + (missed + h * (w * polynomial(w, doubles.SINE)))


def radius(x: Wide) -> Doubles:
    """sqrt(-2 ln(float64(x | 1) * 2**-64)), in [0, 9.42]."""
    return np.sqrt(minus_two_log((x | np.uint64(1)).astype(np.float64), 64))


def box_muller(x: Wide, y: Wide) -> tuple[Doubles, Doubles]:
    """Two independent standard normals r cos t, r sin t from two 64-bit words, as ``reference.box_muller``.

    The angle has a grid of 2**-53 quarter turns, on which f and 1 - |f| are exact.
    """
    turned = ((y << np.uint64(1)) + np.uint64(1 << 63)).view(np.int64) >> np.int64(10)
    f = turned.astype(np.float64) * -(2.0**-53)
    half_turn = y & np.uint64(1 << 63)
    signed = (radius(x).view(np.uint64) ^ half_turn).view(np.float64)
    return signed * sine(f), signed * sine(1.0 - np.abs(f))


def slope(below: Doubles, above: Doubles) -> Doubles:
    """z / (below - above) of the standard normal z with P(Z < z) = below and P(Z > z) = above."""
    big = minus_two_log(below * above, -2)
    root = np.sqrt(np.maximum(big, doubles.QUANTILE_SPLIT))
    first, second = doubles.QUANTILE_ROOT_SPLITS
    piece = np.where(big < doubles.QUANTILE_SPLIT, 0, 1 + (root >= first) + (root >= second))
    x = np.where(piece == 0, big, root) - _SHIFTS[piece]
    value: Doubles = _QUANTILE[0][piece]
    for coefficients in _QUANTILE[1:]:
        value *= x
        value += coefficients[piece]
    return value


def _keep_within(value: Doubles, floor: float, cap: float) -> Doubles:
    np.maximum(value, floor, out=value)
    return np.minimum(value, cap, out=value)


def uniform(x: Wide, low: float, scale: float, floor: float, cap: float) -> Doubles:
    """low + u * span in two roundings, u = (x >> 11) * 2**-53, kept within [floor, cap]."""
    value: Doubles = (x >> np.uint64(11)).astype(np.float64)
    value *= scale
    value += low
    return _keep_within(value, floor, cap)


def normal(x: Wide, mean: float, std: float) -> Doubles:
    """mean + z * std in two roundings, z by Box-Muller on the pairs (0, 1) and (2, 3)."""
    z = np.empty(x.shape)
    for pair in (0, 2):
        z[pair], z[pair + 1] = box_muller(x[pair], x[pair + 1])
    z *= std
    z += mean
    return z


def truncated_normal(
    x: Wide,
    mean: float,
    std: float,
    below: float,
    above: float,
    difference: float,
    mass: float,
    floor: float,
    cap: float,
) -> Doubles:
    """Inverse distribution function: mean + z * std in two roundings, kept within [floor, cap]."""
    value = np.empty(x.shape)
    for lane, word in enumerate(x):  # one at a time, for less scratch
        odd = word | np.uint64(1)
        left = odd.astype(np.float64) * mass + below
        right = (~word | np.uint64(1)).astype(np.float64) * mass + above
        signed = (odd ^ np.uint64(1 << 63)).view(np.int64).astype(np.float64)
        value[lane] = signed * (2 * mass) + difference
        value[lane] *= slope(left, right)
    value *= std
    value += mean
    return _keep_within(value, floor, cap)


TRANSFORMS: dict[str, Callable[..., Doubles]] = {
    "uniform": uniform,
    "normal": normal,
    "truncated_normal": truncated_normal,
}
