"""Parameters of which this process holds a part, or nothing: the marks that other libraries leave."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from tritoninit.models.slots import Slot
from tritoninit.targets import PLACEHOLDER, LostError, TargetError, is_placeholder


def check_held(slot: Slot) -> None:
    """Raise TargetError unless what a slot holds is all of it, and stays."""
    for tensor in slot.originals or (slot.tensor,):
        if is_placeholder(tensor):
            raise LostError(PLACEHOLDER)
        if _is_fsdp_shard(tensor, slot.ancestors):
            raise TargetError(
                "a shard of FSDP's, which does not say of what: initialise before wrapping, or within"
                " FullyShardedDataParallel.summon_full_params(module)"
            )
        if getattr(tensor, "tensor_model_parallel", False) and not _is_megatron_alone(slot.owner):
            raise TargetError(
                f"Megatron's shard along dimension {getattr(tensor, 'partition_dim', '?')}, of which neither"
                " fans nor place are known here: keep it, and fill it by an initializer with its window"
            )
        if tensor.is_meta and _is_offloaded(slot.owner):
            raise LostError(
                "accelerate has offloaded it, and loads what it was before each use: initialise before"
                " dispatch_model"
            )


def _is_fsdp_shard(tensor: torch.Tensor, ancestors: Iterable[nn.Module]) -> bool:
    """Whether one of the FullyShardedDataParallel around a tensor has flattened it, and cut it."""
    for module in ancestors:
        handle: Any = vars(module).get("_handle")  # what manages a wrapper's parameters; None if it has none
        flat = getattr(handle, "flat_param", None)
        if flat is not None and "_fsdp_wrapped_module" in module._modules and handle.is_sharded(flat):
            whole = getattr(flat, "_params", None) or ()  # with use_orig_params
            if any(tensor is each for each in (flat, *whole)):
                return True
    return False


def _is_megatron_alone(owner: nn.Module) -> bool:
    """Whether Megatron marks as parallel what one process holds, all of it."""
    if getattr(owner, "tp_size", None) == 1:  # Transformer Engine's
        return True
    state = sys.modules.get("megatron.core.parallel_state")
    try:
        return state is not None and state.get_tensor_model_parallel_world_size() == 1
    except AssertionError:  # it is not initialised
        return False


def _is_offloaded(owner: nn.Module) -> bool:
    hook = getattr(owner, "_hf_hook", None)
    return any(getattr(each, "offload", False) for each in getattr(hook, "hooks", (hook,)))
