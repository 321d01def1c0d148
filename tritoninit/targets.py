"""What may be filled: torch tensors, NumPy arrays, and anything that speaks DLPack."""

from __future__ import annotations

import ctypes
import math
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from tritoninit.extents import extent
from tritoninit.kernels.stream import FLOAT8
from tritoninit.tracing.private import is_stand_in, is_wrapped

LAZY = "a lazy parameter has no shape yet: run a forward pass first"

Target: TypeAlias = "torch.Tensor | npt.NDArray[Any]"


class TargetError(ValueError, RuntimeError):
    """A tensor cannot be written. Also a RuntimeError, which is what PyTorch raises."""


class LostError(TargetError):
    """What is written to a tensor would be lost: it is computed from others, or is a placeholder."""


class ShortError(TargetError):
    """A tensor's memory, freed or resized, ends before its elements do. Torch would write beyond it."""


class TracedError(TargetError):
    """A tensor stands for others while torch traces or transforms: operators can set it, writes cannot."""


def as_target(x: Any) -> Target:
    """``x`` itself, or a torch tensor over the same memory where ``x`` is another library's array.

    Raises:
        TypeError: ``x`` is no tensor.
        TargetError: it has no memory of its own (meta, fake, sparse, lazy, a wrapper of others, one of
            torch.func's transformations), or less than its shape says; it is read-only, quantised, nested,
            an inference tensor outside inference mode, or its elements overlap; or what is written would be
            lost, since autograd computed it.
    """
    kind = type(x)
    if (kind is torch.nn.Parameter or kind is torch.Tensor) and x.dtype in _USUAL:
        check_usual(x)
        return x  # type: ignore[no-any-return]
    if isinstance(x, torch.Tensor):
        check_tensor(x)
        return x
    if isinstance(x, np.ndarray):
        _check_array(x)
        return x
    if hasattr(x, "__dlpack__"):
        return as_target(_imported(x))
    raise TypeError(f"expected a tensor or an array, not {type(x).__name__}")


def is_usual(x: torch.Tensor) -> bool:
    """Whether it is torch's own tensor, of floating-point numbers of more than 8 bits or of integers."""
    kind = type(x)
    return (kind is torch.nn.Parameter or kind is torch.Tensor) and x.dtype in _USUAL


def check_usual(x: torch.Tensor) -> bool:
    """:func:`check_tensor` of one that :func:`is_usual`: of most, what there is to ask at once.

    Returns:
        Whether it is like most: contiguous, not empty, and none of inference mode's.
    """
    try:
        storage = x.untyped_storage()
        begin = storage.data_ptr()
        if (
            begin
            and x.is_contiguous()
            and x.data_ptr() + x.nbytes <= begin + len(storage)
            and not (x.is_nested or x.is_neg() or x.is_inference() or x.grad_fn)
        ):
            return True
    except RuntimeError:  # of which what follows knows
        pass
    check_tensor(x)
    return False


def check_tensor(x: torch.Tensor) -> None:
    """:func:`as_target` of a tensor."""
    if not check_memory(x, True):
        _check_overlap(1, x.shape, x.stride())
    if x.is_neg():
        raise TargetError(_LAZY_VIEW)
    if x.is_inference() and not torch.is_inference_mode_enabled():
        raise TargetError("an inference tensor cannot be changed outside inference mode: clone it first")
    if x.requires_grad and is_computed(x):
        raise LostError(
            "autograd computed the tensor, and what is written to it would be lost: set what it is computed"
            " from (of a parametrised weight by initialize_, or by assigning to it), or detach it"
        )


_LAZY_VIEW = "the tensor is a lazy negation or conjugate view: call resolve_neg or resolve_conj"

# Neither quantised nor complex.
_PLAIN = frozenset({torch.float32, torch.float16, torch.bfloat16, torch.float64})
_USUAL = _PLAIN | {torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool}


def check_memory(x: torch.Tensor, written: bool = False) -> bool:
    """Raise TargetError unless all elements of a tensor are numbers in memory of its own.

    If they are to be ``written``, no lazy conjugates of numbers.

    Returns:
        Whether it is contiguous.
    """
    kind = type(x)
    if kind is not torch.Tensor and kind is not torch.nn.Parameter:
        check_kind(x)
    if x.is_nested:
        raise TargetError("a nested tensor is no array of numbers")
    if x.dtype not in _PLAIN:
        if x.is_quantized:
            raise TargetError("a quantised tensor is no array of numbers")
        if written and x.is_conj():
            raise TargetError(_LAZY_VIEW)
    try:
        contiguous = x.is_contiguous()
        storage = x.untyped_storage()
        begin = storage.data_ptr()
        # Addresses, since to ask for the offset takes longer; so does the storage's nbytes.
        if begin and x.data_ptr() + (x.nbytes if contiguous else _reach(x)) <= begin + len(storage):
            return contiguous
    except RuntimeError:  # what stands for other tensors has no storage, or none with an address
        contiguous = True
    _explain_memory(x)
    return contiguous


def check_kind(x: torch.Tensor) -> None:
    """Raise TargetError if a tensor is lazy, or of a class whose elements are others', or nobody's."""
    if torch.nn.parameter.is_lazy(x):
        raise TargetError(LAZY)
    if hasattr(x, "__tensor_flatten__"):  # the mark of a subclass that holds others, such as DTensor
        raise TargetError(f"a {type(x).__name__} holds other tensors: fill those, each with its window")
    # FakeTensor's storage would warn if it was asked for its address.
    if is_stand_in(x):
        raise TracedError(_standing_for_others(x))
    if _acts_for_itself(x) and x.layout is torch.strided and x.untyped_storage().device.type == "meta":
        raise TargetError(_standing_for_others(x))


def _acts_for_itself(x: torch.Tensor) -> bool:
    """Whether its class decides what torch's operations do to it."""
    return type(x).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__


def _standing_for_others(x: torch.Tensor) -> str:
    return f"a {type(x).__name__} has no memory of its own: it stands for other tensors, or none"


def check_freed(x: torch.Tensor) -> None:
    """Raise ShortError if a tensor's memory ends before its elements do, whatever else it may be."""
    try:
        check_memory(x)
    except ShortError:
        raise
    except TargetError:
        pass


def check_memorable(x: torch.Tensor) -> None:
    """Raise TargetError unless a tensor, be it on the meta device, is of a kind that has memory elsewhere."""
    check_kind(x)
    if x.layout is not torch.strided:
        raise TargetError(f"only strided tensors can be filled, not {x.layout}")
    if _acts_for_itself(x):
        raise TargetError(_standing_for_others(x))
    try:
        x.untyped_storage()
    except RuntimeError as error:
        raise _wrapped(x) from error


def _wrapped(x: torch.Tensor) -> TargetError:
    return (TracedError if is_wrapped(x) else TargetError)(WRAPPED)


# Devices whose tensors' memory has no address here: they are copied to, by torch's own means.
_ELSEWHERE = frozenset({"lazy", "xla"})

WRAPPED = (
    "the tensor has no memory at an address: a transformation (torch.func, functionalisation) wrapped it, or"
    " it is one of autograd's immutable zeros, or an array that was exported without any"
)


PLACEHOLDER = (
    "a placeholder of DeepSpeed's ZeRO-3, whose elements lie with all ranks: gather it first"
    " (with deepspeed.zero.GatheredParameters(module.parameters(), modifier_rank=0))"
)


def _explain_memory(x: torch.Tensor) -> None:
    """Raise TargetError for a tensor that has no memory of its own, or too little; unless it needs none."""
    if x.layout is torch.strided and x.numel() == 0:
        if is_placeholder(x):
            raise LostError(PLACEHOLDER)
        if is_wrapped(x):
            raise TracedError(WRAPPED)
        return
    if x.is_meta and not _acts_for_itself(x):
        raise TargetError("a meta tensor has no memory to fill: materialise it first (Module.to_empty)")
    check_memorable(x)
    if x.device.type in _ELSEWHERE:
        return
    storage = x.untyped_storage()
    try:
        storage.data_ptr()
    except RuntimeError as error:
        raise _wrapped(x) from error
    raise ShortError(
        f"the tensor's memory ends before its elements do: its storage, of {storage.nbytes()} bytes now, was"
        " freed or resized, as FSDP does while it needs none"
    )


def _reach(x: torch.Tensor) -> int:
    """How many bytes lie between the first of a tensor's elements and the end of the last."""
    return extent(x.itemsize, x.shape, [stride * x.itemsize for stride in x.stride()])[1]


def is_placeholder(x: torch.Tensor) -> bool:
    """Whether it is what DeepSpeed's ZeRO-3 leaves of a parameter whose elements lie with all ranks."""
    whole = getattr(x, "ds_shape", None)
    return whole is not None and tuple(whole) != tuple(x.shape)


def is_computed(x: torch.Tensor) -> bool:
    """Whether autograd computed a tensor, and it is no view of what it was computed from, a leaf.

    A view has one input, and so has what that is a view of, up to the leaf, in whose memory it lies.
    """
    try:
        node = x.grad_fn
    except RuntimeError:  # one of several views made at once, of which another has been changed since
        return False
    if node is None:
        return False
    while True:
        inputs = [into for into, _ in node.next_functions if into is not None]
        if len(inputs) != 1:
            return True
        (node,) = inputs
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            return not _lies_in(x, leaf)


def _lies_in(x: torch.Tensor, leaf: torch.Tensor) -> bool:
    """Whether two tensors have their memory in common, if need be with one that the second holds."""
    for whole, other in ((leaf, x), (x, leaf)):
        if hasattr(whole, "__tensor_flatten__"):
            held = (getattr(whole, name) for name in whole.__tensor_flatten__()[0])
            return any(_lies_in(each, other) for each in held if isinstance(each, torch.Tensor))
    try:
        return x.untyped_storage().data_ptr() == leaf.untyped_storage().data_ptr()
    except RuntimeError:
        return False


# Libraries whose arrays are immutable by contract, DLPack's flag or not.
_IMMUTABLE = {"jax": "Array", "tensorflow": "Tensor"}


def _check_array(x: npt.NDArray[Any]) -> None:
    if not x.flags.writeable:
        raise TargetError("the array is read-only")
    if x.dtype.kind in "SUmM":
        raise TargetError(f"an array of {x.dtype} holds no numbers")
    if not x.dtype.isnative:
        raise TargetError(f"the array's byte order is not this machine's: {x.dtype}")
    _check_overlap(x.itemsize, x.shape, x.strides)


def _imported(x: Any) -> torch.Tensor:
    """A torch tensor over the memory of another library's array, by DLPack."""
    for library, kind in _IMMUTABLE.items():
        found = getattr(sys.modules.get(library), kind, None)
        if isinstance(found, type) and isinstance(x, found):
            raise TargetError(
                f"arrays of {library} are immutable: fill a NumPy array or a tensor, and convert it"
            )
    try:
        if _is_read_only(x):
            raise TargetError("the array is read-only")
        return torch.utils.dlpack.from_dlpack(x)
    except BufferError as error:  # how exporters say no
        raise TargetError(str(error)) from error


# In the structure that a capsule holds since DLPack 1.0: version (two uint32), context, deleter, flags.
_FLAGS_AT = 8 + 2 * ctypes.sizeof(ctypes.c_void_p)
_READ_ONLY = 1


def _is_read_only(x: Any) -> bool:
    """Whether an exporter says so, as DLPack has it since version 1.0; older ones export no such memory."""
    try:
        capsule = x.__dlpack__(max_version=(1, 0))
    except TypeError:  # it knows no versions
        return False
    address = _address(capsule)
    return bool(address and ctypes.c_uint64.from_address(address + _FLAGS_AT).value & _READ_ONLY)


def _address(capsule: Any) -> int | None:
    """Where the versioned structure lies; None of one without a version."""
    is_valid = ctypes.pythonapi.PyCapsule_IsValid
    is_valid.argtypes, is_valid.restype = (ctypes.py_object, ctypes.c_char_p), ctypes.c_int
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.argtypes, pointer.restype = (ctypes.py_object, ctypes.c_char_p), ctypes.c_void_p
    return pointer(capsule, _VERSIONED) if is_valid(capsule, _VERSIONED) else None


_VERSIONED = b"dltensor_versioned"


def _check_overlap(size: int, shape: Sequence[int], strides: Sequence[int]) -> None:
    """Raise TargetError unless every element has memory of its own: ``size`` of the units of strides."""
    if 0 in shape:
        return
    reach = size
    for stride, count in sorted((abs(s), n) for s, n in zip(strides, shape, strict=True) if n > 1):
        if stride < reach:
            break
        reach += stride * (count - 1)
    else:
        return
    begin, end = extent(size, shape, strides)
    # Dimensions interleave: rare, so decided by looking at every address, if there are enough of them at all.
    if math.prod(shape) * size > end - begin or _meet(size, shape, strides):
        raise TargetError(
            "more than one element of the tensor refers to the same memory (expanded?): clone it first"
        )


def _meet(size: int, shape: Sequence[int], strides: Sequence[int]) -> bool:
    addresses = np.zeros(shape, np.int64)
    for axis, (count, stride) in enumerate(zip(shape, strides, strict=True)):
        steps = np.arange(count, dtype=np.int64) * stride
        addresses += steps.reshape([-1 if d == axis else 1 for d in range(len(shape))])
    return bool((np.diff(np.sort(addresses, axis=None)) < size).any())


def dtype_name(target: Target) -> str:
    """The element type as NumPy and PyTorch both call it: "float32", "bfloat16", ..."""
    return _name(target.dtype)


@cache
def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def device_of(target: Target) -> torch.device:
    """Where a target's memory is."""
    return target.device if isinstance(target, torch.Tensor) else torch.device("cpu")


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
    torch.float64: np.dtype(np.float64).str,
    torch.float32: np.dtype(np.float32).str,
    torch.float16: np.dtype(np.float16).str,
    torch.bfloat16: np.dtype(np.uint16).str,
    torch.complex32: np.dtype(np.uint32).str,
    **{getattr(torch, name): np.dtype(np.uint8).str for name in FLOAT8},
}


def as_array(target: Target) -> npt.NDArray[Any]:
    """A NumPy view of CPU memory; of what NumPy has no type for (bfloat16, complex32, 8 bits) patterns."""
    if isinstance(target, torch.Tensor):
        typestr = _TYPESTR.get(target.dtype)
        if typestr is None:
            return target.detach().numpy()
        return np.asarray(_Memory(target, typestr))
    array = np.asarray(target)  # a subclass, such as np.matrix, may index in its own way
    if dtype_name(target) in FLOAT8:
        return array.view(np.uint8)
    return array.view(np.uint16) if dtype_name(target) == "bfloat16" else array


def as_parts(target: Target) -> Target:
    """A view of complex numbers as their real and imaginary parts, along a last dimension of two."""
    if isinstance(target, torch.Tensor):
        return torch.view_as_real(target.detach())
    strides = (*target.strides, target.itemsize // 2)
    return np.lib.stride_tricks.as_strided(target.real, (*target.shape, 2), strides)


def write(target: Target, values: torch.Tensor) -> None:
    """Copy ``values`` into ``target``, of the same shape, rounding to its dtype."""
    if isinstance(target, torch.Tensor):
        with torch.no_grad():
            target.copy_(values)
    else:
        name = dtype_name(target)
        narrow = getattr(torch, name) if name == "bfloat16" or name in FLOAT8 else values.dtype
        with np.errstate(over="ignore"):  # infinite beyond the dtype's range, as in torch
            as_array(target)[...] = as_array(values.to(device="cpu", dtype=narrow))
