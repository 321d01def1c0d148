"""Pairs of float64, and what is made of them in float64 tensors: against numbers of 120 digits."""

import math

import mpmath
import numpy as np
import pytest
import torch
from mpmath import mpf

import tritoninit as ti
from tritoninit import Key, Window, pairs
from tritoninit.mapped import Mapped

KEY = Key(9).fold_in("pairs")
COUNT = 120


@pytest.fixture(autouse=True)
def digits():
    with mpmath.workdps(120):
        yield


def numbers(seed):
    return np.random.default_rng(seed)


def spread(low, high, seed=0, sign=1.0):
    """Pairs between two powers of e."""
    high = sign * np.exp(numbers(seed).uniform(low, high, COUNT))
    return pairs.Pair(high, high * 2.0**-54 * numbers(seed + 1).uniform(-1, 1, COUNT))


def plain(low, high, seed=0):
    high = numbers(seed).uniform(low, high, COUNT)
    return pairs.Pair(high, high * 2.0**-54 * numbers(seed + 1).uniform(-1, 1, COUNT))


def exact(pair):
    return [mpf(float(high)) + mpf(float(low)) for high, low in zip(*map(np.atleast_1d, pair), strict=True)]


def worst(found, true):
    return max(abs(a - b) / abs(b) for a, b in zip(exact(found), true, strict=True))


@pytest.mark.parametrize(
    ("function", "truth", "x", "bits"),
    [
        (pairs.log, mpmath.log, spread(-600, 600), 103),
        (pairs.log, mpmath.log, plain(0.7, 1.5), 102),
        (pairs.log, mpmath.log, pairs.Pair(np.ones(60), -(2.0 ** -np.arange(53, 113.0))), 102),
        (pairs.exp, mpmath.exp, plain(-600, 700), 96),
        (pairs.expm1, mpmath.expm1, spread(-200, 5, sign=-1.0), 102),
        (pairs.cotangent, lambda x: mpmath.cot(mpmath.pi * x), spread(-50, math.log(0.25)), 102),
        (pairs.sqrt, mpmath.sqrt, spread(-300, 300), 102),
    ],
)
def test_functions(function, truth, x, bits):
    assert worst(function(x), map(truth, exact(x))) < mpf(2) ** -bits


@pytest.mark.parametrize("operation", ["__add__", "__sub__", "__mul__", "__truediv__"])
def test_arithmetic(operation):
    """Of numbers of any size: relative to the larger term, and to the result elsewhere."""
    cases = [(spread(-300, 300), spread(-300, 300, 7)), (plain(1, 2), plain(-2, -1, 7))]
    if operation != "__truediv__":
        cases.append((spread(700, 709), spread(-600, 0, 7)))
    for x, y in cases:
        found = exact(getattr(x, operation)(y))
        for a, b, z in zip(exact(x), exact(y), found, strict=True):
            true = getattr(a, operation)(b)
            size = abs(true) if operation in ("__mul__", "__truediv__") else max(abs(a), abs(b))
            assert abs(z - true) <= size * mpf(2) ** -100


def test_out_of_range():
    with np.errstate(over="ignore"):
        assert pairs.rounded(pairs.exp(pairs.of([1e9, -1e9, 709.8]))).tolist() == [math.inf, 0.0, math.inf]
    assert pairs.rounded(pairs.sqrt(pairs.of([0.0]))).tolist() == [0.0]
    assert pairs.rounded(pairs.within(pairs.of([1.0, 2.0, 3.0]), 1.5, 2.5)).tolist() == [1.5, 2.0, 2.5]


def uniforms(bits, seed):
    """Multiples of 2**-bits in [0, 1), as many near both ends and the middle as anywhere."""
    words = numbers(seed).integers(0, 1 << bits, COUNT)
    near = words >> numbers(seed + 1).integers(0, bits, COUNT)
    top = (1 << bits) - 1
    ends = np.array([0, top, top // 2, top // 2 + 1])
    found = np.concatenate([words, near, top - near, top // 2 - near // 2, ends]).astype(np.float64)
    return numbers(seed + 2).permutation(found) * 2.0**-bits


def log_uniform(low, high):
    return lambda u: mpf(low) * (mpf(high) / mpf(low)) ** u


def of_step(low, high, floor):
    def truth(u):
        step = max(mpf(floor), log_uniform(low, high)(u))
        return step + mpmath.log(-mpmath.expm1(-step))

    return truth


def of_ring(low, high):
    return lambda u: mpmath.log(1 / mpmath.sqrt(mpf(low) ** 2 + (mpf(high) ** 2 - mpf(low) ** 2) * u) - 1)


def of_48_and_more(high, low):
    return high + low * mpf(2) ** -24 + mpf(2) ** -78


def truths():
    """Initializers, at their usual numbers and where something cancels or is nearly out of range."""
    for low, high in ((1e-3, 0.1), (1e-300, 1e300), (2.0, 2.0)):
        yield ti.LogUniform(low, high), log_uniform(low, high)
    for low, high in ((1.0, 16.0), (0.5, 2.0), (5e-324, 1.7e308), (1.0, 1 + 2.0**-50)):
        yield (
            ti.LogOfUniform(low, high),
            lambda u, low=low, high=high: mpmath.log(mpf(low) + (mpf(high) - mpf(low)) * u),
        )
    for step in ((1e-3, 0.1, 1e-4), (1e-3, 0.1, 1e-2), (0.1, 1.0, 0.0), (1e-300, 1e300, 0.0)):
        yield ti.TimeStepBias(*step), of_step(*step)
    for ring in ((0.9, 0.999), (0.1, 0.9), (1e-300, 1 - 2.0**-53)):
        yield ti.RingDecay(*ring), of_ring(*ring)
    for rate in (1.0, 3.7, 1e300, 1e-306):
        yield (
            ti.Exponential(rate),
            lambda high, low, rate=rate: -mpmath.log(of_48_and_more(high, low)) / mpf(rate),
        )
    for median, scale in ((0.0, 1.0), (1.3, 2.0), (1e284, 1e200)):
        yield (
            ti.Cauchy(median, scale),
            lambda high, low, median=median, scale=scale: (
                mpf(median) + mpf(scale) * mpmath.tan(mpmath.pi * (of_48_and_more(high, low) - mpf(0.5)))
            ),
        )
    for p in (0.3, 1e-9, 1 - 2.0**-53, 2.0**-60):
        yield (
            ti.Geometric(p),
            lambda high, low, p=p: max(
                mpf(1), mpmath.ceil(mpmath.log(of_48_and_more(high, low)) / mpmath.log1p(-mpf(p)))
            ),
        )
    for mean, std in ((1.0, 2.0), (0.0, 75.0), (0.0, 1e-300)):
        yield ti.LogNormal(mean, std), lambda z, mean=mean, std=std: mpmath.exp(mpf(mean) + mpf(std) * z)


@pytest.mark.parametrize(
    ("initializer", "truth"), [pytest.param(*each, id=str(each[0])) for each in truths()]
)
def test_within_an_ulp(initializer, truth):
    """At most 4 are promised; where results are normal numbers they are nearly always the nearest."""
    if isinstance(initializer, ti.LogNormal):
        drawn = [np.concatenate([numbers(0).normal(size=COUNT), [-9.4194, 9.4194, 0.0, 1e-17]])]
    else:
        drawn = [uniforms(24, 5), uniforms(53, 9)][-len(initializer.sources) :]
    found = initializer.values(drawn, "float64")
    for value, *numbers_ in zip(found, *drawn, strict=True):
        true = truth(*(mpf(float(each)) for each in numbers_))
        unit = mpf(math.ulp(float(true))) if abs(true) > 1e-300 else 2 * mpf(math.ulp(float(true)))
        assert abs(mpf(float(value)) - true) <= unit * mpf("0.50001")


MAPPED = (
    ti.LogUniform(1e-3, 0.1),
    ti.LogOfUniform(),
    ti.TimeStepBias(),
    ti.RingDecay(),
    ti.Exponential(),
    ti.LogNormal(),
    ti.Cauchy(),
    ti.Geometric(0.2),
)


@pytest.mark.parametrize("initializer", MAPPED, ids=str)
def test_more_digits_of_the_same_numbers(initializer):
    """A float64 value is the float32 value of its place, in any part, from any backend."""
    narrow = initializer(torch.empty(9, 2001), key=KEY).double()
    found = []
    for backend in ("numpy", "numba"):
        with ti.use_backend(backend):
            found.append(initializer(torch.empty(9, 2001, dtype=torch.float64), key=KEY))
    whole, other = found
    assert whole.equal(other)
    # What a number's tail, or what is next to one, decides, float32 knows less of.
    known = {ti.LogNormal: (1e-4, 0.0), ti.RingDecay: (1e-5, 0.0), ti.LogOfUniform: (1e-6, 1e-6)}
    relative, absolute = known.get(type(initializer), (1e-6, 0.0))
    assert ((whole - narrow).abs() <= relative * narrow.abs() + absolute).all()
    assert whole.float().double().equal(whole) == isinstance(initializer, ti.Geometric)
    part = torch.empty(3, 7, dtype=torch.float64)
    initializer(part, key=KEY, window=Window((9, 2001), (2, 900)))
    assert part.equal(whole[2:5, 900:907])
    array = np.full((2001, 9), np.nan).T
    assert np.array_equal(initializer(array, key=KEY), whole.numpy())
    assert initializer(torch.empty(0, 3, dtype=torch.float64), key=KEY).shape == (0, 3)


def test_of_models_and_interception():
    with ti.intercept(seed=0) as intercepted:
        weight = torch.nn.Parameter(torch.empty(64, dtype=torch.float64))
        weight.data.exponential_()
    assert not intercepted.passed_on
    key = Key(0).fold_in("draws").fold_in(0)
    assert weight.detach().equal(ti.exponential_(torch.empty(64, dtype=torch.float64), key=key))
    model = torch.nn.Module()
    model.dt_bias = torch.nn.Parameter(torch.empty(64, dtype=torch.float64))
    ti.initialize_(model, ti.schemes.mamba(), seed=0)
    steps = torch.nn.functional.softplus(model.dt_bias.detach())
    assert 1e-3 * (1 - 1e-12) <= steps.min() < steps.max() <= 0.1 * (1 + 1e-12)


@pytest.mark.parametrize(
    "initializer",
    [
        ti.Exponential(1e-308),
        ti.LogNormal(0.0, 1e300),
        ti.LogNormal(0.0, 75.5),
        ti.Cauchy(0.0, 1e300),
        ti.Geometric(1e-320),
    ],
    ids=str,
)
def test_what_float64_does_not_hold(initializer):
    with pytest.raises(ValueError, match="float64 cannot hold the values of"):
        initializer(torch.empty(3, dtype=torch.float64))
    assert ti.LogNormal(0.0, 75.3)(torch.empty(999, dtype=torch.float64), key=KEY).isfinite().all()


def test_somebody_else_s_function_has_no_more_digits():
    class Squared(Mapped):
        def function(self, u):
            return u * u

    assert Squared()(torch.empty(3), key=KEY).isfinite().all()
    with pytest.raises(NotImplementedError, match="Squared of float64: its function has no more digits"):
        Squared()(torch.zeros(3, dtype=torch.float64))


@pytest.mark.gpu
@pytest.mark.parametrize("initializer", MAPPED, ids=str)
@pytest.mark.parametrize("backend", ["triton", "numpy"])
def test_on_the_gpu(initializer, backend):
    here = initializer(torch.empty(7, 4001, dtype=torch.float64), key=KEY)
    with ti.use_backend(backend):
        there = initializer(torch.empty(7, 4001, dtype=torch.float64, device="cuda"), key=KEY)
    assert there.is_cuda
    assert there.cpu().equal(here)
