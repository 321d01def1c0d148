"""What of torch's DTensor is needed here and not promised: it may change with any version.

The first DTensor imports this, and raises what it raises; nothing else of this library needs it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from typing import Any

import torch


def _needed(path: str) -> Any:
    """What stands there in torch.

    Raises:
        RuntimeError: nothing does.
    """
    try:
        return pkgutil.resolve_name(path)
    except (AttributeError, ImportError) as error:
        raise RuntimeError(f"DTensors need {path}, which torch {torch.__version__} does not have") from error


# How a dimension is cut that an inner dimension of the mesh has cut before: FSDP2 of tensor-parallel weights,
# and views. Its ``split_factor`` is the number of parts that there were.
StridedShard: type = _needed("torch.distributed.tensor.placement_types._StridedShard")

_local: Callable[[Any], torch.Tensor] = _needed("torch.distributed.tensor.DTensor._local_tensor").__get__
_spec: Callable[[Any], Any] = _needed("torch.distributed.tensor.DTensor._spec").__get__


def local(x: Any) -> torch.Tensor:
    """The memory behind a DTensor; ``to_local`` would have autograd know of it, or compilers."""
    return _local(x)


def shard_order(x: Any) -> dict[int, tuple[int, ...]] | None:
    """By tensor dimension, the mesh dimensions in the order in which they cut it, where torch says so."""
    order = getattr(_spec(x), "shard_order", None)
    return None if order is None else {int(dim): tuple(mesh_dims) for dim, mesh_dims in order}
