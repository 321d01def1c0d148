"""Do the numbers look random? The reference against the distributions that it claims to draw from.

Every seed is fixed, so every test's outcome is too: the thresholds only say how surprising a passing outcome
was allowed to be. Some 250 statistics are looked at. A p-value below 1e-6, or a z-score beyond 6 (p = 2e-9),
among them would come about by chance once in 4,000 choices of seeds.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from kernel_cases import DTYPES
from scipy import stats

from tritoninit.kernels import lowering, reference
from tritoninit.kernels.stream import Draw

P_VALUE = 1e-6
Z_SCORE = 6


def drawn(
    distribution: str,
    parameters: tuple[float, ...],
    size: int,
    *,
    dtype: str = "float32",
    seed: int = 0,
    stream: int = 0,
    start: int = 0,
) -> np.ndarray:
    """``size`` values of one stream, as float32."""
    memory = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}[dtype]
    out = np.empty(size, memory)
    reference.fill_many([(out, dtype, Draw(distribution, parameters, seed, stream, start, (1,)))], threads=2)
    if dtype == "bfloat16":
        return (out.astype(np.uint32) << 16).view(np.float32)
    return out.astype(np.float32)


def uniforms(size: int, **place: int) -> np.ndarray:
    return drawn("uniform", lowering.uniform(0, 1, "float32"), size, **place)


def normals(size: int, **place: int) -> np.ndarray:
    return drawn("normal", lowering.normal(0, 1, "float32"), size, **place)


PLACES = [(0, 0, 0), (1, 0, 0), (2**63 + 5, 7, 2**34 - 3), (2**64 - 1, 2**64 - 1, 2**63 - 2**24)]
everywhere = pytest.mark.parametrize(("seed", "stream", "start"), PLACES)


@everywhere
def test_uniform_is_uniform(seed, stream, start):
    x = uniforms(1 << 20, seed=seed, stream=stream, start=start)
    assert stats.kstest(x, "uniform").pvalue > P_VALUE
    # The low bits too: the 24-bit integers, in all 256 classes of their last 8 bits.
    counts = np.bincount((x * 2.0**24).astype(np.int64) & 255, minlength=256)
    assert stats.chisquare(counts).pvalue > P_VALUE


@everywhere
def test_normal_is_normal(seed, stream, start):
    z = normals(1 << 20, seed=seed, stream=stream, start=start)
    assert stats.kstest(z, "norm").pvalue > P_VALUE
    # Each pair is one radius and one angle: both elements of a pair, and both pairs, on their own.
    for lane in range(4):
        assert stats.kstest(z[lane::4], "norm").pvalue > P_VALUE


def moments_are(values: np.ndarray, distribution: stats.rv_frozen) -> None:
    """The first four raw moments, each within six of its own standard errors."""
    x = values.astype(np.float64)
    for k in (1, 2, 3, 4):
        expected = distribution.moment(k)
        error = math.sqrt((distribution.moment(2 * k) - expected**2) / len(x))
        assert abs((x**k).mean() - expected) < Z_SCORE * error, k


@everywhere
def test_moments(seed, stream, start):
    place = {"seed": seed, "stream": stream, "start": start}
    moments_are(uniforms(1 << 21, **place), stats.uniform())
    moments_are(normals(1 << 21, **place), stats.norm())


def test_parameters_scale_and_shift():
    moments_are(
        drawn("normal", lowering.normal(0.5, 0.25, "float32"), 1 << 20, seed=3), stats.norm(0.5, 0.25)
    )
    uniform = drawn("uniform", lowering.uniform(-3, 5, "float32"), 1 << 20, seed=3)
    moments_are(uniform, stats.uniform(-3, 8))


def test_normal_tails():
    """|z| beyond 3, 4, 5 and 5.5 in 2**26 draws, as often as the binomial distribution expects: 38.5 times
    beyond 5, and 2.6 beyond 5.5."""
    size, piece = 1 << 26, 1 << 22
    thresholds = np.array([3, 4, 5, 5.5])
    beyond = np.zeros((2, len(thresholds)), np.int64)
    for start in range(0, size, piece):
        z = normals(piece, seed=11, start=start)
        far = z[np.abs(z) > thresholds[0]]
        beyond += [[np.count_nonzero(sign * far > t) for t in thresholds] for sign in (1, -1)]
    for counts in beyond:
        for count, probability in zip(counts, stats.norm.sf(thresholds), strict=True):
            assert stats.binomtest(int(count), size, probability).pvalue > P_VALUE
    assert beyond[:, 2].sum() > 20


def test_the_farthest_normal():
    """A word of zero gives the largest radius, sqrt(64 ln 2) = 6.66; the largest word gives zero."""
    words = np.array([0, 1, 2**32 - 1], np.uint32)
    cosine, sine = reference.box_muller(words, np.zeros(3, np.uint32))
    assert cosine.tolist() == pytest.approx([6.6604, 6.6604, 0], abs=1e-4)
    assert not sine.any()


def correlations_vanish(x: np.ndarray, y: np.ndarray) -> None:
    """Of the values and of their squares, which for normals catches a shared radius."""
    for power in (1, 2):
        r = np.corrcoef(x.astype(np.float64) ** power, y.astype(np.float64) ** power)[0, 1]
        assert abs(r) * math.sqrt(len(x)) < Z_SCORE, power


SIZE = 1 << 19
NEIGHBOURS = [
    {"stream": 1},
    {"stream": 2},
    {"stream": 2**32},
    {"stream": 2**63},
    {"seed": 1},
    {"seed": 2},
    {"seed": 2**32},
    {"seed": 2**63},
    {"start": SIZE},
    {"start": 2**34},
    {"start": 2**62},
    {"seed": 1, "stream": 1},
]


@pytest.mark.parametrize("place", NEIGHBOURS, ids=str)
def test_neighbouring_streams_are_independent(place):
    correlations_vanish(normals(SIZE), normals(SIZE, **place))
    correlations_vanish(uniforms(SIZE), uniforms(SIZE, **place))


@pytest.mark.parametrize("lag", range(1, 9))
def test_neighbouring_elements_are_independent(lag):
    for x in (normals(SIZE, seed=17), uniforms(SIZE, seed=17)):
        correlations_vanish(x[:-lag], x[lag:])


def test_streams_of_consecutive_keys_do_not_cluster():
    """The first block of each of 4,096 consecutive streams, and seeds: together they are uniform too."""
    for change in ("stream", "seed"):
        firsts = np.concatenate([uniforms(4, **{change: k}) for k in range(1 << 12)])
        assert stats.kstest(firsts, "uniform").pvalue > P_VALUE


# Bounds, which no value of any dtype may pass. high itself must never come back.

BOUNDS = [
    (0, 1),
    (-1, 1),
    (-1, 0),
    (1, 2),
    (-0.02, 0.02),
    (1e-3, 1e3),
    (-1e3, 1e-3),
    (0.1, 0.1015625),
    (999, 1001),
    (-1001, -999),
    (0, 2.0**-24),
    (-(2.0**-24), 2.0**-24),
    (2.0**-14, 2.0**-13),
    (0, 65504),
    (-65504, 65504),
    (65000, 65504),
    (0.2, 60000),
    (-60000, -0.2),
]
# Beyond float16's range or below its grid.
WIDE_BOUNDS = [
    (0, 3e38),
    (-1.7e38, 1.6e38),
    (1e-30, 1e-20),
    (0, 1e-37),
    (0, 2.0**-126),
    (-(2.0**-130), 2.0**-130),
    (1e-30, 1e30),
    (-1e30, 1e-30),
    (3e38, 3.3895313892515355e38),
]
EVERY_BOUND = [(*b, d) for d in DTYPES for b in (BOUNDS if d == "float16" else BOUNDS + WIDE_BOUNDS)]


def extremes(distribution: str, parameters: tuple[float, ...], dtype: str) -> np.ndarray:
    """2**14 values of a stream, and those of the words at both ends and in the middle, as float64."""
    values = drawn(distribution, parameters, 1 << 14, dtype=dtype, seed=23)
    words = np.concatenate([np.arange(512), 2**32 - 1 - np.arange(512), 2**31 + np.arange(-256, 256)])
    lanes = np.tile(words.astype(np.uint32), (4, 1))
    ends = reference.narrow(getattr(reference, distribution)(lanes, *parameters)[0], dtype)
    if dtype == "bfloat16":
        ends = (ends.astype(np.uint32) << 16).view(np.float32)
    return np.concatenate([values, ends]).astype(np.float64)


@pytest.mark.parametrize(("low", "high", "dtype"), EVERY_BOUND)
def test_uniform_bounds(low, high, dtype):
    values = extremes("uniform", lowering.uniform(low, high, dtype), dtype)
    assert values.min() >= lowering.float32(low)
    assert values.max() < lowering.float32(high)
    # Nor is the range left unused: both ends are come near to, as near as the dtype's grid allows.
    own = drawn("uniform", lowering.uniform(low, high, "float32"), 1 << 14, seed=23).astype(np.float64)
    grid = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}[dtype]
    unit = max(grid * max(abs(low), abs(high)), 2.0**-24 if dtype == "float16" else 0)
    assert values.min() <= own.min() + unit
    assert values.max() >= own.max() - unit


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [0.0, 3.0, -0.3, 65504.0, 1e-7])
def test_uniform_of_one_number(value, dtype):
    """Where low equals high every element is that number, rounded to the dtype."""
    values = drawn("uniform", lowering.uniform(value, value, dtype), 1000, dtype=dtype)
    assert (values == drawn("constant", lowering.constant(value, dtype), 1, dtype=dtype)).all()


# (mean, std, a, b): around the mean, on one side of it, far out in a tail, narrow, wide, large and small.
TRUNCATIONS = [
    (0, 1, -2, 2),
    (0, 1, -0.5, 0.5),
    (0, 1, -1, 3),
    (0, 1, 0, 1),
    (0, 1, -100, 100),
    (0, 1, -100, 0.25),
    (0, 1, 1, 100),
    (0, 1, 3, 100),
    (0, 1, 4, 4.5),
    (0, 1, 6, 100),
    (0, 1, -100, -5),
    (0, 1, -7, -6),
    (0, 1, 0.01, 0.02),
    (0, 0.02, -0.04, 0.04),
    (0.3, 0.02, 0.2, 0.301),
    (-5, 3, -4, 13),
    (1000, 10, 990, 1005),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("mean", "std", "low", "high"), TRUNCATIONS)
def test_truncated_normal_bounds(mean, std, low, high, dtype):
    values = extremes("truncated_normal", lowering.truncated_normal(mean, std, low, high, dtype), dtype)
    assert values.min() >= lowering.float32(low)
    assert values.max() <= lowering.float32(high)


@pytest.mark.parametrize(("mean", "std", "low", "high"), TRUNCATIONS)
def test_truncated_normal_distribution(mean, std, low, high):
    values = drawn(
        "truncated_normal", lowering.truncated_normal(mean, std, low, high, "float32"), 1 << 18, seed=29
    )
    expected = stats.truncnorm((low - mean) / std, (high - mean) / std, mean, std)
    assert stats.kstest(values, expected.cdf).pvalue > P_VALUE
    # Both halves of the probability apart: what a fault in one tail would leave looking right in the whole.
    median = expected.median()
    for half in (values[values <= median], values[values > median]):
        assert abs(len(half) / len(values) - 0.5) < Z_SCORE * 0.5 / math.sqrt(len(values))
        u = 2 * np.minimum(expected.cdf(half), expected.sf(half))
        assert stats.kstest(u, "uniform").pvalue > P_VALUE
