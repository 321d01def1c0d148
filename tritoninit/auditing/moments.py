"""Mean and standard deviation: of a tensor as it is, of a fill as it should be, and how far they differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from tritoninit.auditing.reading import pieces
from tritoninit.fills import Constant, Fill, Normal, TruncatedNormal, Uniform
from tritoninit.kernels.lowering import FLOAT_DTYPES

Floats = npt.NDArray[np.float64]

CHUNK: Final = 1 << 18  # elements measured together: 2 MiB in float64
# |z| beyond this is an alarm. A mean comes there with a probability of 2 exp(-8**2 / 2) = 2.5e-14 at most
# (tails like the normal's or lighter); the standard deviation of n normals, by the chi-squared distribution,
# with 1.6e-12 (the worst n is 2); that of uniforms, by Chernoff's bound, with 1.4e-11 (n = 34). So of 10**8
# audits of 500 parameters, with two scores each, fewer than one gives a false alarm.
ALARM: Final = 8.0
# Those bounds hold for tails no heavier than the normal's. Others need so many elements, times their
# kurtosis, before sums of them are near enough to normal.
_LIGHT_TAILS: Final = 3.1
_MANY: Final = 10_000
# float32 has 2**-24 of relative precision: of a spread below this, times the mean, its grid makes another.
_RESOLVED: Final = 2.0**-16


@dataclass(frozen=True)
class Moments:
    """Of a tensor's elements; complex ones count as two. All but the counts None if one is not finite.

    ``std`` is that of the elements themselves: the root of their mean squared distance from ``mean``. Both
    are None, too, where elements are finite and float64 has no such number.
    """

    count: int
    mean: float | None = None
    std: float | None = None
    min: float | None = None
    max: float | None = None
    nan: int = 0
    inf: int = 0


def merged(several: Iterable[Moments]) -> Moments:
    """The moments of the elements of all of them: one alone is as it was."""
    known = [each for each in several if each.count]
    if len(known) < 2:
        return known[0] if known else Moments(0)
    total, nan, inf = (sum(getattr(each, name) for each in known) for name in ("count", "nan", "inf"))
    if nan or inf:
        return Moments(total, nan=nan, inf=inf)
    if any(each.mean is None for each in known):  # finite, and too large for a sum of squares
        lows = [each.min for each in known if each.min is not None]
        highs = [each.max for each in known if each.max is not None]
        return Moments(total, min=min(lows), max=max(highs))
    rows = [
        (each.count, each.mean or 0.0, (each.std or 0.0) ** 2 * each.count, each.min or 0.0, each.max or 0.0)
        for each in known
    ]
    return _of(rows)


def measure(x: Tensor) -> Moments:
    """The moments of a tensor of any dtype and layout, on its device, in 2 MiB of scratch.

    Each chunk is summed in float64, first its elements and then their squared distances from its mean; chunks
    merge as in Chan, Golub and LeVeque (1979), so that neither size nor a mean far from zero costs digits.
    """
    counts, rows = [], []
    scratch: Tensor | None = None
    for _, piece in pieces(x, CHUNK):
        real = as_real(piece)
        if scratch is None:  # one for all pieces: fresh pages each time took most of the time
            scratch = torch.empty_like(real, dtype=torch.float64)
        wide = scratch[: real.numel()].copy_(real)
        low, high = wide.aminmax()
        mean = wide.mean()
        wide -= mean
        counts.append(wide.numel())
        rows.append(torch.stack((mean, wide.dot(wide), low, high)))
    if not rows:
        return Moments(0)
    found = _of((count, *row) for count, row in zip(counts, torch.stack(rows).tolist(), strict=True))
    if found.mean is None:
        nan, inf = _how_many(x, torch.isnan), _how_many(x, torch.isinf)
        if nan or inf:
            return Moments(found.count, nan=nan, inf=inf)
    return found


def _of(rows: Iterable[tuple[int, float, float, float, float]]) -> Moments:
    """Those of (count, mean, squared distances from it, least, greatest) of several parts.

    No mean and no standard deviation where those are not finite.
    """
    total, mean_, squares, least, greatest = 0, 0.0, 0.0, math.inf, -math.inf
    for count, mean, around, low, high in rows:
        distance = mean - mean_
        mean_ += distance * count / (total + count)
        squares += around + distance * distance * total * count / (total + count)  # inf, where ** raises
        total += count
        least, greatest = min(least, low), max(greatest, high)
    std = math.sqrt(squares / total) if squares >= 0 else math.nan
    if not math.isfinite(mean_ + std):
        return Moments(total, min=least, max=greatest)
    return Moments(total, mean_, std, least, greatest)


def _how_many(x: Tensor, test: Callable[[Tensor], Tensor]) -> int:
    return sum(int(test(as_real(piece).to(torch.float64)).sum()) for _, piece in pieces(x, CHUNK))


def as_real(piece: Tensor) -> Tensor:
    """A 1-d piece; of complex numbers, two real ones each."""
    return torch.view_as_real(piece).view(-1) if piece.is_complex() else piece


class Expected(NamedTuple):
    """The moments of a distribution; the kurtosis is the fourth central one by the squared variance."""

    mean: float
    std: float
    kurtosis: float


@lru_cache(maxsize=1024)
def expected(fill: Fill, dtype: torch.dtype) -> Expected | None:
    """The moments of a fill's elements as ``dtype`` holds them; None where no fill draws or the grid decides.

    In float32 they are the distribution's: its grid shifts a mean or a standard deviation by less than
    2e-7 standard deviations, which a thousand million elements would not show. In fewer bits they are those
    of the rounded numbers, summed over all that the dtype has.
    """
    name = str(dtype).removeprefix("torch.")
    if isinstance(fill, Constant):
        if dtype.is_complex:
            return None
        value = torch.tensor(fill.parameters(name)[0], dtype=torch.float64, device="cpu").to(dtype)
        return Expected(float(value), 0.0, math.nan)
    if name not in FLOAT_DTYPES:
        return None
    found = _smooth(fill)
    if not found.std:
        return expected(Constant(found.mean), dtype)
    if found.std < _RESOLVED * abs(found.mean):
        return None
    return found if dtype in (torch.float32, torch.float64) else _rounded(fill, dtype)


def _smooth(fill: Fill) -> Expected:
    match fill:
        case Uniform(low, high):
            return Expected((low + high) / 2, (high - low) / math.sqrt(12), 9 / 5)
        case Normal(mean, std):
            return Expected(mean, std, 3.0)
        case TruncatedNormal(mean, std, a, b):
            # By quadrature: the closed form (Johnson, Kotz and Balakrishnan 1994, 13.10.1) subtracts nearly
            # equal numbers where the interval is narrow.
            nodes, weights = np.polynomial.legendre.leggauss(200)
            left, right = max((a - mean) / std, -10.0), min((b - mean) / std, 10.0)
            z = (left + right) / 2 + (right - left) / 2 * nodes
            density = weights * np.exp(-(z**2) / 2)
            return _moments_of(mean + std * z, density / density.sum())
    raise NotImplementedError(f"the moments of {type(fill).__name__}")


def _moments_of(values: Floats, probabilities: Floats) -> Expected:
    mean = float(probabilities @ values)
    squares = (values - mean) ** 2
    variance = float(probabilities @ squares)
    fourth = float(probabilities @ squares**2)
    return Expected(mean, math.sqrt(variance), fourth / variance**2 if variance else math.nan)


def _rounded(fill: Fill, dtype: torch.dtype) -> Expected:
    """The moments of a dtype's numbers, each with the probability of what rounds to it."""
    values = _finite_numbers(dtype)
    if fill.stochastic:
        return _rounded_stochastically(fill, dtype, values)
    edges = (values[1:] + values[:-1]) / 2
    below = _distribution(fill, edges)
    if not isinstance(fill, Normal):  # the others are kept within floor and cap before they are rounded
        *_, floor, cap = fill.parameters(str(dtype).removeprefix("torch."))
        below[edges <= floor] = 0.0
        below[edges >= cap] = 1.0
    return _moments_of(values, np.diff(below, prepend=0.0, append=1.0))


_STEPS = 16  # in which the way from one number of a dtype to the next is gone


def _rounded_stochastically(fill: Fill, dtype: torch.dtype, values: Floats) -> Expected:
    """The same, where what lies between two numbers is shared by both, the more of it the nearer."""
    at = np.arange(_STEPS) / _STEPS
    edges = np.append((values[:-1, None] + np.diff(values)[:, None] * at).reshape(-1), values[-1])
    below = _distribution(fill, edges)
    if not isinstance(fill, Normal):
        *_, floor, cap = fill.parameters(str(dtype).removeprefix("torch."))
        below[edges <= floor] = 0.0
        below[edges >= cap] = 1.0
    steps = np.diff(below, prepend=0.0, append=1.0)
    mass = steps[1:-1].reshape(-1, _STEPS)
    upwards = mass @ (at + 0.5 / _STEPS)
    shared = np.append(mass.sum(axis=1) - upwards, 0.0) + np.append(0.0, upwards)
    shared[0] += steps[0]
    shared[-1] += steps[-1]
    return _moments_of(values, shared)


@cache
def _finite_numbers(dtype: torch.dtype) -> Floats:
    half = 1 << (8 * dtype.itemsize - 1)
    patterns = torch.arange(-half, half, dtype={1: torch.int8, 2: torch.int16}[dtype.itemsize], device="cpu")
    values: Floats = np.unique(patterns.view(dtype).double().numpy())
    finite: Floats = values[np.isfinite(values)]
    return finite


def _distribution(fill: Fill, x: Floats) -> Floats:
    """The probability of less than ``x``."""
    match fill:
        case Uniform(low, high):
            return _between(x, low, high)
        case Normal(mean, std):
            return _normal_distribution((x - mean) / std)
        case TruncatedNormal(mean, std, a, b):
            first, last = _normal_distribution((np.array([a, b]) - mean) / std)
            inside = _normal_distribution((x - mean) / std)
            return _between(inside, first, last)
    raise NotImplementedError(f"the distribution function of {type(fill).__name__}")


def _between(x: Floats, first: float, last: float) -> Floats:
    """How far ``x`` has come from first to last, in [0, 1]."""
    part: Floats = np.clip((x - first) / (last - first), 0.0, 1.0)
    return part


def _normal_distribution(z: Floats) -> Floats:
    found: Floats = torch.special.ndtr(torch.from_numpy(z)).numpy()
    return found


class Scores(NamedTuple):
    """How many standard errors a measured mean and standard deviation lie above the expected ones."""

    mean: float | None
    std: float | None


def scores(found: Moments, wanted: Expected) -> Scores:
    """z of the mean, (m - mu) / (sigma / sqrt(n)), and of the standard deviation.

    The latter is sqrt(n) (s - sigma) / (sigma sqrt((kurtosis - 1) / 4)), by the delta method. None where
    nothing varies.
    """
    if found.mean is None or found.std is None or not wanted.std:
        return Scores(None, None)
    root = math.sqrt(found.count)
    spread = math.sqrt(max(wanted.kurtosis - 1, 0.0) / 4)
    return Scores(
        root * (found.mean - wanted.mean) / wanted.std,
        root * (found.std / wanted.std - 1) / spread if spread > 1e-6 else None,
    )


def judged(count: int, kurtosis: float) -> bool:
    """Whether :data:`ALARM` holds for the scores of so many elements."""
    return kurtosis <= _LIGHT_TAILS or count >= _MANY * kurtosis
