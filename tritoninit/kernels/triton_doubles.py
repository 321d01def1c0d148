"""float64 in Triton: device helpers on values, with the arithmetic of ``reference_doubles``.

Nothing is fused, and kernels compile with ``enable_fp_fusion=False``. Constants are made float64 where they
meet a tensor: Triton would take them for float32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from tritoninit.kernels import doubles

LOW_HALVES = tl.constexpr(doubles.LOW_HALVES >> 32)  # in the high word of a block's number
_LOG = tl.constexpr(doubles.LOG)
_LOG_TERMS = tl.constexpr(len(doubles.LOG))
_LOG_SPLIT = tl.constexpr(doubles.LOG_SPLIT)
_HIGH = tl.constexpr(doubles.MINUS_TWO_LN2_HIGH)
_LOW = tl.constexpr(doubles.MINUS_TWO_LN2_LOW)
_SINE = tl.constexpr(doubles.SINE)
_SINE_TERMS = tl.constexpr(len(doubles.SINE))
_SPLIT = tl.constexpr(doubles.QUANTILE_SPLIT)
_ROOT_SPLITS = tl.constexpr(doubles.QUANTILE_ROOT_SPLITS)
_SHIFTS = tl.constexpr(doubles.QUANTILE_SHIFTS)
_TERMS = tl.constexpr(len(doubles.QUANTILE[0]))
_CENTRE = tl.constexpr(doubles.QUANTILE[0])
_NEAR = tl.constexpr(doubles.QUANTILE[1])
_FAR = tl.constexpr(doubles.QUANTILE[2])
_FARTHEST = tl.constexpr(doubles.QUANTILE[3])


@triton.jit
def double_like(x, VALUE: tl.constexpr):
    return tl.full(x.shape, VALUE, tl.float64)


@triton.jit
def polynomial(x, COEFFICIENTS: tl.constexpr, TERMS: tl.constexpr):
    """Horner's rule, each product and each sum rounded, highest power first."""
    value = double_like(x, COEFFICIENTS[0])
    for k in tl.static_range(1, TERMS):
        value = value * x + double_like(x, COEFFICIENTS[k])
    return value


@triton.jit
def minus_two_log(x, EXPONENT: tl.constexpr):
    """-2 ln(x * 2**-EXPONENT) of positive normal float64 x."""
    bits = x.to(tl.int64, bitcast=True)
    power = (bits - _LOG_SPLIT) & -4503599627370496
    m = (bits - power).to(tl.float64, bitcast=True) - 1.0
    s = m / (m + 2.0)
    t = s * s
    square = m * m
    near = square - s * (square + t * polynomial(t, _LOG, _LOG_TERMS))
    e = ((power >> 52) - EXPONENT).to(tl.float64)
    large = e * double_like(x, _HIGH)
    small = m * -2.0
    total = large + small
    missed = (large - total) + small
    return total + (missed + (near + e * double_like(x, _LOW)))


@triton.jit
def sine(f):
    """sin(pi/2 f) of quarter turns f in [-1, 1]."""
    w = 1.0 - f * f
    h = f * w
    half = h * 0.5
    total = f + half
    missed = (f - total) + half
    return total + (missed + h * (w * polynomial(w, _SINE, _SINE_TERMS)))


@triton.jit
def joined(high, low):
    """64-bit words from their halves."""
    return (high.to(tl.uint64) << 32) | low.to(tl.uint64)


@triton.jit
def box_muller(x, y):
    """Two independent standard normals from two uint64 words."""
    radius = tl.sqrt(minus_two_log((x | 1).to(tl.float64), 64))
    turned = ((y << 1) + 0x8000000000000000).to(tl.int64, bitcast=True) >> 10
    f = turned.to(tl.float64) * -1.1102230246251565e-16  # -2**-53
    signed = (radius.to(tl.uint64, bitcast=True) ^ (y & 0x8000000000000000)).to(tl.float64, bitcast=True)
    return signed * sine(f), signed * sine(1.0 - tl.abs(f))


@triton.jit
def uniform(x, low, scale, floor, cap):
    """low + u * span, u = (x >> 11) * 2**-53, kept within [floor, cap]."""
    value = (x >> 11).to(tl.int64, bitcast=True).to(tl.float64) * scale + low
    return tl.minimum(tl.maximum(value, floor), cap)


@triton.jit
def chosen(centre, near, far, K: tl.constexpr, TAILS: tl.constexpr):
    """The quantile's coefficient, or its shift (K is -1), of the piece that an element falls in."""
    if K < 0:
        value = tl.where(centre, double_like(centre, _SHIFTS[0]), double_like(centre, _SHIFTS[1]))
        if TAILS:
            value = tl.where(near, value, double_like(centre, _SHIFTS[2]))
            value = tl.where(far, value, double_like(centre, _SHIFTS[3]))
    else:
        value = tl.where(centre, double_like(centre, _CENTRE[K]), double_like(centre, _NEAR[K]))
        if TAILS:
            value = tl.where(near, value, double_like(centre, _FAR[K]))
            value = tl.where(far, value, double_like(centre, _FARTHEST[K]))
    return value


@triton.jit
def slope(below, above, TAILS: tl.constexpr):
    """z / (below - above) of the standard normal z with P(Z < z) = below and P(Z > z) = above.

    TAILS where |z| can pass 3.2.
    """
    big = minus_two_log(below * above, -2)
    root = tl.sqrt(tl.maximum(big, double_like(big, _SPLIT)))
    centre = big < _SPLIT
    near = root < _ROOT_SPLITS[0]
    far = root < _ROOT_SPLITS[1]
    x = tl.where(centre, big, root) - chosen(centre, near, far, -1, TAILS)
    value = chosen(centre, near, far, 0, TAILS)
    for k in tl.static_range(1, _TERMS):
        value = value * x + chosen(centre, near, far, k, TAILS)
    return value


@triton.jit
def truncated_normal(x, mean, std, below, above, difference, mass, floor, cap, TAILS: tl.constexpr):
    """The quantile of x, kept within [floor, cap]."""
    left = (x | 1).to(tl.float64) * mass + below
    right = ((x ^ 0xFFFFFFFFFFFFFFFF) | 1).to(tl.float64) * mass + above
    signed = ((x | 1) ^ 0x8000000000000000).to(tl.int64, bitcast=True).to(tl.float64)
    z = (signed * (2 * mass) + difference) * slope(left, right, TAILS)
    return tl.minimum(tl.maximum(z * std + mean, floor), cap)


@triton.jit
def parameter(bits):
    """A float64 of its bits, which is how one is passed: a kernel's own floats are float32."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True)


@triton.jit
def parameters(p):
    return (
        parameter(p[0]),
        parameter(p[1]),
        parameter(p[2]),
        parameter(p[3]),
        parameter(p[4]),
        parameter(p[5]),
        parameter(p[6]),
        parameter(p[7]),
    )
