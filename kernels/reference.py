"""The stream in NumPy: the definition that every other backend must equal, bit for bit.

Written to be read beside ``kernels/README.md``. A chunk of 65,536 elements is drawn at a time, so that the
scratch is about 2 MB a thread whatever the tensor's size; chunks go to a thread pool.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from tritoninit.kernels import chunks, stream
from tritoninit.kernels.chunks import Array, Drawer
from tritoninit.kernels.stream import Draw

Floats = npt.NDArray[np.float32]
Words = npt.NDArray[np.uint32]
Wide = npt.NDArray[np.uint64]
Lanes = tuple[Words, Words, Words, Words]

CHUNK = 1 << 16  # elements

_LOW_32 = np.uint64(0xFFFFFFFF)
_HIGH_32 = np.uint64(32)


def philox4x32(c0: Any, c1: Any, c2: Any, c3: Any, k0: int, k1: int) -> tuple[Wide, Wide, Wide, Wide]:
    """Philox4x32-10 of four 32-bit counter words and a key: four 32-bit words.

    The words are kept in uint64, arrays or scalars, so that products are whole.
    """
    for _ in range(stream.PHILOX_ROUNDS):
        p0 = c0 * np.uint64(stream.PHILOX_M0)
        p1 = c2 * np.uint64(stream.PHILOX_M1)
        c0 = p1 >> _HIGH_32
        c0 ^= c1
        c0 ^= np.uint64(k0)
        c2 = p0 >> _HIGH_32
        c2 ^= c3
        c2 ^= np.uint64(k1)
        p1 &= _LOW_32
        p0 &= _LOW_32
        c1, c3 = p1, p0
        k0 = (k0 + stream.PHILOX_W0) & 0xFFFFFFFF
        k1 = (k1 + stream.PHILOX_W1) & 0xFFFFFFFF
    return c0, c1, c2, c3


def words(seed: int, stream_: int, blocks: Wide) -> Lanes:
    """The four uint32 words of each 64-bit block of a stream."""
    a, b, c, d = philox4x32(
        blocks & _LOW_32,
        blocks >> _HIGH_32,
        np.uint64(stream_ & 0xFFFFFFFF),
        np.uint64(stream_ >> 32),
        seed & 0xFFFFFFFF,
        seed >> 32,
    )
    return (
        a.astype(np.uint32),
        b.astype(np.uint32),
        c.astype(np.uint32),
        d.astype(np.uint32),
    )


def fma(a: Any, b: Any, c: Any) -> Floats:
    """float32 ``a * b + c``, rounded once.

    The product of two float32 is exact in float64; the sum is rounded to float64 and then to float32. Over
    the stream's whole domain that equals the single rounding of a true fma (tested exhaustively).
    """
    product: npt.NDArray[np.float64] = np.multiply(a, b, dtype=np.float64)
    product += c
    return product.astype(np.float32)


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


def uniform(words_: Lanes, low: float, scale: float, floor: float, cap: float) -> list[Floats]:
    """low + u * span in two roundings, u = (x >> 8) * 2**-24, kept within [floor, cap]."""
    lanes = []
    for x in words_:
        value = (x >> np.uint32(8)).view(np.int32).astype(np.float32)
        value *= np.float32(scale)
        value += np.float32(low)
        lanes.append(_keep_within(value, floor, cap))
    return lanes


def normal(words_: Lanes, mean: float, std: float) -> list[Floats]:
    """mean + z * std in two roundings, z by Box-Muller on the word pairs (0, 1) and (2, 3)."""
    lanes = []
    for z in (*box_muller(words_[0], words_[1]), *box_muller(words_[2], words_[3])):
        z *= np.float32(std)
        z += np.float32(mean)
        lanes.append(z)
    return lanes


def quantile(below: Floats, above: Floats) -> Floats:
    """The standard normal z with P(Z < z) = below and P(Z > z) = above, from both: no tail cancels."""
    big = minus_two_log(below * above, -2)
    centre = polynomial(big - np.float32(stream.QUANTILE_CENTRE_SHIFT), stream.QUANTILE_CENTRE)
    root = np.sqrt(np.maximum(big, np.float32(stream.QUANTILE_SPLIT)))
    tail = polynomial(root - np.float32(stream.QUANTILE_TAIL_SHIFT), stream.QUANTILE_TAIL)
    slope = np.where(big < np.float32(stream.QUANTILE_SPLIT), centre, tail)
    return (below - above) * slope


def truncated_normal(
    words_: Lanes, mean: float, std: float, below: float, above: float, mass: float, floor: float, cap: float
) -> list[Floats]:
    """Inverse distribution function: mean + z * std in two roundings, kept within [floor, cap]."""
    lanes = []
    for x in words_:
        left = (x | np.uint32(1)).astype(np.float32) * np.float32(mass) + np.float32(below)
        right = (~x | np.uint32(1)).astype(np.float32) * np.float32(mass) + np.float32(above)
        value = quantile(left, right)
        value *= np.float32(std)
        value += np.float32(mean)
        lanes.append(_keep_within(value, floor, cap))
    return lanes


_TRANSFORMS: dict[str, Callable[..., list[Floats]]] = {
    "uniform": uniform,
    "normal": normal,
    "truncated_normal": truncated_normal,
}


def narrow(values: Floats, dtype: str) -> Array:
    """float32 rounded once, to nearest even; bfloat16 is given as its 16-bit patterns."""
    if dtype == "float32":
        return values
    if dtype == "float16":
        with np.errstate(over="ignore"):  # beyond 65519 the rounded value is infinite, as IEEE 754 says
            return values.astype(np.float16)
    bits = values.view(np.uint32)
    bits = (bits + (((bits >> np.uint32(16)) & np.uint32(1)) + np.uint32(0x7FFF))) >> np.uint32(16)
    return bits.astype(np.uint16)


def run(out: Array, dtype: str, draw: Draw, first: int) -> None:
    """Write the elements ``first``, ``first + 1``, ... of the stream into a contiguous 1-d array."""
    stop = first + out.size
    blocks = np.arange(first // 4, (stop + 3) // 4, dtype=np.uint64)
    lanes = _TRANSFORMS[draw.distribution](words(draw.seed, draw.stream, blocks), *draw.parameters)
    for lane, values in enumerate(lanes):
        skip = (lane - first) % 4
        behind = 1 if lane < first % 4 else 0  # the lane's first element lies before the run
        target = out[skip::4]
        target[:] = narrow(values[behind : behind + target.size], dtype)


def places(out: Array, dtype: str, draw: Draw, indices: Wide) -> None:
    """Write the elements at the given stream indices into a contiguous 1-d array."""
    blocks = indices >> np.uint64(2)
    lanes = _TRANSFORMS[draw.distribution](words(draw.seed, draw.stream, blocks), *draw.parameters)
    out[:] = narrow(np.choose((indices & np.uint64(3)).astype(np.intp), lanes), dtype)


DRAWER = Drawer(run, places, CHUNK)


def fill(target: Array, dtype: str, draw: Draw, threads: int = 1) -> None:
    """Write ``draw`` into an array of any layout, in place.

    Args:
        target: float32, float16, or the uint16 patterns of bfloat16; any shape and strides.
        dtype: "float32", "float16" or "bfloat16".
        draw: what to write.
        threads: how many threads share the chunks.
    """
    if draw.distribution == "constant":
        target[...] = narrow(np.array(draw.parameters, np.float32), dtype)[0]
    else:
        chunks.fill(DRAWER, target, dtype, draw, threads)
