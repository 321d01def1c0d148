"""Parametrised weights: what one would be if a value were assigned to it, and the assignment itself."""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from tritoninit.auditing.moments import measure
from tritoninit.keys import Key
from tritoninit.models.slots import Place, Slot, at_rest, exactly, originals_of
from tritoninit.models.spectral import renew_vectors, torchs
from tritoninit.words import short

# Of a weight's norm, and in steps of its dtype: more than what is lost by rounding where a parametrisation
# keeps what it is given.
_ALIKE, _STEPS = 1e-3, 4


# The buffers that torch's own parametrisations have set when a weight is.
_SET_WITH = {"_SpectralNorm": ("_u", "_v"), "_Orthogonal": ("base",)}


def set_with(slot: Slot) -> set[Place]:
    """Where the buffers are that are set when a parametrised weight is; none of a plain one."""
    each = _of(slot) if slot.is_parametrized else ()
    return {(id(inner), name) for inner in each for name in _SET_WITH.get(torchs(inner), ())}


def check_invertible(slot: Slot) -> None:
    """Raise ValueError if a parametrised weight cannot be assigned to."""
    for parametrization in _of(slot):
        if not hasattr(parametrization, "right_inverse"):
            raise ValueError(f"its parametrisation {type(parametrization).__name__} has no right_inverse")


def assign(slot: Slot, value: torch.Tensor, key: Key, besides: Container[Place] = ()) -> None:
    """Make a parametrised weight of ``value``; what parametrisations draw on the way comes of the key.

    ``besides`` says where buffers are that are set otherwise. What it is computed from stays where it is, and
    others may look: torch would give it the memory of the value.
    """
    with torch.no_grad(), _by_key_alone(key, value.device):
        memory = [(x, x.data) for x in originals_of(_of(slot))]
        setattr(slot.owner, slot.local, value)
        for original, before in memory:
            if original.shape == before.shape:
                original.data = before.copy_(original)
        renew_vectors(_of(slot), key, besides)


def becomes(
    slot: Slot,
    value: torch.Tensor,
    dtype: torch.dtype | None,
    key: Key,
    besides: Container[Place] = (),
) -> str:
    """How a weight, once of ``dtype``, would differ from ``value`` if that were assigned to it; "" if not.

    It is tried out on copies, on the value's device.

    Raises:
        ValueError: it cannot be assigned, or numbers that are not finite would come back.
    """
    parametrizations = _of(slot)
    kinds = " and ".join(type(each).__name__ for each in parametrizations)
    with (
        at_rest(parametrizations),
        _on_copies(parametrizations, value.device, dtype),
        _by_key_alone(key, value.device),
    ):
        try:
            parametrizations.right_inverse(value.clone())
        except (NotImplementedError, RuntimeError, ValueError) as error:
            raise ValueError(f"its parametrisation {kinds} cannot be inverted: {error}") from error
        renew_vectors(parametrizations, key, besides)
        found = parametrizations()
    if value.isfinite().all() and not found.isfinite().all():
        raise ValueError(f"its parametrisation {kinds} makes numbers of it that are not finite")
    alike = max(_ALIKE, _STEPS * torch.finfo(value.dtype).eps) if value.is_floating_point() else _ALIKE
    if found.shape == value.shape and _distance(found, value) <= alike:
        return ""
    return f"{_moments(found)} by its parametrisation {kinds}, of {_moments(value)}"


def _of(slot: Slot) -> Any:
    lists: Any = slot.owner.parametrizations
    return lists[slot.local]


@contextmanager
def _on_copies(module: nn.Module, device: torch.device, dtype: torch.dtype | None) -> Iterator[None]:
    """What a module, or one in it, does to its tensors and attributes, it does to copies."""
    kept = [(m, dict(vars(m)), dict(m._parameters), dict(m._buffers)) for m in module.modules()]
    try:
        for m, _, parameters, buffers in kept:
            for name, parameter in parameters.items():
                if parameter is not None:
                    copy = _copied(parameter, device, dtype)
                    m._parameters[name] = nn.Parameter(copy, requires_grad=False)
            for name, buffer in buffers.items():
                if buffer is not None:
                    m._buffers[name] = _copied(buffer, device, dtype)
        yield
    finally:
        for m, attributes, parameters, buffers in kept:
            vars(m).clear()
            vars(m).update(attributes)
            m._parameters.clear()
            m._parameters.update(parameters)
            m._buffers.clear()
            m._buffers.update(buffers)


def _copied(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype | None) -> torch.Tensor:
    floats = dtype if tensor.is_floating_point() else None
    return memory_like(tensor, device, floats or tensor.dtype)


def memory_like(tensor: torch.Tensor, device: torch.device | None, dtype: torch.dtype) -> torch.Tensor:
    """A copy of a tensor on a device; zeros, which are the same each time, of one on the meta device."""
    if tensor.is_meta:
        return torch.zeros(tensor.shape, device=device, dtype=dtype)
    return tensor.detach().to(device, dtype, copy=True)


@contextmanager
def _by_key_alone(key: Key, device: torch.device) -> Iterator[None]:
    """Torch's generators of the host and of a device draw by a key, and go on as before afterwards.

    Nothing is computed in a dtype that autocast chooses.
    """
    elsewhere = device.type != "cpu"
    devices, kind = ([device], device.type) if elsewhere else ([], "cuda")
    with exactly(device.type), torch.random.fork_rng(devices, device_type=kind):
        seed = key.seed ^ key.fold_in("parametrization").stream
        torch.default_generator.manual_seed(seed)
        if elsewhere:
            torch.get_device_module(device).manual_seed(seed)
        yield


def _distance(found: torch.Tensor, value: torch.Tensor) -> float:
    """How far two tensors are apart, relative to the norm of the second."""
    difference = (found.to(torch.promote_types(value.dtype, torch.float32)) - value).norm()
    return float(difference / max(float(value.norm()), 1e-38)) if float(difference) else 0.0


def _moments(x: torch.Tensor) -> str:
    found = measure(x)
    return f"mean {short(found.mean, 3)} and std {short(found.std, 3)}"
