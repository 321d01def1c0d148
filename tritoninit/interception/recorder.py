"""Code that was never written for this library, served by it: ``with intercept(seed=0): model = Model()``.

In the block and its thread these draw from this library's stream: every ``torch.nn.init`` function, on any
tensor; ``uniform_``, ``normal_``, ``fill_``, ``zero_`` and ``x[i:j] = number`` on parameters and on what is
known to share their memory (``weight.data``, ``weight[padding_idx]``).

Fills are recorded, and run together when something first reads or changes what they fill, or at the end of
the block. One that a later fill covers, or whose tensor is gone by then, is never drawn. To torch they are
done: the version counter moves on, ``torch``'s own generators do not.

The n-th random fill, counted from 0 in the order of the calls (dropped ones too), has the key
``Key(seed).fold_in(n)``, or ``Key.from_generator(generator)`` where the call names a generator.

Limits. What does not go through torch's Python functions does not see that a fill is pending: other threads
and processes, ``torch._C.DisableTorchFunction``, C++ code that is handed a tensor (TorchScript,
DistributedDataParallel, ``to_dlpack``), pointers taken before the block, an ``UntypedStorage`` made apart
from its tensor, tangents of forward-mode autograd, pack hooks of ``saved_tensors_hooks``. Leave the block or
call :meth:`Intercepted.flush` before these, and before ``torch.compile`` runs on what is pending. Fills run
on the CUDA stream that is current then. What was taken from a parameter before the block is known to share
its memory once the parameter itself has been used in the block.

What reaches further than its arguments show has everything written first: ``backward``, functions that are
given a callable, custom operators, types with a ``__torch_function__`` of their own. Hooks that ``backward``
runs are served as other code, but at once; in the others ``torch.nn.init`` is, and methods are torch's.
Inside the transformations of ``torch.func`` every fill is torch's.
"""

from __future__ import annotations

import inspect
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from types import CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack
from torch._ops import OpOverload, OpOverloadPacket
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch

from tritoninit import registry
from tritoninit.auditing.assignments import Assignment
from tritoninit.auditing.findings import Report
from tritoninit.fills import Constant, Elementwise, Fill, Initializer, Normal, TruncatedNormal, Uniform
from tritoninit.initializers import (
    Dirac,
    Eye,
    KaimingNormal,
    KaimingUniform,
    Ones,
    Orthogonal,
    Sparse,
    XavierNormal,
    XavierUniform,
    ZeroRow,
    Zeros,
)
from tritoninit.keys import Key
from tritoninit.models.slots import slots
from tritoninit.plan import KeySource, Plan
from tritoninit.targets import Target, as_target
from tritoninit.window import Window

# torch.nn.init's functions; the deprecated spellings call these. Random ones take a generator last.
_SCHEMES: dict[str, type[Initializer]] = {
    "uniform_": Uniform,
    "normal_": Normal,
    "trunc_normal_": TruncatedNormal,
    "constant_": Constant,
    "ones_": Ones,
    "zeros_": Zeros,
    "eye_": Eye,
    "dirac_": Dirac,
    "xavier_uniform_": XavierUniform,
    "xavier_normal_": XavierNormal,
    "kaiming_uniform_": KaimingUniform,
    "kaiming_normal_": KaimingNormal,
    "orthogonal_": Orthogonal,
    "sparse_": Sparse,
}

# In-place methods, and the initializer's names for their arguments.
_METHODS: dict[Callable[..., Any], tuple[type[Initializer], dict[str, str]]] = {
    Tensor.uniform_: (Uniform, {"from": "low", "to": "high"}),
    Tensor.normal_: (Normal, {"mean": "mean", "std": "std"}),
    Tensor.fill_: (Constant, {"value": "value"}),
    torch.fill_: (Constant, {"value": "value"}),
    Tensor.zero_: (Zeros, {}),
    torch.zero_: (Zeros, {}),
}


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


# What reads no element.
_METADATA = _setters("requires_grad", "grad") | _functions(
    *("size", "shape", "dim", "ndim", "ndimension", "numel", "nelement", "__len__", "stride"),
    *("storage_offset", "element_size", "itemsize", "nbytes", "dtype", "device", "get_device", "layout"),
    *("names", "has_names", "name", "is_contiguous", "is_floating_point", "is_complex", "is_signed"),
    *("is_inference", "is_conj", "is_neg", "is_cpu", "is_cuda", "is_xpu", "is_mps", "is_meta", "is_sparse"),
    *("is_sparse_csr", "is_quantized", "is_nested", "is_mkldnn", "is_shared", "is_pinned"),
    *("requires_grad", "requires_grad_", "is_leaf", "grad", "grad_fn", "grad_dtype", "retains_grad"),
    *("output_nr", "detach_", "_version", "_backward_hooks", "register_hook", "_base", "_is_view"),
    *("register_post_accumulate_grad_hook", "__hash__", "empty_like", "zeros_like", "ones_like"),
    *("full_like", "rand_like", "randn_like", "new_empty", "new_zeros", "new_ones", "new_full"),
)

# What returns the same memory, seen again when it is used.
_VIEWS = _functions(
    *("data", "detach", "view", "t", "T", "mT", "transpose", "permute", "swapaxes", "swapdims", "movedim"),
    *("moveaxis", "select", "narrow", "chunk", "split", "split_with_sizes", "tensor_split", "unbind"),
    *("squeeze", "unsqueeze", "expand", "diagonal", "unfold", "as_strided", "unflatten", "__iter__"),
)
_VIEWS_OF_CONTIGUOUS = _functions("reshape", "flatten", "ravel", "contiguous")  # of other tensors, copies

# What hands the memory to code that nobody here sees read or write it.
_HANDED_OUT = _functions(
    *("numpy", "__array__", "__dlpack__", "__cuda_array_interface__", "data_ptr", "const_data_ptr"),
    *("untyped_storage", "storage", "_typed_storage", "share_memory_"),
)

# How initializers and checks say no; anything else is a failure.
_REFUSALS = (TypeError, ValueError, OverflowError, NotImplementedError)

# What types do whose operations torch's functions do alone.
_PLAIN = (Tensor.__torch_function__, nn.Parameter.__torch_function__)

_MOST_PENDING = 64  # on one storage: each new fill is compared with all of them


@dataclass(frozen=True)
class PassedOn:
    """A call that torch itself served: the function's name, what it was to fill, and why."""

    function: str
    target: str
    reason: str


@dataclass(frozen=True)
class _Region:
    """Where a tensor's elements, of which there is at least one, lie in their storage."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @classmethod
    def of(cls, tensor: Tensor) -> _Region:
        return cls(tensor.dtype, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()))

    @cached_property
    def bytes(self) -> tuple[int, int]:
        """First and last + 1 byte."""
        reach = 1 + sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        return self.offset * self.dtype.itemsize, (self.offset + reach) * self.dtype.itemsize

    @cached_property
    def dense(self) -> bool:
        """Whether no byte between the first and the last is another's."""
        start, stop = self.bytes
        return stop - start == torch.Size(self.shape).numel() * self.dtype.itemsize

    def covers(self, other: _Region) -> bool:
        """Whether writing this leaves nothing of ``other``; no two elements share memory."""
        (start, stop), (first, last) = self.bytes, other.bytes
        return start <= first and last <= stop and (self.dense or self == other)

    def meets(self, other: _Region) -> bool:
        """Whether the two may share memory: between the first and the last byte of each."""
        (start, stop), (first, last) = self.bytes, other.bytes
        return start < last and first < stop

    def row_of(self, other: _Region) -> int | None:
        """Which row of ``other``, along its first dimension, this is; None if it is none."""
        if self.shape not in (other.shape[1:], (1, *other.shape[1:])) or not other.shape:
            return None
        row, rest = divmod(self.offset - other.offset, other.strides[0] or 1)
        inner = self.strides[len(self.strides) - len(other.strides) + 1 :]
        return row if rest == 0 and inner == other.strides[1:] and 0 <= row < other.shape[0] else None

    def tensor(self, storage: torch.UntypedStorage) -> Tensor:
        empty = torch.empty(0, dtype=self.dtype, device=storage.device)
        return empty.set_(storage, self.offset, self.shape, self.strides)


@dataclass(frozen=True)
class _Filled:
    """A fill that was asked for; ``primitive`` is what it lowers to, None for a structured one."""

    region: _Region
    initializer: Initializer
    primitive: Fill | None
    key: Key | None
    backend: str


@dataclass(frozen=True)
class Overlaid(Initializer):
    """``scheme``, after which ``parts`` of the tensor were changed: told of, not for setting others."""

    scheme: Initializer
    parts: int

    def check(self, target: Target, window: Window) -> None:
        raise NotImplementedError(f"{self} tells what was done, not where")

    def add(self, plan: Plan, target: Target, key: KeySource, window: Window) -> None:
        self.check(target, window)


def _with_parts(
    scheme: Initializer, parts: Sequence[tuple[_Region, _Filled | None]], whole: _Region
) -> Initializer:
    """What a tensor is that was filled by ``scheme`` and then, in parts, changed again."""
    if not parts:
        return scheme
    region, filled = parts[0]
    row = region.row_of(whole)
    zeroed = filled is not None and filled.primitive == Constant(0.0)
    if len(parts) == 1 and zeroed and row is not None and isinstance(scheme, Elementwise):
        return ZeroRow(scheme, row)
    return Overlaid(scheme, len(parts))


class Intercepted:
    """What :func:`intercept` did.

    Attributes:
        key: the parent of every fill's key.
        passed_on: calls that this library would have served if it could, in order.
    """

    def __init__(self, key: Key, outer: Intercepted | None = None) -> None:
        self.key = key
        self.passed_on: list[PassedOn] = []
        self._random_fills = 0
        # By address of storage, which is no one else's while a weak reference to it lives.
        self._storages: dict[int, StorageWeakRef] = dict(outer._storages) if outer else {}
        self._parameters: set[int] = set(outer._parameters) if outer else set()
        self._handed_out: set[int] = set(outer._handed_out) if outer else set()
        self._pending: dict[int, list[_Filled]] = {}
        # The latest change of each region, oldest first; None where it was not a fill of ours. What an outer
        # intercept tells of is watched for it, too.
        self._history: dict[int, dict[_Region, _Filled | None]] = (
            {key: {} for key in outer._history} if outer else {}
        )
        self._silent = False  # torch is at work, and on its own
        self._at_once = False  # torch is at work, and calls back: nothing may stay pending
        self._closed = False

    @property
    def pending(self) -> int:
        """How many fills are recorded and not yet run."""
        return sum(map(len, self._pending.values()))

    def flush(self) -> None:
        """Run the pending fills."""
        self._run(list(self._pending))

    def assignments(self, model: nn.Module) -> tuple[Assignment, ...]:
        """How each distinct parameter was set, in the order of ``named_parameters``.

        A parameter is left out unless it was filled as a whole in the block, and not changed there by other
        means since. Changes by way of arrays, pointers, storages or types that hide it are not seen. One of
        which parts were changed again is told as :class:`ZeroRow` (an embedding's padding row) or
        :class:`Overlaid`. A fill by way of a view of another shape, such as ``weight.T``, is told as the
        primitive that it lowered to.
        """
        with torch._C.DisableTorchFunction():
            set_here = [s for s in slots(model) if not s.is_buffer and not nn.parameter.is_lazy(s.tensor)]
            told = [self._told(slot.name, slot.tensor) for slot in set_here]
        return tuple(each for each in told if each is not None)

    def report(self, model: nn.Module) -> Report:
        """The same, with the audit of the model."""
        return Report(self.assignments(model), seed=self.key.seed, module=model)

    def _told(self, name: str, parameter: Tensor) -> Assignment | None:
        here = _Region.of(parameter)
        parts: list[tuple[_Region, _Filled | None]] = []
        for region, filled in reversed(self._history.get(_storage_key(parameter) or 0, {}).items()):
            if region.covers(here):
                if filled is None:
                    return None
                initializer = filled.initializer
                if filled.primitive is not None and region != here:
                    initializer = filled.primitive
                initializer = _with_parts(initializer, parts, here)
                return Assignment(name, parameter, initializer, filled.key, filled.backend)
            if region.meets(here):
                parts.append((region, filled))
        return None

    def _resume(self, inner: Intercepted) -> None:
        """Go on where an inner intercept ended: what it filled is no longer as it was left here."""
        self._storages = {**inner._storages, **self._storages}
        self._parameters |= inner._parameters
        self._handed_out |= inner._handed_out
        for key, history in inner._history.items():
            for region in history:
                self._remember(key, region, None)

    def _initialize(
        self, name: str, original: Callable[..., Tensor], tensor: Tensor, *arguments: Any
    ) -> Tensor:
        """``torch.nn.init``'s function of that name, called with all of its arguments."""
        scheme = _SCHEMES[name]
        *numbers, generator = arguments if scheme.random else (*arguments, None)
        with torch._C.DisableTorchFunction():
            self._note(tensor)
            # Without elements nothing is drawn, and torch warns or raises as it likes.
            served = not _is_empty(tensor) and self._serve(
                f"torch.nn.init.{name}", tensor, scheme, numbers, {}, generator
            )
        if not served:
            result: Tensor = self._call(original, (tensor, *arguments), {})
            return result
        if scheme is TruncatedNormal:
            _warn_of_far_mean(*numbers)
        return tensor

    def _torch_function(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
    ) -> Any:
        """Any function of torch's, called in the block."""
        if self._silent:
            return function(*args, **kwargs)
        further = _reaches_further(function, types, args, kwargs)
        tensors = _tensors(args, kwargs)
        if not tensors and not further:
            return function(*args, **kwargs)
        with torch._C.DisableTorchFunction():
            for tensor in tensors:
                self._note(tensor)
            # With a second tensor, as in full_like(x, fill_value=y), there is something to read.
            harmless = not further and len(tensors) == 1 and _reads_nothing(function, args, kwargs)
            served = not harmless and self._serve_method(function, args, kwargs)
        if harmless:
            return function(*args, **kwargs)
        if served:
            return None if function is Tensor.__setitem__ else args[0]
        return self._call(function, args, kwargs, further=further)

    def _backward(self, engine: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Autograd's engine: it reads what was saved, adds to gradients, and calls hooks."""
        self.flush()
        with self._in_torch(calls_back=True), _Mode():
            return engine(*args, **kwargs)

    def _changed(
        self, increment_version: Callable[[Sequence[Tensor]], None], tensor: Tensor | Iterable[Tensor]
    ) -> None:
        """Code that torch does not see changes tensors, or has."""
        tensors = (tensor,) if isinstance(tensor, Tensor) else tuple(tensor)
        with torch._C.DisableTorchFunction():
            self._run_touched(tensors)
            for each in tensors:
                if (key := _storage_key(each)) in self._history:
                    self._remember(key, _Region.of(each), None)
        increment_version(tensors)

    @contextmanager
    def _in_torch(self, *, calls_back: bool) -> Iterator[None]:
        """While torch is at work: on its own, or calling code back that is to be served."""
        before = self._silent, self._at_once
        self._silent, self._at_once = not calls_back, self._at_once or calls_back
        try:
            yield
        finally:
            self._silent, self._at_once = before

    def _note(self, tensor: Tensor) -> None:
        """Remember a parameter's storage."""
        if isinstance(tensor, nn.Parameter):
            key = _storage_key(tensor)
            if key is not None and key not in self._parameters:
                self._keep_address(key, tensor)
                self._parameters.add(key)

    def _keep_address(self, key: int, tensor: Tensor) -> None:
        if key not in self._storages:
            self._storages[key] = StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]

    def _serve_method(
        self, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> bool:
        """Record an in-place method of a parameter's memory, if it is one that fills."""
        tensor = args[0] if args else None
        if not isinstance(tensor, Tensor):
            return False
        if not isinstance(tensor, nn.Parameter) and _storage_key(tensor) not in self._parameters:
            return False
        if function in _METHODS:
            scheme, names = _METHODS[function]
            numbers, named = args[1:], {names.get(name, name): value for name, value in kwargs.items()}
            generator = named.pop("generator", None)
        elif function is Tensor.__setitem__ and _is_basic(args[1]) and _is_number(args[2]):
            scheme, numbers, named, generator = Constant, args[2:], {}, None
            tensor = tensor[args[1]]
        else:
            return False
        if _is_empty(tensor):
            return False
        return self._serve(f"Tensor.{function.__name__}", tensor, scheme, numbers, named, generator)

    def _serve(
        self,
        name: str,
        tensor: Tensor,
        scheme: type[Initializer],
        numbers: Sequence[Any],
        named: Mapping[str, Any],
        generator: torch.Generator | None,
    ) -> bool:
        """Record a fill, or note why this library cannot serve it; then nothing has changed."""
        self._run_touched(_tensors(numbers, named))
        try:
            _check_type(tensor)
            if name.startswith("Tensor.") and torch.is_grad_enabled() and tensor.requires_grad:
                raise ValueError("autograd records this change")
            arguments = {key: _number(value) for key, value in named.items()}
            filled = self._filled(tensor, scheme(*map(_number, numbers), **arguments), generator)
        except _REFUSALS as error:
            self.passed_on.append(PassedOn(name, _describe(tensor), str(error)))
            return False
        self._record(tensor, filled)
        return True

    def _filled(self, tensor: Tensor, initializer: Initializer, generator: torch.Generator | None) -> _Filled:
        """Raise whatever filling could, then take the key."""
        target = as_target(tensor)
        shape = tuple(tensor.shape)
        initializer.check(target, Window.whole(shape))
        primitive = initializer.fill(shape) if isinstance(initializer, Elementwise) else None
        backend = registry.resolve(tensor.device.type).name
        key = None
        if initializer.random:
            number = self._random_fills
            key = self.key.fold_in(number) if generator is None else Key.from_generator(generator)
            self._random_fills += 1
        return _Filled(_Region.of(tensor), initializer, primitive, key, backend)

    def _record(self, tensor: Tensor, filled: _Filled) -> None:
        key = tensor.untyped_storage()._cdata
        self._keep_address(key, tensor)
        if not tensor.is_inference():
            torch._C._increment_version((tensor,))
        self._remember(key, filled.region, filled)
        kept = [each for each in self._pending.pop(key, ()) if not filled.region.covers(each.region)]
        if kept:
            self._pending[key] = kept
        if filled.primitive is None:
            self._run([key])
            with self._in_torch(calls_back=False):
                filled.initializer(tensor, key=filled.key)
            return
        pending = self._pending.setdefault(key, [])
        pending.append(filled)
        seen = self._at_once or key in self._handed_out or len(pending) > _MOST_PENDING
        # What cannot be resized is NumPy's, or another's, to look at.
        if seen or not tensor.untyped_storage().resizable():
            self._run([key])

    def _remember(self, key: int, region: _Region, filled: _Filled | None) -> None:
        history = self._history.setdefault(key, {})
        history.pop(region, None)  # so that it comes last
        history[region] = filled

    def _run(self, keys: Iterable[int]) -> None:
        """Run what is pending on these storages, as one plan; storages that are gone need none."""
        due = [key for key in keys if key in self._pending]
        if not due:
            return
        plan = Plan()
        # What is pending is real, whatever mode (FakeTensorMode, say) or transformation reigns now.
        with torch._C.DisableTorchFunction(), no_dispatch(), temporarily_clear_interpreter_stack():
            for key in due:
                storage = _storage(self._storages[key])
                if storage is not None:
                    for filled in self._pending[key]:
                        assert filled.primitive is not None
                        with registry.use_backend(filled.backend):
                            plan.add(filled.region.tensor(storage), filled.primitive, filled.key or Key(0))
            with self._in_torch(calls_back=False):
                plan.run()
        for key in due:
            del self._pending[key]

    def _run_touched(self, tensors: Iterable[Tensor]) -> None:
        """Run what is pending on the memory of tensors."""
        keys = {_storage_key(tensor) for tensor in tensors}
        self._run(self._pending if None in keys else [key for key in keys if key is not None])

    def _call(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        *,
        further: bool = False,
    ) -> Any:
        """Torch's own function, once what it may read has been written: if it reaches further, everything."""
        with torch._C.DisableTorchFunction():
            tensors = _tensors(args, kwargs)
            if further:
                self.flush()
            else:
                self._run_touched(tensors)
            keyed = [(key, tensor) for tensor in tensors if (key := _storage_key(tensor)) is not None]
            if function in _HANDED_OUT:
                self._handed_out.update(key for key, _ in keyed)
            told = [(key, tensor, _version(tensor)) for key, tensor in keyed if key in self._history]
        try:
            with self._in_torch(calls_back=further):
                return function(*args, **kwargs)
        finally:
            with torch._C.DisableTorchFunction():
                for key, tensor, version in told:
                    if version is None or tensor._version != version:
                        self._remember(key, _Region.of(tensor), None)


class _Mode(TorchFunctionMode):
    """Shows the intercept of a thread the calls of torch's functions; several do no more than one."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        intercepted = _ACTIVE.innermost()
        if intercepted is None:
            return func(*args, **(kwargs or {}))
        return intercepted._torch_function(func, types, args, kwargs or {})


class _Active(threading.local):
    """The intercepts of this thread, the innermost last. Generators may leave theirs out of order."""

    def __init__(self) -> None:
        self.stack: list[Intercepted] = []

    def innermost(self) -> Intercepted | None:
        while self.stack and self.stack[-1]._closed:
            self.stack.pop()
        return self.stack[-1] if self.stack else None


_ACTIVE = _Active()


@contextmanager
def intercept(*, seed: int | None = None) -> Iterator[Intercepted]:
    """Serve the initialization of whatever is built in the block, in this thread; see the module's docstring.

    Of nested intercepts the inner one serves, with its own seed and count; entering it runs what the outer
    one has pending. If the block raises, what is pending is run all the same.

    Args:
        seed: 64 bits; drawn from PyTorch's default CPU generator if None.

    What this library cannot serve (float64, meta tensors, subclasses of Tensor, arguments that make no
    sense, ...) goes to torch unchanged, errors included, and is listed in ``passed_on``.

    >>> with intercept(seed=0) as intercepted:
    ...     linear = nn.Linear(3, 2)
    >>> [(each.name, each.key == Key(0).fold_in(n)) for n, each in enumerate(intercepted.assignments(linear))]
    [('weight', True), ('bias', True)]
    """
    override = os.environ.get(registry.ENVIRONMENT_VARIABLE)
    if override:
        registry.get(override)  # unknown, it would have every fill passed on
    outer = _ACTIVE.innermost()
    if outer is not None:
        outer.flush()
    intercepted = Intercepted(Key.from_generator() if seed is None else Key(seed), outer)
    with _routes.installed(), _Mode():
        _ACTIVE.stack.append(intercepted)
        try:
            yield intercepted
        finally:
            intercepted._closed = True
            intercepted.flush()
            if outer is not None:
                outer._resume(intercepted)


class _Routes:
    """The ways from torch's functions to :func:`_route`.

    References to these functions are taken when modules are imported, and most do not consult
    TorchFunctionMode: only their code can be replaced everywhere at once. The names and defaults of their
    arguments stay.
    """

    def __init__(self, modules: Mapping[str, ModuleType]) -> None:
        self.functions: dict[str, FunctionType] = {}
        self.originals: dict[str, FunctionType] = {}
        self._modules = modules
        self._routing: dict[str, CodeType] = {}
        self._lock = threading.Lock()
        self._users = 0
        self._find()

    def _find(self) -> list[str]:
        """Look for the functions not found yet; which are still to be found."""
        missing = []
        for name in self._modules.keys() - self.functions.keys():
            namespace = vars(self._modules[name])
            function = inspect.unwrap(namespace[name])
            if getattr(function, "__globals__", None) is not namespace or function.__name__ != name:
                missing.append(name)  # somebody has put another in its place
                continue
            self.originals[name] = _copy(function)
            self._routing[name] = _routing_code(name, function)
            self.functions[name] = function
        return missing

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Have the functions routed while any thread is in this block.

        Raises:
            RuntimeError: since this was imported, one of them has always been replaced by another function.
        """
        with self._lock:
            missing = self._find()
        if missing:
            raise RuntimeError(
                f"other functions stand in for torch's {', '.join(sorted(missing))}, and did when tritoninit "
                "was imported: import it before they do"
            )
        self._enter(1, self._routing)
        try:
            yield
        finally:
            self._enter(-1, {name: original.__code__ for name, original in self.originals.items()})

    def _enter(self, change: int, codes: Mapping[str, CodeType]) -> None:
        with self._lock:
            self._users += change
            if self._users == (1 if change > 0 else 0):
                for name, function in self.functions.items():
                    function.__code__ = codes[name]


def _copy(function: FunctionType) -> FunctionType:
    copy = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        function.__defaults__,
        function.__closure__,
    )
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def _routing_code(name: str, function: FunctionType) -> CodeType:
    """The code of a function of the same signature that calls :func:`_route`."""
    stars: dict[Any, str] = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    names = ", ".join(stars.get(p.kind, "") + p.name for p in inspect.signature(function).parameters.values())
    source = (
        f"def {name}({names}):\n    from {__name__} import _route\n    return _route({name!r}, {names})\n"
    )
    scope: dict[str, Any] = {}
    exec(compile(source, function.__code__.co_filename, "exec"), scope)
    routing: FunctionType = scope[name]
    return routing.__code__


def _route(name: str, *args: Any, **kwargs: Any) -> Any:
    """A routed function, called by somebody: in an intercepted thread or in another."""
    intercepted = _ACTIVE.innermost()
    original = _routes.originals[name]
    if intercepted is None or (intercepted._silent and name != _BACKWARD):
        return original(*args, **kwargs)
    if name == _BACKWARD:
        return intercepted._backward(original, *args, **kwargs)
    if name == _CHANGED:
        return intercepted._changed(original, *args, **kwargs)
    return intercepted._initialize(name, original, *args, **kwargs)


_BACKWARD = "_engine_run_backward"  # where all of torch.autograd's ways to the engine meet
_CHANGED = "increment_version"  # by which kernels, this library's too, tell that they write to a tensor
_routes = _Routes(
    {**dict.fromkeys(_SCHEMES, nn.init), **dict.fromkeys((_BACKWARD, _CHANGED), torch.autograd.graph)}
)


def _storage(reference: StorageWeakRef) -> torch.UntypedStorage | None:
    """What is behind a weak reference, if it is still there."""
    return torch.UntypedStorage._new_with_weak_ptr(reference.cdata)


def _storage_key(tensor: Tensor) -> int | None:
    """The address of a tensor's storage; None if other tensors may be behind it."""
    if type(tensor).__torch_dispatch__ is not Tensor.__torch_dispatch__:
        return None
    try:
        return int(tensor.untyped_storage()._cdata)
    except RuntimeError:  # sparse, or wrapped by a transformation
        return None


def _tensors(*values: Any) -> list[Tensor]:
    """The tensors among arguments, however they are nested."""
    found: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple, set, frozenset)):
            found += _tensors(*value)
        elif isinstance(value, dict):
            found += _tensors(*value.values())
        elif isinstance(value, slice):
            found += _tensors(value.start, value.stop, value.step)
    return found


def _reaches_further(
    function: Callable[..., Any], types: Iterable[type], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> bool:
    """Whether a call may read or change tensors that are not among its arguments."""
    return (
        any(kind.__torch_function__ not in _PLAIN for kind in types)  # type: ignore[attr-defined]
        or isinstance(function, (OpOverload, OpOverloadPacket))
        or function is Tensor.__deepcopy__  # of the gradient and the attributes, too
        or torch._C._len_torch_dispatch_stack() > 0
        or (function not in _METADATA and any(map(callable, (*args, *kwargs.values()))))
    )


def _reads_nothing(function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a function, called with one tensor, looks at its metadata only or returns a view of it."""
    if function in _METADATA or function in _VIEWS:
        return True
    if function in _VIEWS_OF_CONTIGUOUS:
        return bool(args) and not kwargs and args[0].is_contiguous()
    return function is Tensor.__getitem__ and _is_basic(args[1])


def _is_basic(index: Any) -> bool:
    """Whether indexing by it gives a view."""
    parts = index if isinstance(index, tuple) else (index,)
    return all(part is None or part is ... or type(part) in (int, slice) for part in parts)


def _is_empty(tensor: Any) -> bool:
    return isinstance(tensor, Tensor) and not nn.parameter.is_lazy(tensor) and 0 in tensor.shape


def _check_type(tensor: Any) -> None:
    """Raise TypeError unless ``tensor`` is torch's own kind, or a parameter that behaves like one."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"a {type(tensor).__name__} is no tensor")
    kind = type(tensor)
    base = nn.Parameter if issubclass(kind, nn.Parameter) else Tensor
    plain = (
        kind.__torch_function__ == base.__torch_function__
        and kind.__torch_dispatch__ is Tensor.__torch_dispatch__
    )
    if not plain:
        raise TypeError(f"{kind.__name__} is a subclass with a behaviour of its own")
    if torch._C._are_functorch_transforms_active():
        raise TypeError("a transformation of torch.func is at work")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number, np.bool_))


def _number(value: Any) -> Any:
    """A scalar of NumPy's, or of torch's where no gradient is to flow into it, as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Tensor):
        if value.ndim or value.requires_grad or value.is_meta:
            raise TypeError("an argument is a tensor")
        return value.item()
    return value


def _version(tensor: Tensor) -> int | None:
    return None if tensor.is_inference() else tensor._version


def _describe(tensor: Any) -> str:
    if not isinstance(tensor, Tensor) or nn.parameter.is_lazy(tensor):
        return type(tensor).__name__
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)} on {tensor.device}"


def _warn_of_far_mean(mean: float, std: float, a: float, b: float) -> None:
    if mean < a - 2 * std or mean > b + 2 * std:
        warnings.warn(
            "mean is more than 2 std from [a, b] in nn.init.trunc_normal_. "
            "The distribution of values may be incorrect.",
            stacklevel=5,  # the caller of torch.nn.init.trunc_normal_, by way of _route and _initialize
        )
