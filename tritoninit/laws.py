"""The laws that elements are drawn from: where they end, mean, variance and quantiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import Final, NamedTuple

import numpy as np

from tritoninit.distributions import (
    Bernoulli,
    Cauchy,
    Exponential,
    Geometric,
    LogNormal,
    Permutation,
    RandInt,
    exact_integers,
)
from tritoninit.fills import Initializer, Normal, TruncatedNormal, Uniform, sole_fill
from tritoninit.mapped import LogOfUniform, LogUniform, Mapped, RingDecay, TimeStepBias

_STANDARD: Final = NormalDist()
_POINTS: Final = 1 << 16  # by which the mean of a function of a uniform number is taken


class Law(NamedTuple):
    """Of one element, as the formula has it: what is drawn is that on a grid, and has an end.

    Attributes:
        least: where the law begins, which may be at minus infinity.
        greatest: where it ends.
        mean: None where there is none.
        variance: likewise; infinite where no float64 holds it.
        quantile: the least number that an element does not exceed with at least some probability.
    """

    least: float
    greatest: float
    mean: float | None
    variance: float | None
    quantile: Callable[[float], float]

    @property
    def std(self) -> float | None:
        return None if self.variance is None else math.sqrt(self.variance)


def law(initializer: Initializer, shape: Sequence[int]) -> Law | None:
    """The law of each element of a float32 tensor of a (global) shape; None where elements have no one law.

    >>> from tritoninit import Exponential
    >>> found = law(Exponential(2.0), (3,))
    >>> found.mean, found.variance, round(found.quantile(0.5), 3)
    (0.5, 0.25, 0.347)
    """
    fill = sole_fill(initializer, tuple(shape))
    match initializer if fill is None else fill:
        case Uniform(low, high):
            return _flat(low, high)
        case Normal(mean, std):
            return Law(-math.inf, math.inf, mean, std**2, lambda p: mean + std * _STANDARD.inv_cdf(p))
        case TruncatedNormal(mean, std, a, b):
            return _truncated(mean, std, a, b)
        case Exponential(rate):
            return Law(0.0, math.inf, 1 / rate, rate**-2, lambda p: -math.log1p(-p) / rate)
        case LogNormal(mean, std):
            return _log_normal(mean, std)
        case Cauchy(median, scale):
            return Law(
                -math.inf, math.inf, None, None, lambda p: median + scale * math.tan(math.pi * (p - 0.5))
            )
        case Geometric(p):
            return Law(1.0, math.inf, 1 / p, (1 - p) / p**2, lambda q: _trials(q, p))
        case Bernoulli(p):
            ends = float(p == 1), float(p > 0)
            return Law(*ends, p, p * (1 - p), lambda q: float(q > 1 - p))
        case RandInt(low, high):
            return _integers(low, exact_integers("float32")[1] + 1 if high is None else high)
        case Permutation() if shape and shape[-1]:
            return _integers(0, shape[-1])
        case LogUniform() | LogOfUniform() | TimeStepBias() | RingDecay() as mapped:
            return _of_one_uniform(mapped)
    return None


def _flat(low: float, high: float) -> Law:
    return Law(low, high, (low + high) / 2, (high - low) ** 2 / 12, lambda p: low + (high - low) * p)


def _integers(low: int, end: int) -> Law:
    """All as likely, from ``low`` to ``end`` - 1."""
    count = end - low

    def quantile(p: float) -> float:
        return float(low + min(max(math.ceil(count * p), 1), count) - 1)

    return Law(float(low), float(end - 1), (low + end - 1) / 2, (count**2 - 1) / 12, quantile)


def _truncated(mean: float, std: float, a: float, b: float) -> Law:
    """Johnson, Kotz and Balakrishnan, "Continuous Univariate Distributions", volume 1, section 10.1."""
    mirrored = (a - mean) / std > 0  # where probabilities are near zero, of which float64 has more digits
    low, high = sorted((mean - end) / std if mirrored else (end - mean) / std for end in (a, b))
    first, last = _STANDARD.cdf(low), _STANDARD.cdf(high)
    mass = last - first
    density = [_STANDARD.pdf(z) if math.isfinite(z) else 0.0 for z in (low, high)]
    slope = [z * d if d else 0.0 for z, d in zip((low, high), density, strict=True)]
    shift = (density[0] - density[1]) / mass
    variance = std**2 * (1 + (slope[0] - slope[1]) / mass - shift**2)
    sign = -1 if mirrored else 1

    def quantile(p: float) -> float:
        z = _STANDARD.inv_cdf(first + ((1 - p) if mirrored else p) * mass)
        return min(max(mean + sign * std * z, a), b)

    return Law(a, b, mean + sign * std * shift, variance, quantile)


def _log_normal(mean: float, std: float) -> Law:
    middle = _exp(mean + std**2 / 2)
    variance = _exp(2 * mean + std**2) * math.expm1(std**2) if std < 26 else math.inf
    return Law(0.0, math.inf, middle, variance, lambda p: _exp(mean + std * _STANDARD.inv_cdf(p)))


def _exp(x: float) -> float:
    return math.exp(x) if x < 709 else math.inf


def _trials(q: float, p: float) -> float:
    """The least number of trials that are enough with a probability of ``q``."""
    return max(1.0, math.ceil(math.log1p(-q) / math.log1p(-p)))


def _of_one_uniform(mapped: Mapped) -> Law:
    """What a monotone function makes of a uniform number: mean and variance to 1e-4 and better."""

    def at(u: float) -> float:
        return float(mapped.function(np.array([u]))[0])

    values = mapped.function((np.arange(_POINTS) + 0.5) / _POINTS)
    rises = values[-1] >= values[0]
    least, greatest = sorted((at(0.0), at(1.0)))
    mean = float(values.mean())
    variance = float(np.square(values - mean).mean())
    return Law(least, greatest, mean, variance, lambda p: at(p if rises else 1 - p))
