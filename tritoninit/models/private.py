"""What of torch's FSDP1 (``FullyShardedDataParallel``) is needed here and not promised."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import nn

from tritoninit.models.shards import Shard, unknown_part
from tritoninit.windows import Windows


class Flattened(NamedTuple):
    """A parameter that FSDP1 holds within a flat one.

    Attributes:
        places: every (module, local name) that held it.
        tensor: the part of it that is here: the parameter itself, where FSDP shows it, or a view.
        shard: which part that is.
        is_shown: whether it is a parameter of its modules (``use_orig_params``).
    """

    places: list[tuple[nn.Module, str]]
    tensor: torch.Tensor
    shard: Shard
    is_shown: bool


def _handles(modules: Iterable[nn.Module]) -> Iterator[tuple[nn.Module, Any]]:
    """FSDP1's wrappers among a model's modules, and what manages the parameters of each."""
    if "torch.distributed.fsdp" not in sys.modules:
        return
    for wrapper in modules:
        if "_fsdp_wrapped_module" in wrapper._modules:
            handle: Any = vars(wrapper).get("_handle")
            if hasattr(handle, "flat_param"):
                yield wrapper, handle


def flattened(modules: Iterable[nn.Module]) -> list[Flattened]:
    """The parameters of a model's modules of which FSDP1 holds the elements in flat ones."""
    found: list[Flattened] = []
    for wrapper, handle in _handles(modules):
        flat = handle.flat_param
        shown = getattr(flat, "_params", None)
        registered = wrapper._modules["_fsdp_wrapped_module"]._parameters  # type: ignore[union-attr]
        if handle.is_sharded(flat) or (shown is None and "_flat_param" in registered):
            found += _within(flat, shown, handle.is_sharded(flat))
    return found


def _within(flat: Any, shown: Any, is_sharded: bool) -> Iterator[Flattened]:
    memory = flat.detach()
    ranges = _ranges_of_shard(flat) if is_sharded else _ranges(flat)
    for number, (at, begin, end) in enumerate(ranges):
        name, owner, _ = flat._param_infos[number]
        places = [(owner, name)]
        places += [
            (other, local)
            for local, other, _, first, of, _ in flat._shared_param_infos
            if (of, first) == (owner, name)
        ]
        tensor = memory[at : at + end - begin] if shown is None else shown[number]
        # A DTensor within has an extension; what is not in row-major order is flattened as it lies in memory.
        plain = flat._param_extensions[number] is None and flat._contiguities[number]
        shape = tuple(flat._shapes[number])
        shard = (
            Shard(parts=Windows.flat(shape, begin, end)) if plain else unknown_part(shape, memory, _UNKNOWN)
        )
        yield Flattened(places, tensor, shard, shown is not None)


_UNKNOWN = (
    "a shard of FSDP's, of a DTensor or of what does not lie row by row, and so not known here: initialise"
    " before wrapping, or within FullyShardedDataParallel.summon_full_params(module)"
)


def _ranges_of_shard(flat: Any) -> Iterator[tuple[int, int, int]]:
    """Of each parameter, where it begins in the shard, and which of its elements are there."""
    for inside, at, _, begin, last in flat._shard_param_infos:
        yield (at, begin, last + 1) if inside else (0, 0, 0)


def _ranges(flat: Any) -> Iterator[tuple[int, int, int]]:
    """The same where all elements are there."""
    begins = accumulate(flat._numels_with_padding, initial=0)
    sized = zip(begins, flat._numels_with_padding, flat._is_padding_mask, strict=False)
    yield from ((at, 0, count) for at, count, is_padding in sized if not is_padding)


def reshard_flattened(modules: Iterable[nn.Module]) -> None:
    """Have FSDP1 hold its shards, and no copies that a forward pass gathered: it would go on with those."""
    for _, handle in _handles(modules):
        gathered = getattr(handle.flat_param, "_full_param_padded", None)
        if gathered is not None and handle.uses_sharded_strategy and handle._training_state.name == "IDLE":
            handle.reshard(True)
            handle.post_reshard()
