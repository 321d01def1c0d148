"""Elements that stand apart from the others of their tensor: farther out than so many draws can reach."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Final, NamedTuple

import torch
from torch import Tensor

from tritoninit.auditing.moments import ALARM, CHUNK, Moments, as_real
from tritoninit.auditing.reading import pieces
from tritoninit.combinators import Keep
from tritoninit.fills import Constant, Fill, Initializer, Normal, TruncatedNormal, Uniform
from tritoninit.kernels.lowering import FLOAT_DTYPES, farthest_normal

CHANCE: Final = 1e-5  # of a false alarm, a tensor; see :func:`outliers`
# What is larger has no square in float32, so neither a norm nor a variance.
LARGEST: Final = math.sqrt(torch.finfo(torch.float32).max)

_MOST: Final = 8  # elements that stand apart; more of them are a part of the whole, as is one of 32
_FRACTION: Final = 32
_SPACINGS: Final = 32  # below them, which tell how fast the tail falls
_FEWEST_SPACINGS: Final = 8
_FEW: Final = 1024  # of fewer elements, no tail is seen
_FREEDOM: Final = 5  # degrees of it, of Student's t, which stands for the tail then
_SURE: Final = 512  # of more elements, eight that stand apart do not hide in their own standard deviation
_MEDIAN_OF: Final = 1 << 16


class Outliers(NamedTuple):
    """How many elements stand apart, and the farthest of them.

    ``distance`` is from the median, in standard deviations of the others, and ``reach`` is how far so many
    normals come; both are None where the others are one number, ``median``.
    """

    elements: int
    value: float
    median: float
    distance: float | None
    reach: float | None


def support(initializer: Initializer, shape: Sequence[int], dtype: torch.dtype) -> tuple[float, float] | None:
    """Between which numbers an initializer's elements lie, by construction; None where that is not known."""
    name = str(dtype).removeprefix("torch.")
    if isinstance(initializer, Keep) or name not in FLOAT_DTYPES:
        return None
    fills = [piece.initializer for piece in initializer.pieces(shape)]
    ends = [_ends(fill, farthest_normal(name)) for fill in fills if isinstance(fill, Fill)]
    if not ends or len(ends) < len(fills):
        return None
    low, high = min(a for a, _ in ends), max(b for _, b in ends)
    # Rounded to the dtype, twice: the parameters, and what comes of them.
    slack = 2 * torch.finfo(dtype).eps * max(abs(end) for pair in ends for end in pair if math.isfinite(end))
    return low - slack, high + slack


def _ends(fill: Fill, farthest: float) -> tuple[float, float]:
    match fill:
        case Constant(value):
            return float(value), float(value)
        case Uniform(low, high):
            return low, high
        case Normal(mean, std):
            return mean - farthest * std, mean + farthest * std
        case TruncatedNormal(mean, std, a, b):
            # Of a tail no less than a word's share of the mass is drawn; lowering knows none beyond 13.
            far = std * (farthest if a <= mean <= b else 13)
            return max(a, mean - far), min(b, mean + far)
    raise NotImplementedError(f"the support of {type(fill).__name__}")


def reach(count: int) -> float:
    """How far the farthest of so many normals comes, in standard deviations, but with :data:`CHANCE`.

    The z with count P(abs(Z) > z) = CHANCE: 5.7 for 1,000 and 6.8 for 10**6.
    """
    return -NormalDist().inv_cdf(CHANCE / (2 * count))


def outliers(x: Tensor, found: Moments) -> Outliers | None:
    """The elements of a tensor that no draw of their distribution explains; of 8 or 1 in 32 at most.

    Who drew them is not known, or training has changed them. What is told of the distribution is therefore
    learnt from the other n elements, with s their standard deviation and distances d from the median. With j
    elements apart, the nearest at d[j] and the next one at d[j + 1], all of this has to hold:

    - d[j] > s :func:`reach` (n): normals, and all that has lighter tails, do not come there.
    - A tail that is as heavy as the others say does not, either. By Renyi (1953), the spacings
      i (log d[i] - log d[i + 1]) of a power law's largest elements are independent and exponential, of one
      mean whatever the power. So of the j-th by the mean of the next m, at most 32, P(ratio > f) is
      (1 + f / m)**-m, and f is where that comes to CHANCE / 2**j. The mean is taken for no less than
      reach**-2, that of normals, so that a grid's ties are no tail. Tails between the normal's and a power
      law's (Laplace, log-normal) thin out and so give fewer alarms. In a million normals the threshold is
      about 10 standard deviations, in a thousand 50.
    - Of fewer than 1,024 elements, which show little of a tail, instead: d[j] > s t, where
      n P(abs(T) > t) = CHANCE for Student's T with five degrees of freedom, or n - 2 (Grubbs 1950) of fewer
      than seven elements. That is 31 standard deviations of 16 elements, 72 of 1,000.

    So a tensor gives a false alarm with a chance of about 1e-5 if its elements are independent and its tail
    is a power law's, with far less if they are normal, uniform or truncated. Of few elements that holds for
    five degrees of freedom; with four it is 2e-4 and with three 6e-3 of a thousand.

    Where all others are one number, elements stand apart that are more than 8 of it away, or 8: neither a one
    among zeros nor a norm's weight that has moved.
    """
    count = found.count
    if found.mean is None or found.min is None or found.max is None or not found.std or count < 3:
        return None
    if count >= _SURE and max(found.max - found.mean, found.mean - found.min) <= reach(count) * found.std:
        return None
    median = _median(x, count)
    value = found.max if found.max - median > median - found.min else found.min
    far, squares = _farthest(x, median)
    told = None
    for apart in range(1, max(1, min(_MOST, count // _FRACTION)) + 1):
        others = count - apart
        s = math.sqrt((squares + math.fsum(d * d for d in far[apart:])) / others)
        if not s:
            if far[apart - 1] > ALARM * max(1.0, abs(median)):
                told = Outliers(apart, value, median, None, None)
            break
        distance = far[apart - 1] / s
        if distance > reach(count) and (
            distance > _student_reach(count) if count < _FEW else _is_apart(far, apart, reach(count))
        ):
            told = Outliers(apart, value, median, far[0] / s, reach(count))
    return told


def _median(x: Tensor, count: int) -> float:
    """Of a tensor's elements, or of 2**16 all over it."""
    step = -(-count // _MEDIAN_OF)
    parts = [as_real(piece)[::step].double().cpu() for _, piece in pieces(x, CHUNK)]
    return float(torch.cat(parts).median())


def _farthest(x: Tensor, median: float) -> tuple[list[float], float]:
    """The distances of the elements farthest from the median, falling, and the sum of the others' squares."""
    most = _MOST + _SPACINGS + 1
    tops, squares = [], []
    for _, piece in pieces(x, CHUNK):
        far = as_real(piece).to(torch.float64, copy=True).sub_(median).abs_()
        top, where = far.topk(min(most, far.numel()))
        far[where] = 0.0
        tops.append(top)
        squares.append(far.dot(far))
    ordered = torch.cat(tops).sort(descending=True).values
    rest = float(torch.stack(squares).sum() + ordered[most:].square().sum())
    return ordered[:most].tolist(), rest


def _is_apart(far: Sequence[float], apart: int, limit: float) -> bool:
    """Whether the gap below so many elements is wider than the tail below it explains."""
    logs = [math.log(d) for d in far if d > 0]
    spacings = [i * (logs[i - 1] - logs[i]) for i in range(1, len(logs))]
    below = spacings[apart : apart + _SPACINGS]
    if len(below) < _FEWEST_SPACINGS:
        return False
    mean = max(math.fsum(below) / len(below), limit**-2)
    widest = len(below) * float((CHANCE / 2**apart) ** (-1 / len(below)) - 1)
    return spacings[apart - 1] > widest * mean


def _student_reach(count: int) -> float:
    """t with count P(abs(T) > t) < CHANCE, by the power law that bounds Student's tail from above."""
    v = min(_FREEDOM, count - 2)
    density = math.gamma((v + 1) / 2) / (math.sqrt(v * math.pi) * math.gamma(v / 2))
    tail = 2 * density * v ** ((v - 1) / 2)  # P(abs(T) > t) < tail t**-v
    return float((tail * count / CHANCE) ** (1 / v))
