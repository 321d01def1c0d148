"""What to draw: the base of all initializers, and the four numeric primitives that they lower to."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, TypeVar

import torch

from tritoninit.kernels import lowering
from tritoninit.keys import Key
from tritoninit.plan import KeySource, Plan
from tritoninit.targets import Target, as_target
from tritoninit.window import Window

T = TypeVar("T")


@dataclass(frozen=True)
class Initializer(ABC):
    """A scheme for setting a tensor, as a value: comparable, printable, callable on a tensor."""

    random: ClassVar[bool] = True

    def __call__(
        self,
        tensor: T,
        *,
        key: Key | None = None,
        window: Window | None = None,
        generator: torch.Generator | None = None,
    ) -> T:
        """Set ``tensor`` in place and return it.

        Args:
            tensor: a torch tensor, a NumPy array or any object with ``__dlpack__``.
            key: which random numbers. Without one, 64 bits are drawn from ``generator``.
            window: which part of a global tensor this is; by default all of it.
            generator: PyTorch's default CPU generator if not given. Cannot go with a key.

        Raises:
            TypeError: not a tensor, or not a key.
            ValueError: parameters, shape or window make no sense, or the tensor cannot be written.
            NotImplementedError: random numbers of its dtype are not served.
        """
        if key is not None and generator is not None:
            raise ValueError("give a key or a generator, not both")
        if key is not None and not isinstance(key, Key):
            raise TypeError(f"key must be a tritoninit.Key, not {key!r}")
        target = as_target(tensor)
        window = Window.whole(tuple(target.shape)) if window is None else window
        window.check(tuple(target.shape))
        self.prepare(target, key or partial(Key.from_generator, generator), window)()
        return tensor

    @abstractmethod
    def prepare(self, target: Target, key: KeySource, window: Window) -> Callable[[], None]:
        """Check everything that can be wrong, then take the key; the function returned does the writing."""


@dataclass(frozen=True)
class Elementwise(Initializer):
    """An initializer whose elements are independent: it lowers to a fill, given the global shape."""

    @abstractmethod
    def fill(self, shape: Sequence[int]) -> Fill:
        """The primitive that this is for a tensor of (global) ``shape``."""

    def prepare(self, target: Target, key: KeySource, window: Window) -> Callable[[], None]:
        plan = Plan()
        plan.add(target, self.fill(window.global_shape), key, window)
        return plan.run


@dataclass(frozen=True)
class Fill(Elementwise):
    """A numeric primitive. No fill knows a shape; every backend knows every fill."""

    distribution: ClassVar[str]

    def fill(self, shape: Sequence[int]) -> Fill:
        return self

    @abstractmethod
    def parameters(self, dtype: str) -> tuple[Any, ...]:
        """The numbers that backends compute with, for elements of ``dtype``; see ``kernels.lowering``."""


@dataclass(frozen=True)
class Constant(Fill):
    """Every element is ``value``. Serves every dtype."""

    value: float
    random: ClassVar[bool] = False
    distribution: ClassVar[str] = "constant"

    def parameters(self, dtype: str) -> tuple[Any, ...]:
        if dtype in lowering.FLOAT_DTYPES and math.isfinite(self.value):
            _check_range("value", self.value, dtype)
        return lowering.constant(self.value, dtype)


@dataclass(frozen=True)
class Uniform(Fill):
    """The uniform distribution on [low, high): ``high`` itself never comes back, in any dtype.

    Both are rounded to float32 first. 16-bit elements stay within [low, high) after rounding, too.
    """

    low: float = 0.0
    high: float = 1.0
    distribution: ClassVar[str] = "uniform"

    def __post_init__(self) -> None:
        self.parameters("float32")

    def parameters(self, dtype: str) -> tuple[Any, ...]:
        _check_range("low", self.low, dtype)
        _check_range("high", self.high, dtype)
        return lowering.uniform(self.low, self.high, dtype)


@dataclass(frozen=True)
class Normal(Fill):
    """The normal distribution N(mean, std**2), by Box-Muller; |z| reaches 6.66."""

    mean: float = 0.0
    std: float = 1.0
    distribution: ClassVar[str] = "normal"

    def __post_init__(self) -> None:
        lowering.normal(self.mean, self.std, "float32")

    def parameters(self, dtype: str) -> tuple[Any, ...]:
        return lowering.normal(self.mean, self.std, dtype)


@dataclass(frozen=True)
class TruncatedNormal(Fill):
    """N(mean, std**2) conditioned to [a, b], by the inverse of its distribution function.

    ``a`` and ``b`` are values, not multiples of ``std``, as in ``torch.nn.init.trunc_normal_``; either may be
    infinite.
    """

    mean: float = 0.0
    std: float = 1.0
    a: float = -2.0
    b: float = 2.0
    distribution: ClassVar[str] = "truncated_normal"

    def __post_init__(self) -> None:
        self.parameters("float32")

    def parameters(self, dtype: str) -> tuple[Any, ...]:
        return lowering.truncated_normal(self.mean, self.std, self.a, self.b, dtype)


def _largest(dtype: str) -> float:
    return float(torch.finfo(getattr(torch, dtype)).max)


def _check_range(name: str, value: float, dtype: str) -> None:
    if abs(value) > _largest(dtype):
        raise lowering.ParameterError(f"{name} is out of range for {dtype}: {value}")
