"""Several rectangles of a global tensor in one local tensor: strided and fused shards, and flat ranges."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple, TypeAlias

import torch

from tritoninit.kernels.lowering import integer, integers
from tritoninit.targets import Target
from tritoninit.window import Window

# Global indices along one dimension, in local order: (start, stop) of each stretch of them.
Runs: TypeAlias = "Sequence[tuple[int, int]]"


class Fold(NamedTuple):
    """A stretch of a 1-d local tensor, seen as one of more dimensions."""

    begin: int
    shape: tuple[int, ...]


class Rectangle(NamedTuple):
    """A hyper-rectangle of a global tensor, and where a local one has it.

    Attributes:
        window: where it lies in the global tensor.
        shape: of it.
        begins: where it begins in the local tensor, or in its fold.
        fold: how the local tensor, if it is flat, is seen.
    """

    window: Window
    shape: tuple[int, ...]
    begins: tuple[int, ...]
    fold: Fold | None = None

    def of(self, local: Target) -> Target:
        """The view of a local tensor that is this rectangle."""
        seen: Any = local
        if self.fold is not None:
            end = self.fold.begin + math.prod(self.fold.shape)
            seen = seen[self.fold.begin : end].reshape(self.fold.shape)
        places = (slice(b, b + n) for b, n in zip(self.begins, self.shape, strict=True))
        return seen[(*places, ...)]  # type: ignore[no-any-return]


@dataclass(frozen=True)
class Windows:
    """Several hyper-rectangles of a global tensor, which one local tensor holds. Goes wherever a Window does.

    To be made by :meth:`runs`, for shards that are cut along dimensions, :meth:`flat`, for a range of all
    elements in their order, or :meth:`of`; and by :meth:`within`, for parts of what is a part itself.

    Args:
        global_shape: the shape of the whole, from which fans and stream indices are taken.
        local_shape: of the local tensor.
        rectangles: that make it up.

    Raises:
        ValueError: rectangles of another tensor, or such as do not make up the local one.
    """

    global_shape: tuple[int, ...]
    local_shape: tuple[int, ...]
    rectangles: tuple[Rectangle, ...]

    def __post_init__(self) -> None:
        for each in self.rectangles:
            if each.window.global_shape != self.global_shape:
                raise ValueError(f"a rectangle of {each.window.global_shape} in {self.global_shape}")
            each.window.check(each.shape)
        if sum(math.prod(each.shape) for each in self.rectangles) != math.prod(self.local_shape):
            raise ValueError(f"the rectangles do not make up a tensor of shape {self.local_shape}")

    @staticmethod
    def of(window: Window | Windows, shape: Sequence[int]) -> Windows:
        """A window of a local tensor of ``shape``, as one of these.

        Args:
            window: which part of a global tensor the local one is.
            shape: the local tensor's.

        Returns:
            The same window, of one rectangle or more.
        """
        window.check(shape)
        if isinstance(window, Windows):
            return window
        shape = tuple(shape)
        whole = Rectangle(window, shape, (0,) * len(shape))
        return Windows(window.global_shape, shape, (whole,))

    @staticmethod
    def runs(global_shape: Sequence[int], runs: Sequence[Runs | None]) -> Windows:
        """The local tensor holds, of each dimension, these stretches of global indices, one after another.

        Args:
            global_shape: the shape of the whole.
            runs: a dimension, (start, stop) of each stretch, in local order; None is all of the dimension.

        Returns:
            The local tensor's windows.

        Raises:
            ValueError: not as many runs as dimensions, or one that does not lie in its dimension.

        >>> gated = Windows.runs((8, 3), [[(2, 4), (6, 8)], None])  # the second halves of two stacked weights
        >>> gated.local_shape, [each.window.offsets for each in gated.rectangles]
        ((4, 3), [(2, 0), (6, 0)])
        """
        shape = integers("global_shape", global_shape)
        if len(runs) != len(shape):
            raise ValueError(f"runs of {len(runs)} dimensions for a tensor of shape {shape}")
        pairs = [
            ((0, size),) if each is None else tuple(_run(run, size) for run in each)
            for each, size in zip(runs, shape, strict=True)
        ]
        return _of_runs(shape, tuple(pairs))

    @staticmethod
    def flat(global_shape: Sequence[int], start: int, stop: int) -> Windows:
        """The 1-d local tensor holds elements ``start`` to ``stop`` of all, counted in row-major order.

        As FSDP's flat parameters and ZeRO's partitions do. At most ``2 * dimensions - 1`` rectangles.

        Args:
            global_shape: the shape of the whole.
            start: the first element, counted from 0.
            stop: the one after the last.

        Returns:
            The local tensor's windows.

        Raises:
            ValueError: they do not lie in the whole.

        >>> [(each.window.offsets, each.shape) for each in Windows.flat((4, 3), 2, 10).rectangles]
        [((0, 2), (1, 1)), ((1, 0), (2, 3)), ((3, 0), (1, 1))]
        """
        shape, start, stop = (
            integers("global_shape", global_shape),
            integer("start", start),
            integer("stop", stop),
        )
        if not 0 <= start <= stop <= math.prod(shape):
            raise ValueError(f"elements {start} to {stop} do not lie in a tensor of shape {shape}")
        found = []
        for offsets, size, begin in _boxes(shape, start, stop):
            if len(shape) == 1:
                found.append(Rectangle(Window(shape, offsets), size, (begin,)))
            else:
                found.append(Rectangle(Window(shape, offsets), size, (0,) * len(shape), Fold(begin, size)))
        return Windows(shape, (stop - start,), tuple(found))

    def check(self, shape: Sequence[int]) -> None:
        """Raise ValueError unless it is the local tensor's shape.

        Args:
            shape: the local tensor's.

        Raises:
            ValueError: it is not.
        """
        if tuple(shape) != self.local_shape:
            raise ValueError(f"a tensor of shape {tuple(shape)} where one of {self.local_shape} is described")

    def within(self, outer: Window | Windows) -> Windows:
        """Where this lies in the tensor that ``outer`` is of, if what this is a part of is ``outer``.

        Args:
            outer: where what this is a part of lies.

        Returns:
            Windows of the larger tensor.

        >>> experts = Window((8, 4, 6), (2, 0, 0))  # two of eight, of which this rank has rows 2 and 3
        >>> Windows.runs((2, 4, 6), [None, [(2, 4)], None]).within(experts).rectangles[0].window
        Window(global_shape=(8, 4, 6), offsets=(2, 2, 0))
        """
        around = Windows.of(outer, self.global_shape)
        found = [
            inner for each in self.rectangles for place in around.rectangles for inner in _meet(each, place)
        ]
        return Windows(around.global_shape, self.local_shape, tuple(found))

    def parts(self, local: Target) -> list[tuple[Target, Window]]:
        """The rectangles of a local tensor that have elements: views of it, and where they lie.

        Args:
            local: the local tensor, of :attr:`local_shape`.

        Returns:
            Views, each with its window of the global tensor.
        """
        self.check(local.shape)
        if isinstance(local, torch.Tensor):
            local = local.detach()
        return [(each.of(local), each.window) for each in self.rectangles if 0 not in each.shape]


def _run(run: tuple[int, int], size: int) -> tuple[int, int]:
    start, stop = integers("runs", run)
    if not 0 <= start <= stop <= size:
        raise ValueError(f"no indices {start} to {stop} along a dimension of {size}")
    return start, stop


@lru_cache(maxsize=4096)
def _of_runs(shape: tuple[int, ...], runs: tuple[tuple[tuple[int, int], ...], ...]) -> Windows:
    placed = []
    for each in runs:
        at, stretches = 0, []
        for start, stop in each:
            stretches.append((start, stop - start, at))
            at += stop - start
        placed.append(stretches)
    found = []
    for combined in product(*placed):
        offsets, sizes, begins = zip(*combined, strict=True) if combined else ((), (), ())
        found.append(Rectangle(Window(shape, offsets), sizes, begins))
    local = tuple(sum(stop - start for start, stop in each) for each in runs)
    return Windows(shape, local, tuple(found))


def _boxes(
    shape: tuple[int, ...], start: int, stop: int
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], int]]:
    """(offsets, shape, begin) of boxes that make up a range of elements in row-major order."""
    if start >= stop:
        return
    if not shape:
        yield (), (), 0
        return
    row = math.prod(shape[1:])
    (first, head), (last, tail) = divmod(start, row), divmod(stop, row)
    begin = 0

    def of_row(number: int, from_: int, to: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], int]]:
        for offsets, size, at in _boxes(shape[1:], from_, to):
            yield (number, *offsets), (1, *size), begin + at

    if first == last:
        yield from of_row(first, head, tail)
        return
    if head:
        yield from of_row(first, head, row)
        begin, first = row - head, first + 1
    if first < last:
        yield (first, *(0,) * (len(shape) - 1)), (last - first, *shape[1:]), begin
        begin += (last - first) * row
    yield from of_row(last, 0, tail)


def _meet(each: Rectangle, place: Rectangle) -> Iterator[Rectangle]:
    """What of a rectangle, of the tensor that ``place`` is a part of, lies in that part."""
    if place.fold is None:
        low, size = _overlap(each.window.offsets, each.shape, place.begins, place.shape)
        if 0 in size:
            return
        offsets = _moved(low, place.begins, place.window.offsets)
        begins = _moved(low, each.window.offsets, each.begins)
        yield Rectangle(Window(place.window.global_shape, offsets), size, begins, each.fold)
        return
    (at,), (count,) = _overlap(
        each.window.offsets, each.shape, (place.fold.begin,), (math.prod(place.fold.shape),)
    )
    here = each.begins[0] + at - each.window.offsets[0] + (each.fold.begin if each.fold else 0)
    first = at - place.fold.begin
    for offsets, shape, begin in _boxes(place.fold.shape, first, first + count):
        low, size = _overlap(offsets, shape, place.begins, place.shape)
        if 0 not in size:
            inside = _moved(low, place.begins, place.window.offsets)
            begins = _moved(low, offsets, (0,) * len(low))
            yield Rectangle(
                Window(place.window.global_shape, inside), size, begins, Fold(here + begin, shape)
            )


def _overlap(
    offsets: Sequence[int], shape: Sequence[int], others: Sequence[int], other_shape: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Where two boxes have elements in common, and how many a dimension."""
    low = tuple(max(a, b) for a, b in zip(offsets, others, strict=True))
    ends = zip(offsets, shape, others, other_shape, low, strict=True)
    return low, tuple(max(min(a + n, b + m) - c, 0) for a, n, b, m, c in ends)


def _moved(low: Sequence[int], begins: Sequence[int], offsets: Sequence[int]) -> tuple[int, ...]:
    return tuple(c - b + o for c, b, o in zip(low, begins, offsets, strict=True))
