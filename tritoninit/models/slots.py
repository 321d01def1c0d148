"""A model's parameters and buffers, once each, by names that wrappers do not change."""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel

from tritoninit.fans import Axes, module_axes
from tritoninit.models.globs import Globs, compiled
from tritoninit.targets import PLACEHOLDER, LostError, ShortError, check_freed, is_placeholder

# Where torch.compile, FSDP and activation checkpointing hold the module that they wrap.
_WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Those whose attribute is called "module", a name that others use, too.
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)

# Where modules that share others lie inside such modules, places double at every level. Each module is looked
# at in its first; of the others so many count, or so many a module.
_MOST_PLACES: Final = 1 << 14
_PLACES_A_MODULE: Final = 32

# The id of a module, and the name that a tensor has there.
Place: TypeAlias = tuple[int, str]
Selection: TypeAlias = "str | nn.Module | Iterable[str | nn.Module]"


@dataclass(eq=False)
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
        names: every qualified name, with and without what wrappers add; of very many the first.
        around: ids of all modules that it lies inside of, in any place.
    """

    name: str
    owner: nn.Module
    local: str
    ancestors: tuple[nn.Module, ...]
    tensor: torch.Tensor
    is_buffer: bool
    originals: tuple[torch.Tensor, ...]
    places: list[tuple[nn.Module, str]] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    around: set[int] = field(default_factory=set)

    @property
    def is_parametrized(self) -> bool:
        return bool(self.originals)


def places(slot: Slot) -> set[Place]:
    """Where a slot is held."""
    return {(id(owner), local) for owner, local in slot.places}


def slots(module: nn.Module) -> list[Slot]:
    """The distinct parameters of a model in the order of ``named_parameters``, then its distinct buffers.

    A parametrised weight is one of them, in the place of its originals.
    """
    check_module(module)
    found: list[Slot] = []
    by_id: dict[int, Slot] = {}
    owned: dict[int, list[tuple[Slot, str, int]]] = {}
    with at_rest(module):
        for name, raw, ancestors in _modules(module):
            owner = ancestors[-1]
            if id(owner) not in owned:
                owned[id(owner)] = list(_held(name, ancestors, found, by_id))
            for slot, local, originals in owned[id(owner)]:
                slot.names.update((name + local, raw + local))
                for original in (f"parametrizations.{local}.{k}" for k in _original_names(originals)):
                    slot.names.update((name + original, raw + original))
                slot.around.update(map(id, ancestors))
    return sorted(found, key=lambda slot: slot.is_buffer)


def check_module(module: object) -> None:
    """Raise TypeError unless it is one."""
    if not isinstance(module, nn.Module):
        raise TypeError(f"a model is an nn.Module, not {_named(module)}")


def _named(given: object) -> str:
    """What was given in few words: of a large list its repr would be long."""
    kind = type(given).__name__
    return repr(given) if given is None or isinstance(given, type) else f"{kind} {given!r:.40}"


def _held(
    name: str, ancestors: tuple[nn.Module, ...], found: list[Slot], by_id: dict[int, Slot]
) -> Iterator[tuple[Slot, str, int]]:
    """(slot, local name, how many originals) of what a module holds; slots not met before are added."""
    owner = ancestors[-1]
    for local, tensor, is_buffer, originals in _own(owner, name):
        # A parametrised weight is computed anew each time that it is looked at.
        held = originals or (tensor,)
        slot = next((by_id[id(x)] for x in held if id(x) in by_id), None)
        if slot is None:
            slot = Slot(name + local, owner, local, ancestors, tensor, is_buffer, originals)
            found.append(slot)
            by_id.update((id(x), slot) for x in held)
        if not originals:
            slot.places.append((owner, local))
        elif not slot.originals:  # a plain one is what this one is computed from
            each: Any = owner.parametrizations
            computing = each[local]
            slot.places += [(computing, k) for k, p in computing._parameters.items() if p is slot.tensor]
        yield slot, local, len(originals)


def _original_names(count: int) -> list[str]:
    return ["original"] if count == 1 else [f"original{k}" for k in range(count)]


def _modules(module: nn.Module) -> Iterator[tuple[str, str, tuple[nn.Module, ...]]]:
    """(prefix without wrappers, prefix, ancestors and the module itself) of every module, in every place.

    First each in its first place, in the order of ``named_modules``; then those that were met again, and
    what is inside of them.
    """
    places: deque[tuple[str, str, tuple[nn.Module, ...]]] = deque([("", "", (module,))])
    most, count = 0, 0
    while places and (count < most or not most):
        walked: set[int] = set()
        pending = [places.popleft()]
        while pending:
            name, raw, ancestors = pending.pop()
            owner = ancestors[-1]
            if id(owner) in walked:
                if not most or len(places) < most:
                    places.append((name, raw, ancestors))
                continue
            walked.add(id(owner))
            count += 1
            yield name, raw, ancestors
            children: list[tuple[str, str, tuple[nn.Module, ...]]] = []
            for local, child in owner._modules.items():
                if child is not None and child not in ancestors:
                    inner = name if _wraps(owner, local) else f"{name}{local}."
                    children.append((inner, f"{raw}{local}.", (*ancestors, child)))
            pending.extend(reversed(children))
        most = most or max(_MOST_PLACES, _PLACES_A_MODULE * count)


def _wraps(owner: nn.Module, local: str) -> bool:
    return local in _WRAPPED or (local == "module" and isinstance(owner, _WRAPPERS))


def _own(owner: nn.Module, prefix: str) -> Iterator[tuple[str, torch.Tensor, bool, tuple[torch.Tensor, ...]]]:
    """(local name, tensor, whether it is a buffer, a parametrised one's originals) of a module's own."""
    computes = isinstance(owner, parametrize.ParametrizationList)
    for local, parameter in owner._parameters.items():
        if parameter is not None and not (computes and local.startswith("original")):
            yield local, parameter, False, ()
    if parametrize.is_parametrized(owner):
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
def at_rest(module: nn.Module) -> Iterator[None]:
    """Parametrised weights can be looked at without a trace: in training, spectral_norm takes a step.

    They are what they are outside of autocast, which may compute them in another dtype.
    """
    lists = [m for m in module.modules() if isinstance(m, parametrize.ParametrizationList)]
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
    axes = module_axes(slot.owner, slot.name, slot.tensor.shape)
    if axes is None:
        owner, shape = type(slot.owner).__name__, tuple(slot.tensor.shape)
        raise ValueError(f"which dimensions of {owner}'s {shape} fan in is not known: give axes=")
    return axes


def select(found: Iterable[Slot], selection: Selection, what: str) -> set[Slot]:
    """The slots that a selection names: by qualified names, globs, names of modules, or modules.

    Raises:
        ValueError: something selects nothing; the message lists it.
    """
    entries: list[Any] = [selection] if isinstance(selection, (str, nn.Module)) else list(selection)
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
