"""How well a median is known: an interval between two order statistics, whatever the distribution."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from typing import Final

CONFIDENCE: Final = 0.95


def of_median(values: Sequence[float], confidence: float = CONFIDENCE) -> tuple[float, float] | None:
    """The narrowest interval from the k-th least to the k-th largest value that holds the median so surely.

    Of n independent values, the number below the median is binomial: the interval misses it with twice the
    probability of fewer than k of n fair coins. (Conover, Practical Nonparametric Statistics, 1999, 3.2.)

    Args:
        values: independent, of one continuous distribution.
        confidence: the least probability that it holds the median.

    Returns:
        Its ends, or None where so few values are never that sure: 95 % take six.

    >>> of_median([1, 2, 3, 4, 5, 6]), of_median([1, 2, 3, 4, 5])
    ((1, 6), None)
    """
    ordered, number = sorted(values), len(values)
    missed, k = 0.0, 0
    while k < number // 2 and 2 * (missed + comb(number, k) / 2**number) <= 1 - confidence:
        missed += comb(number, k) / 2**number
        k += 1
    return (ordered[k - 1], ordered[number - k]) if k else None
