"""What a call of torch's functions does with memory, and which of its arguments can be served."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tritoninit.distributed.held import is_dtensor
from tritoninit.interception import private
from tritoninit.targets import is_placeholder


def _functions(*names: str) -> set[Any]:
    """What TorchFunctionMode gets for methods, attributes and functions of these names, in any torch."""
    found = set()
    for name in names:
        attribute: Any = getattr(Tensor, name, None)
        getter = isinstance(attribute, property) or inspect.isgetsetdescriptor(attribute)
        found |= {attribute.__get__ if getter else attribute, getattr(torch, name, None)}
    return found - {None}


def _setters(*names: str) -> set[Any]:
    return {getattr(Tensor, name).__set__ for name in names}


# What makes others of a tensor's metadata.
_MAKERS = _functions(
    *("empty_like", "zeros_like", "ones_like", "full_like"),
    *("new_empty", "new_zeros", "new_ones", "new_full"),
)

# What reads no element.
_METADATA = (
    _MAKERS
    | _setters("requires_grad", "grad")
    | _functions(
        *("size", "shape", "dim", "ndim", "ndimension", "numel", "nelement", "__len__", "stride"),
        *("storage_offset", "element_size", "itemsize", "nbytes", "dtype", "device", "get_device", "layout"),
        *("names", "has_names", "name", "is_contiguous", "is_floating_point", "is_complex", "is_signed"),
        *("is_inference", "is_conj", "is_neg", "is_cpu", "is_cuda", "is_xpu", "is_mps", "is_meta"),
        *("is_sparse", "is_sparse_csr", "is_quantized", "is_nested", "is_mkldnn", "is_shared", "is_pinned"),
        *("requires_grad", "requires_grad_", "is_leaf", "grad", "grad_fn", "grad_dtype", "retains_grad"),
        *("output_nr", "detach_", "register_hook", "register_post_accumulate_grad_hook", "__hash__"),
        *private.READING_NOTHING,
    )
)

# What returns the same memory, seen again when it is used.
_VIEWS = _functions(
    *("data", "detach", "view", "t", "T", "mT", "transpose", "permute", "swapaxes", "swapdims", "movedim"),
    *("moveaxis", "select", "narrow", "chunk", "split", "split_with_sizes", "tensor_split", "unbind"),
    *("squeeze", "unsqueeze", "expand", "diagonal", "unfold", "as_strided", "unflatten", "__iter__"),
)
_VIEWS_OF_CONTIGUOUS = _functions("reshape", "flatten", "ravel", "contiguous")  # of other tensors, copies

# What shows the same memory as a tensor of no history: what autograd computed looks like any other then.
WITHOUT_HISTORY = _functions("data", "detach")

# What hands the memory to code that nobody here sees read or write it.
HANDED_OUT = _functions(
    *("numpy", "__array__", "__dlpack__", "__cuda_array_interface__", "data_ptr", "const_data_ptr"),
    *("untyped_storage", "storage", "share_memory_", *private.HANDING_OUT),
)

# What copies a tensor's elements into another of the same shape, or, the last, into its first argument.
COPIES = _functions(
    *("clone", "__deepcopy__", "contiguous", "to", "type", "float", "half", "bfloat16", "cpu", "cuda"),
)
INTO = _functions("copy_")

# What leaves nothing of what its first argument held.
OVERWRITES = INTO | _functions(
    *("fill_", "zero_", "normal_", "uniform_", "random_", "bernoulli_", "exponential_", "log_normal_"),
    *("cauchy_", "geometric_"),
)

SETS_DATA = _setters("data")

# What sets no element, whatever it returns: the same memory, or what is known of it.
SETS_NOTHING = (_METADATA - _MAKERS) | _VIEWS | SETS_DATA

# What has no use for random numbers, of what is called most: the generators need no look. One that is missing
# here takes longer.
NEVER_DRAWS = (
    _METADATA
    | _VIEWS
    | _VIEWS_OF_CONTIGUOUS
    | HANDED_OUT
    | COPIES
    | INTO
    | SETS_DATA
    | _functions(
        *("empty", "zeros", "ones", "full", "arange", "linspace", "logspace", "eye", "empty_strided"),
        *("tensor", "as_tensor", "asarray", "from_numpy", "frombuffer", "scalar_tensor", "is_tensor"),
        *("fill_", "zero_", "add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_", "pow", "pow_"),
        *("neg", "exp", "log", "sqrt", "rsqrt", "sin", "cos", "erfinv", "erfinv_", "clamp", "clamp_"),
        *("__getitem__", "__setitem__", "cat", "stack", "outer", "matmul", "mm", "mv", "where"),
        *("masked_fill"),
        *("item", "tolist", "__repr__", "__format__", "__bool__", "__int__", "__float__", "sum", "mean"),
        *("equal", "eq", "ne", "lt", "le", "gt", "ge", "__eq__", "any", "all", "max", "min", "numpy"),
        *("isnan", "isfinite", "isinf", "allclose", "repeat", "tril", "triu", "backward"),
    )
)

# What types do whose operations torch's functions do alone.
_PLAIN = (Tensor.__torch_function__, nn.Parameter.__torch_function__)


def tensors_among(*values: Any) -> list[Tensor]:
    """The tensors among arguments, however they are nested."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple, set, frozenset)):
            found += tensors_among(*value)
        elif isinstance(value, dict):
            found += tensors_among(*value.values())
        elif isinstance(value, slice):
            found += tensors_among(value.start, value.stop, value.step)
    return found


def reaches_further(
    function: Callable[..., Any], types: Iterable[type], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> bool:
    """Whether a call may read or change tensors that are not among its arguments."""
    return (
        any(kind.__torch_function__ not in _PLAIN for kind in types)  # type: ignore[attr-defined]
        or isinstance(function, private.OPERATORS)
        or function is Tensor.__deepcopy__  # of the gradient and the attributes, too
        or private.dispatch_modes() > 0
        or (
            function not in _METADATA
            and function not in _MAKERS
            and any(map(callable, (*args, *kwargs.values())))
        )
    )


def reads_nothing(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a function, called with one tensor, looks at its metadata only or returns a view of it."""
    if function in _METADATA or function in _VIEWS:
        return True
    if function in _VIEWS_OF_CONTIGUOUS:
        return bool(args) and not kwargs and args[0].is_contiguous()
    return function is Tensor.__getitem__ and is_basic(args[1])


def is_basic(index: Any) -> bool:
    """Whether indexing by it gives a view."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is ... or type(part) in (int, slice) for part in parts)


def is_empty(tensor: Any) -> bool:
    """Whether there is nothing to fill, and there should not be."""
    if not isinstance(tensor, Tensor) or nn.parameter.is_lazy(tensor) or tensor.is_nested:
        return False
    return 0 in tensor.shape and not is_placeholder(tensor)


def check_type(tensor: Any) -> None:
    """Raise TypeError unless ``tensor`` is torch's own kind, a parameter like that, or a DTensor."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"a {type(tensor).__name__} is no tensor")
    kind = type(tensor)
    base = nn.Parameter if issubclass(kind, nn.Parameter) else Tensor
    plain = is_dtensor(tensor) or (
        kind.__torch_function__ == base.__torch_function__
        and kind.__torch_dispatch__ is Tensor.__torch_dispatch__
    )
    if not plain:
        raise TypeError(f"{kind.__name__} is a subclass with a behaviour of its own")
    if private.transforms_active():
        raise TypeError("a transformation of torch.func is at work")


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number, np.bool_))


def number(value: Any) -> Any:
    """A scalar of NumPy's, or of torch's where no gradient is to flow into it, as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Tensor):
        if value.ndim or value.requires_grad or value.is_meta:
            raise TypeError("an argument is a tensor")
        return value.item()
    return value


def describe(tensor: Any) -> str:
    """What a call was to fill, in words."""
    if not isinstance(tensor, Tensor) or nn.parameter.is_lazy(tensor) or tensor.is_nested:
        return type(tensor).__name__
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)} on {tensor.device}"
