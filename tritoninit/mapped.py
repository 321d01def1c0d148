"""Initializers whose elements are a function of one uniform number each, for small parameters.

The uniforms are the stream's, the same on every device, in every shard. The function is computed in float64
on the host and rounded to float32, from there once more to 16 bits: the results are equal, too, but where two
mathematical libraries differ in the last place of a float64 number that lies between two float32 numbers, one
time in 2**28.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tritoninit.fans import Axes
from tritoninit.fills import Initializer, Uniform
from tritoninit.kernels.lowering import FLOAT_DTYPES, ParameterError, RangeError, make_plain
from tritoninit.keys import Key
from tritoninit.structured import Structured
from tritoninit.targets import Target, dtype_name
from tritoninit.window import Window


@dataclass(frozen=True)
class Mapped(Structured):
    """A function of uniform numbers, element by element. To derive from."""

    @abstractmethod
    def function(self, u: Any) -> Any:
        """The elements, of numbers in [0, 1), as arrays in float64."""

    def of_weight(self, axes: Axes | None, shape: Sequence[int]) -> Initializer:
        return self  # elements do not depend on each other, whatever lies in it

    def check(self, target: Target, window: Window) -> None:
        dtype = dtype_name(target)
        if dtype not in FLOAT_DTYPES:
            what = f"{type(self).__name__} of {dtype}"
            raise NotImplementedError(f"{what}: random fills serve {', '.join(FLOAT_DTYPES)}")
        largest = torch.finfo(getattr(torch, dtype)).max
        ends = self.function(np.array([0.0, 1 - 2.0**-24]))
        if not (np.abs(ends) <= largest).all():
            raise RangeError(f"{dtype} cannot hold the values of {self}, up to {np.abs(ends).max()}")

    def build(self, target: Target, key: Key, window: Window) -> torch.Tensor:
        device = target.device if isinstance(target, torch.Tensor) else torch.device("cpu")
        drawn = torch.empty(tuple(target.shape), dtype=torch.float32, device=device)
        Uniform()(drawn, key=key, window=window)
        values = self.function(drawn.cpu().numpy().astype(np.float64))
        return torch.from_numpy(np.asarray(values).astype(np.float32)).to(device)


def _check_interval(initializer: Any, least: float) -> None:
    make_plain(initializer, "low", "high")
    if not least < initializer.low <= initializer.high < math.inf:
        low, high = initializer.low, initializer.high
        raise ParameterError(f"{least:g} < low <= high < infinity, unlike {low} and {high}")


def _log_uniform(low: float, high: float, u: Any) -> Any:
    """low (high / low)**u, also where no float holds the ratio."""
    ratio = high / low
    values = low * ratio**u if ratio < math.inf else low ** (1 - u) * high**u
    return np.clip(values, low, high)


@dataclass(frozen=True)
class LogUniform(Mapped):
    """Numbers whose logarithms are uniform: low (high / low)**u; rounding may give ``high`` itself."""

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_interval(self, 0.0)

    def function(self, u: Any) -> Any:
        return _log_uniform(self.low, self.high, u)


@dataclass(frozen=True)
class LogOfUniform(Mapped):
    """The logarithms of numbers that are uniform in [low, high).

    Mamba-2's ``A_log`` (Dao and Gu, ICML 2024; state-spaces/mamba, ``A_init_range``), and the biases of
    forget gates by the time that they are to remember (Tallec and Ollivier, ICLR 2018, equation 16).
    """

    low: float = 1.0
    high: float = 16.0

    def __post_init__(self) -> None:
        _check_interval(self, 0.0)

    def function(self, u: Any) -> Any:
        return np.log(self.low + (self.high - self.low) * u)


@dataclass(frozen=True)
class TimeStepBias(Mapped):
    """What softplus makes log-uniform time steps of: dt + log(1 - exp(-dt)).

    The bias of Mamba's ``dt_proj`` and Mamba-2's ``dt_bias``: Gu and Dao 2023, section 3.6;
    state-spaces/mamba.

    Args:
        low: the smallest step.
        high: the largest.
        floor: smaller ones than this are raised to it.
    """

    low: float = 1e-3
    high: float = 0.1
    floor: float = 1e-4

    def __post_init__(self) -> None:
        _check_interval(self, 0.0)
        make_plain(self, "floor")
        if not 0 <= self.floor < math.inf:
            raise ParameterError(f"floor is finite and not negative, unlike {self.floor}")

    def function(self, u: Any) -> Any:
        step = np.maximum(_log_uniform(self.low, self.high, u), self.floor)
        return step + np.log(-np.expm1(-step))


@dataclass(frozen=True)
class RingDecay(Mapped):
    """log(1 / a - 1) of decays whose squares are uniform in [low**2, high**2), so that sigmoid(-x) is a.

    The recurrent parameter of the RG-LRU, whose decays lie evenly on a ring of the unit disk: De et al. 2024
    ("Griffin"), section 2.4, after Orvieto et al., ICML 2023, lemma 3.2.
    """

    low: float = 0.9
    high: float = 0.999

    def __post_init__(self) -> None:
        _check_interval(self, 0.0)
        if not self.high < 1:
            raise ParameterError(f"a decay is less than one, unlike {self.high}")

    def function(self, u: Any) -> Any:
        decay = np.sqrt(self.low**2 + (self.high**2 - self.low**2) * u)
        decay = np.clip(decay, self.low, self.high)  # of which the square of a small one may be zero
        return np.log(1 / decay - 1)
