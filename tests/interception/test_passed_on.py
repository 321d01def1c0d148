"""What stays torch's own: other dtypes, errors, meta tensors, the transformations of torch.func."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.interception.cases import nans, ours, parameter
from tritoninit.interception.entry import intercept


class Own(torch.Tensor):
    """With a __torch_function__ that this library knows nothing of: Tensor's, which keeps the class."""


class TestPassedOn:
    @pytest.mark.parametrize(
        "call",
        [
            lambda: nn.init.normal_(parameter(4), 0.0, 1e38),
            lambda: parameter(4, dtype=torch.float16).data.cauchy_(),
            lambda: parameter(4).data.normal_(0.0, 1e38),
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
        with intercept(seed=0) as intercepted:
            torch.manual_seed(0)
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
