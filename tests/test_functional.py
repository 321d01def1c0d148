"""The functions, side by side with torch.nn.init's: what is the same, and what differs on purpose."""

import inspect
import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import tritoninit
from tritoninit import Key, TargetError, Window

THEIRS = torch.nn.init
KEY = Key(2024).fold_in("test_functional")

# (function, shape, arguments): good input, at least one row a function.
GOOD = [
    ("uniform_", (256, 256), ()),
    ("uniform_", (256, 256), (-0.5, 2.0)),
    ("normal_", (256, 256), ()),
    ("normal_", (256, 256), (0.5, 2.0)),
    ("trunc_normal_", (256, 256), ()),
    ("trunc_normal_", (256, 256), (0.0, 0.02)),  # the bounds stay values: at 100 std, they cut nothing
    ("trunc_normal_", (256, 256), (0.3, 1.0, -1.0, 0.5)),
    ("trunc_normal_", (256, 256), (0.0, 1.0, 1.5, 4.0)),
    ("trunc_normal_", (256, 256), (0.0, 1.0, -math.inf, 1.0)),
    ("constant_", (256, 256), (0.3,)),
    ("ones_", (256, 256), ()),
    ("zeros_", (256, 256), ()),
    ("eye_", (256, 128), ()),
    ("dirac_", (64, 32, 3, 3), ()),
    ("dirac_", (64, 32, 3, 3), (4,)),
    ("xavier_uniform_", (256, 384), ()),
    ("xavier_uniform_", (64, 32, 3, 3), (5 / 3,)),
    ("xavier_normal_", (256, 384), ()),
    ("xavier_normal_", (64, 32, 3, 3), (5 / 3,)),
    ("kaiming_uniform_", (256, 384), ()),
    ("kaiming_uniform_", (256, 384), (5**0.5,)),
    ("kaiming_uniform_", (64, 32, 3, 3), (0.0, "fan_out", "relu")),
    ("kaiming_normal_", (256, 384), (0.1, "FAN_IN")),
    ("kaiming_normal_", (64, 32, 3, 3), (0, "fan_out", "relu")),
    ("orthogonal_", (256, 256), ()),
    ("orthogonal_", (64, 32, 3, 3), (0.5,)),
    ("sparse_", (256, 256), (0.3,)),
    ("sparse_", (256, 256), (0.3, 0.5)),
]
FIXED = {"constant_", "ones_", "zeros_", "eye_", "dirac_"}
WITH_UNDERSCORE = [name for name in THEIRS.__all__ if name.endswith("_")]
DEPRECATED = [name for name in THEIRS.__all__ if f"{name}_" in THEIRS.__all__]
good = pytest.mark.parametrize(("name", "shape", "arguments"), GOOD, ids=[f"{n}{a}" for n, _, a in GOOD])


def both(name):
    return getattr(tritoninit, name), getattr(THEIRS, name)


def keyed(name, tensor, *arguments):
    """Ours, with the test's key where it takes one."""
    return getattr(tritoninit, name)(tensor, *arguments, **({} if name in FIXED else {"key": KEY}))


def test_the_table_leaves_no_function_out():
    assert {name for name, _, _ in GOOD} == set(WITH_UNDERSCORE)
    assert set(WITH_UNDERSCORE) | set(DEPRECATED) | {"calculate_gain"} == set(THEIRS.__all__)


class TestSignatures:
    @pytest.mark.parametrize("name", THEIRS.__all__)
    def test_torchs_parameters_come_first(self, name):
        ours, theirs = (list(inspect.signature(f).parameters.values()) for f in both(name))
        prefix = ours[: len(theirs)]
        assert [(p.name, p.kind, p.default) for p in prefix] == [(p.name, p.kind, p.default) for p in theirs]
        for extra in ours[len(theirs) :]:
            assert extra.kind is inspect.Parameter.KEYWORD_ONLY
            assert extra.default == {"rounding": "nearest"}.get(extra.name)

    @pytest.mark.parametrize("name", sorted(set(WITH_UNDERSCORE) - FIXED))
    def test_random_ones_take_key_and_window(self, name):
        assert {"key", "window", "rounding"} <= inspect.signature(getattr(tritoninit, name)).parameters.keys()

    @pytest.mark.parametrize("name", THEIRS.__all__)
    def test_public_and_documented(self, name):
        assert name in tritoninit.__all__
        function = getattr(tritoninit, name)
        assert function.__name__ == name
        assert function.__doc__


class TestGoodInput:
    @good
    def test_returns_its_argument(self, name, shape, arguments):
        for function in both(name):
            tensor = torch.empty(shape)
            assert function(tensor, *arguments) is tensor

    @good
    def test_same_moments(self, name, shape, arguments):
        """Two samples of one law: their means and variances differ by less than 5 standard errors."""
        torch.manual_seed(1)
        theirs = getattr(THEIRS, name)(torch.full(shape, torch.nan), *arguments).double()
        ours = keyed(name, torch.full(shape, torch.nan), *arguments).double()
        if name in FIXED:
            assert ours.equal(theirs)
            return
        n = ours.numel()
        squares = [(sample - theirs.mean()).square() for sample in (ours, theirs)]
        assert abs(ours.mean() - theirs.mean()) < 5 * math.sqrt(2 * theirs.var() / n)
        assert abs(squares[0].mean() - squares[1].mean()) < 5 * math.sqrt(2 * squares[1].var() / n) + 1e-7

    @good
    def test_window_and_key_pass_through(self, name, shape, arguments):
        if "window" not in inspect.signature(getattr(tritoninit, name)).parameters:
            assert name in FIXED
            return
        whole = keyed(name, torch.empty(shape), *arguments)
        options = {"window": Window(shape, (16, *(0,) * (len(shape) - 1)))}
        if name not in FIXED:
            options["key"] = KEY
        shard = getattr(tritoninit, name)(torch.empty(8, *shape[1:]), *arguments, **options)
        assert shard.equal(whole[16:24])

    @pytest.mark.parametrize("name", ["uniform_", "normal_", "trunc_normal_", "ones_", "zeros_"])
    def test_scalar_tensors(self, name):
        for function in both(name):
            assert function(torch.tensor(torch.nan)).isfinite()

    @pytest.mark.parametrize("shape", [(0,), (0, 5), (5, 0), (3, 0, 3), (0, 3, 3)])
    @pytest.mark.parametrize("name", WITH_UNDERSCORE)
    def test_zero_elements(self, name, shape):
        """The same outcome as torch's: a warning, an error, or nothing at all."""
        arguments = next(a for n, _, a in GOOD if n == name)
        outcomes = []
        for function in both(name):
            tensor = torch.empty(shape)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    outcome = function(tensor, *arguments) is tensor
                except ValueError as error:
                    outcome = ValueError in type(error).__mro__
            outcomes.append((outcome, [(w.category, str(w.message)) for w in caught]))
        assert outcomes[0] == outcomes[1]

    @pytest.mark.parametrize("nonlinearity", ["linear", "sigmoid", "tanh", "relu", "leaky_relu", "selu"])
    @pytest.mark.parametrize("param", [None, 0, 1, 0.2, -0.3, np.float64(0.5)])
    def test_gains(self, nonlinearity, param):
        ours, theirs = (f(nonlinearity, param) for f in both("calculate_gain"))
        assert ours == theirs

    @pytest.mark.parametrize("dims", [1, 2, 3])
    @pytest.mark.parametrize("kind", ["conv", "conv_transpose"])
    def test_gains_of_convolutions(self, kind, dims):
        assert tritoninit.calculate_gain(f"{kind}{dims}d") == 1


def sevens(*shape, dtype=torch.float32):
    return torch.full(shape, 7, dtype=dtype)


def inference_sevens():
    with torch.inference_mode():
        return sevens(4, 4)


INTEGERS = [
    (name, lambda: sevens(4, 4, dtype=torch.int32), arguments, RuntimeError)
    for name, arguments in [
        ("uniform_", ()),
        ("normal_", ()),
        ("trunc_normal_", ()),
        ("xavier_uniform_", ()),
        ("xavier_normal_", ()),
        ("kaiming_uniform_", ()),
        ("kaiming_normal_", ()),
        ("orthogonal_", ()),
        ("sparse_", (0.5,)),
    ]
]
UNWRITABLE = [
    (name, make, (), RuntimeError)
    for name in ("uniform_", "normal_", "trunc_normal_", "kaiming_uniform_", "xavier_normal_", "orthogonal_")
    for make in (lambda: sevens(4).expand(4, 4), inference_sevens)
]
# (function, tensor, arguments, class): what torch refuses. An `except` of its class must catch ours.
BAD = [
    *INTEGERS,
    *UNWRITABLE,
    ("uniform_", lambda: sevens(4), (1.0, 0.0), RuntimeError),
    ("uniform_", lambda: sevens(4), (math.nan, 1.0), RuntimeError),
    ("uniform_", lambda: sevens(4), (0.0, math.nan), RuntimeError),
    ("uniform_", lambda: sevens(4), (0.0, math.inf), RuntimeError),
    ("uniform_", lambda: sevens(4), (-3e38, 3e38), RuntimeError),
    ("uniform_", lambda: sevens(4), (0.0, 1e39), RuntimeError),
    ("uniform_", lambda: sevens(4, dtype=torch.float16), (0.0, 65536.0), RuntimeError),
    ("uniform_", lambda: sevens(4, dtype=torch.float16), (-1e5, 0.0), RuntimeError),
    ("uniform_", lambda: sevens(4, dtype=torch.bfloat16), (0.0, 3.4e38), RuntimeError),
    ("uniform_", lambda: sevens(4), ("a",), TypeError),
    ("uniform_", lambda: nn.LazyLinear(4).weight, (), ValueError),
    ("normal_", lambda: sevens(4), (0.0, -1.0), RuntimeError),
    ("normal_", lambda: sevens(4), (0.0, math.nan), RuntimeError),
    ("trunc_normal_", lambda: sevens(4), (0.0, 1.0, 2.0, -2.0), RuntimeError),
    ("constant_", lambda: sevens(4), (1e39,), RuntimeError),
    ("constant_", lambda: sevens(4, dtype=torch.float16), (65536.0,), RuntimeError),
    ("constant_", lambda: sevens(4, dtype=torch.bfloat16), (-3.4e38,), RuntimeError),
    ("constant_", lambda: sevens(4, dtype=torch.int8), (300,), RuntimeError),
    ("constant_", lambda: sevens(4, dtype=torch.int64), (math.nan,), RuntimeError),
    ("constant_", lambda: sevens(4), ("a",), TypeError),
    ("constant_", lambda: sevens(4), (None,), TypeError),
    ("constant_", inference_sevens, (1.0,), RuntimeError),
    ("zeros_", inference_sevens, (), RuntimeError),
    ("eye_", inference_sevens, (), RuntimeError),
    ("eye_", lambda: sevens(4), (), ValueError),
    ("eye_", lambda: sevens(4, 4, 4), (), ValueError),
    ("dirac_", lambda: sevens(4, 4), (), ValueError),
    ("dirac_", lambda: sevens(1, 1, 1, 1, 1, 1), (), ValueError),
    ("dirac_", lambda: sevens(4, 4, 3), (3,), ValueError),
    ("dirac_", lambda: sevens(4, 4, 3), (0,), ZeroDivisionError),
    ("xavier_uniform_", lambda: sevens(4), (), ValueError),
    ("xavier_uniform_", lambda: sevens(), (), ValueError),
    ("xavier_uniform_", lambda: sevens(4, 4), (-1.0,), RuntimeError),
    ("xavier_uniform_", lambda: sevens(4, 4), (math.nan,), RuntimeError),
    ("xavier_uniform_", lambda: sevens(4, 4), (1e200,), RuntimeError),
    ("xavier_normal_", lambda: sevens(4), (), ValueError),
    ("xavier_normal_", lambda: sevens(4, 4), (-1.0,), RuntimeError),
    ("xavier_normal_", lambda: sevens(4, 4), (math.nan,), RuntimeError),
    *(
        (name, make, arguments, error)
        for name in ("kaiming_uniform_", "kaiming_normal_")
        for make, arguments, error in [
            (lambda: sevens(4), (), ValueError),
            (lambda: sevens(), (), ValueError),
            (lambda: sevens(4, 4), (0, "fan_avg"), ValueError),
            (lambda: sevens(4, 4), (0, None), AttributeError),
            (lambda: sevens(4, 4), (0, "fan_in", "gelu"), ValueError),
            (lambda: sevens(4, 4), (True,), ValueError),
            (lambda: sevens(4, 4), ("0",), ValueError),
        ]
    ),
    ("orthogonal_", lambda: sevens(4), (), ValueError),
    ("orthogonal_", lambda: sevens(), (), ValueError),
    ("sparse_", lambda: sevens(4), (0.5,), ValueError),
    ("sparse_", lambda: sevens(4, 4, 4), (0.5,), ValueError),
    ("sparse_", lambda: sevens(4, 4), (0.5, -1.0), RuntimeError),
]


def unchanged(tensor):
    return torch.nn.parameter.is_lazy(tensor) or bool((tensor == 7).all())


def test_unchanged_notices_a_change():
    assert unchanged(sevens(4))
    assert not unchanged(torch.tensor([7.0, 7.0, math.nan]))


class TestBadInput:
    @pytest.mark.parametrize(
        ("name", "make", "arguments", "error"),
        BAD,
        ids=[f"{i}-{row[0]}{row[2]}" for i, row in enumerate(BAD)],
    )
    def test_an_except_of_torchs_class_catches_ours(self, name, make, arguments, error):
        ours, theirs = both(name)
        with pytest.raises(error) as expected:
            theirs(make(), *arguments)
        tensor = make()
        state = torch.get_rng_state()
        with pytest.raises(error) as raised:
            ours(tensor, *arguments)
        assert isinstance(raised.value, expected.type)
        assert unchanged(tensor)
        assert torch.get_rng_state().equal(state)

    @pytest.mark.parametrize("name", sorted(set(WITH_UNDERSCORE) - FIXED))
    def test_what_is_no_generator(self, name):
        arguments = next(a for n, _, a in GOOD if n == name)
        for function in both(name):
            tensor = sevens(8, 8)
            with pytest.raises(TypeError, match="Generator"):
                function(tensor, *arguments, generator=42)
            assert unchanged(tensor)

    @pytest.mark.parametrize("name", sorted(set(WITH_UNDERSCORE) - FIXED))
    def test_a_failed_call_takes_nothing_from_its_generator(self, name):
        arguments = next(a for n, _, a in GOOD if n == name)
        generator = torch.Generator()
        state = generator.get_state()
        with pytest.raises(NotImplementedError):
            getattr(tritoninit, name)(sevens(4, 4, dtype=torch.int64), *arguments, generator=generator)
        assert generator.get_state().equal(state)

    @pytest.mark.parametrize(
        "arguments",
        [("gelu",), ("leaky_relu", True), ("leaky_relu", "0.1"), ("leaky_relu", np.float32(0.1)), (None,)],
    )
    def test_gains(self, arguments):
        for function in both("calculate_gain"):
            with pytest.raises(ValueError, match=r"Unsupported nonlinearity|not a valid number"):
                function(*arguments)


class TestOnPurpose:
    """Where torch writes nonsense or nothing, ours raise; where it stumbles, ours do not."""

    @pytest.mark.parametrize(
        ("name", "make", "arguments", "error"),
        [
            pytest.param("trunc_normal_", sevens, (0.0, -1.0), RuntimeError, id="torch: as if std were 1"),
            pytest.param(
                "trunc_normal_", sevens, (0.0, math.nan), RuntimeError, id="torch: uniform on [a, b]"
            ),
            pytest.param("trunc_normal_", sevens, (0.0, 0.0), ValueError, id="torch: ZeroDivisionError"),
            pytest.param("trunc_normal_", sevens, (0.0, 1.0, 1.0, 1.0), ValueError, id="torch: ones"),
            pytest.param(
                "trunc_normal_",
                sevens,
                (0.0, 0.02, 1.0, 2.0),
                ValueError,
                id="torch: right, in thousands of rounds",
            ),
            pytest.param(
                "trunc_normal_", sevens, (math.nan, 1.0), ValueError, id="torch: uniform on [a, b], too"
            ),
            pytest.param("normal_", sevens, (math.nan, 1.0), ValueError, id="torch: NaN"),
            pytest.param("normal_", sevens, (0.0, math.inf), ValueError, id="torch: infinities"),
            pytest.param("normal_", sevens, (1e39, 1.0), ValueError, id="torch: infinity"),
            pytest.param("sparse_", lambda: sevens(4, 4), (1.5,), ValueError, id="torch: all zero"),
            pytest.param("sparse_", lambda: sevens(4, 4), (-0.5,), ValueError, id="torch: half zero"),
            pytest.param(
                "sparse_", lambda: sevens(4, 4), (math.nan,), ValueError, id="torch: cannot convert"
            ),
            pytest.param(
                "zeros_", lambda: sevens(4).expand(4, 4), (), ValueError, id="torch: writes overlaps"
            ),
            pytest.param("eye_", lambda: sevens(4).expand(4, 4), (), ValueError, id="torch: all ones"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:mean is more than 2 std")
    def test_stricter(self, name, make, arguments, error):
        tensor = make()
        state = torch.get_rng_state()
        with pytest.raises(error):
            getattr(tritoninit, name)(tensor, *arguments)
        assert unchanged(tensor)
        assert torch.get_rng_state().equal(state)

    @pytest.mark.parametrize("name", WITH_UNDERSCORE)
    def test_meta_tensors_raise(self, name):
        """torch does nothing, which leaves whatever materialises them later with garbage."""
        shape, arguments = next((s, a) for n, s, a in GOOD if n == name)
        tensor = torch.empty(shape, device="meta")
        assert getattr(THEIRS, name)(tensor, *arguments) is tensor
        with pytest.raises(ValueError, match="meta tensor"):
            getattr(tritoninit, name)(tensor, *arguments)

    @pytest.mark.parametrize("name", sorted(set(WITH_UNDERSCORE) - FIXED))
    def test_integers_are_not_served(self, name):
        shape, arguments = next((s, a) for n, s, a in GOOD if n == name)
        with pytest.raises(NotImplementedError, match="int64"):
            getattr(tritoninit, name)(torch.empty(shape, dtype=torch.int64), *arguments)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_orthogonal_in_16_bits(self, dtype):
        with pytest.raises(NotImplementedError):
            THEIRS.orthogonal_(torch.empty(4, 4, dtype=dtype))
        assert tritoninit.orthogonal_(torch.full((4, 4), torch.nan, dtype=dtype)).isfinite().all()

    @pytest.mark.parametrize("name", ["xavier_uniform_", "xavier_normal_"])
    def test_xavier_of_nothing_by_nothing(self, name):
        with pytest.raises(ZeroDivisionError):
            getattr(THEIRS, name)(torch.empty(0, 0))
        assert getattr(tritoninit, name)(torch.empty(0, 0)).shape == (0, 0)

    def test_the_upper_bound_never_comes_back(self):
        """pytorch issue 96947: of 2**20 values in [0, 1), 2**-9 of the bfloat16 ones round to 1."""
        torch.manual_seed(0)
        assert tritoninit.uniform_(torch.empty(2**20, dtype=torch.bfloat16)).max() == 1 - 2.0**-8
        assert tritoninit.uniform_(torch.empty(2**20, dtype=torch.float16)).max() == 1 - 2.0**-11

    def test_sparse_honours_its_generator(self):
        """torch draws the places of the zeros from the default generator, whatever it is given."""
        runs = []
        for seed in (1, 2):
            torch.manual_seed(seed)
            runs.append(
                tritoninit.sparse_(torch.empty(9, 9), 0.5, generator=torch.Generator().manual_seed(3))
            )
        assert runs[0].equal(runs[1])


class TestWarnings:
    def caught(self, function, *arguments, **keywords):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            function(*arguments, **keywords)
        return caught

    @pytest.mark.parametrize("arguments", [(0.0, 1.0, 2.5, 4.0), (0.0, 1.0, -4.0, -2.5)])
    def test_mean_far_outside_the_bounds(self, arguments):
        ours, theirs = (self.caught(f, torch.empty(8), *arguments) for f in both("trunc_normal_"))
        assert [w.category for w in ours] == [w.category for w in theirs] == [UserWarning]
        assert "mean is more than 2 std from [a, b]" in str(ours[0].message)
        assert ours[0].filename == __file__

    @pytest.mark.parametrize(
        "arguments", [(0.0, 1.0, 2.0, 4.0), (0.0, 1.0, -4.0, -2.0), (0.0, 1.0), (0.0, 0.02)]
    )
    def test_mean_not_so_far(self, arguments):
        for function in both("trunc_normal_"):
            assert not self.caught(function, torch.empty(8), *arguments)

    @pytest.mark.parametrize("name", ["kaiming_uniform_", "kaiming_normal_"])
    @pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (3, 2, 0)])
    def test_kaiming_of_no_elements(self, name, shape):
        state = torch.get_rng_state()
        ours, theirs = (self.caught(f, torch.empty(shape)) for f in both(name))
        assert [(w.category, str(w.message)) for w in ours] == [(w.category, str(w.message)) for w in theirs]
        assert ours[0].filename == __file__
        assert torch.get_rng_state().equal(state)

    @pytest.mark.parametrize("name", ["kaiming_uniform_", "kaiming_normal_", "xavier_uniform_", "uniform_"])
    def test_an_empty_shard_is_no_reason_to_warn(self, name):
        """Nor to leave the default generator behind those of the other ranks."""
        function = getattr(tritoninit, name)
        after = []
        for rows in (0, 2):
            torch.manual_seed(0)
            assert not self.caught(function, torch.empty(rows, 3), window=Window((4, 3), (2, 0)))
            after.append(torch.get_rng_state())
        assert after[0].equal(after[1])

    @pytest.mark.parametrize("name", DEPRECATED)
    def test_old_spellings(self, name):
        shape, arguments = next((s, a) for n, s, a in GOOD if n == f"{name}_")
        torch.manual_seed(0)
        expected = getattr(tritoninit, f"{name}_")(torch.empty(shape), *arguments)
        torch.manual_seed(0)
        tensor = torch.empty(shape)
        ours = self.caught(getattr(tritoninit, name), tensor, *arguments)
        theirs = self.caught(getattr(THEIRS, name), torch.empty(shape), *arguments)
        assert tensor.equal(expected)
        assert [w.category for w in ours] == [w.category for w in theirs] == [FutureWarning]
        assert f"`tritoninit.{name}_`" in str(ours[0].message)
        assert ours[0].filename == __file__

    @pytest.mark.parametrize("name", DEPRECATED)
    @pytest.mark.filterwarnings("ignore::FutureWarning")
    def test_old_spellings_return_the_tensor(self, name):
        shape, arguments = next((s, a) for n, s, a in GOOD if n == f"{name}_")
        tensor = torch.empty(shape)
        assert getattr(tritoninit, name)(tensor, *arguments) is tensor


class TestGenerators:
    @good
    def test_only_random_ones_consume_the_default_generator(self, name, shape, arguments):
        state = torch.get_rng_state()
        getattr(tritoninit, name)(torch.empty(shape), *arguments)
        assert torch.get_rng_state().equal(state) == (name in FIXED)

    @good
    def test_manual_seed_governs(self, name, shape, arguments):
        runs = []
        for seed in (3, 3, 4):
            torch.manual_seed(seed)
            runs.append(getattr(tritoninit, name)(torch.empty(shape), *arguments))
        assert runs[0].equal(runs[1])
        assert runs[0].equal(runs[2]) == (name in FIXED)

    @good
    def test_a_generator_is_independent_of_the_default_one(self, name, shape, arguments):
        if name in FIXED:
            assert "generator" not in inspect.signature(getattr(tritoninit, name)).parameters
            return
        function = getattr(tritoninit, name)
        before = torch.get_rng_state()
        generator = torch.Generator().manual_seed(3)
        first = function(torch.empty(shape), *arguments, generator=generator)
        second = function(torch.empty(shape), *arguments, generator=generator)
        again = function(torch.empty(shape), *arguments, generator=torch.Generator().manual_seed(3))
        assert torch.get_rng_state().equal(before)
        assert first.equal(again)
        assert not first.equal(second)

    def test_calls_in_a_row_differ(self):
        assert not tritoninit.normal_(torch.empty(9)).equal(tritoninit.normal_(torch.empty(9)))

    def test_fork_rng(self):
        torch.manual_seed(0)
        with torch.random.fork_rng(devices=[]):
            inside = tritoninit.normal_(torch.empty(9))
        assert tritoninit.normal_(torch.empty(9)).equal(inside)

    def test_saved_states(self):
        state = torch.get_rng_state()
        first = tritoninit.normal_(torch.empty(9))
        torch.set_rng_state(state)
        assert tritoninit.normal_(torch.empty(9)).equal(first)

    def test_positional_generator(self):
        one, other = (torch.Generator().manual_seed(3) for _ in range(2))
        by_place = tritoninit.trunc_normal_(torch.empty(9), 0.0, 1.0, -2.0, 2.0, one)
        assert by_place.equal(tritoninit.trunc_normal_(torch.empty(9), generator=other))

    def test_a_key_and_a_generator_contradict_each_other(self):
        with pytest.raises(ValueError, match="not both"):
            tritoninit.normal_(torch.empty(9), generator=torch.Generator(), key=KEY)

    def test_set_default_device(self):
        """Only where new tensors go; the key comes from the CPU's generator all the same."""
        tensor = torch.empty(9, 9)
        torch.manual_seed(0)
        expected = tritoninit.orthogonal_(tensor).clone()
        torch.set_default_device("meta")
        try:
            torch.default_generator.manual_seed(0)
            tritoninit.orthogonal_(tensor)
        finally:
            torch.set_default_device(None)
        assert tensor.equal(expected)


class TestAutograd:
    @good
    def test_leaves(self, name, shape, arguments):
        parameter = nn.Parameter(torch.empty(shape))
        assert keyed(name, parameter, *arguments) is parameter
        assert parameter.is_leaf
        assert parameter.requires_grad
        assert parameter.grad_fn is None
        assert parameter.detach().equal(keyed(name, torch.empty(shape), *arguments))
        parameter.square().sum().backward()
        assert parameter.grad.equal(2 * parameter.detach())

    @good
    @pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
    def test_modes(self, name, shape, arguments, mode):
        parameter = nn.Parameter(torch.empty(shape))
        with mode():
            keyed(name, parameter, *arguments)
            assert torch.is_grad_enabled() == (mode is torch.enable_grad)
        assert parameter.requires_grad
        assert parameter.detach().equal(keyed(name, torch.empty(shape), *arguments))

    @good
    def test_tensors_made_in_inference_mode(self, name, shape, arguments):
        with torch.inference_mode():
            tensor = keyed(name, torch.full(shape, torch.nan), *arguments)
            assert tensor.equal(keyed(name, torch.empty(shape), *arguments))

    @good
    def test_data(self, name, shape, arguments):
        parameter = nn.Parameter(torch.full(shape, torch.nan))
        keyed(name, parameter.data, *arguments)
        assert parameter.detach().equal(keyed(name, torch.empty(shape), *arguments))

    @pytest.mark.parametrize(
        "view",
        [lambda w: w[2:], lambda w: w.T, lambda w: w.view(3, 2, 4), lambda w: w.chunk(2)[1], lambda w: w[1]],
    )
    def test_views_of_a_parameter(self, view):
        """As with torch's, the parameter changes underneath, and the gradient still reaches all of it."""
        for normal_ in both("normal_"):
            parameter = nn.Parameter(torch.full((6, 4), 7.0))
            inside = view(parameter)
            assert normal_(inside) is inside
            assert (parameter == 7).sum() == parameter.numel() - inside.numel()
            view(parameter).sum().backward()
            assert parameter.grad.sum() == inside.numel()

    def test_the_middle_of_a_graph(self):
        """What torch writes there is lost as soon as it is computed anew: here it is an error."""
        leaf = torch.ones(4, requires_grad=True)
        middle = leaf * 3
        with pytest.raises(TargetError, match="autograd computed the tensor"):
            tritoninit.normal_(middle)
        middle.sum().backward()
        assert leaf.grad.tolist() == [3] * 4
        assert middle.tolist() == [3] * 4

    @good
    def test_a_change_of_a_saved_tensor_is_noticed(self, name, shape, arguments):
        """torch's functions raise the version counter, so that a stale backward pass fails; so do ours."""
        for function in both(name):
            saved = torch.ones(shape)
            leaf = torch.ones(shape, requires_grad=True)
            product = (leaf * saved).sum()
            function(saved, *arguments)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                product.backward()

    def test_and_of_its_data_is_not(self):
        for normal_ in both("normal_"):
            saved = torch.ones(4)
            leaf = torch.ones(4, requires_grad=True)
            product = (leaf * saved).sum()
            normal_(saved.data)
            product.backward()
            assert leaf.grad.equal(saved)


class Net(nn.Module):
    """Every place where people call initializers: inside __init__, on parameters, on their data."""

    def __init__(self, init):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU(), nn.Linear(256, 128))
        self.head = nn.Linear(128, 64)
        self.scale = nn.Parameter(init.constant_(torch.empty(1), 0.1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    init.zeros_(module.bias)
            elif isinstance(module, nn.BatchNorm2d):
                init.ones_(module.weight.data)
                init.constant_(module.bias.data, 0)
            elif isinstance(module, nn.Linear):
                init.trunc_normal_(module.weight, std=0.02)
                init.constant_(module.bias, 0)
        with torch.no_grad():
            init.xavier_uniform_(self.head.weight, gain=init.calculate_gain("tanh"))
        init.normal_(self.head.bias, mean=0.0, std=1e-2)


class TestInModels:
    def same_laws(self, ours, theirs):
        for (name, mine), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
            if not other.any() or name == "scale" or name == "body.1.weight":
                assert mine.equal(other), name
            else:
                # The standard deviation of n normals varies by 1 / sqrt(2 n), of uniforms less; both vary.
                assert abs(mine.std() / other.std() - 1) < 5 / math.sqrt(mine.numel()), name

    def test_inside_init(self):
        torch.manual_seed(0)
        self.same_laws(Net(tritoninit), Net(THEIRS))

    def test_apply(self):
        def reset(module, init):
            if isinstance(module, (nn.Linear, nn.Conv2d)):
                init.orthogonal_(module.weight, math.sqrt(2))
                module.bias.data.fill_(0.0)

        torch.manual_seed(0)
        models = Net(tritoninit), Net(tritoninit)
        models[0].apply(lambda module: reset(module, tritoninit))
        models[1].apply(lambda module: reset(module, THEIRS))
        for mine, other in zip(*(model.head.weight for model in models), strict=True):
            assert (
                abs(mine.norm() - other.norm()) < 1e-5
            )  # both are rows of sqrt(2) times an orthogonal matrix
        assert not any(model.head.bias.any() for model in models)

    def test_seeded_models_are_equal(self):
        states = []
        for _ in range(2):
            torch.manual_seed(0)
            states.append(Net(tritoninit).state_dict())
        assert all(states[0][name].equal(states[1][name]) for name in states[0])

    def test_a_training_step(self):
        """Optimisers hold the parameters that were initialised, not copies."""
        linear = nn.Linear(8, 8)
        optimiser = torch.optim.SGD(linear.parameters(), lr=0.1)
        tritoninit.eye_(linear.weight)
        tritoninit.zeros_(linear.bias)
        linear(torch.eye(8)).sum().backward()
        optimiser.step()
        assert torch.allclose(linear.weight, torch.eye(8) - 0.1)  # the gradient of the sum is 1 everywhere
