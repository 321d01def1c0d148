"""A fill that was asked for, what torch drew, and what is told of a tensor of which parts were changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tritoninit.auditing.assignments import TORCH
from tritoninit.combinators import ZeroRow
from tritoninit.fills import Atom, Constant, Fill, Initializer
from tritoninit.interception.regions import Region
from tritoninit.keys import Key
from tritoninit.plan import KeySource, Plan
from tritoninit.targets import Target
from tritoninit.window import Window


@dataclass(frozen=True)
class Filled:
    """A fill that was asked for; ``primitive`` is what it lowers to, None for a structured one."""

    region: Region
    initializer: Initializer
    primitive: Fill | None
    key: Key | None
    backend: str


@dataclass(frozen=True)
class Told(Atom):
    """What was done, told of: not for setting others."""

    def check(self, target: Target, window: Window) -> None:
        raise NotImplementedError(f"{self} tells what was done, not where")

    def add(self, plan: Plan, target: Target, key: KeySource, window: Window) -> None:
        self.check(target, window)

    def times(self, factor: float) -> Atom:
        raise NotImplementedError(f"{self} tells what was done, not where")


@dataclass(frozen=True)
class Overlaid(Told):
    """``initializer``, after which ``parts`` of the tensor were changed."""

    initializer: Initializer
    parts: int


@dataclass(frozen=True)
class DrawnByTorch(Told):
    """Numbers of torch's own generators, which the block's key seeded, or what was computed from them.

    Args:
        parts: only parts of the tensor are.
    """

    parts: bool = False

    def __str__(self) -> str:
        return f"{'parts ' if self.parts else ''}drawn by torch, from the block's seed"


def drawn_by_torch(region: Region, key: Key) -> Filled:
    return Filled(region, DrawnByTorch(), None, key, TORCH)


def is_drawn_by_torch(filled: Filled | None) -> bool:
    return filled is not None and isinstance(filled.initializer, DrawnByTorch)


def with_parts(
    initializer: Initializer, parts: Sequence[tuple[Region, Filled | None]], whole: Region | None
) -> Initializer:
    """What a tensor is that was filled by ``initializer`` and then, in parts, changed again.

    Args:
        whole: where all of it lies; None if others hold some.
    """
    if not parts:
        return initializer
    if any(is_drawn_by_torch(filled) for _, filled in parts):
        return initializer if isinstance(initializer, DrawnByTorch) else DrawnByTorch(parts=True)
    region, filled = parts[0]
    row = None if whole is None else region.row_of(whole)
    zeroed = filled is not None and filled.primitive == Constant(0.0)
    if len(parts) == 1 and zeroed and row is not None:
        return ZeroRow(initializer, row)
    return Overlaid(initializer, len(parts))
