"""The emulator's float32 arithmetic against libm's fmaf, exact rationals and torch's conversions."""

from __future__ import annotations

import ctypes
import ctypes.util
import math
import struct
from fractions import Fraction

import numpy as np
import pytest
import torch

from tritoninit.emulated import arithmetic

# Zeros, the least and the largest subnormal, the least normal number, 1 and its neighbour, the largest
# number, infinities, a NaN, and powers of two at which sums and integers begin to round.
EDGES = (
    *(0x00000000, 0x80000000, 0x00000001, 0x80000001, 0x007FFFFF, 0x00800000, 0x3F800000, 0x3F800001),
    *(0xBF800000, 0x7F7FFFFF, 0x7F800000, 0xFF800000, 0x7FC00000, 0x33800000, 0x4B800000),
)


def words(count: int, seed: int) -> np.ndarray:
    """Patterns: a quarter edges, a quarter anything, half numbers from 1/8 to 8."""
    rng = np.random.default_rng(seed)
    found = rng.integers(0, 2**32, count, np.uint32)
    found[: count // 4] = rng.choice(np.array(EDGES, np.uint32), count // 4)
    near = rng.integers(0x3E000000, 0x41000000, count // 2, np.uint32)
    found[count // 4 : count // 4 + len(near)] = near
    rng.shuffle(found)
    return found


def nan(bits: np.ndarray) -> np.ndarray:
    return np.isnan(bits.view(np.float32))


@pytest.fixture(autouse=True)
def _no_warnings_of_numpy():
    with np.errstate(all="ignore"):
        yield


def test_fma_is_that_of_libm():
    library = ctypes.CDLL(ctypes.util.find_library("m"))
    library.fmaf.restype, library.fmaf.argtypes = ctypes.c_float, [ctypes.c_float] * 3
    a, b, c = (words(100_000, seed) for seed in (1, 2, 3))
    # A third cancels: of the product, only what its rounding left is in the result. A thousand are ties but
    # for a small addend, which float64 has no room for: (1 + 2**-12) ** 2 is 1 + 2**-11 + 2**-24.
    c[::3] = arithmetic.negative(arithmetic.multiply(a[::3], b[::3]))
    a[:1000] = b[:1000] = 0x3F800800
    c[:1000] = (c[:1000] & arithmetic.SIGN) | (0x10000000 + np.arange(1000, dtype=np.uint32))
    found = arithmetic.fma(a, b, c)
    operands = (x.view(np.float32).tolist() for x in (a, b, c))
    expected = np.array([library.fmaf(*each) for each in zip(*operands, strict=True)], np.float32)
    assert np.array_equal(nan(found), np.isnan(expected))
    differ = (found != expected.view(np.uint32)) & ~nan(found)
    assert not differ.any()
    # Rounded twice, as NumPy would, it is another number where it was a tie: the cases are hard ones.
    twice = (a.view(np.float32) * b.view(np.float32).astype(np.float64) + c.view(np.float32)).astype(
        np.float32
    )
    assert ((twice.view(np.uint32) != found) & ~nan(found)).any()


def nearest(number: Fraction) -> float:
    """The float32 next to a rational within its range, of two the even one."""
    if number == 0:
        return 0.0
    exponent = max(math.frexp(abs(number.numerator) / number.denominator)[1] - 24, -149)
    units = number / Fraction(2) ** exponent
    return float(round(units) * Fraction(2) ** exponent)  # Python rounds halves to even


def float32(bits: int) -> float:
    return float(struct.unpack("<f", struct.pack("<I", bits))[0])


@pytest.mark.parametrize(
    ("operation", "exact"),
    [
        (arithmetic.add, lambda x, y: x + y),
        (arithmetic.subtract, lambda x, y: x - y),
        (arithmetic.multiply, lambda x, y: x * y),
    ],
)
def test_sums_and_products_are_rounded_once(operation, exact):
    a, b = words(4000, 4), words(4000, 5)
    found = operation(a, b)
    compared = 0
    for x, y, result in zip(a.tolist(), b.tolist(), found.tolist(), strict=True):
        pair = float32(x), float32(y)
        if all(map(math.isfinite, (*pair, float32(result)))):
            assert float32(result) == nearest(exact(*map(Fraction, pair)))
            compared += 1
    assert compared > 2000


def test_square_roots_are_the_nearest():
    """No other float32 lies nearer: the square root lies between the middles to both neighbours."""
    x = words(4000, 6) & np.uint32(0x7FFFFFFF)
    x = x[x < 0x7F800000]
    for number, root in zip(x.tolist(), arithmetic.square_root(x).tolist(), strict=True):
        square = Fraction(float32(number))
        here = Fraction(float32(root))
        below = Fraction(float32(root - 1)) if root else -here
        above = Fraction(float32(root + 1))
        assert ((here + below) / 2) ** 2 <= square <= ((here + above) / 2) ** 2 or root == 0 == number


def test_conversions_are_those_of_torch():
    x = words(100_000, 7)
    tensor = torch.from_numpy(x.view(np.float32).copy())
    for convert, dtype in ((arithmetic.to_float16, torch.float16), (arithmetic.to_bfloat16, torch.bfloat16)):
        expected = tensor.to(dtype).view(torch.int16).numpy().view(np.uint16)
        assert np.array_equal(convert(x)[~nan(x)], expected[~nan(x)])


def test_integers_become_the_nearest_numbers():
    x = words(4000, 8)
    for number, bits in zip(x.tolist(), arithmetic.from_unsigned(x).tolist(), strict=True):
        assert float32(bits) == nearest(Fraction(number))
    for number, bits in zip(x.view(np.int32).tolist(), arithmetic.from_signed(x).tolist(), strict=True):
        assert float32(bits) == nearest(Fraction(number))


def test_numbers_become_integers_toward_zero():
    numbers = np.array([0.0, 0.99, 1.5, 3e9, 5e9, np.inf, -1.0, np.nan], np.float32).view(np.uint32)
    assert arithmetic.to_unsigned(numbers).tolist() == [0, 0, 1, 3_000_000_000, 2**32 - 1, 2**32 - 1, 0, 0]


ONE, TWO, ZERO, MINUS_ZERO, NAN = 0x3F800000, 0x40000000, 0x00000000, 0x80000000, 0x7FC00001


@pytest.mark.parametrize(
    ("a", "b", "least", "most"),
    [
        (ONE, TWO, ONE, TWO),
        (ZERO, MINUS_ZERO, MINUS_ZERO, ZERO),
        (MINUS_ZERO, ZERO, MINUS_ZERO, ZERO),
        (NAN, ONE, ONE, ONE),
        (ONE, NAN, ONE, ONE),
        (NAN, NAN, 0x7FFFFFFF, 0x7FFFFFFF),
        (0x00000001, 0x80000001, 0x80000001, 0x00000001),
    ],
)
def test_extremes(a, b, least, most):
    pair = (np.array([x], np.uint32) for x in (a, b))
    first, second = pair
    assert arithmetic.minimum(first, second).tolist() == [least]
    assert arithmetic.maximum(first, second).tolist() == [most]


def test_flushing():
    add = arithmetic.flushing(arithmetic.add)
    a = np.array([0x00000001, 0x00800000, 0x80800001], np.uint32)
    b = np.array([0x3F800000, 0x00000001, 0x00800000], np.uint32)  # the last sum is subnormal
    assert add(a, b).tolist() == [0x3F800000, 0x00800000, 0x80000000]


def test_bytes_are_permuted():
    a, b = np.array([0x83828180], np.uint32), np.array([0x07060504], np.uint32)
    for selector, expected in ((0x3210, 0x83828180), (0x7654, 0x07060504), (0xC8A4, 0x00FFFF04)):
        assert arithmetic.prmt(a, b, np.array([selector], np.uint32)).tolist() == [expected]
