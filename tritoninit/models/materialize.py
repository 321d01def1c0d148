"""Memory for models: parameters leave the meta device or move, modules compute buffers that lie on it."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import product
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from tritoninit.distributed.held import is_dtensor, writable
from tritoninit.models import methods
from tritoninit.models.methods import Call
from tritoninit.models.slots import Slot
from tritoninit.targets import write

# Whose block makes random numbers come of a name.
DrawnFrom: TypeAlias = Callable[[str], AbstractContextManager[object]]

# How modules say that they can compute their buffers anew; the last two are timm's.
_BUFFER_METHODS = (
    *("reset_buffers", "rope_init", "reset_parameters"),
    *("init_non_persistent_buffers", "_init_buffers"),
)


def _fully_sharded(module: nn.Module) -> list[Any]:
    """The modules that FSDP2 (``fully_shard``) manages."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return [m for m in module.modules() if isinstance(m, fsdp.FSDPModule)] if fsdp is not None else []


def reshard(module: nn.Module) -> None:
    """Have FSDP2's modules hold their shards, not copies that a forward pass gathered and nobody keeps."""
    for each in _fully_sharded(module):
        each.reshard()


def reset_sharded(module: nn.Module) -> None:
    """Have FSDP2's modules know of new memory, which they pad and pin, and gather from.

    Now, so that what is written next is written to where it stays.
    """
    if not _fully_sharded(module):
        return
    marks = [(p, dict(vars(p))) for p in module.parameters()]  # which are exchanged, and lose what they carry
    module._apply(lambda x: x)  # type: ignore[no-untyped-call]
    for parameter, attributes in marks:
        vars(parameter).update(attributes)


def move(slot: Slot, device: torch.device | None, dtype: torch.dtype | None, *, overwritten: bool) -> None:
    """Give a slot memory on the device, in the dtype if its numbers are floats, wherever it is held.

    What is going to be ``overwritten`` is not copied; what is kept on the meta device stays there, and a
    kept buffer in its dtype. As with ``Module.to``, parameters that have memory stay the same objects.
    """
    if slot.is_parametrized:
        _move_parametrized(slot, device, dtype, overwritten=overwritten)
        return
    old = slot.tensor
    if old.is_meta and not overwritten:
        return
    new = _moved(old, device, None if slot.is_buffer and not overwritten else dtype, overwritten=overwritten)
    if new is not old:
        _put(slot, new)


def _move_parametrized(
    slot: Slot, device: torch.device | None, dtype: torch.dtype | None, *, overwritten: bool
) -> None:
    """The same of a parametrised weight: what it is computed from moves, with the buffers that compute it."""
    parametrizations: Any = slot.owner.parametrizations
    computing: nn.Module = parametrizations[slot.local]
    if any(original.is_meta for original in slot.originals):
        if not overwritten:
            return
        originals = [*computing._parameters, *computing._buffers]
        places = [(computing, name) for name in originals] + slot.places
        for original in slot.originals:
            new = _moved(original, device, dtype, overwritten=True)
            if isinstance(original, nn.Parameter):
                new = _of_kind(original, new)
            for owner, local in places:
                if getattr(owner, local) is original:
                    setattr(owner, local, new)
    computing._apply(  # type: ignore[no-untyped-call]
        lambda x: x if x.is_meta else _moved(x, device, dtype, overwritten=False)
    )
    slot.tensor = _moved(slot.tensor, device, dtype, overwritten=slot.tensor.is_meta)


def _moved(
    old: torch.Tensor, device: torch.device | None, dtype: torch.dtype | None, *, overwritten: bool
) -> torch.Tensor:
    dtype = dtype if dtype is not None and old.is_floating_point() else old.dtype
    device = old.device if device is None else device
    if (old.dtype, old.device.type) == (dtype, device.type) and device.index in (None, old.device.index):
        return old
    with torch.no_grad():
        return torch.empty_like(old, dtype=dtype, device=device) if overwritten else old.to(device, dtype)


def _put(slot: Slot, new: torch.Tensor) -> None:
    """Make ``new`` the memory of a slot: of the same object if that can be, else of one of its kind."""
    old = slot.tensor
    if isinstance(old, nn.Parameter) and (_swap(old, new) if is_dtensor(old) else _move_data(old, new)):
        return
    if isinstance(old, nn.Parameter):
        new = _of_kind(old, new)
    for owner, local in slot.places:
        setattr(owner, local, new)  # modules such as nn.LSTM keep lists of their own up to date that way
    slot.tensor = new


def _of_kind(old: nn.Parameter, new: torch.Tensor) -> torch.Tensor:
    """A parameter of the class and with the attributes of another, and the memory of ``new``."""
    parameter: torch.Tensor = torch.Tensor._make_subclass(type(old), new.detach(), old.requires_grad)
    vars(parameter).update(vars(old))
    return parameter


def _swap(parameter: torch.Tensor, new: torch.Tensor) -> bool:
    """Exchange what a DTensor is for another, as ``Module.to`` does: its data cannot be set."""
    gradient, parameter.grad = parameter.grad, None
    other = nn.Parameter(new.detach(), parameter.requires_grad)
    vars(other).update(vars(parameter))
    torch.utils.swap_tensors(parameter, other)  # type: ignore[no-untyped-call]
    if gradient is not None:
        parameter.grad = gradient.to(new.device, new.dtype)
    return True


def _move_data(parameter: torch.Tensor, new: torch.Tensor) -> bool:
    """Exchange the memory of a parameter, and of its gradient; False if torch cannot."""
    if new is parameter:
        return True
    if not torch._has_compatible_shallow_copy_type(parameter, new):
        return False
    gradient, parameter.grad = parameter.grad, None
    parameter.data = new.detach()
    if gradient is not None:
        parameter.grad = gradient.to(new.device, new.dtype)
    return True


WAY_OUT = (
    "build the model with its parameters on the meta device and its buffers real, as accelerate's"
    " init_empty_weights does"
)


def check_computable(slot: Slot, device: torch.device | None) -> None:
    """Raise ValueError unless a buffer on the meta device has a chance to be computed on ``device``."""
    if device is None:
        raise ValueError("a meta tensor has no memory: give device=")
    if not _ways(slot):
        raise ValueError(
            f"a buffer on the meta device that no rule sets and {type(slot.owner).__name__} offers no way to"
            f" compute ({', '.join(_BUFFER_METHODS)}): {WAY_OUT}"
        )


def loose_meta_tensors(module: nn.Module, found: Iterable[Slot]) -> Iterator[tuple[str, ValueError]]:
    """The meta tensors of a model that are in no slot: their names, and why they stay there."""
    known = {id(tensor) for slot in found for tensor in (slot.tensor, *slot.originals)}
    for name, parameter in module.named_parameters():
        if parameter.is_meta and id(parameter) not in known:
            yield name, ValueError("on the meta device, and what it is computed with is tied to another")
            known.add(id(parameter))
    for name in _loose(module, known):
        why = "a plain attribute on the meta device, which nobody computes anew"
        yield name, ValueError(f"{why}: {WAY_OUT}")


def _loose(module: nn.Module, known: Container[int]) -> Iterator[str]:
    """The names of meta tensors in modules' attributes, in lists and dicts too, less those with known ids."""
    seen: set[int] = set()
    for path, owner in module.named_modules():
        for name, value in vars(owner).items():
            if name not in ("_parameters", "_buffers", "_modules"):
                for inner in _meta_tensors(value, known, seen):
                    yield f"{path}.{name}{inner}" if path else f"{name}{inner}"


def _meta_tensors(value: object, known: Container[int], seen: set[int]) -> Iterator[str]:
    """Where in a value there are meta tensors, as one indexes them."""
    if isinstance(value, torch.Tensor):
        if value.is_meta and id(value) not in known:
            yield ""
    elif isinstance(value, (list, tuple, dict, set, frozenset)) and id(value) not in seen:
        seen.add(id(value))  # lists may hold themselves
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            for place in _meta_tensors(inner, known, seen):
                yield f"[{key!r}]{place}"


def _ways(slot: Slot) -> list[Call]:
    """What may compute the buffers of a slot's owner anew, in the order in which it is tried.

    The owner's own methods; then, as in transformers' models, the ``_init_weights`` of modules around it;
    then the same about the modules around it.
    """
    ways = []
    for depth in range(len(slot.ancestors), 0, -1):
        around = slot.ancestors[:depth]
        own = (methods.without_arguments(around[-1], name) for name in _BUFFER_METHODS)
        ways += [*filter(None, own), *methods.init_weights(around)]
    return list({way.identity: way for way in ways}.values())


def recompute(
    module: nn.Module, garbage: Sequence[Slot], device: torch.device | None, drawn_from: DrawnFrom
) -> None:
    """Have modules compute their buffers that lie on the meta device, and nothing else.

    What they draw comes of the name of the first buffer of each.

    Raises:
        ValueError: some were not computed; the message lists them. All are on the meta device then.
    """
    if not garbage or device is None:
        return
    before = {slot: slot.tensor for slot in garbage}
    owners: dict[int, list[Slot]] = {}
    for slot in garbage:
        owners.setdefault(id(slot.owner), []).append(slot)
    failed: list[str] = []
    try:
        with set_aside(module, device, garbage), device, torch.no_grad():
            for group in owners.values():
                failed += _compute(group, device, drawn_from)
        if failed:
            names = ", ".join(failed)
            raise ValueError(f"on the meta device, and not computed by their modules: {names}: {WAY_OUT}")
    except BaseException:
        for slot, meta in before.items():
            _put(slot, meta)
        raise


class _Twin(nn.Parameter):
    """What stands on the meta device for a tensor: it takes any memory for its own, and keeps none."""

    @property
    def data(self) -> torch.Tensor:
        return self.detach()

    @data.setter
    def data(self, memory: torch.Tensor) -> None:
        pass


class _Aside(TorchFunctionMode):
    """How meta tensors behave that stand for others.

    Whoever asks where one is wants to make others there, and is told a device that has memory. Where one is
    to change what has memory, which torch may do by doing nothing, that is an error.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self._device = device

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func == _DEVICE and args[0].is_meta:
            return self._device
        result = func(*args, **(kwargs or {}))
        given = [x for x in (*args, *(kwargs or {}).values()) if isinstance(x, torch.Tensor)]
        changed = given[:1] if func == torch.Tensor.__setitem__ else [x for x in given if x is result]
        if changed and not changed[0].is_meta and any(x.is_meta for x in given):
            raise RuntimeError("it is computed from another parameter or buffer")
        return result


_DEVICE: Any = torch.Tensor.device.__get__


@contextmanager
def set_aside(module: nn.Module, device: torch.device, others: Sequence[Slot] = ()) -> Iterator[None]:
    """A model's tensors, but for others, are meta tensors, and say that they are on the device.

    To reset them costs and changes nothing.
    """
    left = {id(slot.tensor) for slot in others}
    held: list[dict[str, Any]] = [h for m in module.modules() for h in (m._parameters, m._buffers)]
    kept = [(h, dict(h)) for h in held]
    for entries, _ in kept:
        for name, tensor in entries.items():
            if tensor is not None and id(tensor) not in left and not nn.parameter.is_lazy(tensor):
                entries[name] = _Twin(_without_memory(tensor), tensor.requires_grad)
                vars(entries[name]).update(vars(tensor))
    try:
        with _Aside(device):
            yield
    finally:
        for entries, originals in kept:
            ours = {name: tensor for name, tensor in entries.items() if id(originals.get(name)) in left}
            entries.clear()
            entries.update({**originals, **ours})


def _without_memory(tensor: torch.Tensor) -> torch.Tensor:
    if is_dtensor(tensor):  # whole, for code that was written for one process
        return torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
    return torch.empty_like(tensor.detach(), device="meta")


def _compute(group: Sequence[Slot], device: torch.device, drawn_from: DrawnFrom) -> list[str]:
    """Try the ways to compute the buffers of one module; the names of those that none did, and why."""
    shared = {slot: slot.tensor for slot in group if is_dtensor(slot.tensor)}
    for slot in group:
        _put(slot, torch.empty_like(_without_memory(slot.tensor), device=device))
    missing, why = list(group), ""
    for way, mark in product(_ways(group[0]), (0, 1)):
        marks = {slot: _marked(slot.tensor, mark) for slot in missing}
        try:
            with drawn_from(group[0].name):
                way()
        except Exception as error:  # noqa: BLE001 - of a module's own code, and the next way may do
            why = f" ({type(error).__name__}: {error})"
            continue
        missing = [slot for slot in missing if not _is_computed(slot, *marks[slot])]
        if not missing:
            break
    for slot in group:
        now = slot.owner._buffers.get(slot.local)
        if slot not in missing and now is not None and now is not slot.tensor:
            _put(slot, now.to(device))
        if slot in shared:
            _put(slot, _part_of(slot.tensor, torch.empty_like(shared[slot], device=device)))
    return [f"{slot.name}{why}" for slot in missing]


def _part_of(whole: torch.Tensor, shared: torch.Tensor) -> torch.Tensor:
    """A DTensor with this process's part of what it computed, all of it."""
    for part, window in writable(shared).parts:
        places = zip(window.offsets, part.shape, strict=True)
        write(part, whole[tuple(slice(offset, offset + size) for offset, size in places)])
    return shared


def _marked(empty: torch.Tensor, mark: int) -> tuple[torch.Tensor, int]:
    """Memory that shows whether it is written; one of two marks at least is not what is written there."""
    empty.fill_(math.nan if empty.is_floating_point() else mark)
    return empty.clone(), empty._version


def _is_computed(slot: Slot, before: torch.Tensor, version: int) -> bool:
    now = slot.owner._buffers.get(slot.local)
    if now is None or now.is_meta or now is not slot.tensor or now._version != version:
        return now is not None and not now.is_meta
    unchanged = (
        now.isnan() if now.is_floating_point() else now == before
    )  # by way of .data, which counts nothing
    return not bool(unchanged.all())
