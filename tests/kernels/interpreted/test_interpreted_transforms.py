"""Philox, Box-Muller and the quantile in Triton's interpreter equal the reference bit for bit."""

from __future__ import annotations

import pytest
import transform_cases

# The interpreter's cost is the program's, not the element's: few programs, large blocks.
BLOCK = 1 << 16


def test_philox_known_answers():
    transform_cases.check_known_answers("cpu")


def test_philox_boundaries():
    transform_cases.check_boundaries("cpu")


def test_box_muller():
    transform_cases.check_box_muller("cpu")


def test_slope():
    transform_cases.check_slopes("cpu")


# Always every 128th number of each range; all of them where the slow tests run.
EVERY = pytest.mark.parametrize("every", [128, pytest.param(1, marks=pytest.mark.slow)])


@EVERY
def test_every_radius(every):
    compared = transform_cases.check_radii("cpu", every=every, block=BLOCK)
    assert compared == {1: 71_303_169, 128: 557_064}[every]


@EVERY
def test_every_angle(every):
    compared = transform_cases.check_sines("cpu", every=every, block=BLOCK)
    assert compared == {1: 2 * 67_108_865, 128: 2 * 524_296}[every]


@pytest.mark.parametrize("every", [1024, pytest.param(16, marks=pytest.mark.slow)])
def test_logs_of_products(every):
    compared = transform_cases.check_logs_of_products("cpu", every=every, block=BLOCK)
    assert compared == 60 * 2**23 // every + 1
