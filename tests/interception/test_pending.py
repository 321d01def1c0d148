"""When fills are written: once, before anything sees the memory that they fill, and no sooner."""

import copy
import ctypes
import threading

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F

from tests.interception.cases import CALLS, key, nans, ours, parameter, saved
from tritoninit import Normal, Uniform
from tritoninit.interception.entry import intercept


class TestDrawnOnce:
    def test_a_default_and_then_an_own_initializer(self, drawn):
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
