"""Every float32 that each step of the stream can meet, as ranges of bit patterns: the domains are finite.

A domain is a list of Python ranges over the bits of non-negative float32, ascending, and the numbers of a
range stand a constant number of patterns apart.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Domain = list[range]


def bits(x: float) -> int:
    return int(np.float32(x).view(np.int32))


def multiples(unit: int, low: int, high: int) -> Domain:
    """Multiples of 2**unit in [2**low, 2**high) that are float32 numbers, binade by binade."""
    return [range(bits(2.0**k), bits(2.0 ** (k + 1)), 1 << max(0, 23 + unit - k)) for k in range(low, high)]


def radius_numbers() -> Domain:
    """float32(x | 1) of all 2**32 words: 71,303,169 numbers.

    Odd integers below 2**24 are float32 numbers. Between 2**24 and 2**25 each lies midway between two, and
    the tie goes to the even one: a multiple of 4. From 2**25 to 2**32 every float32 number is next to an odd
    integer, and 2**32 is next to 2**32 - 1.
    """
    odd = [range(bits(1.0), bits(1.0) + 1)]
    odd += [range(bits(2.0**k + 1), bits(2.0 ** (k + 1)), 2 << (23 - k)) for k in range(1, 24)]
    return odd + multiples(2, 24, 25) + multiples(0, 25, 32) + [range(bits(2.0**32), bits(2.0**32) + 1)]


def angle_numbers() -> Domain:
    """|f| of all 2**32 words, f = float32(int32(2 y + 2**31)) * -2**-31: 67,108,865 numbers.

    The integer is even, so f is a multiple of 2**-30 rounded to 24 bits, and reaches 0 and 1.
    """
    return [range(1), *multiples(-30, -30, 0), range(bits(1.0), bits(1.0) + 1)]


def count(domain: Domain) -> int:
    return sum(map(len, domain))


def contains(domain: Domain, values: Floats) -> npt.NDArray[np.bool_]:
    """Which of non-negative ``values`` lie in the domain."""
    patterns = values.view(np.int32)
    found = np.searchsorted([r.start for r in domain], patterns, side="right") - 1
    start, stop, step = (
        np.array([getattr(r, name) for r in domain])[found] for name in ("start", "stop", "step")
    )
    return (found >= 0) & (patterns < stop) & ((patterns - start) % step == 0)


def chunks(domain: Iterable[range], *, every: int = 1, size: int = 1 << 17) -> Iterator[Floats]:
    """The domain's numbers (of each range, one in ``every``) in arrays that stay in a core's cache."""
    for whole in domain:
        thinned = whole[::every]
        for begin in range(0, len(thinned), size):
            part = thinned[begin : begin + size]
            yield np.arange(part.start, part.stop, part.step, dtype=np.int32).view(np.float32)
