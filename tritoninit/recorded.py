"""Numbers that code made in its own way: the calls that it took, to be made again on the CPU, from a key."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, ClassVar

import torch
from torch.compiler import is_dynamo_compiling
from torch.overrides import get_overridable_functions, resolve_name

from tritoninit._on_import import INITIALIZERS
from tritoninit.fills import Initializer
from tritoninit.keys import Key
from tritoninit.structured import Structured
from tritoninit.targets import Target, dtype_name
from tritoninit.traced import apart
from tritoninit.tracing.private import modes
from tritoninit.window import Window

# torch's functions that make tensors of numbers and have no tensor among their arguments.
_FACTORIES = (
    *("arange", "as_tensor", "asarray", "bartlett_window", "blackman_window", "empty", "empty_strided"),
    *("eye", "full", "hamming_window", "hann_window", "kaiser_window", "linspace", "logspace", "normal"),
    *("ones", "rand", "randint", "randn", "randperm", "range", "scalar_tensor", "tensor", "tril_indices"),
    *("triu_indices", "zeros"),
)
# Those of torch's own that are in none of its lists, of which some check and draw torch.distributions'.
_UNLISTED = (
    *("rand_like", "randn_like", "randint_like"),
    *("_is_all_true", "_is_any_true", "_standard_gamma", "_sample_dirichlet"),
)
# What is in the lists, and does more than compute: it calls back, shares memory, trusts what it unpacks.
_REACHES_FURTHER = frozenset(
    (
        *("__setstate__", "__reduce_ex__", "__dlpack__", "__deepcopy__", "apply_", "autocast", "backward"),
        *("const_data_ptr", "data_ptr", "map2_", "map_", "module_load", "pin_memory", "record_stream"),
        *("register_hook", "register_post_accumulate_grad_hook", "set_", "share_memory_", "storage"),
        *("storage_type", "untyped_storage"),
    )
)
_OF_ENGINES = ("fbgemm_", "miopen_", "quantized_", "sym_")
_RANDOM = frozenset(
    (
        *("bernoulli", "binomial", "cauchy", "dropout", "alpha_dropout", "feature_dropout", "exponential"),
        *("geometric", "gumbel_softmax", "kaiming_normal", "kaiming_uniform", "log_normal", "multinomial"),
        *("normal", "orthogonal", "poisson", "rand", "rand_like", "randint", "randint_like", "randn"),
        *("randn_like", "random", "randperm", "sparse", "trunc_normal", "uniform", "xavier_normal"),
        *("xavier_uniform", "rrelu", "feature_alpha_dropout", "dropout1d", "dropout2d", "dropout3d"),
        *("native_dropout", "svd_lowrank", "pca_lowrank", "lobpcg", "_standard_gamma", "_sample_dirichlet"),
        *("fractional_max_pool2d", "fractional_max_pool2d_with_indices", "fractional_max_pool3d"),
        *("fractional_max_pool3d_with_indices", "scaled_dot_product_attention"),
        "multi_head_attention_forward",
    )
)
_NAMESPACES = (
    *("torch", "torch.functional", "torch.nn.functional", "torch.Tensor", "torch.linalg", "torch.fft"),
    "torch.special",
)


@cache
def _functions() -> dict[str, Callable[..., Any]]:
    """What a recording may call, by name: functions of tensors, and nothing that reaches beyond them."""
    found: dict[str, Callable[..., Any]] = {
        **INITIALIZERS,
        **{
            f"torch.{name}": getattr(torch, name)
            for name in (*_FACTORIES, *_UNLISTED)
            if hasattr(torch, name)
        },
    }
    for functions in get_overridable_functions().values():
        for function in functions:
            name = resolve_name(function)
            where, _, own_name = (name or "").rpartition(".")
            private = own_name.startswith("_") and not own_name.endswith("__")
            further = own_name in _REACHES_FURTHER or own_name.startswith(_OF_ENGINES)
            if name and where in _NAMESPACES and not (private or further):
                found[name] = function
    return found


@cache
def _names() -> dict[Callable[..., Any], str]:
    return {function: name for name, function in _functions().items()}


def name_of(function: Callable[..., Any]) -> str | None:
    """By which a recording calls one of torch's functions; None if it may not."""
    try:
        return _names().get(function)
    except TypeError:  # what has no hash
        return None


def is_known(name: str) -> bool:
    """Whether a recording may call a function of that name."""
    return name in _functions()


def is_factory(function: Callable[..., Any]) -> bool:
    name = name_of(function)
    return name is not None and name.removeprefix("torch.") in _FACTORIES


@dataclass(frozen=True)
class Part:
    """A tensor in a recording: the number of its storage, and where in that its elements lie.

    Args:
        storage: counted from 0 in the order of first use.
        dtype: without "torch.".
        shape: one number a dimension.
        strides: the same, in elements.
        offset: in elements.
    """

    storage: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int = 0

    def __post_init__(self) -> None:
        for name in ("shape", "strides"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        places = (self.storage, self.offset, *self.shape, *self.strides)
        if not all(type(each) is int and 0 <= each < 2**63 for each in places):
            raise ValueError(f"a part of memory has natural numbers, not {places}")
        if len(self.shape) != len(self.strides):
            raise ValueError(f"strides {self.strides} of a part of shape {self.shape}")
        if not isinstance(getattr(torch, str(self.dtype), None), torch.dtype):
            raise ValueError(f"no dtype of torch's: {self.dtype!r}")

    @property
    def bytes(self) -> int:
        """How much of the storage has to be there."""
        last = sum((n - 1) * stride for n, stride in zip(self.shape, self.strides, strict=True))
        return (self.offset + last + 1) * self.of_torch.itemsize if 0 not in self.shape else 0

    @property
    def of_torch(self) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype

    def __str__(self) -> str:
        return f"#{self.storage} {self.dtype}{list(self.shape)}"


@dataclass(frozen=True)
class Named:
    """An argument of torch's own kinds, by its name there: "float32", "preserve_format", "strided"."""

    name: str

    @property
    def of_torch(self) -> Any:
        found = getattr(torch, self.name, None)
        if not isinstance(found, (torch.dtype, torch.memory_format, torch.layout)):
            raise ValueError(f"no dtype, layout or memory format of torch's: {self.name!r}")
        return found


@dataclass(frozen=True)
class Slice:
    """An index ``start:stop:step``; of a whole dimension by default, of all others if it is the ellipsis."""

    start: Any = None
    stop: Any = None
    step: Any = None
    ellipsis: bool = False


class _Memory:
    """The storages of a recording that is being run."""

    def __init__(self, device: str = "cpu") -> None:
        self.device = device
        self._storages: dict[int, torch.UntypedStorage] = {}

    def tensor(self, part: Part) -> torch.Tensor:
        storage = self._storages.get(part.storage)
        if storage is None:
            storage = torch.zeros(part.bytes, dtype=torch.uint8, device=self.device).untyped_storage()
            self._storages[part.storage] = storage
        elif storage.nbytes() < part.bytes:
            storage.resize_(part.bytes)
        empty = torch.empty(0, dtype=part.of_torch, device=self.device)
        return empty.set_(storage, part.offset, part.shape, part.strides)

    def knows(self, part: Part) -> bool:
        """Whether there is anything of its storage."""
        return part.storage in self._storages

    def hold(self, part: Part, values: torch.Tensor) -> None:
        self.tensor(part).copy_(values)


@dataclass(frozen=True)
class Step(ABC):
    """One thing that the code did."""

    random: ClassVar[bool] = False

    @abstractmethod
    def run(self, memory: _Memory, key: Key) -> None:
        """Do the same again."""


@dataclass(frozen=True)
class Drawn(Step):
    """An initializer's call, for one of this library's keys."""

    into: Part
    initializer: Initializer

    def __post_init__(self) -> None:
        _check_part(self.into)
        if not isinstance(self.initializer, Initializer):
            raise TypeError(f"not an Initializer: {self.initializer!r}")

    @property
    def random(self) -> bool:  # type: ignore[override]
        return self.initializer.random

    def run(self, memory: _Memory, key: Key) -> None:
        tensor = memory.tensor(self.into)
        served = self._serves(tensor.dtype)
        if tensor.is_meta:
            if not served:
                self._check(torch.float32)
            return
        drawn = tensor if served else torch.empty(self.into.shape, dtype=torch.float32, device="cpu")
        self.initializer(drawn, key=key)
        if not served:
            tensor.copy_(drawn)

    def _serves(self, dtype: torch.dtype) -> bool:
        """Whether the initializer draws in a dtype, or in float32, from which it is rounded."""
        try:
            self._check(dtype)
        except NotImplementedError:
            return False
        return True

    def _check(self, dtype: torch.dtype) -> None:
        here = torch.empty(self.into.shape, dtype=dtype, device="meta")
        self.initializer.check(here, Window.whole(self.into.shape))

    def __str__(self) -> str:
        return f"{self.into} = {self.initializer!r}"


@dataclass(frozen=True)
class Given(Step):
    """Numbers that were there, or came from elsewhere: from lists, arrays, files.

    Args:
        into: what holds them.
        values: in the order of the elements; pairs for complex ones.
    """

    into: Part
    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        _check_part(self.into)
        values = (tuple(each) if isinstance(each, list) else each for each in self.values)
        object.__setattr__(self, "values", tuple(values))
        if len(self.values) != math.prod(self.into.shape):
            raise ValueError(f"{len(self.values)} numbers for a tensor of shape {self.into.shape}")

    def run(self, memory: _Memory, key: Key) -> None:
        memory.hold(self.into, tensor_of(self.values, self.into))

    def __str__(self) -> str:
        return f"{self.into} = {len(self.values)} numbers"


@dataclass(frozen=True)
class Call(Step):
    """A call of one of torch's functions.

    Args:
        function: its name, "torch.Tensor.mul_".
        arguments: numbers, strings, :class:`Part`, :class:`Named`, :class:`Slice`, and tuples of these.
        keywords: pairs of a name and such an argument.
        into: what the tensors that it returned are in the recording, in order; None of those that were among
            its arguments.
    """

    function: str
    arguments: tuple[Any, ...]
    keywords: tuple[tuple[str, Any], ...]
    into: tuple[Part | None, ...] = ()

    def __post_init__(self) -> None:
        for name in ("arguments", "keywords", "into"):
            object.__setattr__(self, name, _as_tuple(getattr(self, name)))
        for part in self.into:
            if part is not None:
                _check_part(part)
        if not (is_known(self.function)):
            raise ValueError(f"a recording has no way to call {self.function!r}")

    @property
    def random(self) -> bool:  # type: ignore[override]
        return draws(self.function)

    def run(self, memory: _Memory, key: Key) -> None:
        arguments = [_thawed(each, memory) for each in self.arguments]
        keywords = {name: _thawed(each, memory) for name, each in self.keywords}
        if self.function.removeprefix("torch.") in _FACTORIES:
            keywords["device"] = memory.device
        if self.function == "torch.normal" and not any(isinstance(x, torch.Tensor) for x in arguments[:2]):
            keywords["device"] = memory.device
        elif self.function == "torch.normal":
            keywords.pop("device", None)
        result = _functions()[self.function](*arguments, **keywords)
        for part, tensor in zip(self.into, tensors_in(result), strict=True):
            if part is not None:
                memory.hold(part, tensor)

    def __str__(self) -> str:
        given = [*map(_shown, self.arguments), *(f"{name}={_shown(x)}" for name, x in self.keywords)]
        results = ", ".join(str(each) for each in self.into if each is not None)
        return (f"{results} = " if results else "") + f"{self.function}({', '.join(given)})"


def _check_part(value: object) -> None:
    if not isinstance(value, Part):
        raise TypeError(f"not a part of a recording's memory: {value!r}")


def draws(function: str) -> bool:
    """Whether a function of that name draws random numbers."""
    return function.rpartition(".")[2].rstrip("_") in _RANDOM


def tensors_in(result: Any) -> list[torch.Tensor]:
    """The tensors that a call returned, in order."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, (list, tuple)):
        return [tensor for each in result for tensor in tensors_in(each)]
    return []


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, (list, tuple)) else value


def _thawed(value: Any, memory: _Memory) -> Any:
    """An argument as torch takes it."""
    if isinstance(value, Part):
        return memory.tensor(value)
    if isinstance(value, Named):
        return value.of_torch
    if isinstance(value, Slice):
        ends = (_thawed(each, memory) for each in (value.start, value.stop, value.step))
        return ... if value.ellipsis else slice(*ends)
    return tuple(_thawed(each, memory) for each in value) if isinstance(value, tuple) else value


def _shown(value: Any) -> str:
    if isinstance(value, Slice):
        ends = "" if value.step is None else f":{_shown(value.step)}"
        return "..." if value.ellipsis else f"{_shown(value.start)}:{_shown(value.stop)}{ends}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_shown, value))})"
    return value.name if isinstance(value, Named) else str(value)


@dataclass(frozen=True)
class Recorded(Structured):
    """What code did to a tensor that no other initializer says: its calls, made again.

    They are made on the CPU and for the whole tensor, of which a window keeps its part. The first draw has
    the key itself, so that what is computed from another parameter's numbers can have that one's; others have
    ``key.fold_in(number of draws before)``; what else is random, by torch's generator of the CPU,
    seeded from the key. So the numbers of such calls, and of functions such as ``log``, are torch's, and may
    change with its version; but not with the device or the shards.

    Args:
        steps: in order; see :func:`tritoninit.record`, which makes them.
        result: what of their memory the tensor is.

    Raises:
        TypeError: steps that are none.
    """

    builds_whole: ClassVar[bool] = True

    steps: tuple[Step, ...]
    result: Part

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        if not all(isinstance(step, Step) for step in self.steps):
            raise TypeError("the steps of a recording are steps")
        _check_part(self.result)

    @property
    def random(self) -> bool:
        return any(step.random for step in self.steps)

    def __str__(self) -> str:
        """The functions that were called, in order.

        >>> from tritoninit import Normal
        >>> part = Part(0, "float32", (2,), (1,))
        >>> str(Recorded((Drawn(part, Normal()), Call("torch.Tensor.exp_", (part,), ())), part))
        'Recorded: Normal, exp_'
        """
        words = [
            step.function.rpartition(".")[2]
            if isinstance(step, Call)
            else type(step.initializer if isinstance(step, Drawn) else step).__name__
            for step in self.steps
        ]
        return f"Recorded: {', '.join(words)}"

    def check(self, target: Target, window: Window) -> None:
        if self.result.shape != window.global_shape:
            raise ValueError(f"recorded of shape {self.result.shape}, not {window.global_shape}")
        if self.result.of_torch.is_complex and "complex" not in dtype_name(target):
            raise ValueError(f"recorded as {self.result.dtype}, for which {dtype_name(target)} has no room")
        _check_calls(self)

    def build(self, target: Target, key: Key, window: Window) -> torch.Tensor:
        return window.cut(self.values(key), target.shape)

    def values(self, key: Key) -> torch.Tensor:
        """All of the tensor, on the CPU.

        Args:
            key: the parameter's.

        Returns:
            A new tensor of the global shape.
        """
        return self._run(key, _Memory())

    def _run(self, key: Key, memory: _Memory) -> torch.Tensor:
        drawn_by_torch = any(step.random and not isinstance(step, Drawn) for step in self.steps)
        generator = _seeded(key) if drawn_by_torch and memory.device == "cpu" else nullcontext()
        with generator, torch.device(memory.device), torch.no_grad(), torch.autocast("cpu", enabled=False):
            drawn = 0
            for step in self.steps:
                step.run(memory, key.fold_in(drawn) if drawn else key)
                drawn += step.random
        if not memory.knows(self.result):
            raise ValueError(f"no step sets {self.result}")
        return memory.tensor(self.result)

    def dry(self) -> None:
        """Make the calls where nothing has memory; raises whatever they do."""
        self._run(Key(0), _Memory("meta"))

    def of_weight(self, axes: object, shape: Sequence[int]) -> Initializer:
        return self  # of the whole shape, whatever lies in it


@lru_cache(maxsize=4096)
def _check_calls(recorded: Recorded) -> None:
    """Raise ValueError unless the calls can be made, as of a document that a person edited they may not.

    On the meta device; some calls want the numbers, and are made.
    """
    try:
        recorded.dry()
    except Exception:  # noqa: BLE001 - whatever torch raises for want of memory
        try:
            recorded.values(Key(0))
        except Exception as error:
            raise ValueError(f"{recorded} cannot be done: {error}") from error


@contextmanager
def _seeded(key: Key) -> Iterator[None]:
    """PyTorch's default CPU generator comes of the key, and is put back."""
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(Key(0, key.stream).fold_in(key.seed).stream)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def numbers(values: torch.Tensor) -> tuple[Any, ...]:
    """A tensor's elements in order, exactly; pairs for complex ones. Whatever modes are on.

    Raises:
        ValueError: torch.compile traces, which cannot look at them.
    """
    if is_dynamo_compiling():
        raise ValueError("torch.compile does not look at the values of a tensor: copy_ those that are given")
    if modes():
        return apart(lambda: _numbers(values))
    return _numbers(values)


def _numbers(values: torch.Tensor) -> tuple[Any, ...]:
    if values.is_complex():
        pairs = torch.view_as_real(values.resolve_conj()).reshape(-1, 2).tolist()
        return tuple((equal(real), equal(imaginary)) for real, imaginary in pairs)
    return tuple(map(equal, values.flatten().tolist()))


def equal(number: Any) -> Any:
    """A number; for NaN the one object, which tuples and dataclasses find equal to itself."""
    return math.nan if isinstance(number, float) and math.isnan(number) else number


def tensor_of(values: Sequence[Any], part: Part) -> torch.Tensor:
    """The tensor of these elements, with the dtype and the shape of a part."""
    dtype = part.of_torch
    exact = torch.float64 if dtype.is_floating_point or dtype.is_complex else dtype
    found = torch.tensor(values, dtype=exact, device="cpu")
    if dtype.is_complex:
        wide = torch.view_as_complex(found.reshape(-1, 2))
        return wide.to(dtype).reshape(part.shape)
    return found.to(dtype).reshape(part.shape)
