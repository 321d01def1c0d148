"""Rules for a model, of what is known of each of its tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
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
from tritoninit.recorded import Given, Part, Recorded, numbers


class Unrecordable(Exception):
    """Nobody can say how a tensor was set; the message says why."""


class Asked(NamedTuple):
    """How a tensor was set.

    Attributes:
        initializer: the same as a value.
        drawn: which random numbers it holds; tensors with the same are copies. Empty if there are none.
    """

    initializer: Initializer
    drawn: tuple[Hashable, ...] = ()


def rules_of(model: nn.Module, asked: Callable[[Slot], Asked]) -> RuleSet:
    """One rule a parameter and a buffer of which it is known how it was set.

    Raises:
        ValueError: parameters of which it is not, by name.
    """
    rules: list[Rule] = []
    problems: list[str] = []
    first: dict[tuple[Hashable, ...], str] = {}
    along: set[Place] = set()  # of weights, which come first
    for slot in slots(model):
        along |= set_with(slot)
        if slot.is_buffer and along & places(slot):
            continue
        try:
            how, drawn = asked(slot)
            found = _as_asked(slot, how)
            origin = first.setdefault(drawn, slot.name) if drawn else slot.name
            if origin != slot.name:
                found = CopyOf(origin, found)
        except Unrecordable as error:
            if not slot.is_buffer:
                problems.append(f"{slot.name}: {error}")
            continue
        rules.append(Rule(_exactly(slot.name), {slot.local: found} if slot.is_buffer else found))
    if problems:
        raise ValueError(f"nobody knows how these are set: {'; '.join(problems)}")
    return RuleSet(f"recorded: {type(model).__name__}", "", rules)


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
    return Ones() if value == 1 else Constant(value)
