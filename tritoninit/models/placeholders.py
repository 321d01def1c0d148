"""Parameters of which this process holds a part, or nothing: the marks that other libraries leave."""

from __future__ import annotations

import torch
from torch import nn

from tritoninit.models.shards import (
    is_megatrons,
    is_one_of_others_experts,
    tensor_parallel,
    zero_range,
    zero_trouble,
)
from tritoninit.models.slots import Slot
from tritoninit.targets import PLACEHOLDER, LostError, TargetError, is_placeholder


def check_held(slot: Slot) -> None:
    """Raise TargetError unless what a slot holds, of which is known what part it is, stays."""
    if slot.shard is not None and slot.shard.trouble:
        raise LostError(slot.shard.trouble)
    if slot.is_plain and not slot.tensor.is_meta:
        return
    for tensor in slot.originals or (slot.tensor,):
        trouble = zero_trouble(tensor)
        if trouble:
            raise LostError(trouble)
        if is_placeholder(tensor) and slot.shard is None:
            raise LostError(PLACEHOLDER)
        if getattr(tensor, "_is_flat_param", False):
            raise TargetError(
                "FSDP's flat parameter, whose wrapper alone knows what lies in it: initialise the wrapper"
            )
        if slot.shard is None or slot.shard.window is None:
            _check_megatrons(slot, tensor)
        if tensor.is_meta and _is_offloaded(slot.owner):
            raise LostError(
                "accelerate has offloaded it, and loads what it was before each use: initialise before"
                " dispatch_model"
            )


def _check_megatrons(slot: Slot, tensor: torch.Tensor) -> None:
    """Raise TargetError if Megatron has a part of a tensor here, and does not say which."""
    if is_one_of_others_experts(tensor):
        raise TargetError(
            "one of Megatron's experts, of which other ranks have others by the same name: give it its own by"
            " prefix=, and say what it is by windows= (Window.whole(shape), if it is not cut)"
        )
    if is_megatrons(tensor) and tensor_parallel(slot.owner) != (0, 1):
        raise TargetError(
            f"Megatron's shard along dimension {getattr(tensor, 'partition_dim', '?')}, of which neither fans"
            " nor place are known here: keep it, give windows=, or fill it by an initializer with its window"
        )


def check_engine(slot: Slot, device: torch.device | None, dtype: torch.dtype | None) -> None:
    """Raise TargetError if an engine's memory would have to be other memory."""
    if slot.shard is None or slot.shard.parts is None:
        return
    memory = slot.memory
    other = dtype is not None and memory.is_floating_point() and memory.dtype != dtype
    if device is not None:
        moves = memory.device.type != device.type or memory.device.index not in (None, device.index)
        other = other or moves
    if other:
        raise TargetError(
            f"{memory.dtype} on {memory.device} in an engine's memory (FSDP, ZeRO-3), which decides about it:"
            " initialise without device= and dtype="
        )


def settle(slot: Slot) -> None:
    """Have ZeRO-3's partition of a parameter that is gathered hold the same: it is what stays."""
    held = getattr(slot.tensor, "ds_tensor", None)
    if held is not None and slot.memory is slot.tensor:
        begin, end = zero_range(slot.tensor)
        with torch.no_grad():
            held[: end - begin].copy_(slot.tensor.detach().reshape(-1)[begin:end])


def _is_offloaded(owner: nn.Module) -> bool:
    hook = getattr(owner, "_hf_hook", None)
    return any(getattr(each, "offload", False) for each in getattr(hook, "hooks", (hook,)))
