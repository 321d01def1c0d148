"""What one process measures of a tensor, and what comes of that together with what others do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import prod
from typing import NamedTuple, TypeAlias

from torch import Tensor

from tritoninit.auditing.fingerprint import bits_hash
from tritoninit.auditing.moments import Expected, Moments, measure, merged, scores
from tritoninit.auditing.records import TensorRecord
from tritoninit.distributed.held import is_dtensor, readable
from tritoninit.window import Window
from tritoninit.windows import Windows

# Where a rectangle begins in the global tensor, and its shape.
Place: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]

CUT_TWICE = "is cut in more ways than one: compare those that cut it alike, in a group"


class Measured(NamedTuple):
    """The hash and the moments of one rectangle of a tensor."""

    hash: int
    moments: Moments


@dataclass(frozen=True)
class Share:
    """What is known of one parameter or buffer, here or everywhere.

    Attributes:
        row: its record.
        wanted: the moments that its elements should have.
        measured: by place, so that a replica counts once; None if nothing can be read.
    """

    row: TensorRecord
    wanted: Expected | None
    measured: Mapping[Place, Measured] | None

    @property
    def count(self) -> int:
        """How many elements are measured."""
        return sum(prod(shape) for _, shape in self.measured or ())

    @property
    def is_partial(self) -> bool:
        """Whether others hold elements that are not measured."""
        return self.measured is not None and self.count < prod(self.row.shape)


def measured(x: Tensor, windows: Window | Windows | None = None) -> dict[Place, Measured]:
    """What this process holds of a tensor, which may be a window of another."""
    if windows is None and not is_dtensor(x):
        return {((0,) * x.dim(), tuple(x.shape)): Measured(bits_hash(x), measure(x))}
    found = {}
    for part, window in readable(x, windows).parts:
        assert isinstance(part, Tensor)  # of a tensor's memory
        found[window.offsets, tuple(part.shape)] = Measured(bits_hash(part, window=window), measure(part))
    return found


def summed(share: Share) -> Share:
    """With the hash and the moments of all that is measured in its record."""
    if share.measured is None:
        return share
    found = merged(each.moments for each in share.measured.values())
    z_mean, z_std = scores(found, share.wanted) if share.wanted else (None, None)
    total = sum(each.hash for each in share.measured.values()) % 2**64
    row = replace(
        share.row,
        hash=f"{total:016x}",
        mean=found.mean,
        std=found.std,
        min=found.min,
        max=found.max,
        nan=found.nan,
        inf=found.inf,
        z_mean=z_mean,
        z_std=z_std,
    )
    return replace(share, row=row)


def combined(everyone: Sequence[Iterable[Share]]) -> tuple[dict[str, Share], dict[str, str]]:
    """The shares of all ranks as one, and what is wrong with what these have together; by name."""
    found: dict[str, Share] = {}
    wrong: dict[str, str] = {}
    for shares in everyone:
        for share in shares:
            name = share.row.name
            known = found.setdefault(name, share)
            if known is share or share.measured is None:
                continue
            before = known.measured or {}
            other = (share.row.shape, share.row.dtype) != (known.row.shape, known.row.dtype)
            if other or any(
                before.get(place, each).hash != each.hash for place, each in share.measured.items()
            ):
                wrong[name] = "is not the same on all ranks that hold it"
            if not other:
                found[name] = replace(known, measured={**share.measured, **before})
    for name, share in found.items():
        if not are_apart(share.measured or ()):
            wrong.setdefault(name, CUT_TWICE)
    return {name: summed(share) for name, share in found.items()}, wrong


def are_apart(places: Iterable[Place]) -> bool:
    """Whether no two rectangles have an element in common.

    >>> are_apart([((0, 0), (2, 3)), ((0, 3), (2, 1))]), are_apart([((0, 0), (2, 3)), ((1, 2), (2, 1))])
    (True, False)
    """
    return _are_apart([place for place in places if 0 not in place[1]], 0)


def _are_apart(places: Sequence[Place], dim: int) -> bool:
    """The same of what has the same indices in the dimensions before."""
    if len(places) < 2:
        return True
    if dim == len(places[0][0]):
        return False
    begins = {place: place[0][dim] for place in places}
    ends = {place: place[0][dim] + place[1][dim] for place in places}
    coming = sorted(places, key=lambda place: -begins[place])
    inside: list[Place] = []
    for low, _ in pairwise(sorted({*begins.values(), *ends.values()})):
        inside = [place for place in inside if ends[place] > low]
        while coming and begins[coming[-1]] == low:
            inside.append(coming.pop())
        if not _are_apart(inside, dim + 1):
            return False
    return True
