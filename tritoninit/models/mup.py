"""The maximal update parametrisation's initialisation, as a modifier of any rules."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from torch import nn

from tritoninit.combinators import Scaled, ZeroRow
from tritoninit.fans import Axes, module_axes
from tritoninit.fills import Initializer, sole_fill
from tritoninit.initializers import FanScaled
from tritoninit.models.rules import Rule, RuleSet, SlotRule
from tritoninit.models.slots import Slot, axes_of, slots


def mup(rules: Iterable[Rule], base: nn.Module) -> RuleSet:
    """``rules`` as a model of base width gets them, scaled so that wider models train alike.

    A parameter draws what ``rules`` give its namesake in ``base``, times sqrt(base fan_in / fan_in) if both
    its fans grew (hidden weights), times base fan_in / fan_in if only fan_in did (output weights), times 1
    otherwise (input weights, embeddings, biases, gains). Constants stay. Yang et al. 2022, "Tensor Programs
    V", table 3; table 8 is the same scheme with a multiplier in the forward pass.

    The initialisation is one part of the scheme. The others are yours: Adam's rate for hidden and output
    weights times base fan_in / fan_in, attention logits scaled by 1 / head width, and, where the head is tied
    to the embedding, which stays as it is, logits times base width / width.

    Args:
        rules: for the model at its base width.
        base: the same model at the base width, on any device, the meta device too.

    The rules raise ValueError for a parameter that ``base`` does not have, whose fans nothing tells, or whose
    initializer is no distribution of independent elements (orthogonal, sparse). They have nothing for one
    that only its module's own code (:data:`~tritoninit.OWN_CODE`) sets.
    """
    rules = RuleSet.of(rules)
    narrow = {slot.name: slot for slot in slots(base)}

    def choose(slot: Slot) -> Initializer | None:
        if slot.name not in narrow:
            raise ValueError("the base model has no such parameter")
        found = rules.find(narrow[slot.name], own_code=False)  # which does not say how it goes with the width
        return None if found is None else _widened(found, narrow[slot.name], slot)

    citation = "Yang et al. 2022, Tensor Programs V, table 3"
    sources = "; ".join(filter(None, (citation, rules.citation)))
    return RuleSet(f"mup({rules.name})", sources, (SlotRule(choose=choose),))


def _widened(found: Initializer, narrow: Slot, wide: Slot) -> Initializer:
    """The initializer of a parameter of the wider model, from its namesake's."""
    if isinstance(found, (ZeroRow, Scaled)):
        return replace(found, initializer=_widened(found.initializer, narrow, wide))
    if not found.random:
        return found
    axes = found.axes if isinstance(found, FanScaled) else None
    if isinstance(found, FanScaled) and axes is None:
        found = replace(found, axes=axes_of(narrow))
    fill = sole_fill(found, narrow.shape)
    if fill is None:
        raise ValueError(f"mup scales distributions of independent elements, one a parameter, not {found}")
    factor = _width_factor(narrow, wide, axes)
    return fill if factor == 1 else Scaled(fill, factor)


def _width_factor(narrow: Slot, wide: Slot, axes: Axes | None) -> float:
    """By what mup multiplies the standard deviation of a wider parameter."""
    before, after = narrow.shape, wide.shape
    if len(before) != len(after):
        raise ValueError(f"{tuple(after)} is no wider {tuple(before)} of the base model")
    if len(after) < 2 or _is_token(narrow, wide, axes):
        return 1.0
    fan_in, fan_out = (axes or axes_of(narrow)).fans(before)
    wide_in, wide_out = (axes or axes_of(wide)).fans(after)
    if wide_in == fan_in:
        return 1.0
    return fan_in / wide_in if wide_out == fan_out else math.sqrt(fan_in / wide_in)


def _is_token(narrow: Slot, wide: Slot, axes: Axes | None) -> bool:
    """An embedding, which sums over no inputs; or positions and class tokens, (1, length, width)."""
    if isinstance(wide.owner, (nn.Embedding, nn.EmbeddingBag)):
        return True
    before, after = narrow.shape, wide.shape
    grown = sum(a != b for a, b in zip(before, after, strict=True))
    return grown < 2 and axes is None and module_axes(wide.owner, wide.local, after) is None
