"""Schemes with names: what the literature calls them, as values that lower to fills or build on them."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any, ClassVar

import numpy as np
import torch

from tritoninit.fans import TORCH_AXES, Axes
from tritoninit.fills import Constant, Elementwise, Fill, Initializer, Normal, Piece, TruncatedNormal, Uniform
from tritoninit.kernels.lowering import FLOAT_DTYPES, ParameterError
from tritoninit.keys import Key
from tritoninit.plan import KeySource, Plan, resolve_key
from tritoninit.targets import Target, dtype_name, write
from tritoninit.window import Window

_LINEAR = ("linear", *(f"conv{t}{d}d" for t in ("", "_transpose") for d in (1, 2, 3)))
# The standard deviation of a standard normal truncated to [-2, 2].
_TRUNCATED_STD = 0.87962566103423978


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The gain that keeps a signal's scale through a nonlinearity, as ``torch.nn.init.calculate_gain``.

    Linear, convolutions and sigmoid 1, tanh 5/3, relu sqrt(2), leaky_relu sqrt(2 / (1 + slope**2)) with
    ``param`` the slope (0.01 if None), selu 3/4.

    Raises:
        ValueError: an unknown nonlinearity, or a slope that is no number.
    """
    if nonlinearity in _LINEAR or nonlinearity == "sigmoid":
        return 1.0
    if nonlinearity == "tanh":
        return 5.0 / 3
    if nonlinearity == "relu":
        return math.sqrt(2.0)
    if nonlinearity == "leaky_relu":
        slope = 0.01 if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, (int, float)):
            raise ValueError(f"negative_slope {param} not a valid number")
        return math.sqrt(2.0 / (1 + slope**2))
    if nonlinearity == "selu":
        return 3.0 / 4
    raise ValueError(f"Unsupported nonlinearity {nonlinearity}")


@dataclass(frozen=True)
class FanScaled(Elementwise):
    """An initializer whose scale comes from the weight's fans.

    Args:
        axes: what the weight's dimensions mean. None is (out, in, *receptive field), as PyTorch reads every
            weight, in a call on a tensor, and in rules for a model what the module that owns it says
            (:func:`tritoninit.fans.module_axes`).
    """

    axes: Axes | None = field(default=None, kw_only=True)

    @abstractmethod
    def scaled(self, fan_in: float, fan_out: float) -> Fill:
        """The fill of a weight with these fans."""

    def fill(self, shape: Sequence[int]) -> Fill:
        parts = _parts(self, tuple(shape))
        if len(parts) > 1:
            raise ValueError(f"the parts of shape {tuple(shape)} have a fill each, not one: {self}")
        return parts[0].fill

    def pieces(self, shape: Sequence[int]) -> Sequence[Piece]:
        parts = _parts(self, tuple(shape))
        return parts if len(parts) > 1 else ()


@lru_cache(maxsize=4096)
def _parts(scheme: FanScaled, shape: tuple[int, ...]) -> tuple[Piece, ...]:
    """The fills of the parts of a weight; one where they all have the same. Models repeat their shapes."""
    axes = scheme.axes or TORCH_AXES
    found = tuple(
        Piece(scheme.scaled(*axes.fans(part)), axis, start, stop)
        for axis, start, stop, part in axes.split(shape)
    )
    return found if len({piece.fill for piece in found}) > 1 else found[:1]


@dataclass(frozen=True)
class VarianceScaling(FanScaled):
    """Zero mean and variance ``scale / fan``: the one rule that the Xavier and Kaiming schemes specialise.

    Args:
        scale: the variance times the fan.
        mode: "fan_in", "fan_out" or "fan_avg".
        distribution: "uniform" on +-sqrt(3 variance), "normal", or "truncated_normal": a normal cut at two
            of its standard deviations and widened so that the variance is still scale / fan.
        axes: see :class:`FanScaled`.
    """

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "truncated_normal"

    def __post_init__(self) -> None:
        if not self.scale >= 0:
            raise ParameterError(f"variance scaling needs scale >= 0, not {self.scale}")
        if self.distribution not in ("uniform", "normal", "truncated_normal"):
            raise ParameterError(
                f"unknown distribution {self.distribution!r}: uniform, normal or truncated_normal"
            )

    def scaled(self, fan_in: float, fan_out: float) -> Fill:
        modes = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}
        if self.mode not in modes:
            raise ValueError(f"Mode {self.mode} not supported, please use one of {list(modes)}")
        fan = modes[self.mode]
        if not fan:
            return Constant(0.0)  # no element, or nothing fans in: there is no variance to scale
        variance = self.scale / fan
        if self.distribution == "uniform":
            bound = math.sqrt(3.0 * variance)
            return Uniform(-bound, bound)
        std = math.sqrt(variance)
        if self.distribution == "normal":
            return Normal(0.0, std)
        wide = std / _TRUNCATED_STD
        return TruncatedNormal(0.0, wide, -2 * wide, 2 * wide)


@dataclass(frozen=True)
class Zeros(Elementwise):
    """Every element 0. Serves every dtype."""

    random: ClassVar[bool] = False

    def fill(self, shape: Sequence[int]) -> Fill:
        return Constant(0.0)


@dataclass(frozen=True)
class Ones(Elementwise):
    """Every element 1. Serves every dtype."""

    random: ClassVar[bool] = False

    def fill(self, shape: Sequence[int]) -> Fill:
        return Constant(1.0)


@dataclass(frozen=True)
class XavierUniform(FanScaled):
    """U(-a, a) with a = gain sqrt(6 / (fan_in + fan_out)); Glorot and Bengio, AISTATS 2010, equation 16."""

    gain: float = 1.0

    def scaled(self, fan_in: float, fan_out: float) -> Fill:
        return VarianceScaling(_squared(self.gain), "fan_avg", "uniform").scaled(fan_in, fan_out)


@dataclass(frozen=True)
class XavierNormal(FanScaled):
    """N(0, std**2) with std = gain sqrt(2 / (fan_in + fan_out)); Glorot and Bengio, AISTATS 2010."""

    gain: float = 1.0

    def scaled(self, fan_in: float, fan_out: float) -> Fill:
        return VarianceScaling(_squared(self.gain), "fan_avg", "normal").scaled(fan_in, fan_out)


@dataclass(frozen=True)
class KaimingUniform(FanScaled):
    """U(-b, b) with b = gain sqrt(3 / fan); He, Zhang, Ren and Sun, ICCV 2015, section 2.2.

    Args:
        a: the negative slope of the leaky ReLU that follows the layer.
        mode: "fan_in" keeps the forward pass's variance, "fan_out" the backward pass's.
        nonlinearity: what follows the layer, see :func:`calculate_gain`.
    """

    a: float = 0.0
    mode: str = "fan_in"
    nonlinearity: str = "leaky_relu"

    def scaled(self, fan_in: float, fan_out: float) -> Fill:
        return VarianceScaling(_kaiming_scale(self), _kaiming_mode(self), "uniform").scaled(fan_in, fan_out)


@dataclass(frozen=True)
class KaimingNormal(FanScaled):
    """N(0, std**2) with std = gain / sqrt(fan); He, Zhang, Ren and Sun, ICCV 2015, equations 10 and 14.

    Args:
        a: the negative slope of the leaky ReLU that follows the layer.
        mode: "fan_in" keeps the forward pass's variance, "fan_out" the backward pass's.
        nonlinearity: what follows the layer, see :func:`calculate_gain`.
    """

    a: float = 0.0
    mode: str = "fan_in"
    nonlinearity: str = "leaky_relu"

    def scaled(self, fan_in: float, fan_out: float) -> Fill:
        return VarianceScaling(_kaiming_scale(self), _kaiming_mode(self), "normal").scaled(fan_in, fan_out)


def _squared(gain: float) -> float:
    if not gain >= 0:
        raise ParameterError(f"gain must not be negative: {gain}")
    return gain * gain


def _kaiming_scale(scheme: KaimingUniform | KaimingNormal) -> float:
    return calculate_gain(scheme.nonlinearity, scheme.a) ** 2


def _kaiming_mode(scheme: KaimingUniform | KaimingNormal) -> str:
    mode = scheme.mode.lower()
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"Mode {mode} not supported, please use one of ['fan_in', 'fan_out']")
    return mode


@dataclass(frozen=True)
class Structured(Initializer):
    """An initializer whose elements depend on each other: built from the global shape, then cut."""

    def add(self, plan: Plan, target: Target, key: KeySource, window: Window) -> None:
        self.check(target, window)
        taken = resolve_key(key) if self.random else Key(0)
        plan.afterwards(partial(self.apply, target, taken, window))

    @abstractmethod
    def apply(self, target: Target, key: Key, window: Window) -> None:
        """Set a checked target."""


@dataclass(frozen=True)
class Eye(Structured):
    """The identity matrix, or as much of it as a rectangle holds. Two dimensions; every dtype."""

    random: ClassVar[bool] = False

    def check(self, target: Target, window: Window) -> None:
        if len(target.shape) != 2:
            raise ValueError("Only tensors with 2 dimensions are supported")

    def apply(self, target: Target, key: Key, window: Window) -> None:
        values = torch.zeros(tuple(target.shape), device=_device(target))
        values.diagonal(window.offsets[0] - window.offsets[1]).fill_(1.0)
        write(target, values)


@dataclass(frozen=True)
class Dirac(Structured):
    """The kernel that passes each input channel on, for weights (out, in, *field) of 3 to 5 dimensions.

    Args:
        groups: output channels are cut into so many groups, each of which preserves its inputs.
    """

    groups: int = 1
    random: ClassVar[bool] = False

    def check(self, target: Target, window: Window) -> None:
        if len(target.shape) not in (3, 4, 5):
            raise ValueError("Only tensors with 3, 4, or 5 dimensions are supported")
        if window.global_shape[0] % self.groups:
            raise ValueError("dim 0 must be divisible by groups")

    def apply(self, target: Target, key: Key, window: Window) -> None:
        out, into, *field = window.global_shape
        per_group = out // self.groups
        channel = np.arange(out) % max(per_group, 1)
        centre = [np.full(out, size // 2) for size in field]
        places = np.stack([np.arange(out), channel, *centre], axis=1)
        places = places[channel < min(per_group, into)] - np.array(window.offsets)
        inside = ((places >= 0) & (places < np.array(target.shape))).all(axis=1)
        values = torch.zeros(tuple(target.shape), device=_device(target))
        values[tuple(torch.from_numpy(index).to(values.device) for index in places[inside].T)] = 1.0
        write(target, values)


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

    def check(self, target: Target, window: Window) -> None:
        if len(target.shape) < 2:
            raise ValueError("Only tensors with 2 or more dimensions are supported")
        _check_float(self, target)

    def apply(self, target: Target, key: Key, window: Window) -> None:
        rows = window.global_shape[0]
        columns = math.prod(window.global_shape[1:])
        if not rows * columns:
            return
        matrix = Normal()(_float32(rows, columns, target), key=key)
        tall = matrix if rows >= columns else matrix.T
        if isinstance(target, torch.Tensor):
            q, r = torch.linalg.qr(tall)
        else:
            q, r = (torch.from_numpy(part) for part in np.linalg.qr(tall.numpy()))
        gain = torch.full_like(r.diagonal(), self.gain)
        q = q * torch.where(r.diagonal() < 0, -gain, gain)
        values = (q if rows >= columns else q.T).reshape(window.global_shape)
        write(target, _cut(values, window, target))


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
        Normal(0.0, self.std)
        if not 0 <= self.sparsity <= 1:
            raise ValueError(f"sparsity must lie in [0, 1], not {self.sparsity}")

    def check(self, target: Target, window: Window) -> None:
        if len(target.shape) != 2:
            raise ValueError("Only tensors with 2 dimensions are supported")
        _check_float(self, target)

    def apply(self, target: Target, key: Key, window: Window) -> None:
        rows, columns = window.global_shape
        values = Normal(0.0, self.std)(_float32(rows, columns, target), key=key)
        order = Uniform()(torch.empty_like(values), key=key.fold_in("sparse"))
        values.masked_fill_(_smallest(order, math.ceil(self.sparsity * rows)), 0.0)
        write(target, _cut(values, window, target))


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


@dataclass(frozen=True)
class ZeroRow(Elementwise):
    """``scheme``, but zeros in one row: the vector of an embedding's padding index."""

    scheme: Elementwise
    row: int

    def fill(self, shape: Sequence[int]) -> Fill:
        raise ValueError(f"no one fill makes {self}")

    def pieces(self, shape: Sequence[int]) -> Sequence[Piece]:
        rows = shape[0] if shape else 0
        fill = self.scheme.fill(shape)
        if not rows:
            return (Piece(fill, 0, 0, 0),)
        if not -rows <= self.row < rows:
            raise ValueError(f"no row {self.row} in a tensor of shape {tuple(shape)}")
        row = self.row % rows
        return (
            Piece(fill, 0, 0, row),
            Piece(Constant(0.0), 0, row, row + 1),
            Piece(fill, 0, row + 1, rows),
        )


@dataclass(frozen=True)
class Stacked(Elementwise):
    """Equal parts along one axis, each by a scheme of its own, for a tensor of the part's shape.

    Args:
        schemes: in the order of the parts.
        axis: along which they lie; negative ones count from the end.
    """

    schemes: tuple[Elementwise, ...]
    axis: int = 0

    def fill(self, shape: Sequence[int]) -> Fill:
        raise ValueError(f"no one fill makes {self}")

    def pieces(self, shape: Sequence[int]) -> Sequence[Piece]:
        axis, count = range(len(shape))[self.axis], len(self.schemes)
        size, rest = divmod(shape[axis], count)
        if rest:
            raise ValueError(f"dimension {axis} of shape {tuple(shape)} has no {count} equal parts")
        part = (*shape[:axis], size, *shape[axis + 1 :])
        return [
            Piece(scheme.fill(part), axis, k * size, (k + 1) * size) for k, scheme in enumerate(self.schemes)
        ]


@dataclass(frozen=True)
class Scaled(Elementwise):
    """What ``scheme`` is for a tensor, with its values times ``factor``."""

    scheme: Elementwise
    factor: float

    def fill(self, shape: Sequence[int]) -> Fill:
        return scaled_fill(self.scheme.fill(shape), self.factor)

    def pieces(self, shape: Sequence[int]) -> Sequence[Piece]:
        return [
            replace(piece, fill=scaled_fill(piece.fill, self.factor)) for piece in self.scheme.pieces(shape)
        ]


def scaled_fill(fill: Fill, factor: float) -> Fill:
    """The fill of the same distribution, times ``factor`` (not negative)."""
    match fill:
        case Constant(value):
            return Constant(value * factor)
        case Uniform(low, high):
            return Uniform(low * factor, high * factor)
        case Normal(mean, std):
            return Normal(mean * factor, std * factor)
        case TruncatedNormal(mean, std, a, b):
            return TruncatedNormal(mean * factor, std * factor, a * factor, b * factor)
    raise NotImplementedError(f"no way to scale {type(fill).__name__}")


@dataclass(frozen=True)
class Keep(Initializer):
    """Leave the tensor as it is: loaded, frozen or set by hand."""

    random: ClassVar[bool] = False

    def check(self, target: Target, window: Window) -> None:
        pass

    def add(self, plan: Plan, target: Target, key: KeySource, window: Window) -> None:
        pass


@dataclass(frozen=True, eq=False)
class Value(Structured):
    """The given numbers, rounded to the tensor's dtype. Equal to itself alone.

    Args:
        values: an array, a tensor or nested lists, of the (global) shape; kept as a tensor, not copied.
    """

    values: Any
    random: ClassVar[bool] = False

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
        return f"Value({dtype}, shape {tuple(self.values.shape)})"

    def check(self, target: Target, window: Window) -> None:
        if tuple(self.values.shape) != window.global_shape:
            raise ValueError(f"{self} does not fit a tensor of shape {window.global_shape}")
        if isinstance(target, torch.Tensor) and not (target.is_floating_point() or target.is_complex()):
            there_and_back = self.values.to(target.dtype).to(self.values.dtype)
            if not torch.equal(there_and_back, self.values):
                raise ValueError(f"{self} holds numbers that {target.dtype} does not")
        if self.values.is_complex() and isinstance(target, torch.Tensor) and not target.is_complex():
            raise ValueError(f"{self} has imaginary parts, for which {target.dtype} has no room")

    def apply(self, target: Target, key: Key, window: Window) -> None:
        write(target, _cut(self.values, window, target))


def _device(target: Target) -> torch.device:
    return target.device if isinstance(target, torch.Tensor) else torch.device("cpu")


def _float32(rows: int, columns: int, target: Target) -> torch.Tensor:
    """Empty memory on the target's device, float32 whatever PyTorch's default dtype."""
    return torch.empty(rows, columns, dtype=torch.float32, device=_device(target))


def _check_float(scheme: Initializer, target: Target) -> None:
    if dtype_name(target) not in FLOAT_DTYPES:
        raise NotImplementedError(
            f"{type(scheme).__name__} of {dtype_name(target)}: random fills serve {', '.join(FLOAT_DTYPES)}"
        )


def _cut(values: torch.Tensor, window: Window, target: Any) -> torch.Tensor:
    """The part of the global ``values`` that the window holds."""
    return values[tuple(slice(o, o + n) for o, n in zip(window.offsets, target.shape, strict=True))]
