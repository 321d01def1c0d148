"""Initializers whose elements depend on each other: identities, orthogonal, sparse and given matrices."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import index
from typing import Any, ClassVar

import numpy as np
import torch

from tritoninit.combinators import Stacked, part_shape
from tritoninit.fans import Axes
from tritoninit.fills import Atom, Constant, Initializer, Normal, Uniform, taken_key
from tritoninit.kernels.lowering import FLOAT_DTYPES, ParameterError, finite_float32, make_plain
from tritoninit.keys import Key
from tritoninit.plan import KeySource, Plan, check_fill
from tritoninit.targets import Target, dtype_name, write
from tritoninit.window import Window


@dataclass(frozen=True)
class Structured(Atom):
    """An initializer whose elements depend on each other: built from the global shape, then cut.

    To derive from: ``check`` raises whatever can be wrong, before anything is written; ``build`` gives the
    values.
    """

    by_place: ClassVar[bool] = False

    @abstractmethod
    def check(self, target: Target, window: Window) -> None:
        """Raise unless a target, of which the dtype counts, can be part of ``window.global_shape``."""

    @abstractmethod
    def build(self, target: Target, key: Key, window: Window) -> torch.Tensor:
        """The values of a checked target, which holds a window: of its shape, on its device, in any dtype."""

    def add(self, plan: Plan, target: Target, key: KeySource, window: Window) -> None:
        self.check(target, window)
        taken = taken_key(self, key, target)
        plan.afterwards(partial(self._write, target, taken, window))

    def _write(self, target: Target, key: Key, window: Window) -> None:
        write(target, self.build(target, key, window))

    def times(self, factor: float) -> Structured:
        return _Scaled(self, factor)

    def of_weight(self, axes: Axes | None, shape: Sequence[int]) -> Initializer:
        """One for each of the equal weights that lie in one, such as gates and packed projections.

        The groups of a convolution are such weights, too.
        """
        if axes is not None and axes.parts and len(set(axes.parts)) == 1:
            axis, count = axes.out_axes[0], len(axes.parts)
            (inner, *_) = axes.of_parts(axis, count, shape)
            return Stacked((self.of_weight(inner, part_shape(shape, axis, count)),) * count, axis)
        if axes is not None and axes.groups > 1:
            return self.of_groups(axes.groups)
        return self

    def of_groups(self, groups: int) -> Initializer:
        """One for each of the groups that dimension 0 of a convolution's weight is cut into."""
        return Stacked((self,) * groups)


@dataclass(frozen=True)
class _Scaled(Structured):
    """A structured initializer's values times a factor."""

    structured: Structured
    factor: float

    @property
    def random(self) -> bool:
        return self.structured.random

    def check(self, target: Target, window: Window) -> None:
        self.structured.check(target, window)
        check_fill(Constant(self.factor), target)  # what becomes of a one

    def build(self, target: Target, key: Key, window: Window) -> torch.Tensor:
        values = self.structured.build(target, key, window)
        exact = dtype_name(target) in FLOAT_DTYPES or values.is_complex()
        return (values if exact else values.to(torch.float64)) * self.factor


@dataclass(frozen=True)
class Eye(Structured):
    """The identity matrix, or as much of it as a rectangle holds. Two dimensions; every dtype."""

    random = False

    def check(self, target: Target, window: Window) -> None:
        if len(target.shape) != 2:
            raise ValueError("Only tensors with 2 dimensions are supported")

    def build(self, target: Target, key: Key, window: Window) -> torch.Tensor:
        values = torch.zeros(tuple(target.shape), device=_device(target))
        values.diagonal(window.offsets[0] - window.offsets[1]).fill_(1.0)
        return values


class GroupsError(ParameterError, ZeroDivisionError):
    """A convolution has at least one group. Also a ZeroDivisionError, which is what PyTorch raises."""


@dataclass(frozen=True)
class Dirac(Structured):
    """The kernel that passes each input channel on, for weights (out, in, *field) of 3 to 5 dimensions.

    Args:
        groups: output channels are cut into so many groups, each of which preserves its inputs.
    """

    groups: int = 1
    random = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", index(self.groups))
        if self.groups < 1:
            raise GroupsError(f"groups must be positive, not {self.groups}")

    def of_groups(self, groups: int) -> Initializer:
        return replace(self, groups=groups) if self.groups == 1 else self

    def check(self, target: Target, window: Window) -> None:
        if len(target.shape) not in (3, 4, 5):
            raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
        if window.global_shape[0] % self.groups:
            raise ValueError("dim 0 must be divisible by groups")

    def build(self, target: Target, key: Key, window: Window) -> torch.Tensor:
        out, into, *field = window.global_shape
        per_group = out // self.groups
        channel = np.arange(out) % max(per_group, 1)
        centre = [np.full(out, size // 2) for size in field]
        places = np.stack([np.arange(out), channel, *centre], axis=1)
        places = places[channel < min(per_group, into)] - np.array(window.offsets)
        inside = ((places >= 0) & (places < np.array(target.shape))).all(axis=1)
        values = torch.zeros(tuple(target.shape), device=_device(target))
        values[tuple(torch.from_numpy(each).to(values.device) for each in places[inside].T)] = 1.0
        return values


@dataclass(frozen=True)
class Orthogonal(Structured):
    """A (semi-)orthogonal matrix, uniform in the Haar measure, times ``gain``.

    Saxe, McClelland and Ganguli, ICLR 2014. The QR factorisation of standard normals, with the signs of
    R's diagonal made positive (Mezzadri, Notices of the AMS 54, 2007), by ``torch.linalg`` on torch tensors
    and ``numpy.linalg`` on arrays. Dimensions after the first are flattened. bfloat16 and float16 are
    computed in float32 and rounded once.

    The normals are the stream's, equal everywhere; Q is LAPACK's or cuSOLVER's, equal to rounding only. With
    a window, each shard builds the whole global matrix and keeps its part.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        make_plain(self, "gain")
        finite_float32("gain", self.gain)

    def times(self, factor: float) -> Orthogonal:
        return Orthogonal(self.gain * factor)

    def check(self, target: Target, window: Window) -> None:
        if len(target.shape) < 2:
            raise ValueError("Only tensors with 2 or more dimensions are supported")
        _check_float(self, target)

    def build(self, target: Target, key: Key, window: Window) -> torch.Tensor:
        rows = window.global_shape[0]
        columns = math.prod(window.global_shape[1:])
        if not rows * columns:
            return torch.empty(tuple(target.shape), device=_device(target))
        matrix = Normal()(_float32(rows, columns, target), key=key)
        tall = matrix if rows >= columns else matrix.T
        if isinstance(target, torch.Tensor):
            q, r = torch.linalg.qr(tall)
        else:
            q, r = (torch.from_numpy(part) for part in np.linalg.qr(tall.numpy()))
        gain = torch.full_like(r.diagonal(), self.gain)
        q = q * torch.where(r.diagonal() < 0, -gain, gain)
        return _cut((q if rows >= columns else q.T).reshape(window.global_shape), window, target)


@dataclass(frozen=True)
class Sparse(Structured):
    """A matrix whose columns each have ceil(sparsity * rows) zeros, the rest N(0, std**2).

    Martens, "Deep learning via Hessian-free optimization", ICML 2010. In each column the rows with the
    smallest of an independent stream of uniforms (``key.fold_in("sparse")``) are zeroed. With a window, each
    shard builds the whole global matrix and keeps its part.

    Args:
        sparsity: the fraction of each column that is zero, in [0, 1].
        std: the standard deviation of the rest.
    """

    sparsity: float
    std: float = 0.01

    def __post_init__(self) -> None:
        make_plain(self, "sparsity", "std")
        Normal(0.0, self.std)
        if not 0 <= self.sparsity <= 1:
            raise ParameterError(f"sparsity must lie in [0, 1], not {self.sparsity}")

    def times(self, factor: float) -> Sparse:
        return Sparse(self.sparsity, self.std * factor)

    def check(self, target: Target, window: Window) -> None:
        if len(target.shape) != 2:
            raise ValueError("Only tensors with 2 dimensions are supported")
        _check_float(self, target)

    def build(self, target: Target, key: Key, window: Window) -> torch.Tensor:
        rows, columns = window.global_shape
        values = Normal(0.0, self.std)(_float32(rows, columns, target), key=key)
        order = Uniform()(torch.empty_like(values), key=key.fold_in("sparse"))
        values.masked_fill_(_smallest(order, math.ceil(self.sparsity * rows)), 0.0)
        return _cut(values, window, target)


def _smallest(x: torch.Tensor, count: int) -> torch.Tensor:
    """Which are the ``count`` smallest elements of each column of a matrix; of equal ones the upper first."""
    if count == 0 or x.numel() == 0:
        return torch.zeros_like(x, dtype=torch.bool)
    columns = x.T.contiguous()
    if x.is_cpu:  # where NumPy's selection takes a tenth of the time
        bound = torch.from_numpy(np.partition(columns.numpy(), count - 1, axis=1)[:, count - 1].copy())
    else:  # kthvalue would do, but is refused where deterministic algorithms are asked for
        bound = columns.sort(dim=1).values[:, count - 1]
    chosen = x <= bound
    excess = chosen.sum(dim=0, dtype=torch.int32) - count
    crowded = excess.nonzero().flatten()  # columns with too many equals of the bound: seldom any
    equal = x[:, crowded] == bound[crowded]
    to_the_end = equal.flip(0).cumsum(dim=0).flip(0)
    chosen[:, crowded] &= ~(equal & (to_the_end <= excess[crowded]))
    return chosen


@dataclass(frozen=True, eq=False)
class Value(Structured):
    """The given numbers, rounded to the tensor's dtype. Equal to itself alone.

    Args:
        values: an array, a tensor or nested lists, of the (global) shape; kept as a tensor, not copied.
    """

    values: Any
    random = False

    def __post_init__(self) -> None:
        values = self.values
        if not isinstance(values, torch.Tensor):
            values = torch.from_numpy(np.array(values))  # lists in float64; not on the default device
        if values.is_meta:
            raise ValueError("a meta tensor has no values")
        object.__setattr__(self, "values", values.detach())

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        dtype = str(self.values.dtype).removeprefix("torch.")
        return f"{type(self).__name__}({dtype}, shape {tuple(self.values.shape)})"

    def check(self, target: Target, window: Window) -> None:
        if tuple(self.values.shape) != window.global_shape:
            raise ValueError(f"{self} does not fit a tensor of shape {window.global_shape}")
        dtype = getattr(torch, dtype_name(target), None)
        if dtype is None:  # NumPy's own (longdouble), to which NumPy converts
            return
        if self.values.is_complex() and not dtype.is_complex:
            raise ValueError(f"{self} has imaginary parts, for which {dtype} has no room")
        if not (dtype.is_floating_point or dtype.is_complex):
            there_and_back = self.values.to(dtype).to(self.values.dtype)
            if not torch.equal(there_and_back, self.values):
                raise ValueError(f"{self} holds numbers that {dtype} does not")

    def build(self, target: Target, key: Key, window: Window) -> torch.Tensor:
        return _cut(self.values, window, target)

    def times(self, factor: float) -> Structured:
        values = self.values
        exact = values.dtype in (torch.float32, torch.float64) or values.is_complex()
        return Value((values if exact else values.to(torch.float64)) * factor)

    def of_weight(self, axes: Axes | None, shape: Sequence[int]) -> Initializer:
        return self  # of the whole shape, whatever lies in it


def _device(target: Target) -> torch.device:
    return target.device if isinstance(target, torch.Tensor) else torch.device("cpu")


def _float32(rows: int, columns: int, target: Target) -> torch.Tensor:
    """Empty memory on the target's device, float32 whatever PyTorch's default dtype."""
    return torch.empty(rows, columns, dtype=torch.float32, device=_device(target))


def _check_float(initializer: Initializer, target: Target) -> None:
    if dtype_name(target) not in FLOAT_DTYPES:
        what = f"{type(initializer).__name__} of {dtype_name(target)}"
        raise NotImplementedError(f"{what}: random fills serve {', '.join(FLOAT_DTYPES)}")


def _cut(values: torch.Tensor, window: Window, target: Any) -> torch.Tensor:
    """The part of the global ``values`` that the window holds."""
    return values[tuple(slice(o, o + n) for o, n in zip(window.offsets, target.shape, strict=True))]
