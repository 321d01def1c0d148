"""Functions whose bits hang on IEEE 754 alone: near the truth, at the ends of their domains, and pinned."""

import math
import sys

import mpmath
import numpy as np
import pytest

from tritoninit import exact

TINY = sys.float_info.min
NUMBERS = np.random.default_rng(0)


def error_in_ulps(found, true):
    return max(
        abs((mpmath.mpf(float(a)) - b) / mpmath.mpf(math.ulp(float(b))))
        for a, b in zip(found, true, strict=True)
    )


def test_log():
    x = np.concatenate(
        [
            [
                5e-324,
                TINY,
                0.5,
                math.sqrt(0.5),
                np.nextafter(1, 0),
                1.0,
                np.nextafter(1, 2),
                sys.float_info.max,
            ],
            1 + NUMBERS.normal(size=200) * 1e-4,
            np.exp(NUMBERS.uniform(-740, 700, 400)),
        ]
    )
    with mpmath.workprec(200):
        assert error_in_ulps(exact.log(x), [mpmath.log(mpmath.mpf(float(v))) for v in x]) < 5


def test_log1p():
    x = np.concatenate(
        [[0.25, -0.25, 1e-300, 1e300], NUMBERS.uniform(-0.999, 2, 400), NUMBERS.normal(size=200) * 1e-9]
    )
    with mpmath.workprec(200):
        assert error_in_ulps(exact.log1p(x), [mpmath.log1p(mpmath.mpf(float(v))) for v in x]) < 5


def test_exp():
    x = np.concatenate(
        [[0.0, -0.0, 709.7, -708.0, 1e-300], NUMBERS.uniform(-700, 709, 500), NUMBERS.normal(size=200)]
    )
    with mpmath.workprec(200):
        assert error_in_ulps(exact.exp(x), [mpmath.exp(mpmath.mpf(float(v))) for v in x]) < 2
    with np.errstate(over="ignore"):
        assert exact.exp(np.array([1e9, -1e9])).tolist() == [math.inf, 0.0]


def test_expm1():
    x = -np.concatenate([[0.0, 1e-300, 1e9], np.exp(NUMBERS.uniform(-40, 5, 500))])
    with mpmath.workprec(200):
        assert error_in_ulps(exact.expm1(x), [mpmath.expm1(mpmath.mpf(float(v))) for v in x]) < 5


def test_cotangent():
    x = np.concatenate([[2.0**-49, 0.25], NUMBERS.uniform(1e-9, 0.25, 500)])
    with mpmath.workprec(200):
        assert (
            error_in_ulps(exact.cotangent(x), [mpmath.cot(mpmath.pi * mpmath.mpf(float(v))) for v in x]) < 4
        )


@pytest.mark.parametrize(
    ("function", "x", "bits"),
    [
        (exact.log, 10.0, "0x1.26bb1bbb55516p+1"),
        (exact.log, 1e-310, "-0x1.64e69394d9508p+9"),
        (exact.exp, 1.0, "0x1.5bf0a8b14576ap+1"),
        (exact.exp, -708.5, "0x0.e6cf6d08897acp-1022"),
        (exact.expm1, -0.3, "-0x1.0966f2c7907f6p-2"),
        (exact.cotangent, 0.1, "0x1.89f188bdcd7afp+1"),
    ],
)
def test_bits(function, x, bits):
    assert float(function(np.array([x]))[0]).hex() == bits
