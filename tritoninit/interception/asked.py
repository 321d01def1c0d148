"""Rules for a model, of what is known of each of its tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from glob import escape
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tritoninit.combinators import AsOne, CopyOf
from tritoninit.fans import module_axes
from tritoninit.fills import Constant, Initializer
from tritoninit.initializers import Ones, Zeros
from tritoninit.models.rules import Rule, RuleSet
from tritoninit.models.slots import Place, Slot, places, slots
from tritoninit.parametrized import set_with
from tritoninit.recorded import Given, Part, Recorded, equal, numbers


class Unrecordable(Exception):
    """Nobody can say how a tensor was set; the message says why."""


class ReadBackError(Unrecordable):
    """It depends on a number that was drawn and then read, by code that goes by this name."""

    def __init__(self, code: str) -> None:
        super().__init__(f"it depends on a number that was drawn and read back, in {code}")
        self.code = code


class Drawn(NamedTuple):
    """Random numbers that a tensor holds: some of one draw.

    Attributes:
        number: which draw.
        span: of which of its bytes, from the first to the last + 1.
        place: all that decides which of them lies where; None if that is all of them, as they were drawn.
    """

    number: int
    span: tuple[int, int]
    place: Hashable = None

    def meets(self, other: Drawn) -> bool:
        (start, stop), (first, last) = self.span, other.span
        return self.number == other.number and start < last and first < stop


class Asked(NamedTuple):
    """How a tensor was set.

    Attributes:
        initializer: the same as a value.
        drawn: which random numbers it holds, or was computed from.
        again: its calls, and the numbers of the draws among them; None if they were not noted.
    """

    initializer: Initializer
    drawn: tuple[Drawn, ...] = ()
    again: Callable[[], tuple[Recorded, tuple[Drawn, ...]]] | None = None

    @property
    def rank(self) -> int:
        """Whose keys come first: of draws of their own, then of what is computed, then of parts."""
        if any(each.place is not None for each in self.drawn):
            return 2
        return 1 if isinstance(self.initializer, Recorded) else 0


class _Keys:
    """Whose key a tensor's random numbers come of: they may be another's, too."""

    def __init__(self) -> None:
        self._first: dict[tuple[Drawn, ...], str] = {}
        self._owners: dict[int, list[tuple[Drawn, str]]] = {}

    def initializer(self, name: str, asked: Asked) -> Initializer:
        """The initializer of the next tensor; a copy's or a function's of an earlier one, by the key of that.

        Raises:
            Unrecordable: its numbers are in part another's, and no one key gives both.
        """
        how, drawn, again = asked
        owner = next(
            (who for d in drawn for each, who in self._owners.get(d.number, ()) if d.meets(each)), None
        )
        if drawn and owner is not None and drawn not in self._first:
            how, drawn = again() if again is not None else (how, drawn)
            if drawn not in self._first:
                raise Unrecordable(f"its random numbers are in part those of {owner}")
        for each in drawn:
            self._owners.setdefault(each.number, []).append((each, name))
        origin = self._first.setdefault(drawn, name) if drawn else name
        return how if origin == name else CopyOf(origin, how)


def rules_of(model: nn.Module, asked: Callable[[Slot], Asked]) -> RuleSet:
    """One rule a parameter and a buffer of which it is known how it was set.

    Raises:
        ValueError: parameters of which it is not, by name.
    """
    known: dict[Slot, Asked] = {}
    problems: dict[Slot, str] = {}
    found: dict[Slot, Initializer] = {}
    along: set[Place] = set()  # of weights, which come first
    listed = slots(model)
    for slot in listed:
        along |= set_with(slot)
        if not (slot.is_buffer and along & places(slot)):
            with _named(problems, slot):
                how = asked(slot)
                known[slot] = Asked(_as_asked(slot, how.initializer), how.drawn, how.again)
    keys = _Keys()
    for slot in sorted(known, key=lambda slot: known[slot].rank):
        with _named(problems, slot):
            found[slot] = keys.initializer(slot.name, known[slot])
    words = [f"{slot.name}: {problems[slot]}" for slot in listed if slot in problems and not slot.is_buffer]
    if words:
        raise ValueError(f"nobody knows how these are set: {'; '.join(words)}")
    rules = (
        Rule(_exactly(slot.name), {slot.local: found[slot]} if slot.is_buffer else found[slot])
        for slot in listed
        if slot in found
    )
    return RuleSet(f"recorded: {type(model).__name__}", "", rules)


@contextmanager
def _named(problems: dict[Slot, str], slot: Slot) -> Iterator[None]:
    """What nobody can say in the block is a slot's problem, and goes no further."""
    try:
        yield
    except Unrecordable as error:
        problems[slot] = str(error)


def _exactly(name: str) -> str:
    """A glob that one name matches."""
    return name if set("*?[").isdisjoint(name) else escape(name)


def _as_asked(slot: Slot, initializer: Initializer) -> Initializer:
    """An initializer that means in a rule what the code meant, which did not ask what the dimensions mean."""
    shape = tuple(slot.tensor.shape)
    try:
        same = initializer.of_weight(module_axes(slot.owner, slot.name, shape), shape) == initializer
    except ValueError:
        same = False
    return initializer if same else AsOne(initializer)


def as_given(tensor: Tensor) -> Initializer:
    """The numbers that a tensor holds, as one if they are."""
    values = tensor.detach().cpu().contiguous()
    part = Part(0, str(values.dtype).removeprefix("torch."), tuple(values.shape), values.stride())
    return constant(values) or Recorded((Given(part, numbers(values)),), part)


def constant(values: Tensor) -> Initializer | None:
    """The one number that all elements are."""
    if values.is_complex() or values.dtype == torch.bool:
        return None
    first = values.flatten()[0]
    same = bool((values == first).all()) or bool(values.isnan().all())
    return of_number(first.item()) if same else None


def of_number(value: float) -> Initializer:
    if value == 0 and math.copysign(1, value) > 0:
        return Zeros()
    return Ones() if value == 1 else Constant(equal(value))
