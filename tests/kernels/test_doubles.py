"""float64: how far from exact numbers, the layout of its words, and equal bits of the reference and numba."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from independent_philox import words as philox_words
from kernel_cases import FILLS, LAYOUTS, SEED, STARTS, STREAM, edge_draws, make_draw
from scipy import stats

import tritoninit as ti
from tritoninit.kernels import doubles, lowering, reference
from tritoninit.kernels import reference_doubles as rd
from tritoninit.kernels.stream import Draw, row_major_strides

UNIT = 2.0**-53
COUNT = 1500


@pytest.fixture(autouse=True)
def digits():
    with mpmath.workdps(45):
        yield


def words(seed: int, count: int = COUNT) -> np.ndarray:
    """Uniform words, and words at every distance from both ends and from the middle."""
    rng = np.random.Generator(np.random.PCG64(seed))
    near = (2.0 ** rng.uniform(0, 63, count)).astype(np.uint64)
    middle = np.uint64(1 << 63)
    uniform = rng.integers(0, 2**64, count, np.uint64)
    return np.concatenate([uniform, near, ~near, middle + near, middle - near])


def ulps(value: float, exact: mpmath.mpf) -> float:
    """The error in units in the last place of the larger of the value and the exact one."""
    spacing = float(np.spacing(max(abs(float(value)), abs(float(exact)))))
    return float(abs(mpmath.mpf(float(value)) - exact) / mpmath.mpf(spacing))


def exact_radius(x: int) -> mpmath.mpf:
    u = mpmath.mpf(float(np.float64(np.uint64(x | 1)))) / 2**64
    return mpmath.sqrt(-2 * mpmath.log(u))


def test_radius():
    """Measured: 1.35 units."""
    x = words(1)
    found = rd.radius(x)
    worst = 0.0
    for value, word in zip(found.tolist(), x.tolist(), strict=True):
        exact = exact_radius(word)
        worst = max(worst, float(abs(value / exact - 1)) / UNIT if exact else value)
    assert worst < 1.75


def test_sine():
    """Measured: 1.33 units."""
    f = (words(2) >> np.uint64(11)).astype(np.float64) * UNIT
    f = np.concatenate([f, -f, 1 - f])
    found = rd.sine(f)
    exact = [mpmath.sin(mpmath.pi / 2 * mpmath.mpf(each)) for each in f.tolist()]
    errors = [abs(v / e - 1) / UNIT if e else abs(v) for v, e in zip(found.tolist(), exact, strict=True)]
    assert max(errors) < 1.7
    assert rd.sine(np.array([0.0, 1.0, -1.0])).tolist() == [0.0, 1.0, -1.0]


def test_normals_are_within_four_ulp():
    """Of Box-Muller in real numbers, of the radius' float64(x | 1) and of the angle's exact grid.

    Measured: 2.1.
    """
    x, y = words(3), np.random.Generator(np.random.PCG64(4)).permutation(words(5))
    worst = 0.0
    for a, b, z0, z1 in zip(x.tolist(), y.tolist(), *(z.tolist() for z in rd.box_muller(x, y)), strict=True):
        turned = (2 * b + 2**63) % 2**64
        f = -mpmath.mpf((turned - 2**64 * (turned >= 2**63)) >> 10) / 2**53
        r = exact_radius(a) * (-1 if b >= 2**63 else 1)
        worst = max(worst, ulps(z0, r * mpmath.sin(mpmath.pi / 2 * f)))
        worst = max(worst, ulps(z1, r * mpmath.sin(mpmath.pi / 2 * (1 - abs(f)))))
    assert worst < 4


def exact_quantile(p: mpmath.mpf, q: mpmath.mpf, guess: float) -> mpmath.mpf:
    """z with P(Z < z) = p and P(Z > z) = q, by Halley's iterations from a guess."""
    small, side = (p, -1) if p < q else (q, 1)
    z = mpmath.mpf(abs(guess))
    for _ in range(6):
        error = mpmath.erfc(z / mpmath.sqrt(2)) / 2 - small
        step = -error / (mpmath.exp(-z * z / 2) / mpmath.sqrt(2 * mpmath.pi))
        z -= step / (1 + z * step / 2)
        if abs(step) <= mpmath.mpf(10) ** -40:
            break
    return side * z


INTERVALS = [
    (-2, 2),
    (-1, 1),
    (-40, 40),
    (-0.01, 0.01),
    (0, 2),
    (0, 50),
    (-3, -1),
    (3, 4),
    (6, 40),
    (6, 6.0001),
]


@pytest.mark.parametrize(("low", "high"), INTERVALS)
def test_truncated_normals_are_within_four_ulp(low, high):
    """Of d g in real numbers, of the float64 numbers p, q and d; and near the quantile of the word itself.

    The latter as far as d, the difference of p and q, is not lost where they are nearly equal.
    """
    x = words(6, 60)
    numbers = lowering.truncated_normal(0.0, 1.0, float(low), float(high), "float64")
    mass, below, above = numbers.mass, numbers.below, numbers.above
    odd = x | np.uint64(1)
    left = odd.astype(np.float64) * mass + below
    right = (~x | np.uint64(1)).astype(np.float64) * mass + above
    d = (odd ^ np.uint64(1 << 63)).view(np.int64).astype(np.float64) * (2 * mass) + numbers.difference
    z = rd.truncated_normal(np.stack([x] * 4), 0.0, 1.0, below, above, numbers.difference, mass, -99, 99)[0]
    share = mpmath.ncdf(high) - mpmath.ncdf(low) if low < 0 else mpmath.ncdf(-low) - mpmath.ncdf(-high)
    for word, p, q, difference, value in zip(
        *(each.tolist() for each in (x, left, right, d, z)), strict=True
    ):
        square = 4 * mpmath.mpf(p) * mpmath.mpf(q)
        s = mpmath.sqrt(1 - square) if square < 1 else mpmath.mpf(0)
        half = square / (2 * (1 + s)) if s else mpmath.mpf(1) / 2
        quantile = exact_quantile(half, 1 - half, max(abs(value), 1e-3))
        slope = abs(quantile) / s if s > mpmath.mpf(10) ** -12 else mpmath.sqrt(mpmath.pi / 2)
        assert ulps(value, difference * slope) < 4
        u = mpmath.mpf(word | 1) / 2**64
        whole = exact_quantile(
            mpmath.ncdf(low) + u * share, mpmath.ncdf(-high) + (1 - u) * share, max(abs(value), 1e-3)
        )
        assert abs(value - whole) < 8 * UNIT * max(abs(whole), abs(numbers.difference))


def test_uniforms_are_exact():
    x = words(7)
    numbers = lowering.uniform(-0.1, 0.7, "float64")
    found = rd.uniform(x, *numbers)
    expected = (x >> np.uint64(11)).astype(np.float64) * ((0.7 - -0.1) * 2.0**-53) + -0.1
    assert np.array_equal(found, np.minimum(expected, np.nextafter(0.7, 0)))
    assert (found < 0.7).all()
    assert (found >= -0.1).all()
    assert np.array_equal(rd.uniform(x, *lowering.uniform(0.0, 1.0, "float64")) * 2.0**53, x >> np.uint64(11))


def test_which_words_an_element_has():
    """Of an independent Philox: the word of float32 on top, and that of the block 2**62 further below it."""
    for start in (0, 3, 2**34 - 5, 2**63 - 2**20):
        out = np.empty(9)
        numbers = lowering.uniform(0.0, 1.0, "float64")
        reference.fill_many([(out, "float64", Draw("uniform", numbers, SEED, STREAM, start, (1,)))])
        for k, value in enumerate(out.tolist()):
            block, word = divmod(start + k, 4)
            high = philox_words(SEED, STREAM, block)[word]
            low = philox_words(SEED, STREAM, block + 2**62)[word]
            assert value == ((int(high) << 32 | int(low)) >> 11) * 2.0**-53
    assert doubles.LOW_HALVES == 2**62


def test_float64_is_float32_in_more_digits():
    for initializer, most in (
        (ti.Uniform(-0.3, 0.5), 0.8 * 2.0**-23),
        (ti.Normal(), 5e-4),  # where a radius is next to none, float32 has few numbers of it
        (ti.TruncatedNormal(0.0, 1.0, -2.0, 2.0), 3e-6),
    ):
        narrow, wide = torch.empty(3, 7001), torch.empty(3, 7001, dtype=torch.float64)
        initializer(narrow, key=ti.Key(3))
        initializer(wide, key=ti.Key(3))
        difference = (narrow.double() - wide).abs()
        assert difference.max() < most
        assert difference.median() < 2e-7
        assert not wide.float().double().equal(wide)


@pytest.mark.parametrize("name", FILLS)
def test_numba_writes_the_reference_s_bits(name):
    numba_kernels = pytest.importorskip("tritoninit.kernels.numba_kernels", exc_type=ImportError)
    draws = [make_draw(name, "float64", start, (1,)) for start in STARTS] + edge_draws(name, "float64")
    for draw in draws:
        found, expected = np.full((2, 4099), np.nan)
        numba_kernels.fill_many([(found, "float64", draw)])
        reference.fill_many([(expected, "float64", draw)])
        assert np.array_equal(found.view(np.uint64), expected.view(np.uint64))
    for layout in LAYOUTS:
        draw = make_draw(name, "float64", 2**34 - 5, row_major_strides(layout.shape))
        memories = np.full((2, layout.extent + 8), np.nan)
        for memory, fill in zip(memories, (numba_kernels.fill_many, reference.fill_many), strict=True):
            strides = [8 * stride for stride in layout.strides]
            fill(
                [
                    (
                        np.lib.stride_tricks.as_strided(memory[layout.offset :], layout.shape, strides),
                        "float64",
                        draw,
                    )
                ]
            )
        assert np.array_equal(*memories.view(np.uint64))


def test_sizes_and_threads():
    numba_kernels = pytest.importorskip("tritoninit.kernels.numba_kernels", exc_type=ImportError)
    draw = make_draw("normal", "float64", 3, (1,))
    for size in (1, 3, 4, 5, 2047, 2048, 2049, numba_kernels.CHUNK // 4, 3 * numba_kernels.CHUNK + 5):
        found, other, expected = np.full((3, size), np.nan)
        assert numba_kernels.fill_contiguous(torch.from_numpy(found), draw)
        numba_kernels.fill_many([(other, "float64", draw)], threads=2)
        reference.fill_many([(expected, "float64", draw)])
        assert np.array_equal(found, expected)
        assert np.array_equal(other, expected)


@pytest.mark.parametrize("generator", ["uniform_", "normal_", "trunc_normal_"])
def test_distribution(generator):
    """Kolmogorov-Smirnov of a million elements, and that their lower halves are uniform, too."""
    tensor = torch.empty(1 << 20, dtype=torch.float64)
    getattr(ti, generator)(tensor, key=ti.Key(11))
    x = tensor.numpy()
    law = {
        "uniform_": stats.uniform(),
        "normal_": stats.norm(),
        "trunc_normal_": stats.truncnorm(-2, 2),
    }[generator]
    u = law.cdf(x)
    assert stats.kstest(u, "uniform").pvalue > 1e-4
    assert stats.kstest((u * 2.0**24) % 1, "uniform").pvalue > 1e-4


@pytest.mark.parametrize("shape", [(60,), (30, 40), (4, 5, 6), (3, 4, 5, 6)])
@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (-3.0, 0.01), (5.0, 2.5)])
def test_trunc_normal_in_double_as_pytorch_tests_it(shape, mean, std):
    """Values stay in [a, b], and follow the law, by Kolmogorov-Smirnov: PyTorch's own tests, in double."""
    a, b = mean - 2 * std, mean + 1.5 * std
    tensor = torch.empty(shape, dtype=torch.float64)
    ti.trunc_normal_(tensor, mean, std, a, b, key=ti.Key(17).fold_in(len(shape)))
    assert tensor.min() >= a
    assert tensor.max() <= b
    z = (tensor.flatten().numpy() - mean) / std
    assert stats.kstest(z, stats.truncnorm((a - mean) / std, (b - mean) / std).cdf).pvalue > 1e-4


def test_bounds_are_float64s():
    """Closed at low, open at high, to the last bit of float64; a truncated normal is closed at both."""
    high = np.nextafter(1.0, 2.0) + 2.0**-40
    tensor = ti.uniform_(torch.empty(1 << 16, dtype=torch.float64), 1.0, high, key=ti.Key(1))
    assert tensor.min() >= 1.0
    assert tensor.max() < high
    assert len(tensor.unique()) > 4000  # of 2**12 that there are, by a span of 2**-40
    low, top = 0.1, 0.1 + 2.0**-20
    tensor = ti.trunc_normal_(torch.empty(1 << 12, dtype=torch.float64), 0.0, 1.0, low, top, key=ti.Key(1))
    assert tensor.min() >= low
    assert tensor.max() <= top
    assert math.isfinite(tensor.sum())


def test_every_function_models_and_interception():
    key = ti.Key(5)
    for function, arguments in (
        (ti.kaiming_uniform_, ()),
        (ti.xavier_normal_, ()),
        (ti.orthogonal_, ()),
        (ti.sparse_, (0.3,)),
    ):
        wide, narrow = torch.empty(24, 40, dtype=torch.float64), torch.empty(24, 40)
        function(wide, *arguments, key=key)
        function(narrow, *arguments, key=key)
        assert (wide - narrow).abs().max() < 1e-4
        assert not wide.float().double().equal(wide)
    q = ti.orthogonal_(torch.empty(64, 64, dtype=torch.float64), key=key)
    assert (q @ q.T - torch.eye(64, dtype=torch.float64)).abs().max() < 1e-13
    model = torch.nn.Linear(40, 24).double()
    ti.initialize_(model, seed=3)
    other = torch.nn.Linear(40, 24)
    ti.initialize_(other, seed=3)
    assert (model.weight - other.weight).abs().max() < 1e-7
    whole, part = torch.empty(40, 24, dtype=torch.float64), torch.empty(9, 11, dtype=torch.float64)
    ti.normal_(whole, key=key)
    ti.normal_(part, key=key, window=ti.Window((40, 24), (13, 5)))
    assert part.equal(whole[13:22, 5:16])
    array = np.empty((40, 24))
    ti.normal_(array, key=key)
    assert np.array_equal(array, whole.numpy())
    with ti.intercept(seed=1):
        drawn = torch.nn.init.normal_(torch.empty(64, dtype=torch.float64))
    with ti.intercept(seed=1):
        narrow = torch.nn.init.normal_(torch.empty(64))
    assert (drawn - narrow).abs().max() < 1e-5


def test_constants_keep_their_digits():
    assert ti.constant_(torch.empty(5, dtype=torch.float64), 0.1).tolist() == [0.1] * 5
    assert ti.constant_(torch.empty(2, dtype=torch.float64), 1e308).tolist() == [1e308] * 2
    assert ti.constant_(np.empty((2, 2))[:, ::2], 0.1).ravel().tolist() == [0.1] * 2
