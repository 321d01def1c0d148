"""What a model's own code does to a parameter: it runs on a stand-in for that parameter, and is watched.

A call is tried for all the parameters that it may be about. Where it asks for one fill of the whole, the
fill is the answer, for a key by the parameter's name. Where it computes (a logarithm, a loop over experts, an
inverse softplus), it runs again for that parameter alone, with generators that start from the key, and the
numbers are the answer. All other parameters are on the meta device meanwhile, and modules' attributes are
copies: nothing of the model changes, and what depends on other parameters, which may have no values yet, is
no answer. Nor is what a second run does not give again.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from tritoninit.models.materialize import of_kind, set_aside
from tritoninit.models.methods import Call
from tritoninit.models.slots import Slot
from tritoninit.structured import Structured, Value
from tritoninit.targets import ShortError, check_freed
from tritoninit.window import Window

# What modules call their own initialisation elsewhere: timm and torchtitan; diffusion transformers and masked
# autoencoders; CLIP, OpenAI's and OpenCLIP's; torch.nn; older torchvision.
_OTHERS = (
    *("init_weights", "initialize_weights", "initialize_parameters", "init_parameters"),
    *("_reset_parameters", "_initialize_weights"),
)


# Of what is something else each time that it is looked at, and of what has to have been set before.
_OTHERWISE = "draws from a generator of its own, or otherwise sets something else each time"
_CHANGES = "only changes what is there"

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

    Tried are the owner's ``reset_parameters``; the nearest ``_init_weights``, about the owner and then about
    each module around it, as ``Module.apply`` calls it; and then, of the owner and of each module around it,
    all else that initializes (:data:`_OTHERS`). The first of these three that sets the whole counts.
    """
    found: dict[Slot, Own] = {}
    failures: dict[Slot, list[str]] = {slot: [] for slot in wanted}
    asked = [slot for slot in wanted if not (slot.is_parametrized or slot.is_buffer)]
    if asked and any(isinstance(each, torch.jit.ScriptModule) for each in module.modules()):
        asked = []  # its parameters are out of Python's reach

    def take(call: Call, answers: Mapping[Slot, Initializer | str]) -> None:
        for slot, answer in answers.items():
            if isinstance(answer, Initializer):
                found[slot] = Own(answer, call)
            elif answer:
                failures[slot].append(f"{call.code} {answer}")

    if asked:
        with _stage(module):
            for call, group in _grouped((slot, _reset(slot)) for slot in asked):
                take(call, _answers(call, group))
            for slot, tried in _applied([slot for slot in asked if slot not in found]).items():
                for call, answer in _last(slot, tried):
                    take(call, {slot: answer})
            rest = {slot: _calls(slot) for slot in asked}
            while groups := _grouped((slot, next(rest[slot], None)) for slot in asked if slot not in found):
                for call, group in groups:
                    take(call, _answers(call, group))
    return found, {slot: list(dict.fromkeys(why)) for slot, why in failures.items() if slot not in found}


def drawn(module: nn.Module, owns: Mapping[Slot, Own], key: Key) -> dict[Slot, Initializer]:
    """The numbers, for a key, of those parameters that own code computes from random ones."""
    again = {slot: own.call for slot, own in owns.items() if isinstance(own.initializer, Computed)}
    if not again:
        return {}
    bits = Key(0, key.stream).fold_in(key.seed)
    numbers: dict[Slot, Initializer] = {}
    slot = None
    try:
        with _stage(module):
            for slot, call in again.items():
                numbers[slot] = Computed(_alone(call, slot, bits.fold_in(slot.name).stream))
    except Exception as error:
        code = f"{slot.name}: {again[slot].code}" if slot else type(module).__name__
        raise ValueError(f"{code}, for this seed, {_raised(error)}") from error
    return numbers


def _reset(slot: Slot) -> Call | None:
    return methods.without_arguments(slot.owner, "reset_parameters")


def _applied(asked: Sequence[Slot]) -> dict[Slot, list[tuple[Call, Initializer | str]]]:
    """What the nearest ``_init_weights`` does to slots, about each module around them, outwards."""
    calls = {slot: _nearest(slot) for slot in asked}
    groups = _grouped((slot, call) for slot, each in calls.items() for call in each)
    answers = {call.identity: _answers(call, group) for call, group in groups}
    return {slot: [(call, answers[call.identity][slot]) for call in each] for slot, each in calls.items()}


def _nearest(slot: Slot) -> list[Call]:
    """The nearest ``_init_weights`` about the owner of a slot, and about each module around it."""
    calls = (next(methods.init_weights(around), None) for around in _outwards(slot))
    return [call for call in calls if call is not None]


def _last(
    slot: Slot, tried: Sequence[tuple[Call, Initializer | str]]
) -> Iterator[tuple[Call, Initializer | str]]:
    """What a slot is after all of the calls in turn; what each does, if none sets it."""
    whole = [k for k, (_, answer) in enumerate(tried) if isinstance(answer, Initializer)]
    after = tried[whole[-1] :] if whole else ()
    changing = [call for call, answer in after if isinstance(answer, Initializer) or answer == _CHANGES]
    if len(changing) > 1:
        call = methods.in_turn(changing)
        yield call, _answers(call, [slot])[slot]
    else:
        yield from after[:1] or tried


def _outwards(slot: Slot) -> Iterator[tuple[nn.Module, ...]]:
    """The modules around the owner and itself, last; then the same of the module around it, and so on."""
    return (slot.ancestors[:depth] for depth in range(len(slot.ancestors), 0, -1))


def _calls(slot: Slot) -> Iterator[Call]:
    """What else may set a slot, in the order in which it is tried; each call once."""
    seen = {call.identity for call in (_reset(slot), *_nearest(slot)) if call is not None}
    for around in _outwards(slot):
        resets = (methods.without_arguments(around[-1], name) for name in ("reset_parameters", *_OTHERS))
        for call in (next(resets), *methods.init_weights(around), *resets):
            if call is not None and call.identity not in seen:
                seen.add(call.identity)
                yield call


def _grouped(calls: Iterable[tuple[Slot, Call | None]]) -> list[tuple[Call, list[Slot]]]:
    """Each call, once for all slots that it is for."""
    groups: dict[tuple[object, ...], tuple[Call, list[Slot]]] = {}
    for slot, call in calls:
        if call is not None:
            groups.setdefault(call.identity, (call, []))[1].append(slot)
    return list(groups.values())


def _answers(call: Call, group: Sequence[Slot]) -> dict[Slot, Initializer | str]:
    """What a call does to slots: an initializer; or why that is none, "" if it leaves the slot alone."""
    runs: list[dict[Slot, Initializer]] = []
    try:
        for seed in (0, 1):
            with quietly(Key(seed)) as watched:
                runs.append(_asked(watched, call, group))  # its stand-ins are gone by the end: none is drawn
            if len(runs[0]) == len(group) and all(map(_is_unset, runs[0].values())):
                return dict.fromkeys(group, "")
    except Exception as error:  # noqa: BLE001 - of a module's own code, and the next call may do
        return dict.fromkeys(group, _raised(error))
    answers: dict[Slot, Initializer | str] = {}
    for slot in group:
        one, other = (run.get(slot) for run in runs)
        if one is not None and other is not None and _is_unset(one) and _is_unset(other):
            answers[slot] = ""
        elif one is None or one != other:  # of numbers drawn by generators, a fill may be made, too
            answers[slot] = _computed(call, slot)
        else:
            answers[slot] = one
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
    if _is_unset(initializer):
        return True
    meta = torch.empty(slot.shape, dtype=_dtype(slot), device="meta")
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
        again = one if one.equal(other) else _alone(call, slot, 0)
    except _UnsetError as error:
        return str(error)
    except Exception as error:  # noqa: BLE001 - as above
        return _raised(error)
    if one.equal(other):
        return Value(one)
    if not one.equal(again):
        return _OTHERWISE if _is_float(slot) else ""
    nothing = torch.zeros((), dtype=one.dtype).expand(one.shape)  # which takes no memory; "drawn" has numbers
    return Computed(nothing) if _is_float(slot) else ""


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
        if now is None or now.is_meta or tuple(now.shape) != slot.shape:
            raise _UnsetError("gives it another shape, or none")
        values: torch.Tensor = now.detach().cpu().clone()
    unset = values.isnan()
    if unset.any():
        raise _UnsetError(
            _CHANGES if unset.all() else "sets a part of it only, or computes it from other parameters"
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
    as_written = torch.autocast("cpu", enabled=False)
    aside = set_aside(module, cpu)
    with alone():  # the default dtype is the process's
        dtype = torch.get_default_dtype()
        try:
            torch.set_default_dtype(torch.float32)  # a seed gives the same numbers whatever it is
            modules = [*module.modules()]
            with aside as twins, _attributes_kept(modules, twins), cpu, as_written, torch.no_grad():
                yield
        finally:
            torch.set_default_dtype(dtype)


@contextmanager
def _stand_ins(call: Call, group: Sequence[Slot], seed: int = 0) -> Iterator[None]:
    """Slots have memory that shows what is not set, and the modules of a call keep their attributes.

    Floats are NaN; of others that are not set a part differs between seeds 0 and 1.
    """
    owners = (owner for slot in group for owner, _ in slot.places)
    modules = {id(module): module for module in (*owners, *call.modules)}
    twins = {slot: _now(slot) for slot in group}
    made = {slot: _stand_in(slot) for slot in group}
    with _attributes_kept([*modules.values()], {id(twins[slot]): made[slot] for slot in group}):
        for slot, stand_in in made.items():
            for owner, local in slot.places:
                owner._parameters[local] = stand_in
            stand_in.fill_(math.nan if _is_float(slot) else seed % 2)
        del made, slot, stand_in
        yield


def _stand_in(slot: Slot) -> Any:
    old, memory = slot.tensor, torch.empty(slot.shape, dtype=_dtype(slot))
    if isinstance(old, nn.Parameter) and issubclass(type(old), nn.Parameter):
        stand_in = of_kind(old, memory)
    else:  # tensors of other kinds may pass for parameters
        stand_in = nn.Parameter(memory, requires_grad=old.requires_grad)
        vars(stand_in).update(vars(old))
    vars(stand_in).pop(_DONE, None)
    return stand_in


@contextmanager
def _attributes_kept(modules: Sequence[nn.Module], stand_ins: Mapping[int, torch.Tensor]) -> Iterator[None]:
    """What modules' attributes are, and what is in those that are tensors or hold some, stays as it is.

    In the block they are copies, in which others stand for tensors with these ids.
    """
    copies: dict[int, Any] = dict(stand_ins)
    kept = [(vars(module), dict(vars(module))) for module in modules]
    try:
        for attributes, before in kept:
            for name, value in before.items():
                held = name in ("_parameters", "_buffers")
                attributes[name] = value.copy() if held else _copy(value, copies)
            attributes.pop(_DONE, None)
        del stand_ins, copies  # whose memory may be large
        yield
    finally:
        for attributes, before in kept:
            attributes.clear()
            attributes.update(before)


def _is_readable(x: torch.Tensor) -> bool:
    try:
        check_freed(x)
    except ShortError:
        return False
    return True


def _copy(value: Any, copies: dict[int, Any]) -> Any:
    """Tensors and containers are copied, each once; all else stays the same."""
    if id(value) in copies:
        return copies[id(value)]
    copy: Any
    if isinstance(value, torch.Tensor):
        copy = value if value.is_meta or not _is_readable(value) else value.detach().clone()
    elif type(value) in (list, set, dict, OrderedDict):
        copy = value.copy()
    elif type(value) is tuple:
        return tuple(_copy(each, copies) for each in value)
    else:
        return value
    copies[id(value)] = copy  # lists may hold themselves
    if isinstance(value, list):
        copy[:] = [_copy(each, copies) for each in value]
    elif isinstance(value, dict):
        copy.update({key: _copy(each, copies) for key, each in value.items()})
    return copy
