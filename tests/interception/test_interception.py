"""Interception: who is served, what is drawn, when it is written, and what stays torch's own."""

import copy
import ctypes
import inspect
import io
import math
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F
from torch.nn.init import kaiming_normal_ as kept_kaiming_normal_
from torch.nn.init import trunc_normal_ as kept_trunc_normal_

import tritoninit
from tritoninit import Constant, Key, Normal, Ones, Orthogonal, Uniform, ZeroRow, Zeros, registry
from tritoninit.initializers import KaimingNormal, KaimingUniform
from tritoninit.interception.recorder import _SCHEMES, Overlaid, intercept

KEPT = dict(vars(nn.init))  # as transformers keeps them, since before any block
ENGINE = torch.autograd.graph._engine_run_backward.__code__

CALLS = [
    ("uniform_", (6, 4), (-0.5, 0.25)),
    ("normal_", (6, 4), (0.1, 0.02)),
    ("trunc_normal_", (6, 4), (0.0, 0.02, -0.03, 0.04)),
    ("constant_", (6, 4), (0.3,)),
    ("ones_", (6, 4), ()),
    ("zeros_", (6, 4), ()),
    ("eye_", (6, 4), ()),
    ("dirac_", (6, 4, 3), (2,)),
    ("xavier_uniform_", (6, 4), (1.5,)),
    ("xavier_normal_", (6, 4, 2), (0.5,)),
    ("kaiming_uniform_", (6, 4), (math.sqrt(5),)),
    ("kaiming_normal_", (6, 4), (0, "fan_out", "relu")),
    ("orthogonal_", (6, 4), (0.7,)),
    ("sparse_", (6, 4), (0.4, 0.1)),
]
DETERMINED = {"constant_", "ones_", "zeros_", "eye_", "dirac_"}
calls = pytest.mark.parametrize(("name", "shape", "arguments"), CALLS, ids=[name for name, *_ in CALLS])


class Own(torch.Tensor):
    """With a __torch_function__ that this library knows nothing of: Tensor's, which keeps the class."""


def key(number, seed=0):
    return Key(seed).fold_in(number)


def ours(name, shape, arguments, number=0, dtype=torch.float32, seed=0):
    """What the functional interface writes with the key of the block's random fill of that number."""
    keyed = {} if name in DETERMINED else {"key": key(number, seed)}
    return getattr(tritoninit, name)(torch.full(shape, torch.nan, dtype=dtype), *arguments, **keyed)


def nans(*shape, dtype=torch.float32):
    return torch.full(shape, torch.nan, dtype=dtype)


def parameter(*shape, dtype=torch.float32):
    return nn.Parameter(nans(*shape, dtype=dtype))


class TestInitFunctions:
    def test_the_table_leaves_none_out(self):
        own = [
            name
            for name, value in vars(nn.init).items()
            if name.endswith("_") and name[0] != "_" and inspect.isfunction(value)
        ]
        assert set(own) == set(_SCHEMES) == {name for name, *_ in CALLS}

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
        before = {name: inspect.signature(KEPT[name]) for name in _SCHEMES}
        with intercept(seed=0):
            assert {name: inspect.signature(KEPT[name]) for name in _SCHEMES} == before

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
        assert told == ["Normal(mean=0, std=0.5)", "Normal(mean=0, std=0.5)", "Constant(value=0.5)"]

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
        torch.manual_seed(0)
        with intercept(seed=0) as intercepted:
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


class TestDrawnOnce:
    def test_a_default_and_then_an_own_scheme(self, drawn):
        with intercept(seed=0):
            linear = nn.Linear(5, 7)
            linear.weight.data.normal_(0.0, 0.02)
            nn.init.zeros_(linear.bias)
        assert sorted(drawn) == [7, 35]
        assert linear.weight.equal(ours("normal_", (7, 5), (0.0, 0.02), number=2))
        assert not linear.bias.any()

    @pytest.mark.parametrize(
        ("first", "second", "sizes"),
        [
            (lambda w: w, lambda w: w, [24]),
            (lambda w: w[1:3], lambda w: w, [24]),
            (lambda w: w[:, 1], lambda w: w, [24]),
            (lambda w: w, lambda w: w.view(-1), [24]),
            (lambda w: w, lambda w: w.t(), [24]),
            (lambda w: w[1], lambda w: w[:3], [12]),
            (lambda w: w[:, 1], lambda w: w[:, 1], [6]),
            (lambda w: w, lambda w: w[1:], [20, 24]),
            (lambda w: w[:3], lambda w: w[1:], [12, 20]),
            (lambda w: w, lambda w: w[::2], [12, 24]),
            (lambda w: w[:, 1], lambda w: w[:, ::3], [6, 12]),
        ],
    )
    def test_what_covers_what(self, drawn, first, second, sizes):
        weight = parameter(6, 4)
        with intercept(seed=0):
            first(weight.data).normal_()
            second(weight.data).uniform_()
        assert sorted(drawn) == sizes
        expected = nans(6, 4)
        Normal()(first(expected), key=key(0))
        Uniform()(second(expected), key=key(1))
        assert np.array_equal(weight.detach(), expected, equal_nan=True)

    def test_other_dtypes_of_the_same_memory(self, drawn):
        """Regions are compared in bytes."""
        weight = parameter(8)
        with intercept(seed=0):
            weight.data.normal_()
            weight.data.view(torch.float16)[:8].zero_()
        assert sorted(drawn) == [8, 8]
        assert not weight[:4].any()
        assert weight[4:].equal(ours("normal_", (8,), ())[4:])

    @pytest.mark.parametrize("name", ["orthogonal_", "eye_", "sparse_"])
    def test_structured_ones_drop_the_default(self, drawn, name):
        arguments = next(arguments for each, _, arguments in CALLS if each == name)
        alone = nn.Linear(4, 6, bias=False)
        with intercept(seed=0):
            getattr(nn.init, name)(alone.weight, *arguments)
        wanted = list(drawn)
        drawn.clear()
        with intercept(seed=0):
            linear = nn.Linear(4, 6, bias=False)
            getattr(nn.init, name)(linear.weight, *arguments)
        assert drawn == wanted
        assert linear.weight.equal(ours(name, (6, 4), arguments, number=1))

    def test_tensors_that_are_gone(self, drawn):
        with intercept(seed=0) as intercepted:
            head, table = nn.Linear(4, 6, bias=False), nn.Embedding(6, 4)
            head.weight = table.weight
            assert intercepted.pending == 2
        assert drawn == [24]
        assert table.weight.equal(ours("normal_", (6, 4), (), number=1))

    def test_views_keep_tensors_alive(self):
        with intercept(seed=0):
            row = nn.init.normal_(parameter(6, 4))[2]
        assert row.equal(ours("normal_", (6, 4), ())[2])

    def test_addresses_that_come_again(self, drawn):
        """Memory freed with a fill pending is soon another tensor's."""
        with intercept(seed=0):
            for _ in range(50):
                nn.init.normal_(nans(1000))
            plain = [torch.zeros(1000) for _ in range(50)]
        assert not any(tensor.any() for tensor in plain)
        assert not drawn

    def test_many_parts(self, drawn):
        """A bounded number is pending: each is compared with those that come after."""
        weight = parameter(300, 4)
        with intercept(seed=0) as intercepted:
            for row in weight:
                nn.init.normal_(row)
                assert intercepted.pending <= 64
        assert drawn == [4] * 300
        assert weight.equal(torch.stack([ours("normal_", (4,), (), number=n) for n in range(300)]))


def bytes_at(tensor):
    return torch.frombuffer(bytearray(ctypes.string_at(tensor.data_ptr(), 96)), dtype=torch.float32).view(
        6, 4
    )


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def into(w):
    target = nn.Parameter(nans(6, 4))
    target.data.copy_(w)
    return target.data


@torch.no_grad
def foreach(w):
    tensors = [w]
    torch._foreach_mul_(tensors, 1.0)
    return w


def by_data(w):
    other = nn.Parameter(torch.empty(0))
    other.data = w.data
    w.data = torch.empty(0)
    return other


READS = {
    "arithmetic": lambda w: w + 0,
    "reduction": lambda w: w.sum(0).new_tensor(w.tolist()),
    "clone": lambda w: w.clone(),
    "deepcopy": copy.deepcopy,
    "to": lambda w: w.to(torch.float64).float(),
    "copy of it": into,
    "cat": lambda w: torch.cat([w[:2], w[2:]]),
    "nested": lambda w: torch.cat(tensors=(w[:2], *[w[2:]])),
    "keyword": lambda w: torch.add(input=torch.zeros(6, 4), other=w),
    "out": lambda w: torch.mul(w.data, 1.0, out=torch.empty(6, 4)),
    "linear": lambda w: F.linear(torch.eye(4), w).t(),
    "custom op": lambda w: torch.ops.aten.mul(w, 1.0),
    "autograd function": lambda w: (
        torch.utils.checkpoint.checkpoint(torch.abs, w, use_reentrant=True) * w.sign()
    ),
    "reshape that copies": lambda w: w.t().reshape(-1).view(4, 6).t(),
    "contiguous that copies": lambda w: w.t().contiguous().t(),
    "channels last": lambda w: w.view(1, 2, 3, 4).contiguous(memory_format=torch.channels_last).reshape(6, 4),
    "index": lambda w: w[torch.arange(6)],
    "list index": lambda w: w[[0, 1, 2, 3, 4, 5]],
    "boolean index": lambda w: w[True][0],
    "view, then read": lambda w: w.data.view(3, 2, 4).transpose(0, 1).transpose(1, 0).reshape(6, 4) * 1,
    "rows": lambda w: torch.stack(list(w)),
    "numbers": lambda w: torch.tensor([[float(x) for x in row] for row in w.data]),
    "where": lambda w: torch.where(torch.ones(6, 4, dtype=torch.bool), w, 0.0),
    "in place": lambda w: w.data.add_(1.0).sub_(1.0) + 0 * w,
    "foreach": foreach,
    "state dict": lambda w: nn.ParameterList([w]).state_dict()["0"] * 1,
    "save": saved,
    "save state dict": lambda w: saved(nn.ParameterList([w]).state_dict())["0"],
    "numpy": lambda w: torch.tensor(w.detach().numpy().copy()),
    "asarray": lambda w: torch.tensor(np.asarray(w.detach()).copy()),
    "dlpack": lambda w: torch.from_dlpack(w.detach()) * 1,
    "pointer": bytes_at,
    "storage": lambda w: (
        torch.tensor(w.untyped_storage().tolist(), dtype=torch.uint8).view(torch.float32).view(6, 4)
    ),
    "swapped data": by_data,
}


class TestTouches:
    @pytest.mark.parametrize("read", READS.values(), ids=READS)
    def test_reads_see_the_values(self, read):
        expected = ours("normal_", (6, 4), ())
        with intercept(seed=0) as intercepted:
            weight = nn.init.normal_(parameter(6, 4))
            assert intercepted.pending == 1
            got = read(weight).detach().clone()
            assert not intercepted.pending
        if read is READS["in place"]:  # adding and taking 1 away rounds
            expected = expected + 1.0 - 1.0
        assert np.array_equal(got, expected)  # not by torch.equal, which could be what writes them

    def test_a_fill_value(self):
        """A function that only looks at its first argument reads its second."""
        with intercept(seed=0):
            weight = nn.init.constant_(parameter(), 0.5)
            assert torch.full_like(torch.empty(2), weight.data).tolist() == [0.5, 0.5]
            nn.init.constant_(weight, 0.25)
            assert torch.empty(2).new_full((2,), weight.detach()).tolist() == [0.25, 0.25]

    def test_text(self):
        with intercept(seed=0):
            weight = nn.init.constant_(parameter(3), 0.25)
            texts = repr(weight), str(weight.data), f"{nn.init.constant_(parameter(), 0.5).data:.2f}"
        assert "0.2500, 0.2500" in texts[0]
        assert texts[1:] == ("tensor([0.2500, 0.2500, 0.2500])", "0.50")

    @pytest.mark.parametrize(
        "change",
        [
            lambda w: w.data.mul_(2),
            lambda w: w.data.__imul__(2),
            lambda w: w.data.clamp_(min=0),
            lambda w: w.data.copy_(torch.ones(6, 4)),
            lambda w: w.data[0].add_(1),
            lambda w: w.data.erfinv_(),
            lambda w: torch.add(w.data, 1, out=w.data),
            lambda w: w.data.index_fill_(0, torch.tensor([1]), 0.0),
            lambda w: w.data.masked_fill_(w.data > 0, 0.0),
            lambda w: nn.init.eye_(w[2:]),
            lambda w: setattr(w, "data", w.data * 3),
        ],
    )
    def test_changes_come_after(self, change):
        expected = nn.Parameter(ours("uniform_", (6, 4), ()))
        change(expected)
        with intercept(seed=0):
            weight = nn.init.uniform_(parameter(6, 4))
            change(weight)
        assert weight.equal(expected)

    def test_fills_after_changes(self):
        """A fill after a read is one of its own."""
        with intercept(seed=0):
            weight = nn.init.normal_(parameter(6, 4))
            first = weight.detach().clone()
            nn.init.normal_(weight)
        assert first.equal(ours("normal_", (6, 4), (), 0))
        assert weight.equal(ours("normal_", (6, 4), (), 1))

    @pytest.mark.parametrize(
        "look",
        [
            lambda w: (w.shape, w.size(), w.size(0), w.dim(), w.ndim, w.numel(), w.nelement(), len(w)),
            lambda w: (w.dtype, w.device, w.layout, w.is_cuda, w.is_meta, w.is_sparse, w.get_device()),
            lambda w: (w.requires_grad, w.is_leaf, w.grad, w.grad_fn, w.requires_grad_(), w._version),
            lambda w: (w.stride(), w.is_contiguous(), w.storage_offset(), w.element_size(), w.nbytes),
            lambda w: (torch.is_floating_point(w), w.is_floating_point(), w.is_complex(), torch.numel(w)),
            lambda w: (w.data, w.detach(), w.view(-1), w.t(), w.T, w.transpose(0, 1), w.permute(1, 0)),
            lambda w: (w[0], w[1:3], w[:, 2], w[..., None], w[None], w[-1, 2:]),
            lambda w: (
                w.chunk(2),
                w.split(2),
                torch.split(w, [2, 4]),
                w.unbind(),
                torch.chunk(w, 3),
                list(w),
            ),
            lambda w: (w.narrow(0, 1, 2), w.select(1, 0), w.unsqueeze(0), w.squeeze(), w.expand(2, 6, 4)),
            lambda w: (w.reshape(4, 6), w.flatten(), w.contiguous(), w.unflatten(0, (2, 3)), w.diagonal()),
            lambda w: (list(w), {w, w}),
            lambda w: (setattr(w, "grad", None), setattr(w, "requires_grad", False)),
            lambda w: isinstance(w, nn.Parameter),
            lambda w: (torch.empty_like(w), w.new_empty(3), torch.zeros_like(w)),
            lambda w: nn.ParameterList([w]).state_dict(),
            lambda w: list(nn.ParameterList([w]).named_parameters()),
            lambda w: nn.ParameterList([w]).requires_grad_(False),
            lambda w: nn.Module().register_parameter("w", w),
            lambda w: torch.zeros(3) + 1,
            lambda w: nn.Parameter(w.data),
        ],
    )
    def test_looks_leave_it_pending(self, look):
        with intercept(seed=0) as intercepted:
            weight = nn.init.normal_(parameter(6, 4))
            look(weight)
            assert intercepted.pending == 1
        assert weight.equal(ours("normal_", (6, 4), ()))

    def test_only_what_is_touched_is_run(self):
        with intercept(seed=0) as intercepted:
            a, b = (nn.init.normal_(parameter(4)) for _ in range(2))
            a.sum()
            assert intercepted.pending == 1
            (b + a).sum()
            assert intercepted.pending == 0

    def test_on_request(self):
        with intercept(seed=0) as intercepted:
            weight = nn.init.normal_(parameter(6, 4))
            intercepted.flush()
            seen = []
            thread = threading.Thread(target=lambda: seen.append(weight.detach().clone()))
            thread.start()
            thread.join()
        assert seen[0].equal(ours("normal_", (6, 4), ()))

    @pytest.mark.parametrize(
        "hand_out", [lambda w: w.detach().numpy(), lambda w: np.from_dlpack(w.data), np.asarray]
    )
    def test_memory_handed_out_is_written_at_once(self, hand_out):
        with intercept(seed=0):
            weight = parameter(3).requires_grad_(False)
            array = hand_out(weight)
            weight.data.fill_(2.0)
            assert array.tolist() == [2, 2, 2]
            nn.init.normal_(weight)
            assert np.array_equal(array, ours("normal_", (3,), ()))

    def test_subclasses_that_hold_a_pending_tensor(self):
        """What is behind them cannot be seen: everything is written first."""

        class Wrapped(torch.Tensor):
            @staticmethod
            def __new__(cls, inner):
                wrapped = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)
                wrapped.inner = inner
                return wrapped

            @classmethod
            def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
                return func(*(a.inner if isinstance(a, cls) else a for a in args), **(kwargs or {}))

        weight = nans(6, 4)
        wrapped = Wrapped(weight)
        with intercept(seed=0):
            nn.init.normal_(weight)
            got = wrapped * 1.0
        assert got.equal(ours("normal_", (6, 4), ()))

    def test_fake_tensors(self):
        """Nobody's business but torch's; what is pending is written to real memory all the same."""
        with intercept(seed=0) as intercepted:
            weight = nn.init.normal_(parameter(6, 4))
            with FakeTensorMode():
                linear = nn.Linear(4, 6)
                with torch.no_grad():
                    linear.weight.normal_()
            assert not intercepted.pending
        assert weight.equal(ours("normal_", (6, 4), ()))
        assert [passed.function for passed in intercepted.passed_on] == [
            "torch.nn.init.kaiming_uniform_",
            "torch.nn.init.uniform_",
            "Tensor.normal_",
        ]

    def test_sparse_tensors_pass(self):
        with intercept(seed=0):
            values = nn.init.normal_(parameter(3))
            sparse = torch.eye(3).to_sparse()
            product = torch.sparse.mm(sparse, values.data[:, None])
        assert product[:, 0].equal(ours("normal_", (3,), ()))


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
            nn.init.normal_(parameter(3, dtype=torch.float64))
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

    def test_unknown_backends(self, monkeypatch):
        monkeypatch.setenv(registry.ENVIRONMENT_VARIABLE, "abacus")
        with pytest.raises(ValueError, match="unknown backend 'abacus'"), intercept(seed=0):
            pass

    def test_backends_agree(self):
        models = []
        for backend in ("numpy", registry.resolve("cpu").name):
            with registry.use_backend(backend):
                models.append(self.build(0))
        assert all(map(torch.equal, *(model.parameters() for model in models)))


class TestPassedOn:
    @pytest.mark.parametrize(
        "call",
        [
            lambda: nn.init.normal_(parameter(4, dtype=torch.float64)),
            lambda: nn.init.kaiming_uniform_(parameter(4, 2, dtype=torch.float64)),
            lambda: parameter(4, dtype=torch.float64).data.normal_(),
            lambda: nn.init.normal_(parameter(4, dtype=torch.complex64)),
            lambda: nn.init.normal_(torch.empty(4, 2, device="meta")),
            lambda: nn.init.trunc_normal_(torch.empty(4, 2, device="meta")),
            lambda: nn.init.trunc_normal_(parameter(9), 0.0, 0.5, 3.5, 4.0),
            lambda: nn.init.zeros_(torch.eye(3).to_sparse()),
            lambda: nn.init.zeros_(parameter(4).data.expand(3, 4)),
            lambda: nn.init.normal_(torch.Tensor._make_subclass(Own, nans(3))),
        ],
    )
    @pytest.mark.filterwarnings("ignore:mean is more than 2 std", "ignore:Sparse")
    def test_torch_draws(self, call):
        torch.manual_seed(0)
        expected = call()
        torch.manual_seed(0)
        with intercept(seed=0) as intercepted:
            got = call()
        assert type(got) is type(expected)
        if not expected.is_meta:
            assert np.array_equal(got.detach().to_dense(), expected.detach().to_dense(), equal_nan=True)
        (passed,) = intercepted.passed_on
        assert passed.function.startswith(("torch.nn.init.", "Tensor."))
        assert passed.target
        assert passed.reason

    @pytest.mark.parametrize(
        "call",
        [
            lambda: nn.init.normal_(parameter(4), 0.0, -1.0),
            lambda: nn.init.uniform_(parameter(4), 1.0, 0.0),
            lambda: nn.init.normal_(torch.zeros(4, dtype=torch.int64)),
            lambda: nn.init.kaiming_normal_(parameter(4)),
            lambda: nn.init.kaiming_normal_(parameter(4, 4), mode="fan"),
            lambda: nn.init.kaiming_normal_(parameter(4, 4), mode=3),
            lambda: nn.init.xavier_uniform_(parameter(4)),
            lambda: nn.init.xavier_uniform_(parameter(0, 0)),
            lambda: nn.init.kaiming_uniform_(parameter(4, 4), nonlinearity="gelu"),
            lambda: nn.init.eye_(parameter(4)),
            lambda: nn.init.dirac_(parameter(4, 2)),
            lambda: nn.init.dirac_(parameter(4, 2, 3), groups=3),
            lambda: nn.init.orthogonal_(parameter(4)),
            lambda: nn.init.sparse_(parameter(4), 0.5),
            lambda: nn.init.trunc_normal_(parameter(4), 0.0, 0.0),
            lambda: nn.init.constant_(parameter(4, dtype=torch.float16), 1e6),
            lambda: nn.init.constant_(torch.zeros(4, dtype=torch.int8), 300),
            lambda: nn.init.normal_(parameter(4), generator=42),
            lambda: nn.init.normal_(np.zeros(3)),
            lambda: nn.init.normal_(),
            lambda: nn.init.normal_(parameter(3), deviation=1.0),
            lambda: parameter(4).data.normal_(0.0, -1.0),
            lambda: parameter(4).data.normal_(0.0, 1.0, 2.0),
            lambda: parameter(4).data.uniform_(low=0.0),
            lambda: parameter(4).data.fill_("one"),
            lambda: parameter(4).data.fill_(torch.ones(4)),
            lambda: parameter(4).normal_(),
            lambda: parameter(4).zero_(),
            lambda: parameter(4)[1].zero_(),
            lambda: parameter(4).__setitem__(1, 0.0),
            lambda: nn.init.normal_(nn.parameter.UninitializedParameter()),
        ],
    )
    def test_torch_raises(self, call):
        with pytest.raises(Exception) as expected:  # noqa: PT011 - whatever torch raises
            call()
        with intercept(seed=0), pytest.raises(type(expected.value)) as raised:
            call()
        assert str(raised.value) == str(expected.value)

    def test_a_refused_fill_comes_after_what_is_pending(self):
        weight = parameter(4)
        with intercept(seed=0):
            nn.init.normal_(weight)
            with pytest.raises(RuntimeError):
                nn.init.normal_(weight, std=-1.0)
            assert weight.detach().equal(ours("normal_", (4,), ()))

    def test_constants_of_every_dtype_are_served(self):
        dtypes = [torch.float64, torch.complex64, torch.int8, torch.bool]
        tensors = [torch.zeros(3, dtype=dtype) for dtype in dtypes]
        with intercept(seed=0) as intercepted:
            for tensor in tensors:
                nn.init.ones_(tensor)
            assert intercepted.pending == len(tensors)
        assert not intercepted.passed_on
        assert all(tensor.tolist() == [1, 1, 1] for tensor in tensors)

    def test_parameters_of_other_classes(self):
        """With nothing of their own behind them, they are parameters."""

        class Named(nn.Parameter):
            pass

        weight = Named(nans(6, 4))
        with intercept(seed=0) as intercepted:
            nn.init.normal_(weight)
            assert intercepted.pending == 1
        assert weight.equal(ours("normal_", (6, 4), ()))


class TestAutograd:
    def test_leaves_stay_leaves(self):
        with intercept(seed=0):
            weight = nn.init.normal_(parameter(4))
        assert weight.is_leaf
        assert weight.requires_grad
        weight.square().sum().backward()
        assert weight.grad.equal(2 * weight.detach())

    def test_the_middle_of_a_graph(self):
        """As in torch: recorded there, since gradients stop at what is overwritten."""
        with intercept(seed=0) as intercepted:
            leaf = parameter(3)
            middle = leaf * 2
            middle.normal_()
            middle.sum().backward()
        assert leaf.grad.tolist() == [0, 0, 0]
        assert not intercepted.passed_on  # no parameter's memory

    @pytest.mark.parametrize("fill", [nn.init.normal_, lambda w: w.data.normal_(), nn.init.eye_])
    def test_versions_move_on_at_once(self, fill):
        def change(weight):
            before = weight._version
            fill(weight)
            return weight._version > before

        plain = change(parameter(3, 3))
        with intercept(seed=0):
            assert change(parameter(3, 3)) == plain

    def test_a_change_of_a_saved_tensor_is_noticed(self):
        with intercept(seed=0):
            leaf, saved = torch.ones(4, requires_grad=True), parameter(4)
            product = (leaf * saved).sum()
            nn.init.normal_(saved)
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                product.backward()

    @pytest.mark.parametrize("mode", [torch.no_grad, torch.enable_grad, torch.inference_mode])
    def test_modes(self, mode):
        with intercept(seed=0) as intercepted:
            with mode():
                linear = nn.Linear(4, 6)
                linear.weight.data.normal_()
                assert linear.weight.is_inference() == (mode is torch.inference_mode)
            assert intercepted.pending == 2
        assert linear.weight.equal(ours("normal_", (6, 4), (), number=2))
        assert not intercepted.passed_on

    def test_inference_tensors_outside_inference_mode(self):
        with torch.inference_mode():
            weight = nans(4)
        with intercept(seed=0), pytest.raises(RuntimeError, match="inference tensor"):
            nn.init.normal_(weight)


def stepped(call):
    """Run ``call``, which returns tensors and lists, in plain torch and in a block."""
    plain = call()
    with intercept(seed=0) as intercepted:
        inside = call()
        assert not intercepted.pending
    return plain, inside


class TestBackward:
    """The engine reads what it saved, and adds to gradients, without a word."""

    @pytest.mark.parametrize(
        "backward",
        [
            lambda loss, x: loss.backward(),
            lambda loss, x: torch.autograd.backward(loss),
            lambda loss, x: x.grad.add_(torch.autograd.grad(loss, x)[0]),
        ],
    )
    def test_saved_tensors_and_gradients(self, backward):
        def call():
            weight, x = nn.Parameter(torch.full((3,), 2.0)), torch.ones(3, requires_grad=True)
            x.grad = torch.full((3,), 7.0)
            loss = (weight * x).sum()
            weight.data.fill_(10.0)
            nn.init.ones_(x.grad)
            backward(loss, x)
            return x.grad.tolist()

        assert stepped(call) == ([11.0] * 3, [11.0] * 3)

    def test_gradients_that_accumulate(self):
        def call():
            weight = nn.Parameter(torch.ones(3))
            for _ in range(2):
                weight.sum().backward()
                nn.init.zeros_(weight.grad)
            weight.sum().backward()
            return weight.grad.tolist()

        assert stepped(call) == ([1.0] * 3, [1.0] * 3)

    @pytest.mark.parametrize("nested", [False, True])
    def test_hooks_are_served(self, nested):
        """At once: what the engine reads next may be what they filled."""
        weight, pending = nn.Parameter(torch.ones(3)), parameter(4)
        seen = []

        def hook(gradient):
            seen.append(pending.tolist())
            pending.data.normal_()
            seen.append(np.array(pending.tolist(), np.float32))
            nn.init.zeros_(pending.data[1:])
            assert not intercepted.pending

        weight.register_hook(hook)
        with intercept(seed=5 if nested else 0) as intercepted:
            if nested:
                with intercept(seed=0) as intercepted:
                    nn.init.ones_(pending)
                    weight.sum().backward()
            else:
                nn.init.ones_(pending)
                weight.sum().backward()
        assert seen[0] == [1.0] * 4
        expected = ours("normal_", (4,), ())
        assert np.array_equal(seen[1], expected)
        expected[1:] = 0.0
        assert pending.equal(expected)
        assert [a.initializer for a in intercepted.assignments(nn.ParameterList([pending]))] == [
            Overlaid(Normal(), 1)
        ]

    def test_a_fill_in_a_hook_comes_before_what_the_engine_reads(self):
        def call():
            weight, x = nn.Parameter(torch.full((3,), 2.0)), torch.ones(3, requires_grad=True)
            product = weight * x

            def hook(gradient):
                weight.data.fill_(3.0)

            product.register_hook(hook)
            product.sum().backward()
            return x.grad.tolist()

        assert stepped(call) == ([3.0] * 3, [3.0] * 3)

    def test_module_hooks(self):
        def call():
            module, pending, seen = nn.Linear(2, 2), parameter(2), []
            nn.init.ones_(pending)
            module.register_full_backward_hook(lambda *_: seen.append(pending.tolist()))
            module(torch.ones(1, 2, requires_grad=True)).sum().backward()
            return seen

        assert stepped(call) == ([[1.0, 1.0]], [[1.0, 1.0]])

    def test_other_threads_go_their_own_way(self):
        weight = nn.Parameter(torch.ones(3))
        with intercept(seed=0):
            thread = threading.Thread(target=lambda: weight.sum().backward())
            thread.start()
            thread.join()
        assert weight.grad.tolist() == [1, 1, 1]
        assert torch.autograd.graph._engine_run_backward.__code__ is ENGINE


class Duck:
    """No tensor, but it holds one."""

    def __init__(self, held):
        self.held = held

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return func(*(a.held if isinstance(a, cls) else a for a in args), **(kwargs or {}))


class Holding(torch.Tensor):
    """A tensor of its own, and it holds another."""

    @staticmethod
    def __new__(cls, held):
        made = torch.Tensor._make_subclass(cls, torch.zeros(held.shape))
        made.held = held
        return made

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            return func(*(a.held if isinstance(a, cls) else a for a in args), **(kwargs or {}))


def called_back(tensor):
    return torch.zeros(1).apply_(lambda _: tensor.sum().item())


def dispatched(tensor):
    class Looking(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(tensor.sum().item())
            return func(*args, **(kwargs or {}))

    seen = []
    with Looking():
        torch.zeros(2).neg()
    return torch.tensor(seen)


class TestHidden:
    """Tensors that are not among the arguments of the function that reads or changes them."""

    @pytest.mark.parametrize(
        "read",
        [
            lambda q: torch.sum(Duck(q)),
            lambda q: torch.sum(Holding(q)),
            called_back,
            dispatched,
        ],
    )
    def test_reads(self, read):
        with torch.no_grad():
            plain = nn.init.ones_(torch.full((4,), 7.0))
            expected = read(plain)
            with intercept(seed=0):
                got = read(nn.init.ones_(torch.full((4,), 7.0)))
        assert got.tolist() == expected.tolist()

    def test_an_index(self):
        with intercept(seed=0):
            start, stop = torch.full((), 3), torch.full((), 3)
            nn.init.ones_(start)
            assert torch.ones(5)[start:].shape == (4,)
            nn.init.ones_(stop)
            assert torch.ones(5)[:stop].shape == (1,)

    @pytest.mark.parametrize("name", ["grad", "average"])
    def test_copies(self, name):
        """Of a tensor come with copies of its gradient and of its attributes."""
        with intercept(seed=0):
            tensor = torch.zeros(4)
            setattr(tensor, name, nans(4))
            nn.init.ones_(getattr(tensor, name))
            copied = copy.deepcopy(tensor)
        assert getattr(copied, name).tolist() == [1] * 4

    @pytest.mark.parametrize("kind", [Duck, Holding])
    def test_changes(self, kind):
        with intercept(seed=0), torch.no_grad():
            weight = nn.init.ones_(parameter(4))
            torch.fill_(kind(weight), 3.0)
        assert weight.tolist() == [3] * 4

    def test_custom_operators(self):
        held = nans(3)

        @torch.library.custom_op("tritoninit_test::held", mutates_args=())
        def operator(x: torch.Tensor) -> torch.Tensor:
            return x + torch.from_numpy(held.numpy().copy())

        with intercept(seed=0):
            nn.init.ones_(held)
            assert operator(torch.zeros(3)).tolist() == [1, 1, 1]

    def test_init_in_a_callback_is_served_at_once(self):
        weight, seen = parameter(4), []

        def fill(value):
            nn.init.normal_(weight)
            seen.append(weight.detach().clone())
            return value

        with intercept(seed=0):
            torch.zeros(1).apply_(fill)
        assert seen[0].equal(ours("normal_", (4,), ()))

    @pytest.mark.parametrize(
        "share",
        [
            torch.from_numpy,
            lambda a: nn.Parameter(torch.from_numpy(a)),
            lambda a: torch.frombuffer(a, dtype=torch.float32),
            torch.from_dlpack,
        ],
    )
    def test_memory_that_arrays_share(self, share):
        array = np.zeros(4, np.float32)
        with intercept(seed=0):
            tensor = share(array)
            nn.init.ones_(tensor)
            assert array.tolist() == [1] * 4
            array[:] = 5
        assert array.tolist() == [5] * 4

    def test_arrays_from_before_the_block(self):
        weight = parameter(3)
        array = weight.detach().numpy()
        with intercept(seed=0):
            nn.init.ones_(weight)
            assert array.tolist() == [1] * 3


class TestTransformations:
    """Of torch.func: inside them torch alone knows what a tensor is."""

    def test_modules_made_inside(self):
        def loss(x):
            torch.manual_seed(0)
            return nn.Linear(3, 2)(x).sum()

        expected = torch.func.grad(loss)(torch.ones(3))
        with intercept(seed=0) as intercepted:
            assert torch.func.grad(loss)(torch.ones(3)).equal(expected)
            weight = nn.init.normal_(parameter(3))
        assert [p.function for p in intercepted.passed_on] == [
            "torch.nn.init.kaiming_uniform_",
            "torch.nn.init.uniform_",
        ]
        assert weight.equal(ours("normal_", (3,), ()))  # no key was taken

    def test_what_torch_refuses(self):
        with intercept(seed=0), pytest.raises(RuntimeError, match="inplace randomness"):
            torch.vmap(lambda x: nn.Linear(3, 2)(x), randomness="different")(torch.ones(4, 3))

    def test_of_what_is_pending(self):
        with intercept(seed=0):
            weight, x = nn.init.normal_(parameter(3)), nn.init.ones_(nans(3))
            got = torch.func.grad(lambda x: (weight * x).sum())(x)
        assert got.equal(ours("normal_", (3,), ()))


class TestDevices:
    def test_meta(self):
        with intercept(seed=0) as intercepted, torch.device("meta"):
            linear = nn.Linear(4, 6)
        assert linear.weight.is_meta
        assert {passed.target for passed in intercepted.passed_on} == {
            "float32 (6, 4) on meta",
            "float32 (6,) on meta",
        }
        with intercept(seed=0):
            linear.to_empty(device="cpu").reset_parameters()
        assert linear.weight.equal(ours("kaiming_uniform_", (6, 4), (math.sqrt(5),)))

    @pytest.mark.parametrize("device", ["cpu", "meta"])
    def test_default_device(self, device):
        torch.set_default_device(device)
        try:
            with intercept(seed=0):
                linear = nn.Linear(4, 6)
                other = nn.init.orthogonal_(torch.empty(6, 4, device="cpu"))
        finally:
            torch.set_default_device(None)
        assert linear.weight.device.type == device
        if device == "cpu":
            assert linear.weight.equal(ours("kaiming_uniform_", (6, 4), (math.sqrt(5),)))
        assert other.equal(ours("orthogonal_", (6, 4), (), number=0 if device == "meta" else 2))

    @pytest.mark.gpu
    def test_gpu(self):
        with intercept(seed=0) as intercepted, torch.device("cuda"):
            linear, rnn = nn.Linear(4, 6), nn.LSTM(3, 5)
            linear.weight.data.normal_()
        assert not intercepted.passed_on
        with intercept(seed=0):
            on_cpu, rnn_on_cpu = nn.Linear(4, 6), nn.LSTM(3, 5)
            on_cpu.weight.data.normal_()
        for here, there in zip(
            [*linear.parameters(), *rnn.parameters()],
            [*on_cpu.parameters(), *rnn_on_cpu.parameters()],
            strict=True,
        ):
            assert here.cpu().equal(there)


class TestBlocks:
    def test_exceptions_leave_nothing_pending(self):
        weight = parameter(4)
        intercepted = None

        def build():
            nonlocal intercepted
            with intercept(seed=0) as intercepted:
                nn.init.normal_(weight)
                raise KeyError("mine")

        with pytest.raises(KeyError, match="mine"):
            build()
        assert not intercepted.pending
        assert weight.equal(ours("normal_", (4,), ()))
        assert nn.init.normal_.__code__ is KEPT["normal_"].__code__
        torch.manual_seed(0)
        got = nn.init.normal_(torch.empty(4))
        torch.manual_seed(0)
        assert got.equal(torch.empty(4).normal_())

    def test_nested(self):
        """The inner one serves, with its own seed and count; what the outer one had pending comes first."""
        tensors = [parameter(6) for _ in range(4)]
        with intercept(seed=1) as outer:
            alias = tensors[3].data
            nn.init.normal_(tensors[0])
            nn.init.normal_(tensors[1])
            with intercept(seed=2) as inner:
                assert not outer.pending
                tensors[1].data[:3].normal_()
                nn.init.normal_(tensors[2])
                alias.normal_()
                parameter(3, dtype=torch.float64).data.normal_()
                assert inner.pending == 3
                assert not outer.pending
            assert not inner.pending
            assert len(inner.passed_on) == 1
            assert not outer.passed_on
            nn.init.normal_(tensors[2][3:])
            assert (inner.pending, outer.pending) == (0, 1)
        expected = [Normal()(nans(6), key=Key(1).fold_in(n)) for n in range(3)]
        assert tensors[0].equal(expected[0])
        assert tensors[1][3:].equal(expected[1][3:])
        assert tensors[1][:3].equal(Normal()(nans(3), key=Key(2).fold_in(0)))
        assert tensors[2][:3].equal(Normal()(nans(6), key=Key(2).fold_in(1))[:3])
        assert tensors[2][3:].equal(Normal()(nans(3), key=Key(1).fold_in(2)))
        assert alias.equal(Normal()(nans(6), key=Key(2).fold_in(2)))

    def test_the_outer_one_learns_of_parameters(self):
        weight = parameter(6)
        alias = weight.data
        with intercept(seed=1):
            with intercept(seed=2):
                assert weight.shape == (6,)
            alias.normal_()
        assert weight.equal(ours("normal_", (6,), (), seed=1))

    def test_nested_assignments(self):
        """Each tells what it did itself, and the outer one not what an inner block changed."""
        model = nn.ParameterList([parameter(6) for _ in range(5)])
        with intercept(seed=1) as outer:
            for weight in model:
                nn.init.normal_(weight)
            with intercept(seed=2) as inner:
                nn.init.zeros_(model[1])
                model[2].data.mul_(2.0)
                nn.init.ones_(model[3])
                array = model[4].detach().numpy()
            nn.init.normal_(model[3])
            nn.init.constant_(model[4], 3.0)
            assert array.tolist() == [3] * 6
        assert [a.name for a in inner.assignments(model)] == ["1", "3"]
        assert [(a.name, a.key) for a in outer.assignments(model)] == [
            ("0", key(0, seed=1)),
            ("3", key(5, seed=1)),
            ("4", None),
        ]

    @pytest.mark.parametrize("change", [lambda w: w.data.mul_(2.0), tritoninit.ones_])
    def test_the_outer_one_learns_of_changes(self, change):
        model = nn.ParameterList([parameter(6), parameter(6)])
        with intercept(seed=1) as outer:
            for weight in model:
                nn.init.normal_(weight)
            with intercept(seed=2), intercept(seed=3):
                change(model[1])
        assert [a.name for a in outer.assignments(model)] == ["0"]

    @pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
    def test_left_out_of_order(self, order):
        """As generators do that hold blocks: the innermost of those that are open serves."""

        def holding(seed):
            with intercept(seed=seed) as intercepted:
                yield intercepted

        blocks = [holding(seed) for seed in range(3)]
        opened = [next(block) for block in blocks]
        left = {0, 1, 2}
        for leaving in order:
            blocks[leaving].close()
            left.remove(leaving)
            weight, before = parameter(3), [each._random_fills for each in opened]
            nn.init.normal_(weight)
            served = [seed for seed in range(3) if opened[seed]._random_fills > before[seed]]
            assert served == sorted(left)[-1:]
            assert not weight.isnan().any()
        assert nn.init.normal_.__code__ is KEPT["normal_"].__code__

    def test_left_out_of_order_beside_another_thread(self):
        """Whose block has the functions routed while nobody is in one here."""
        self.test_left_out_of_order((0, 1, 2))
        inside, done = threading.Event(), threading.Event()

        def work():
            with intercept(seed=0):
                inside.set()
                done.wait(10)

        thread = threading.Thread(target=work)
        thread.start()
        inside.wait(10)
        weight = nn.init.ones_(parameter(3))
        done.set()
        thread.join()
        assert weight.tolist() == [1, 1, 1]

    @pytest.mark.parametrize("how", ["replaced", "wrapped"])
    def test_imported_while_functions_are_replaced(self, how):
        """As transformers does for a while: they are looked for again."""
        program = f"""
import functools, torch
from torch import nn
kept = nn.init.normal_
def other(tensor, *args):
    return tensor
nn.init.normal_ = functools.wraps(kept)(other) if {how!r} == "wrapped" else other
import tritoninit
if {how!r} == "replaced":
    try:
        tritoninit.intercept(seed=0).__enter__()
    except RuntimeError as error:
        assert "normal_" in str(error), error
    else:
        raise AssertionError("no error")
nn.init.normal_ = kept
with tritoninit.intercept(seed=0) as intercepted:
    table = nn.Embedding(3, 4)
assert len(intercepted.assignments(table)) == 1
"""
        subprocess.run([sys.executable, "-c", program], check=True, timeout=120)

    def test_other_threads_see_plain_torch(self):
        results = []

        def work():
            weight = parameter(6, 4)
            generator = torch.Generator().manual_seed(4)
            nn.init.normal_(weight, generator=generator)
            kept_kaiming_normal_(weight[3:], generator=generator)
            weight.data[0].uniform_(generator=generator)
            results.append(weight.detach().clone())

        work()
        with intercept(seed=0) as intercepted:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
            assert results[0].equal(results[1])
            assert not intercepted.pending

    def test_two_threads_each_with_its_own(self):
        """Their blocks overlap, and the first to end leaves the other's standing."""
        inside, done = threading.Barrier(2, timeout=10), threading.Event()
        models = {}

        def build(seed):
            with intercept(seed=seed):
                inside.wait()
                if seed:
                    done.wait(10)
                models[seed] = nn.Linear(3, 4)
            done.set()

        threads = [threading.Thread(target=build, args=(seed,)) for seed in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for seed, model in models.items():
            expected = tritoninit.kaiming_uniform_(nans(4, 3), math.sqrt(5), key=key(0, seed))
            assert model.weight.equal(expected)
        assert nn.init.zeros_.__code__.co_firstlineno > 1  # torch's own again

    def test_our_own_functions_inside(self):
        weight = parameter(4)
        with intercept(seed=0) as intercepted:
            nn.init.normal_(weight)
            tritoninit.uniform_(weight, key=Key(8))
        assert weight.equal(Uniform()(nans(4), key=Key(8)))
        assert not intercepted.assignments(nn.ParameterList([weight]))


class TestAssignments:
    def test_what_was_done_last(self):
        with intercept(seed=0) as intercepted:
            model = nn.Sequential(nn.Linear(4, 6), nn.Linear(4, 6), nn.LayerNorm(6))
            model[1].weight.data.normal_(0.0, 0.02)
        backend = registry.resolve("cpu").name
        got = [(a.name, a.initializer, a.key, a.backend) for a in intercepted.assignments(model)]
        assert got == [
            ("0.weight", KaimingUniform(math.sqrt(5)), key(0), backend),
            ("0.bias", Uniform(-0.5, 0.5), key(1), backend),
            ("1.weight", Normal(0.0, 0.02), key(4), backend),
            ("1.bias", Uniform(-0.5, 0.5), key(3), backend),
            ("2.weight", Ones(), None, backend),
            ("2.bias", Zeros(), None, backend),
        ]
        for each in intercepted.assignments(model):
            again = each.initializer(nans(*each.tensor.shape), **({"key": each.key} if each.key else {}))
            assert each.tensor.equal(again)

    def test_tied_parameters_come_once(self):
        with intercept(seed=0) as intercepted:
            model = nn.ModuleDict({"table": nn.Embedding(6, 4), "head": nn.Linear(4, 6, bias=False)})
            model["head"].weight = model["table"].weight
        assert [a.name for a in intercepted.assignments(model)] == ["table.weight"]

    @pytest.mark.parametrize(
        ("touch", "told"),
        [
            (lambda w: w.sum(), Normal()),
            (lambda w: w.data.clone(), Normal()),
            (lambda w: w.data[2].zero_(), ZeroRow(Normal(), 2)),
            (lambda w: w.data[5:].zero_(), ZeroRow(Normal(), 5)),
            (lambda w: w.data.__setitem__(2, 0.0), ZeroRow(Normal(), 2)),
            (lambda w: w.data[2:4].zero_(), Overlaid(Normal(), 1)),
            (lambda w: w.data[:, 2].zero_(), Overlaid(Normal(), 1)),
            (lambda w: w.data[2].fill_(1.0), Overlaid(Normal(), 1)),
            (lambda w: [w.data[2].zero_(), w.data[1].zero_()], Overlaid(Normal(), 2)),
            (lambda w: w.data[1].mul_(2.0), Overlaid(Normal(), 1)),
        ],
    )
    def test_parts_and_reads(self, touch, told):
        """A padding row is told; of other changes of parts only how many there were."""
        with intercept(seed=0) as intercepted:
            table = nn.Embedding(6, 4)
            touch(table.weight)
        assert [a.initializer for a in intercepted.assignments(table)] == [told]

    def test_names_without_what_wrappers_add(self):
        with intercept(seed=0) as intercepted:
            model = nn.DataParallel(nn.Linear(2, 2))
        assert [a.name for a in intercepted.assignments(model)] == ["weight", "bias"]

    def test_report(self):
        with intercept(seed=7) as intercepted:
            model = nn.Sequential(nn.Embedding(50, 40, padding_idx=1), nn.LSTM(40, 30))
        report = intercepted.report(model)
        assert report.seed == 7
        assert report.audit.ok
        assert not report.audit.coverage.untouched
        assert report[0].initializer == ZeroRow(Normal(), 1)
        assert "ZeroRow Normal" in str(report)

    @pytest.mark.parametrize(
        "change",
        [
            lambda w: w.data.mul_(2.0),
            lambda w: torch.no_grad()(w.mul_)(2.0),
            lambda w: w.data.copy_(torch.ones(6, 4)),
            lambda w: torch.add(w.data, 1.0, out=w.data),
            lambda w: setattr(w, "data", w.data * 2.0),
            lambda w: w.data.random_(),
            lambda w: tritoninit.ones_(w),
            lambda w: tritoninit.uniform_(w),
            lambda w: torch.autograd.graph.increment_version(w),
        ],
    )
    def test_changed_by_other_means(self, change):
        with intercept(seed=0) as intercepted:
            table = nn.Embedding(6, 4)
            change(table.weight)
            assert not intercepted.assignments(table)
            nn.init.normal_(table.weight, 0.0, 0.5)
        assert [a.initializer for a in intercepted.assignments(table)] == [Normal(0.0, 0.5)]

    def test_this_library_s_constants_of_other_dtypes(self):
        """Which are written by torch's own functions."""
        with intercept(seed=0) as intercepted:
            module = nn.ParameterList([nn.Parameter(torch.empty(3, dtype=torch.float64))])
            tritoninit.ones_(module[0])
        assert module[0].equal(torch.ones(3, dtype=torch.float64))
        assert not intercepted.assignments(module)

    @pytest.mark.parametrize(
        "hand_out",
        [
            lambda m: m.weight.data_ptr(),
            lambda m: m.weight.detach().numpy(),
            lambda m: m.weight.untyped_storage(),
            lambda m: saved(m.state_dict()),
            lambda m: m.share_memory(),
        ],
    )
    def test_handed_out(self, hand_out):
        """Nobody knows what happens to the memory; most often nothing."""
        with intercept(seed=0) as intercepted:
            table = nn.Embedding(6, 4)
            hand_out(table)
        assert [a.initializer for a in intercepted.assignments(table)] == [Normal()]

    def test_the_backend_that_ran(self, monkeypatch):
        """It is settled when a fill is asked for, not when it runs."""
        ran = []
        fill = registry.fill
        monkeypatch.setattr(
            registry, "fill", lambda backend, items: (ran.append(backend.name), fill(backend, items))
        )
        with intercept(seed=0) as intercepted:
            with registry.use_backend("numpy"):
                first = nn.Embedding(6, 4)
            with registry.use_backend(registry.resolve("cpu").name):
                second = nn.Embedding(6, 4)
        told = [a.backend for a in intercepted.assignments(nn.ModuleList([first, second]))]
        assert told == ran == ["numpy", registry.resolve("cpu").name]

    def test_never_filled(self):
        with intercept(seed=0) as intercepted:
            model = nn.ParameterDict({"a": nn.Parameter(torch.ones(3)), "b": parameter(0)})
            model["c"] = nn.Parameter(nn.init.normal_(torch.empty(3)))
        assert [a.name for a in intercepted.assignments(model)] == ["c"]

    def test_through_views(self):
        """A transposed weight has other fans: told as the numbers that were drawn."""
        with intercept(seed=0) as intercepted:
            model = nn.ParameterList([parameter(6, 4), parameter(6, 4)])
            nn.init.kaiming_normal_(model[0].T)
            nn.init.kaiming_normal_(model[1])
        first, second = intercepted.assignments(model)
        assert first.initializer == Normal(0.0, KaimingNormal().fill((4, 6)).std)
        assert second.initializer == KaimingNormal()

    def test_the_latest_of_several_views(self):
        model = nn.ParameterList([parameter(6, 4)])
        with intercept(seed=0) as intercepted:
            nn.init.normal_(model[0])
            nn.init.zeros_(model[0].t())
            assert [a.initializer for a in intercepted.assignments(model)] == [Constant(0.0)]
            nn.init.normal_(model[0])
            assert [a.initializer for a in intercepted.assignments(model)] == [Normal()]

    def test_a_storage_is_not_kept_alive(self):
        with intercept(seed=0) as intercepted:
            linear = nn.Linear(4, 6)
        storage = torch.multiprocessing.reductions.StorageWeakRef(linear.weight.untyped_storage())
        del linear
        assert storage.expired()
        assert intercepted.key == Key(0)
