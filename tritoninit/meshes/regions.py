"""Which part of a parameter a rank holds, by how it is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tritoninit.distributed.cuts import chunk, joined
from tritoninit.meshes.mesh import Mesh
from tritoninit.windows import Windows


class Split(NamedTuple):
    """One cut of a tensor.

    Attributes:
        dim: the dimension that it cuts.
        axes: of the mesh, whose ranks, counted as along one axis, have a chunk each, as ``torch.chunk`` has
            them.
        parts: into how many equal parts the dimension falls before, of each of which a rank has its chunk:
            gates, or queries, keys and values, in one weight.
    """

    dim: int
    axes: tuple[str, ...]
    parts: int = 1

    def __str__(self) -> str:
        parts = f"/{self.parts}" if self.parts > 1 else ""
        return f"{self.dim}{parts}@{'*'.join(self.axes)}"


@dataclass(frozen=True)
class Placement:
    """How a parameter lies on a mesh.

    Attributes:
        splits: its cuts, each of what those before have left. Along all other axes ranks have the same.
        holders: (axes, numbers) of the ranks that have a part of it, where not all have: pipeline stages, and
            experts that are parameters of their own.
    """

    splits: tuple[Split, ...] = ()
    holders: tuple[tuple[tuple[str, ...], tuple[int, ...]], ...] = ()

    @property
    def axes(self) -> frozenset[str]:
        """Those along which ranks have different parts."""
        return frozenset(axis for split in self.splits for axis in split.axes)

    def __str__(self) -> str:
        return ",".join(map(str, self.splits)) or "replicate"


def held(shape: Sequence[int], splits: Sequence[Split], mesh: Mesh, coordinate: Sequence[int]) -> Windows:
    """What the rank at a coordinate has of a tensor that it has a part of."""
    runs = [[(0, size)] for size in shape]
    for split in splits:
        count, number = mesh.count(split.axes), mesh.along(split.axes, coordinate)
        whole = runs[split.dim]
        parts = [chunk(whole, split.parts, part) for part in range(split.parts)]
        runs[split.dim] = joined([run for part in parts for run in chunk(part, count, number)])
    return Windows.runs(shape, runs)
