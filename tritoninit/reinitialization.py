"""Drawing parts of a model again while it trains: dead units, pruned weights, layers, shrink and perturb."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from tritoninit.auditing.report import Report
from tritoninit.combinators import CopyOf, Keep, key_name, rounded
from tritoninit.fans import Axes
from tritoninit.fills import Initializer, Piece
from tritoninit.kernels.lowering import ParameterError, plain
from tritoninit.keys import Key
from tritoninit.model_initialization import check_code, initialize_
from tritoninit.models.rules import OwnCode, Rule, RuleSet, SlotRule
from tritoninit.models.scopes import Names, Scope
from tritoninit.models.slots import Selection, Slot, at_rest, select, slots
from tritoninit.own_code import ask, drawn
from tritoninit.rounding import NEAREST, STOCHASTIC, check_rounding, rounded_for, widened
from tritoninit.schemes import TORCH_DEFAULTS
from tritoninit.structured import Structured
from tritoninit.targets import LAZY, Target, TargetError
from tritoninit.tracing.private import untraced
from tritoninit.window import Window
from tritoninit.windows import Windows

Indices: TypeAlias = "Iterable[int] | torch.Tensor | np.ndarray[Any, Any]"


@untraced
def reinitialize_(
    module: nn.Module,
    rules: Iterable[Rule] = TORCH_DEFAULTS,
    *,
    seed: int,
    step: int = 0,
    only: Selection | None = None,
    skip: Selection = (),
    rows: Mapping[str, Indices] | None = None,
    columns: Mapping[str, Indices] | None = None,
    masks: Mapping[str, torch.Tensor] | None = None,
    prefix: Names = "",
    windows: Mapping[str, Window | Windows] | None = None,
    rounding: str = NEAREST,
) -> Report:
    """Draw a model again, or layers of it, or rows, columns and elements of its parameters; in place.

    What is drawn are the numbers that :func:`~tritoninit.initialize_` has for the whole parameter and the
    seed ``Key(seed).fold_in("reinitialize").fold_in(step).stream``: other ones at each step, the same ones in
    a second run, on any device and in any shard, whatever else is drawn. All else stays as it is, as do an
    optimizer's moments, which are yours to reset.

    Args:
        module: the model, with memory.
        rules: as in ``initialize_``. Other rules for what goes out of a unit than for what comes in are rules
            by name: ``[Rule("fc2.weight", Zeros()), *TORCH_DEFAULTS]`` makes dead units harmless (Sokar et
            al., ICML 2023, "ReDo").
        seed: 64 bits.
        step: of the training, or any number that tells this time from others.
        only: draw these as a whole: names, globs, modules. All, if nothing else is given.
        skip: keep these.
        rows: by name or glob of a parameter, which indices of its first dimension: outputs of a layer, with
            their biases. Integers, negative ones from the end, or a Boolean for each.
        columns: the same of its second dimension: inputs.
        masks: a Boolean for each element, of the parameter's (global) shape, true where it is drawn.
        prefix: as in ``initialize_``: names, here too, are the full ones.
        windows: as in ``initialize_``; indices and masks are of the whole.
        rounding: as in ``initialize_``, of what is drawn; all else keeps its bits.

    Returns:
        As ``initialize_``; what is drawn in part is said so.

    Raises:
        ValueError: as ``initialize_``; a name that is no parameter's, indices or a mask that do not fit, one
            that ``only`` names, too. Nothing was written then.
    """
    check_rounding(rounding)
    found = slots(module, Scope(prefix, windows or {}))
    key = Key(seed).fold_in("reinitialize").fold_in(step)
    parts = _parts(found, rows or {}, columns or {}, masks or {})
    partly = {slot.name for slot in parts}
    whole = select(found, only, "only") if only is not None else set() if parts else set(found)
    both = sorted(partly & {slot.name for slot in whole})
    if both:
        raise ValueError(f"drawn as a whole and in part: {', '.join(both)}")
    rules = RuleSet.of(rules)
    wanted = _wanted(module, rules, list(parts), key.stream)
    chosen = {
        slot.name: _by_its_key(how, partial(_Renewed, exact=exact, parts=tuple(parts[slot])))
        for slot, (how, exact) in wanted.items()
    }
    front = SlotRule(choose=lambda slot: chosen.get(slot.name))
    selected = [slot.name for slot in found if slot in whole or slot.name in partly]
    return initialize_(
        *(module, [front, *rules]),
        seed=key.stream,
        only=selected,
        skip=skip,
        prefix=prefix,
        windows=windows,
        rounding=rounding,
    )


@untraced
def shrink_and_perturb_(
    module: nn.Module,
    rules: Iterable[Rule] = TORCH_DEFAULTS,
    *,
    seed: int,
    step: int = 0,
    shrink: float = 0.5,
    perturb: float = 0.5,
    only: Selection | None = None,
    skip: Selection = (),
    prefix: Names = "",
    windows: Mapping[str, Window | Windows] | None = None,
    rounding: str = NEAREST,
) -> Report:
    """Every parameter becomes ``shrink`` times itself plus ``perturb`` times what rules draw for it; in
    place.

    Ash and Adams, NeurIPS 2020, "On Warm-Starting Neural Network Training", with the noise of a
    new initialisation, as their code has it (JordanAsh/warm_start): biases and norms shrink towards what
    rules say, too. Computed in float32 and rounded once. Buffers and integers stay.

    Args:
        module: the model, with memory.
        rules: as in ``initialize_``.
        seed: 64 bits; the numbers drawn are those of ``initialize_`` and the seed
            ``Key(seed).fold_in("shrink_and_perturb").fold_in(step).stream``.
        step: tells this time from others.
        shrink: finite; 0 to draw anew, 1 to add noise alone.
        perturb: finite, not negative.
        only: these alone: names, globs, modules.
        skip: keep these.
        prefix: as in ``initialize_``.
        windows: as in ``initialize_``.
        rounding: to 16 and 8 bits, "nearest", or "stochastic": the sum goes up or down at random, right in
            the mean, so that steps count that are small beside the distance of two numbers. That of a
            parameter for which rules draw nothing, such as a bias, too.

    Returns:
        As ``initialize_``.

    Raises:
        ValueError: as ``initialize_``; ``shrink`` or ``perturb`` is no such number. Nothing was written then.
    """
    check_rounding(rounding)
    shrink, perturb = plain("shrink", shrink), plain("perturb", perturb)
    if not math.isfinite(shrink) or not 0 <= perturb < math.inf:
        raise ParameterError(f"shrink is finite, perturb not negative, unlike {shrink} and {perturb}")
    found = slots(module, Scope(prefix, windows or {}))
    chosen = select(found, only, "only") if only is not None else set(found)
    chosen -= select(found, skip, "skip")
    key = Key(seed).fold_in("shrink_and_perturb").fold_in(step)
    rules = RuleSet.of(rules)
    weights = [slot for slot in found if slot in chosen and not slot.is_buffer and _is_float(slot.tensor)]
    wanted = _wanted(module, rules, weights, key.stream)
    own = Key(key.stream)  # as initialize_ has it
    moved = {
        slot.name: _by_its_key(
            how,
            partial(
                _Moved,
                exact=exact,
                shrink=shrink,
                perturb=perturb,
                at_random=own.fold_in(key_name(slot.name, how)) if rounding == STOCHASTIC else None,
            ),
        )
        for slot, (how, exact) in wanted.items()
    }
    front = SlotRule(choose=lambda slot: moved.get(slot.name))
    return initialize_(*(module, [front]), seed=key.stream, only=list(moved), prefix=prefix, windows=windows)


def _by_its_key(how: Initializer, change: Callable[[Initializer], Initializer]) -> Initializer:
    """A change of what an initializer draws, which for a copy of another parameter is by that one's key."""
    return CopyOf(how.name, change(how.initializer)) if isinstance(how, CopyOf) else change(how)


def _is_float(x: torch.Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()


def _wanted(
    module: nn.Module, rules: RuleSet, found: Sequence[Slot], seed: int
) -> dict[Slot, tuple[Initializer, bool]]:
    """What rules have for slots, and whether that is what their own code says, so that fans are known.

    Raises:
        ValueError: they have nothing for some.
    """
    for slot in found:
        _check_materialised(slot)
    with at_rest(module):  # rules may look at weights
        wishes = {slot: rules.find(slot) for slot in found}
    own, failures = ask(module, [slot for slot, wish in wishes.items() if isinstance(wish, OwnCode)])
    numbers = drawn(module, own, Key(seed))
    wanted: dict[Slot, tuple[Initializer, bool]] = {}
    nothing: list[str] = []
    for slot, wish in wishes.items():
        if slot in own:
            check_code(wish, own[slot])
            wanted[slot] = numbers.get(slot, own[slot].initializer), True
            continue
        initializer = rules.find(slot, own_code=False) if slot in failures else wish
        if initializer is None:
            nothing.append(slot.name)
        else:
            wanted[slot] = initializer, False
    if nothing:
        raise ValueError(f"no rule matches {len(nothing)} parameters: {', '.join(nothing)}")
    return wanted


def _check_materialised(slot: Slot) -> None:
    if nn.parameter.is_lazy(slot.tensor):
        raise TargetError(f"{slot.name}: {LAZY}")


class _Part:
    """Some of a tensor's elements: indices along an axis, or a mask."""

    def __init__(self, slot: Slot, what: str, axis: int | None, given: Any) -> None:
        _check_materialised(slot)
        shape = slot.shape
        self.axis = axis
        self.chosen = torch.as_tensor(given, device="cpu").detach()
        if axis is None:
            if self.chosen.dtype != torch.bool or self.chosen.shape != shape:
                raise ValueError(
                    f"{slot.name}: a mask of it has Booleans in the shape {tuple(shape)}, not"
                    f" {self.chosen.dtype} in {tuple(self.chosen.shape)}"
                )
            return
        if len(shape) <= axis:
            raise ValueError(f"{slot.name}: shape {tuple(shape)} has no {what}")
        self.chosen = _indices(slot.name, what, self.chosen, shape[axis])

    def within(self, window: Window, shape: Sequence[int]) -> torch.Tensor:
        """Which elements of a window of some shape are of it."""
        if self.axis is None:
            ends = zip(window.offsets, shape, strict=True)
            mask: torch.Tensor = self.chosen[tuple(slice(o, o + n) for o, n in ends)]
            return mask
        begin, size = window.offsets[self.axis], shape[self.axis]
        here = self.chosen[(self.chosen >= begin) & (self.chosen < begin + size)] - begin
        along = torch.zeros(size, dtype=torch.bool)
        along[here] = True
        return along.view([size if k == self.axis else 1 for k in range(len(shape))])

    def __repr__(self) -> str:
        if self.axis is None:
            return f"{int(self.chosen.sum())} elements"
        return f"{self.chosen.numel()} {('rows', 'columns')[self.axis]}"


def _indices(name: str, what: str, chosen: torch.Tensor, size: int) -> torch.Tensor:
    """Indices from 0, once each."""
    if chosen.dim() != 1 or chosen.is_floating_point() or chosen.is_complex():
        if chosen.numel() or chosen.dim() != 1:
            raise ValueError(f"{name}: {what} are integers, or a Boolean for each of {size}, not {chosen!r}")
        return chosen.to(torch.int64)  # an empty list
    if chosen.dtype == torch.bool:
        if chosen.numel() != size:
            raise ValueError(f"{name}: {chosen.numel()} Booleans for {size} {what}")
        return chosen.nonzero().flatten()
    chosen = chosen.to(torch.int64)  # of 8 bits without a sign there is no -size
    outside = chosen[(chosen < -size) | (chosen >= size)]
    if outside.numel():
        raise ValueError(f"{name}: of {size} {what} there is no {int(outside[0])}")
    places: torch.Tensor = torch.unique(chosen % max(size, 1))
    return places


def _parts(
    found: Sequence[Slot],
    rows: Mapping[str, Indices],
    columns: Mapping[str, Indices],
    masks: Mapping[str, torch.Tensor],
) -> dict[Slot, list[_Part]]:
    parts: dict[Slot, list[_Part]] = {}
    for what, given, axis in (("rows", rows, 0), ("columns", columns, 1), ("masks", masks, None)):
        if not isinstance(given, Mapping):
            raise TypeError(f"{what} are given by names of parameters, not {given!r}")
        for name, indices in given.items():
            chosen = select(found, name, what)
            if not isinstance(indices, (torch.Tensor, np.ndarray)):
                indices = list(indices)
            for slot in [slot for slot in found if slot in chosen]:
                lazy = nn.parameter.is_lazy(slot.tensor)
                if lazy or name in slot.names or len(slot.shape) > (axis or 0):  # a glob passes scalars by
                    parts.setdefault(slot, []).append(_Part(slot, what, axis, indices))
    return parts


@dataclass(frozen=True, eq=False, repr=False)
class _Changed(Structured):
    """What becomes of a tensor that has values, by what an initializer draws for the whole of it."""

    initializer: Initializer
    exact: bool  # what the dimensions mean is in it already

    @property
    def random(self) -> bool:
        return self.initializer.random

    def of_weight(self, axes: Axes | None, shape: Sequence[int]) -> Initializer:
        if self.exact:
            return self
        changed = dict(vars(self), initializer=self.initializer.of_weight(axes, shape), exact=True)
        return type(self)(**changed)

    def pieces(self, shape: Sequence[int]) -> Sequence[Piece]:
        whole = (0,) * len(shape), tuple(shape)
        return Piece(Keep(), *whole), Piece(self, *whole)

    def check(self, target: Target, window: Window) -> None:
        if isinstance(self.initializer, Keep):
            return
        self.initializer.check(target, window)

    def times(self, factor: float) -> Structured:
        raise ValueError("what is kept in part has no scale")

    def __str__(self) -> str:
        return repr(self)  # not by its fields, as others are described

    def drawn(self, target: torch.Tensor, key: Key, window: Window, dtype: torch.dtype) -> torch.Tensor:
        """What the initializer has where a target lies."""
        fresh = torch.empty(target.shape, dtype=dtype, device=target.device)
        self.initializer(fresh, key=key, window=window)
        return fresh


@dataclass(frozen=True, eq=False, repr=False)
class _Renewed(_Changed):
    """Parts of a tensor are drawn again, the rest is kept."""

    parts: tuple[_Part, ...]

    def stochastically(self) -> Structured:
        """What is drawn is rounded before it is put among what is kept."""
        return replace(self, initializer=rounded(self.initializer, STOCHASTIC))

    def build(self, target: Target, key: Key, window: Window) -> torch.Tensor:
        assert isinstance(target, torch.Tensor)
        here = target.detach()
        mask = torch.zeros(here.shape, dtype=torch.bool)
        for part in self.parts:
            mask |= part.within(window, here.shape)
        if isinstance(self.initializer, Keep) or not mask.any():
            return here
        return torch.where(mask.to(here.device), self.drawn(here, key, window, here.dtype), here)

    def __repr__(self) -> str:
        return f"{', '.join(map(repr, self.parts))} of {self.initializer!r}"


@dataclass(frozen=True, eq=False, repr=False)
class _Moved(_Changed):
    """A tensor times a number, plus what is drawn times another."""

    shrink: float
    perturb: float
    at_random: Key | None = None  # by which the sum is rounded, also of what takes no key

    def build(self, target: Target, key: Key, window: Window) -> torch.Tensor:
        assert isinstance(target, torch.Tensor)
        here = target.detach()
        if isinstance(self.initializer, Keep):
            return here
        wide = widened(here)
        values = wide * self.shrink + self.drawn(here, key, window, wide.dtype) * self.perturb
        return values if self.at_random is None else rounded_for(here, values, self.at_random, window)

    def __repr__(self) -> str:
        how = "" if self.at_random is None else ", stochastic"
        return f"{self.shrink:g} of what was, and {self.perturb:g} of {self.initializer!r}{how}"
