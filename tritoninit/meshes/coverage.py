"""Whether the parts that ranks hold of a tensor make it up: every element in one of them, and none twice.

By exact arithmetic on intervals, of any rectangles, whoever says that ranks have them. A tensor falls into
slabs between the places where rectangles begin or end along its first dimension; each slab, with those that
go through it, falls into slabs along the next; what is left has to lie in one rectangle.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import NamedTuple

from tritoninit.windows import Windows

_SHOWN = 3  # of what is wrong with one tensor


class Box(NamedTuple):
    """A hyper-rectangle: where it begins, where it ends, and the number of the region that it is of."""

    begins: tuple[int, ...]
    ends: tuple[int, ...]
    region: int


@dataclass(frozen=True)
class Proof:
    """What is known of a tensor's parts.

    Attributes:
        regions: how many different parts there are, those without an element not counted.
        replicas: how many ranks have each, the fewest and the most.
        faults: what is wrong, in words; empty where each element lies in exactly one of the regions.
    """

    regions: int
    replicas: tuple[int, int]
    faults: tuple[str, ...]


def coverage(
    shape: Sequence[int], windows: Mapping[int, Windows], replicas: Mapping[int, int] | None = None
) -> Proof:
    """Prove that what ranks hold of a tensor of ``shape`` is all of it, once or as often as it is replicated.

    Ranks that hold the very same rectangles are replicas of each other; any other overlap is a fault.

    Args:
        shape: the global shape.
        windows: by the number of a rank, what it holds.
        replicas: by the same numbers, how many ranks each stands for; one if not given.

    >>> halves = {rank: Windows.runs((4, 3), [[(2 * rank, 2 * rank + 2)], None]) for rank in (0, 1)}
    >>> coverage((4, 3), halves)
    Proof(regions=2, replicas=(1, 1), faults=())
    >>> coverage((5, 3), halves).faults[0]
    'rank 0 has a part of a tensor of shape (4, 3), not (5, 3)'
    """
    shape = tuple(shape)
    wrong = tuple(
        f"rank {rank} has a part of a tensor of shape {each.global_shape}, not {shape}"
        for rank, each in windows.items()
        if each.global_shape != shape
    )
    held: Counter[tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]] = Counter()
    first: dict[object, int] = {}
    for rank, each in windows.items():
        region = tuple(
            sorted((part.window.offsets, part.shape) for part in each.rectangles if 0 not in part.shape)
        )
        if region:
            held[region] += 1 if replicas is None else replicas[rank]
            first.setdefault(region, rank)
    boxes = [
        Box(begins, tuple(b + n for b, n in zip(begins, size, strict=True)), first[region])
        for region in held
        for begins, size in region
    ]
    counts = held.values()
    faults = wrong or (() if 0 in shape else tuple(islice(_faults(shape, boxes), _SHOWN)))
    return Proof(len(held), (min(counts, default=0), max(counts, default=0)), faults)


def _faults(
    shape: tuple[int, ...], boxes: Sequence[Box], at: tuple[tuple[int, int], ...] = ()
) -> Iterator[str]:
    """What is wrong within a part of a tensor, of which the intervals of the first dimensions are given."""
    dim = len(at)
    if not boxes:
        yield f"no rank has {_elements(at, shape)}"
    elif dim == len(shape):
        if len(boxes) > 1:
            ranks = ", ".join(map(str, sorted(box.region for box in boxes)[:4])) + (
                ", ..." if len(boxes) > 4 else ""
            )
            yield f"several ranks ({ranks}) have {_elements(at, shape)}, and are no replicas"
    else:
        for low, high, inside in _slabs(shape[dim], boxes, dim):
            yield from _faults(shape, inside, (*at, (low, high)))


def _slabs(size: int, boxes: Sequence[Box], dim: int) -> Iterator[tuple[int, int, list[Box]]]:
    """The intervals of a dimension between all places where boxes begin or end, and the boxes there."""
    edges = sorted({0, size, *(box.begins[dim] for box in boxes), *(box.ends[dim] for box in boxes)})
    coming = sorted(boxes, key=lambda box: box.begins[dim], reverse=True)
    inside: list[Box] = []
    for low, high in pairwise(edges):
        inside = [box for box in inside if box.ends[dim] > low]
        while coming and coming[-1].begins[dim] <= low:
            inside.append(coming.pop())
        yield low, high, inside


def _elements(at: Sequence[tuple[int, int]], shape: tuple[int, ...]) -> str:
    places = [f"{run[0]}:{run[1]}" if run != (0, size) else ":" for run, size in zip(at, shape, strict=False)]
    places += [":"] * (len(shape) - len(at))
    return f"[{', '.join(places)}] of {shape}"
