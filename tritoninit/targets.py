"""What may be filled: torch tensors, NumPy arrays, and anything that speaks DLPack."""

from __future__ import annotations

from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

LAZY = "a lazy parameter has no shape yet: run a forward pass first"

Target: TypeAlias = "torch.Tensor | npt.NDArray[Any]"


class TargetError(ValueError, RuntimeError):
    """A tensor cannot be written. Also a RuntimeError, which is what PyTorch raises."""


def as_target(x: Any) -> Target:
    """``x`` itself, or a torch tensor over the same memory where ``x`` is another library's array.

    Raises:
        TypeError: ``x`` is no tensor.
        TargetError: it is a meta tensor, a lazy parameter, sparse, read-only, an inference tensor outside
            inference mode, or its elements overlap.
    """
    if isinstance(x, torch.Tensor):
        _check_tensor(x)
        return x
    if isinstance(x, np.ndarray):
        if not x.flags.writeable:
            raise TargetError("the array is read-only")
        if not x.dtype.isnative:
            raise TargetError(f"the array's byte order is not this machine's: {x.dtype}")
        _check_overlap(x.shape, [stride // x.itemsize for stride in x.strides])
        return x
    if hasattr(x, "__dlpack__"):
        return as_target(torch.utils.dlpack.from_dlpack(x))
    raise TypeError(f"expected a tensor or an array, not {type(x).__name__}")


def _check_tensor(x: torch.Tensor) -> None:
    if type(x) is not torch.Tensor:
        if torch.nn.parameter.is_lazy(x):
            raise TargetError(LAZY)
        if hasattr(x, "__tensor_flatten__"):  # the mark of a subclass that holds others, such as DTensor
            raise TargetError(f"a {type(x).__name__} holds other tensors: fill those, each with its window")
    if x.layout is not torch.strided:
        raise TargetError(f"only strided tensors can be filled, not {x.layout}")
    if x.is_meta:
        raise TargetError("a meta tensor has no memory to fill: materialise it first (Module.to_empty)")
    if x.is_neg() or x.is_conj():
        raise TargetError("the tensor is a lazy negation or conjugate view: call resolve_neg or resolve_conj")
    if x.is_inference() and not torch.is_inference_mode_enabled():
        raise TargetError("an inference tensor cannot be changed outside inference mode: clone it first")
    if not x.is_contiguous():
        _check_overlap(x.shape, x.stride())


def _check_overlap(shape: tuple[int, ...], strides: list[int] | tuple[int, ...]) -> None:
    """Raise TargetError unless every element has memory of its own."""
    if 0 in shape:
        return
    reach = 1
    for stride, size in sorted((abs(s), n) for s, n in zip(strides, shape, strict=True) if n > 1):
        if stride < reach:
            break
        reach += stride * (size - 1)
    else:
        return
    # Dimensions interleave: rare, so decided by looking at every address.
    addresses = np.zeros(shape, np.int64)
    for axis, (size, stride) in enumerate(zip(shape, strides, strict=True)):
        steps = np.arange(size, dtype=np.int64) * stride
        addresses += steps.reshape([-1 if d == axis else 1 for d in range(len(shape))])
    if np.unique(addresses).size != addresses.size:
        raise TargetError(
            "more than one element of the tensor refers to the same memory (expanded?): clone it first"
        )


def dtype_name(target: Target) -> str:
    """The element type as NumPy and PyTorch both call it: "float32", "bfloat16", ..."""
    return _name(target.dtype)


@cache
def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def device_type(target: Target) -> str:
    if isinstance(target, torch.Tensor) and not target.is_cpu:  # its device takes four times as long
        return target.device.type
    return "cpu"


class _Memory:
    """Memory that NumPy makes an array of.

    ``Tensor.numpy()`` would do that, too, but forbids the tensor's storage to be resized from then on.
    """

    def __init__(self, tensor: torch.Tensor, typestr: str) -> None:
        strides = None if tensor.is_contiguous() else tuple(s * tensor.itemsize for s in tensor.stride())
        self.owner = tensor
        self.__array_interface__ = {
            "version": 3,
            "shape": tuple(tensor.shape),
            "typestr": typestr,
            # Where an empty tensor is, which is at no address, NumPy before 2.4 wants one all the same.
            "data": (tensor.data_ptr() or tensor.itemsize, False),
            "strides": strides,
        }


_TYPESTR = {
    torch.float32: np.dtype(np.float32).str,
    torch.float16: np.dtype(np.float16).str,
    torch.bfloat16: np.dtype(np.uint16).str,
}


def as_array(target: Target) -> npt.NDArray[Any]:
    """A NumPy view of CPU memory; bfloat16 as the uint16 patterns, which NumPy has no type for."""
    if isinstance(target, torch.Tensor):
        typestr = _TYPESTR.get(target.dtype)
        if typestr is None:
            return target.detach().numpy()
        return np.asarray(_Memory(target, typestr))
    array = np.asarray(target)  # a subclass, such as np.matrix, may index in its own way
    return array.view(np.uint16) if dtype_name(target) == "bfloat16" else array


def write(target: Target, values: torch.Tensor) -> None:
    """Copy ``values`` into ``target``, of the same shape, rounding to its dtype."""
    if isinstance(target, torch.Tensor):
        with torch.no_grad():
            target.copy_(values)
    else:
        narrow = torch.bfloat16 if dtype_name(target) == "bfloat16" else values.dtype
        with np.errstate(over="ignore"):  # infinite beyond the dtype's range, as in torch
            as_array(target)[...] = as_array(values.to(device="cpu", dtype=narrow))
