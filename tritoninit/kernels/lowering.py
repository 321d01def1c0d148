"""From a distribution's numbers to the float32 parameters that every backend computes with.

Host arithmetic, once a fill. It must not depend on the machine either: float64 additions, multiplications,
divisions and square roots are exact to IEEE 754 everywhere, but ``math.erf`` and ``math.exp`` belong to the
platform's libm, so the normal distribution function is computed in ``decimal``.
"""

from __future__ import annotations

import math
import reprlib
import struct
import sys
from decimal import Context, Decimal, localcontext
from functools import lru_cache
from operator import index
from typing import Any, TypeVar

from tritoninit.kernels.stream import (
    FLOAT8,
    ConstantNumbers,
    NormalNumbers,
    TruncatedNormalNumbers,
    UniformNumbers,
)

# Random fills serve these; constants serve every dtype.
ROUNDED_DTYPES = ("float32", "float16", "bfloat16", *FLOAT8)  # float32 values, as they are or rounded once
FLOAT_DTYPES = (*ROUNDED_DTYPES, "float64")
# What this one does not hold, none does, and is refused as soon as an initializer is made.
WIDEST = "float64"
# A complex number is two neighbours of these in the stream: its real part and its imaginary one.
PARTS = {"complex32": "float16", "complex64": "float32", "complex128": "float64"}


def _float8(magnitude: int, dtype: str) -> float:
    """The number of a pattern without its sign; past the largest, what would be there if there were one."""
    form = FLOAT8[dtype]
    exponent, mantissa = divmod(magnitude, 1 << form.mantissa)
    whole = mantissa + ((1 << form.mantissa) if exponent else 0)
    return math.ldexp(whole, max(exponent, 1) - form.bias - form.mantissa)


_LARGEST = {
    "float32": float.fromhex("0x1.fffffep+127"),
    "float16": float.fromhex("0x1.ffcp+15"),
    "bfloat16": float.fromhex("0x1.fep+127"),
    "float64": sys.float_info.max,
    **{dtype: _float8(form.largest, dtype) for dtype, form in FLOAT8.items()},
}
_PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494459230781640628620899862803")
# One-sided intervals beyond this many standard deviations leave no float32 probability to draw from.
FARTHEST_TAIL = 6.0
# No normal is farther from its mean: the radius of a word, sqrt(-2 ln 2**-32), rounded up; and of 64 bits.
FARTHEST_NORMAL = 6.6605
FARTHEST_DOUBLE = 9.4194


class ParameterError(ValueError, RuntimeError):
    """A distribution's parameters make no sense. Also a RuntimeError, which is what PyTorch raises."""


class NumberError(ParameterError, TypeError):
    """A parameter is no number. Also a TypeError, which is what PyTorch raises."""


class RangeError(ParameterError, OverflowError):
    """A number is larger than its type can hold. Also an OverflowError, which is what PyTorch raises."""


def shown(x: Any) -> str:
    """What a user passed, short enough for a message. Python refuses to print an integer of many digits."""
    if isinstance(x, int) and x.bit_length() > 200:
        return f"an integer of {x.bit_length()} bits"
    return reprlib.repr(x)


def scalar(name: str, x: Any) -> Any:
    """``x`` itself; of a NumPy scalar, or an array or a tensor of one element, the element as Python has it.

    Raises:
        NumberError: there is not one element.
    """
    if not hasattr(x, "item"):
        return x
    try:
        return x.item()
    except (TypeError, ValueError, RuntimeError) as error:
        raise NumberError(f"{name} must be a number, not {shown(x)}") from error


def plain(name: str, x: Any) -> float:
    """A number that a user passes, as Python's float: what caches may compare and arithmetic may use.

    Whatever has a ``__float__`` or an ``__index__`` is one; so is a complex number of NumPy's or PyTorch's
    without an imaginary part, and an array or a tensor of one element.

    Raises:
        NumberError: it is no real number.
        RangeError: it is larger than any float.
    """
    if type(x) is float:
        return x
    value = scalar(name, x)
    if isinstance(value, complex) and value is not x and not value.imag:
        value = value.real
    # float() alone would read text and buffers, too.
    if hasattr(type(value), "__float__") or hasattr(type(value), "__index__"):
        try:
            return float(value)
        except OverflowError as error:
            raise RangeError(f"{name} is out of range: {shown(value)}") from error
        except (TypeError, ValueError, RuntimeError) as error:
            raise NumberError(f"{name} must be a number, not {shown(x)}") from error
    raise NumberError(f"{name} must be a number, not {shown(x)}")


def make_plain(parameters: object, *names: str) -> None:
    """Have the named attributes of a frozen dataclass be Python's floats; see :func:`plain`."""
    for name in names:
        value = getattr(parameters, name)
        if type(value) is not float:
            object.__setattr__(parameters, name, plain(name, value))


def integer(name: str, x: Any) -> int:
    """A whole number that a user passes, as Python's int.

    Raises:
        NumberError: it is none. A float is none, whatever its value.
    """
    if type(x) is int:
        return x
    try:
        return int(index(scalar(name, x)))
    except TypeError as error:
        raise NumberError(f"{name} must be an integer, not {shown(x)}") from error


def integers(name: str, x: Any) -> tuple[int, ...]:
    """Several of them, such as a shape.

    Raises:
        NumberError: some is no integer.
    """
    try:
        return tuple(map(index, x))
    except TypeError as error:
        raise NumberError(f"{name} must be integers, not {shown(x)}") from error


def float32(x: float) -> float:
    """``x`` rounded to the nearest float32, as a Python float; infinite if it overflows."""
    try:
        return float(struct.unpack("<f", struct.pack("<f", x))[0])
    except OverflowError:
        return math.copysign(math.inf, x)


def computed(x: float, dtype: str) -> float:
    """``x`` in the precision that elements of ``dtype`` are computed in: float32, but for float64."""
    return x if dtype == "float64" else float32(x)


def finite(name: str, x: float, dtype: str) -> float:
    """``x`` as it is computed with, never -0.0: which zero a minimum or maximum returns differs by machine.

    Raises:
        ParameterError: it is infinite or no number.
    """
    value = computed(x + 0.0, dtype)
    if not math.isfinite(value):
        raise ParameterError(f"{name} must be a finite {dtype} number, not {x}")
    return value + 0.0


def farthest_normal(dtype: str) -> float:
    return FARTHEST_DOUBLE if dtype == "float64" else FARTHEST_NORMAL


def check_range(name: str, value: float, dtype: str) -> None:
    """Raise ParameterError if a number is larger than any of the dtype."""
    if abs(value) > _LARGEST[dtype]:
        raise ParameterError(f"{name} is out of range for {dtype}: {value}")


def check_held(value: float, dtype: str) -> None:
    """Raise RangeError if an 8-bit float has no such number, infinity or NaN."""
    too_large = abs(value) > _LARGEST[dtype] and not (math.isinf(value) and FLOAT8[dtype].has_infinity)
    if too_large:
        raise RangeError(f"{dtype} cannot hold the value {shown(value)}")


def check_parts_held(value: complex, dtype: str) -> None:
    """Raise RangeError if the real or the imaginary part is larger than any of a complex dtype."""
    largest = _LARGEST[PARTS[dtype]]
    if any(largest < abs(part) < math.inf for part in (value.real, value.imag)):
        raise RangeError(f"{dtype} cannot hold the value {shown(value)}")


def _float32_above(x: float) -> float:
    """The next float32 above the float32 ``x``."""
    bits = struct.unpack("<i", struct.pack("<f", x + 0.0))[0]
    return (
        float(struct.unpack("<f", struct.pack("<i", bits + 1 if bits >= 0 else bits - 1))[0])
        if x
        else 2.0**-149
    )


def _float32_below(x: float) -> float:
    return -_float32_above(-x)


def _pattern(x: float, dtype: str) -> int:
    """The pattern that float32 ``x`` rounds to (nearest, ties to even), as an ordered integer."""
    if dtype in FLOAT8:
        return _pattern8(x, dtype)
    if dtype == "float16":
        try:
            bits = struct.unpack("<H", struct.pack("<e", x))[0]
        except OverflowError:
            bits = 0xFC00 if x < 0 else 0x7C00
    else:
        wide = struct.unpack("<I", struct.pack("<f", x))[0]
        bits = (wide + 0x7FFF + (wide >> 16 & 1)) >> 16
    return int(bits) if bits < 0x8000 else 0x8000 - int(bits)


def _pattern8(x: float, dtype: str) -> int:
    """The same of 8 bits; past the largest number the grid goes on."""
    form = FLOAT8[dtype]
    if not x:
        return 0
    exponent = max(math.frexp(x)[1], 2 - form.bias)  # x is less than 2**exponent
    # In units of the spacing there, nearest even; patterns count on from that of 2**(exponent - 1).
    steps = round(math.ldexp(abs(x), form.mantissa + 1 - exponent))
    magnitude = ((exponent + form.bias - 2) << form.mantissa) + steps
    return magnitude if x > 0 else -magnitude


def _value(ordered: int, dtype: str) -> float:
    """The number that an ordered pattern stands for."""
    if dtype in FLOAT8:
        return math.copysign(_float8(abs(ordered), dtype), ordered)
    bits = ordered if ordered >= 0 else 0x8000 - ordered
    if dtype == "float16":
        return float(struct.unpack("<e", struct.pack("<H", bits))[0])
    return float(struct.unpack("<f", struct.pack("<I", bits << 16))[0])


def _rounded(x: float, dtype: str) -> float:
    """``x``, of the precision that is computed in, as ``dtype`` holds it."""
    return x if dtype in ("float32", "float64") else _value(_pattern(x, dtype), dtype)


@lru_cache(maxsize=4096)
def largest_rounding_within(bound: float, dtype: str, *, strict: bool) -> float:
    """The largest float32 that rounds, in ``dtype``, to a number at most ``bound`` (below it if strict).

    Of float64, the largest float64 that is one.
    """
    if dtype == "float64":
        return math.nextafter(bound, -math.inf) if strict else bound + 0.0
    if dtype == "float32":
        return _float32_below(bound) if strict else bound + 0.0
    ordered = _pattern(bound, dtype)
    if dtype in FLOAT8:
        ordered = min(ordered, FLOAT8[dtype].largest)
    while _value(ordered, dtype) > bound or (strict and _value(ordered, dtype) == bound):
        ordered -= 1
    here, above = _value(ordered, dtype), _value(ordered + 1, dtype)
    if math.isinf(above):  # rounding takes infinity for the next number of the finite ones' grid
        above = 2.0**16 if dtype == "float16" else 2.0**128
    middle = float32((here + above) / 2) + 0.0
    return middle if _pattern(middle, dtype) == ordered else _float32_below(middle)


Within = TypeVar("Within", UniformNumbers, TruncatedNormalNumbers)


def within_grid(numbers: Within, dtype: str) -> Within:
    """The same with a floor and a cap that ``dtype`` has, so that no number between them is rounded out."""
    if numbers.floor == numbers.cap:  # which may be a number between two of the dtype's
        return numbers
    return numbers._replace(
        floor=_rounded(numbers.floor, dtype) + 0.0, cap=_rounded(numbers.cap, dtype) + 0.0
    )


def constant(value: float, dtype: str) -> ConstantNumbers:
    """The value, in the precision that is computed in for the dtypes that the kernels serve."""
    return ConstantNumbers(computed(float(value), dtype) if dtype in FLOAT_DTYPES else value)


def uniform(low: float, high: float, dtype: str) -> UniformNumbers:
    """The uniform distribution on [low, high): low, and its span times 2**-24 (of float64, 2**-53).

    floor and cap are the float32 numbers nearest the bounds that still round, in ``dtype``, to no less than
    low and to less than high; where low equals high both are low.
    """
    low32, high32 = finite("low", low, dtype), finite("high", high, dtype)
    if low > high:
        raise ParameterError(f"uniform needs low <= high, not low={low} > high={high}")
    span = computed(high32 - low32, dtype)
    if not math.isfinite(span):
        raise ParameterError(f"high - low overflows {dtype}: low={low}, high={high}")
    if low32 == high32:
        if low < high and not low32 <= _rounded(low32, dtype) < high:
            raise ParameterError(f"no {dtype} number lies in [{low}, {high})")
        return UniformNumbers(low32, 0.0, low32, low32)
    floor = 0.0 - largest_rounding_within(-low32, dtype, strict=False)
    cap = largest_rounding_within(high32, dtype, strict=True)
    if floor > cap:
        raise ParameterError(f"no {dtype} number lies in [{low}, {high})")
    scale = span * 2.0**-53 if dtype == "float64" else float32(span * 2.0**-24)
    return UniformNumbers(low32, scale, floor, cap)


@lru_cache(maxsize=4096)
def normal(mean: float, std: float, dtype: str) -> NormalNumbers:
    """Mean and standard deviation, for every dtype that can hold whatever they may give."""
    if not std >= 0:
        raise ParameterError(f"normal needs std >= 0, not {std}")
    numbers = NormalNumbers(finite("mean", mean, dtype), finite("std", std, dtype))
    reach = abs(mean) + farthest_normal(dtype) * std
    if reach > _LARGEST[dtype]:
        raise ParameterError(
            f"normal reaches {reach:g}, which is out of range for {dtype}: mean={mean}, std={std}"
        )
    return numbers


def _upper_tail(x: float) -> Decimal:
    """P(Z > x) of the standard normal, for |x| < 14, by the series of Marsaglia (2004).

    P(0 < Z < x) = phi(x) (x + x**3 / 3 + x**5 / (3 5) + ...), all of one sign, in 80 digits.
    """
    value = Decimal(x)
    square = value * value
    term = total = value
    k = 1
    while abs(term) > Decimal("1e-70"):
        k += 2
        term = term * square / k
        total += term
    return Decimal("0.5") - total * (-square / 2).exp() / (2 * _PI).sqrt()


@lru_cache(maxsize=1024)
def _probabilities(left: float, right: float) -> tuple[float, float, float, float]:
    """P(Z < left), P(Z > right), their difference, and what is between, of the standard normal."""
    with localcontext(Context(prec=80)):
        ends = [max(-13.0, min(13.0, x)) for x in (left, right)]
        below, above = _upper_tail(-ends[0]), _upper_tail(ends[1])
        mass = 1 - below - above
        if left < -13.0:
            below = Decimal(0)
        if right > 13.0:
            above = Decimal(0)
        return float(below), float(above), float(below - above), float(mass)


def _bound(name: str, bound: float, dtype: str) -> float:
    """A truncation bound as it is computed with; one that is infinite there is the largest finite number."""
    if math.isnan(bound):
        raise ParameterError(f"{name} must be a number, not {bound}")
    largest = _LARGEST["float64" if dtype == "float64" else "float32"]
    return max(-largest, min(largest, computed(bound, dtype))) + 0.0


def _check_reach(mean: float, std: float, low: float, high: float, dtype: str) -> None:
    """Raise ParameterError if a normal within [low, high] may be larger than any number of the dtype.

    In the tail beyond l standard deviations, a word of n bits gets no farther than sqrt(l**2 + 2 n ln 2) of
    them, since P(Z > l + t) <= P(Z > l) exp(-l t - t**2 / 2).
    """
    ends = []
    for side in (-1, 1):
        near, far = (low, high) if side > 0 else (high, low)
        reach = math.hypot(max(side * (near - mean) / std, 0.0), farthest_normal(dtype))
        ends.append(side * min(side * far, side * mean + reach * std))
    if max(-ends[0], ends[1]) > _LARGEST[dtype]:
        raise ParameterError(
            f"truncated normal reaches from {ends[0]:g} to {ends[1]:g}, which is out of range for {dtype}:"
            f" mean={mean}, std={std}, a={low}, b={high}"
        )


@lru_cache(maxsize=1024)
def truncated_normal(mean: float, std: float, low: float, high: float, dtype: str) -> TruncatedNormalNumbers:
    """A normal within [low, high], either of which may be infinite.

    below = P(X < low) and above = P(X > high) of the whole normal, difference = below - above, mass =
    (1 - below - above) * 2**-32 (of float64, 2**-64); floor and cap keep the rounded values inside
    [low, high].
    """
    mean32, std32 = finite("mean", mean, dtype), finite("std", std, dtype)
    low32, high32 = _bound("a", low, dtype), _bound("b", high, dtype)
    if not std > 0:
        raise ParameterError(f"truncated normal needs std > 0, not {std}")
    if not std32:
        raise ParameterError(f"std is too small for {dtype}: {std}")
    if not low < high:
        raise ParameterError(f"truncated normal needs a < b, not a={low}, b={high}")
    left, right = (low - mean) / std, (high - mean) / std
    if left > FARTHEST_TAIL or right < -FARTHEST_TAIL:
        raise ParameterError(
            f"[{low}, {high}] lies more than {FARTHEST_TAIL:g} standard deviations from the mean {mean}"
        )
    _check_reach(mean, std, low, high, dtype)
    below, above, difference, mass = _probabilities(left, right)
    floor = 0.0 - largest_rounding_within(-low32, dtype, strict=False)
    cap = largest_rounding_within(high32, dtype, strict=False)
    if floor > cap:
        raise ParameterError(f"no {dtype} number lies in [{low}, {high}]")
    unit = 2.0**-64 if dtype == "float64" else 2.0**-32
    return TruncatedNormalNumbers(
        mean32,
        std32,
        computed(below, dtype),
        computed(above, dtype),
        computed(difference, dtype),
        computed(computed(mass, dtype) * unit, dtype),
        floor,
        cap,
    )
