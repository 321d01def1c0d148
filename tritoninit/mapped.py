"""Initializers whose elements are a function of random numbers each, for small parameters.

The random numbers are the stream's, the same on every device, in every shard. The function is computed on the
host in float64, of sums, products and quotients alone (:mod:`tritoninit.exact`), and rounded to float32, from
there once more to 16 or 8 bits: the results are equal, too. For float64 tensors there are random numbers in
more digits, of which the function is computed in pairs of float64 (:mod:`tritoninit.pairs`) and rounded once:
``kernels/README.md`` says how far from the truth.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final

import numpy as np
import torch

from tritoninit import exact, pairs
from tritoninit.compiled import Compiled, filled, in_float32
from tritoninit.fans import Axes
from tritoninit.fills import Fill, Initializer, Uniform
from tritoninit.kernels.lowering import (
    ParameterError,
    RangeError,
    farthest_normal,
    make_plain,
)
from tritoninit.keys import Key
from tritoninit.pairs import Pair
from tritoninit.plan import Plan
from tritoninit.structured import Structured, check_real
from tritoninit.targets import Target, device_of, dtype_name, write
from tritoninit.window import Window

# Elements at a time, whose intermediate numbers a processor's cache holds.
_CHUNK: Final = {torch.float32: 1 << 16, torch.float64: 1 << 13}
_LEAST: Final = 1e-300  # of which kernels have the logarithm: those of subnormal numbers they have not
_BITS: Final = {torch.float32: 24, torch.float64: 53}


@dataclass(frozen=True)
class Independent(Structured):
    """Elements that are independent, each of numbers of its own from the stream.

    Attributes:
        sources: what is drawn for each element: the first with the key itself, others with
            ``key.fold_in("source").fold_in(number)``.
    """

    sources: ClassVar[tuple[Fill, ...]] = (Uniform(),)

    @abstractmethod
    def values(self, drawn: Sequence[Any], dtype: str) -> Any:
        """The elements for a tensor of a dtype, of float32 arrays, one a source."""

    def compiled(self, dtype: str) -> Compiled | None:
        """The same as kernels have it, for a tensor of a dtype; not asked of a class that has none itself."""
        return None

    def of_weight(self, axes: Axes | None, shape: Sequence[int]) -> Initializer:
        return self  # whatever lies in it

    def add_parts(self, plan: Plan, parts: Sequence[tuple[Target, Window]], key: Key) -> None:
        for target, window in parts:
            plan.afterwards(partial(self._set, target, key, window))

    def _set(self, target: Target, key: Key, window: Window) -> None:
        made = self._compiled(target)
        if made is None or not filled(target, made, self._keys(key), window):
            write(target, self.build(target, key, window))

    def _compiled(self, target: Target) -> Compiled | None:
        return self.compiled(dtype_name(target)) if "compiled" in vars(type(self)) else None

    def _keys(self, key: Key) -> list[Key]:
        """Of each source."""
        others = range(1, len(self.sources))
        return [key, *(key.fold_in("source").fold_in(number) for number in others)]

    def build(self, target: Target, key: Key, window: Window) -> torch.Tensor:
        if (made := self._compiled(target)) is not None:
            memory = torch.empty(tuple(target.shape), dtype=made.dtype, device="cpu")
            if filled(memory, made, self._keys(key), window):
                return memory.to(device_of(target))
        dtype = dtype_name(target)
        flat = [each.reshape(-1) for each in self.drawn(target, key, window)]
        chunk = _CHUNK[self.drawn_in(dtype)[-1]]
        parts = [
            self.values([each[begin : begin + chunk] for each in flat], dtype)
            for begin in range(0, max(flat[0].size, 1), chunk)
        ]
        return on_device(np.concatenate(parts), target)

    def drawn_in(self, dtype: str) -> Sequence[torch.dtype]:
        """In which dtype each source is drawn, for a tensor of a dtype."""
        return (torch.float32,) * len(self.sources)

    def drawn(self, target: Target, key: Key, window: Window) -> list[Any]:
        """What each source has for a part of a tensor, on the host."""
        found = []
        for source, own, dtype in zip(
            self.sources, self._keys(key), self.drawn_in(dtype_name(target)), strict=True
        ):
            memory = torch.empty(tuple(target.shape), dtype=dtype, device=device_of(target))
            source(memory, key=own, window=window)
            found.append(memory.cpu().numpy())
        return found


@dataclass(frozen=True)
class Mapped(Independent):
    """A function of random numbers, element by element: real numbers of any float dtype. To derive from."""

    @abstractmethod
    def function(self, *drawn: Any) -> Any:
        """The elements, of what is drawn from each source, as arrays in float64.

        Args:
            drawn: an array a source, in float64.

        Returns:
            The elements, in float64, of the same shape.
        """

    def precise(self, *drawn: Any) -> Pair:
        """The same to the last places of float64, of sources of which the last has 53 bits, others 24.

        Args:
            drawn: an array a source, in float64.

        Returns:
            The elements, as pairs of float64.

        Raises:
            NotImplementedError: a class that has none, of which float64 is refused.
        """
        raise NotImplementedError(f"{type(self).__name__} of float64: its function has no more digits")

    def check(self, target: Target, window: Window) -> None:
        dtype = dtype_name(target)
        check_real(type(self).__name__, target)
        ends = np.abs(self.ends(dtype))
        if not (ends <= torch.finfo(getattr(torch, dtype)).max).all():
            largest = np.nan_to_num(ends, nan=math.inf, posinf=math.inf).max()
            raise RangeError(f"{dtype} cannot hold the values of {self}, up to {largest:g}")

    def ends(self, dtype: str) -> Any:
        """Between what numbers elements for a tensor of a dtype lie, in either order, not yet rounded.

        Args:
            dtype: as "float32".

        Returns:
            Two float64 numbers; where one is out of range, infinite or NaN.
        """
        pairs_of_ends = [
            np.array(_ends(*each)) for each in zip(self.sources, self.drawn_in(dtype), strict=True)
        ]
        with np.errstate(all="ignore"):  # of what is out of range
            return self._computed(pairs_of_ends, dtype)

    def drawn_in(self, dtype: str) -> Sequence[torch.dtype]:
        last = torch.float64 if dtype == "float64" else torch.float32
        return (*(torch.float32 for _ in self.sources[1:]), last)

    def values(self, drawn: Sequence[Any], dtype: str) -> Any:
        found = self._computed(drawn, dtype)
        return found if dtype == "float64" else found.astype(np.float32)

    def _computed(self, drawn: Sequence[Any], dtype: str) -> Any:
        """The elements in float64, of which those of fewer bits are rounded."""
        wide = [each.astype(np.float64) for each in drawn]
        return pairs.rounded(self.precise(*wide)) if dtype == "float64" else self.function(*wide)


def _ends(source: Fill, dtype: torch.dtype) -> tuple[float, float]:
    """Between what numbers those of a source lie."""
    if isinstance(source, Uniform):
        return source.low, source.high - 2.0 ** -_BITS[dtype]
    farthest = farthest_normal(str(dtype).removeprefix("torch."))
    return -farthest, farthest


def on_device(values: Any, target: Target) -> torch.Tensor:
    """An array as a tensor of a target's shape, on its device."""
    return torch.from_numpy(values).reshape(tuple(target.shape)).to(device_of(target))


def _check_interval(initializer: Any, least: float) -> None:
    make_plain(initializer, "low", "high")
    if not least < initializer.low <= initializer.high < math.inf:
        low, high = initializer.low, initializer.high
        raise ParameterError(f"{least:g} < low <= high < infinity, unlike {low} and {high}")


def _log_uniform(low: float, high: float, u: Any) -> Any:
    """low (high / low)**u, also where no float holds the ratio."""
    first, span = _logarithms(low, high)
    return np.clip(exact.exp(first + span * u), low, high)


def _logarithms(low: float, high: float) -> tuple[float, float]:
    """Of the first, and how far from it that of the other is."""
    first, last = exact.log(np.array([low, high]))
    return float(first), float(last - first)


def _precise_log_uniform(low: float, high: float, u: Any) -> Pair:
    first, last = pairs.log(pairs.of([low])), pairs.log(pairs.of([high]))
    return pairs.within(pairs.exp((last - first) * u + first), low, high)


@dataclass(frozen=True)
class LogUniform(Mapped):
    """Numbers whose logarithms are uniform; rounding may give ``high`` itself.

    Formula:
        w = low (high / low)**u
        u ~ U(0, 1)

    Args:
        low: the least number, positive.
        high: the greatest.

    Raises:
        ParameterError: not 0 < low <= high < infinity.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        _check_interval(self, 0.0)

    def function(self, u: Any) -> Any:
        return _log_uniform(self.low, self.high, u)

    def compiled(self, dtype: str) -> Compiled | None:
        return in_float32("log_uniform", dtype, *_logarithms(self.low, self.high), self.low, self.high)

    def precise(self, u: Any) -> Pair:
        return _precise_log_uniform(self.low, self.high, u)


@dataclass(frozen=True)
class LogOfUniform(Mapped):
    """The logarithms of numbers that are uniform in [low, high).

    Mamba-2's ``A_log`` (state-spaces/mamba, ``A_init_range``), and the biases of forget gates by the time
    that they are to remember (Tallec and Ollivier, ICLR 2018, equation 16).

    Formula:
        w = log(low + (high - low) u)
        u ~ U(0, 1)

    Source:
        Dao and Gu, ICML 2024; Tallec and Ollivier, ICLR 2018

    Args:
        low: the least number whose logarithm may come, positive.
        high: what all of these are below.

    Raises:
        ParameterError: not 0 < low <= high < infinity.
    """

    low: float = 1.0
    high: float = 16.0

    def __post_init__(self) -> None:
        _check_interval(self, 0.0)

    def function(self, u: Any) -> Any:
        return exact.log(self.low + (self.high - self.low) * u)

    def compiled(self, dtype: str) -> Compiled | None:
        if self.low < _LEAST:
            return None
        return in_float32("log_of_uniform", dtype, self.low, self.high - self.low)

    def precise(self, u: Any) -> Pair:
        return pairs.log((pairs.of(self.high) - self.low) * u + self.low)


@dataclass(frozen=True)
class TimeStepBias(Mapped):
    """What softplus makes log-uniform time steps of.

    The bias of Mamba's ``dt_proj``, and Mamba-2's ``dt_bias``.

    Formula:
        w = d + log(1 - exp(-d))
        d = max(floor, low (high / low)**u)
        u ~ U(0, 1)

    Source:
        Gu and Dao 2023, section 3.6; state-spaces/mamba

    Args:
        low: the smallest step.
        high: the largest.
        floor: smaller ones than this are raised to it.

    Raises:
        ParameterError: not 0 < low <= high < infinity, or a floor that is negative.
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
        return step + exact.log(-exact.expm1(-step))

    def compiled(self, dtype: str) -> Compiled | None:
        if max(self.low, self.floor) < _LEAST:
            return None
        numbers = (*_logarithms(self.low, self.high), self.low, self.high, self.floor)
        return in_float32("time_step_bias", dtype, *numbers)

    def precise(self, u: Any) -> Pair:
        step = pairs.within(_precise_log_uniform(self.low, self.high, u), self.floor, math.inf)
        return step + pairs.log(-pairs.expm1(-step))


@dataclass(frozen=True)
class RingDecay(Mapped):
    """What sigmoid makes decays of that lie evenly on a ring of the unit disk: sigmoid(-w) is the decay a.

    The recurrent parameter of the RG-LRU.

    Formula:
        w = log(1 / a - 1)
        a**2 = low**2 + (high**2 - low**2) u
        u ~ U(0, 1)

    Source:
        De et al. 2024 ("Griffin"), section 2.4; Orvieto et al., ICML 2023, lemma 3.2

    Args:
        low: the least decay, positive.
        high: what all decays are below; less than one.

    Raises:
        ParameterError: not 0 < low <= high < 1.
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
        return exact.log(1 / decay - 1)

    def compiled(self, dtype: str) -> Compiled | None:
        square = self.low**2
        return in_float32("ring_decay", dtype, square, self.high**2 - square, self.low, self.high)

    def precise(self, u: Any) -> Pair:
        least = pairs.of(self.low) / self.high  # of decays that are all divided by the greatest
        square = least * least
        decay = pairs.within(pairs.sqrt((-square + 1.0) * u + square) * self.high, self.low, self.high)
        return pairs.log(-decay + 1.0) - pairs.log(decay)
