"""Whole models: rules choose, a plan writes, parameters on the meta device get their memory on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import torch
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from tritoninit.auditing.assignments import Assignment
from tritoninit.auditing.reading import constants
from tritoninit.auditing.report import Report
from tritoninit.combinators import Keep
from tritoninit.distributed.held import is_dtensor, local_of, whole_here, writable
from tritoninit.fans import module_axes
from tritoninit.fills import Initializer, add_held
from tritoninit.interception.entry import quietly
from tritoninit.keys import Key
from tritoninit.models.materialize import (
    Held,
    check_computable,
    held_on_meta,
    loose_meta_tensors,
    move,
    recompute,
    reset_sharded,
    reshard,
)
from tritoninit.models.placeholders import check_held
from tritoninit.models.rules import OwnCode, Rule, RuleSet
from tritoninit.models.slots import Place, Selection, Slot, at_rest, check_module, places, select, slots
from tritoninit.own_code import Own, ask, drawn
from tritoninit.parametrized import assign, becomes, check_invertible, memory_like, set_with
from tritoninit.plan import Plan
from tritoninit.registry import resolve
from tritoninit.schemes import TORCH_DEFAULTS
from tritoninit.structured import Value
from tritoninit.targets import LAZY, TargetError, as_target, check_freed, check_memorable
from tritoninit.window import Window
from tritoninit.words import short

# What neither rules nor own code know of.
_CONSTRUCTORS = (
    "give rules for them; what only constructors set is drawn where the model is built under"
    " ti.intercept(seed=...) instead"
)


class _Problems:
    """What stands in the way of initialising a model: errors by qualified name, raised together."""

    def __init__(self) -> None:
        self.errors: list[tuple[str, Exception]] = []
        self.unmatched: list[tuple[str, Sequence[str]]] = []
        self._name = ""

    def of(self, slot: Slot) -> _Problems:
        """What says in a block of this that the slot cannot be set is a problem, and goes no further."""
        self._name = slot.name
        return self

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, (TypeError, ValueError, RuntimeError)):  # NotImplementedError is the last
            return False
        self.errors.append((self._name, error))
        return True

    def raise_any(self) -> None:
        lines = [f"{name}: {error}" for name, error in self.errors]
        if self.unmatched:
            names = [f"{name} ({'; '.join(why)})" if why else name for name, why in self.unmatched]
            lines.append(f"no rule matches {len(names)} parameters: {', '.join(names)}: {_CONSTRUCTORS}")
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

    Of a parameter that is a DTensor each rank sets its part of what a single process would have, by the
    global shape and without communication: give all ranks the same rules and seed. With ``device=``, a model
    on the meta device that ``fully_shard`` has cut gets the memory of its shards alone.

    Own code runs for one parameter on a stand-in for it, on the CPU, while all others are on the meta device.
    A fill that it asks for is drawn with the parameter's key, as if a rule had it; numbers that it computes
    are drawn from generators that start from the key. What depends on other parameters is no answer, nor is
    what a second run does not give again.

    Unusual parameters: a parametrised weight is drawn as if it were plain and assigned, which its
    parametrisation inverts (``right_inverse``); what it makes of that is looked at first, and is a remark of
    the report where it is something else (``orthogonal``). The vectors of ``parametrizations.spectral_norm``
    are drawn by the name of the weight that they belong to, where that is set. Integer parameters take
    constants and values only. Kept ones on the meta device stay there. Buffers that no rule sets stay as
    they are; those on the meta device are computed, in the dtype that they come in, by the first that does
    of their module's ``reset_buffers``, ``rope_init``, ``reset_parameters``, ``init_non_persistent_buffers``
    and ``_init_buffers`` and the ``_init_weights(module)`` of modules around it, as transformers' models
    have it; what these draw comes of the first one's name, as under :func:`~tritoninit.intercept`. Where
    nothing computes them, build the model with its parameters on the meta device and its buffers real, as
    accelerate's ``init_empty_weights`` does.

    Returns:
        What was done, one :class:`~tritoninit.auditing.assignments.Assignment` a parameter in the order of
        ``named_parameters`` and then a buffer that was set; measured when first asked. Remarks tell of
        parameters that were one number throughout and are drawn now, and of rules, not
        :class:`optional <tritoninit.Rule>` ones, whose glob or key is about nothing in the model.

    Raises:
        ValueError: what cannot be set, by qualified name: no rule matches, lazy, quantised, old-style
            weight_norm, a fan that the shape does not tell, a buffer that nobody can compute, a part of a
            parameter whose others are elsewhere (FSDP1, ZeRO-3, Megatron), memory that was freed, a value of
            which a parametrisation makes NaN or infinities. Nothing was written then.
    """
    target = _usable(device, dtype)
    check_module(module)
    reshard(module)
    key = None if seed is None else Key(seed)
    rules = RuleSet.of(rules)
    found = slots(module)
    _check_names(found)
    kept = select(found, skip, "skip")
    if only is not None:
        kept |= {slot for slot in set(found) - select(found, only, "only") if not _is_garbage(slot)}
    with at_rest(module):  # rules may look at weights
        choice = _choose(module, found, rules, kept, target, dtype)
    initializers, garbage, renewed, own, given, aliases = choice
    noticed = [(part, "matches nothing in the model") for part in rules.idle(found, given)]
    noticed += _constants_to_be_drawn(initializers)
    keep = Keep()
    named = {place for slot in initializers if slot.is_buffer for place in places(slot)}
    with _generator_put_back():
        key = Key.from_generator() if key is None else key
        keys = {slot: key.fold_in(slot.name) for slot, how in initializers.items() if how.random}
        initializers |= _computed(module, own, key, target, dtype)
        apart = _drawn_apart(initializers, key, target, dtype, named)
        if target is not None or dtype is not None:
            recompute(module, garbage, target, lambda name: quietly(key.fold_in(name)))
            for slot in found:
                overwritten = slot in renewed or not _keeps(initializers.get(slot, keep), slot)
                move(slot, target, dtype, overwritten=overwritten)
            for each, slot in aliases:
                each.follow(slot.tensor)
            reset_sharded(module)
    plan = Plan()
    assignments: list[Assignment] = []
    backends: dict[torch.device, str] = {}
    for slot in found:
        initializer = initializers.get(slot, keep)
        if not isinstance(initializer, Keep):
            used = keys.get(slot)
            tensor, became = apart.get(slot, (slot.tensor, ""))
            if slot in apart:
                plan.afterwards(partial(assign, slot, tensor, used or key.fold_in(slot.name), named))
            elif is_dtensor(tensor):
                add_held(initializer, plan, writable(tensor), used or key)
            else:
                initializer.add(plan, tensor, used or key, Window.whole(tensor.shape))
            backend = backends.get(tensor.device) or resolve(tensor.device.type).name
            backends[tensor.device] = backend
            code = own[slot].call.code if slot in own else ""
            assignments.append(Assignment(slot.name, tensor, initializer, used, backend, became, code))
        elif not slot.is_buffer:
            assignments.append(Assignment(slot.name, slot.tensor, initializer, None, ""))
    plan.run()
    return Report(assignments, seed=key.seed, module=module, noticed=noticed)


def _constants_to_be_drawn(chosen: Mapping[Slot, Initializer]) -> Iterator[tuple[str, str]]:
    """What is one number throughout, as where a branch starts as if it were not there, and is drawn now."""
    drawn_now = [slot for slot, how in chosen.items() if how.random and not slot.tensor.is_meta]
    whole = [(slot.name, here) for slot in drawn_now if (here := whole_here(slot.tensor)) is not None]
    for place, value in constants(here for _, here in whole):
        yield whole[place][0], f"was {short(value, 6)} throughout, and is drawn now"


@contextmanager
def _generator_put_back() -> Iterator[None]:
    """PyTorch's default CPU generator moves on only if nothing in the block raises."""
    before = torch.get_rng_state()
    try:
        yield
    except BaseException:
        torch.set_rng_state(before)
        raise


def _usable(device: torch.device | str | None, dtype: torch.dtype | None) -> torch.device | None:
    """The device, found to be there; raises if parameters cannot be on it or of the dtype."""
    if dtype is not None and not isinstance(dtype, torch.dtype):
        raise TypeError(f"dtype must be a torch.dtype, not {dtype!r}")
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
        renewed: those that a parametrised weight is set with.
        own: which of the initializers are the model's own code's.
        given: the initializers that the rules have, as they are there.
        aliases: other places of tensors on the meta device, in which they are exchanged.
    """

    initializers: dict[Slot, Initializer]
    garbage: list[Slot]
    renewed: set[Slot]
    own: dict[Slot, Own]
    given: list[Initializer | None]
    aliases: list[tuple[Held, Slot]]


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
        with problems.of(slot):
            if device is not None or dtype is not None:
                check_freed(local_of(slot.tensor))  # it is copied, or its memory given up
            if slot in kept:
                continue
            if nn.parameter.is_lazy(slot.tensor):
                raise TargetError(LAZY)
            wish = _wish(rules, slot)
            if not (slot.is_buffer or isinstance(wish, Keep)):
                check_held(slot)
            wanted[slot] = wish
    own, failures = ask(module, [slot for slot, wish in wanted.items() if isinstance(wish, OwnCode)])
    choice = _Choice({}, [], set(), own, list(wanted.values()), [])
    along: set[Place] = set()  # of weights, which come first
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
                along |= set() if isinstance(initializer, Keep) else set_with(slot)
            elif not slot.is_buffer:
                problems.unmatched.append((slot.name, failures.get(slot, ())))
            elif slot.tensor.is_meta and device is not None and along & places(slot):
                choice.renewed.add(slot)
            elif slot.tensor.is_meta:
                choice.garbage.append(slot)
                check_computable(slot, device)
    if device is not None:
        held = held_on_meta(module)
        problems.errors += loose_meta_tensors(module, held, found)
        known = {id(slot.tensor): slot for slot in found if not slot.is_parametrized}
        choice.aliases.extend((each, known[id(each.tensor)]) for each in held if id(each.tensor) in known)
    problems.raise_any()
    return choice


def _wish(rules: RuleSet, slot: Slot) -> Initializer | None:
    """What rules have for a slot; they may fail for want of a shape where it holds a place."""
    try:
        return rules.find(slot)
    except Exception:
        check_held(slot)
        raise


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
        check_memorable(local_of(tensor))
        if _keeps(initializer, slot):
            raise ValueError("a part of it is to be kept, and on the meta device it has no values")
    elif is_dtensor(tensor):
        writable(tensor)
    else:
        as_target(tensor)
    if dtype is not None and tensor.is_floating_point():
        tensor = torch.empty(tensor.shape, dtype=dtype, device="meta")
    initializer.check(tensor, Window.whole(tensor.shape))
    resolve((slot.tensor.device if device is None else device).type)  # raises if no backend serves it


def _computed(
    module: nn.Module,
    own: Mapping[Slot, Own],
    key: Key,
    device: torch.device | None,
    dtype: torch.dtype | None,
) -> dict[Slot, Initializer]:
    """The numbers that own code computes for a key; raises why they cannot set their slots."""
    problems = _Problems()
    computed = drawn(module, own, key)
    for slot, initializer in computed.items():
        with problems.of(slot):
            _check(slot, initializer, device, dtype)
    problems.raise_any()
    return computed


def _keeps(initializer: Initializer, slot: Slot) -> bool:
    """Whether some of a slot's elements stay as they are."""
    if isinstance(initializer, Keep):  # lazy parameters, which have no shape, among them
        return True
    return any(isinstance(piece.initializer, Keep) for piece in initializer.pieces(slot.tensor.shape))


def _check_plain(slot: Slot, initializer: Initializer) -> None:
    """Raise unless drawing the slot's elements makes its owner's weight what the initializer says."""
    tensor, owner = slot.tensor, slot.owner
    if any(map(is_dtensor, slot.originals)):
        raise TargetError("a DTensor is what it is computed from: keep it, or initialise before sharding")
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
        check_invertible(slot)


class _Drawn(NamedTuple):
    """What is going to be assigned to a parametrised weight, and what it is then, if something else."""

    value: torch.Tensor
    became: str


def _drawn_apart(
    chosen: Mapping[Slot, Initializer],
    key: Key,
    device: torch.device | None,
    dtype: torch.dtype | None,
    named: Container[Place],
) -> dict[Slot, _Drawn]:
    """The values of parametrised weights; raises what assigning them would, or would make of them."""
    plan = Plan()
    values: dict[Slot, torch.Tensor] = {}
    for slot, initializer in chosen.items():
        if slot.is_parametrized and not isinstance(initializer, Keep):
            floats = dtype if slot.tensor.is_floating_point() else None
            values[slot] = value = memory_like(slot.tensor, device, floats or slot.tensor.dtype)
            initializer.add(plan, value, key.fold_in(slot.name), Window.whole(value.shape))
    if values:
        plan.run()
    problems = _Problems()
    apart: dict[Slot, _Drawn] = {}
    for slot, value in values.items():
        with problems.of(slot):
            apart[slot] = _Drawn(value, becomes(slot, value, dtype, key.fold_in(slot.name), named))
    problems.raise_any()
    return apart


def _is_garbage(slot: Slot) -> bool:
    return slot.is_buffer and slot.tensor.is_meta
