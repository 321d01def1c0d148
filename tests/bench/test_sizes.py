"""Numbers of elements in few characters."""

import pytest

from tritoninit.bench.sizes import brief, power_of_two, size


@pytest.mark.parametrize(
    ("show", "elements", "words"),
    [
        (size, 8, "8"),
        (size, 16, "2^4"),
        (size, 1000, "1,000"),
        (size, 0, "0"),
        (brief, 8, "2^3"),
        (brief, 0, "0"),
        (brief, 1000, "1000"),
        (brief, 1_498_482_688, "1498M"),
        (power_of_two, 1, "2^0"),
        (power_of_two, 2**30, "2^30"),
        (power_of_two, 2**30 - 1, None),
        (power_of_two, 0, None),
    ],
)
def test_numbers(show, elements, words):
    assert show(elements) == words
