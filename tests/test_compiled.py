"""Functions of random numbers by compiled loops: NumPy's bits, in every dtype, layout and part."""

import numpy as np
import pytest
import torch

import tritoninit as ti
from tritoninit import Key, Window, compiled, exact
from tritoninit.kernels.stream import FLOAT8

pytest.importorskip("numba", exc_type=ImportError)
from tritoninit.kernels import numba_functions, numba_order

KEY = Key(3, 2**63 + 5).fold_in("compiled")
SHAPE = (37, 1301)  # more than are left to NumPy, and no whole tiles

FUNCTIONS = [
    ti.Exponential(0.7),
    ti.LogNormal(-0.5, 0.8),
    ti.Cauchy(-1.0, 3.0),
    ti.Geometric(0.3),
    ti.Bernoulli(0.3),
    ti.RandInt(-1000, 1000),
    ti.LogUniform(1e-3, 0.1),
    ti.LogOfUniform(),
    ti.TimeStepBias(),
    ti.RingDecay(),
]
# Of one power of two and of all, with and without a high half, near the ends of a dtype.
RANGES = [(0, 1), (-5, 2**31), (-(2**40), 2**45 + 7), (-(2**63), 2**63), (-(2**63), -1), (0, 2**32)]
FLOATS = ["float32", "float16", "bfloat16", *FLOAT8]


def both(initializer, shape=SHAPE, dtype=torch.float32, window=None):
    found = []
    for backend in ("numpy", "numba"):
        with ti.use_backend(backend):
            found.append(initializer(torch.empty(shape, dtype=dtype), key=KEY, window=window))
    return found


def same(first, second):
    first, second = (x.contiguous().reshape(-1).view(torch.uint8) for x in (first, second))
    return torch.equal(first, second)


@pytest.fixture
def asked(monkeypatch):
    """What went through the compiled loops."""
    seen = []
    fill = numba_functions.fill
    monkeypatch.setattr(
        numba_functions, "fill", lambda item, *rest: (seen.append(item[2].distribution), fill(item, *rest))
    )
    return seen


@pytest.mark.parametrize("initializer", FUNCTIONS, ids=str)
def test_bits(initializer, asked):
    assert same(*both(initializer))
    assert len(asked) == 1


@pytest.mark.parametrize(
    "initializer",
    [
        ti.Exponential(1e-30),
        ti.Exponential(1e30),
        ti.LogNormal(-100.0, 5.0),  # into the subnormal numbers, and zero
        ti.LogNormal(20.0, 10.0),
        ti.LogNormal(-800.0, 1.0),
        ti.Cauchy(1e10, 1e-20),
        ti.Geometric(1e-12),
        ti.Geometric(1 - 2.0**-53),
        ti.Bernoulli(0.0),
        ti.Bernoulli(1.0),
        ti.Bernoulli(2.0**-18),
        ti.LogUniform(1e-30, 1e30),
        ti.LogUniform(0.25, 0.25),
        ti.LogUniform(1e-45, 1e-40),  # subnormal in float32
        ti.LogOfUniform(1e-299, 1e30),
        ti.LogOfUniform(1.0, 1.0 + 2.0**-52),
        ti.TimeStepBias(1e-30, 30.0, 0.0),
        ti.TimeStepBias(100.0, 2000.0),  # whose exponentials are zero
        ti.TimeStepBias(1e-3, 0.1, 0.05),
        ti.TimeStepBias(1e-3, 0.1, 0.5),
        ti.RingDecay(1e-200, 0.5),
        ti.RingDecay(0.5, 1 - 2.0**-53),
        ti.RingDecay(0.7, 0.7),
    ],
    ids=str,
)
def test_bits_at_the_ends(initializer):
    assert same(*both(initializer))


@pytest.mark.parametrize("initializer", [ti.LogOfUniform(1e-310), ti.TimeStepBias(1e-310, 0.1, 0.0)])
def test_logarithms_of_subnormal_numbers_are_left_to_numpy(initializer, asked):
    assert same(*both(initializer))
    assert not asked


@pytest.mark.parametrize("bounds", RANGES, ids=str)
def test_integers_of_any_range(bounds):
    assert same(*both(ti.RandInt(*bounds), dtype=torch.int64))


@pytest.mark.parametrize("name", FLOATS)
def test_floats_of_every_dtype(name):
    some = (
        ti.Exponential(),
        ti.LogNormal(0.0, 0.5),
        ti.Geometric(0.5),
        ti.LogUniform(0.1, 2.0),
        ti.TimeStepBias(),
    )
    for initializer in some:
        assert same(*both(initializer, dtype=getattr(torch, name))), initializer


@pytest.mark.parametrize(
    "name",
    [
        *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
        *("float64", "float16", "bfloat16", "complex64"),
    ],
)
def test_whole_numbers_of_every_dtype(name):
    dtype = getattr(torch, name)
    assert same(*both(ti.Bernoulli(0.3), dtype=dtype))
    assert same(*both(ti.RandInt(0, 2 if name == "bool" else 100), dtype=dtype))
    if dtype.is_signed and name != "bool":
        assert same(*both(ti.RandInt(-100, 100), dtype=dtype))


@pytest.mark.parametrize("initializer", FUNCTIONS, ids=str)
def test_parts_and_layouts(initializer):
    """A window's columns, its rows, a transposed and a sliced tensor, one element a row."""
    whole, _ = both(initializer, (300, 400))
    with ti.use_backend("numba"):
        for rows, columns in (((0, 300), (5, 300)), ((100, 299), (0, 400)), ((0, 300), (7, 8))):
            cut = slice(*rows), slice(*columns)
            window = Window((300, 400), (rows[0], columns[0]))
            part = whole[cut]
            for memory in (
                torch.empty(part.shape),
                torch.empty(part.shape[::-1]).T,
                torch.empty(part.shape[0], 2 * part.shape[1])[:, ::2],
            ):
                assert same(initializer(memory, key=KEY, window=window), part)


def test_other_containers(asked):
    """Arrays, parameters, and what another device or a factor has of it."""
    whole, _ = both(ti.Exponential())
    with ti.use_backend("numba"):
        array = ti.Exponential()(np.empty(SHAPE, np.float32), key=KEY)
        weight = torch.nn.Parameter(torch.empty(SHAPE))
        version = weight._version
        ti.exponential_(weight, key=KEY)
        twice = ti.Exponential().times(2.0)(torch.empty(SHAPE), key=KEY)
    assert len(asked) == 4
    assert np.array_equal(array, whole.numpy())
    assert same(weight.detach(), whole)
    assert weight._version > version
    assert same(twice, whole * 2)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_number_of_threads(threads):
    whole, _ = both(ti.Cauchy(), (3 * numba_functions.CHUNK + 5,))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert same(ti.cauchy_(torch.empty_like(whole), key=KEY), whole)
    finally:
        torch.set_num_threads(before)


def test_who_derives_has_its_own_function(asked):
    class Half(ti.Exponential):
        def function(self, high, low):
            return super().function(high, low) / 2

    halves, _ = both(ti.Exponential())
    assert same(Half()(torch.empty(SHAPE), key=KEY), halves / 2)
    assert asked == ["exponential"]


def test_few_are_left_to_numpy(asked):
    for initializer in FUNCTIONS:
        assert same(*both(initializer, (7, 11)))
    assert not asked


def test_polynomials_are_those_of_numpy():
    """Logarithms of all exponents and exponentials of all sizes, which no draw reaches."""
    x = np.exp(np.random.default_rng(0).uniform(-700, 700, 500))
    assert [numba_functions.log(v) for v in x] == exact.log(x).tolist()
    y = np.concatenate([np.random.default_rng(1).uniform(-760, 720, 500), [0.0, -0.0, np.inf, -np.inf]])
    with np.errstate(over="ignore"):
        assert [numba_functions.exp(v) for v in y] == exact.exp(y).tolist()
    z = -np.concatenate(
        [np.random.default_rng(2).exponential(5, 500), 2.0 ** np.arange(-60, 10), [0.0, 745.0]]
    )
    assert [numba_functions.expm1(v) for v in z] == exact.expm1(z).tolist()


class TestOrder:
    @pytest.mark.parametrize(
        "shape", [(1, 0), (3, 0), (0, 4), (1, 1), (5, 2), (5, 7), (3, 5000), (1, 300000)]
    )
    @pytest.mark.parametrize("threads", [1, 2])
    def test_random_words(self, shape, threads):
        words = np.random.default_rng(0).integers(0, 2**64, shape, np.uint64)
        found = numba_order.argsort(words, threads)
        assert np.array_equal(found, np.argsort(words, axis=1, kind="stable"))

    @pytest.mark.parametrize("shift", [0, 8, 16, 21, 40, 63])
    @pytest.mark.parametrize("count", [1, 2, 2**10])
    def test_equal_words_and_such_as_begin_alike(self, count, shift):
        words = np.random.default_rng(0).integers(0, count, (2, 3000), np.uint64) << np.uint64(shift)
        assert np.array_equal(numba_order.argsort(words, 1), np.argsort(words, axis=1, kind="stable"))

    def test_words_that_differ_at_their_ends(self):
        words = np.random.default_rng(0).integers(0, 2**64, (1, 60000), np.uint64)
        words[0, 1::2] = words[0, ::2] ^ np.uint64(3)
        assert np.array_equal(numba_order.argsort(words, 1), np.argsort(words, axis=1, kind="stable"))

    @pytest.mark.parametrize("shape", [(40000,), (9, 5000), (20000, 3)])
    def test_permutations(self, shape):
        assert same(*both(ti.Permutation(), shape, torch.int64))

    def test_who_asks(self, monkeypatch):
        sizes = []
        argsort = numba_order.argsort
        monkeypatch.setattr(
            numba_order,
            "argsort",
            lambda words, threads: (sizes.append(words.shape), argsort(words, threads))[1],
        )
        part = ti.permutation_(torch.empty(2, 5), key=KEY, window=Window((3, 40000), (1, 7)))
        assert sizes == [(2, 40000)]
        assert same(part, both(ti.Permutation(), (3, 40000))[0][1:, 7:12])
        few = np.arange(5, dtype=np.uint64)
        assert compiled.argsort(few).tolist() == [0, 1, 2, 3, 4]
        assert len(sizes) == 2
