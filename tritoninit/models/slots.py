"""A model's parameters and buffers, once each, by names that wrappers do not change."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel

from tritoninit.fans import Axes, module_axes
from tritoninit.targets import ShortError, check_freed

# Where torch.compile, FSDP and activation checkpointing hold the module that they wrap.
_WRAPPED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
# Those whose attribute is called "module", a name that others use, too.
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)

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
        names: every qualified name, with and without what wrappers add.
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
    found: list[Slot] = []
    by_id: dict[int, Slot] = {}
    with at_rest(module):
        for name, raw, ancestors in _modules(module):
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
                    slot.places += [
                        (computing, k) for k, p in computing._parameters.items() if p is slot.tensor
                    ]
                slot.names.update((name + local, raw + local))
                for original in (f"parametrizations.{local}.{k}" for k in _original_names(originals)):
                    slot.names.update((name + original, raw + original))
                slot.around.update(map(id, ancestors))
    return sorted(found, key=lambda slot: slot.is_buffer)


def _original_names(originals: Sequence[torch.Tensor]) -> list[str]:
    return ["original"] if len(originals) == 1 else [f"original{k}" for k in range(len(originals))]


def _modules(module: nn.Module) -> Iterator[tuple[str, str, tuple[nn.Module, ...]]]:
    """(prefix without wrappers, prefix, ancestors and the module itself) of every module, in every place."""
    pending: list[tuple[str, str, tuple[nn.Module, ...]]] = [("", "", (module,))]
    while pending:
        name, raw, ancestors = pending.pop()
        yield name, raw, ancestors
        owner = ancestors[-1]
        children: list[tuple[str, str, tuple[nn.Module, ...]]] = []
        for local, child in owner._modules.items():
            if child is not None and child not in ancestors:
                inner = name if _wraps(owner, local) else f"{name}{local}."
                children.append((inner, f"{raw}{local}.", (*ancestors, child)))
        pending.extend(reversed(children))


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
            held = each._parameters | each._buffers
            originals = tuple(held[name] for name in held if name.startswith("original"))
            _check_freed(f"{prefix}{local}", originals)
            is_buffer = not isinstance(originals[0], nn.Parameter)
            yield local, _computed(owner, local, originals), is_buffer, originals
    for local, buffer in owner._buffers.items():
        if buffer is not None and not (computes and local.startswith("original")):
            yield local, buffer, True, ()


def _check_freed(name: str, originals: Iterable[torch.Tensor]) -> None:
    """Raise ShortError if what a weight is computed from cannot be read."""
    try:
        for original in originals:
            check_freed(original)
    except ShortError as error:
        raise ShortError(f"{name}: {error}") from error


def _computed(owner: nn.Module, local: str, originals: Sequence[torch.Tensor]) -> torch.Tensor:
    """A parametrised weight's value."""
    try:
        value: torch.Tensor = getattr(owner, local)
    except (TypeError, RuntimeError):
        if not originals[0].is_meta:
            raise
        return torch.empty_like(originals[0])  # torch's orthogonal is not made to be computed there
    return value


@contextmanager
def at_rest(module: nn.Module) -> Iterator[None]:
    """Parametrised weights can be looked at without a trace: in training, spectral_norm takes a step."""
    lists = [m for m in module.modules() if isinstance(m, parametrize.ParametrizationList)]
    training = [m for each in lists for m in each.modules() if m.training]
    for m in training:
        m.training = False
    try:
        with torch.no_grad():
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
    exact: dict[str, Slot] = {name: slot for slot in found for name in slot.names}
    for entry in entries:
        if isinstance(entry, nn.Module):
            matching = [slot for slot in found if id(entry) in slot.around]
        elif not isinstance(entry, str):
            raise TypeError(f"{what} takes names, globs and modules, not {entry!r}")
        elif entry in exact:
            matching = [exact[entry]]
        else:
            matching = [slot for slot in found if any(_selects(entry, name) for name in slot.names)]
        if not matching and not (isinstance(entry, str) and entry.endswith("_extra_state")):
            idle.append(type(entry).__name__ if isinstance(entry, nn.Module) else entry)
        chosen.update(matching)
    if idle:
        raise ValueError(f"{what} matches nothing in the model: {', '.join(idle)}")
    return chosen


def _selects(entry: str, name: str) -> bool:
    return fnmatchcase(name, entry) or name.startswith(f"{entry}.")
