"""Which global indices a rank holds, from how the dimensions of a mesh cut those of a tensor.

A mesh dimension that cuts gives each of its ranks a chunk, as ``torch.chunk`` has them: the size is rounded
up, so the last ranks may have less, or nothing. Where several cut one dimension of the tensor, the later ones
cut what the earlier left; FSDP2 cuts last what is tensor-parallel, though its mesh dimension comes first.

torch's ``compute_local_shape_and_global_offset`` cuts from left to right instead, strided where another cut
comes first: the same where all chunks are equal, and not otherwise. For 7 rows on a mesh of 3 x 2, the rank
at (2, 1) has row 6 by that, and nothing in fact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from tritoninit.windows import Windows

Run = tuple[int, int]


class Cut(NamedTuple):
    """What a mesh dimension does to a tensor.

    Attributes:
        dim: the dimension of the tensor that it cuts; None if all its ranks hold the same.
        factor: into how many parts others have cut the dimension before, of each of which the ranks have
            their chunks.
    """

    dim: int | None = None
    factor: int = 1


def order_of(cuts: Sequence[Cut], mesh_shape: Sequence[int]) -> dict[int, tuple[int, ...]] | None:
    """By tensor dimension, the mesh dimensions in the order in which they cut; None if no order tells.

    From right to left, each comes after as many as it takes to make its ``factor``.
    """
    found: dict[int, list[int]] = {}
    for mesh_dim in reversed(range(len(cuts))):
        dim, factor = cuts[mesh_dim]
        if dim is None:
            continue
        order = found.setdefault(dim, [])
        parts = (math.prod(mesh_shape[k] for k in order[:place]) for place in range(len(order) + 1))
        place = next((place for place, count in enumerate(parts) if count == factor), None)
        if place is None:
            return None
        order.insert(place, mesh_dim)
    return {dim: tuple(order) for dim, order in found.items()}


def in_order(
    shape: Sequence[int],
    order: Mapping[int, Sequence[int]],
    mesh_shape: Sequence[int],
    coordinate: Sequence[int],
) -> Windows:
    """What the rank at a coordinate of the mesh holds, by the order of the cuts."""
    return _in_order(
        tuple(shape),
        tuple((dim, tuple(each)) for dim, each in order.items()),
        tuple(mesh_shape),
        tuple(coordinate),
    )


@lru_cache(maxsize=4096)
def _in_order(
    shape: tuple[int, ...],
    order: tuple[tuple[int, tuple[int, ...]], ...],
    mesh_shape: tuple[int, ...],
    coordinate: tuple[int, ...],
) -> Windows:
    runs = [[(0, size)] for size in shape]
    for dim, mesh_dims in order:
        for k in mesh_dims:
            runs[dim] = chunk(runs[dim], mesh_shape[k], coordinate[k])
    return Windows.runs(shape, runs)


@lru_cache(maxsize=4096)
def interleaved(
    shape: tuple[int, ...], cuts: tuple[Cut, ...], mesh_shape: tuple[int, ...], coordinate: tuple[int, ...]
) -> Windows:
    """The same from left to right, where a cut with a factor takes a chunk of each of so many parts."""
    runs = [[(0, size)] for size in shape]
    for (dim, factor), count, number in zip(cuts, mesh_shape, coordinate, strict=True):
        if dim is not None:
            parts = [chunk(runs[dim], factor, part) for part in range(factor)]
            runs[dim] = joined([run for part in parts for run in chunk(part, count, number)])
    return Windows.runs(shape, runs)


def chunk(runs: Sequence[Run], count: int, number: int) -> list[Run]:
    """One of ``count`` chunks of the indices that runs list."""
    total = sum(stop - start for start, stop in runs)
    size = -(-total // count)
    low, high = min(number * size, total), min((number + 1) * size, total)
    found, seen = [], 0
    for start, stop in runs:
        first, last = max(low - seen, 0), min(high - seen, stop - start)
        if first < last:
            found.append((start + first, start + last))
        seen += stop - start
    return found


def joined(runs: Sequence[Run]) -> list[Run]:
    """The same with neighbours as one."""
    found: list[Run] = []
    for start, stop in runs:
        if found and found[-1][1] == start:
            found[-1] = (found[-1][0], stop)
        else:
            found.append((start, stop))
    return found
