"""The sizes of a mesh, and what its axes are for, by their names."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tritoninit.kernels.lowering import integer

# What an axis does, by how its name begins: the longest of these that a digit, "_" or nothing follows.
PIPELINE, TENSOR, EXPERT, SHARD, REPLICATE = "pipeline", "tensor", "expert", "shard", "replicate"
KINDS: Final[Mapping[str, str]] = {
    "dp": SHARD,
    "fsdp": SHARD,
    "dp_shard": SHARD,
    "hsdp": REPLICATE,
    "ddp": REPLICATE,
    "replicate": REPLICATE,
    "dp_replicate": REPLICATE,
    "tp": TENSOR,
    "ep": EXPERT,
    "pp": PIPELINE,
}
MOST_RANKS: Final = 1 << 18  # more would take minutes


@dataclass(frozen=True)
class Mesh:
    """The axes of a mesh, outermost first; ranks are counted along the last one first, as torch does.

    Attributes:
        names: of the axes.
        shape: how many ranks lie along each.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]

    @staticmethod
    def of(given: Mesh | str | Mapping[str, int]) -> Mesh:
        """A mesh by the sizes of its axes: ``"pp=16,tp=8,dp=128"``, or a mapping.

        Raises:
            TypeError, ValueError: that is no mesh.

        >>> Mesh.of("dp=128,tp=8").size
        1024
        """
        if isinstance(given, Mesh):
            return given
        if not isinstance(given, (str, Mapping)):
            raise TypeError(f"a mesh is the sizes of its axes by name, not {given!r:.60}")
        pairs = _read(given) if isinstance(given, str) else list(given.items())
        names = tuple(str(name) for name, _ in pairs)
        shape = tuple(integer(f"the size of {name}", size) for name, size in pairs)
        if not names or len(set(names)) < len(names) or not all(map(str.isidentifier, names)):
            raise ValueError(f"a mesh has axes of different names, unlike {given!r}")
        if min(shape) < 1:
            raise ValueError(f"an axis of a mesh has one rank or more, unlike {given!r}")
        if math.prod(shape) > MOST_RANKS:
            raise ValueError(f"a mesh of {math.prod(shape):,} ranks: up to {MOST_RANKS:,} are served")
        return Mesh(names, shape)

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return math.prod(self.shape)

    def axes(self, kind: str) -> tuple[str, ...]:
        """The axes of a kind, in order."""
        return tuple(name for name in self.names if kind_of(name) == kind)

    def count(self, axes: Sequence[str]) -> int:
        """How many ranks differ along some axes alone."""
        return math.prod(self.shape[self.names.index(name)] for name in axes)

    def coordinate(self, rank: int) -> tuple[int, ...]:
        """Where a rank lies.

        Raises:
            ValueError: there is none of that number.
        """
        if not 0 <= rank < self.size:
            raise ValueError(f"no rank {rank} in a mesh of {self.size:,}")
        found = []
        for size in reversed(self.shape):
            rank, place = divmod(rank, size)
            found.append(place)
        return tuple(reversed(found))

    def rank(self, coordinate: Sequence[int]) -> int:
        """The number of the rank that lies there."""
        return self.along(self.names, coordinate)

    def along(self, axes: Sequence[str], coordinate: Sequence[int]) -> int:
        """The number of a coordinate along some axes, as if they were one."""
        number = 0
        for name in axes:
            k = self.names.index(name)
            number = number * self.shape[k] + coordinate[k]
        return number

    def __str__(self) -> str:
        return ",".join(f"{name}={size}" for name, size in zip(self.names, self.shape, strict=True))


def _read(text: str) -> list[tuple[str, int]]:
    found = []
    for part in text.split(","):
        name, _, size = (each.strip() for each in part.partition("="))
        if not (size.isascii() and size.isdigit() and len(size) < 20):
            raise ValueError(f"{part.strip()!r} is not AXIS=SIZE, as in dp=128,tp=8")
        found.append((name, int(size)))
    return found


def kind_of(name: str) -> str | None:
    """What an axis is for, by its name; None if that does not tell."""
    known = [prefix for prefix in KINDS if re.fullmatch(rf"{prefix}(?:\d.*|_.*)?", name)]
    return KINDS[max(known, key=len)] if known else None
