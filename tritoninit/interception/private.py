"""What interception uses of torch that torch does not promise: it may change with any version.

The first ``intercept`` imports this, and raises what it raises; nothing else of this library needs it.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def _needed(path: str) -> Any:
    """What stands there in torch.

    Raises:
        RuntimeError: nothing does.
    """
    try:
        return pkgutil.resolve_name(path)
    except AttributeError as error:
        raise RuntimeError(
            f"intercept needs {path}, which torch {torch.__version__} does not have"
        ) from error


# Below torch's functions: what is called here is seen by no mode, and by no subclass of Tensor.
DisableTorchFunction: Callable[[], AbstractContextManager[None]] = _needed("torch._C.DisableTorchFunction")
no_dispatch: Callable[[], AbstractContextManager[None]] = _needed("torch.utils._mode_utils.no_dispatch")
outside_transforms: Callable[[], AbstractContextManager[None]] = _needed(
    "torch._functorch.pyfunctorch.temporarily_clear_interpreter_stack"
)

# Who is at work beside the caller: modes of __torch_dispatch__, the transformations of torch.func.
dispatch_modes: Callable[[], int] = _needed("torch._C._len_torch_dispatch_stack")
transforms_active: Callable[[], bool] = _needed("torch._C._are_functorch_transforms_active")

# Custom operators, whose types no public name has.
OPERATORS: tuple[type, ...] = (_needed("torch._ops.OpOverload"), _needed("torch._ops.OpOverloadPacket"))

# A tensor's count of changes.
version: Callable[[Tensor], int] = _needed("torch.Tensor._version").__get__

# A storage's address, and references that neither keep it alive nor let the address become another's.
storage_address: Callable[[torch.UntypedStorage], int] = _needed("torch._C.StorageBase._cdata").__get__
StorageWeakRef: Callable[[torch.UntypedStorage], Any] = _needed(
    "torch.multiprocessing.reductions.StorageWeakRef"
)
storage_behind: Callable[[int], torch.UntypedStorage | None] = _needed(
    "torch._C.StorageBase._new_with_weak_ptr"
)

# Where all of torch.autograd's ways to the engine meet: a function of torch.autograd.graph.
_needed("torch.autograd.graph._engine_run_backward")
ENGINE = "_engine_run_backward"

# Tensors' attributes that read no element, and one that hands the memory out. A torch without them has nobody
# who asks for them.
READING_NOTHING = ("_version", "_backward_hooks", "_base", "_is_view")
HANDING_OUT = ("_typed_storage",)


def lazy_seeds(module: Any) -> Any:
    """Where a device module keeps the latest seeds until it is initialised; None in a torch without that."""
    return getattr(module, "_lazy_seed_tracker", None)
