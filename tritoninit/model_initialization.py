"""Whole models: rules choose, a plan writes, parameters on the meta device get their memory on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from tritoninit.auditing.assignments import Assignment
from tritoninit.auditing.reading import constant
from tritoninit.auditing.report import Report
from tritoninit.combinators import Keep
from tritoninit.fans import module_axes
from tritoninit.fills import Initializer
from tritoninit.keys import Key
from tritoninit.models.materialize import check_computable, loose_meta_tensors, move, recompute
from tritoninit.models.rules import OwnCode, Rule, RuleSet
from tritoninit.models.slots import Selection, Slot, at_rest, select, slots
from tritoninit.own_code import Own, ask, drawn
from tritoninit.plan import Plan
from tritoninit.registry import resolve
from tritoninit.schemes import TORCH_DEFAULTS
from tritoninit.structured import Value
from tritoninit.targets import LAZY, TargetError, as_target
from tritoninit.window import Window
from tritoninit.words import short


class _Problems:
    """What stands in the way of initialising a model: errors by qualified name, raised together."""

    def __init__(self) -> None:
        self.errors: list[tuple[str, Exception]] = []
        self.unmatched: list[tuple[str, Sequence[str]]] = []

    @contextmanager
    def of(self, slot: Slot) -> Iterator[None]:
        """What says in this block that a slot cannot be set is a problem, and goes no further."""
        try:
            yield
        except (TypeError, ValueError, RuntimeError) as error:  # NotImplementedError is a RuntimeError
            self.errors.append((slot.name, error))

    def raise_any(self) -> None:
        lines = [f"{name}: {error}" for name, error in self.errors]
        if self.unmatched:
            names = [f"{name} ({'; '.join(why)})" if why else name for name, why in self.unmatched]
            lines.append(f"no rule matches {len(names)} parameters: {', '.join(names)}")
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
        rules: tried in order; by default the distributions of torch.nn's own ``reset_parameters``, and for
            what those do not know the model's own code (:data:`~tritoninit.OWN_CODE`).
        seed: 64 bits; drawn from PyTorch's default CPU generator if None.
        device: where to. Parameters and buffers on the meta device get their memory there, once, and no
            other pass over it than the fill; others move.
        dtype: of floating-point parameters, with what parametrisations compute them from, and of the buffers
            that rules set.
        only: set these and keep the others: qualified names, globs, names of modules, or modules.
        skip: keep these, in the same terms; for example the keys of a state dict that was loaded, less the
            ``unexpected_keys`` that ``load_state_dict`` returned.

    Own code runs for one parameter on a stand-in for it, on the CPU, while all others are on the meta device.
    A fill that it asks for is drawn with the parameter's key, as if a rule had it; numbers that it computes
    are drawn from generators that start from the key. What depends on other parameters is no answer.

    Unusual parameters: a parametrised weight is drawn as if it were plain and assigned, which its
    parametrisation inverts (``right_inverse``). Integer parameters take constants and values only. Kept ones
    on the meta device stay there. Buffers there that no rule sets are computed, in the dtype that they come
    in, by the first that does of their module's ``reset_buffers``, ``rope_init``, ``reset_parameters``,
    ``init_non_persistent_buffers`` and ``_init_buffers`` and the ``_init_weights(module)`` of modules around
    it, as transformers' models have it. Where nothing computes them, build the model with its parameters on
    the meta device and its buffers real, as accelerate's ``init_empty_weights`` does.

    Returns:
        What was done, one :class:`~tritoninit.auditing.assignments.Assignment` a parameter in the order of
        ``named_parameters`` and then a buffer that was set; measured when first asked. Remarks tell of
        parameters that were one number throughout and are drawn now, and of rules, not
        :class:`optional <tritoninit.Rule>` ones, whose glob or key is about nothing in the model.

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
        chosen, garbage, own, given = _choose(module, found, rules, kept, target, dtype)
    keep = Keep()
    noticed = [(part, "matches nothing in the model") for part in rules.idle(found, given)]
    noticed += _constants_to_be_drawn(chosen)
    recompute(module, garbage, target)
    key = Key.from_generator() if seed is None else Key(seed)
    chosen |= drawn(module, own, key)
    if target is not None or dtype is not None:
        for slot in found:
            move(slot, target, dtype, overwritten=not _keeps(chosen.get(slot, keep), slot))
    plan = Plan()
    assignments: list[Assignment] = []
    backends: dict[torch.device, str] = {}
    for slot in found:
        initializer = chosen.get(slot, keep)
        if not isinstance(initializer, Keep):
            used = key.fold_in(slot.name) if initializer.random else None
            tensor = _add(plan, slot, initializer, used or key)
            backend = backends.get(tensor.device) or resolve(tensor.device.type).name
            backends[tensor.device] = backend
            code = own[slot].call.code if slot in own else ""
            assignments.append(Assignment(slot.name, tensor, initializer, used, backend, code))
        elif not slot.is_buffer:
            assignments.append(Assignment(slot.name, slot.tensor, initializer, None, ""))
    plan.run()
    return Report(assignments, seed=key.seed, module=module, noticed=noticed)


def _constants_to_be_drawn(chosen: Mapping[Slot, Initializer]) -> Iterator[tuple[str, str]]:
    """What is one number throughout, as where a branch starts as if it were not there, and is drawn now."""
    for slot, initializer in chosen.items():
        if initializer.random and not slot.tensor.is_meta:
            value = constant(slot.tensor)
            if value is not None:
                yield slot.name, f"was {short(value, 6)} throughout, and is drawn now"


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


class _Choice(NamedTuple):
    """What becomes of a model's slots.

    Attributes:
        initializers: of those that are set, or kept because a rule says so.
        garbage: the buffers that have to be computed.
        own: which of the initializers are the model's own code's.
        given: the initializers that the rules have, as they are there.
    """

    initializers: dict[Slot, Initializer]
    garbage: list[Slot]
    own: dict[Slot, Own]
    given: list[Initializer | None]


def _choose(
    module: nn.Module,
    found: Sequence[Slot],
    rules: RuleSet,
    kept: set[Slot],
    device: torch.device | None,
    dtype: torch.dtype | None,
) -> _Choice:
    """What is to be done; raises what can be known by now."""
    problems = _Problems()
    wanted: dict[Slot, Initializer | None] = {}
    for slot in found:
        if slot not in kept:
            with problems.of(slot):
                if nn.parameter.is_lazy(slot.tensor):
                    raise TargetError(LAZY)
                wanted[slot] = rules.find(slot)
    own, failures = ask(module, [slot for slot, wish in wanted.items() if isinstance(wish, OwnCode)])
    choice = _Choice({}, [], own, list(wanted.values()))
    for slot, wish in wanted.items():
        with problems.of(slot):
            initializer = rules.find(slot, own_code=False) if slot in failures else wish
            if slot in own:
                initializer = own[slot].initializer
            elif initializer is not None:
                initializer = _meant(slot, initializer)
            if initializer is not None:
                _check(slot, initializer, device, dtype)
                choice.initializers[slot] = initializer
            elif not slot.is_buffer:
                problems.unmatched.append((slot.name, failures.get(slot, ())))
            elif slot.tensor.is_meta:
                choice.garbage.append(slot)
                check_computable(slot, device)
    if device is not None:
        problems.errors += loose_meta_tensors(module, found)
    problems.raise_any()
    return choice


def _meant(slot: Slot, initializer: Initializer) -> Initializer:
    """What a rule's initializer is for a slot, with the fans of its module; raises if it is not known."""
    if type(initializer).of_weight is Initializer.of_weight:  # most do not ask, and it takes a while
        return initializer
    axes = module_axes(slot.owner, slot.name, slot.tensor.shape)
    return initializer.of_weight(axes, slot.tensor.shape)


def _check(
    slot: Slot, initializer: Initializer, device: torch.device | None, dtype: torch.dtype | None
) -> None:
    """Raise why an initializer cannot set a slot."""
    tensor = slot.tensor
    if isinstance(initializer, Keep):
        return
    if not isinstance(initializer, Value):
        _check_plain(slot, initializer)
    if tensor.is_meta and device is not None:
        if _keeps(initializer, slot):
            raise ValueError("a part of it is to be kept, and on the meta device it has no values")
    else:
        as_target(tensor)
    if dtype is not None and tensor.is_floating_point():
        tensor = torch.empty(tensor.shape, dtype=dtype, device="meta")
    initializer.check(tensor, Window.whole(tensor.shape))


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
