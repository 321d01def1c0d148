"""The laws of elements: against SciPy's, by means, variances, ends and quantiles; and of what is drawn."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import tritoninit as ti
from tritoninit import facts
from tritoninit.laws import law

P = (0.001, 0.05, 0.25, 0.5, 0.75, 0.95, 0.999)
SHAPE = (7, 13)
LAWS = [
    (ti.Uniform(-2.0, 0.5), stats.uniform(-2, 2.5)),
    (ti.Normal(0.3, 0.2), stats.norm(0.3, 0.2)),
    (ti.TruncatedNormal(0.5, 2.0, -1.0, 1.0), stats.truncnorm(-0.75, 0.25, 0.5, 2)),
    (ti.TruncatedNormal(0.0, 1.0, 4.0, math.inf), stats.truncnorm(4, math.inf)),
    (ti.TruncatedNormal(1.0, 2.0, -math.inf, -9.0), stats.truncnorm(-math.inf, -5, 1, 2)),
    (ti.XavierUniform(), stats.uniform(-((6 / 20) ** 0.5), 2 * (6 / 20) ** 0.5)),
    (ti.Exponential(2.5), stats.expon(scale=0.4)),
    (ti.LogNormal(0.5, 0.7), stats.lognorm(0.7, scale=math.exp(0.5))),
    (ti.Geometric(0.3), stats.geom(0.3)),
    (ti.Geometric(0.999), stats.geom(0.999)),
    (ti.Bernoulli(0.3), stats.bernoulli(0.3)),
    (ti.Bernoulli(0.8), stats.bernoulli(0.8)),
    (ti.RandInt(-4, 9), stats.randint(-4, 9)),
    (ti.Permutation(), stats.randint(0, 13)),
    (ti.LogUniform(0.01, 3.0), stats.loguniform(0.01, 3)),
]


@pytest.mark.parametrize(("initializer", "scipy"), LAWS, ids=[repr(each) for each, _ in LAWS])
def test_against_scipy(initializer, scipy):
    found = law(initializer, SHAPE)
    assert (found.least, found.greatest) == pytest.approx(scipy.support(), rel=1e-12)
    assert found.mean == pytest.approx(scipy.mean(), rel=1e-6, abs=1e-12)
    assert found.variance == pytest.approx(scipy.var(), rel=1e-6, abs=1e-12)
    assert [found.quantile(p) for p in P] == pytest.approx(scipy.ppf(P), rel=1e-9, abs=1e-12)


def test_what_has_no_mean():
    found = law(ti.Cauchy(1.0, 3.0), SHAPE)
    assert (found.mean, found.variance, found.std) == (None, None, None)
    assert (found.least, found.greatest) == (-math.inf, math.inf)
    assert [found.quantile(p) for p in P] == pytest.approx(stats.cauchy(1, 3).ppf(P), rel=1e-9)


def test_functions_of_one_uniform():
    """Closed forms of the first two moments; quantiles by the inverse, of a falling function, too."""
    found = law(ti.LogOfUniform(1.0, 16.0), SHAPE)
    x, (low, high) = stats.uniform(1, 15), (1.0, 16.0)
    mean = (high * math.log(high) - high + low) / 15
    square = (high * (math.log(high) ** 2 - 2 * math.log(high) + 2) - 2 * low) / 15
    assert (found.mean, found.variance) == pytest.approx((mean, square - mean**2), rel=1e-6)
    assert [found.quantile(p) for p in P] == pytest.approx(np.log(x.ppf(P)), rel=1e-9)
    ring = law(ti.RingDecay(0.9, 0.999), SHAPE)
    decays = np.sqrt(0.9**2 + (0.999**2 - 0.9**2) * (1 - np.array(P)))
    assert [ring.quantile(p) for p in P] == pytest.approx(np.log(1 / decays - 1), rel=1e-9)
    step = law(ti.TimeStepBias(1e-3, 0.1), SHAPE)
    softplus = [math.log1p(math.exp(step.quantile(p))) for p in P]
    assert softplus == pytest.approx(stats.loguniform(1e-3, 0.1).ppf(P), rel=1e-6)


def test_at_the_ends():
    """Certain and impossible ones, variances that no float64 holds, one integer, and all of them."""
    assert law(ti.Bernoulli(0.0), ())[:4] == (0, 0, 0, 0)
    assert law(ti.Bernoulli(1.0), ())[:4] == (1, 1, 1, 0)
    assert law(ti.LogNormal(800.0, 40.0), ()).variance == math.inf
    assert law(ti.LogUniform(0.25, 0.25), ())[:4] == (0.25, 0.25, 0.25, 0)
    assert law(ti.RandInt(), ())[:2] == (0, 2**24)
    assert law(ti.RandInt(5, 6), ())[:4] == (5, 5, 5, 0)
    assert law(ti.RandInt(0, 2**64), ()).quantile(0.5) == 2.0**63
    assert law(ti.Permutation(), (0,)) is None
    assert law(ti.Orthogonal(), (4, 4)) is None
    assert law(ti.Stacked((ti.Ones(), ti.Normal())), (4, 4)) is None


DRAWN = [each for each, _ in LAWS] + [
    *(ti.Cauchy(-1.0, 0.5), ti.LogOfUniform(), ti.TimeStepBias(1e-3, 0.1, 4e-3), ti.RingDecay()),
]


@pytest.mark.parametrize("initializer", DRAWN, ids=repr)
def test_what_is_drawn_has_the_law(initializer):
    """As many as should be lie at or below a quantile and below it, and all within the bounds of a row."""
    shape = (64, 256)
    values = facts.drawn(initializer, shape).double()
    found = law(initializer, shape)
    for p in (0.05, 0.25, 0.5, 0.75, 0.95):
        at = found.quantile(p)
        slack = 5 * (p * (1 - p) / values.numel()) ** 0.5
        near = 1e-6 * abs(at)
        assert float((values <= at + near).double().mean()) >= p - slack
        assert float((values < at - near).double().mean()) <= p + slack
    row = facts.numbers(initializer, shape)
    assert row.low <= row.least <= row.greatest <= row.high
    assert found.least <= row.high
    assert row.low <= found.greatest
    assert torch.isfinite(torch.tensor([row.low, row.high])).all()


def test_who_is_shown_with_one():
    for known in facts.catalogue().values():
        wanted = known.group in ("Of one uniform number each", "Other distributions")
        wanted = wanted or known.name in ("Uniform", "Normal", "TruncatedNormal")
        assert (facts.shown_law(known, known.example, (8, 8)) is not None) == wanted
