"""The interval of a median: its ranks as tables have them, and how often it holds the median."""

from itertools import pairwise

import numpy as np
import pytest

from tritoninit.bench import device
from tritoninit.bench.intervals import of_median


@pytest.mark.parametrize(
    # Ranks of the sign test's intervals at 95 % (as in Conover's and Gibbons's tables).
    ("number", "rank"),
    [(1, None), (3, None), (5, None), (6, 1), (8, 1), (9, 2), (10, 2), (12, 3), (20, 6), (50, 18)],
)
def test_ranks(number, rank):
    values = list(range(1, number + 1))
    expected = None if rank is None else (rank, number + 1 - rank)
    assert of_median(values[::-1]) == expected


@pytest.mark.parametrize("number", [6, 11, device.MOST_ROUNDS])
def test_coverage(number):
    """Of a skewed distribution, whose median is log(2): 95 % or more, and not much more than ranks allow."""
    draws = np.random.default_rng(0).exponential(size=(4000, number))
    held = [low <= np.log(2) <= high for low, high in map(of_median, draws)]
    assert 0.94 < np.mean(held) < 0.995


def test_more_values_tell_more():
    widths = []
    for number in (6, 12, 24, 50):
        low, high = of_median(np.linspace(0, 1, number))
        widths.append(high - low)
    assert all(now < before for before, now in pairwise(widths))
