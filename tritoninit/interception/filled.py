"""A fill that was asked for, and what a parameter is that was filled, and then in parts changed again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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
class Overlaid(Atom):
    """``initializer``, after which ``parts`` of the tensor were changed: told of, not for setting others."""

    initializer: Initializer
    parts: int

    def check(self, target: Target, window: Window) -> None:
        raise NotImplementedError(f"{self} tells what was done, not where")

    def add(self, plan: Plan, target: Target, key: KeySource, window: Window) -> None:
        self.check(target, window)

    def times(self, factor: float) -> Atom:
        raise NotImplementedError(f"{self} tells what was done, not where")


def with_parts(
    initializer: Initializer, parts: Sequence[tuple[Region, Filled | None]], whole: Region
) -> Initializer:
    """What a tensor is that was filled by ``initializer`` and then, in parts, changed again."""
    if not parts:
        return initializer
    region, filled = parts[0]
    row = region.row_of(whole)
    zeroed = filled is not None and filled.primitive == Constant(0.0)
    if len(parts) == 1 and zeroed and row is not None:
        return ZeroRow(initializer, row)
    return Overlaid(initializer, len(parts))
