"""How much memory a tensor lies in, counted from its first element."""

from __future__ import annotations

from collections.abc import Sequence


def extent(itemsize: int, shape: Sequence[int], strides: Sequence[int]) -> tuple[int, int]:
    """The bytes between which a tensor lies, relative to its first element: half open, (0, 0) if it is empty.

    Bytes of others may lie among its own, and most of a reversed NumPy array's, whose strides are negative,
    lie before its first element.

    Args:
        itemsize: bytes an element.
        shape: elements a dimension.
        strides: bytes from one element to the next, a dimension.

    >>> extent(4, (2, 3), (12, 4))
    (0, 24)
    >>> extent(4, (3,), (-8,))
    (-16, 4)
    """
    if 0 in shape:
        return 0, 0
    steps = [stride * (size - 1) for stride, size in zip(strides, shape, strict=True)]
    return sum(step for step in steps if step < 0), sum(step for step in steps if step > 0) + itemsize
