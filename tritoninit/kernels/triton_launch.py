"""Launching again what Triton has compiled, without asking anew which kernel the arguments are for.

Triton's launcher finds that out by a look at every argument, which takes longer than all else that a small
fill does. Our kernels' numbers have the types that their annotations say, whatever the numbers are, so that
little decides; of this who launches makes the kind. What ``kernel[grid](...)`` returns is launched by
``compiled[grid](...)``, which takes the constants, too, as Triton's tutorials have it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

import torch
import triton
from triton.compiler import CompiledKernel

# The kernel, the device's number, and what else decides which of its compiled forms is launched.
Kind: TypeAlias = tuple[Any, ...]

_COMPILED: dict[Kind, CompiledKernel] = {}


_NOTHING = nullcontext()


def on_device(tensor: torch.Tensor) -> AbstractContextManager[object]:
    """With a tensor's device the current one, which it mostly is: to enter one takes longer than to ask."""
    device = tensor.get_device()  # -1 of the CPU, where the interpreter runs
    return _NOTHING if device < 0 or device == torch.cuda.current_device() else torch.cuda.device(device)


def again(kind: Kind, grid: int, *arguments: Any) -> bool:
    """Launch what was compiled for a kind, on the current device and stream; False if there is none.

    Args:
        kind: the kernel, and all that decides.
        grid: how many programs.
        arguments: all of the kernel's, the constants among them, in order.
    """
    compiled = _COMPILED.get(kind)
    if compiled is None:
        return False
    compiled[grid, 1, 1](*arguments)
    return True


def first(kind: Kind, grid: int, arguments: tuple[Any, ...], options: Mapping[str, Any]) -> None:
    """Launch by Triton's launcher, and remember what it has compiled.

    For ROCm it compiles by how large a tensor is, too: nothing is remembered. Nor is what only stands for a
    kernel.
    """
    kernel = kind[0]
    compiled = kernel[(grid,)](*arguments, **options)
    known = isinstance(kernel, triton.JITFunction) and isinstance(compiled, CompiledKernel)
    if known and torch.version.hip is None:
        _COMPILED[kind] = compiled
