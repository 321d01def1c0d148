"""Initializers with names: what the literature calls them, as values that lower to fills."""

from __future__ import annotations

import math
import sys
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar

import torch

from tritoninit.fans import TORCH_AXES, Axes
from tritoninit.fills import (
    Constant,
    Elementwise,
    Fill,
    Initializer,
    Normal,
    Piece,
    TruncatedNormal,
    Uniform,
    sole_fill,
)
from tritoninit.kernels.lowering import (
    NumberError,
    ParameterError,
    RangeError,
    integers,
    make_plain,
    plain,
    scalar,
    shown,
)

_ZERO, _ONE = Constant(0.0), Constant(1.0)
_LINEAR = ("linear", *(f"conv{t}{d}d" for t in ("", "_transpose") for d in (1, 2, 3)))
# The standard deviation of a standard normal truncated to [-2, 2].
_TRUNCATED_STD = 0.87962566103423978
_DEFAULT_SLOPE = 0.01  # of a leaky ReLU, here and in torch.nn
_MODES = ("fan_in", "fan_out", "fan_avg", "fan_geo_avg")
_DISTRIBUTIONS = ("uniform", "normal", "truncated_normal")


def calculate_gain(nonlinearity: str, param: float | None = None) -> float:
    """The gain that keeps a signal's scale through a nonlinearity, as ``torch.nn.init.calculate_gain``.

    Linear, convolutions and sigmoid 1, tanh 5/3, relu sqrt(2), leaky_relu sqrt(2 / (1 + slope**2)) with
    ``param`` the slope (0.01 if None), selu 3/4.

    Args:
        nonlinearity: torch's name of it, as "relu" or "conv2d".
        param: the slope of leaky_relu; of no other does it count.

    Returns:
        The factor for a standard deviation.

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
        slope = _DEFAULT_SLOPE if param is None else param
        if isinstance(slope, bool) or not isinstance(slope, (int, float)):
            raise NumberError(f"negative_slope {param} not a valid number")
        try:
            return math.sqrt(2.0 / (1 + slope**2))
        except OverflowError as error:
            raise RangeError(f"negative_slope is out of range: {shown(slope)}") from error
    if nonlinearity == "selu":
        return 3.0 / 4
    raise ValueError(f"Unsupported nonlinearity {nonlinearity}")


@dataclass(frozen=True)
class FanScaled(Initializer):
    """An initializer whose scale comes from the weight's fans.

    Args:
        axes: what the weight's dimensions mean. None is (out, in, *receptive field), as PyTorch reads every
            weight, in a call on a tensor, and in rules for a model what the module that owns it says
            (:func:`tritoninit.fans.module_axes`).

    Raises:
        TypeError: axes that are none.
    """

    axes: Axes | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.axes is not None and not isinstance(self.axes, Axes):
            raise TypeError(f"axes are tritoninit.Axes, not {self.axes!r}")

    goes_short: ClassVar[bool] = True

    def sole(self, tensor: torch.Tensor) -> Fill | None:
        kind = type(self)
        if kind.pieces is not FanScaled.pieces or kind.add is not Initializer.add:
            return None
        return _sole(self, tensor.shape)

    @abstractmethod
    def scaled(self, fan_in: float, fan_out: float) -> Fill:
        """The fill of a weight with these fans.

        Args:
            fan_in: inputs of an output.
            fan_out: outputs that an input reaches.

        Returns:
            The fill.
        """

    def of_weight(self, axes: Axes | None, shape: Sequence[int]) -> Initializer:
        if self.axes is not None or axes is TORCH_AXES or axes == TORCH_AXES:
            return self
        if axes is None:
            raise ValueError(f"which dimensions of shape {tuple(shape)} fan in is not known: give axes=")
        return replace(self, axes=axes)

    def pieces(self, shape: Sequence[int]) -> Sequence[Piece]:
        return _pieces(self, integers("shape", shape))


_sole = lru_cache(maxsize=4096)(sole_fill)


@lru_cache(maxsize=4096)
def goes_by_shape(kind: type[Initializer]) -> bool:
    """Whether an initializer of a class is the same for all tensors of a shape, dtype and device.

    So are those of this library that are made of no others. Somebody else's may go by a tensor's strides, by
    what is in it, by the key, or by how often it was asked.
    """
    return issubclass(kind, (Elementwise, FanScaled, Fill)) and kind.__module__.partition(".")[0] == _OURS


_OURS = __name__.partition(".")[0]


@lru_cache(maxsize=4096)
def _pieces(initializer: FanScaled, shape: tuple[int, ...]) -> Sequence[Piece]:
    """The fills of the parts of a weight; one where they all have the same. Models repeat their shapes."""
    axes = initializer.axes or TORCH_AXES
    parts = axes.split(shape)
    fills = [initializer.scaled(*axes.fans(part)) for *_, part in parts]
    if len(set(fills)) == 1:
        return fills[0].pieces(shape)
    nowhere = (0,) * len(shape)
    return tuple(
        Piece(fill, (*nowhere[:axis], start, *nowhere[axis + 1 :]), part)
        for fill, (axis, start, part) in zip(fills, parts, strict=True)
    )


@dataclass(frozen=True)
class VarianceScaling(FanScaled):
    """Zero mean and variance ``scale / fan``: the one rule that Xavier's, Kaiming's and LeCun's specialise.

    As ``jax.nn.initializers.variance_scaling`` and ``keras.initializers.VarianceScaling`` have it. Their
    truncated normals, and timm's, are cut at two standard deviations and divided by 0.8796, the standard
    deviation of what is left, so that the variance is scale / fan; :class:`~tritoninit.TruncatedNormal`,
    ``torch.nn.init.trunc_normal_`` and plain truncated normals of JAX and Keras are not divided.

    Formula:
        w ~ U(-b, b), b = sqrt(3 scale / fan)
        "or" w ~ N(0, scale / fan)
        "or" w ~ N(0, s**2) "on" [-2 s, 2 s], s = sqrt(scale / fan) / 0.8796

    Source:
        LeCun, Bottou, Orr and Müller 1998, "Efficient BackProp" (scale 1, fan_in)

    Args:
        scale: the variance times the fan.
        mode: "fan_in", "fan_out", "fan_avg", their mean, or "fan_geo_avg", the root of their product.
        distribution: "uniform" on +-sqrt(3 variance), "normal" (Keras' "untruncated_normal" is the same), or
            "truncated_normal": a normal cut at two of its standard deviations and widened so that the
            variance is still scale / fan. What Keras calls "normal" is the last.
        axes: see :class:`FanScaled`; with them weights of one dimension, or of none, have fans, too.

    Raises:
        ParameterError: a scale that is negative or not finite, an unknown mode or distribution.

    >>> lecun_normal = VarianceScaling(1.0, "fan_in", "truncated_normal")
    >>> VarianceScaling(2.0, "fan_in", "untruncated_normal")
    VarianceScaling(axes=None, scale=2.0, mode='fan_in', distribution='normal')
    """

    scale: float = 1.0
    mode: str = "fan_in"
    distribution: str = "truncated_normal"

    def __post_init__(self) -> None:
        super().__post_init__()
        make_plain(self, "scale")
        if not 0 <= self.scale < math.inf:
            raise ParameterError(f"variance scaling needs a finite scale >= 0, not {self.scale}")
        if self.mode not in _MODES:
            raise ParameterError(f"Mode {self.mode} not supported, please use one of {list(_MODES)}")
        if self.distribution == "untruncated_normal":
            object.__setattr__(self, "distribution", "normal")
        if self.distribution not in _DISTRIBUTIONS:
            raise ParameterError(
                f"unknown distribution {self.distribution!r}: uniform, normal or truncated_normal"
            )

    def scaled(self, fan_in: float, fan_out: float) -> Fill:
        fan = _fan(self.mode, fan_in, fan_out)
        if not fan:
            return Constant(0.0)  # no element, or nothing fans in: there is no variance to scale
        variance = self.scale / fan
        if self.distribution == "uniform":
            bound = math.sqrt(3.0 * variance)
            return Uniform(-bound, bound)
        std = math.sqrt(variance)
        if self.distribution == "normal":
            return Normal(0.0, std)
        if not std:
            return Constant(0.0)
        wide = std / _TRUNCATED_STD
        return TruncatedNormal(0.0, wide, -2 * wide, 2 * wide)


def _fan(mode: str, fan_in: float, fan_out: float) -> float:
    if mode == "fan_in":
        return fan_in
    if mode == "fan_out":
        return fan_out
    return (fan_in + fan_out) / 2 if mode == "fan_avg" else math.sqrt(fan_in * fan_out)


@dataclass(frozen=True)
class Zeros(Elementwise):
    """Every element 0. Serves every dtype.

    Formula:
        w = 0
    """

    random = False

    def fill(self, shape: Sequence[int]) -> Fill:
        return _ZERO


@dataclass(frozen=True)
class Ones(Elementwise):
    """Every element 1. Serves every dtype.

    Formula:
        w = 1
    """

    random = False

    def fill(self, shape: Sequence[int]) -> Fill:
        return _ONE


@dataclass(frozen=True)
class XavierUniform(FanScaled):
    """Uniform, so wide that signals and gradients both keep their variance through linear layers and tanh.

    Formula:
        w ~ U(-a, a)
        a = gain sqrt(6 / (fan_in + fan_out))

    Source:
        Glorot and Bengio, AISTATS 2010, equation 16

    Args:
        gain: for what follows the layer, see :func:`calculate_gain`; not negative.
        axes: see :class:`FanScaled`.

    Raises:
        ParameterError: a gain that is negative or not finite.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        make_plain(self, "gain")
        _check_gain(self.gain)

    def scaled(self, fan_in: float, fan_out: float) -> Fill:
        return _of_gain(self.gain, "uniform", fan_in, fan_out)


@dataclass(frozen=True)
class XavierNormal(FanScaled):
    """Normal, so wide that signals and gradients both keep their variance through linear layers and tanh.

    Formula:
        w ~ N(0, std**2)
        std = gain sqrt(2 / (fan_in + fan_out))

    Source:
        Glorot and Bengio, AISTATS 2010

    Args:
        gain: for what follows the layer, see :func:`calculate_gain`; not negative.
        axes: see :class:`FanScaled`.

    Raises:
        ParameterError: a gain that is negative or not finite.
    """

    gain: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        make_plain(self, "gain")
        _check_gain(self.gain)

    def scaled(self, fan_in: float, fan_out: float) -> Fill:
        return _of_gain(self.gain, "normal", fan_in, fan_out)


@dataclass(frozen=True)
class KaimingUniform(FanScaled):
    """Uniform, so wide that a signal keeps its variance through layers that are followed by a (leaky) ReLU.

    Formula:
        w ~ U(-b, b)
        b = gain sqrt(3 / fan)
        gain = sqrt(2 / (1 + a**2))

    Source:
        He, Zhang, Ren and Sun, ICCV 2015, section 2.2

    Args:
        a: the negative slope of the leaky ReLU that follows the layer; 0.01 if None.
        mode: "fan_in" keeps the forward pass's variance, "fan_out" the backward pass's.
        nonlinearity: what follows the layer, see :func:`calculate_gain`.
        axes: see :class:`FanScaled`.

    Raises:
        ParameterError: an unknown mode, or a slope that is no number.
        ValueError: an unknown nonlinearity.
    """

    a: float = 0.0
    mode: str = "fan_in"
    nonlinearity: str = "leaky_relu"

    def __post_init__(self) -> None:
        super().__post_init__()
        _make_slope(self)
        _kaiming(self)

    def scaled(self, fan_in: float, fan_out: float) -> Fill:
        return VarianceScaling(*_kaiming(self), "uniform").scaled(fan_in, fan_out)


@dataclass(frozen=True)
class KaimingNormal(FanScaled):
    """Normal, so wide that a signal keeps its variance through layers that are followed by a (leaky) ReLU.

    Formula:
        w ~ N(0, std**2)
        std = gain / sqrt(fan)
        gain = sqrt(2 / (1 + a**2))

    Source:
        He, Zhang, Ren and Sun, ICCV 2015, equations 10 and 14

    Args:
        a: the negative slope of the leaky ReLU that follows the layer; 0.01 if None.
        mode: "fan_in" keeps the forward pass's variance, "fan_out" the backward pass's.
        nonlinearity: what follows the layer, see :func:`calculate_gain`.
        axes: see :class:`FanScaled`.

    Raises:
        ParameterError: an unknown mode, or a slope that is no number.
        ValueError: an unknown nonlinearity.
    """

    a: float = 0.0
    mode: str = "fan_in"
    nonlinearity: str = "leaky_relu"

    def __post_init__(self) -> None:
        super().__post_init__()
        _make_slope(self)
        _kaiming(self)

    def scaled(self, fan_in: float, fan_out: float) -> Fill:
        return VarianceScaling(*_kaiming(self), "normal").scaled(fan_in, fan_out)


def _check_gain(gain: float) -> None:
    if not 0 <= gain < math.inf:
        raise ParameterError(f"gain must be finite and not negative: {gain}")


def _of_gain(gain: float, distribution: str, fan_in: float, fan_out: float) -> Fill:
    """Xavier's, also where the square of the gain is no normal number."""
    square, power = gain * gain, 0
    if gain and not sys.float_info.min <= square < math.inf:
        mantissa, power = math.frexp(gain)
        square = mantissa * mantissa
    fill = VarianceScaling(square, "fan_avg", distribution).scaled(fan_in, fan_out)
    return fill.times(2.0**power) if power else fill


def _make_slope(initializer: KaimingUniform | KaimingNormal) -> None:
    """Have the slope be a float. A Boolean is none for a leaky ReLU, and torch looks at no other's."""
    given: Any = initializer.a
    if type(given) is float:  # as most are: this is done at every call
        return
    slope = _DEFAULT_SLOPE if given is None else given
    if isinstance(scalar("a", slope), bool) and initializer.nonlinearity == "leaky_relu":
        raise NumberError(f"a must be a number, not {slope}")
    object.__setattr__(initializer, "a", plain("a", slope))


def _kaiming(initializer: KaimingUniform | KaimingNormal) -> tuple[float, str]:
    """The scale and the mode of the variance scaling that it is."""
    mode = initializer.mode.lower()
    if mode not in ("fan_in", "fan_out"):
        raise ParameterError(f"Mode {mode} not supported, please use one of ['fan_in', 'fan_out']")
    scale = calculate_gain(initializer.nonlinearity, initializer.a) ** 2
    if not scale >= 0:
        raise ParameterError(f"the negative slope must be a number, not {initializer.a}")
    return scale, mode
