"""float64 and single bytes in the emulator: arithmetic against fractions, fills against the reference."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from emulated_cases import CASES, emulated

import tritoninit as ti
from tritoninit.emulated import arithmetic
from tritoninit.emulated.engine import Fault
from tritoninit.emulated.gcn_operations import COMPUTATIONS
from tritoninit.plan import Plan

EDGES = (0.0, -0.0, 1.0, 1 + 2.0**-52, -1.0, 5e-324, 2.0**-1022, 1.7976931348623157e308, math.inf, math.nan)


@pytest.fixture(autouse=True)
def _no_warnings_of_numpy():
    with np.errstate(all="ignore"):
        yield


def longs(*numbers: float) -> np.ndarray:
    return np.array(numbers, np.float64).view(np.uint64)


def operands(count: int, seed: int) -> list[np.ndarray]:
    """Three of anything, of which a third cancels and some are edges."""
    rng = np.random.default_rng(seed)
    x, y, z = (rng.normal(size=count) * 2.0 ** rng.integers(-60, 60, count) for _ in range(3))
    z[::3] = -(x * y)[::3] * (1 + rng.integers(-1, 2, len(z[::3])) * 2.0**-52)
    for number in (x, y, z):
        number[rng.integers(0, count, count // 8)] = rng.choice(EDGES, count // 8)
    return [each.view(np.uint64) for each in (x, y, z)]


def exact(x: float, y: float, z: float) -> Fraction | None:
    return Fraction(x) * Fraction(y) + Fraction(z) if all(map(math.isfinite, (x, y, z))) else None


def test_fma_is_rounded_once():
    patterns = operands(4000, 1)
    found = arithmetic.floats(arithmetic.fma_long(*patterns)).tolist()
    rounded = 0
    for value, *numbers in zip(found, *(each.view(np.float64).tolist() for each in patterns), strict=True):
        true = exact(*numbers)
        if true is None:
            assert not math.isfinite(value)
        elif true:
            try:
                assert value == float(true)
            except OverflowError:
                assert math.isinf(value)
            rounded += value != numbers[0] * numbers[1] + numbers[2]
    assert rounded > 300  # than a product and a sum, rounded each


def test_fma_of_numbers_that_a_product_of_parts_has_no_room_for():
    """Subnormal products and sums, and those next to infinity."""
    for numbers in (
        (2.0**-600, 2.0**-500, 5e-324),
        (1 + 2.0**-52, 1 - 2.0**-53, -1.0),
        (2.0**600, 2.0**500, -math.inf),
        (2.0**1023, 1.5, -(2.0**1023)),
        (3.0, 5e-324, -(2.0**-1070)),
    ):
        (found,) = arithmetic.floats(arithmetic.fma_long(*(longs(each) for each in numbers))).tolist()
        true = exact(*numbers)
        assert found == (-math.inf if true is None else float(true))


@pytest.mark.parametrize("toward", [-math.inf, math.inf])
def test_directed_rounding(toward):
    patterns = operands(500, 2)
    found = arithmetic.floats(arithmetic.exact_long(*patterns, toward)).tolist()
    for value, *numbers in zip(found, *(each.view(np.float64).tolist() for each in patterns), strict=True):
        true = exact(*numbers)
        if true and math.isfinite(value):
            assert (Fraction(value) - true) * (1 if toward > 0 else -1) >= 0
            assert abs(Fraction(value) - true) < Fraction(math.ulp(value)) * 2
    zero = arithmetic.exact_long(longs(1.0), longs(1.0), longs(-1.0), toward)
    assert math.copysign(1.0, zero.view(np.float64)[0]) == (1.0 if toward > 0 else -1.0)


def test_other_operations_are_numpys():
    x, y, _ = operands(500, 3)
    a, b = x.view(np.float64), y.view(np.float64)
    for name, true in (
        ("add", a + b),
        ("subtract", a - b),
        ("multiply", a * b),
        ("divide", a / b),
        ("square_root", np.sqrt(a)),
        ("minimum", np.fmin(a, b)),
        ("maximum", np.fmax(a, b)),
        ("absolute", np.abs(a)),
        ("negative", -a),
    ):
        found = getattr(arithmetic, name)(
            *((x,) if len(name) > 10 or name in ("absolute", "negative") else (x, y))
        )
        assert np.array_equal(found.view(np.float64), true, equal_nan=True), name
    assert arithmetic.maximum(longs(-0.0), longs(0.0)).tolist() == [0]
    assert arithmetic.minimum(longs(0.0), longs(-0.0)).tolist() == [1 << 63]


def test_amds_divisions():
    """What is not scaled: hardware's reciprocal, however rough, becomes the quotient, rounded once."""
    scale, fused, fixed = (COMPUTATIONS[f"v_div_{name}_f64"][1] for name in ("scale", "fmas", "fixup"))
    rng = np.random.default_rng(4)
    number, divisor = rng.normal(size=(2, 300))
    number[:3] = 0.0, -0.0, 1.0
    n, d = number.view(np.uint64), divisor.view(np.uint64)
    scaled_d, _ = scale(d, d, n)
    scaled_n, mask = scale(n, d, n)
    x = scaled_d.view(np.float64)
    guess = (1 / x * (1 + 2.0**-24)).view(np.uint64)
    one, minus = np.full_like(n, longs(1.0)[0]), arithmetic.negative(scaled_d)
    for _ in range(2):
        error = arithmetic.fma_long(minus, guess, one)
        guess = arithmetic.fma_long(guess, error, guess)
    quotient = arithmetic.multiply(scaled_n, guess)
    rest = arithmetic.fma_long(minus, quotient, scaled_n)
    found = fixed(fused(rest, guess, quotient, mask), d, n)
    assert np.array_equal(found, (number / divisor).view(np.uint64))
    with pytest.raises(Fault, match="that hardware scales"):
        scale(d, longs(2.0**-1000), n)
    off = np.arange(300) > 0  # the lane that has it
    tiny = np.where(off, d, longs(2.0**-1000))
    assert scale(tiny, tiny, n, off)[0][1:].tolist() == scaled_d[1:].tolist()
    for a, b in ((1.0, 0.0), (-1.0, 0.0), (0.0, 0.0), (1.0, math.inf), (math.inf, -2.0), (math.nan, 1.0)):
        got = fixed(longs(0.5), longs(b), longs(a)).view(np.float64)
        with np.errstate(all="ignore"):
            true = np.float64(a) / np.float64(b)
        assert np.array_equal(got, [true], equal_nan=True)
        assert math.isnan(true) or np.signbit(got[0]) == np.signbit(true)


FILLS = (
    ti.Constant(0.5),
    ti.Uniform(-0.3, 0.7),
    ti.Normal(),
    ti.TruncatedNormal(0.0, 1.0, -2.0, 2.0),
    ti.TruncatedNormal(0.0, 1.0, 1.5, 6.0),
)
BYTES = ("float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
TARGETS = (
    *(("ptx", arch) for arch in ("sm_80", "sm_90", "sm_100", "sm_120")),
    *(("sass", arch) for arch in ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120")),
    *(("gcn", arch) for arch in ("gfx90a", "gfx942", "gfx950")),
)
QUICK = {("ptx", "sm_90", "float64"), ("ptx", "sm_90", "float8_e5m2")}


@pytest.mark.parametrize(
    ("code", "arch", "dtype"),
    [
        pytest.param(*case, marks=[] if case in QUICK else [pytest.mark.slow])
        for case in ((code, arch, dtype) for code, arch in TARGETS for dtype in ("float64", *BYTES))
    ],
)
def test_every_bit(code, arch, dtype):
    """Runs, aligned or not; of the quick cases one fill, whose code has all of the instructions."""
    for fill in FILLS[2:3] if (code, arch, dtype) in QUICK else FILLS:
        for start in (0,) if (code, arch, dtype) in QUICK else (0, 7):
            kind = getattr(torch, dtype)
            expected, found = (torch.full((1025,), torch.nan, dtype=kind) for _ in range(2))
            window = ti.Window((start + 1025,), (start,))
            with ti.use_backend("numpy"):
                fill(expected, key=ti.Key(5) if fill.random else None, window=window)
                draw = Plan().append(found, fill, ti.Key(5), window).draw
            with emulated(code, arch) as gpu:
                gpu.fill(found, draw)
            assert found.view(torch.uint8).equal(expected.view(torch.uint8)), fill


KINDS = {
    "table": ("constant", "uniform", "normal", "truncated"),
    "rows": ("uniform", "normal", "truncated"),
    "rows table": ("uniform", "normal"),
    "scattered": ("normal", "truncated"),
    "edges": ("uniform", "normal", "truncated"),
}


@pytest.mark.parametrize(
    ("code", "arch", "kind"),
    [
        pytest.param(*case, marks=[] if case == ("gcn", "gfx942", "scattered") else [pytest.mark.slow])
        for case in ((code, arch, kind) for code, arch in TARGETS for kind in KINDS)
    ],
)
def test_rows_and_tables_in_float64(code, arch, kind):
    """By all launches; what lanes hold that are off may be no number that is divided."""
    with emulated(code, arch) as gpu:
        CASES[kind](gpu, "float64", KINDS[kind])
