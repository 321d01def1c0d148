"""What to draw: the base of all initializers, and the four numeric primitives that they lower to."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar, TypeVar

import torch

from tritoninit.kernels import lowering
from tritoninit.keys import Key
from tritoninit.plan import KeySource, Plan, check_fill, resolve_key
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
        if window is None:
            window = Window.whole(target.shape)
        else:
            window.check(target.shape)
        plan = Plan()
        self.add(plan, target, key or partial(Key.from_generator, generator), window)
        plan.run()
        return tensor

    @abstractmethod
    def check(self, target: Target, window: Window) -> None:
        """Raise whatever :meth:`add` would. Reads the target's shape and dtype, not its memory."""

    @abstractmethod
    def add(self, plan: Plan, target: Target, key: KeySource, window: Window) -> None:
        """Check everything that can be wrong, then take the key; what is to be written goes to the plan.

        The target is known to be writable and to lie inside its window.
        """


@dataclass(frozen=True)
class Piece:
    """A fill for the places ``start`` to ``stop`` along one axis of a global tensor, all of the others."""

    fill: Fill
    axis: int
    start: int
    stop: int

    def cut(self, target: Target, window: Window) -> tuple[Target, Window]:
        """The part of a local tensor, and its window, that lies within the piece."""
        offset, size = window.offsets[self.axis], target.shape[self.axis]
        start = min(max(self.start - offset, 0), size)
        stop = min(max(self.stop - offset, start), size)
        offsets = list(window.offsets)
        offsets[self.axis] += start
        places = (slice(None),) * self.axis + (slice(start, stop),)
        target = target.detach() if isinstance(target, torch.Tensor) else target
        return target[places], Window(window.global_shape, tuple(offsets))


@dataclass(frozen=True)
class Elementwise(Initializer):
    """An initializer whose elements are independent: it lowers to a fill, given the global shape."""

    @abstractmethod
    def fill(self, shape: Sequence[int]) -> Fill:
        """The primitive that this is for a tensor of (global) ``shape``.

        Raises:
            ValueError: the shape has none, or several (:meth:`pieces`).
        """

    def pieces(self, shape: Sequence[int]) -> Sequence[Piece]:
        """The fills of the parts of a tensor of (global) ``shape``; none where one fill serves all of it."""
        return ()

    def check(self, target: Target, window: Window) -> None:
        pieces = self.pieces(window.global_shape)
        for fill in [p.fill for p in pieces] or [self.fill(window.global_shape)]:
            check_fill(fill, target)

    def add(self, plan: Plan, target: Target, key: KeySource, window: Window) -> None:
        pieces = self.pieces(window.global_shape)
        if not pieces:
            plan.append(target, self.fill(window.global_shape), key, window)
            return
        self.check(target, window)
        key = resolve_key(key)
        for piece in pieces:
            part, inside = piece.cut(target, window)
            plan.append(part, piece.fill, key, inside)


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
        return _uniform_parameters(self.low, self.high, dtype)


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


@lru_cache(maxsize=4096)
def _uniform_parameters(low: float, high: float, dtype: str) -> tuple[float, ...]:
    _check_range("low", low, dtype)
    _check_range("high", high, dtype)
    return lowering.uniform(low, high, dtype)


def _largest(dtype: str) -> float:
    return float(torch.finfo(getattr(torch, dtype)).max)


def _check_range(name: str, value: float, dtype: str) -> None:
    if abs(value) > _largest(dtype):
        raise lowering.ParameterError(f"{name} is out of range for {dtype}: {value}")
