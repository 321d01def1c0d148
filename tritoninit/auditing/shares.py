"""What one process measures of a tensor, and what comes of that together with what others do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import NamedTuple

from torch import Tensor

from tritoninit.auditing.fingerprint import bits_hash
from tritoninit.auditing.moments import Expected, Moments, measure, merged, scores
from tritoninit.auditing.records import TensorRecord
from tritoninit.distributed.held import is_dtensor, readable


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
        measured: by (offsets, shape), so that a replica counts once; None if nothing can be read.
    """

    row: TensorRecord
    wanted: Expected | None
    measured: Mapping[tuple[tuple[int, ...], tuple[int, ...]], Measured] | None

    @property
    def count(self) -> int:
        """How many elements are measured."""
        return sum(prod(shape) for _, shape in self.measured or ())

    @property
    def is_partial(self) -> bool:
        """Whether others hold elements that are not measured."""
        return self.measured is not None and self.count < prod(self.row.shape)


def measured(x: Tensor) -> dict[tuple[tuple[int, ...], tuple[int, ...]], Measured]:
    """What this process holds of a tensor."""
    if not is_dtensor(x):
        return {((0,) * x.dim(), tuple(x.shape)): Measured(bits_hash(x), measure(x))}
    found = {}
    for part, window in readable(x).parts:
        assert isinstance(part, Tensor)  # of a DTensor's memory
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


def combined(everyone: Sequence[Iterable[Share]]) -> tuple[dict[str, Share], list[str]]:
    """The shares of all ranks as one, by name, and the names of those of which replicas differ."""
    found: dict[str, Share] = {}
    unequal: dict[str, None] = {}
    for shares in everyone:
        for share in shares:
            name = share.row.name
            known = found.setdefault(name, share)
            if known is share or share.measured is None:
                continue
            before = known.measured or {}
            if any(before.get(place, each).hash != each.hash for place, each in share.measured.items()):
                unequal[name] = None
            found[name] = replace(known, measured={**share.measured, **before})
    return {name: summed(share) for name, share in found.items()}, list(unequal)
