"""Whole models: rules choose, a plan writes, parameters on the meta device get their memory on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from tritoninit.auditing import Report
from tritoninit.fans import TORCH_AXES
from tritoninit.fills import Initializer
from tritoninit.initializers import FanScaled, Keep, Scaled, Value, ZeroRow
from tritoninit.keys import Key
from tritoninit.plan import Plan
from tritoninit.registry import resolve
from tritoninit.rules import Assignment, Rule, RuleSet
from tritoninit.schemes import TORCH_DEFAULTS
from tritoninit.slots import Selection, Slot, at_rest, axes_of, select, slots
from tritoninit.targets import LAZY, TargetError, as_target
from tritoninit.window import Window

# How modules say that they can compute their buffers anew.
_BUFFER_METHODS = ("reset_buffers", "rope_init", "reset_parameters")


class _Problems:
    """What stands in the way of initialising a model: errors by qualified name, raised together."""

    def __init__(self) -> None:
        self.errors: list[tuple[str, Exception]] = []
        self.unmatched: list[str] = []

    def raise_any(self) -> None:
        lines = [f"{name}: {error}" for name, error in self.errors]
        if self.unmatched:
            lines.append(f"no rule matches {len(self.unmatched)} parameters: {', '.join(self.unmatched)}")
        if not lines:
            return
        kinds = {type(error) for _, error in self.errors}
        one_kind = len(kinds) == 1 and not self.unmatched and len(self.errors[0][1].args) == 1
        kind = kinds.pop() if one_kind else ValueError
        raise kind("; ".join(lines)) from (self.errors[0][1] if self.errors else None)


def initialize_(
    module: nn.Module,
    rules: Iterable[Rule] = TORCH_DEFAULTS,
    *,
    seed: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    only: Selection | None = None,
    skip: Selection = (),
) -> Report:
    """Set the parameters of a model, and the buffers that rules name, in place.

    Each takes the initializer of the first rule that has one for it, and random numbers from
    ``Key(seed).fold_in(qualified name)``: adding, reordering, wrapping or compiling layers leaves the others'
    weights as they were. What appears under several names (tied) is set once, under the first.

    Args:
        module: the model; on any device that a backend serves, or on the meta device.
        rules: tried in order; by default the distributions of torch.nn's own ``reset_parameters``.
        seed: 64 bits; drawn from PyTorch's default CPU generator if None.
        device: where to. Parameters and buffers on the meta device get their memory there, once, and no
            other pass over it than the fill; others move.
        dtype: of floating-point parameters and of the buffers that rules set.
        only: set these and keep the others: qualified names, globs, names of modules, or modules.
        skip: keep these, in the same terms; for example the keys of a state dict that is loaded.

    Unusual parameters: a parametrised weight is drawn as if it were plain and assigned, which its
    parametrisation inverts (``right_inverse``). Integer parameters take constants and values only. Kept ones
    on the meta device stay there. Buffers there that no rule sets are computed by their module's
    ``reset_buffers``, ``rope_init`` or ``reset_parameters``, or by the ``_init_weights(module)`` of a module
    around it, as transformers' models have it, in the dtype that they come in.

    Returns:
        What was done, one :class:`~tritoninit.rules.Assignment` a parameter in the order of
        ``named_parameters`` and then a buffer that was set; measured when first asked.

    Raises:
        ValueError: what cannot be set, by qualified name: no rule matches, lazy, quantised, old-style
            weight_norm, a fan that the shape does not tell, a buffer that nobody can compute. Nothing was
            written then.
    """
    target = torch.device(device) if device is not None else None
    with at_rest(module):
        found = slots(module)
        kept = select(found, skip, "skip")
        if only is not None:
            kept |= {slot for slot in set(found) - select(found, only, "only") if not _is_garbage(slot)}
        chosen, garbage = _choose(module, found, RuleSet.of(rules), kept, target, dtype)
    key = Key.from_generator() if seed is None else Key(seed)
    if target is not None or dtype is not None:
        _recompute(garbage, target)
        for slot in found:
            _materialise(slot, target, dtype, not isinstance(chosen.get(slot, Keep()), Keep))
    plan = Plan()
    assignments: list[Assignment] = []
    backends: dict[torch.device, str] = {}
    keep = Keep()
    for slot in found:
        initializer = chosen.get(slot, keep)
        if not isinstance(initializer, Keep):
            used = key.fold_in(slot.name) if initializer.random else None
            _add(plan, slot, initializer, used or key)
            backend = backends.get(slot.tensor.device) or resolve(slot.tensor.device.type).name
            backends[slot.tensor.device] = backend
            assignments.append(Assignment(slot.name, slot.tensor, initializer, used, backend))
        elif not slot.is_buffer:
            assignments.append(Assignment(slot.name, slot.tensor, initializer, None, ""))
    plan.run()
    return Report(assignments, seed=key.seed, module=module)


def _choose(
    module: nn.Module,
    found: Sequence[Slot],
    rules: RuleSet,
    kept: set[Slot],
    device: torch.device | None,
    dtype: torch.dtype | None,
) -> tuple[dict[Slot, Initializer], list[Slot]]:
    """The initializers by slot, and the buffers that have to be computed; raises what can be known by now."""
    problems = _Problems()
    chosen: dict[Slot, Initializer] = {}
    garbage: list[Slot] = []
    for slot in found:
        if slot in kept:
            continue
        try:
            if nn.parameter.is_lazy(slot.tensor):
                raise TargetError(LAZY)
            initializer = rules.find(slot)
            if initializer is not None:
                chosen[slot] = _checked(slot, initializer, device, dtype)
            elif not slot.is_buffer:
                problems.unmatched.append(slot.name)
            elif slot.tensor.is_meta:
                garbage.append(slot)
                _check_computable(slot, device)
        except (TypeError, ValueError, RuntimeError) as error:  # NotImplementedError is a RuntimeError
            problems.errors.append((slot.name, error))
    if device is not None:
        for path, owner in module.named_modules():
            for name, value in vars(owner).items():
                if isinstance(value, torch.Tensor) and value.is_meta:
                    why = ValueError("a plain attribute on the meta device, which nobody computes anew")
                    problems.errors.append((f"{path}.{name}" if path else name, why))
    problems.raise_any()
    return chosen, garbage


def _checked(
    slot: Slot, initializer: Initializer, device: torch.device | None, dtype: torch.dtype | None
) -> Initializer:
    """What sets a slot, with the fans of its module; raises why it cannot."""
    tensor = slot.tensor
    if isinstance(initializer, Keep):
        return initializer
    if not isinstance(initializer, Value):
        _check_plain(slot, initializer)
    initializer = _by_meaning(initializer, slot)
    if tensor.is_meta and device is not None:
        if slot.is_parametrized:
            raise ValueError("a parametrised weight on the meta device: parametrise it afterwards")
    else:
        as_target(tensor)
    if dtype is not None and tensor.is_floating_point():
        tensor = torch.empty(tensor.shape, dtype=dtype, device="meta")
    initializer.check(tensor, Window.whole(tensor.shape))
    return initializer


def _check_plain(slot: Slot, initializer: Initializer) -> None:
    """Raise unless drawing the slot's elements makes its owner's weight what the initializer says."""
    tensor, owner = slot.tensor, slot.owner
    if not (tensor.is_floating_point() or tensor.is_complex()):
        if initializer.random:
            raise ValueError(f"{tensor.dtype} takes constants and values only: keep it, or give a Value")
        if not slot.is_buffer and type(tensor) is not nn.Parameter:
            raise ValueError(f"a quantised {type(tensor).__name__}: keep it, or give a Value")
    for hook in owner._forward_pre_hooks.values():
        if isinstance(hook, (WeightNorm, SpectralNorm)) and slot.local.startswith(f"{hook.name}_"):
            raise ValueError(
                f"part of an old-style {type(hook).__name__}: use torch.nn.utils.parametrizations, or keep it"
            )
    if slot.is_parametrized:
        parametrizations: Any = owner.parametrizations
        lacking = [p for p in parametrizations[slot.local] if not hasattr(p, "right_inverse")]
        if lacking:
            raise ValueError(f"its parametrisation {type(lacking[0]).__name__} has no right_inverse")


def _by_meaning(initializer: Initializer, slot: Slot) -> Initializer:
    """The initializer with the fans that the owner's meaning gives, unless it has axes of its own."""
    if isinstance(initializer, (ZeroRow, Scaled)):
        inner = _by_meaning(initializer.scheme, slot)
        return initializer if inner is initializer.scheme else replace(initializer, scheme=inner)  # type: ignore[arg-type]
    if not isinstance(initializer, FanScaled) or initializer.axes is not None:
        return initializer
    axes = axes_of(slot)
    return initializer if axes == TORCH_AXES else replace(initializer, axes=axes)


def _add(plan: Plan, slot: Slot, initializer: Initializer, key: Key) -> None:
    window = Window.whole(slot.tensor.shape)
    if not slot.is_parametrized:
        initializer.add(plan, slot.tensor, key, window)
        return
    value = torch.empty_like(slot.tensor)
    initializer.add(plan, value, key, window)
    plan.afterwards(partial(_assign_parametrized, slot, value))


def _assign_parametrized(slot: Slot, value: torch.Tensor) -> None:
    with torch.no_grad():
        setattr(slot.owner, slot.local, value)


def _materialise(
    slot: Slot, device: torch.device | None, dtype: torch.dtype | None, overwritten: bool
) -> None:
    """Give a slot memory of its own on the device, in the dtype, in every place where it appears.

    What is going to be ``overwritten`` is not copied; what is kept on the meta device stays there.
    """
    old = slot.tensor
    if slot.is_parametrized:
        parametrizations: Any = slot.owner.parametrizations
        parametrizations[slot.local].to(device, dtype)
        slot.tensor = slot.tensor.to(device, dtype)
        return
    kept_buffer = slot.is_buffer and not overwritten
    dtype = dtype if dtype is not None and old.is_floating_point() and not kept_buffer else old.dtype
    device = old.device if device is None else device
    if old.is_meta and not overwritten:
        return
    if (old.dtype, old.device.type) == (dtype, device.type) and device.index in (None, old.device.index):
        return
    with torch.no_grad():
        new = torch.empty_like(old, dtype=dtype, device=device) if overwritten else old.to(device, dtype)
    _put(slot, new)


def _put(slot: Slot, new: torch.Tensor) -> None:
    """Replace a slot's tensor wherever it is held, as a parameter of the same kind if it is one."""
    old = slot.tensor
    if not slot.is_buffer:
        new = nn.Parameter(new.detach(), requires_grad=old.requires_grad)
        new.__dict__.update(old.__dict__)
    for owner, local in slot.places:
        held: dict[str, Any] = owner._buffers if slot.is_buffer else owner._parameters
        held[local] = new
    slot.tensor = new


def _is_garbage(slot: Slot) -> bool:
    return slot.is_buffer and slot.tensor.is_meta


def _check_computable(slot: Slot, device: torch.device | None) -> None:
    if device is None:
        raise ValueError("a meta tensor has no memory: give device=")
    _recompute_function(slot)


def _recompute_function(slot: Slot) -> Callable[[], object]:
    """What computes the buffers of a slot's owner anew.

    Raises:
        ValueError: nothing does, or it would write parameters that are not on the meta device.
    """
    methods = [name for name in _BUFFER_METHODS if callable(getattr(slot.owner, name, None))]
    outer = [f for m in reversed(slot.ancestors) if callable(f := getattr(m, "_init_weights", None))]
    function: Callable[[], object]
    if methods:
        function = getattr(slot.owner, methods[0])
    elif outer:
        function = partial(outer[0], slot.owner)
    else:
        raise ValueError(
            f"a buffer on the meta device that no rule sets and {type(slot.owner).__name__} offers no way to"
            f" compute ({', '.join(_BUFFER_METHODS)})"
        )
    if methods[:1] != ["reset_buffers"] and not all(p.is_meta for p in slot.owner.parameters()):
        raise ValueError("a buffer on the meta device whose module would reset parameters that are not there")
    return function


def _recompute(garbage: Sequence[Slot], device: torch.device | None) -> None:
    """Have their modules compute buffers anew, while parameters on the meta device cost nothing to reset.

    Raises:
        ValueError: some were left as they were; the message lists them.
    """
    if not garbage or device is None:
        return
    functions = {id(slot.owner): _recompute_function(slot) for slot in garbage}
    before: dict[Slot, tuple[torch.Tensor, int]] = {}
    for slot in garbage:
        empty = torch.empty_like(slot.tensor, device=device)
        _put(slot, empty)
        before[slot] = (empty, empty._version)
    with device, torch.no_grad(), torch.random.fork_rng(devices=[]):
        for function in functions.values():
            function()
    missed = []
    for slot in garbage:
        now = slot.owner._buffers.get(slot.local)
        empty, version = before[slot]
        if now is None or now.is_meta or (now is empty and now._version == version):
            missed.append(slot.name)
        elif now is not empty:
            _put(slot, now)
    if missed:
        for slot in garbage:
            _put(slot, torch.empty_like(slot.tensor, device="meta"))
        raise ValueError(
            f"buffers on the meta device that their modules did not compute: {', '.join(missed)}"
        )
