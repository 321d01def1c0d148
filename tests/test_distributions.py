"""Distributions that torch.Tensor's methods draw: against those methods, in every dtype, by their bits."""

import inspect
import math
from contextlib import nullcontext
from itertools import permutations

import numpy as np
import pytest
import torch
from scipy import stats

import tritoninit as ti
from tritoninit import Key, Window, drawing
from tritoninit.distributions import _times_high, exact_integers

KEY = Key(9).fold_in("distributions")
N = 1 << 16
INTEGERS = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
UNSIGNED = [torch.uint16, torch.uint32, torch.uint64]
FLOATS = [torch.float32, torch.float16, torch.bfloat16, torch.float64]

CALLS = {
    "exponential_": (0.5,),
    "log_normal_": (0.0, 0.5),
    "cauchy_": (1.0, 2.0),
    "geometric_": (0.2,),
    "bernoulli_": (0.3,),
    "random_": (-5, 11),
}


class TestAgainstTorch:
    @pytest.mark.parametrize("name", CALLS)
    def test_distribution(self, name):
        torch.manual_seed(0)
        theirs = getattr(torch.empty(N), name)(*CALLS[name])
        ours = getattr(ti, name)(torch.empty(N), *CALLS[name], key=KEY)
        # Smirnov's bound, which one pair in a million of samples of one distribution exceeds.
        assert stats.ks_2samp(ours, theirs).statistic < math.sqrt(math.log(2e6) / N)

    @pytest.mark.parametrize("name", CALLS)
    def test_defaults(self, name):
        if name == "geometric_":
            return
        torch.manual_seed(0)
        theirs = getattr(torch.empty(N), name)()
        ours = getattr(ti, name)(torch.empty(N), key=KEY)
        assert stats.ks_2samp(ours, theirs).statistic < math.sqrt(math.log(2e6) / N)

    @pytest.mark.parametrize("dtype", INTEGERS + FLOATS, ids=str)
    @pytest.mark.parametrize("bounds", [(), (2,), (1, None)], ids=str)
    def test_random_of_every_dtype(self, dtype, bounds):
        torch.manual_seed(0)
        theirs = torch.empty(N, dtype=dtype).random_(*bounds).double()
        ours = ti.random_(torch.empty(N, dtype=dtype), *bounds, key=KEY).double()
        assert stats.ks_2samp(ours, theirs).statistic < math.sqrt(math.log(2e6) / N)
        assert ours.min() >= (bounds[0] if len(bounds) == 2 else 0)

    def test_randperm(self):
        torch.manual_seed(0)
        theirs = torch.stack([torch.randperm(4) for _ in range(6000)])
        ours = ti.permutation_(torch.empty(6000, 4, dtype=torch.int64), key=KEY)
        for found in (theirs, ours):
            counts = [int((found == torch.tensor(each)).all(1).sum()) for each in permutations(range(4))]
            assert stats.chisquare(counts).pvalue > 1e-6

    @pytest.mark.parametrize(
        ("call", "theirs"),
        [
            (lambda x: ti.exponential_(x, 0.0), lambda x: x.exponential_(0.0)),
            (lambda x: ti.log_normal_(x, 0.0, 0.0), lambda x: x.log_normal_(0.0, 0.0)),
            (lambda x: ti.cauchy_(x, 0.0, 0.0), lambda x: x.cauchy_(0.0, 0.0)),
            (lambda x: ti.geometric_(x, 0.0), lambda x: x.geometric_(0.0)),
            (lambda x: ti.bernoulli_(x, 1.5), lambda x: x.bernoulli_(1.5)),
            (lambda x: ti.random_(x, 3, 3), lambda x: x.random_(3, 3)),
            (lambda x: ti.random_(x, 0), lambda x: x.random_(0)),
        ],
    )
    def test_errors(self, call, theirs):
        values = torch.full((3,), 7.0)
        for wrong in (call, theirs):
            with pytest.raises(RuntimeError):
                wrong(values)
        assert values.tolist() == [7, 7, 7]


class TestBounds:
    def test_exponential_is_positive(self):
        assert ti.exponential_(torch.empty(1 << 20), key=KEY).min() > 0

    def test_ends(self):
        """What the ends of the sources give is within what the docstrings say."""
        ends = [np.array([0.0]), np.array([1 - 2.0**-24])]
        assert ti.Exponential().function(ends[0], ends[0])[0] == pytest.approx(49 * math.log(2))
        assert 0 < ti.Exponential().function(ends[1], ends[1])[0] < 2.0**-48
        cauchy = [ti.Cauchy().function(x, x)[0] for x in ends]
        assert cauchy == [pytest.approx(-(2.0**49) / math.pi), pytest.approx(2.0**49 / math.pi)]
        assert ti.Cauchy().function(np.array([0.5]), ends[0])[0] == pytest.approx(math.pi * 2.0**-49)
        assert ti.Geometric(0.5).function(ends[1], ends[1])[0] == 1
        assert ti.Geometric(2.0**-60).function(ends[1], ends[1])[0] > 1

    def test_probabilities_near_the_ends(self):
        assert not ti.bernoulli_(torch.empty(N), 0.0, key=KEY).any()
        assert ti.bernoulli_(torch.empty(N), 1.0, key=KEY).all()
        drawn = [np.zeros(2, np.float32), np.array([0, 2.0**-24], np.float32)]
        assert ti.Bernoulli(2.0**-48).values(drawn, "float32").tolist() == [1, 0]
        assert ti.Bernoulli(2.0**-60).values(drawn, "float32").tolist() == [1, 0]

    @pytest.mark.parametrize(
        ("initializer", "dtype", "what"),
        [
            (ti.Cauchy(), torch.float16, "cannot hold"),
            (ti.LogNormal(0.0, 2.0), torch.float16, "cannot hold"),
            (ti.LogNormal(0.0, 200.0), torch.float32, "cannot hold"),
            (ti.Exponential(1e-38), torch.float32, "cannot hold"),
            (ti.RandInt(0, 257), torch.uint8, "does not hold the integers"),
            (ti.RandInt(-1, 3), torch.uint8, "does not hold the integers"),
            (ti.RandInt(0, 258), torch.bfloat16, "does not hold the integers"),
            (ti.RandInt(0, 3), torch.bool, "does not hold the integers"),
            (ti.RandInt(300), torch.uint8, "does not hold the integers"),
            (ti.RandInt(0, 2**63 + 1), torch.int64, "does not hold the integers"),
            (ti.Permutation(), torch.int8, "does not hold the indices"),
        ],
    )
    def test_what_a_dtype_does_not_hold(self, initializer, dtype, what):
        for device in ("cpu", "meta"):
            with pytest.raises(ValueError, match=what):
                initializer.check(torch.empty(300, dtype=dtype, device=device), Window.whole((300,)))

    @pytest.mark.parametrize("dtype", INTEGERS + UNSIGNED + FLOATS, ids=str)
    def test_all_that_a_dtype_holds(self, dtype):
        least, most = exact_integers(str(dtype).removeprefix("torch."))
        values = ti.randint_(torch.empty(999, dtype=dtype), least, most + 1, key=KEY)
        span = most - least + 1
        middle = sum(int(x) - least for x in values.tolist()) / 999 / span
        assert middle == pytest.approx(0.5 * (span - 1) / span, abs=0.06)
        assert ti.random_(torch.empty((), dtype=dtype), most, None).item() == most

    @pytest.mark.parametrize(
        "target", [np.empty(3, np.longdouble), torch.empty(3, dtype=torch.uint4)], ids=["longdouble", "uint4"]
    )
    def test_dtypes_of_which_torch_says_nothing(self, target):
        for initializer in (ti.RandInt(0, 2), ti.Permutation()):
            with pytest.raises(NotImplementedError, match="torch does not say which it holds"):
                initializer(target)


class TestWords:
    def test_times_high(self):
        words = np.random.default_rng(0).integers(0, 2**64, 99, np.uint64)
        words[:3] = 0, 2**64 - 1, 2**63
        for count in (1, 2, 3, 255, 2**24 + 1, 2**32 - 1, 2**32, 2**40 + 7, 2**63, 2**64 - 1, 2**64):
            expected = [int(word) * count >> 64 for word in words]
            assert _times_high(words, count).tolist() == expected

    @pytest.mark.parametrize("high", [1, 2, 3, 7, 100])
    def test_all_integers_are_as_likely(self, high):
        counts = torch.bincount(ti.randint_(torch.empty(N, dtype=torch.int64), 0, high, key=KEY))
        assert len(counts) == high
        assert high == 1 or stats.chisquare(counts).pvalue > 1e-6

    def test_low_bits_are_random(self):
        values = ti.random_(torch.empty(N, dtype=torch.int64), -(2**63), None, key=KEY)
        for shift in (0, 7, 8, 23, 24, 47, 48, 63):
            ones = int((values >> shift & 1).sum())
            assert abs(ones - N / 2) < 5 * math.sqrt(N / 4), shift


class TestPermutation:
    @pytest.mark.parametrize("shape", [(0,), (1,), (2,), (1000,), (3, 17), (2, 0, 5), (2, 3, 0), (0, 4)])
    def test_every_index_once(self, shape):
        values = ti.permutation_(torch.full(shape, -1, dtype=torch.int32), key=KEY)
        assert values.sort(-1).values.equal(torch.arange(shape[-1], dtype=torch.int32).expand(shape))

    def test_rows_are_others(self):
        rows = ti.permutation_(torch.empty(20, 30, dtype=torch.int64), key=KEY)
        assert len(set(map(tuple, rows.tolist()))) == 20
        assert rows[0].equal(ti.permutation_(torch.empty(30, dtype=torch.int64), key=KEY))

    def test_of_no_dimension(self):
        with pytest.raises(ValueError, match="there is none"):
            ti.permutation_(torch.empty((), dtype=torch.int64))

    def test_parts(self):
        whole = ti.permutation_(torch.empty(5, 40, dtype=torch.int64), key=KEY)
        for rows, columns in (((0, 5), (7, 9)), ((2, 4), (0, 40)), ((3, 3), (0, 40)), ((1, 2), (39, 40))):
            cut = slice(*rows), slice(*columns)
            part = torch.empty_like(whole[cut])
            ti.permutation_(part, key=KEY, window=Window((5, 40), (rows[0], columns[0])))
            assert part.equal(whole[cut])


class TestBits:
    """Released weights hang on these numbers."""

    def test_pinned(self):
        for initializer, dtype, expected in PINNED:
            values = initializer(torch.empty(4, dtype=getattr(torch, dtype)), key=Key(0))
            assert values.tolist() == expected, initializer

    @pytest.mark.parametrize(
        "initializer", [ti.Bernoulli(0.3), ti.RandInt(-1000, 1000), ti.Permutation()], ids=str
    )
    @pytest.mark.parametrize("dtype", [torch.int64, torch.int16, torch.float64], ids=str)
    def test_backends_and_parts_of_integers(self, initializer, dtype):
        found = []
        for backend in ("numpy", "numba"):
            with ti.use_backend(backend):
                found.append(initializer(torch.empty(7, 401, dtype=dtype), key=KEY))
        assert found[0].equal(found[1])
        for rows, columns in (((0, 3), (0, 401)), ((2, 7), (100, 333))):
            cut = slice(*rows), slice(*columns)
            part = torch.empty_like(found[0][cut])
            initializer(part, key=KEY, window=Window((7, 401), (rows[0], columns[0])))
            assert part.equal(found[0][cut])
        array = initializer(np.empty((7, 401), str(dtype).removeprefix("torch.")), key=KEY)
        assert np.array_equal(array, found[0].numpy())

    @pytest.mark.parametrize(
        "dtype", [torch.bool, torch.uint8, torch.complex64, torch.float8_e4m3fn], ids=str
    )
    def test_bernoulli_of_every_dtype(self, dtype):
        ones = ti.bernoulli_(torch.empty(99, dtype=torch.int64), 0.4, key=KEY)
        found = ti.bernoulli_(torch.empty(99, dtype=dtype), 0.4, key=KEY)
        assert (found.real if dtype.is_complex else found).to(torch.int64).equal(ones)

    def test_large_ones_are_drawn_in_chunks(self):
        """A function of places alone, wherever a chunk ends."""
        whole = ti.exponential_(torch.empty(3, 1 << 16), key=KEY)
        part = ti.exponential_(torch.empty(3, 5), key=KEY, window=Window((3, 1 << 16), (0, 70)))
        assert part.equal(whole[:, 70:75])


@pytest.mark.gpu
@pytest.mark.parametrize("backend", ["triton", "numpy", "numba", None])
def test_on_the_gpu(backend):
    """Of integers and Booleans, too; floats are in the one table."""
    for initializer, dtype in (
        (ti.Bernoulli(0.3), torch.bool),
        (ti.RandInt(-(2**63)), torch.int64),
        (ti.RandInt(-5, 9), torch.int8),
        (ti.Permutation(), torch.int32),
        (ti.Exponential(), torch.bfloat16),
    ):
        here = initializer(torch.empty(7, 40001, dtype=dtype), key=KEY)
        with ti.use_backend(backend) if backend else nullcontext():
            there = initializer(torch.empty(7, 40001, dtype=dtype, device="cuda"), key=KEY)
        assert there.is_cuda
        assert there.cpu().equal(here)
    weight = torch.nn.Parameter(torch.empty(6, 4, device="cuda"))
    with ti.intercept(seed=0):
        weight.data.exponential_()
    key = Key(0).fold_in("draws").fold_in(0)
    assert weight.detach().cpu().equal(ti.exponential_(torch.empty(6, 4), key=key))


PINNED = (
    (
        ti.Exponential(),
        "float32",
        [0.9186774492263794, 0.12724240124225616, 0.30691543221473694, 0.5017306804656982],
    ),
    (
        ti.LogNormal(),
        "float32",
        [19.732664108276367, 0.42770346999168396, 0.7903984785079956, 1.0365136861801147],
    ),
    (
        ti.Cauchy(),
        "float32",
        [-0.32823485136032104, 2.5378212928771973, 0.9140318632125854, 0.34406858682632446],
    ),
    (ti.Geometric(0.2), "float32", [5.0, 1.0, 2.0, 3.0]),
    (ti.Bernoulli(), "int64", [1, 0, 0, 0]),
    (ti.RandInt(0, 1000), "int64", [399, 880, 735, 605]),
    (
        ti.RandInt(),
        "int64",
        [3680553865064941607, 8121365409715184244, 6785753022995321670, 5584584265020452456],
    ),
    (ti.Permutation(), "int64", [0, 3, 2, 1]),
)


def test_functions_take_what_torch_s_methods_take():
    """By position; random_ by none."""
    for name in set(drawing.__all__) - {"permutation_", "randint_", "random_"}:
        ours = list(inspect.signature(getattr(ti, name)).parameters)
        documented = getattr(torch.Tensor, name).__doc__.partition("(")[2].partition(")")[0]
        theirs = [each.partition("=")[0].strip() for each in documented.split(",")]
        assert ours[1 : ours.index("generator")] == [
            each for each in theirs if each not in ("*", "generator")
        ]


def test_a_generator():
    generator = torch.Generator().manual_seed(3)
    key = Key.from_generator(torch.Generator().manual_seed(3))
    assert ti.exponential_(torch.empty(5), 1.0, generator).equal(ti.exponential_(torch.empty(5), key=key))
