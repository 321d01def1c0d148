"""Which part of a parameter lies here, where that is no DTensor: what a caller, an engine or a mark says."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from tritoninit.targets import is_placeholder
from tritoninit.window import Window
from tritoninit.windows import Windows


@dataclass(frozen=True, eq=False)
class Shard:
    """Which part of a parameter this process holds, and where.

    Attributes:
        window: where what would be here without an engine lies in the whole; None if it is the whole.
        parts: where what an engine (FSDP1, ZeRO-3) left here lies in that; None if there is no engine.
        memory: which holds it; None if that is the parameter's own.
        trouble: why it cannot be set; "" if it can.
        is_unknown: whether no more is known of it than the whole's shape.
    """

    window: Window | Windows | None = None
    parts: Windows | None = None
    memory: torch.Tensor | None = None
    trouble: str = ""
    is_unknown: bool = False

    @property
    def windows(self) -> Window | Windows:
        """Where what is here lies in the whole."""
        if self.parts is None:
            assert self.window is not None
            return self.window
        return self.parts if self.window is None else self.parts.within(self.window)

    @property
    def global_shape(self) -> tuple[int, ...]:
        """The shape of the whole."""
        known = self.window or self.parts
        assert known is not None
        return known.global_shape


def shard_of(tensor: torch.Tensor, owner: nn.Module, flat: Shard | None) -> Shard | None:
    """What is known of a parameter without being told; None if it is whole, or nobody says.

    Args:
        tensor: the parameter.
        owner: the module that holds it.
        flat: what FSDP1 left of it, if it did.
    """
    engine = flat or zero_shard(tensor)
    if not is_megatrons(tensor) or is_one_of_others_experts(tensor):
        return engine
    window = megatron_window(tensor, owner, tuple(tensor.shape) if engine is None else engine.global_shape)
    if window is None:
        return engine
    return Shard(window) if engine is None else replace(engine, window=window)


def placed(shard: Shard | None, window: Window | Windows) -> Shard:
    """The same, of what lies in a window of the whole, whatever marks say."""
    return Shard(window) if shard is None else replace(shard, window=window)


def zero_shard(tensor: Any) -> Shard | None:
    """The range of elements that DeepSpeed's ZeRO-3 left here of a parameter; None if all, or none."""
    held = getattr(tensor, "ds_tensor", None)
    if held is None or not is_placeholder(tensor):
        return None
    shape = tuple(tensor.ds_shape)
    if _zero_unknown(tensor):
        return unknown_part(shape, held, zero_trouble(tensor))
    begin, end = zero_range(tensor)
    windows = Windows.flat(shape, begin, end)
    return Shard(parts=windows, memory=held.data[: end - begin], trouble=zero_trouble(tensor))


def unknown_part(shape: tuple[int, ...], memory: torch.Tensor, trouble: str) -> Shard:
    """An engine's part of a tensor, of which no more is known than the whole's shape."""
    nothing = memory.detach().reshape(-1)[:0]
    return Shard(parts=Windows.flat(shape, 0, 0), memory=nothing, trouble=trouble, is_unknown=True)


def zero_range(tensor: Any) -> tuple[int, int]:
    """Which elements of all, in row-major order, this rank's partition has; what follows in it is padding."""
    each = int(tensor.ds_tensor.ds_numel)
    begin = min(each * tensor.ds_process_group.rank(), int(tensor.ds_numel))
    return begin, min(begin + each, int(tensor.ds_numel))


def zero_trouble(tensor: Any) -> str:
    """Why what is written to a partition of ZeRO-3's would not stay, or would not be all; "" if it would."""
    if getattr(tensor, "ds_tensor", None) is None:
        return ""
    if getattr(tensor, "_z3_optimizer", None) is not None:
        return (
            "DeepSpeed's optimizer has a copy, and goes on from that: initialise before deepspeed.initialize"
        )
    if getattr(tensor, "ds_secondary_tensor", None) is not None:
        return "ZeRO++ has a second partition of it (hpZ): initialise without zero_hpz_partition_size"
    return _zero_unknown(tensor)


def _zero_unknown(tensor: Any) -> str:
    """Why it is not known what of a parameter ZeRO-3 has in this process's memory; "" if it is."""
    held = tensor.ds_tensor
    if hasattr(tensor, "comm"):
        return "MiCS cuts it in ways that are not known here: initialise before it is converted"
    if hasattr(held, "ds_quant_scale"):
        return "ZeRO-3 holds it quantised: initialise without quantized_nontrainable_weights"
    if getattr(held, "final_location", None) == "nvme" or held.numel() < int(held.ds_numel):
        return "ZeRO-Infinity keeps it on a disk: initialise with offload_param to the CPU, or without"
    if not hasattr(getattr(tensor, "ds_process_group", None), "rank"):
        return "ZeRO-3 does not say among which ranks it is cut"
    return ""


def is_megatrons(tensor: torch.Tensor) -> bool:
    """Whether Megatron, or Transformer Engine in its name, marked a tensor as parallel."""
    return bool(getattr(tensor, "tensor_model_parallel", False))


def is_one_of_others_experts(tensor: torch.Tensor) -> bool:
    """Whether Megatron marked it as an expert of which other ranks have others, under the same name."""
    return getattr(tensor, "allreduce", True) is False


def megatron_window(tensor: Any, owner: nn.Module, shape: tuple[int, ...]) -> Window | Windows | None:
    """Which part of the whole a tensor is by Megatron's marks; None if it is whole, or they do not tell.

    The whole is cut along ``partition_dim`` into ``partition_stride`` blocks a rank, dealt out in turn, of
    which a rank has its own one after another (``_initialize_affine_weight_cpu``, megatron.core's
    tensor_parallel.layers).
    """
    place = tensor_parallel(owner)
    dim, stride = getattr(tensor, "partition_dim", None), getattr(tensor, "partition_stride", 1)
    if place is None or not (isinstance(dim, int) and isinstance(stride, int)):
        return None
    rank, size = place
    if not (0 <= dim < len(shape) and stride >= 1) or shape[dim] % stride or size == 1:
        return None
    whole = (*shape[:dim], shape[dim] * size, *shape[dim + 1 :])
    if stride == 1:
        return Window(whole, tuple(rank * n if k == dim else 0 for k, n in enumerate(shape)))
    block = shape[dim] // stride
    begins = [(turn * size + rank) * block for turn in range(stride)]
    runs = [[(begin, begin + block) for begin in begins] if k == dim else None for k in range(len(shape))]
    return Windows.runs(whole, runs)


def tensor_parallel(owner: nn.Module) -> tuple[int, int] | None:
    """(rank, size) of the tensor-parallel group of a module's; None if nobody says."""
    group: Any = getattr(owner, "tp_group", None)
    if hasattr(group, "rank") and hasattr(group, "size"):
        return int(group.rank()), int(group.size())
    size = getattr(owner, "tp_size", None)  # Transformer Engine's, which does not tell its rank
    if size is not None:
        return (0, 1) if size == 1 else None
    state: Any = sys.modules.get("megatron.core.parallel_state")
    which = "expert_tensor_parallel" if getattr(owner, "is_expert", False) else "tensor_model_parallel"
    size_of, rank_of = (getattr(state, f"get_{which}_{what}", None) for what in ("world_size", "rank"))
    if size_of is None:
        return None
    try:
        size = int(size_of())
        return (0, 1) if size == 1 else None if rank_of is None else (int(rank_of()), size)
    except AssertionError:  # it is not initialised
        return None
