"""The reference's fma is a true one at every fused multiply-add that the stream can perform.

Exhaustive, not sampled: an fma's operands depend on one word of 32 bits. ``float_domains`` lists every
float32 number that each step can meet, and here the reference's own code runs on all of them, with its
``fma`` replaced by one that checks itself.

What always runs, in fused multiply-adds: the radius's 641,728,521, the angle's 671,088,650, the quantile
polynomials' 295,824,280, and an eighth of the 4,529,848,392 of the probability products. The slow tests run
all of those, too, and compare every result where the others compare those that could differ.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from float_domains import (
    Domain,
    Floats,
    angle_numbers,
    bits,
    chunks,
    contains,
    count,
    multiples,
    radius_numbers,
)

from tritoninit.kernels import reference, stream
from tritoninit.kernels.interpreter import correctly_rounded_fma

THREADS = 2
LOG_FMAS = len(stream.LOG) - 1 + 2
SINE_FMAS = len(stream.SINE) - 1 + 2


class CheckedFma:
    """``reference.fma``, which also counts its results and compares them with the correctly rounded ones.

    The reference rounds the exact sum first to float64, s, and s to float32. Rounding is monotone, and both
    the float32 numbers and the midpoints between neighbours are float64 numbers. So where s is no midpoint,
    the exact sum lies on the same side of every midpoint as s does, and one rounding gives the same. Only
    where s is a midpoint (the 29 bits beyond float32's are 1000...0), or rounds to a subnormal, whose
    midpoints lie elsewhere, can the two differ: these are compared. ``everywhere`` compares all others too.
    """

    def __init__(self, *, everywhere: bool = False) -> None:
        self.everywhere = everywhere
        self.evaluated = self.compared = self.different = 0
        self.example = ""
        self._lock = threading.Lock()

    def __call__(self, a: Any, b: Any, c: Any) -> Floats:
        result = original_fma(a, b, c)
        wide = np.multiply(a, b, dtype=np.float64) + c
        if self.everywhere:
            suspect = np.ones(wide.shape, bool)
        else:
            suspect = (wide.view(np.int64) & 0x1FFFFFFF) == 0x10000000
            suspect |= np.abs(result) <= np.float32(2.0**-126)
        operands = [np.broadcast_to(np.asarray(x, np.float64), wide.shape)[suspect] for x in (a, b, c)]
        exact = correctly_rounded_fma(*operands)
        wrong = exact.view(np.int32) != result[suspect].view(np.int32)
        with self._lock:
            self.evaluated += wide.size
            self.compared += exact.size
            self.different += int(wrong.sum())
            if wrong.any():
                self.example = "fma" + str(tuple(float(x[wrong][0]).hex() for x in operands))
        return result

    def run(self, function: Callable[[Floats], object], arrays: Iterable[Floats]) -> None:
        """Call the function on each array, from a few threads."""
        with ThreadPoolExecutor(THREADS) as pool:
            for _ in pool.map(function, arrays):
                pass


original_fma = reference.fma
BOTH = pytest.mark.parametrize(
    "everywhere", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["midpoints", "everywhere"]
)


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch, everywhere: bool) -> CheckedFma:
    checker = CheckedFma(everywhere=everywhere)
    monkeypatch.setattr(reference, "fma", checker)
    return checker


@BOTH
def test_every_radius(checked):
    """All 71,303,169 numbers that float32(x | 1) takes, 9 fused multiply-adds each."""
    domain = radius_numbers()
    assert count(domain) == 71_303_169
    checked.run(lambda x: reference.minus_two_log(x, 32), chunks(domain))
    assert checked.evaluated == 71_303_169 * LOG_FMAS == 641_728_521
    assert checked.different == 0, checked.example


@BOTH
def test_every_angle(checked):
    """All 67,108,865 magnitudes of f, for cos t, and 1 - |f| of each, for sin t; 5 fused multiply-adds each.

    The sign of f needs no run of its own: it only changes the sign of the results.
    """
    domain = angle_numbers()
    assert count(domain) == 67_108_865

    def both(f: Floats) -> None:
        reference.sine(f)
        reference.sine(np.float32(1) - f)

    checked.run(both, chunks(domain))
    assert checked.evaluated == 2 * 67_108_865 * SINE_FMAS == 671_088_650
    assert checked.different == 0, checked.example


def probability_products() -> Domain:
    """Every float32 number that ``below * above`` can be, and more: 2**-62 to 0.25 (1 + 2**-20).

    A fill's interval reaches within 6 standard deviations of the mean (``FARTHEST_TAIL``), so the mass on
    the far side of either bound and the interval's own together are at least P(Z > 6) = 2**-29.9; a 32-bit
    word divides the interval's by at most 2**32. The smaller of the two probabilities is therefore at least
    2**-61.92, the larger is then one, less rounding. The product is largest where both are one half.
    """
    return [*multiples(-200, -62, -2), range(bits(0.25), bits(0.25 * (1 + 2.0**-20)))]


@pytest.mark.parametrize(
    ("every", "everywhere"),
    [
        (8, False),
        pytest.param(1, False, marks=pytest.mark.slow),
        pytest.param(8, True, marks=pytest.mark.slow),
    ],
    ids=["eighth", "all", "eighth-everywhere"],
)
def test_every_probability_product(checked, every):
    """All 503,316,488 numbers, or every eighth; 9 fused multiply-adds each.

    All but the last of the nine depend on the mantissa alone, and ``test_every_radius`` ran through those.
    """
    domain = probability_products()
    assert count(domain) == 60 * 2**23 + 8
    checked.run(lambda p: reference.minus_two_log(p, -2), chunks(domain, every=every))
    assert checked.evaluated == (60 * 2**23 + 8) // every * LOG_FMAS
    assert checked.different == 0, checked.example


def minus(x: float) -> Callable[[Floats], Floats]:
    return lambda values: values - np.float32(x)


@BOTH
def test_every_argument_of_the_central_quantile(checked):
    """The polynomial in W - 6 for W = -2 ln(4 p (1 - p)) below 12: 25,165,828 arguments, 8 fmas each.

    W runs over all float32 numbers of [0, 12), and just below 0 where rounding carries p (1 - p) beyond a
    quarter. Subtracting 6 rounds to a multiple of 2**-22 (of 2**-21 beyond 4, of 2**-20 where W is above 8).
    """
    below, inner, above = (np.float32(2.0**-k) for k in (21, 22, 20))

    def grid(low: float, high: float, unit: np.float32) -> list[Floats]:
        numbers = np.arange(round(low / unit), round(high / unit)).astype(np.float32) * unit
        return np.array_split(numbers, 64)

    arguments = [
        *grid(-6 - 4 * below, -4, below),
        *grid(-4, -2, inner),
        *grid(-2, 2, below),
        *grid(2, 6, above),
    ]
    assert sum(map(len, arguments)) == 25_165_828
    reached = np.arange(bits(2.0**-30), bits(12.0), 1 << 8, dtype=np.int32).view(np.float32) - np.float32(6)
    assert np.isin(reached, np.concatenate(arguments)).all()
    checked.run(lambda x: reference.polynomial(x, stream.QUANTILE_CENTRE), arguments)
    assert checked.evaluated == 25_165_828 * (len(stream.QUANTILE_CENTRE) - 1)
    assert checked.different == 0, checked.example


@BOTH
def test_every_argument_of_the_tail_quantile(checked):
    """The polynomial in sqrt(W) - 6, W from 12 to -2 ln(4 * 2**-62) < 83.2: 11,812,207 roots, 8 fmas each."""
    roots = [range(bits(np.sqrt(stream.QUANTILE_SPLIT)), bits(np.sqrt(83.2)) + 1)]
    checked.run(
        lambda root: reference.polynomial(
            root - np.float32(stream.QUANTILE_TAIL_SHIFT), stream.QUANTILE_TAIL
        ),
        chunks(roots),
    )
    assert checked.evaluated == 11_812_207 * (len(stream.QUANTILE_TAIL) - 1)
    assert checked.different == 0, checked.example


def test_the_domains_hold_what_words_give():
    """Random words, and those near every power of two."""
    rng = np.random.Generator(np.random.PCG64(1))
    near = np.array([(2**k + d) % 2**32 for k in range(33) for d in range(-64, 65)], np.uint32)
    words = np.concatenate([near, rng.integers(0, 2**32, 1 << 20, np.uint32)])
    assert contains(radius_numbers(), (words | np.uint32(1)).astype(np.float32)).all()
    assert contains(angle_numbers(), quarter_turns(words)).all()
    assert contains(angle_numbers(), np.float32(1) - quarter_turns(words)).all()


def quarter_turns(y: Any) -> Floats:
    """|f| of words y, as ``reference.box_muller`` takes it."""
    turned = (y << np.uint32(1)) + np.uint32(1 << 31)
    return np.abs(turned.view(np.int32).astype(np.float32) * np.float32(-(2.0**-31)))


def distinct_in_order(values: Floats, last: float) -> Floats:
    """The values that differ from the one before them; ``last`` came before the first."""
    return values[values != np.concatenate([[np.float32(last)], values[:-1]])]


@pytest.mark.slow
def test_the_radius_domain_is_exact():
    """All 2**31 odd words in ascending order give each of the domain's numbers, and no other."""
    domain, found, last = radius_numbers(), 0, -1.0
    for begin in range(0, 2**32, 1 << 20):
        values = np.arange(begin + 1, begin + (1 << 20), 2, dtype=np.uint32).astype(np.float32)
        new = distinct_in_order(values, last)
        assert contains(domain, new).all()
        found, last = found + len(new), float(values[-1])
    assert found == count(domain)


@pytest.mark.slow
@pytest.mark.parametrize("quarter", range(4))
def test_the_angle_domain_is_exact(quarter):
    """2**30 words y in order sweep |f| from one end to the other; every quarter gives the same numbers, but
    for the end it leaves to the next."""
    domain, found, last = angle_numbers(), 0, -1.0
    for begin in range(quarter << 30, (quarter + 1) << 30, 1 << 20):
        values = quarter_turns(np.arange(begin, begin + (1 << 20), dtype=np.uint32))
        new = distinct_in_order(values, last)
        assert contains(domain, new).all()
        found, last = found + len(new), float(values[-1])
    assert found == count(domain) - 1 + (quarter in (1, 3))


# The rest shows that the checks above can fail, and that what they compare with is right.


def round_to_float32(x: Fraction) -> float:
    """The nearest float32 number, ties to even, of any exact fraction that does not overflow."""
    if not x:
        return 0.0
    exponent = abs(x.numerator).bit_length() - x.denominator.bit_length()
    if abs(x) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** (max(exponent, -126) - 23)
    return float(round(x / unit) * unit)  # Python rounds fractions half to even


def exact_fma(a: Floats, b: Floats, c: Floats) -> list[float]:
    x, y, z = (np.vectorize(Fraction)(operand.astype(np.float64)) for operand in (a, b, c))
    return [round_to_float32(number) for number in x * y + z]


def double_rounding_cases() -> tuple[Floats, Floats, Floats]:
    """Operands that the float64 shortcut gets wrong: the exact sum lies just beside a float32 midpoint.

    (1 + k 2**-23) (1 - k 2**-23) = 1 - k**2 2**-46, so c + 2**-24 a b is c and half its last place, less a
    part that float64 cannot hold. For odd mantissas c the false tie then goes up.
    """
    k = np.arange(1, 2001, dtype=np.float32)
    a = (1 + k * np.float32(2.0**-23)) * np.float32(2.0**-24)
    b = 1 - k * np.float32(2.0**-23)
    c = np.float32(1) + np.float32(2.0**-23) * (2 * k + 1)
    sign = np.where(k % 2 == 0, np.float32(1), np.float32(-1))
    return a, b * sign, c * sign


def test_the_shortcut_fails_where_it_should_and_the_check_sees_it():
    a, b, c = double_rounding_cases()
    exact = exact_fma(a, b, c)
    assert correctly_rounded_fma(a, b, c).tolist() == exact
    wrong = reference.fma(a, b, c) != np.array(exact, np.float32)
    # k**2 2**-70 is lost in the sum's float64 rounding, half of whose last place is 2**-53, up to k = 362.
    assert wrong.sum() == 362
    for everywhere in (False, True):
        checker = CheckedFma(everywhere=everywhere)
        checker(a, b, c)
        assert (checker.evaluated, checker.different) == (2000, 362)


@pytest.mark.parametrize("seed", range(4))
def test_correctly_rounded_fma_is_exact_arithmetic(seed):
    """Random operands; c of any size against the product, of either sign, and cancelling it to a few bits."""
    rng = np.random.Generator(np.random.PCG64(seed))
    size = 5000

    def random_floats() -> Floats:
        mantissa = rng.integers(2**23, 2**24, size) * rng.choice([-1.0, 1.0], size)
        return (mantissa * 2.0 ** rng.integers(-60, 10, size)).astype(np.float32)

    a, b, c = random_floats(), random_floats(), random_floats()
    near = rng.random(size) < 0.5
    nudge = 1 + rng.integers(-3, 4, size) * 2.0**-23
    c = np.where(near, -(a.astype(np.float64) * b) * nudge, c).astype(np.float32)
    assert correctly_rounded_fma(a, b, c).tolist() == exact_fma(a, b, c)
