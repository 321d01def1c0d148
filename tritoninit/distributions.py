"""Other distributions that initialization draws from: of torch.Tensor's methods all that is no fill.

What is compared with a number, or multiplied up to one, are 48 or 64 bits of two or three of the stream's
uniforms, 77 where that is for float64; the rest is as in :mod:`tritoninit.mapped`. Bits are equal on every
device and machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

import numpy as np
import torch

from tritoninit import exact, pairs
from tritoninit.compiled import Compiled, argsort, in_float32
from tritoninit.fans import Axes
from tritoninit.fills import Fill, Initializer, Normal, Uniform
from tritoninit.kernels.lowering import ParameterError, RangeError, integer, make_plain
from tritoninit.keys import Key
from tritoninit.mapped import Independent, Mapped, on_device
from tritoninit.pairs import Pair
from tritoninit.structured import Structured
from tritoninit.targets import Target, device_of, dtype_name
from tritoninit.window import Window

_TWO: Final = (Uniform(), Uniform())
_THREE: Final = (Uniform(), Uniform(), Uniform())


def _of_48_bits(high: Any, low: Any) -> Any:
    """Uniform numbers in (0, 1), in the middles of 2**48 equal intervals."""
    return high + (low + 2.0**-25) * 2.0**-24


def _of_77_bits(high: Any, low: Any) -> Pair:
    """The same of 2**77 intervals, of 24 bits and 53: exactly, and of the same first 48."""
    found: Pair = pairs.of(high) + low * 2.0**-24 + 2.0**-78
    return found


@dataclass(frozen=True)
class Exponential(Mapped):
    """The exponential distribution with the density rate exp(-rate x), as ``torch.Tensor.exponential_``.

    Positive, up to 33.97 / rate, of 48 bits; in float64 up to 54.07 / rate, of 77.

    Formula:
        w = -log(u) / rate
        u ~ U(0, 1)

    Args:
        rate: one over the mean; torch calls it ``lambd``.

    Raises:
        ValueError: a rate that is not positive; a dtype that does not hold the greatest number.
    """

    rate: float = 1.0
    sources: ClassVar[tuple[Fill, ...]] = _TWO

    def __post_init__(self) -> None:
        _make_positive(self, "rate")

    def function(self, high: Any, low: Any) -> Any:
        return -exact.log(_of_48_bits(high, low)) / self.rate

    def compiled(self, dtype: str) -> Compiled | None:
        return in_float32("exponential", dtype, self.rate)

    def precise(self, high: Any, low: Any) -> Pair:
        return -pairs.log(_of_77_bits(high, low)) / self.rate


@dataclass(frozen=True)
class LogNormal(Mapped):
    """exp of N(mean, std**2), as ``torch.Tensor.log_normal_``.

    Formula:
        w = exp(mean + std z)
        z ~ N(0, 1)

    Args:
        mean: of the logarithm.
        std: of the logarithm, positive.

    Raises:
        ValueError: no such distribution; a dtype that does not hold its greatest number.
    """

    mean: float = 1.0
    std: float = 2.0
    sources: ClassVar[tuple[Fill, ...]] = (Normal(),)

    def __post_init__(self) -> None:
        _make_positive(self, "std")
        _make_finite(self, "mean")

    def function(self, z: Any) -> Any:
        with np.errstate(over="ignore"):  # which a check refuses
            return exact.exp(self.mean + self.std * z)

    def compiled(self, dtype: str) -> Compiled | None:
        return in_float32("log_normal", dtype, self.mean, self.std)

    def precise(self, z: Any) -> Pair:
        return pairs.exp(pairs.of(z) * self.std + self.mean)


@dataclass(frozen=True)
class Cauchy(Mapped):
    """The Cauchy distribution, as ``torch.Tensor.cauchy_``.

    It has no mean, and, of 48 bits, numbers up to 1.8e14 scale: more than float16 holds, of which it is
    refused. In float64 they are of 77 bits, and reach 9.7e22 scale.

    Formula:
        w = median + scale tan(pi (u - 1 / 2))
        u ~ U(0, 1)

    Args:
        median: half of the numbers are smaller.
        scale: half of the numbers are nearer to the median than that; torch calls it ``sigma``.

    Raises:
        ValueError: no such distribution; a dtype that does not hold its greatest number.
    """

    median: float = 0.0
    scale: float = 1.0
    sources: ClassVar[tuple[Fill, ...]] = _TWO

    def __post_init__(self) -> None:
        _make_positive(self, "scale")
        _make_finite(self, "median")

    def function(self, high: Any, low: Any) -> Any:
        u = _of_48_bits(high, low)
        turns = np.minimum(u, 1 - u)  # from the nearer end; the tangent is the cotangent of that
        outer = turns <= 0.25
        ends = exact.cotangent(np.where(outer, turns, 0.25))
        inner = np.where(outer, 0.25, 0.5 - turns)  # from the middle, where it has no zero to divide by
        middle = np.where(inner > 0, 1 / exact.cotangent(np.where(inner > 0, inner, 0.25)), 0.0)
        return self.median + self.scale * np.copysign(np.where(outer, ends, middle), u - 0.5)

    def compiled(self, dtype: str) -> Compiled | None:
        return in_float32("cauchy", dtype, self.median, self.scale)

    def precise(self, high: Any, low: Any) -> Pair:
        u = _of_77_bits(high, low)
        below = u.high < 0.5  # as there is no number in the middle itself
        turns = pairs.chosen(below, u, -u + 1.0)
        outer = turns.high <= 0.25
        tangent = pairs.cotangent(pairs.chosen(outer, turns, -turns + 0.5))
        tangent = pairs.chosen(outer, tangent, pairs.of(1.0) / tangent)
        return pairs.chosen(below, -tangent, tangent) * self.scale + self.median


@dataclass(frozen=True)
class Geometric(Mapped):
    """How many trials the first success takes, from 1, as ``torch.Tensor.geometric_``; in floats.

    Of 48 bits, in float64 of 77.

    Formula:
        w = ceil(log(u) / log(1 - p))
        u ~ U(0, 1)

    Args:
        p: the probability of success, between 0 and 1.

    Raises:
        ValueError: no such probability; a dtype that does not hold the greatest number.
    """

    p: float
    sources: ClassVar[tuple[Fill, ...]] = _TWO

    def __post_init__(self) -> None:
        make_plain(self, "p")
        if not 0 < self.p < 1:
            raise ParameterError(f"geometric_ expects p to be in (0, 1), but got p={self.p}")

    def function(self, high: Any, low: Any) -> Any:
        failing = exact.log1p(np.array([-self.p]))
        return np.maximum(np.ceil(exact.log(_of_48_bits(high, low)) / failing), 1.0)

    def compiled(self, dtype: str) -> Compiled | None:
        return in_float32("geometric", dtype, float(exact.log1p(np.array([-self.p]))[0]))

    def precise(self, high: Any, low: Any) -> Pair:
        trials = pairs.log(_of_77_bits(high, low)) / pairs.log(pairs.of([-self.p]) + 1.0)
        rounded = np.ceil(trials.high)
        more = (rounded == trials.high) & (trials.low > 0)
        return pairs.of(np.maximum(rounded + more, 1.0))


@dataclass(frozen=True)
class Bernoulli(Independent):
    """1 with probability ``p`` and 0 otherwise, as ``torch.Tensor.bernoulli_``. Serves every dtype.

    Formula:
        w = 1 "where" u < p, 0 "elsewhere"
        u ~ U(0, 1)

    Args:
        p: in [0, 1], exactly to 2**-48.

    Raises:
        ValueError: no such probability.
    """

    p: float = 0.5
    sources: ClassVar[tuple[Fill, ...]] = _TWO

    def __post_init__(self) -> None:
        make_plain(self, "p")
        if not 0 <= self.p <= 1:
            raise ParameterError(f"bernoulli_ expects p to be in [0, 1], but got p={self.p}")

    def check(self, target: Target, window: Window) -> None:
        pass

    def values(self, drawn: Sequence[Any], dtype: str) -> Any:
        high, low = (each.astype(np.float64) for each in drawn)
        return (high + low * 2.0**-24 < self.p).astype(np.uint8)

    def compiled(self, dtype: str) -> Compiled | None:
        return Compiled("bernoulli", (self.p,), torch.uint8)


@dataclass(frozen=True)
class RandInt(Independent):
    """Integers from ``low`` to ``high`` - 1, all as likely, as ``torch.Tensor.random_`` and ``randint``.

    Of words of 64 bits: what is likelier is so by less than one part in 2**64 / (high - low). Serves every
    dtype that holds them all.

    Formula:
        w = low + floor((high - low) u)
        u ~ U(0, 1)

    Args:
        low: the least.
        high: one more than the greatest. None: what the dtype holds, of floats 2**24 (float32), 2**11
            (float16), 2**8 (bfloat16) or 2**53 (float64) included, as ``random_`` has it.

    Raises:
        ValueError: no integer is between; a dtype that does not hold them all.
    """

    low: int = 0
    high: int | None = None
    sources: ClassVar[tuple[Fill, ...]] = _THREE

    def __post_init__(self) -> None:
        object.__setattr__(self, "low", integer("low", self.low))
        if self.high is None:
            return
        object.__setattr__(self, "high", integer("high", self.high))
        if self.low >= self.high:
            raise ParameterError(
                f"random_ expects 'from' to be less than 'to', but got {self.low} >= {self.high}"
            )

    @classmethod
    def between(cls, *bounds: int | None) -> RandInt:
        """By what ``torch.Tensor.random_`` is given: nothing, one bound above, or two.

        Args:
            bounds: integers; None as the second is what the dtype holds.

        Returns:
            The distribution.

        Raises:
            TypeError: more than two bounds, or one that is no integer.
            ValueError: no integer is between.

        >>> RandInt.between(5), RandInt.between(-2, 2), RandInt.between()
        (RandInt(low=0, high=5), RandInt(low=-2, high=2), RandInt(low=0, high=None))
        """
        return cls(*lowest_and_end(bounds))  # type: ignore[arg-type]  # None as the first is refused there

    def check(self, target: Target, window: Window) -> None:
        self._range(dtype_name(target))

    def values(self, drawn: Sequence[Any], dtype: str) -> Any:
        low, high = self._range(dtype)
        steps = _times_high(_words(drawn), high - low)
        return (steps + np.array([low % 2**64], np.uint64)).view(np.int64)

    def compiled(self, dtype: str) -> Compiled | None:
        low, high = self._range(dtype)
        return Compiled("integers", (low % 2**64, (high - low) % 2**64), torch.int64)

    def _range(self, dtype: str) -> tuple[int, int]:
        """The least, and one more than the greatest; raises ValueError if a dtype does not hold all."""
        least, most = exact_integers(dtype)
        high = most + 1 if self.high is None else self.high
        if self.low < least or high - 1 > most or self.low >= high:
            raise RangeError(f"{dtype} does not hold the integers from {self.low} to {high - 1}")
        return self.low, high


def lowest_and_end(bounds: tuple[int | None, ...]) -> tuple[int | None, int | None]:
    """The least, and one more than the greatest or None, of what ``torch.Tensor.random_`` is given."""
    if len(bounds) > 2:
        raise TypeError(f"two bounds at most, not {bounds}")
    low, high = bounds if len(bounds) == 2 else (0, *(bounds or (None,)))
    return low, high


@dataclass(frozen=True)
class Permutation(Structured):
    """The indices 0 to n - 1 in random order, along the last dimension; others number such permutations.

    The order of n words of 64 bits; of equal ones the first comes first. What holds a part of a permutation
    orders all of its words. Serves every dtype that holds n - 1.

    Formula:
        w = 0, 1, "to" n - 1 "in any order, all as likely"
    """

    def of_weight(self, axes: Axes | None, shape: Sequence[int]) -> Initializer:
        return self

    def check(self, target: Target, window: Window) -> None:
        if not window.global_shape:
            raise ValueError("indices lie along the last dimension, and there is none")
        size, dtype = window.global_shape[-1], dtype_name(target)
        if size - 1 > exact_integers(dtype)[1]:
            raise RangeError(f"{dtype} does not hold the indices from 0 to {size - 1}")

    def build(self, target: Target, key: Key, window: Window) -> torch.Tensor:
        *others, held = target.shape
        size, begin = window.global_shape[-1], window.offsets[-1]
        rows = torch.empty((), dtype=torch.uint64, device=device_of(target)).expand(*others, size)
        words = _WORDS.build(rows, key, Window(window.global_shape, (*window.offsets[:-1], 0)))
        order = argsort(words.cpu().numpy().view(np.uint64))
        return on_device(order[..., begin : begin + held], target)


_WORDS: Final = RandInt(0, 2**64)


def exact_integers(dtype: str) -> tuple[int, int]:
    """The least and the greatest integer up to which a dtype holds all.

    Raises:
        NotImplementedError: torch does not say.
    """
    kind: Any = getattr(torch, dtype, None)
    if kind == torch.bool:
        return 0, 1
    if kind is not None and (kind.is_floating_point or kind.is_complex):
        most = int(2 / torch.finfo(kind).eps)
        return -most, most
    try:
        info = torch.iinfo(kind)
    except TypeError as error:
        raise NotImplementedError(f"integers in {dtype}: torch does not say which it holds") from error
    return info.min, info.max


def _words(drawn: Sequence[Any]) -> Any:
    """Words of 64 bits, of three uniforms of 24 bits each."""
    high, middle, low = ((each * np.float32(2**24)).astype(np.uint64) for each in drawn)
    return high << np.uint64(40) | middle << np.uint64(16) | low >> np.uint64(8)


def _times_high(words: Any, count: int) -> Any:
    """floor(w count / 2**64) of words, for counts up to 2**64: long multiplication by halves."""
    if count == 2**64:
        return words
    half, mask = np.uint64(32), np.uint64(2**32 - 1)
    low, high = np.uint64(count & (2**32 - 1)), np.uint64(count >> 32)
    first, second = words & mask, words >> half
    carried = second * low + (first * low >> half)
    middle = first * high + (carried & mask)
    return second * high + (carried >> half) + (middle >> half)


def _make_finite(initializer: Any, name: str) -> None:
    make_plain(initializer, name)
    if not math.isfinite(getattr(initializer, name)):
        raise ParameterError(f"{name} is finite, unlike {getattr(initializer, name)}")


def _make_positive(initializer: Any, name: str) -> None:
    _make_finite(initializer, name)
    if getattr(initializer, name) <= 0:
        raise ParameterError(f"{name} is positive, unlike {getattr(initializer, name)}")
