"""Initializers whose elements depend on each other: identities, orthogonal, sparse and given matrices."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch

from tritoninit.combinators import Stacked, part_shape
from tritoninit.distributed.held import whole_like
from tritoninit.factorization import Factorizations, Matrix
from tritoninit.fans import Axes
from tritoninit.fills import Atom, Constant, Initializer, Normal, taken_key
from tritoninit.kernels.lowering import (
    FLOAT_DTYPES,
    PARTS,
    ROUNDED_DTYPES,
    WIDEST,
    NumberError,
    ParameterError,
    RangeError,
    finite,
    integer,
    make_plain,
)
from tritoninit.keys import Key
from tritoninit.plan import KeySource, Plan, PlanOfOne, check_fill
from tritoninit.rounding import rounded_for
from tritoninit.selection import zero_smallest
from tritoninit.targets import Target, check_freed, device_of, dtype_name, write
from tritoninit.window import Window


@dataclass(frozen=True)
class Structured(Atom):
    """An initializer whose elements depend on each other: built from the global shape, then cut.

    To derive from: ``check`` raises whatever can be wrong, before anything is written; ``build`` gives the
    values.
    """

    by_place: ClassVar[bool] = False
    builds_whole: ClassVar[bool] = False  # as a step to any part, which is then better taken once for several
    fills: ClassVar[int] = 0  # how many it makes, of the whole, whatever part is built
    drawn_together: ClassVar[bool] = False  # in one fill with all of a plan that have its shape
    numbered: ClassVar[int] = 0  # leading dimensions that number what is built so, one by one

    @abstractmethod
    def check(self, target: Target, window: Window) -> None:
        """Raise unless a target, of which the dtype counts, can be part of ``window.global_shape``."""

    @abstractmethod
    def build(self, target: Target, key: Key, window: Window) -> torch.Tensor:
        """The values of a checked target, which holds a window: of its shape, on its device, in any dtype.

        Args:
            target: a tensor or an array, whose shape, dtype and device count.
            key: which random numbers.
            window: which part of the global tensor the target is.

        Returns:
            New memory, or what the initializer keeps.
        """

    def planned(self, plan: Plan, target: Target, key: Key, window: Window) -> Callable[[], torch.Tensor]:
        """What :meth:`build` gives, later, together with what else the plan has asked for by then.

        Args:
            plan: to which this is about to be added.
            target: as :meth:`build` takes them.
            key: as there.
            window: as there.

        Returns:
            What gives the values, called once.
        """
        return partial(self.build, target, key, window)

    def add(self, plan: Plan, target: Target, key: KeySource, window: Window) -> None:
        self.check(target, window)
        self.add_parts(plan, [(target, window)], taken_key(self, key, target))

    def add_parts(self, plan: Plan, parts: Sequence[tuple[Target, Window]], key: Key) -> None:
        if self.builds_whole and len(parts) > 1:  # once what several parts are of
            (first, window), *_ = parts
            shape = window.global_shape
            values = self.planned(plan, whole_like(first, shape), key, Window.whole(shape))
            plan.afterwards(partial(_write_parts, parts, values))
            return
        for target, window in parts:
            plan.afterwards(partial(_write, target, self.planned(plan, target, key, window)))

    def times(self, factor: float) -> Structured:
        return _Scaled(self, factor)

    def stochastically(self) -> Structured:
        return _StochasticallyRounded(self) if self.random else self

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
        """One for each of the groups that dimension 0 of a convolution's weight is cut into.

        Args:
            groups: how many.

        Returns:
            The initializer of the whole weight.
        """
        return Stacked((self,) * groups)


def _write(target: Target, values: Callable[[], torch.Tensor]) -> None:
    write(target, values())


def _write_parts(parts: Sequence[tuple[Target, Window]], values: Callable[[], torch.Tensor]) -> None:
    whole = values()
    for target, window in parts:
        write(target, window.cut(whole, target.shape))


@dataclass(frozen=True)
class _Diagonal(Structured):
    """One number on the diagonal of the last two dimensions, and zeros."""

    random = False
    fills = 1  # the zeros

    @abstractmethod
    def entry(self, target: Target) -> torch.Tensor:
        """The number, in a dtype from which it is rounded once."""

    def build(self, target: Target, key: Key, window: Window) -> torch.Tensor:
        entry = self.entry(target)
        values = torch.zeros(tuple(target.shape), dtype=entry.dtype, device=device_of(target))
        _diagonal(values, window).copy_(entry)
        return values

    def add_parts(self, plan: Plan, parts: Sequence[tuple[Target, Window]], key: Key) -> None:
        for target, window in parts:
            plan.afterwards(partial(self._set, target, window))

    def _set(self, target: Target, window: Window) -> None:
        if not isinstance(target, torch.Tensor) or dtype_name(target) not in FLOAT_DTYPES:
            write(target, self.build(target, Key(0), window))
            return
        zeros = PlanOfOne(target)
        zeros.append(target, Constant(0.0), Key(0), window)
        zeros.run()
        diagonal = _diagonal(target.detach(), window)
        write(diagonal, self.entry(target).expand(diagonal.shape))


def _diagonal(values: torch.Tensor, window: Window) -> torch.Tensor:
    """A view of what a window holds of the diagonal."""
    row, column = window.offsets[-2:]
    return values.diagonal(row - column, dim1=-2, dim2=-1)


@dataclass(frozen=True)
class OfAnother(Structured):
    """What is made of another structured initializer, and takes what that takes."""

    structured: Structured

    @property
    def random(self) -> bool:
        return self.structured.random

    @property
    def builds_whole(self) -> bool:  # type: ignore[override]
        return self.structured.builds_whole

    @property
    def fills(self) -> int:  # type: ignore[override]
        return self.structured.fills


@dataclass(frozen=True)
class _Scaled(OfAnother):
    """A structured initializer's values times a factor."""

    factor: float

    def check(self, target: Target, window: Window) -> None:
        self.structured.check(target, window)
        check_fill(Constant(self.factor), target)  # what becomes of a one

    def build(self, target: Target, key: Key, window: Window) -> torch.Tensor:
        values = self.structured.build(target, key, window)
        exact = dtype_name(target) in ROUNDED_DTYPES or values.is_complex()
        return (values if exact else values.to(torch.float64)) * self.factor


@dataclass(frozen=True)
class _StochasticallyRounded(OfAnother):
    """A structured initializer's values, as float32 numbers that are rounded up or down at random."""

    @property
    def by_place(self) -> bool:  # type: ignore[override]
        return self.structured.by_place

    @property
    def numbered(self) -> int:  # type: ignore[override]
        return self.structured.numbered

    @property
    def drawn_together(self) -> bool:  # type: ignore[override]
        return self.structured.drawn_together

    def check(self, target: Target, window: Window) -> None:
        self.structured.check(target, window)

    def build(self, target: Target, key: Key, window: Window) -> torch.Tensor:
        return rounded_for(target, self.structured.build(target, key, window), key, window)

    def planned(self, plan: Plan, target: Target, key: Key, window: Window) -> Callable[[], torch.Tensor]:
        values = self.structured.planned(plan, target, key, window)
        return lambda: rounded_for(target, values(), key, window)

    def times(self, factor: float) -> Structured:
        return self.structured.times(factor).stochastically()

    def stochastically(self) -> Structured:
        return self


@dataclass(frozen=True)
class Eye(_Diagonal):
    """The identity matrix, or as much of it as a rectangle holds. Two dimensions; every dtype.

    Formula:
        w[i, i] = 1
        w[i, j] = 0 "elsewhere"
    """

    def check(self, target: Target, window: Window) -> None:
        if len(target.shape) != 2:
            raise ValueError("Only tensors with 2 dimensions are supported")

    def entry(self, target: Target) -> torch.Tensor:
        return torch.ones((), device=device_of(target))


@dataclass(frozen=True)
class Identity(_Diagonal):
    """``gain`` times the identity, of the last two dimensions; the same matrix for all that others number.

    Two dimensions or more; every dtype. What is not square has zeros beyond its diagonal. As Haiku's
    ``initializers.Identity``.

    Formula:
        w[i, j] = gain "where" i = j, 0 "elsewhere"

    Args:
        gain: a finite factor.

    Raises:
        ValueError: a gain that is not finite; fewer dimensions.

    >>> Identity(2.0)(torch.empty(2, 1, 2)).tolist()
    [[[2.0, 0.0]], [[2.0, 0.0]]]
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        make_plain(self, "gain")
        finite("gain", self.gain, WIDEST)

    def times(self, factor: float) -> Identity:
        return Identity(self.gain * factor)

    def of_weight(self, axes: Axes | None, shape: Sequence[int]) -> Initializer:
        return super().of_weight(axes, shape) if len(shape) == 2 else self

    def check(self, target: Target, window: Window) -> None:
        if len(target.shape) < 2:
            raise ValueError("Only tensors with 2 or more dimensions are supported")
        _check_gain(self.gain, target)

    def entry(self, target: Target) -> torch.Tensor:
        gain = torch.tensor(self.gain, dtype=torch.float64, device="cpu")
        return gain.to(wide(target)).to(device_of(target))


class GroupsError(ParameterError, ZeroDivisionError):
    """A convolution has at least one group. Also a ZeroDivisionError, which is what PyTorch raises."""


@dataclass(frozen=True)
class Dirac(Structured):
    """The kernel that passes each input channel on, for weights (out, in, *field) of 3 to 5 dimensions.

    Formula:
        w[g m + c, c, "centre"] = 1, m = "out" / groups
        w = 0 "elsewhere"

    Args:
        groups: output channels are cut into so many groups, each of which preserves its inputs.

    Raises:
        ParameterError: less than one group.
    """

    groups: int = 1
    random = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "groups", integer("groups", self.groups))
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
        values = torch.zeros(tuple(target.shape), device=device_of(target))
        values[tuple(torch.from_numpy(each).to(values.device) for each in places[inside].T)] = 1.0
        return values


@dataclass(frozen=True)
class Orthogonal(Structured):
    """A (semi-)orthogonal matrix, uniform in the Haar measure, times ``gain``.

    The QR factorisation of standard normals, with the signs of R's diagonal made positive (Mezzadri).
    Dimensions after the first are flattened; for each of the matrices that leading dimensions number, there
    is :class:`~tritoninit.Experts`. float64 is computed in float64, all else in float32 and rounded once;
    complex matrices are (semi-)unitary, of complex normals, in complex128 or complex64 likewise. Matrices of
    a plan, of a model or of experts that have one shape are factorised together.

    The normals G are the stream's, equal everywhere. On a CPU Q's bits do not depend on the number of
    threads, nor on what is factorised beside it; of real matrices, where numba is installed, neither on the
    processor. Else Q is LAPACK's or cuSOLVER's, on a GPU of many small matrices that of Cholesky
    factorisations in float64: between these it differs, in Frobenius' norm, by at most
    32 u |G|_F / sigma_min(G), u being 2**-24.

    With a window, or of a DTensor, each process that holds elements builds the whole global matrix, once
    however many parts of it there are, and keeps its own: in vain are at most all of its normals, one QR
    factorisation and three times its memory in float32, until it is written, beside at most 64 MiB (256 on a
    GPU) of others of its shape. Of stacked parts (:class:`~tritoninit.Stacked`) and experts
    (:class:`~tritoninit.Experts`) it builds those alone of which it holds elements.

    Formula:
        W = gain Q D
        G = Q R, G[i, j] ~ N(0, 1)
        D[i, i] = R[i, i] / abs(R[i, i])

    Source:
        Saxe, McClelland and Ganguli, ICLR 2014; Mezzadri, Notices of the AMS 54, 2007

    Args:
        gain: what the matrix is multiplied by.

    Raises:
        ParameterError: a gain that is not finite.
    """

    gain: float = 1.0
    builds_whole: ClassVar[bool] = True
    drawn_together: ClassVar[bool] = True
    fills: ClassVar[int] = 1

    def __post_init__(self) -> None:
        make_plain(self, "gain")
        finite("gain", self.gain, WIDEST)

    def times(self, factor: float) -> Orthogonal:
        return Orthogonal(self.gain * factor)

    def check(self, target: Target, window: Window) -> None:
        if len(target.shape) < 2:
            raise ValueError("Only tensors with 2 or more dimensions are supported")
        _check_drawn(self, target)
        _check_gain(self.gain, target)  # no element of Q is larger than one

    def build(self, target: Target, key: Key, window: Window) -> torch.Tensor:
        return self._planned(Factorizations(), target, key, window)()

    def planned(self, plan: Plan, target: Target, key: Key, window: Window) -> Callable[[], torch.Tensor]:
        return self._planned(plan.together(Factorizations), target, key, window)

    def _planned(
        self, together: Factorizations, target: Target, key: Key, window: Window
    ) -> Callable[[], torch.Tensor]:
        rows, *others = window.global_shape
        columns = math.prod(others)
        if not rows * columns:
            return partial(torch.empty, tuple(target.shape), device=device_of(target))
        factor = together.ask(Matrix(rows, columns, wide(target), device_of(target), key))

        def values() -> torch.Tensor:
            q = factor()
            scaled = q if self.gain == 1 else q.mul_(self.gain)
            return window.cut(scaled.reshape(window.global_shape), target.shape)

        return values


@dataclass(frozen=True)
class Sparse(Structured):
    """A matrix whose columns each have ceil(sparsity * rows) zeros, the rest normal.

    In each column the rows with the smallest of an independent stream of uniforms
    (``key.fold_in("sparse")``) are zeroed, of equal ones the upper.

    With a window, or of a DTensor, each process draws the normals that it holds, and all uniforms of the
    columns that it has elements of, tile by tile; where numba does not serve, these are in memory, twice.

    Formula:
        w ~ N(0, std**2), "but" ceil(sparsity n) "of" n "in each column are" 0

    Source:
        Martens, "Deep learning via Hessian-free optimization", ICML 2010

    Args:
        sparsity: the fraction of each column that is zero, in [0, 1].
        std: the standard deviation of the rest.

    Raises:
        ParameterError: a sparsity outside of [0, 1], or no standard deviation.
    """

    sparsity: float
    std: float = 0.01
    builds_whole: ClassVar[bool] = True
    fills: ClassVar[int] = 2

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
        _check_drawn(self, target)
        check_fill(Normal(0.0, self.std), target)

    def build(self, target: Target, key: Key, window: Window) -> torch.Tensor:
        values = torch.empty(tuple(target.shape), dtype=wide(target), device=device_of(target))
        self._set([(values, window)], key)
        return values

    def add_parts(self, plan: Plan, parts: Sequence[tuple[Target, Window]], key: Key) -> None:
        plan.afterwards(partial(self._set, parts, key))

    def _set(self, parts: Sequence[tuple[Target, Window]], key: Key) -> None:
        (whole, window), *_ = parts
        plan = PlanOfOne(whole)
        for target, inside in parts:
            plan.append(target, Normal(0.0, self.std), key, inside)
        plan.run()
        zero_smallest(parts, math.ceil(self.sparsity * window.global_shape[0]), key.fold_in("sparse"))


@dataclass(frozen=True, eq=False)
class Value(Structured):
    """The given numbers, rounded to the tensor's dtype, which has to reach them. Equal to itself alone.

    Formula:
        w = values

    Args:
        values: an array, a tensor or nested lists, of the (global) shape; kept as a tensor, and not copied
            unless it is a lazy view or has floats of 8 bits. Infinities and NaN are numbers like others.

    Raises:
        ParameterError: no numbers, or a tensor without memory.
    """

    values: Any
    random = False

    def __post_init__(self) -> None:
        values = self.values
        if not isinstance(values, torch.Tensor):
            try:
                values = torch.from_numpy(np.array(values))  # lists in float64; not on the default device
            except (TypeError, ValueError) as error:
                raise NumberError(f"values must be numbers in an array or nested lists: {error}") from error
        _check_values(values)
        values = values.detach().resolve_conj().resolve_neg()
        if values.is_floating_point() and values.itemsize == 1:
            values = values.to(torch.float32)  # few operations are made for 8 bits
        object.__setattr__(self, "values", values)

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __repr__(self) -> str:
        dtype = str(self.values.dtype).removeprefix("torch.")
        return f"{type(self).__name__}({dtype}, shape {tuple(self.values.shape)})"

    def check(self, target: Target, window: Window) -> None:
        check_freed(self.values)  # which they may have been since this was made
        if tuple(self.values.shape) != window.global_shape:
            raise ValueError(f"{self} does not fit a tensor of shape {window.global_shape}")
        name = dtype_name(target)
        dtype = getattr(torch, name, None)
        if self.values.is_complex() and "complex" not in name:
            raise ValueError(f"{self} has imaginary parts, for which {name} has no room")
        if dtype is None:  # NumPy's own (longdouble), to which NumPy converts
            return
        lowest, highest = _ends(self.values)
        least, most = _limits(dtype)
        if lowest < least or highest > most:
            extreme = highest if highest > most else lowest
            raise RangeError(f"{self} holds numbers that {dtype} does not: {extreme} is out of range")
        if not (dtype.is_floating_point or dtype.is_complex):
            there_and_back = self.values.to(dtype).to(self.values.dtype)
            if not torch.equal(there_and_back, self.values):
                raise ValueError(f"{self} holds numbers that {dtype} does not")

    def build(self, target: Target, key: Key, window: Window) -> torch.Tensor:
        return window.cut(self.values, target.shape)

    def times(self, factor: float) -> Structured:
        values = self.values
        exact = values.dtype in (torch.float32, torch.float64) or values.is_complex()
        product = (values if exact else values.to(torch.float64)) * factor
        if not (product.isfinite() | ~values.isfinite()).all():
            wide = torch.complex128 if values.is_complex() else torch.float64
            product = values.to(wide) * factor
            if not (product.isfinite() | ~values.isfinite()).all():
                raise RangeError(f"{self} times {factor} is out of range")
        return Value(product)

    def of_weight(self, axes: Axes | None, shape: Sequence[int]) -> Initializer:
        return self  # of the whole shape, whatever lies in it


def _check_values(values: torch.Tensor) -> None:
    """Raise ValueError unless there are numbers in memory, to be copied from."""
    if torch.nn.parameter.is_lazy(values):
        raise ValueError("a lazy parameter has no values yet")
    if values.layout is not torch.strided or values.is_quantized or values.is_nested:
        raise ValueError("values of a sparse, quantised or nested tensor: call to_dense or dequantize")
    if type(values).__torch_dispatch__ is not torch.Tensor.__torch_dispatch__:
        raise ValueError(f"a {type(values).__name__} stands for other tensors: give a plain one")
    if values.is_meta:
        raise ValueError("a meta tensor has no values")


def _ends(values: torch.Tensor) -> tuple[float, float]:
    """The smallest and the largest of the finite numbers in a tensor; 0 and 0 if there are none."""
    if values.is_complex():
        values = torch.view_as_real(values)
    if values.dtype not in _ORDERED:
        values = values.to(torch.float64)
    for numbers in (values, values[values.isfinite()]) if values.is_floating_point() else (values,):
        if not numbers.numel():
            break
        lowest, highest = (end.item() for end in torch.aminmax(numbers))
        if math.isfinite(lowest) and math.isfinite(highest):
            return lowest, highest
    return 0, 0


_ORDERED = (
    *(torch.float32, torch.float64, torch.float16, torch.bfloat16),
    *(torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
)


def _limits(dtype: torch.dtype) -> tuple[float, float]:
    """The least and the largest number of a dtype."""
    if dtype == torch.bool:
        return 0, 1
    info = torch.finfo(dtype) if dtype.is_floating_point or dtype.is_complex else torch.iinfo(dtype)
    return info.min, info.max


_WIDE = {"float64": torch.float64, "complex128": torch.complex128}


def wide(target: Target) -> torch.dtype:
    """In which a target's values are computed, to be rounded once."""
    name = dtype_name(target)
    return _WIDE.get(name, torch.complex64 if name in PARTS else torch.float32)


def _check_gain(gain: float, target: Target) -> None:
    """Raise ParameterError if a target cannot hold what becomes of a one."""
    if (dtype := dtype_name(target)) in FLOAT_DTYPES:
        finite("gain", gain, dtype)
    check_fill(Constant(gain), target)


def check_real(what: str, target: Target) -> None:
    """Raise NotImplementedError unless a target holds real numbers of a dtype that can be drawn."""
    if dtype_name(target) not in FLOAT_DTYPES:
        served = ", ".join(FLOAT_DTYPES)
        raise NotImplementedError(f"{what} of {dtype_name(target)}: its numbers are real, and serve {served}")


def _check_drawn(initializer: Initializer, target: Target) -> None:
    """Raise NotImplementedError unless a target's dtype can be drawn, be it complex."""
    if dtype_name(target) not in (*FLOAT_DTYPES, *PARTS):
        what = f"{type(initializer).__name__} of {dtype_name(target)}"
        raise NotImplementedError(f"{what}: random fills serve {', '.join((*FLOAT_DTYPES, *PARTS))}")
