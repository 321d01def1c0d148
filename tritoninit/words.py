"""Initializers, names and numbers in few words, as tables and findings have them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

from tritoninit.combinators import Stacked, StochasticallyRounded, part_shape
from tritoninit.fills import Constant, Fill, Initializer, Normal, TruncatedNormal, Uniform, sole_fill
from tritoninit.initializers import FanScaled, Ones, Zeros
from tritoninit.structured import Value

if TYPE_CHECKING:
    from tritoninit.registry import Status

_SIGMA = "\N{GREEK SMALL LETTER SIGMA}"
_TIMES = "\N{MULTIPLICATION SIGN}"
_NUMBER = re.compile(r"\d+")


def lowered(initializer: Initializer, shape: Sequence[int]) -> Initializer:
    """The one fill that an initializer is for a tensor of ``shape``; itself if there is none, or several."""
    return sole_fill(initializer, shape) or initializer


def describe(initializer: Initializer, shape: Sequence[int]) -> str:
    """An initializer's name and the numbers that it comes to for a tensor of ``shape``.

    >>> describe(Uniform(0.0, 0.5), (2, 3))
    'Uniform [0, 0.5)'
    """
    if type(initializer).__str__ is not object.__str__:
        return str(initializer)  # which has words of its own
    if isinstance(initializer, StochasticallyRounded):
        return f"{describe(initializer.initializer, shape)}, stochastic"
    name = type(initializer).__name__
    if isinstance(initializer, (Zeros, Ones)):
        return name
    fill = lowered(initializer, shape)
    if isinstance(fill, Fill):
        return f"{name} {_numbers(fill)}"
    if isinstance(initializer, FanScaled):
        fills = [piece.initializer for piece in initializer.pieces(shape)]
        return f"{name} {' | '.join(_numbers(fill) for fill in fills if isinstance(fill, Fill))}"
    if isinstance(initializer, Value):
        return name
    if isinstance(initializer, Stacked):
        part = part_shape(shape, initializer.axis, len(initializer.initializers))
        runs = groupby(describe(each, part) for each in initializer.initializers)
        counts = [(words, len(list(run))) for words, run in runs]
        parts = [words if count == 1 else f"{count} {_TIMES} {words}" for words, count in counts]
        return f"{name} {' | '.join(parts)}" + (f" axis {initializer.axis}" if initializer.axis else "")
    words = [name]
    for field in fields(initializer):
        value = getattr(initializer, field.name)
        if isinstance(value, Initializer):
            words.append(describe(value, shape))
        else:
            words += [field.name, short(value, 3) if isinstance(value, (int, float)) else str(value)]
    return " ".join(words)


def _numbers(fill: Fill) -> str:
    match fill:
        case Constant(value):
            return short(value, 3)
        case Uniform(low, high):
            return _interval(low, high, ")")
        case Normal(mean, std):
            return f"{_centre(mean)}{_SIGMA} {short(std, 3)}"
        case TruncatedNormal(mean, std, a, b):
            return f"{_centre(mean)}{_SIGMA} {short(std, 3)} in {_interval(a, b, ']')}"
    raise NotImplementedError(type(fill).__name__)


def _centre(mean: float) -> str:
    return f"{short(mean, 3)}, " if mean else ""


def _interval(low: float, high: float, close: str) -> str:
    return f"±{short(high, 3)}" if low == -high else f"[{short(low, 3)}, {short(high, 3)}{close}"


def short(x: float | None, digits: int) -> str:
    """A number, or - for none, in few characters: 1.8e-6 and not 1.8e-06."""
    if x is None:
        return "-"
    mantissa, e, exponent = f"{x:.{digits}g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if e else mantissa


def shape_in_words(shape: Sequence[int]) -> str:
    return _TIMES.join(map(str, shape)) or "scalar"


def range_in_words(values: Sequence[float | None], digits: int) -> str:
    """Numbers that read alike as one, others as their range in two digits: ±0.5 about zero, 0.1..0.5 else."""
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    least, greatest = min(known), max(known)
    if short(least, digits) == short(greatest, digits):
        return short(least, digits)
    if least < 0 < greatest:
        return f"±{short(max(-least, greatest), 2)}"
    low, high = short(least, 2), short(greatest, 2)
    return low if low == high else f"{low}..{high}"


def name_pattern(name: str) -> str:
    """A qualified name without its numbers, the same for the layers of a stack.

    >>> name_pattern("h.11.ln_1.weight")
    'h.{}.ln_{}.weight'
    """
    return _NUMBER.sub("{}", name)


def name_of_many(names: Sequence[str]) -> str:
    """Names of one pattern in one: every number that differs as the set of those that occur.

    >>> name_of_many(["h.0.ln_1.bias", "h.1.ln_1.bias", "h.2.ln_1.bias"])
    'h.{0..2}.ln_1.bias'
    >>> name_of_many(["0.bias", "2.bias", "4.bias", "5.bias"])
    '{0,2,4,5}.bias'
    """
    places = zip(*map(_NUMBER.findall, names), strict=True)
    words = (found[0] if len(set(found)) == 1 else f"{{{_runs(found)}}}" for found in places)
    return _NUMBER.sub(lambda _: next(words), names[0])


def _runs(numbers: Sequence[str]) -> str:
    """Numbers as runs: 0..11,13, or, one step apart throughout, 0,3..27."""
    found = sorted(set(map(int, numbers)))
    steps = {b - a for a, b in pairwise(found)}
    if len(found) > 3 and len(steps) == 1 and steps != {1}:
        return f"{found[0]},{found[1]}..{found[-1]}"
    words: list[str] = []
    for _, run in groupby(enumerate(found), key=lambda place: place[1] - place[0]):
        first, *_, last = [number for _, number in run] * 2
        words += [f"{first}..{last}"] if last > first + 1 else map(str, sorted({first, last}))
    return ",".join(words)


def availability(status: Status) -> str:
    return "available" if status.available else f"unavailable: {status.unavailable}"
