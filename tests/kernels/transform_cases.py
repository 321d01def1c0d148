"""Triton's transforms against the reference's, one at a time: on a GPU, or in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import transform_kernels as kernels
from float_domains import Domain, Floats, angle_numbers, bits, chunks, multiples, radius_numbers
from independent_philox import BOUNDARIES, KNOWN_ANSWERS
from independent_philox import words as words_of
from kernel_cases import assert_same_bits

from tritoninit.kernels import lowering, reference, triton_kernels


def check_known_answers(device: str) -> None:
    for counter, key, answer in KNOWN_ANSWERS:
        found = kernels.words(np.array([counter], np.uint32).T, np.array(key, np.uint32), device=device)
        assert tuple(found[:, 0]) == answer


def check_boundaries(device: str) -> None:
    """Every 32-bit boundary of seed, stream and block, against Python integers."""
    pairs = [(stream, block) for stream in BOUNDARIES for block in BOUNDARIES]
    counters = np.array([(b % 2**32, b >> 32, s % 2**32, s >> 32) for s, b in pairs], np.uint32).T.copy()
    for seed in BOUNDARIES:
        found = kernels.words(counters, np.array([seed % 2**32, seed >> 32], np.uint32), device=device)
        assert [tuple(words) for words in found.T] == [words_of(seed, *pair) for pair in pairs]


def _sweep(
    domain: Domain,
    ours: Callable[[Floats], Any],
    reference_: Callable[[Floats], Any],
    every: int,
    size: int,
) -> int:
    compared = 0
    for x in chunks(domain, every=every, size=size):
        assert_same_bits(ours(x).view(np.uint32), reference_(x).view(np.uint32), x)
        compared += len(x)
    return compared


def check_radii(device: str, *, every: int, block: int) -> int:
    """sqrt(-2 ln(x 2**-32)) of the radius's numbers; how many were compared."""
    return _sweep(
        radius_numbers(),
        lambda x: kernels.elementwise(kernels.radius_kernel, x, block=block, device=device),
        lambda x: np.sqrt(reference.minus_two_log(x, 32)),
        every,
        block if device == "cpu" else 1 << 22,
    )


def check_sines(device: str, *, every: int, block: int) -> int:
    """sin(pi/2 f) of the angle's numbers, both signs; how many were compared."""
    return sum(
        _sweep(
            angle_numbers(),
            lambda f, s=sign: kernels.elementwise(kernels.sine_kernel, f * s, block=block, device=device),
            lambda f, s=sign: reference.sine(f * s),
            every,
            block if device == "cpu" else 1 << 22,
        )
        for sign in (np.float32(1), np.float32(-1))
    )


def check_logs_of_products(device: str, *, every: int, block: int) -> int:
    """-2 ln(4 p) of the products of two probabilities, 2**-62 to a quarter."""
    domain = [*multiples(-200, -62, -2), range(bits(0.25), bits(0.25) + 8)]
    return _sweep(
        domain,
        lambda p: kernels.elementwise(
            kernels.minus_two_log_kernel, p, block=block, device=device, EXPONENT=-2
        ),
        lambda p: reference.minus_two_log(p, -2),
        every,
        block if device == "cpu" else 1 << 22,
    )


def structured_words() -> Any:
    """uint32 words near every power of two and every multiple of an eighth turn, and random ones."""
    edges = [2**k for k in range(33)] + [k << 29 for k in range(8)] + [k << 8 for k in range(16)]
    near = np.array(sorted({(e + d) % 2**32 for e in edges for d in range(-40, 41)}), np.uint32)
    rng = np.random.Generator(np.random.PCG64(11))
    return np.concatenate([near, rng.integers(0, 2**32, (1 << 14) - len(near), np.uint32)])


def check_box_muller(device: str) -> None:
    """Structured words for the angle beside sixteen shifts of them for the radius."""
    y = structured_words()
    for shift in range(0, len(y), len(y) // 16):
        x = np.roll(y, shift)
        found = kernels.box_muller(x, y, device=device, block=len(y))
        for ours, theirs in zip(found, reference.box_muller(x, y), strict=True):
            assert_same_bits(ours.view(np.uint32), theirs.view(np.uint32), shift)


# CENTRAL_TAIL is P(Z > 3.09).
CENTRAL_INTERVALS = ((-2, 2), (-0.01, 0.01), (-3.09, 3.09), (-3.09, -3), (1, 1.001))
TAIL_INTERVALS = ((-40, 40), (0, 50), (-3.1, -1), (6, 40), (-40, -6), (6, 6.0001))


def probabilities(x: Any, low: float, high: float) -> tuple[Floats, Floats]:
    """What words x make of P(Z < z) and P(Z > z) in [low, high]."""
    numbers = lowering.truncated_normal(0, 1, low, high, "float32")
    below, above, mass = (np.float32(numbers[k]) for k in (2, 3, 5))
    left = (x | np.uint32(1)).astype(np.float32) * mass + below
    return left, (~x | np.uint32(1)).astype(np.float32) * mass + above


def check_slopes(device: str) -> None:
    """The quantile's polynomials, for intervals around the mean, in either tail, narrow and wide."""
    x = structured_words()
    for low, high in CENTRAL_INTERVALS + TAIL_INTERVALS:
        below, above = probabilities(x, low, high)
        central = (low, high) in CENTRAL_INTERVALS
        assert central == (min(below.min(), above.min()) >= triton_kernels.CENTRAL_TAIL)
        expected = reference.slope(below, above).view(np.uint32)
        for tails in {True, not central}:
            found = kernels.elementwise(
                kernels.slope_kernel, below, above, device=device, block=len(x), TAILS=tails
            )
            assert_same_bits(found.view(np.uint32), expected, (low, high, tails))
