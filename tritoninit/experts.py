"""Many weights of one shape in a tensor, along its leading dimensions: the experts of a mixture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch

from tritoninit.distributed.held import whole_like
from tritoninit.fans import Axes
from tritoninit.fills import Initializer, Piece, pieces_of
from tritoninit.kernels.lowering import ParameterError, integer
from tritoninit.keys import Key
from tritoninit.plan import Plan
from tritoninit.structured import OfAnother, Structured
from tritoninit.targets import Target
from tritoninit.window import Window


@dataclass(frozen=True)
class Experts(Initializer):
    """Each of the weights that leading dimensions number, by an initializer for one of them.

    Fans are those of one weight. What is random in elements that are independent is drawn by their places in
    the whole, in one fill; a structured one (an orthogonal matrix) is built for each weight with
    ``key.fold_in(its number)``, in row-major order of the leading dimensions. With a window, or of a DTensor,
    a process builds those alone of which it holds elements: what it computes in vain is at most the rest of
    the weights that it holds parts of.

    Args:
        initializer: of a tensor of the other dimensions.
        dims: how many leading dimensions number weights.

    Raises:
        TypeError: no initializer.
        ParameterError: no dimension.

    >>> from tritoninit import Key, Orthogonal
    >>> x = Experts(Orthogonal())(torch.empty(4, 6, 3), key=Key(0))
    >>> bool(torch.allclose(x.mT @ x, torch.eye(3), atol=1e-6))
    True
    """

    initializer: Initializer
    dims: int = 1

    def __post_init__(self) -> None:
        if not isinstance(self.initializer, Initializer):
            raise TypeError(f"not an Initializer: {self.initializer!r}")
        object.__setattr__(self, "dims", integer("dims", self.dims))
        if self.dims < 1:
            raise ParameterError(f"at least one dimension numbers weights, not {self.dims}")

    @property
    def random(self) -> bool:
        return self.initializer.random

    def of_weight(self, axes: Axes | None, shape: Sequence[int]) -> Initializer:
        """The same; what the dimensions of one of the weights mean, modules do not say."""
        return replace(self, initializer=self.initializer.of_weight(None, shape[self.dims :]))

    def pieces(self, shape: Sequence[int]) -> Sequence[Piece]:
        if len(shape) < self.dims:
            raise ValueError(f"{self.dims} dimensions number weights, and shape {tuple(shape)} has fewer")
        leading = tuple(shape[: self.dims])
        return [
            piece._replace(
                initializer=each if each.by_place else _Each(each, self.dims),  # type: ignore[arg-type]
                offsets=(0,) * self.dims + piece.offsets,
                shape=leading + piece.shape,
            )
            for piece in pieces_of(self.initializer, shape[self.dims :])
            for each in [piece.initializer]
        ]


@dataclass(frozen=True)
class _Each(OfAnother):
    """A structured initializer of each of the weights that leading dimensions number."""

    dims: int

    @property
    def numbered(self) -> int:  # type: ignore[override]
        return self.dims

    @property
    def drawn_together(self) -> bool:  # type: ignore[override]
        return self.structured.drawn_together

    def times(self, factor: float) -> Structured:
        return replace(self, structured=self.structured.times(factor))

    def stochastically(self) -> Structured:
        return replace(self, structured=self.structured.stochastically())

    def check(self, target: Target, window: Window) -> None:
        inner = window.global_shape[self.dims :]
        self.structured.check(whole_like(target, inner), Window.whole(inner))

    def build(self, target: Target, key: Key, window: Window) -> torch.Tensor:
        built = [
            self.structured.build(part, key.fold_in(number), inside)
            for number, part, inside in self._weights(target, window)
        ]
        return torch.stack(built).reshape(tuple(target.shape))

    def add_parts(self, plan: Plan, parts: Sequence[tuple[Target, Window]], key: Key) -> None:
        """Each weight is built once, however many parts of it there are."""
        held: dict[int, list[tuple[Target, Window]]] = defaultdict(list)
        for target, window in parts:
            for number, part, inside in self._weights(target, window):
                held[number].append((part, inside))
        for number, inner in held.items():
            self.structured.add_parts(plan, inner, key.fold_in(number))

    def _weights(self, target: Any, window: Window) -> Iterator[tuple[int, Target, Window]]:
        """The number, the memory and the window of the part of each weight that a target holds."""
        dims, whole = self.dims, window.global_shape
        inside = Window(whole[dims:], window.offsets[dims:])
        if isinstance(target, torch.Tensor):
            target = target.detach()
        for place in product(*map(range, target.shape[:dims])):
            at = (offset + k for offset, k in zip(window.offsets, place, strict=False))
            number = 0
            for size, k in zip(whole, at, strict=False):
                number = number * size + k
            yield number, target[(*place, ...)], inside
