"""Whole models: rules choose, a plan writes, parameters on the meta device get their memory on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import torch
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from tritoninit.agreement import Agreement, Planned, exactly
from tritoninit.auditing.assignments import Assignment
from tritoninit.auditing.reading import Constants
from tritoninit.auditing.report import Report
from tritoninit.combinators import CopyOf, Keep, StochasticallyRounded, key_name, rounded
from tritoninit.distributed.held import is_dtensor, local_of, whole_here, whole_like, writable
from tritoninit.fans import TORCH_AXES, Axes, module_axes
from tritoninit.fills import Initializer, add_held
from tritoninit.initializers import FanScaled, goes_by_shape
from tritoninit.interception.entry import quietly
from tritoninit.keys import Key, streams
from tritoninit.models.materialize import (
    Held,
    as_whole,
    check_computable,
    held_on_meta,
    loose_meta_tensors,
    move,
    recompute,
    reset_sharded,
    reshard,
)
from tritoninit.models.placeholders import check_engine, check_held, settle
from tritoninit.models.rules import Finder, OwnCode, Rule, RuleSet
from tritoninit.models.scopes import Names, Scope
from tritoninit.models.slots import (
    Place,
    Selection,
    Slot,
    Where,
    at_rest,
    check_module,
    places,
    select,
    slots,
    slots_at_rest,
    walk_of,
)
from tritoninit.own_code import Computed, Own, ask, drawn
from tritoninit.parametrized import assign, becomes, check_invertible, memory_like, set_with
from tritoninit.plan import NO_KEY, Plan, Step
from tritoninit.recorded import Recorded
from tritoninit.registry import resolve
from tritoninit.rounding import NEAREST, check_rounding
from tritoninit.schemes import TORCH_DEFAULTS
from tritoninit.structured import Value
from tritoninit.targets import (
    LAZY,
    Target,
    TargetError,
    as_target,
    check_freed,
    check_memorable,
    check_usual,
)
from tritoninit.tracing.private import untraced
from tritoninit.window import Window
from tritoninit.windows import Windows
from tritoninit.words import short

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

# What neither rules nor own code know of.
_CONSTRUCTORS = (
    "give rules for them; what only constructors set is drawn where the model is built under"
    " ti.intercept(seed=...) instead"
)


# What says that a slot cannot be set; NotImplementedError is a RuntimeError.
_TROUBLE = (TypeError, ValueError, RuntimeError)


class _Problems:
    """What stands in the way of initialising a model: errors by qualified name, raised together."""

    def __init__(self) -> None:
        self.errors: list[tuple[str, Exception]] = []
        self.unmatched: list[tuple[str, Sequence[str]]] = []

    def of(self, slot: Slot, error: Exception) -> None:
        self.errors.append((slot.name, error))

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


@untraced
def initialize_(
    module: nn.Module,
    rules: Iterable[Rule] = TORCH_DEFAULTS,
    *,
    seed: int | None = None,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    only: Selection | None = None,
    skip: Selection = (),
    prefix: Names = "",
    windows: Mapping[str, Window | Windows] | None = None,
    check_ranks: bool | ProcessGroup = False,
    rounding: str = NEAREST,
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
            that rules set; :class:`~tritoninit.Recorded` ones stay in theirs.
        only: set these and keep the others: qualified names, globs, names of modules, or modules.
        skip: keep these, in the same terms; for example the keys of a state dict that was loaded, less the
            ``unexpected_keys`` that ``load_state_dict`` returned.
        prefix: what ``module`` is called in the model that it is a part of, where it is initialised alone: a
            pipeline's stage, what FSDP1's ``param_init_fn`` is given, one block after another. Parameters get
            the keys that they have there, and rules match these full names: "layers.3" makes "mlp.weight"
            "layers.3.mlp.weight". Or by the names of modules or parameters here what they are called there,
            others staying as they are ({"0": "layers.4", "1": "layers.5"}), or a function from each
            parameter's name to the full one. Two parts under one name are the same weights by design, and no
            call sees the other: the report shows full names.
        windows: by full names or globs, of which the first counts, exact ones before all, which part of the
            whole a local tensor is that is no DTensor: a :class:`~tritoninit.Window`, or
            :class:`~tritoninit.Windows` of several, such as the q, k and v of a rank or a gated weight's two
            halves. Fans come of the global shape. A DTensor may be a window, too. They go before what
            Megatron's marks say.
        check_ranks: True has all ranks of the default process group, or those of a group that is given, agree
            before anything is written, by one all-gather of a hash. Names, global shapes, dtypes,
            initializers with their numbers, and keys have to be equal, also one that is drawn for want of a
            seed; memory, and which part of a tensor a rank holds, may differ. An error of one rank then
            ends the others, too.
        rounding: "nearest", or "stochastic": what is drawn, or computed from what was drawn, is rounded to
            16 and 8 bits up or down at random, right in the mean
            (:class:`~tritoninit.StochasticallyRounded`).

    Of a parameter that is a DTensor each rank sets its part of what a single process would have, by the
    global shape and without communication: give all ranks the same rules and seed. With ``device=``, a model
    on the meta device that ``fully_shard`` has cut gets the memory of its shards alone.

    So of the flat ranges that FSDP1 (``use_orig_params`` or not) and DeepSpeed's ZeRO-3 hold, in the dtype
    and on the device that these have chosen; padding stays as it is. Initialise before
    ``deepspeed.initialize``, whose optimizer takes a copy. Of what Megatron marks
    (``tensor_model_parallel``, ``partition_dim``, ``partition_stride``) the part is known where the module
    has its ``tp_group`` or ``megatron.core.parallel_state`` is initialised; a vocabulary's padding is a part
    of the whole. By a ``partition_stride`` of 1 a rank's part is one stretch of the whole: where a rank has a
    stretch of each half of a gated weight instead, ``windows=`` says so.

    Own code runs for one parameter on a stand-in for it, on the CPU, while all others are on the meta device.
    A fill that it asks for is drawn with the parameter's key, as if a rule had it; numbers that it computes
    are drawn from generators that start from the key. What depends on other parameters is no answer, nor is
    what a second run does not give again.

    Unusual parameters: a parametrised weight is drawn as if it were plain and assigned, which its
    parametrisation inverts (``right_inverse``); what it makes of that is looked at first, and is a remark
    of the report where it is something else (``orthogonal``). The vectors of
    ``parametrizations.spectral_norm`` are drawn by the name of the weight that they belong to, where that
    is set. Integer parameters take constants, values and what draws integers. Kept ones on the meta
    device stay there. Buffers that no rule sets stay as they are; those on the meta device are computed,
    in the dtype that they come in, by the first that does of their module's ``reset_buffers``,
    ``rope_init``, ``reset_parameters``, ``init_non_persistent_buffers`` and ``_init_buffers`` and the
    ``_init_weights(module)`` of modules around it, as transformers' models have it; what these draw comes
    of the first one's name, as under :func:`~tritoninit.intercept`. Where nothing computes them, build
    the model with its parameters on the meta device and its buffers real, as accelerate's
    ``init_empty_weights`` does.

    Returns:
        What was done, one :class:`~tritoninit.auditing.assignments.Assignment` a parameter in the order of
        ``named_parameters`` and then a buffer that was set; measured when first asked. Remarks tell of
        parameters that were one number throughout and are drawn now, and of rules, not
        :class:`optional <tritoninit.Rule>` ones, whose glob or key is about nothing in the model.

    Raises:
        ValueError: what cannot be set, by qualified name: no rule matches, lazy, quantised, old-style
            weight_norm, a fan that the shape does not tell, a buffer that nobody can compute, a part of a
            parameter of which nobody says which part it is, a window that does not fit or is of nothing in
            the model, memory that was freed, a value of which a parametrisation makes NaN or infinities;
            with ``check_ranks``, ranks that do not agree, with the name of the first parameter on which they
            do not. Nothing was written then.
    """
    with Agreement(check_ranks) as agreement:
        return _initialize(
            module, rules, seed, device, dtype, only, skip, prefix, windows, agreement, rounding
        )


def _initialize(
    module: nn.Module,
    rules: Iterable[Rule],
    seed: int | None,
    device: torch.device | str | None,
    dtype: torch.dtype | None,
    only: Selection | None,
    skip: Selection,
    prefix: Names,
    windows: Mapping[str, Window | Windows] | None,
    agreement: Agreement,
    rounding: str,
) -> Report:
    check_rounding(rounding)
    target = _usable(device, dtype)
    check_module(module)
    walk = walk_of(module)
    reshard(module, [ancestors[-1] for _, _, ancestors in walk])
    key = None if seed is None else Key(seed)
    rules = RuleSet.of(rules)
    scope = Scope(prefix, {} if windows is None else windows)
    found, choice = asked(module, rules, only, skip, scope, target, dtype, rounding, walk)
    initializers, garbage, renewed, own, given, aliases, alike = choice
    idle = (*rules.idle(found, given), *scope.idle(name for slot in found for name in slot.names))
    noticed = _Noticed(idle, initializers)
    together = {slot for each in alike for slot in each.slots}
    apart = {slot: how for slot, how in initializers.items() if slot not in together}
    keep = Keep()
    named: set[Place] = set()
    if any(slot.originals for slot in apart):  # of which alone it is asked
        named = {place for slot in initializers if slot.is_buffer for place in places(slot)}
    with _generator_put_back():
        key = Key.from_generator() if key is None else key
        keys = {slot: key.fold_in(key_name(slot.name, how)) for slot, how in apart.items() if how.random}
        streams = [_streams(key, each) for each in alike]
        with as_whole(found):
            numbers = computed(module, own, key, target, dtype, rounding)
        initializers |= numbers
        apart |= numbers
        values = drawn_apart(apart, keys, key, target, dtype, named)
        agreement.on(_planned(found, initializers, garbage, key, dtype))
        if target is not None or dtype is not None:
            with as_whole(found):
                recompute(module, garbage, target, lambda name: quietly(key.fold_in(name)))
            for slot in found:
                overwritten = slot in renewed or not _keeps(initializers.get(slot, keep), slot)
                how = initializers.get(slot, keep)
                floats = None if slot.is_buffer and _is_recorded(how) else dtype
                move(slot, target, floats, overwritten=overwritten)
            for each, slot in aliases:
                each.follow(slot.tensor)
            reset_sharded(module)
    plan = Plan()
    done: dict[Slot, tuple[Any, ...]] = {}
    steps = _Steps(plan, key, found)
    for place, slot in enumerate(found):
        if slot in together:
            continue
        initializer = apart.get(slot, keep)
        tensor, used = slot.tensor, keys.get(slot)
        if not isinstance(initializer, Keep):
            plan.at(place)
            became = backend = ""
            if slot in values:
                tensor, became = values[slot]
                plan.afterwards(partial(assign, slot, tensor, used or key.fold_in(slot.name), named))
            elif slot.shard is not None or is_dtensor(tensor):
                tensor = slot.memory
                add_held(initializer, plan, writable(tensor, slot.windows), used or key)
            else:
                backend = steps.add(slot, initializer, used)
                if hasattr(tensor, "ds_tensor"):
                    plan.afterwards(partial(settle, slot))
            backend = backend or resolve(tensor.device.type).name
            code = own[slot].call.code if slot in own else ""
            if slot.shard is not None:
                tensor = slot.tensor
            done[slot] = (slot.name, tensor, initializer, used, backend, became, code)
        elif not slot.is_buffer:
            done[slot] = (slot.name, tensor, initializer, None, "")
    backends = [steps.alike(*each) for each in zip(alike, streams, strict=True)]
    plan.run()
    assignments = _Assignments(found, done, key, zip(alike, backends, strict=True), own)
    return Report(assignments, seed=key.seed, module=module, noticed=noticed, scope=scope)


def _streams(key: Key, alike: Batch) -> list[int]:
    """Those of the slots' keys; none where nothing is drawn."""
    how = alike.initializer
    return streams(key, [key_name(slot.name, how) for slot in alike.slots]) if how.random else []


class _Assignments:
    """Those of a model, made when somebody asks for them: few do, and to make them takes a while.

    Args:
        found: the model's slots, in order.
        done: what the assignments of some are made of.
        key: the model's.
        alike: the other slots that are set, and the names of the backends.
        own: of which slots the model's own code said how.
    """

    def __init__(
        self,
        found: Sequence[Slot],
        done: Mapping[Slot, tuple[Any, ...]],
        key: Key,
        alike: Iterable[tuple[Batch, str]],
        own: Mapping[Slot, Own],
    ) -> None:
        self._found, self._done, self._key = found, done, key
        self._alike, self._own = list(alike), own

    def __iter__(self) -> Iterator[Assignment]:
        how_of = {slot: (each.initializer, backend) for each, backend in self._alike for slot in each.slots}
        for slot in self._found:
            if slot in self._done:
                yield Assignment(*self._done[slot])
            elif slot in how_of:
                how, backend = how_of[slot]
                used = self._key.fold_in(key_name(slot.name, how)) if how.random else None
                code = self._own[slot].call.code if slot in self._own else ""
                yield Assignment(slot.name, slot.tensor, how, used, backend, "", code)


class _Steps:
    """The steps of a plan, of which a model has many that differ in the tensor and the key alone.

    Args:
        plan: to which they are appended.
        key: of what takes none of its own.
        found: the model's slots, in the order in which they are set.
    """

    def __init__(self, plan: Plan, key: Key, found: Sequence[Slot]) -> None:
        self._plan = plan
        self._key = key
        self._found = found
        self._first: dict[_Case, tuple[Step, str]] = {}

    @cached_property
    def _places(self) -> dict[Slot, int]:
        return {slot: place for place, slot in enumerate(self._found)}

    def alike(self, alike: Batch, streams: Sequence[int]) -> str:
        """:meth:`add` of slots that are alike, by the streams of their keys; the name of their backend."""
        initializer, slots, steps = alike
        first = slots[0].tensor
        steps = steps or _steps_of(Plan(), initializer, first)
        if len(steps) == 1 and steps[0].target is first:
            step = steps[0]
            targets = [slot.tensor for slot in slots]
            self._plan.alike(step, targets, self._key.seed, streams, partial(self._places_of, slots))
            return (step.backend or resolve(first.device.type)).name
        for slot, stream in zip(slots, streams or repeat(0, len(slots)), strict=True):  # made of parts
            self._plan.at(self._places[slot])
            backend = self.add(slot, initializer, Key(self._key.seed, stream))
        return backend

    def _places_of(self, slots: Iterable[Slot]) -> list[int]:
        return [self._places[slot] for slot in slots]

    def add(self, slot: Slot, initializer: Initializer, key: Key | None) -> str:
        """Append what sets a slot, which is known to be writable; the name of the backend."""
        tensor = slot.tensor
        case = id(initializer), tensor.shape, tensor.dtype, tensor.device
        first = self._first.get(case)
        if first is not None:
            self._plan.repeat(first[0], tensor, key or self._key)
            return first[1]
        before = len(self._plan.steps)
        initializer.add(self._plan, tensor, key or self._key, Window.whole(tensor.shape))
        backend = resolve(tensor.device.type).name
        inner = initializer.initializer if isinstance(initializer, StochasticallyRounded) else initializer
        if goes_by_shape(type(inner)) and len(self._plan.steps) == before + 1:
            step = self._plan.steps[-1]
            if step.target is tensor:  # and not made of parts
                self._first[case] = step, backend
        return backend


def _steps_of(plan: Plan, initializer: Initializer, tensor: torch.Tensor) -> list[Step]:
    """What a plan would have of a tensor that an initializer sets, by the key of no name."""
    before = len(plan.steps)
    initializer.add(plan, tensor, NO_KEY, Window.whole(tensor.shape))
    steps = plan.steps[before:]
    del plan.steps[before:]
    return steps


# What decides what an initializer that goes by shape is for a tensor: its id, and the tensor's shape, dtype
# and device.
_Case: TypeAlias = "tuple[int, tuple[int, ...], torch.dtype, torch.device]"


def asked(
    module: nn.Module,
    rules: RuleSet,
    only: Selection | None,
    skip: Selection,
    scope: Scope,
    device: torch.device | None = None,
    dtype: torch.dtype | None = None,
    rounding: str = NEAREST,
    walk: Sequence[Where] = (),
) -> tuple[list[Slot], Choice]:
    """A model's slots, and what is to become of them; raises what is wrong before anything is drawn."""
    check_rounding(rounding)
    walk = walk or walk_of(module)
    with at_rest(module, walk):  # rules may look at weights, too
        found = slots_at_rest(walk, scope)
        _check_names(found)
        kept = select(found, skip, "skip")
        if only is not None:
            kept |= {slot for slot in set(found) - select(found, only, "only") if not _is_garbage(slot)}
        choice = _choose(module, found, rules, kept, device, dtype)
    if rounding != NEAREST:
        _round(choice, rounding)
    return found, choice


def _round(choice: Choice, rounding: str) -> None:
    """Have all that is drawn be rounded so, what is the same for many slots once."""
    known: dict[int, Initializer] = {}
    for slot, how in choice.initializers.items():
        if isinstance(how, Computed):  # which is asked anew for each key
            continue
        choice.initializers[slot] = known.setdefault(id(how), rounded(how, rounding))
    choice.alike[:] = [Batch(choice.initializers[each.slots[0]], each.slots, []) for each in choice.alike]


def _planned(
    found: Iterable[Slot],
    initializers: Mapping[Slot, Initializer],
    computed: Container[Slot],
    key: Key,
    dtype: torch.dtype | None,
) -> Iterator[Planned]:
    """What becomes of the slots, for ranks to agree on."""
    for slot in found:
        how, memory = initializers.get(slot), slot.memory
        if how is None and slot.is_buffer and slot not in computed:
            continue
        shape = "none yet" if nn.parameter.is_lazy(memory) else str(slot.shape)
        kept = memory.dtype if dtype is None or not memory.is_floating_point() else dtype
        used = key.fold_in(slot.name) if slot in computed or (how is not None and how.random) else None
        yield Planned(
            slot.name,
            shape,
            str(kept),
            "its module's own code" if slot in computed else exactly(Keep() if how is None else how),
            "" if used is None else str(used.seed),
            "" if used is None else str(used.stream),
        )


def chosen(
    module: nn.Module, rules: Iterable[Rule] = TORCH_DEFAULTS, dtype: torch.dtype | None = None
) -> list[tuple[Slot, Initializer]]:
    """What :func:`initialize_` would do, and does not: of each parameter, and of each buffer that it sets.

    Raises:
        ValueError: what :func:`initialize_` would raise before anything is drawn.
    """
    check_module(module)
    found = slots(module)
    _check_names(found)
    with at_rest(module):
        choice = _choose(module, found, RuleSet.of(rules), set(), torch.device("cpu"), dtype)
    set_ = choice.initializers
    return [(slot, set_.get(slot, Keep())) for slot in found if slot in set_ or not slot.is_buffer]


class _Noticed:
    """What a report remarks: of rules and names that are about nothing, and of numbers that are drawn now.

    What is one number throughout, as where a branch starts as if it were not there, and is drawn now.
    """

    def __init__(self, idle: Sequence[str], chosen: Mapping[Slot, Initializer]) -> None:
        self._idle = idle
        once = {id(how): how for how in chosen.values()}
        random = {number for number, how in once.items() if how.random}
        drawn = [slot for slot, how in chosen.items() if id(how) in random]
        parts = [slot.tensor if slot.is_usual else _all_of(slot) for slot in drawn]
        self._slots = [slot for slot, here in zip(drawn, parts, strict=True) if here is not None]
        self._constants = Constants([here for here in parts if here is not None])

    def __iter__(self) -> Iterator[tuple[str, str]]:
        yield from ((part, "matches nothing in the model") for part in self._idle)
        for place, value in self._constants:
            yield self._slots[place].name, f"was {short(value, 6)} throughout, and is drawn now"


def _all_of(slot: Slot) -> torch.Tensor | None:
    """The memory of a slot; None if some of it is elsewhere."""
    return None if slot.memory.is_meta or slot.shard is not None else whole_here(slot.tensor)


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
    """Raise ValueError if two have one name, and so one key: a wrapper's own, and one that it wraps."""
    if len({slot.name for slot in found}) == len(found):
        return
    counts = Counter(slot.name for slot in found)
    twice = [name for name, count in counts.items() if count > 1]
    if twice:
        why = "without what wrappers add, or as prefix= has it"
        raise ValueError(f"several tensors have one name {why}: {', '.join(twice)}")


class Batch(NamedTuple):
    """Slots that an initializer sets in the same way, all but for the numbers.

    Attributes:
        initializer: which it is.
        slots: those.
        steps: what a plan has of the first of them, by another key; none if that is yet to be found out.
    """

    initializer: Initializer
    slots: list[Slot]
    steps: list[Step]


class Choice(NamedTuple):
    """What becomes of a model's slots.

    Attributes:
        initializers: of those that are set, or kept because a rule says so.
        garbage: the buffers that have to be computed.
        renewed: those that a parametrised weight is set with.
        own: which of the initializers are the model's own code's.
        given: the initializers that the rules have, as they are there.
        aliases: other places of tensors on the meta device, in which they are exchanged.
        alike: usual, contiguous slots that stay where they are, and whose initializer goes by shape: those
            for which it is the same together.
    """

    initializers: dict[Slot, Initializer]
    garbage: list[Slot]
    renewed: set[Slot]
    own: dict[Slot, Own]
    given: list[Initializer | None]
    aliases: list[tuple[Held, Slot]]
    alike: list[Batch]


def _choose(
    module: nn.Module,
    found: Sequence[Slot],
    rules: RuleSet,
    kept: set[Slot],
    device: torch.device | None,
    dtype: torch.dtype | None,
) -> Choice:
    """What is to be done; raises what can be known by now."""
    problems = _Problems()
    with as_whole(found):
        choice = _wanted(module, found, rules, kept, device, dtype, problems)
    if device is not None:
        held = held_on_meta(module)
        problems.errors += loose_meta_tensors(module, held, found)
        known = {id(slot.tensor): slot for slot in found if not slot.is_parametrized}
        choice.aliases.extend((each, known[id(each.tensor)]) for each in held if id(each.tensor) in known)
    problems.raise_any()
    return choice


def _wanted(
    module: nn.Module,
    found: Sequence[Slot],
    rules: RuleSet,
    kept: set[Slot],
    device: torch.device | None,
    dtype: torch.dtype | None,
    problems: _Problems,
) -> Choice:
    """What rules and own code want of the slots of a model whose modules show whole parameters."""
    wanted: dict[Slot, Initializer | None] = {}
    moves = device is not None or dtype is not None
    finder = Finder(rules)
    for slot in found:
        try:
            if moves:
                check_freed(local_of(slot.memory))  # it is copied, or its memory given up
                check_engine(slot, device, dtype)
            if kept and slot in kept:
                continue
            wanted[slot] = finder.find(slot) if slot.is_usual else _wish(finder, slot)
        except _TROUBLE as error:
            problems.of(slot, error)
    own, failures = ask(module, _left(wanted))
    choice = Choice({}, [], set(), own, list(wanted.values()), [], [])
    along: set[Place] = set()  # of weights, which come first
    checks = _Checks(device, dtype)
    meanings = _Meanings()
    initializers, check, as_it_is = choice.initializers, checks.on, Initializer.of_weight
    for slot, wish in wanted.items():
        try:
            initializer = rules.find(slot, own_code=False) if failures and slot in failures else wish
            if own and slot in own:
                check_code(wish, own[slot])
                initializer = own[slot].initializer
            elif initializer is not None and type(initializer).of_weight is not as_it_is:
                initializer = meanings.of(slot, initializer)  # which most do not ask for, and takes a while
            if initializer is not None:
                check(slot, initializer)
                initializers[slot] = initializer
                if slot.originals and not isinstance(initializer, Keep):
                    along |= set_with(slot)
            elif not slot.is_buffer:
                problems.unmatched.append((slot.name, failures.get(slot, ())))
            elif slot.tensor.is_meta and device is not None and along & places(slot):
                choice.renewed.add(slot)
            elif slot.tensor.is_meta:
                choice.garbage.append(slot)
                check_computable(slot, device)
        except _TROUBLE as error:  # noqa: PERF203 - all that is wrong is told together
            problems.of(slot, error)
    choice.alike.extend(checks.alike)
    return choice


def _left(wanted: Mapping[Slot, Initializer | None]) -> list[Slot]:
    """The slots that rules leave to the model's own code: often none."""
    if not any(issubclass(kind, OwnCode) for kind in set(map(type, wanted.values()))):
        return []
    return [slot for slot, wish in wanted.items() if isinstance(wish, OwnCode)]


def _wish(rules: Finder, slot: Slot) -> Initializer | None:
    """What rules have for a slot; raises why it cannot be set, whatever they have."""
    if nn.parameter.is_lazy(slot.tensor):
        raise TargetError(LAZY)
    if slot.shard is not None and slot.shard.parts is None:
        slot.shard.windows.check(slot.memory.shape)
    try:
        wish = rules.find(slot)
    except Exception:
        check_held(slot)  # for want of a shape, perhaps, where it holds a place
        raise
    if not (slot.is_buffer or isinstance(wish, Keep)):
        check_held(slot)
    return wish


def check_code(wish: Initializer | None, own: Own) -> None:
    """Raise ValueError if a parameter is for some code to set, and others say that they do."""
    if isinstance(wish, OwnCode) and wish.code not in ("", own.call.code):
        raise ValueError(f"it is for {wish.code} to set, and {own.call.code} says that it does: give a rule")


class _Meanings:
    """What initializers are for slots, with the fans of their modules; one object where that is the same."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, Axes | None], tuple[Initializer, Initializer]] = {}

    def of(self, slot: Slot, initializer: Initializer) -> Initializer:
        """What an initializer is for a slot; raises if it is not known."""
        by_axes = type(initializer).of_weight is FanScaled.of_weight
        if by_axes and getattr(initializer, "axes", None) is not None:
            return initializer  # which says it itself
        axes = module_axes(slot.owner, slot.name, slot.shape)
        if axes is TORCH_AXES or not (by_axes and goes_by_shape(type(initializer))):
            return initializer.of_weight(axes, slot.shape)
        case = id(initializer), axes
        if case not in self._known:
            self._known[case] = initializer, initializer.of_weight(axes, slot.shape)
        return self._known[case][1]


class _Checks:
    """Whether initializers can set slots, with memory on the device and in the dtype, if those are given.

    What is asked of one that goes by shape is asked once a shape, dtype and device, which models repeat.
    """

    def __init__(self, device: torch.device | None, dtype: torch.dtype | None) -> None:
        self._device = device
        self._dtype = dtype
        self._stays = device is None and dtype is None
        self._known: dict[_Case, Initializer] = {}
        self._alike: dict[_Case, Batch] = {}
        self._plan = Plan()

    @property
    def alike(self) -> list[Batch]:
        """Of the slots so far, those that a :class:`Choice` calls so."""
        return [each for each in self._alike.values() if each.slots]

    def on(self, slot: Slot, initializer: Initializer) -> None:
        """Raise why an initializer cannot set a slot."""
        tensor = slot.tensor
        if slot.is_usual and self._stays:
            case: _Case = id(initializer), tensor.shape, tensor.dtype, tensor.device
            known = self._alike.get(case)
            if known is not None:
                if check_usual(tensor):
                    known.slots.append(slot)
                return
            # Of these alone there is no more to ask.
            by_shape = goes_by_shape(type(initializer))
            if by_shape and (tensor.dtype.is_floating_point or not initializer.random):
                is_like_most = check_usual(tensor)
                steps = _steps_of(self._plan, initializer, tensor)
                if not steps or steps[0].backend is None:
                    resolve(tensor.device.type)  # raises if none serves it
                self._alike[case] = Batch(initializer, [slot] if is_like_most else [], steps)
                return
        if isinstance(initializer, Keep):
            return
        memory = slot.memory
        if not isinstance(initializer, Value):
            _check_plain(slot, initializer)
        if slot.shard is not None and slot.is_parametrized:
            raise TargetError(
                "what it is computed from is a part of it: keep it, or initialise before it is cut"
            )
        if memory.is_meta and self._device is not None:
            check_memorable(local_of(memory))
            if _keeps(initializer, slot):
                raise ValueError("a part of it is to be kept, and on the meta device it has no values")
        elif slot.shard is not None or is_dtensor(memory):
            writable(memory, slot.windows)
        else:
            as_target(memory)
        if not goes_by_shape(type(initializer)):
            self._check_initializer(slot, initializer)
            return
        shape = memory.shape if slot.shard is None else slot.shape
        case = id(initializer), shape, memory.dtype, memory.device
        if case not in self._known:
            self._check_initializer(slot, initializer)
            self._known[case] = initializer  # which keeps its id

    def _check_initializer(self, slot: Slot, initializer: Initializer) -> None:
        memory = slot.memory
        whole: Target = memory if slot.shard is None else whole_like(local_of(memory), slot.shape)
        if self._dtype is not None and memory.is_floating_point():
            whole = torch.empty(slot.shape, dtype=self._dtype, device="meta")
        initializer.check(whole, Window.whole(slot.shape))
        resolve((memory.device if self._device is None else self._device).type)  # raises if none serves it


def computed(
    module: nn.Module,
    own: Mapping[Slot, Own],
    key: Key,
    device: torch.device | None,
    dtype: torch.dtype | None,
    rounding: str = NEAREST,
) -> dict[Slot, Initializer]:
    """The numbers that own code computes for a key; raises why they cannot set their slots."""
    problems = _Problems()
    computed = drawn(module, own, key)
    checks = _Checks(device, dtype)
    for slot, initializer in computed.items():
        try:
            checks.on(slot, initializer)
        except _TROUBLE as error:  # noqa: PERF203 - all that is wrong is told together
            problems.of(slot, error)
    problems.raise_any()
    return {slot: rounded(initializer, rounding) for slot, initializer in computed.items()}


def _keeps(initializer: Initializer, slot: Slot) -> bool:
    """Whether some of a slot's elements stay as they are."""
    if isinstance(initializer, Keep):  # lazy parameters, which have no shape, among them
        return True
    return any(isinstance(piece.initializer, Keep) for piece in initializer.pieces(slot.shape))


def _check_plain(slot: Slot, initializer: Initializer) -> None:
    """Raise unless drawing the slot's elements makes its owner's weight what the initializer says."""
    tensor, owner = slot.tensor, slot.owner
    if slot.originals and any(map(is_dtensor, slot.originals)):
        raise TargetError("a DTensor is what it is computed from: keep it, or initialise before sharding")
    if not (tensor.is_floating_point() or tensor.is_complex()):
        if initializer.random and not _is_recorded(initializer):
            _check_integers(slot, initializer)
        if not (slot.is_buffer or type(tensor) is nn.Parameter or is_dtensor(tensor)):
            raise ValueError(f"a quantised {type(tensor).__name__}: keep it, or give a Value")
    for hook in owner._forward_pre_hooks.values():
        if isinstance(hook, (WeightNorm, SpectralNorm)) and slot.local.startswith(f"{hook.name}_"):
            raise ValueError(
                f"part of an old-style {type(hook).__name__}: use torch.nn.utils.parametrizations, or keep it"
            )
    if slot.is_parametrized:
        check_invertible(slot)


def _check_integers(slot: Slot, initializer: Initializer) -> None:
    """Raise unless what is drawn is of the slot's dtype, which has no fractions."""
    dtype = slot.tensor.dtype
    try:
        initializer.check(torch.empty(slot.shape, dtype=dtype, device="meta"), Window.whole(slot.shape))
    except NotImplementedError as error:
        what = "constants, values and what draws integers"
        raise ValueError(f"{dtype} takes {what}: keep it, or give a Value") from error


def _is_recorded(initializer: Initializer) -> bool:
    """Whether its numbers are those of the dtype that the code made them in, integers too."""
    while isinstance(initializer, (CopyOf, StochasticallyRounded)):
        initializer = initializer.initializer
    return isinstance(initializer, Recorded)


class _Drawn(NamedTuple):
    """What is going to be assigned to a parametrised weight, and what it is then, if something else."""

    value: torch.Tensor
    became: str


def drawn_apart(
    chosen: Mapping[Slot, Initializer],
    keys: Mapping[Slot, Key],
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
            initializer.add(plan, value, keys.get(slot, key), Window.whole(value.shape))
    if values:
        plan.run()
    problems = _Problems()
    apart: dict[Slot, _Drawn] = {}
    for slot, value in values.items():
        try:
            apart[slot] = _Drawn(value, becomes(slot, value, dtype, key.fold_in(slot.name), named))
        except _TROUBLE as error:  # noqa: PERF203 - all that is wrong is told together
            problems.of(slot, error)
    problems.raise_any()
    return apart


def _is_garbage(slot: Slot) -> bool:
    return slot.is_buffer and slot.tensor.is_meta
