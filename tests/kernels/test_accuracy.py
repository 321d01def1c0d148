"""How far the stream's transforms are from exact ones of the same float32 inputs, over the whole domain.

Errors are relative, in units of 2**-24 (half a float32 last place of a mantissa of one), or in units in the
last place (ulp). Everything here was measured with the tables of stream version 1; the asserted bounds are
the measured maxima, rounded up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import mpmath
import numpy as np
import numpy.typing as npt
import pytest
from float_domains import Floats, angle_numbers, chunks, radius_numbers
from scipy.special import ndtr, ndtri

from tritoninit.kernels import lowering, reference

Doubles = npt.NDArray[np.float64]
UNIT = 2.0**-24
BUCKETS = 256
WORST = 256


@dataclass
class Errors:
    """What a transform's float32 values miss of the exact ones.

    Attributes:
        largest: largest relative error among the exact values whose mantissa falls in each of 256 buckets.
        worst: (value, exact) of the most erroneous in every array seen, both too large and too small.
    """

    largest: Doubles = field(default_factory=lambda: np.zeros(BUCKETS))
    worst: list[tuple[Floats, Doubles]] = field(default_factory=list)

    def add(self, values: Floats, exact: Doubles) -> None:
        relative = values / exact - 1
        mantissa = 2 * np.frexp(exact)[0] - 1
        np.maximum.at(self.largest, (mantissa * BUCKETS).astype(np.intp), np.abs(relative))
        ends = [0, len(values) - 1] if len(values) > 1 else [0]
        most = np.argpartition(relative, ends)[[*ends]]
        self.worst.append((values[most], exact[most]))

    def adversaries(self) -> tuple[Floats, Doubles]:
        """The values most too large and most too small of all, with their exact ones."""
        values, exact = map(np.concatenate, zip(*self.worst, strict=True))
        order = np.argsort(values / exact)
        chosen = np.concatenate([order[:WORST], order[-WORST:]])
        return values[chosen], exact[chosen]


def ulps(values: Floats, exact: Doubles) -> float:
    """The largest error in units in the last place of the larger of the value and the exact one."""
    larger = np.maximum(np.abs(values), np.abs(exact).astype(np.float32))
    return float((np.abs(values - exact) / np.spacing(larger)).max())


def numbers(domain: list[range]) -> Iterator[Floats]:
    """The domain's numbers but zero, whose sine is exactly zero."""
    for x in chunks(domain):
        if x[-1] > 0:
            yield x[x > 0]


@pytest.fixture(scope="module")
def radius_errors() -> Errors:
    errors = Errors()
    for x in numbers(radius_numbers()):
        x = x[x < 2.0**32]  # there the radius is exactly zero
        if len(x):
            u = x * 2.0**-32
            errors.add(np.sqrt(reference.minus_two_log(x, 32)), np.sqrt(-2 * np.log(u.astype(np.float64))))
    return errors


@pytest.fixture(scope="module")
def sine_errors() -> Errors:
    """Of cos t = sin(pi/2 f) and of sin t = sin(pi/2 (1 - |f|)), the rounding of 1 - |f| included."""
    errors = Errors()
    for f in numbers(angle_numbers()):
        exact = f.astype(np.float64)
        errors.add(reference.sine(f), np.sin(np.pi / 2 * exact))
        f, exact = f[f < 1], exact[f < 1]
        if len(f):
            errors.add(reference.sine(np.float32(1) - f), np.sin(np.pi / 2 * (1 - exact)))
    return errors


def test_radius(radius_errors):
    """Measured: 1.675 units over all 71,303,168 radii, of which the square root's rounding is one."""
    assert 1.6 < radius_errors.largest.max() / UNIT < 1.68


def test_sine(sine_errors):
    """Measured: 2.074 units over all 134 million sines and cosines; where f is below 1/2 the rounding of
    1 - |f| alone costs up to 0.8."""
    assert 2.0 < sine_errors.largest.max() / UNIT < 2.08


def test_every_pair_is_within_four_ulp(radius_errors, sine_errors):
    """No pair of a radius R and a sine S, of all 71 million times 134 million, is off by 4 ulp.

    The product of the computed ones differs from R S by at most (r + s + r s) R S, with r and s their
    largest relative errors, and is then rounded, by half an ulp. Relative errors turn into ulp in proportion
    to the mantissa of R S, which lies below 2; so r and s are taken for each of 256 buckets of mantissas,
    and every pair of buckets is bounded by its largest mantissa. Measured: at most 3.944.
    """
    low = 1 + np.arange(BUCKETS) / BUCKETS
    high = low + 1 / BUCKETS
    smallest, largest = np.multiply.outer(low, low), np.multiply.outer(high, high)
    mantissa = np.where(largest <= 2, largest, np.where(smallest >= 2, largest / 2, 2.0))
    r, s = radius_errors.largest[:, None], sine_errors.largest[None, :]
    assert (r > 0).all()
    assert (s > 0).all()
    bound = 0.5 + (r + s + r * s) * mantissa * 2.0**23
    assert 3.9 < bound.max() < 4


def test_adversarial_pairs(radius_errors, sine_errors):
    """The most erroneous radii times the most erroneous sines: the bound above is nearly met.

    Measured: 3.5 ulp.
    """
    radii, exact_radii = radius_errors.adversaries()
    sines, exact_sines = sine_errors.adversaries()
    worst = ulps(np.multiply.outer(radii, sines), np.multiply.outer(exact_radii, exact_sines))
    assert 3.3 < worst < 4


def test_box_muller_of_random_words():
    """The whole transform, signs and quadrants included, against float64's of the inputs as the stream rounds
    them, within 4 ulp (measured on 2**22 pairs: 2.9), and of the words themselves.
    """
    rng = np.random.Generator(np.random.PCG64(5))
    x, y = rng.integers(0, 2**32, (2, 1 << 22), np.uint32)
    u = (x | np.uint32(1)).astype(np.float32).astype(np.float64) * 2.0**-32
    radius = np.sqrt(-2 * np.log(u))
    k = (2 * y.astype(np.int64) + 2**31) % 2**32
    f = -(k - 2**32 * (k >= 2**31)).astype(np.float32).astype(np.float64) * 2.0**-31
    rounded = np.pi * (y >> np.uint32(31)) + np.pi / 2 * (1 - f)
    whole = 2 * np.pi * y / 2.0**32
    z = reference.box_muller(x, y)
    for values, trigonometric in zip(z, (np.cos, np.sin), strict=True):
        exact = radius * trigonometric(rounded)
        # Near a zero float64's own rounding of t, up to 2**-50, would count.
        clear = np.abs(exact) > 2.0**-18
        assert clear.mean() > 0.999
        assert ulps(values[clear], exact[clear]) < 4
        # f has 24 bits: the angle is off by pi/2 * 2**-25, the value by that and 4 ulp.
        assert (np.abs(values - radius * trigonometric(whole)) <= radius * 6 * UNIT).all()


INTERVALS = [
    (-40, 40),
    (-2, 2),
    (-1, 1),
    (-0.01, 0.01),
    (0, 2),
    (0, 50),
    (-3, -1),
    (1, 1.001),
    (3, 4),
    (-40, -6),
    (6, 40),
    (6, 6.0001),
]


@pytest.mark.parametrize(("low", "high"), INTERVALS)
def test_truncated_normal(low, high):
    """Standard normals within [low, high] against the exact quantiles of the words' exact probabilities.

    Measured: where |z| is below 2.6, off by at most 8.8 units, relative to the larger of |z| and one; beyond,
    38.4 units relative to |z|, which reaches 8.9.
    """
    rng = np.random.Generator(np.random.PCG64(7))
    # Uniform words, and words at every distance from both ends and from the middle.
    distance = (2.0 ** rng.uniform(0, 31, 1 << 18)).astype(np.uint32)
    middle = np.uint32(1 << 31)
    uniform = rng.integers(0, 2**32, 1 << 18, np.uint32)
    x = np.concatenate([uniform, distance, ~distance, middle + distance, middle - distance])
    numbers = lowering.truncated_normal(0, 1, low, high, "float32")
    z = reference.truncated_normal(np.stack([x] * 4), *numbers)[0]
    # The smaller of the two probabilities is exact enough in float64, and so is its quantile.
    u = (x | np.uint32(1)) * 2.0**-32
    below, above = ndtr(low), ndtr(-high)
    mass = ndtr(high) - below if low < 0 else ndtr(-low) - above
    left, right = below + u * mass, above + (1 - u) * mass
    exact = np.where(left < right, ndtri(left), -ndtri(right))
    error = np.abs(z - exact) / UNIT
    central = np.abs(exact) < 2.6
    assert (error <= np.where(central, 9 * np.maximum(np.abs(exact), 1), 39 * np.abs(exact))).all()


def test_the_exact_quantiles_are_exact():
    """What the test above compares with, scipy's ndtr and ndtri, against mpmath: 2**-45 is 2**-21 units."""
    with mpmath.workdps(40):
        for z in (-9, -6, -5, -2.7, -1, -0.1):
            assert abs(ndtri(float(mpmath.ncdf(z))) / z - 1) < 2.0**-45
            assert abs(ndtr(z) / float(mpmath.ncdf(z)) - 1) < 2.0**-45
