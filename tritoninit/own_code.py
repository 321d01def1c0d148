"""What a model's own code does to a parameter: it runs on a stand-in for that parameter, and is watched.

A call is tried for all the parameters that it may be about. Where it asks for one fill of the whole, the
fill is the answer, for a key by the parameter's name. Where it computes (a logarithm, a loop over experts, an
inverse softplus), it runs again for that parameter alone, with generators that start from the key, and the
numbers are the answer. All other parameters are on the meta device meanwhile: nothing of the model changes,
and what depends on other parameters, which may have no values yet, is no answer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from tritoninit.fills import Constant, Initializer
from tritoninit.interception.entry import alone, quietly
from tritoninit.interception.intercepted import Intercepted
from tritoninit.keys import Key
from tritoninit.models import methods
from tritoninit.models.materialize import set_aside
from tritoninit.models.methods import Call
from tritoninit.models.slots import Slot
from tritoninit.structured import Structured, Value
from tritoninit.window import Window

# What modules call their own initialisation elsewhere: timm and torchtitan; diffusion transformers and masked
# autoencoders; CLIP, OpenAI's and OpenCLIP's; torch.nn; older torchvision.
_OTHERS = (
    *("init_weights", "initialize_weights", "initialize_parameters", "init_parameters"),
    *("_reset_parameters", "_initialize_weights"),
)


# How transformers marks modules and parameters for which there is nothing left to do.
_DONE = "_is_hf_initialized"


@dataclass(frozen=True, eq=False, repr=False)
class Computed(Value):
    """Numbers that a model's own code made from random ones, those of the parameter's key."""

    random = True


class Own(NamedTuple):
    """What own code does to a parameter, and which call of it that is."""

    initializer: Initializer
    call: Call


def ask(module: nn.Module, wanted: Sequence[Slot]) -> tuple[dict[Slot, Own], dict[Slot, list[str]]]:
    """What a model's own code does to parameters; and, of those that it does not set, what went wrong.

    Tried are the owner's ``reset_parameters``; the ``_init_weights`` of modules around it, the nearest first;
    what else initializes the owner (:data:`_OTHERS`); and then the same for each module around it. The first
    that sets the whole parameter counts.
    """
    found: dict[Slot, Own] = {}
    failures: dict[Slot, list[str]] = {slot: [] for slot in wanted}
    untried = {slot: _calls(slot) for slot in wanted if not (slot.is_parametrized or slot.is_buffer)}
    if untried:
        with _stage(module):
            while untried:
                for call, group in _next_calls(untried):
                    for slot, answer in _answers(call, group).items():
                        if isinstance(answer, Initializer):
                            found[slot] = Own(answer, call)
                            del untried[slot]
                        elif answer:
                            failures[slot].append(f"{call.code} {answer}")
    return found, {slot: list(dict.fromkeys(why)) for slot, why in failures.items() if slot not in found}


def drawn(module: nn.Module, owns: Mapping[Slot, Own], key: Key) -> dict[Slot, Initializer]:
    """The numbers, for a key, of those parameters that own code computes from random ones."""
    again = {slot: own.call for slot, own in owns.items() if isinstance(own.initializer, Computed)}
    if not again:
        return {}
    bits = Key(0, key.stream).fold_in(key.seed)
    seeds = {slot: bits.fold_in(slot.name).stream for slot in again}
    with _stage(module):
        return {slot: Computed(_alone(call, slot, seeds[slot])) for slot, call in again.items()}


def _calls(slot: Slot) -> Iterator[Call]:
    """What may set a slot, in the order in which it is tried; each call once."""
    seen = set()
    for depth in range(len(slot.ancestors), 0, -1):
        around = slot.ancestors[:depth]
        resets = (methods.without_arguments(around[-1], name) for name in ("reset_parameters", *_OTHERS))
        first = next(resets)
        for call in (first, *methods.init_weights(around), *resets):
            if call is not None and call.identity not in seen:
                seen.add(call.identity)
                yield call


def _next_calls(untried: dict[Slot, Iterator[Call]]) -> list[tuple[Call, list[Slot]]]:
    """The next call of each slot, once for all whose next it is; slots that have none are taken out."""
    groups: dict[tuple[object, ...], tuple[Call, list[Slot]]] = {}
    for slot in [*untried]:
        call = next(untried[slot], None)
        if call is None:
            del untried[slot]
        else:
            groups.setdefault(call.identity, (call, []))[1].append(slot)
    return list(groups.values())


def _answers(call: Call, group: Sequence[Slot]) -> dict[Slot, Initializer | str]:
    """What a call does to slots: an initializer; or why that is none, "" if it leaves the slot alone."""
    try:
        with quietly(Key(0)) as watched:
            asked = _asked(watched, call, group)  # its stand-ins are gone by the end: none is drawn
    except Exception as error:  # noqa: BLE001 - of a module's own code, and the next call may do
        return dict.fromkeys(group, _raised(error))
    answers: dict[Slot, Initializer | str] = {}
    for slot in group:
        initializer = asked.get(slot)
        if initializer is None:
            answers[slot] = _computed(call, slot)
        else:
            answers[slot] = "" if _is_unset(initializer) else initializer
    return answers


def _asked(watched: Intercepted, call: Call, group: Sequence[Slot]) -> dict[Slot, Initializer]:
    """The fills that a call asks for, of whole slots; what is not drawn by one has none.

    Nor has any, if the call looks at what it has filled: the numbers of its fills may come from there.
    """
    with _stand_ins(call, group):
        call()
        held = nn.Module()
        held._parameters.update({str(k): _now(slot) for k, slot in enumerate(group) if _is_float(slot)})
        told = {int(each.name): each for each in watched.assignments(held)}
        asked = {k: each for k, each in told.items() if _is_whole(each.initializer, group[k])}
        looked = any(
            not (isinstance(each.initializer, Structured) or watched.is_pending(each.tensor))
            for each in asked.values()
        )
    return {} if looked else {group[k]: each.initializer for k, each in asked.items()}


def _is_whole(initializer: Initializer, slot: Slot) -> bool:
    """Whether it can be asked to do the same again, unlike what only tells of several changes."""
    meta = torch.empty(slot.tensor.shape, dtype=_dtype(slot), device="meta")
    try:
        initializer.check(meta, Window.whole(meta.shape))
    except (NotImplementedError, ValueError):
        return False
    return True


def _is_unset(initializer: Initializer) -> bool:
    """Whether it is what stand-ins are filled with before anything is called."""
    return isinstance(initializer, Constant) and math.isnan(initializer.value)


def _computed(call: Call, slot: Slot) -> Initializer | str:
    """What numbers a call computes for a slot; or why none, "" if it leaves the slot alone."""
    try:
        one, other = _alone(call, slot, 0), _alone(call, slot, 1)
    except _UnsetError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - as above
        return _raised(error)
    if one.equal(other):
        return Value(one)
    return Computed(one) if _is_float(slot) else ""


class _UnsetError(Exception):
    """A call does not set a parameter, or only a part of it, which the message says then."""


def _alone(call: Call, slot: Slot, seed: int) -> torch.Tensor:
    """What a slot is after a call, while all others are on the meta device, and that starts from a seed.

    Raises:
        _UnsetError: there are elements that the call does not set.
    """
    with quietly(Key(seed)), _stand_ins(call, [slot], seed):
        call()
        now = _now(slot)
        if now is None or now.is_meta or now.shape != slot.tensor.shape:
            raise _UnsetError
        values: torch.Tensor = now.detach().cpu().clone()
    unset = values.isnan()
    if unset.any():
        raise _UnsetError(
            "" if unset.all() else "sets a part of it only, or computes it from other parameters"
        )
    return values


def _now(slot: Slot) -> Any:
    return slot.owner._parameters.get(slot.local)


def _is_float(slot: Slot) -> bool:
    return slot.tensor.is_floating_point() or slot.tensor.is_complex()


def _dtype(slot: Slot) -> torch.dtype:
    """In which own code runs: what it computes in 16 bits is rounded once, like what is drawn."""
    dtype = slot.tensor.dtype
    return torch.float32 if dtype.is_floating_point and dtype.itemsize < 4 else dtype


def _raised(error: Exception) -> str:
    return f"raises {type(error).__name__}: {error}"


@contextmanager
def _stage(module: nn.Module) -> Iterator[None]:
    """No tensor of the model has memory, and what is made anew is on the CPU, and in float32 if of floats."""
    cpu = torch.device("cpu")
    aside, kept = set_aside(module, cpu), _attributes_kept([*module.modules()])
    with alone():  # the default dtype is the process's
        dtype = torch.get_default_dtype()
        try:
            torch.set_default_dtype(torch.float32)  # a seed gives the same numbers whatever it is
            with aside, kept, cpu, torch.no_grad():
                yield
        finally:
            torch.set_default_dtype(dtype)


@contextmanager
def _stand_ins(call: Call, group: Sequence[Slot], seed: int = 0) -> Iterator[None]:
    """Slots have memory that shows what is not set, and the modules of a call keep their attributes.

    Floats are NaN; of others that are not set a part differs between seeds 0 and 1.
    """
    modules = {id(m): m for m in (*(slot.owner for slot in group), *call.modules)}
    with _attributes_kept(list(modules.values())):
        before = [(owner, local, owner._parameters[local]) for slot in group for owner, local in slot.places]
        try:
            for slot in group:
                memory = torch.empty(slot.tensor.shape, dtype=_dtype(slot))
                stand_in = nn.Parameter(memory, requires_grad=slot.tensor.requires_grad)
                attributes = dict(vars(slot.tensor))
                attributes.pop(_DONE, None)
                vars(stand_in).update(attributes)
                for owner, local in slot.places:
                    owner._parameters[local] = stand_in
                stand_in.fill_(math.nan if _is_float(slot) else seed % 2)
            del memory, stand_in
            yield
        finally:
            for owner, local, twin in before:
                owner._parameters[local] = twin


@contextmanager
def _attributes_kept(modules: Sequence[nn.Module]) -> Iterator[None]:
    """What modules' attributes are, and what is in those that are tensors, stays as it is."""
    kept = [(vars(module), dict(vars(module))) for module in modules]
    try:
        for attributes, before in kept:
            tensors = {k: v.detach().clone() for k, v in before.items() if isinstance(v, torch.Tensor)}
            attributes.update(tensors)
            attributes.pop(_DONE, None)
        yield
    finally:
        for attributes, before in kept:
            attributes.clear()
            attributes.update(before)
