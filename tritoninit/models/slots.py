"""A model's parameters and buffers, once each, by names that wrappers do not change."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel

from tritoninit.fans import Axes, module_axes
from tritoninit.models.globs import Globs, compiled
from tritoninit.models.private import Flattened, flattened
from tritoninit.models.scopes import WHOLE, Scope
from tritoninit.models.shards import Shard, placed, shard_of
from tritoninit.models.walk import modules_of
from tritoninit.targets import (
    PLACEHOLDER,
    LostError,
    ShortError,
    check_freed,
    is_placeholder,
    is_usual,
)
from tritoninit.window import Window
from tritoninit.windows import Windows

# Where torch.compile, FSDP and activation checkpointing hold the module that they wrap.
_WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Those whose attribute is called "module", a name that others use, too.
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)
# Classes of other packages, by name, and where they hold what they wrap: PEFT's models, tuners, layers and
# those of which it trains a copy; DeepSpeed's engine; Megatron's wrappers.
_THEIRS = {
    ("peft", "PeftModel"): "base_model",
    ("peft", "PeftMixedModel"): "base_model",
    ("peft", "BaseTuner"): "model",
    ("peft", "BaseTunerLayer"): "base_layer",
    ("peft", "AuxiliaryTrainingWrapper"): "original_module",
    ("peft", "ModulesToSaveWrapper"): "original_module",
    ("deepspeed", "DeepSpeedEngine"): "module",
    ("megatron", "Float16Module"): "module",
    ("megatron", "_BaseDataParallel"): "module",
}

# Where modules that share others lie inside such modules, places double at every level. Each module is looked
# at in its first; of the others so many count, or so many a module.
_MOST_PLACES: Final = 1 << 14
_PLACES_A_MODULE: Final = 32

# The id of a module, and the name that a tensor has there.
Place: TypeAlias = tuple[int, str]
Selection: TypeAlias = "str | nn.Module | Iterable[str | nn.Module]"


# A module's name with a dot behind, without what wrappers add; the same with that; the modules around, and
# itself, last.
Where: TypeAlias = "tuple[str, str, tuple[nn.Module, ...]]"


class Appearance(NamedTuple):
    """Where a slot appears in a model.

    Attributes:
        name: of the module that holds it there, with a dot behind, without what wrappers add.
        raw: the same with that.
        ancestors: the modules around, that one last.
        local: what it is called in that module.
        originals: how many tensors it is computed from there.
    """

    name: str
    raw: str
    ancestors: tuple[nn.Module, ...]
    local: str
    originals: int


@dataclass(eq=False, slots=True)
class Slot:
    """One parameter or buffer of a model, wherever it appears.

    Attributes:
        name: the qualified name, of the first place where it appears, without what wrappers add.
        owner: the module that holds it there.
        local: its name in that module.
        ancestors: the modules around it, the owner last.
        tensor: the parameter or buffer; a parametrised weight's value.
        is_buffer: it is no parameter.
        is_parametrized: it is computed from other tensors (torch.nn.utils.parametrize), its originals.
        originals: those; empty of one that is not parametrised.
        places: every (module, local name) that holds it, the first and those tied to it.
        appearances: everywhere in the model; of very many the first.
        computing: where it is one of those that another is computed from.
        names: every qualified name, with and without what wrappers and a prefix add; of very many the first.
        full_names: those in the whole, if the model is a part under other names.
        around: ids of all modules that it lies inside of, in any place.
        shard: which part of it is here; None if that is all.
        is_plain: of a parameter, whether it is computed from no others, and bears none of the marks that
            other libraries leave.
        is_usual: whether it is torch's own tensor of floats or integers, and all that is true of most:
            it is plain, whole and here, and its owner has no hook that may compute it.
    """

    name: str
    owner: nn.Module
    local: str
    ancestors: tuple[nn.Module, ...]
    tensor: torch.Tensor
    is_buffer: bool
    originals: tuple[torch.Tensor, ...]
    _first: Where
    is_plain: bool = True
    is_usual: bool = False
    shard: Shard | None = None
    computing: Sequence[tuple[nn.Module, str]] = ()
    full_names: Set[str] = frozenset()
    _names: Set[str] | None = None
    _appearances: list[Appearance] | None = None

    @property
    def appearances(self) -> list[Appearance]:  # of which few are asked for more than what is known anyway
        if self._appearances is None:
            self._appearances = [Appearance(*self._first, self.local, len(self.originals))]
        return self._appearances

    def appears(self, where: Where, local: str, originals: int) -> None:
        """Note that it appears there."""
        self.appearances.append(Appearance(*where, local, originals))

    @property
    def places(self) -> list[tuple[nn.Module, str]]:
        plain = [(each.ancestors[-1], each.local) for each in self.appearances if not each.originals]
        return [*{(id(owner), local): (owner, local) for owner, local in plain}.values(), *self.computing]

    @property
    def names(self) -> Set[str]:  # few are asked for, and sets take as long to make as a slot
        if self._names is not None:
            return self._names
        found: set[str] = set()
        for name, raw, _, local, originals in self.appearances:
            found.update((name + local, raw + local))
            for original in _original_names(originals):
                found.update(f"{each}parametrizations.{local}.{original}" for each in (name, raw))
        return found

    @property
    def around(self) -> set[int]:
        return {id(module) for each in self.appearances for module in each.ancestors}

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole, whatever part of it is here."""
        return tuple(self.tensor.shape) if self.shard is None else self.shard.global_shape

    @property
    def memory(self) -> torch.Tensor:
        """What holds the elements that are here."""
        held = None if self.shard is None else self.shard.memory
        return self.tensor if held is None else held

    @property
    def windows(self) -> Window | Windows | None:
        """Where those lie in the whole; None if the memory says that itself."""
        return None if self.shard is None else self.shard.windows

    @property
    def is_parametrized(self) -> bool:
        return bool(self.originals)


def places(slot: Slot) -> set[Place]:
    """Where a slot is held."""
    return {(id(owner), local) for owner, local in slot.places}


def slots(module: nn.Module, scope: Scope = WHOLE) -> list[Slot]:
    """The distinct parameters of a model in the order of ``named_parameters``, then its distinct buffers.

    A parametrised weight is one of them, in the place of its originals, and so is each that FSDP1 flattened.

    Args:
        module: the model.
        scope: which part of a whole it is.

    Raises:
        ValueError: a window of the scope is of nothing in the model.
    """
    check_module(module)
    walk = walk_of(module)
    with at_rest(module, walk):
        return slots_at_rest(walk, scope)


def slots_at_rest(walk: Sequence[Where], scope: Scope) -> list[Slot]:
    """The same of a model whose parametrised weights can be looked at without a trace (:func:`at_rest`).

    Args:
        walk: of its modules, every place (:func:`walk_of`).
        scope: which part of a whole it is.
    """
    found: list[Slot] = []
    buffers: list[Slot] = []
    by_id: dict[int, Slot] = {}
    owned: dict[int, list[tuple[Slot, str, int]]] = {}
    flat = _Flat(ancestors[-1] for _, _, ancestors in walk)
    for where in walk:
        name, _, ancestors = where
        owner = ancestors[-1]
        if flat.hidden or "parametrizations" in owner._modules or isinstance(owner, _COMPUTES):
            held = owned.get(id(owner))
            if held is None:
                held = owned[id(owner)] = _held(where, found, buffers, by_id, flat)
            for slot, local, originals in held:
                slot.appears(where, local, originals)
            continue
        if not owner._parameters and not owner._buffers:
            continue
        is_hooked = bool(owner._forward_pre_hooks)
        for is_buffer, entries in ((False, owner._parameters), (True, owner._buffers)):
            for local, tensor in entries.items() if entries else ():
                if tensor is None:
                    continue
                known = by_id.get(id(tensor))
                if known is None:
                    plain = is_buffer or not _is_marked(tensor)
                    usual = plain and not is_hooked and is_usual(tensor) and not tensor.is_meta
                    known = by_id[id(tensor)] = Slot(
                        name + local, owner, local, ancestors, tensor, is_buffer, (), where, plain, usual
                    )
                    (buffers if is_buffer else found).append(known)
                else:
                    known.appears(where, local, 0)
    found += buffers
    if scope.renames:
        _rename(found, scope)
    for slot in found:
        if flat.shards or not slot.is_plain:
            _look_for_shard(slot, flat)
    for slot, window in _windows(found, scope.windows):
        slot.shard, slot.is_usual = placed(slot.shard, window), False
    return found


def _look_for_shard(slot: Slot, flat: _Flat) -> None:
    """Tell a slot which part of it is here, if anything says that it is a part."""
    if not (slot.is_buffer or slot.originals):
        slot.shard = shard_of(slot.tensor, slot.owner, flat.shards.get(id(slot.tensor)))
        slot.is_usual = slot.is_usual and slot.shard is None


_COMPUTES = parametrize.ParametrizationList


def _rename(found: Sequence[Slot], scope: Scope) -> None:
    """Slots go by their names in the whole; by those here, too, but where another is called so there."""
    for slot in found:
        slot.full_names = {scope.full(each.name + each.local) for each in slot.appearances}
    taken = {name for slot in found for name in slot.full_names}
    for slot in found:
        slot.name = scope.full(slot.name)
        slot._names = (slot.names - taken) | slot.full_names


def _is_marked(x: torch.Tensor) -> bool:
    kind = type(x)
    if kind is nn.Parameter or kind is torch.Tensor:  # whose class has none, and of five looks one is enough
        return not _MARKS.isdisjoint(x.__dict__)
    return any(hasattr(x, mark) for mark in _MARKS)


# What DeepSpeed, Megatron and FSDP1 leave on parameters.
_MARKS: Final = frozenset({"ds_tensor", "ds_shape", "tensor_model_parallel", "allreduce", "_is_flat_param"})


class _Flat:
    """What FSDP1 flattened of a model's parameters.

    Attributes:
        shards: which part of each is here, by the id of what stands for it.
        hidden: what modules do not show any more, by the module's id: (local name, tensor).
        tensors: all that stand for parameters, which keep their ids.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        self.tensors: list[Flattened] = flattened(modules)
        self.shards = {id(each.tensor): each.shard for each in self.tensors}
        self.hidden: dict[int, list[tuple[str, torch.Tensor]]] = {}
        for each in self.tensors:
            for owner, local in each.places if not each.is_shown else ():
                self.hidden.setdefault(id(owner), []).append((local, each.tensor))


def _windows(
    found: Sequence[Slot], windows: Mapping[str, Window | Windows]
) -> Iterator[tuple[Slot, Window | Windows]]:
    """The slots of which windows are given, by name or by glob: the first that is about a slot counts.

    Raises:
        ValueError: some are of nothing in the model; the message lists them.
    """
    if not windows:
        return
    given = list(windows)
    globs, useful = Globs(given), set()
    for slot in found:
        names = slot.full_names or slot.names
        matching = {place for name in names for place in globs.matching(name)}
        useful |= matching
        exact = [place for place in matching if given[place] in names]
        if matching:
            yield slot, windows[given[min(exact or matching)]]
    idle = [repr(name) for place, name in enumerate(given) if place not in useful]
    if idle:
        raise ValueError(f"windows matches nothing in the model: {', '.join(idle)}")


def check_module(module: object) -> None:
    """Raise TypeError unless it is one."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"a model is an nn.Module, not {_named(module)}")


def _named(given: object) -> str:
    """What was given in few words: of a large list its repr would be long."""
    kind = type(given).__name__
    return repr(given) if given is None or isinstance(given, type) else f"{kind} {given!r:.40}"


def _held(
    where: Where,
    found: list[Slot],
    buffers: list[Slot],
    by_id: dict[int, Slot],
    flat: _Flat,
) -> list[tuple[Slot, str, int]]:
    """(slot, local name, how many originals) of what a module holds; slots not met before are added."""
    name, _, ancestors = where
    owner = ancestors[-1]
    here: list[tuple[Slot, str, int]] = []
    for local, tensor, is_buffer, originals in _own(owner, name, flat):
        # A parametrised weight is computed anew each time that it is looked at.
        slot = _known(originals or (tensor,), by_id)
        if slot is None:
            plain = is_buffer or not (originals or _is_marked(tensor))
            usual = plain and not (originals or owner._forward_pre_hooks)
            usual = usual and is_usual(tensor) and not tensor.is_meta
            slot = Slot(
                name + local, owner, local, ancestors, tensor, is_buffer, originals, where, plain, usual
            )
            slot._appearances = []
            (buffers if is_buffer else found).append(slot)
            for x in originals or (tensor,):
                by_id[id(x)] = slot
        if originals and not slot.originals:  # a plain one is what this one is computed from
            each: Any = owner.parametrizations
            computing = each[local]
            within = [(computing, k) for k, p in computing._parameters.items() if p is slot.tensor]
            slot.computing = (*slot.computing, *within)
        here.append((slot, local, len(originals)))
    return here


def _known(tensors: Iterable[torch.Tensor], by_id: Mapping[int, Slot]) -> Slot | None:
    """The slot of the first of several tensors that has one."""
    return next((by_id[id(x)] for x in tensors if id(x) in by_id), None)


def _original_names(count: int) -> Sequence[str]:
    return () if not count else ("original",) if count == 1 else [f"original{k}" for k in range(count)]


def walk_of(module: nn.Module) -> list[Where]:
    """(prefix without wrappers, prefix, ancestors and the module itself) of every module, in every place.

    First each in its first place, in the order of ``named_modules``; then those that were met again, and
    what is inside of them.
    """
    found: list[Where] = []
    places: deque[Where] = deque([("", "", (module,))])
    most = 0
    known: set[int] = set()  # all of the model's, once each was walked in its first place
    while places and (len(found) < most or not most):
        walked: set[int] = set() if most else known
        pending = [places.popleft()]
        while pending:
            place = pending.pop()
            name, raw, ancestors = place
            owner = ancestors[-1]
            if id(owner) in walked:
                if not most or len(places) < most:
                    places.append(place)
                continue
            walked.add(id(owner))
            found.append(place)
            if not owner._modules:
                continue
            children: list[Where] = []
            for local, child in owner._modules.items():
                if child is None or (id(child) in known and _is_among(child, ancestors)):
                    continue
                outer = f"{raw}{local}."
                is_wrapped = local in _WRAPPING and _wraps(owner, local)
                inner = name if is_wrapped else outer if name == raw else f"{name}{local}."
                children.append((inner, outer, (*ancestors, child)))
            children.reverse()
            pending += children
        most = most or max(_MOST_PLACES, _PLACES_A_MODULE * len(found))
    return found


def _is_among(module: nn.Module, ancestors: tuple[nn.Module, ...]) -> bool:
    """Whether it is one of them; two that are equal may be inside of each other."""
    return any(module is each for each in ancestors)


def _wraps(owner: nn.Module, local: str) -> bool:
    if local in _WRAPPED or (local == "module" and isinstance(owner, _WRAPPERS)):
        return True
    kind: Any = type(owner)
    return local in _THEIR_NAMES and local in _wrapped_by(kind)


_THEIR_NAMES = frozenset(_THEIRS.values())
_WRAPPING = _THEIR_NAMES | {*_WRAPPED, "module"}


@lru_cache(maxsize=1024)
def _wrapped_by(kind: type) -> frozenset[str]:
    """Where modules of a class of another package hold what they wrap."""
    classes = ((each.__module__.partition(".")[0], each.__name__) for each in kind.__mro__)
    return frozenset(_THEIRS[each] for each in classes if each in _THEIRS)


def _own(
    owner: nn.Module, prefix: str, flat: _Flat
) -> Iterator[tuple[str, torch.Tensor, bool, tuple[torch.Tensor, ...]]]:
    """(local name, tensor, whether it is a buffer, a parametrised one's originals) of a module's own."""
    computes = isinstance(owner, _COMPUTES)
    for local, parameter in owner._parameters.items():
        is_flat = flat.hidden and local == "_flat_param"
        if parameter is not None and not (is_flat or (computes and local.startswith("original"))):
            yield local, parameter, False, ()
    for local, tensor in flat.hidden.get(id(owner), ()) if flat.hidden else ():
        yield local, tensor, False, ()
    if "parametrizations" in owner._modules and parametrize.is_parametrized(owner):
        parametrizations: Any = owner.parametrizations
        for local, each in parametrizations.items():
            originals = originals_of(each)
            _check_readable(f"{prefix}{local}", originals)
            is_buffer = not isinstance(originals[0], nn.Parameter)
            yield local, _computed(owner, local, originals), is_buffer, originals
    for local, buffer in owner._buffers.items():
        if buffer is not None and not (computes and local.startswith("original")):
            yield local, buffer, True, ()


def originals_of(parametrizations: nn.ModuleList) -> tuple[torch.Tensor, ...]:
    """What a weight is computed from by these."""
    held: Any = parametrizations._parameters | parametrizations._buffers
    return tuple(x for name, x in held.items() if x is not None and name.startswith("original"))


def _check_readable(name: str, originals: Iterable[torch.Tensor]) -> None:
    """Raise TargetError if a weight cannot be computed from its originals: trying may end in a signal."""
    for original in originals:
        try:
            check_freed(original)
        except ShortError as error:
            raise ShortError(f"{name}: {error}") from error
        if is_placeholder(original):
            raise LostError(f"{name}: {PLACEHOLDER}")


def _computed(owner: nn.Module, local: str, originals: Sequence[torch.Tensor]) -> torch.Tensor:
    """A parametrised weight's value."""
    try:
        value: torch.Tensor = getattr(owner, local)
    except (TypeError, RuntimeError):
        if not originals[0].is_meta:
            raise
        return torch.empty_like(originals[0])  # torch's orthogonal is not made to be computed there
    return value


def exactly(device_type: str) -> AbstractContextManager[object]:
    """Autocast does nothing there."""
    known = torch.amp.is_autocast_available(device_type)
    return torch.autocast(device_type, enabled=False) if known else nullcontext()


@contextmanager
def at_rest(module: nn.Module, walk: Sequence[Where] = ()) -> Iterator[None]:
    """Parametrised weights can be looked at without a trace: in training, spectral_norm takes a step.

    They are what they are outside of autocast, which may compute them in another dtype.

    Args:
        module: the model.
        walk: of its modules, every place, if that is known (:func:`walk_of`).
    """
    modules = [ancestors[-1] for _, _, ancestors in walk] or modules_of(module)
    lists = [*{id(m): m for m in modules if isinstance(m, parametrize.ParametrizationList)}.values()]
    training = [m for each in lists for m in each.modules() if m.training]
    for m in training:
        m.training = False
    try:
        with torch.no_grad(), ExitStack() as stack:
            for kind in {x.device.type for each in lists for x in originals_of(each)}:
                stack.enter_context(exactly(kind))
            yield
    finally:
        for m in training:
            m.training = True


def axes_of(slot: Slot) -> Axes:
    """What the dimensions of a slot's tensor mean, by the module that owns it.

    Raises:
        ValueError: that does not tell.
    """
    axes = module_axes(slot.owner, slot.name, slot.shape)
    if axes is None:
        owner, shape = type(slot.owner).__name__, slot.shape
        raise ValueError(f"which dimensions of {owner}'s {shape} fan in is not known: give axes=")
    return axes


def select(found: Iterable[Slot], selection: Selection, what: str) -> set[Slot]:
    """The slots that a selection names: by qualified names, globs, names of modules, or modules.

    Raises:
        ValueError: something selects nothing; the message lists it.
    """
    entries: list[Any] = [selection] if isinstance(selection, (str, nn.Module)) else list(selection)
    if not entries:
        return set()
    found = list(found)
    chosen: set[Slot] = set()
    idle = []
    by_name: dict[str, Slot] = {name: slot for slot in found for name in slot.names}
    named, useful = _by_name([each for each in entries if isinstance(each, str)], by_name)
    chosen |= named
    for entry in entries:
        if isinstance(entry, nn.Module):
            matching = {slot for slot in found if id(entry) in slot.around}
        elif not isinstance(entry, str):
            raise TypeError(f"{what} takes names, globs and modules, not {entry!r}")
        else:
            matching = set() if entry in useful else _at(found, entry)
        known = isinstance(entry, str) and (entry in useful or entry.endswith("_extra_state"))
        if not matching and not known:
            idle.append(type(entry).__name__ if isinstance(entry, nn.Module) else entry)
        chosen.update(matching)
    if idle:
        raise ValueError(f"{what} matches nothing in the model: {', '.join(idle)}")
    return chosen


def _by_name(entries: Iterable[str], by_name: dict[str, Slot]) -> tuple[set[Slot], set[str]]:
    """The slots that entries name, and which entries name some.

    An entry is the name of one, or else it matches names, or is a module of theirs.
    """
    entries = dict.fromkeys(entries)
    useful = {entry for entry in entries if entry in by_name}
    chosen = {by_name[entry] for entry in useful}
    others = [entry for entry in entries if entry not in useful]
    globs, names = Globs(others), sorted(by_name) if others else []
    for name in names:
        first = next(globs.matching(name), None)
        if first is not None:
            chosen.add(by_name[name])
            useful.add(others[first])
    for entry in others:
        begin, end = bisect_left(names, f"{entry}."), bisect_left(names, f"{entry}/")  # which comes after "."
        within = names[begin:end]
        chosen.update(by_name[name] for name in within)
        if within or (entry not in useful and any(map(compiled(entry).match, names))):
            useful.add(entry)
    return chosen, useful


def _at(found: Sequence[Slot], name: str) -> set[Slot]:
    """The slots where a path leads from the model, of which a shared module may have more than are listed."""
    here: Any = found[0].ancestors[0] if found else None
    *path, last = name.split(".")
    for local in path:
        here = here._modules.get(local) if here is not None else None
    if here is None:
        return set()
    inner = here._modules.get(last)
    if inner is not None:
        return {slot for slot in found if id(inner) in slot.around}
    held = here._parameters.get(last), here._buffers.get(last)
    return {
        slot
        for slot in found
        if (here, last) == (slot.owner, slot.local)
        or any(x is each for x in (*slot.originals, slot.tensor) for each in held)
    }
