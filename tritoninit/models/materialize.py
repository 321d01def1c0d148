"""Memory for models: parameters leave the meta device or move, modules compute buffers that lie on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import nn

from tritoninit.models.slots import Slot

# Whose block makes random numbers come of a name.
DrawnFrom: TypeAlias = Callable[[str], AbstractContextManager[object]]

# How modules say that they can compute their buffers anew.
_BUFFER_METHODS = ("reset_buffers", "rope_init", "reset_parameters")


def move(slot: Slot, device: torch.device | None, dtype: torch.dtype | None, *, overwritten: bool) -> None:
    """Give a slot memory on the device, in the dtype if its numbers are floats, wherever it is held.

    What is going to be ``overwritten`` is not copied; what is kept on the meta device stays there, and a
    kept buffer in its dtype. As with ``Module.to``, parameters that have memory stay the same objects.
    """
    if slot.is_parametrized:
        if not any(original.is_meta for original in slot.originals):
            parametrizations: Any = slot.owner.parametrizations
            parametrizations[slot.local].to(device, dtype)  # the buffers that it computes with, too
            with torch.no_grad():
                slot.tensor = slot.tensor.to(device, dtype)
        return
    old = slot.tensor
    if old.is_meta and not overwritten:
        return
    new = _moved(old, device, None if slot.is_buffer and not overwritten else dtype, overwritten=overwritten)
    if new is not old:
        _put(slot, new)


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
    if isinstance(old, nn.Parameter) and _move_data(old, new):
        return
    if isinstance(old, nn.Parameter):
        attributes = dict(vars(old))
        new = torch.Tensor._make_subclass(type(old), new.detach(), old.requires_grad)
        vars(new).update(attributes)
    for owner, local in slot.places:
        setattr(owner, local, new)  # modules such as nn.LSTM keep lists of their own up to date that way
    slot.tensor = new


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


def check_computable(slot: Slot, device: torch.device | None) -> None:
    """Raise ValueError unless a buffer on the meta device has a chance to be computed on ``device``."""
    if device is None:
        raise ValueError("a meta tensor has no memory: give device=")
    if not _ways(slot):
        raise ValueError(
            f"a buffer on the meta device that no rule sets and {type(slot.owner).__name__} offers no way to"
            f" compute ({', '.join(_BUFFER_METHODS)})"
        )


def _ways(slot: Slot) -> list[Callable[[], object]]:
    """What may compute the buffers of a slot's owner anew, in the order in which it is tried.

    The owner's own methods; then, as in transformers' models, the ``_init_weights`` of modules around it.
    """
    own = [f for name in _BUFFER_METHODS if callable(f := getattr(slot.owner, name, None))]
    outer = [f for m in reversed(slot.ancestors) if callable(f := getattr(m, "_init_weights", None))]
    return [*own, *(partial(f, slot.owner) for f in outer)]


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
        with _set_aside(module, garbage), device, torch.no_grad():
            for group in owners.values():
                failed += _compute(group, device, drawn_from)
        if failed:
            raise ValueError(f"on the meta device, and not computed by their modules: {', '.join(failed)}")
    except BaseException:
        for slot, meta in before.items():
            _put(slot, meta)
        raise


@contextmanager
def _set_aside(module: nn.Module, garbage: Sequence[Slot]) -> Iterator[None]:
    """All other tensors of the model are meta tensors meanwhile: to reset them costs and changes nothing."""
    left = {id(slot.tensor) for slot in garbage}
    held: list[dict[str, Any]] = [h for m in module.modules() for h in (m._parameters, m._buffers)]
    kept = [(h, dict(h)) for h in held]
    for entries, _ in kept:
        for name, tensor in entries.items():
            if tensor is not None and id(tensor) not in left and not nn.parameter.is_lazy(tensor):
                empty = torch.empty_like(tensor, device="meta")
                is_parameter = isinstance(tensor, nn.Parameter)
                entries[name] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
    try:
        yield
    finally:
        for entries, originals in kept:
            ours = {name: tensor for name, tensor in entries.items() if id(originals.get(name)) in left}
            entries.clear()
            entries.update({**originals, **ours})


def _compute(group: Sequence[Slot], device: torch.device, drawn_from: DrawnFrom) -> list[str]:
    """Try the ways to compute the buffers of one module; the names of those that none did, and why."""
    for slot in group:
        _put(slot, torch.empty_like(slot.tensor, device=device))
    empty = {slot: (slot.tensor, slot.tensor._version) for slot in group}
    missing, why = list(group), ""
    for way in _ways(group[0]):
        try:
            with drawn_from(group[0].name):
                way()
        except Exception as error:  # noqa: BLE001 - of a module's own code, and the next way may do
            why = f" ({type(error).__name__}: {error})"
            continue
        missing = [slot for slot in group if not _is_computed(slot, *empty[slot])]
        if not missing:
            break
    for slot in group:
        now = slot.owner._buffers.get(slot.local)
        if slot not in missing and now is not None and now is not slot.tensor:
            _put(slot, now.to(device))
    return [f"{slot.name}{why}" for slot in missing]


def _is_computed(slot: Slot, empty: torch.Tensor, version: int) -> bool:
    now = slot.owner._buffers.get(slot.local)
    return now is not None and not now.is_meta and (now is not empty or now._version != version)
