"""The host arithmetic: bounds that survive rounding, tail probabilities to many digits, early errors."""

from __future__ import annotations

import hashlib
import math
from decimal import Context, localcontext

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tritoninit.kernels import lowering
from tritoninit.kernels.lowering import ParameterError, largest_rounding_within

DTYPES = ("float32", "float16", "bfloat16")
LARGEST = {
    "float16": 65504.0,
    "bfloat16": float.fromhex("0x1.fep+127"),
    "float32": float.fromhex("0x1.fffffep+127"),
}


def rounded(x: float, dtype: str) -> float:
    """float32 x as PyTorch's CPU casts it: an implementation that is not ours."""
    return float(torch.tensor(x, dtype=torch.float32).to(getattr(torch, dtype)))


def float32_after(x: float) -> float:
    with np.errstate(over="ignore"):  # after the largest comes infinity
        return float(np.nextafter(np.float32(x), np.float32(np.inf)))


def bounds(dtype: str) -> st.SearchStrategy[float]:
    """float32 numbers within the dtype's range: any, its own, and those halfway between its own."""
    largest = LARGEST[dtype]
    anything = st.floats(-largest, largest, width=32)
    if dtype == "float32":
        return anything
    own = anything.map(lambda x: rounded(x, dtype)).filter(math.isfinite)
    step = {"float16": 2.0**-11, "bfloat16": 2.0**-8}[dtype]
    between = own.map(lambda x: lowering.float32(x * (1 + step))).filter(lambda x: abs(x) <= largest)
    return st.one_of(anything, own, between)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("strict", [False, True])
@given(data=st.data())
def test_largest_rounding_within(dtype, strict, data):
    """The number itself rounds to within the bound, and the next float32 number does not."""
    bound = data.draw(bounds(dtype).filter(lambda x: not strict or x > -LARGEST[dtype]))

    def within(x: float) -> bool:
        return rounded(x, dtype) < bound if strict else rounded(x, dtype) <= bound

    largest = largest_rounding_within(bound, dtype, strict=strict)
    assert lowering.float32(largest) == largest
    assert within(largest)
    assert not within(float32_after(largest))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_largest_rounding_within_around_every_number(dtype):
    """All finite 16-bit numbers as bounds, with NumPy's and PyTorch's casts over whole arrays."""
    patterns = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    numbers = patterns.view(getattr(torch, dtype)).float()
    # The most negative one has no number below it, the strict bound of nothing.
    numbers = numbers[numbers.isfinite() & (numbers > -LARGEST[dtype])]
    for strict in (False, True):
        largest = torch.tensor([largest_rounding_within(x, dtype, strict=strict) for x in numbers.tolist()])
        after = torch.from_numpy(np.nextafter(largest.numpy(), np.float32(np.inf)))
        largest, after = (x.to(getattr(torch, dtype)).float() for x in (largest, after))
        assert ((largest < numbers) if strict else (largest == numbers)).all()
        assert ((after >= numbers) if strict else (after > numbers)).all()


@pytest.mark.parametrize("x", [-13, -6.5, -3, -1, -1e-3, 0, 1e-9, 0.5, 1, 2.25, 4, 6, 6.5, 8, 10, 13])
def test_upper_tail(x):
    """80 digits less those that cancel: the tail at 13 is 6e-39, so that 40 remain."""
    with localcontext(Context(prec=80)):
        found = lowering._upper_tail(x)
    with mpmath.workdps(90):
        exact = mpmath.erfc(mpmath.mpf(x) / mpmath.sqrt(2)) / 2
        assert abs(mpmath.mpf(str(found)) / exact - 1) < mpmath.mpf(10) ** -30


INTERVALS = [
    (0, 1, -2, 2),
    (0, 0.02, -0.04, 0.04),
    (0.5, 3, 1, 1.5),
    (0, 1, 0, 100),
    (0, 1, -100, 100),
    (0, 1, 6, 7),
    (0, 1, -20, -6),
    (1, 2, -12, 24),
    (0, 1, 5.9, 5.900001),
]


@pytest.mark.parametrize(("mean", "std", "low", "high"), INTERVALS)
def test_truncated_normal_parameters(mean, std, low, high):
    """The probabilities are the exact ones rounded to float32, by arithmetic with no libm in it."""
    found = lowering.truncated_normal(mean, std, low, high, "float32")
    with mpmath.workdps(60):
        left, right = mpmath.mpf((low - mean) / std), mpmath.mpf((high - mean) / std)
        below, above = mpmath.ncdf(left), mpmath.ncdf(-right)
        if left < -13:
            below = mpmath.mpf(0)
        if right > 13:
            above = mpmath.mpf(0)
        # Beyond 13 standard deviations what is left out of the mass rounds away.
        mass = (
            mpmath.ncdf(-left) - mpmath.ncdf(-right) if left > 0 else mpmath.ncdf(right) - mpmath.ncdf(left)
        )
        exact = tuple(lowering.float32(float(x)) for x in (below, above, mass))
        difference = lowering.float32(float(below - above))
    assert found[:5] == (mean, lowering.float32(std), *exact[:2], difference)
    assert found[5] == lowering.float32(exact[2] * 2.0**-32)
    assert found[6:] == (lowering.float32(low), lowering.float32(high))


def smallest_from(x: float, dtype: str) -> float:
    """The dtype's smallest number that is at least x."""
    number = torch.tensor(x, dtype=torch.float32).to(getattr(torch, dtype))
    return float(number if number.item() >= x else torch.nextafter(number, torch.full_like(number, math.inf)))


def within_float32(pair: tuple[float, float]) -> bool:
    return abs(pair[0] - pair[1]) <= LARGEST["float32"]


@pytest.mark.parametrize("dtype", DTYPES)
@given(data=st.data())
def test_uniform_parameters(dtype, data):
    low, high = sorted(data.draw(st.tuples(bounds(dtype), bounds(dtype)).filter(within_float32)))
    if low < high <= smallest_from(low, dtype):
        with pytest.raises(ParameterError, match=f"no {dtype} number lies in"):
            lowering.uniform(low, high, dtype)
        return
    lowest, scale, floor, cap = lowering.uniform(low, high, dtype)
    assert lowest == low
    assert scale == lowering.float32(lowering.float32(high - low) * 2.0**-24)
    if low == high:
        assert (floor, cap) == (low, low)
    else:
        assert floor <= cap
        assert low <= rounded(floor, dtype) <= rounded(cap, dtype) < high


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: lowering.uniform(math.nan, 1, "float32"), "low must be a finite"),
        (lambda: lowering.uniform(0, math.nan, "float32"), "high must be a finite"),
        (lambda: lowering.uniform(-math.inf, 0, "float32"), "low must be a finite"),
        (lambda: lowering.uniform(0, 1e39, "float32"), "high must be a finite"),
        (lambda: lowering.uniform(1, 0, "float32"), "low <= high"),
        (lambda: lowering.uniform(-3e38, 3e38, "float32"), "overflows"),
        (lambda: lowering.uniform(1.0001, 1.0002, "bfloat16"), "no bfloat16 number lies in"),
        (lambda: lowering.normal(0, -1, "float32"), "std >= 0"),
        (lambda: lowering.normal(0, math.nan, "float32"), "std >= 0"),
        (lambda: lowering.normal(0, math.inf, "float32"), "std must be a finite"),
        (lambda: lowering.normal(math.nan, 1, "float32"), "mean must be a finite"),
        (lambda: lowering.truncated_normal(math.nan, 1, -2, 2, "float32"), "mean must be a finite"),
        (lambda: lowering.truncated_normal(0, math.nan, -2, 2, "float32"), "std must be a finite"),
        (lambda: lowering.truncated_normal(0, 0, -2, 2, "float32"), "std > 0"),
        (lambda: lowering.truncated_normal(0, -1, -2, 2, "float32"), "std > 0"),
        (lambda: lowering.truncated_normal(0, 1, math.nan, 2, "float32"), "a must be a number"),
        (lambda: lowering.truncated_normal(0, 1, -2, math.nan, "float32"), "b must be a number"),
        (lambda: lowering.truncated_normal(0, 1, 2, 2, "float32"), "a < b"),
        (lambda: lowering.truncated_normal(0, 1, 2, -2, "float32"), "a < b"),
        (lambda: lowering.truncated_normal(0, 1, 6.01, 7, "float32"), "standard deviations"),
        (lambda: lowering.truncated_normal(0, 1, -7, -6.01, "float32"), "standard deviations"),
        (lambda: lowering.truncated_normal(0, 1, 1.0001, 1.0002, "float16"), "no float16 number lies in"),
    ],
)
def test_errors(call, message):
    """A ValueError, and a RuntimeError because that is what PyTorch raises."""
    with pytest.raises(ParameterError, match=message) as caught:
        call()
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, RuntimeError)


@pytest.mark.parametrize("dtype", DTYPES)
def test_infinite_truncation_bounds(dtype):
    """Without a bound, no mass is left out on that side, and values stop at the largest float32 number."""
    both = lowering.truncated_normal(1, 2, -math.inf, math.inf, dtype)
    assert both[2:6] == (0.0, 0.0, 0.0, 2.0**-32)
    one = lowering.truncated_normal(0, 1, 0, math.inf, dtype)
    assert one[2:6] == (0.5, 0.0, 0.5, 2.0**-33)
    assert all(math.isfinite(x) for x in both + one)


def test_six_standard_deviations_are_near_enough():
    for dtype in DTYPES:
        lowering.truncated_normal(0, 1, 6, 8, dtype)
        lowering.truncated_normal(0, 1, -8, -6, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_bound_is_a_negative_zero(dtype):
    """Which of two zeros a minimum or maximum returns differs between machines, so no parameter may be -0.0,
    whatever the signs of the caller's zeros, and whatever was lowered before."""

    def zeros_are_positive(lowered: tuple[float, ...]) -> bool:
        return all(math.copysign(1.0, x) > 0 for x in lowered if x == 0)

    for zero in (0.0, -0.0, 0.0):
        assert zeros_are_positive(lowering.truncated_normal(zero, 1.0, -1.0, zero, dtype))
        assert zeros_are_positive(lowering.uniform(zero, 1.0, dtype))
        assert zeros_are_positive(lowering.uniform(-1.0, zero, dtype))
        assert zeros_are_positive(lowering.uniform(-zero, zero, dtype))
        assert zeros_are_positive(lowering.truncated_normal(zero, 1.0, zero, 1.0, dtype))
        assert zeros_are_positive(lowering.normal(zero, 1.0, dtype))


def test_constants_keep_their_sign_and_what_is_not_finite():
    assert math.copysign(1.0, lowering.constant(-0.0, "float32")[0]) == -1.0
    assert lowering.constant(1e39, "float32") == (math.inf,)
    assert lowering.constant(-math.inf, "bfloat16") == (-math.inf,)
    assert math.isnan(lowering.constant(math.nan, "float16")[0])
    assert lowering.constant(0.1, "float32") == (float(np.float32(0.1)),)
    assert lowering.constant(0.1, "float64") == (0.1,)
    assert lowering.constant(2**53 + 1, "int64") == (2**53 + 1,)


def test_golden_parameters():
    """The lowered numbers are part of the stream: other bits here are another stream version."""
    lowered = []
    for dtype in DTYPES:
        lowered.append(lowering.constant(0.1, dtype))
        lowered += [lowering.uniform(*b, dtype) for b in ((0, 1), (-0.1, 0.3), (-2, 0), (1, 1), (1e-3, 1e3))]
        lowered += [lowering.normal(*p, dtype) for p in ((0, 1), (0.1, 0.02))]
        lowered += [lowering.truncated_normal(*p, dtype) for p in INTERVALS[:-1]]
    text = "\n".join(" ".join((x + 0.0).hex() for x in numbers) for numbers in lowered)
    digest = hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
    assert digest == "dabd31664517ca39ce619686b91b12cc", "bump STREAM_VERSION if this was meant"
