"""A number of elements in few characters."""

from __future__ import annotations


def power_of_two(number: int) -> str | None:
    """A power of two as one, None of what is none.

    >>> power_of_two(2**24), power_of_two(3)
    ('2^24', None)
    """
    return f"2^{number.bit_length() - 1}" if number > 0 and number.bit_count() == 1 else None


def size(elements: int) -> str:
    """As tables have it: a power of two where it is one and not small, else all digits.

    >>> size(2**24), size(8), size(124_439_808)
    ('2^24', '8', '124,439,808')
    """
    power = power_of_two(elements)
    return power if power and elements >= 16 else f"{elements:,}"


def brief(elements: int) -> str:
    """As a row's name has it, where there is no room for all digits.

    >>> brief(2**24), brief(124_439_808)
    ('2^24', '124M')
    """
    return power_of_two(elements) or (f"{elements / 1e6:.0f}M" if elements >= 1e6 else str(elements))
