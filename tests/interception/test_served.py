"""Who is served, and by which keys: torch.nn.init's functions, and methods of a parameter's memory."""

import inspect
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.init import trunc_normal_ as kept_trunc_normal_

import tritoninit
from tests.interception.cases import CALLS, KEPT, calls, key, nans, ours, parameter
from tritoninit import Constant, Key, Normal, Orthogonal, Uniform, Zeros, registry
from tritoninit.interception.entry import intercept
from tritoninit.interception.served import FUNCTIONS


class TestInitFunctions:
    def test_the_table_leaves_none_out(self):
        own = [
            name
            for name, value in vars(nn.init).items()
            if name.endswith("_") and name[0] != "_" and inspect.isfunction(value)
        ]
        assert set(own) == set(FUNCTIONS) == {name for name, *_ in CALLS}

    @calls
    @pytest.mark.parametrize("make", [nans, parameter])
    def test_equal_to_the_functional_interface(self, name, shape, arguments, make):
        tensor = make(*shape)
        state = torch.get_rng_state()
        with intercept(seed=0) as intercepted:
            assert getattr(nn.init, name)(tensor, *arguments) is tensor
        assert tensor.equal(ours(name, shape, arguments))
        assert torch.get_rng_state().equal(state)
        assert not intercepted.passed_on
        assert not intercepted.pending

    @calls
    def test_references_taken_before(self, name, shape, arguments):
        """By keywords, which the replaced code must still take."""
        tensor = parameter(*shape)
        named = inspect.signature(KEPT[name]).bind(tensor, *arguments).arguments
        with intercept(seed=0):
            KEPT[name](**named)
        assert tensor.equal(ours(name, shape, arguments))

    def test_signatures_stay(self):
        before = {name: inspect.signature(KEPT[name]) for name in FUNCTIONS}
        with intercept(seed=0):
            assert {name: inspect.signature(KEPT[name]) for name in FUNCTIONS} == before

    @calls
    def test_afterwards_they_are_torchs_own(self, name, shape, arguments):
        code = KEPT[name].__code__
        torch.manual_seed(0)
        expected = KEPT[name](torch.empty(shape), *arguments)
        with intercept(seed=0):
            assert KEPT[name].__code__ is not code
        assert KEPT[name].__code__ is code
        torch.manual_seed(0)
        assert KEPT[name](torch.empty(shape), *arguments).equal(expected)

    @calls
    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_16_bits(self, name, shape, arguments, dtype):
        tensor = parameter(*shape, dtype=dtype)
        with intercept(seed=0):
            getattr(nn.init, name)(tensor, *arguments)
        assert tensor.equal(ours(name, shape, arguments, dtype=dtype))

    @pytest.mark.parametrize("name", [name[:-1] for name, *_ in CALLS if hasattr(nn.init, name[:-1])])
    def test_old_spellings(self, name):
        _, shape, arguments = next(call for call in CALLS if call[0] == f"{name}_")
        tensor = parameter(*shape)
        with intercept(seed=0), pytest.warns(FutureWarning, match=f"nn.init.{name}_") as caught:
            KEPT[name](tensor, *arguments)
        assert caught[0].filename == __file__
        assert tensor.equal(ours(f"{name}_", shape, arguments))

    def test_far_mean_warns(self):
        with intercept(seed=0), pytest.warns(UserWarning, match=r"in nn.init.trunc_normal_\.") as caught:
            kept_trunc_normal_(parameter(8), 0.0, 1.0, 2.5, 4.0)
        assert len(caught) == 1
        assert caught[0].filename == __file__

    @pytest.mark.parametrize("name", ["kaiming_uniform_", "kaiming_normal_"])
    def test_no_elements_warn_once(self, name):
        with intercept(seed=0) as intercepted, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            tensor = parameter(0, 3)
            assert KEPT[name](tensor) is tensor
        assert [str(w.message) for w in caught] == ["Initializing zero-element tensors is a no-op"]
        assert not intercepted.passed_on

    def test_numbers_of_other_makes(self):
        tensors = [parameter(6, 4) for _ in range(3)]
        with intercept(seed=0) as intercepted, torch.no_grad():
            tensors[0].normal_(0, np.float32(0.5))
            nn.init.normal_(tensors[1], 0, torch.tensor(0.5))
            tensors[2].fill_(torch.tensor(0.5))
        assert tensors[0].equal(ours("normal_", (6, 4), (0, 0.5), 0))
        assert tensors[1].equal(ours("normal_", (6, 4), (0, 0.5), 1))
        assert tensors[2].equal(torch.full((6, 4), 0.5))
        assert not intercepted.passed_on
        told = [repr(each.initializer) for each in intercepted.assignments(nn.ParameterList(tensors))]
        assert told == ["Normal(mean=0.0, std=0.5)", "Normal(mean=0.0, std=0.5)", "Constant(value=0.5)"]

    def test_a_number_that_is_pending(self):
        scale, weight = parameter(), parameter(3)
        with intercept(seed=0):
            nn.init.constant_(scale, 2.0)
            weight.data.fill_(scale.data)
        assert weight.tolist() == [2, 2, 2]


class TestMethods:
    @pytest.mark.parametrize(
        ("call", "expected"),
        [
            (lambda w: w.data.normal_(0.1, 0.02), Normal(0.1, 0.02)),
            (lambda w: w.data.normal_(std=0.02), Normal(0.0, 0.02)),
            (lambda w: w.detach().uniform_(-1, to=3), Uniform(-1, 3)),
            (lambda w: w.detach().uniform_(**{"from": -1, "to": 3}), Uniform(-1, 3)),
            (lambda w: w.data.view(-1).view(6, 4).normal_(), Normal()),
            (lambda w: w.data.fill_(0.3), Constant(0.3)),
            (lambda w: w.data.fill_(value=0.3), Constant(0.3)),
            (lambda w: torch.fill_(w.data, 0.3), Constant(0.3)),
            (lambda w: w.data.zero_(), Zeros()),
            (lambda w: torch.zero_(w.data), Zeros()),
            (lambda w: torch.no_grad()(w.normal_)(), Normal()),
            (lambda w: torch.no_grad()(w.uniform_)(), Uniform()),
            (lambda w: w.data.__setitem__(slice(None), 0.3), Constant(0.3)),
        ],
    )
    def test_of_parameters(self, call, expected):
        weight = parameter(6, 4)
        state = torch.get_rng_state()
        with intercept(seed=0) as intercepted:
            call(weight)
            assert intercepted.pending == 1
        assert weight.equal(expected(nans(6, 4), **({"key": key(0)} if expected.random else {})))
        assert torch.get_rng_state().equal(state)

    @pytest.mark.parametrize(
        ("call", "view"),
        [
            (lambda w: w.data[1].zero_(), lambda w: w[1]),
            (lambda w: w.data[2:4].fill_(0), lambda w: w[2:4]),
            (lambda w: torch.no_grad()(w[1].zero_)(), lambda w: w[1]),
            (lambda w: w.data.__setitem__(1, 0.0), lambda w: w[1]),
            (lambda w: w.data.__setitem__((slice(None), 2), 0), lambda w: w[:, 2]),
            (lambda w: nn.init.zeros_(w[-1]), lambda w: w[-1]),
            (lambda w: nn.init.zeros_(w.chunk(3)[1]), lambda w: w[2:4]),
            (lambda w: w.data.t()[0].zero_(), lambda w: w[:, 0]),
        ],
    )
    def test_of_parts(self, call, view):
        weight = parameter(6, 4)
        with intercept(seed=0) as intercepted:
            nn.init.normal_(weight)
            call(weight)
            assert intercepted.pending == 2
        expected = ours("normal_", (6, 4), ())
        view(expected).zero_()
        assert weight.equal(expected)

    def test_setting_by_other_indices(self):
        weight = parameter(6, 4)
        with intercept(seed=0):
            nn.init.normal_(weight)
            weight.data[[0, 3]] = 0.0
            weight.data[weight.data < -1] = 5.0
        expected = ours("normal_", (6, 4), ())
        expected[[0, 3]] = 0.0
        expected[expected < -1] = 5.0
        assert weight.equal(expected)

    def test_other_tensors_are_torchs(self):
        torch.manual_seed(0)
        expected = torch.empty(5).normal_(), torch.empty(5).uniform_(), torch.empty(5).fill_(2)
        with intercept(seed=0) as intercepted:
            torch.manual_seed(0)
            got = torch.empty(5).normal_(), torch.empty(5).uniform_(), torch.empty(5).fill_(2)
            assert all(map(torch.equal, got, expected))
        assert not intercepted.passed_on

    def test_a_transposed_view(self):
        """The values that the view's logical indices name."""
        weight = parameter(6, 4)
        with intercept(seed=0):
            weight.data.t().normal_()
        assert weight.t().equal(ours("normal_", (4, 6), ()))

    @pytest.mark.parametrize("use", [nn.init.zeros_, lambda w: w.shape])
    def test_an_alias_from_before_the_block(self, use):
        """Known once the parameter itself has been used."""
        weight = parameter(6)
        alias = weight.data
        with intercept(seed=0):
            use(weight)
            alias.normal_()
        assert weight.equal(ours("normal_", (6,), ()))


class TestKeys:
    def build(self, seed):
        with intercept(seed=seed):
            return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))

    def test_reproducible(self):
        one, again, other = self.build(1), self.build(1), self.build(2)
        for a, b, c in zip(*(model.parameters() for model in (one, again, other)), strict=True):
            assert a.equal(b)
            assert not a.equal(c)

    def test_counted_in_the_order_of_the_calls(self):
        """Dropped and structured ones count; constants, empty tensors and what is passed on do not."""
        tensors = [parameter(6, 4) for _ in range(4)]
        with intercept(seed=7) as intercepted:
            nn.init.normal_(tensors[0])
            nn.init.normal_(tensors[0])
            nn.init.zeros_(tensors[1])
            nn.init.normal_(parameter(0, 3))
            nn.init.normal_(parameter(3), 0.0, 1e38)
            nn.init.orthogonal_(tensors[2])
            tensors[3].data.normal_()
        assert len(intercepted.passed_on) == 1
        for number, tensor, initializer in [(1, 0, Normal()), (2, 2, Orthogonal()), (3, 3, Normal())]:
            assert tensors[tensor].equal(initializer(nans(6, 4), key=key(number, seed=7)))

    def test_without_a_seed(self):
        torch.manual_seed(3)
        expected = Key.from_generator()
        after = torch.get_rng_state()
        torch.manual_seed(3)
        with intercept() as intercepted:
            weight = nn.init.normal_(parameter(5))
        assert torch.get_rng_state().equal(after)
        assert intercepted.key == expected
        assert weight.equal(Normal()(nans(5), key=expected.fold_in(0)))

    @pytest.mark.parametrize(
        "call",
        [
            lambda w, g: nn.init.normal_(w, generator=g),
            lambda w, g: nn.init.normal_(w, 0.0, 1.0, g),
            lambda w, g: w.data.normal_(generator=g),
        ],
    )
    def test_a_generator_governs(self, call):
        """It still counts, so that giving one call a generator leaves the others' keys as they were."""
        first, second = parameter(5), parameter(5)
        with intercept(seed=0):
            call(first, torch.Generator().manual_seed(9))
            nn.init.normal_(second)
        assert first.equal(tritoninit.normal_(nans(5), generator=torch.Generator().manual_seed(9)))
        assert second.equal(ours("normal_", (5,), (), number=1))

    @pytest.mark.parametrize("seed", [0.5, "0", True])
    def test_what_is_no_seed(self, seed):
        with pytest.raises(TypeError, match="seed"), intercept(seed=seed):
            pass
        assert nn.init.normal_.__code__.co_filename.endswith("init.py")

    def test_unknown_backends(self):
        """Of the environment: as it was on import, which other blocks override."""
        program = """
import os
import tritoninit
from torch import nn
for value in ("abacus", "numpy"):
    os.environ["TRITONINIT_BACKEND"] = value
    try:
        tritoninit.intercept(seed=0).__enter__()
    except ValueError as error:
        assert "unknown backend 'abacus'" in str(error), error
    else:
        raise AssertionError("no error")
with tritoninit.use_backend("numpy"), tritoninit.intercept(seed=0) as intercepted:
    linear = nn.Linear(3, 4)
assert [each.backend for each in intercepted.assignments(linear)] == ["numpy", "numpy"]
"""
        environment = {**os.environ, registry.ENVIRONMENT_VARIABLE: "abacus"}
        subprocess.run([sys.executable, "-c", program], env=environment, check=True, timeout=120)

    def test_an_environment_that_changes_after_the_import(self, monkeypatch):
        backend = registry.resolve("cpu").name
        monkeypatch.setenv(registry.ENVIRONMENT_VARIABLE, "abacus")
        with intercept(seed=0) as intercepted:
            linear = nn.Linear(3, 4)
        assert {each.backend for each in intercepted.assignments(linear)} == {backend}
        assert not intercepted.passed_on

    def test_backends_agree(self):
        models = []
        for backend in ("numpy", registry.resolve("cpu").name):
            with registry.use_backend(backend):
                models.append(self.build(0))
        assert all(map(torch.equal, *(model.parameters() for model in models)))
