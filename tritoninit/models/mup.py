"""The maximal update parametrisation's initialisation, as a modifier of any rules."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from tritoninit.combinators import Scaled, StochasticallyRounded, ZeroRow
from tritoninit.fans import Axes, module_axes
from tritoninit.fills import Initializer, sole_fill
from tritoninit.initializers import FanScaled
from tritoninit.kernels.lowering import ParameterError, plain
from tritoninit.models.rules import Rule, RuleSet, SlotRule
from tritoninit.models.slots import Slot, axes_of, slots


def mup(rules: Iterable[Rule], base: nn.Module) -> RuleSet:
    """``rules`` as a model of base width gets them, scaled so that wider models train alike.

    A parameter draws what ``rules`` give its namesake in ``base``, times sqrt(base fan_in / fan_in) if both
    its fans grew (hidden weights), times base fan_in / fan_in if only fan_in did (output weights), times 1
    otherwise (input weights, embeddings, biases, gains). Constants stay. Yang et al. 2022, "Tensor Programs
    V", table 3; table 8 is the same scheme with a multiplier in the forward pass.

    The initialisation is one part of the scheme. :func:`mup_groups` has the learning rates for an
    optimizer, and :func:`~tritoninit.coord_check` tells whether all is right. The rest is yours:
    attention logits scaled by 1 / head width, and, where the head is tied to the embedding, which stays
    as it is, logits times base width / width.

    Args:
        rules: for the model at its base width.
        base: the same model at the base width, on any device, the meta device too.

    The rules raise ValueError for a parameter that ``base`` does not have, whose fans nothing tells, or whose
    initializer is no distribution of independent elements (orthogonal, sparse). They have nothing for one
    that only its module's own code (:data:`~tritoninit.OWN_CODE`) sets.

    Returns:
        One rule for all parameters.

    Raises:
        TypeError: ``rules`` are no rules. What the rules themselves raise for a parameter is told above.
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
    if isinstance(found, (ZeroRow, Scaled, StochasticallyRounded)):
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
    (fan_in, fan_out), (wide_in, wide_out) = _fans(narrow, wide, axes)
    if wide_in == fan_in:
        return 1.0
    return fan_in / wide_in if wide_out == fan_out else math.sqrt(fan_in / wide_in)


def _fans(narrow: Slot, wide: Slot, axes: Axes | None) -> tuple[tuple[int, int], tuple[int, int]]:
    """Fan_in and fan_out of a parameter and of its wider namesake; vectors and tokens sum over no inputs."""
    before, after = narrow.shape, wide.shape
    if len(before) != len(after):
        raise ValueError(f"{tuple(after)} is no wider {tuple(before)} of the base model")
    if len(after) < 2 or _is_token(narrow, wide, axes):
        return (1, before[-1] if before else 1), (1, after[-1] if after else 1)
    return (axes or axes_of(narrow)).fans(before), (axes or axes_of(wide)).fans(after)


def _is_token(narrow: Slot, wide: Slot, axes: Axes | None) -> bool:
    """An embedding, which sums over no inputs; or positions and class tokens, (1, length, width)."""
    if isinstance(wide.owner, (nn.Embedding, nn.EmbeddingBag)):
        return True
    before, after = narrow.shape, wide.shape
    grown = sum(a != b for a, b in zip(before, after, strict=True))
    return grown < 2 and axes is None and module_axes(wide.owner, wide.local, after) is None


OPTIMIZERS = ("adam", "sgd")


def mup_rates(
    module: nn.Module, base: nn.Module, *, optimizer: str = "adam", rules: Iterable[Rule] = ()
) -> dict[str, float]:
    """By what mup multiplies the learning rate of each parameter of a wider model: Yang et al. 2022, table 3.

    With Adam, of hidden and output weights base fan_in / fan_in, of all others 1. With SGD that times fan_out
    / base fan_out: of input weights, embeddings, biases and gains it is more than 1, of hidden weights 1
    where all widths grow alike, and of output weights base fan_in / fan_in. At the base width all are 1.

    Args:
        module: the wider model.
        base: the same model at the base width, on any device.
        optimizer: "adam", also for those that divide by the size of gradients as it does (AdamW, Lion,
            Adafactor), or "sgd".
        rules: as :func:`mup` has them, whose ``axes=`` say what dimensions mean where modules do not.

    Returns:
        The factors by qualified names, as the report of ``initialize_`` has them.

    Raises:
        ValueError: ``base`` has no such parameter, or one that is no narrower; fans that nothing tells; an
            optimizer of another name.

    >>> mup_rates(nn.Linear(64, 10), nn.Linear(16, 10))
    {'weight': 0.25, 'bias': 1.0}
    """
    return {slot.name: rate for slot, rate in _rates(module, base, optimizer, RuleSet.of(rules))}


def mup_groups(
    module: nn.Module,
    base: nn.Module,
    lr: float,
    *,
    optimizer: str = "adam",
    weight_decay: float | None = None,
    rules: Iterable[Rule] = (),
) -> list[dict[str, Any]]:
    """Parameters for an optimizer, each group with the rate that :func:`mup_rates` says.

    ``torch.optim.AdamW(mup_groups(model, base, lr=3e-3))``. Those that need no gradient are left out.

    Args:
        module: the wider model.
        base: the same model at the base width, on any device.
        lr: the rate at the base width, as tuned there.
        optimizer: as in :func:`mup_rates`.
        weight_decay: AdamW and SGD take ``lr * weight_decay`` of a weight a step: it is divided by the factor
            of the rate, so that this stays as it is, as in microsoft/mup. None: the optimizer's own.
        rules: as in :func:`mup_rates`.

    Returns:
        One dict a factor, the largest first: ``params``, ``lr``, and ``weight_decay`` if it is given.

    Raises:
        ValueError: as :func:`mup_rates`; a number is negative or not finite.
    """
    lr = plain("lr", lr)
    decay = None if weight_decay is None else plain("weight_decay", weight_decay)
    if not (0 <= lr < math.inf and (decay is None or 0 <= decay < math.inf)):
        raise ParameterError(f"a rate and a decay are finite and not negative, unlike {lr} and {decay}")
    groups: dict[float, dict[str, Any]] = {}
    for slot, rate in _rates(module, base, optimizer, RuleSet.of(rules)):
        group = groups.setdefault(rate, {"params": [], "lr": lr * rate})
        if decay is not None:
            group["weight_decay"] = decay / rate
        group["params"] += [x for x in slot.originals or (slot.tensor,) if x.requires_grad]
    return [groups[rate] for rate in sorted(groups, reverse=True) if groups[rate]["params"]]


def _rates(
    module: nn.Module, base: nn.Module, optimizer: str, rules: RuleSet
) -> Sequence[tuple[Slot, float]]:
    if optimizer not in OPTIMIZERS:
        raise ParameterError(f"optimizer is one of {', '.join(OPTIMIZERS)}, not {optimizer!r}")
    narrow = {slot.name: slot for slot in slots(base)}
    found = []
    for slot in slots(module):
        if slot.is_buffer:
            continue
        if slot.name not in narrow:
            raise ValueError(f"{slot.name}: the base model has no such parameter")
        how = rules.find(slot, own_code=False)
        while isinstance(how, (ZeroRow, Scaled, StochasticallyRounded)):
            how = how.initializer
        axes = how.axes if isinstance(how, FanScaled) else None
        try:
            (fan_in, fan_out), (wide_in, wide_out) = _fans(narrow[slot.name], slot, axes)
        except ValueError as error:
            raise ValueError(f"{slot.name}: {error}") from error
        inputs, outputs = max(wide_in, 1) / max(fan_in, 1), max(wide_out, 1) / max(fan_out, 1)
        found.append((slot, 1 / inputs if optimizer == "adam" else outputs / inputs))
    return found
