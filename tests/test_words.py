"""Initializers, names and numbers in few words."""

import pytest

import tritoninit as ti
from tritoninit.combinators import ZeroRow
from tritoninit.words import describe, name_of_many, range_in_words, shape_in_words, short

SIGMA = "\N{GREEK SMALL LETTER SIGMA}"
TIMES = "\N{MULTIPLICATION SIGN}"


@pytest.mark.parametrize(
    ("initializer", "words"),
    [
        (ti.Zeros(), "Zeros"),
        (ti.Constant(0.125), "Constant 0.125"),
        (ti.KaimingUniform(a=5**0.5), "KaimingUniform ±0.0361"),
        (ti.Uniform(0.0, 1.0), "Uniform [0, 1)"),
        (ti.Normal(std=0.02 / 24**0.5), f"Normal {SIGMA} 0.00408"),
        (ti.Normal(1.0, 1e-6), f"Normal 1, {SIGMA} 1e-6"),
        (ti.TruncatedNormal(std=0.5), f"TruncatedNormal {SIGMA} 0.5 in ±2"),
        (ti.TruncatedNormal(1.0, 0.5, 0.0, 3.0), f"TruncatedNormal 1, {SIGMA} 0.5 in [0, 3]"),
        (ti.XavierNormal(), f"XavierNormal {SIGMA} 0.049"),
        (ti.VarianceScaling(2.0, "fan_in", "normal"), f"VarianceScaling {SIGMA} 0.051"),
        (ti.Orthogonal(0.5), "Orthogonal gain 0.5"),
        (ti.Sparse(0.1), "Sparse sparsity 0.1 std 0.01"),
        (ti.Eye(), "Eye"),
        (ti.Dirac(2), "Dirac groups 2"),
        (ZeroRow(ti.Normal(), 3), f"ZeroRow Normal {SIGMA} 1 row 3"),
        (ti.Scaled(ti.Orthogonal(), 0.5), "Scaled Orthogonal gain 1 factor 0.5"),
        (ti.Stacked((ti.Orthogonal(),) * 4), f"Stacked 4 {TIMES} Orthogonal gain 1"),
        (
            ti.Stacked((ti.Zeros(), ti.KaimingUniform(), ti.KaimingUniform()), axis=1),
            f"Stacked Zeros | 2 {TIMES} KaimingUniform ±0.153 axis 1",
        ),
    ],
)
def test_initializers(initializer, words):
    assert describe(initializer, (64, 768)) == words


@pytest.mark.parametrize(
    ("number", "digits", "text"),
    [
        (None, 3, "-"),
        (0.0, 3, "0"),
        (1.8e-6, 2, "1.8e-6"),
        (1234.0, 3, "1.23e3"),
        (-0.00408248, 3, "-0.00408"),
    ],
)
def test_numbers(number, digits, text):
    assert short(number, digits) == text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ([], "-"),
        ([None, None], "-"),
        ([0.5, None, 0.5001], "0.5"),
        ([-0.2, 0.5], "±0.5"),
        ([0.1, 0.4999], "0.1..0.5"),
        ([0.02001, 0.02004], "0.02"),
    ],
)
def test_ranges(values, text):
    assert range_in_words(values, 4 if len(values) == 2 else 3) == text


def test_shapes():
    assert shape_in_words((2, 3)) == f"2{TIMES}3"
    assert shape_in_words(()) == "scalar"


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([3], "3"),
        ([0, 1], "{0,1}"),
        ([0, 1, 2, 5], "{0..2,5}"),
        ([0, 3, 6, 9], "{0,3..9}"),
        ([1, 3, 5], "{1,3,5}"),
    ],
)
def test_names_of_many(numbers, text):
    assert name_of_many([f"h.{k}.bias" for k in numbers]) == f"h.{text}.bias"
