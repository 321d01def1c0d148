"""Whole models: rules choose, a plan writes, parameters on the meta device get their memory on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from tritoninit.auditing.assignments import Assignment
from tritoninit.auditing.report import Report
from tritoninit.combinators import Keep
from tritoninit.fans import module_axes
from tritoninit.fills import Initializer
from tritoninit.keys import Key
from tritoninit.models.materialize import check_computable, move, recompute
from tritoninit.models.rules import Rule, RuleSet
from tritoninit.models.slots import Selection, Slot, at_rest, select, slots
from tritoninit.models.spectral import renew_vectors
from tritoninit.plan import Plan
from tritoninit.registry import resolve
from tritoninit.schemes import TORCH_DEFAULTS
from tritoninit.structured import Value
from tritoninit.targets import LAZY, TargetError, as_target
from tritoninit.window import Window


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
        dtype: of floating-point parameters, with what parametrisations compute them from, and of the buffers
            that rules set.
        only: set these and keep the others: qualified names, globs, names of modules, or modules.
        skip: keep these, in the same terms; for example the keys of a state dict that was loaded, less the
            ``unexpected_keys`` that ``load_state_dict`` returned.

    Unusual parameters: a parametrised weight is drawn as if it were plain and assigned, which its
    parametrisation inverts (``right_inverse``); on the meta device it is an error. Integer parameters take
    constants and values only. Kept ones on the meta device stay there. Buffers there that no rule sets are
    computed, in the dtype that they come in, by the first that does of their module's ``reset_buffers``,
    ``rope_init`` and ``reset_parameters`` and the ``_init_weights(module)`` of modules around it, as
    transformers' models have it; what these draw comes of the first one's name, as under
    :func:`~tritoninit.intercept`. The vectors of ``parametrizations.spectral_norm`` are drawn by the name of
    the weight that they belong to, where that is set.

    Returns:
        What was done, one :class:`~tritoninit.auditing.assignments.Assignment` a parameter in the order of
        ``named_parameters`` and then a buffer that was set; measured when first asked.

    Raises:
        ValueError: what cannot be set, by qualified name: no rule matches, lazy, quantised, old-style
            weight_norm, a fan that the shape does not tell, a buffer that nobody can compute. Nothing was
            written then.
    """
    target = _usable(device, dtype)
    rules = RuleSet.of(rules)
    found = slots(module)
    _check_names(found)
    kept = select(found, skip, "skip")
    if only is not None:
        kept |= {slot for slot in set(found) - select(found, only, "only") if not _is_garbage(slot)}
    with at_rest(module):  # rules may look at weights
        chosen, garbage = _choose(module, found, rules, kept, target, dtype)
    keep = Keep()
    with _generator_put_back():
        key = Key.from_generator() if seed is None else Key(seed)
        if target is not None or dtype is not None:
            recompute(module, garbage, target, partial(_drawn_from, key))
            for slot in found:
                move(slot, target, dtype, overwritten=not _keeps(chosen.get(slot, keep), slot))
    plan = Plan()
    named_buffers = {id(slot.tensor) for slot in chosen if slot.is_buffer}
    assignments: list[Assignment] = []
    backends: dict[torch.device, str] = {}
    for slot in found:
        initializer = chosen.get(slot, keep)
        if not isinstance(initializer, Keep):
            used = key.fold_in(slot.name) if initializer.random else None
            tensor = _add(plan, slot, initializer, used or key)
            backend = backends.get(tensor.device) or resolve(tensor.device.type).name
            backends[tensor.device] = backend
            assignments.append(Assignment(slot.name, tensor, initializer, used, backend))
            if slot.is_parametrized:
                own: Any = slot.owner.parametrizations
                own = own[slot.local]
                plan.afterwards(partial(renew_vectors, own, key.fold_in(slot.name), named_buffers))
        elif not slot.is_buffer:
            assignments.append(Assignment(slot.name, slot.tensor, initializer, None, ""))
    plan.run()
    return Report(assignments, seed=key.seed, module=module)


@contextmanager
def _generator_put_back() -> Iterator[None]:
    """PyTorch's default CPU generator moves on only if nothing in the block raises."""
    before = torch.get_rng_state()
    try:
        yield
    except BaseException:
        torch.set_rng_state(before)
        raise


def _drawn_from(key: Key, name: str) -> AbstractContextManager[object]:
    """While in this block, whatever a module's own code draws comes of the key by that name."""
    from tritoninit.interception import recorder  # which needs more of torch than torch promises

    return recorder.recording(key.fold_in(name))


def _usable(device: torch.device | str | None, dtype: torch.dtype | None) -> torch.device | None:
    """The device, found to be there; raises if parameters cannot be on it or of the dtype."""
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point one, not {dtype}")
    if device is None:
        return None
    if torch.device(device).type == "meta":
        raise ValueError("the meta device has no memory to fill")
    return torch.empty(0, device=device).device  # whatever torch raises if it is not there


def _check_names(found: Sequence[Slot]) -> None:
    """Raise ValueError if a wrapper's own parameter has the name, and so the key, of a wrapped one."""
    counts = Counter(slot.name for slot in found)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        raise ValueError(f"several tensors have one name without what wrappers add: {', '.join(twice)}")


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
                check_computable(slot, device)
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
    if type(initializer).of_weight is not Initializer.of_weight:  # most do not ask, and it takes a while
        axes = module_axes(slot.owner, slot.name, tensor.shape)
        initializer = initializer.of_weight(axes, tensor.shape)
    if tensor.is_meta and device is not None:
        if slot.is_parametrized:
            raise ValueError("a parametrised weight on the meta device: parametrise it afterwards")
        if _keeps(initializer, slot):
            raise ValueError("a part of it is to be kept, and on the meta device it has no values")
    else:
        as_target(tensor)
    if dtype is not None and tensor.is_floating_point():
        tensor = torch.empty(tensor.shape, dtype=dtype, device="meta")
    initializer.check(tensor, Window.whole(tensor.shape))
    return initializer


def _keeps(initializer: Initializer, slot: Slot) -> bool:
    """Whether some of a slot's elements stay as they are."""
    if isinstance(initializer, Keep):  # lazy parameters, which have no shape, among them
        return True
    return any(isinstance(piece.initializer, Keep) for piece in initializer.pieces(slot.tensor.shape))


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
        _check_invertible(slot)


def _check_invertible(slot: Slot) -> None:
    """Raise ValueError unless the value that a parametrised weight has now could be assigned to it."""
    parametrizations: Any = slot.owner.parametrizations
    value: Any = slot.tensor
    for parametrization in reversed(parametrizations[slot.local]):
        kind = type(parametrization).__name__
        if not hasattr(parametrization, "right_inverse"):
            raise ValueError(f"its parametrisation {kind} has no right_inverse")
        try:
            with torch.no_grad():
                value = parametrization.right_inverse(value)
        except (NotImplementedError, RuntimeError, ValueError) as error:
            raise ValueError(f"its parametrisation {kind} cannot be inverted: {error}") from error


def _add(plan: Plan, slot: Slot, initializer: Initializer, key: Key) -> torch.Tensor:
    """Add a slot's fill to the plan; what is filled, which is not yet the weight if that is parametrised."""
    window = Window.whole(slot.tensor.shape)
    if not slot.is_parametrized:
        initializer.add(plan, slot.tensor, key, window)
        return slot.tensor
    value = slot.tensor.detach().clone() if _keeps(initializer, slot) else torch.empty_like(slot.tensor)
    initializer.add(plan, value, key, window)
    plan.afterwards(partial(_assign_parametrized, slot, value))
    return value


def _assign_parametrized(slot: Slot, value: torch.Tensor) -> None:
    with torch.no_grad():
        setattr(slot.owner, slot.local, value)


def _is_garbage(slot: Slot) -> bool:
    return slot.is_buffer and slot.tensor.is_meta
