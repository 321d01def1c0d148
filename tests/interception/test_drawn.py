"""What torch drew itself, in a block: listed by name, as it was computed, copied and overwritten since."""

import copy
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from tests.interception.cases import key, nans, parameter
from tritoninit import Normal, XavierNormal, ZeroRow, Zeros
from tritoninit.fills import sole_fill
from tritoninit.interception.entry import intercept
from tritoninit.interception.filled import DrawnByTorch, Overlaid

WORDS = "drawn by torch, from the block's seed"


def into(method, *arguments):
    """A parameter that an in-place method of torch's fills."""

    def make():
        weight = parameter(6, 4)
        getattr(weight.data, method)(*arguments)
        return weight

    return make


def parts():
    weight = nn.Parameter(torch.zeros(6, 4))
    weight.data[1:3].copy_(torch.rand(4))
    return weight


@torch.no_grad
def assigned_from(value):
    weight = parameter(6, 4)
    weight[:] = value
    return weight


@torch.no_grad
def copied_by_name(value):
    weight = parameter(6, 4)
    weight.copy_(other=value)
    return weight


def copied(value):
    weight = nn.Parameter(torch.empty(6, 4))
    with torch.no_grad():
        weight.copy_(value)
    return weight


def assigned(value, by=...):
    drawn = torch.randn(6, 4)
    drawn[by] = value
    return drawn


@torch.no_grad
def added():
    weight = nn.init.ones_(parameter(6, 4))
    weight += torch.rand(6, 4)
    return weight


def by_data():
    weight = nn.Parameter(torch.empty(0))
    weight.data = torch.randn(6, 4)
    return weight


def called_back():
    return nn.Parameter(checkpoint(lambda x: torch.rand_like(x) + x, torch.zeros(6, 4), use_reentrant=False))


def too_large():
    return nn.init.normal_(parameter(6, 4), 0.0, 1e38)


DRAWN = {
    "randn": lambda: torch.randn(6, 4),
    "scaled": lambda: torch.randn(6, 4) * 6**-0.5,
    "rand": lambda: torch.rand(6, 4),
    "randint": lambda: torch.randint(9, (6, 4)).float(),
    "randperm": lambda: torch.randperm(24).view(6, 4).float(),
    "of means": lambda: torch.normal(torch.zeros(6, 4), 0.1),
    "like": lambda: torch.randn_like(torch.empty(6, 4)),
    "like a parameter": lambda: torch.rand_like(parameter(6, 4)).detach(),
    "bernoulli": lambda: torch.bernoulli(torch.full((6, 4), 0.5)),
    "multinomial": lambda: torch.multinomial(torch.ones(6, 9), 4).float(),
    "a distribution": lambda: torch.distributions.Gamma(torch.ones(6, 4), 2.0).sample(),
    "dropout": lambda: F.dropout(torch.ones(6, 4)),
    "plain normal_": lambda: torch.empty(6, 4).normal_(),
    "plain uniform_": lambda: torch.empty(6, 4).uniform_(-1, 1),
    "plain chain": lambda: torch.empty(6, 4).uniform_(-0.5, 0.5).erfinv_().mul_(2).clamp_(-1, 1),
    "mamba's": lambda: torch.exp(torch.rand(6, 4) * 3 + 0.1).neg().expm1().neg().log(),
    "of several": lambda: torch.cat([torch.zeros(2, 4), torch.stack([torch.randn(4)] * 4)]),
    "normalised": lambda: F.normalize(torch.randn(6, 4), dim=0),
    "a factor": lambda: torch.linalg.qr(torch.randn(6, 4))[0],
    "sorted": lambda: torch.sort(torch.rand(24)).values.view(6, 4),
    "a view": lambda: torch.randn(4, 6).t(),
    "cast": lambda: torch.randn(6, 4).double().to(torch.bfloat16),
    "cloned": lambda: torch.randn(6, 4).clone(),
    "deep copy": lambda: copy.deepcopy(torch.randn(6, 4)),
    "a probability each": into("bernoulli_", torch.full((6, 4), 0.5)),
    "plain exponential_": lambda: torch.empty(6, 4).exponential_(),
    "copied": lambda: copied(torch.randn(6, 4)),
    "added": added,
    "data": by_data,
    "called back": called_back,
    "passed on": too_large,
}

NOT_DRAWN = {
    "zeroed": lambda: torch.randn(6, 4).zero_(),
    "filled": lambda: torch.rand(6, 4).fill_(2.0),
    "copied over": lambda: torch.rand(6, 4).copy_(torch.ones(6, 4)),
    "assigned over": lambda: assigned(torch.ones(6, 4)),
    "assigned over by a view": lambda: assigned(torch.ones(6, 4), by=slice(0, 6)),
    "a number over": lambda: assigned(2.0),
    "out": lambda: torch.mul(torch.ones(6, 4), 2.0, out=torch.rand(6, 4)),
    "like": lambda: torch.zeros_like(torch.rand(6, 4)),
    "its shape": lambda: torch.ones(torch.rand(6, 4).shape),
    "a generator's own": lambda: torch.randn(6, 4, generator=torch.Generator().manual_seed(1)),
    "dropout at rest": lambda: F.dropout(torch.ones(6, 4), training=False),
    "computed": lambda: torch.arange(24.0).view(6, 4).sin(),
    "copied from an array": lambda: torch.tensor(np.ones((6, 4))),
}


def as_parameter(made):
    return made if isinstance(made, nn.Parameter) else nn.Parameter(made)


class TestListed:
    @pytest.mark.parametrize("make", DRAWN.values(), ids=DRAWN)
    def test_what_torch_drew(self, make):
        with intercept(seed=0) as intercepted:
            model = nn.ParameterDict({"first": nn.Parameter(torch.ones(2)), "own": as_parameter(make())})
        (told,) = intercepted.assignments(model)
        assert (told.name, told.initializer, told.key) == ("own", DrawnByTorch(), intercepted.key)
        assert told.tensor is model["own"]
        with intercept(seed=0):
            again = nn.ParameterDict({"first": nn.Parameter(torch.ones(2)), "own": as_parameter(make())})
        assert again["own"].equal(model["own"])

    @pytest.mark.parametrize("make", NOT_DRAWN.values(), ids=NOT_DRAWN)
    def test_what_it_did_not(self, make):
        with intercept(seed=0) as intercepted:
            model = nn.ParameterList([as_parameter(make())])
        assert not intercepted.assignments(model)

    def test_parts(self):
        with intercept(seed=0) as intercepted:
            model = nn.ParameterList([parts(), nn.init.zeros_(parameter(6, 4)), nn.Embedding(6, 4).weight])
            model[1].data[2].copy_(torch.rand(4))
            model[2].data[2].zero_()
            drawn = nn.Parameter(torch.randn(6, 4))
            drawn.data[3].zero_()
            model.append(drawn)
            assigned_to = nn.init.normal_(parameter(6, 4))
            assigned_to.data[2:4] = torch.randn(4)
            model.append(assigned_to)
        told = [each.initializer for each in intercepted.assignments(model)]
        assert told == [
            DrawnByTorch(parts=True),
            DrawnByTorch(parts=True),
            ZeroRow(Normal(), 2),
            ZeroRow(DrawnByTorch(), 3),
            DrawnByTorch(parts=True),
        ]

    def test_filled_afterwards(self):
        with intercept(seed=0) as intercepted:
            model = nn.ParameterList([nn.Parameter(torch.randn(6, 4)), nn.Parameter(torch.randn(6, 4))])
            nn.init.zeros_(model[0])
            model[1].data.normal_()
        assert [each.initializer for each in intercepted.assignments(model)] == [Zeros(), Normal()]

    def test_buffers(self):
        with intercept(seed=0) as intercepted:
            model = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4))
            model.register_buffer("filled", nn.init.normal_(torch.empty(3)))
            model.register_buffer("computed", torch.arange(3.0))
        told = {each.name: each.initializer for each in intercepted.assignments(model)}
        assert told == {
            "bias": told["bias"],
            "parametrizations.weight.0._u": DrawnByTorch(),
            "parametrizations.weight.0._v": DrawnByTorch(),
            "filled": Normal(),
        }

    def test_in_a_report(self):
        with intercept(seed=0) as intercepted:
            model = nn.Module()
            model.cls_token = nn.Parameter(torch.randn(1, 40))
            model.head = nn.Linear(40, 30)
        report = intercepted.report(model)
        assert re.search(rf"cls_token .*40 +{WORDS}", str(report))
        assert {row.name: row.summary for row in report.audit.rows}["cls_token"] == WORDS
        assert not report.audit.coverage.untouched
        assert report.audit.ok
        assert f"cls_token is {WORDS}" in report.audit.remarks

    def test_by_an_inner_block(self):
        """Whose seed it was."""
        model = nn.ParameterList([nn.Parameter(torch.zeros(3))])
        with intercept(seed=1) as outer, intercept(seed=2) as inner:
            model[0].data.exponential_()
        assert not outer.assignments(model)
        assert [each.key.seed for each in inner.assignments(model)] == [2]

    def test_it_is_not_for_setting_others(self):
        with pytest.raises(NotImplementedError, match="tells what was done"):
            DrawnByTorch()(nans(3))

    def test_storages_that_are_gone_are_forgotten(self):
        """As when a block trains, of which every activation is computed from random numbers."""
        with intercept(seed=0) as intercepted:
            weight = nn.Parameter(torch.randn(4))
            for _ in range(5000):
                weight.detach() + 1.0
            assert len(intercepted._storages) < 3000
            assert len(intercepted._history) < 3000
        assert [each.name for each in intercepted.assignments(nn.ParameterList([weight]))] == ["0"]


class TestCopies:
    """Of what this library filled: they hold the same numbers, and are told to."""

    @pytest.mark.parametrize(
        "duplicate",
        [
            lambda w: copy.deepcopy(w),
            lambda w: copy.deepcopy(nn.ParameterList([w]))[0],
            lambda w: nn.Parameter(w.data.clone()),
            lambda w: nn.Parameter(w.detach().cpu().clone()),
            lambda w: copied(w),
            lambda w: copied_by_name(w),
            lambda w: assigned_from(w),
            lambda w: nn.Parameter(torch.clone(input=w.data)),
            torch.inference_mode()(lambda w: assigned_from(w)),
            lambda w: nn.Parameter(w.detach().to(torch.bfloat16)),
            lambda w: nn.Parameter(w.detach().half()),
        ],
    )
    @pytest.mark.parametrize("row", [None, 2])
    def test_keep_the_history(self, duplicate, row):
        with intercept(seed=0) as intercepted:
            weight = nn.init.normal_(parameter(6, 4), 0.0, 0.02)
            if row is not None:
                weight.data[row].zero_()
            second = duplicate(weight)
            nn.init.zeros_(weight)
        initializer = Normal(0.0, 0.02)
        (told,) = intercepted.assignments(nn.ParameterList([second]))
        assert told.initializer == (initializer if row is None else ZeroRow(initializer, row))
        assert told.key == key(0)
        again = told.initializer(nans(6, 4, dtype=second.dtype), key=told.key)
        assert second.equal(again)

    @pytest.mark.parametrize(
        "duplicate",
        [
            lambda w: nn.Parameter(w.detach().double()),
            lambda w: nn.Parameter(w.detach().half().float()),
            lambda w: nn.Parameter(w.detach() * 2),
            lambda w: nn.Parameter(w.detach()[:3].clone() + 1),
        ],
    )
    def test_others_are_not_told(self, duplicate):
        with intercept(seed=0) as intercepted:
            second = duplicate(nn.init.normal_(parameter(6, 4)))
        assert not intercepted.assignments(nn.ParameterList([second]))

    def test_of_views(self):
        with intercept(seed=0) as intercepted:
            flat = nn.init.normal_(parameter(30))
            model = nn.ParameterList(
                [nn.Parameter(flat.detach()[6:].view(6, 4).clone()), nn.init.normal_(parameter(4, 6))]
            )
            model[1] = nn.Parameter(model[1].detach().t().clone())
        first, second = intercepted.assignments(model)
        assert (first.initializer, first.key) == (Normal(), key(0))
        assert (second.initializer, second.key) == (Normal(), key(1))

    @pytest.mark.parametrize(
        "put", [lambda to, rows: to.copy_(rows), lambda to, rows: to.__setitem__(..., rows)]
    )
    def test_of_rows(self, put):
        """Into rows of others: what is told of their rest has not changed."""
        with intercept(seed=0) as intercepted:
            weight = nn.init.xavier_normal_(parameter(6, 4))
            edged = nn.init.normal_(parameter(6, 4))
            edged.data[3:5].zero_()
            model = nn.ParameterList([parameter(6, 4), nn.init.zeros_(parameter(6, 4)), parameter(6, 4)])
            put(model[0].data[2:4], weight.data[2:4])
            put(model[1].data[2:4], weight.data[2:4])
            put(model[2].data[2:4], edged.data[2:4])
            rows = nn.Parameter(model[1].data[2:4])
            model.append(rows)
        one, other = intercepted.assignments(model)
        assert (one.name, one.initializer) == ("1", Overlaid(Zeros(), 1))
        assert (other.name, other.initializer) == ("3", sole_fill(XavierNormal(), (6, 4)))

    def test_copies_go_their_own_way(self):
        with intercept(seed=0) as intercepted:
            first = nn.Linear(4, 6)
            second = copy.deepcopy(first)
            nn.init.zeros_(second.bias)
            second.weight.data.mul_(2.0)
        told = [(a.name, a.initializer) for a in intercepted.assignments(nn.ModuleList([first, second]))]
        assert [name for name, _ in told] == ["0.weight", "0.bias", "1.bias"]
        assert told[2][1] == Zeros()

    def test_layers_of_a_transformer(self):
        with intercept(seed=0) as intercepted:
            model = nn.TransformerEncoder(
                nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), 3, enable_nested_tensor=False
            )
        told = {each.name: each for each in intercepted.assignments(model)}
        assert list(told) == [name for name, _ in model.named_parameters()]
        for name, each in told.items():
            other = told[name.replace("layers.0", "layers.2")]
            assert (each.initializer, each.key) == (other.initializer, other.key)
            assert each.tensor.equal(other.tensor)


ZOO = """
import hashlib, random, sys
import numpy as np, torch
from torch import nn
import tritoninit as ti


class Tokens(nn.Module):  # a position table, class tokens
    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.empty(1, 5, 8).normal_(std=0.02))
        self.token = nn.Parameter(torch.randn(1, 1, 8) * 8**-0.5)
        self.memory = nn.Parameter(torch.rand(2, 8))


class Steps(nn.Module):  # step sizes, drawn when weights are
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.empty(8))
        self._init_weights()

    def _init_weights(self):
        step = torch.exp(torch.rand(8) * 3.0 - 5.0).clamp(min=1e-4)
        with torch.no_grad():
            self.bias.copy_(step + torch.log(-torch.expm1(-step)))


class Decays(nn.Module):
    def __init__(self):
        super().__init__()
        self.decay = nn.Parameter(torch.empty(8))
        with torch.no_grad():
            self.decay.exponential_()
        self.gate = nn.Parameter(torch.distributions.Beta(2.0, 3.0).sample((8,)))


class Arrays(nn.Module):
    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.from_numpy(np.random.uniform(-1, 1, (4, 3))))
        self.kept = nn.Parameter(torch.tensor(np.random.permutation(6).astype(np.float32)))
        self.scales = nn.Parameter(torch.tensor([random.gauss(0, 1) for _ in range(3)]))
        order = list(range(8))
        random.shuffle(order)
        self.register_buffer("order", torch.tensor(order))


class Features(nn.Module):  # random features in buffers
    def __init__(self):
        super().__init__()
        self.register_buffer("frequencies", torch.randn(4, 8))
        self.register_buffer("projection", torch.linalg.qr(torch.randn(8, 8))[0])
        self.normed = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 4))
        self.wide = nn.Linear(3, 4, dtype=torch.float64)
        layer = nn.TransformerEncoderLayer(8, 2, 12)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


with ti.intercept(seed=0):
    model = nn.ModuleList([Tokens(), Steps(), Decays(), Arrays(), Features()])
for name, tensor in sorted(model.state_dict().items()):
    print(name, hashlib.sha256(tensor.numpy().tobytes()).hexdigest())
"""


def test_the_same_models_in_every_process():
    """One of each pattern that draws past torch.nn.init."""
    command = [sys.executable, "-c", ZOO]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    first, second = (process.communicate(timeout=300)[0].splitlines() for process in processes)
    assert [process.returncode for process in processes] == [0, 0]
    assert len(first) > 30
    assert first == second


class TestElsewhere:
    """Where torch has others at work: generators are looked at all the same."""

    @pytest.mark.parametrize(
        "draw",
        [
            lambda: torch.func.grad(lambda x: (x * torch.rand(3)).sum())(torch.ones(3)),
            lambda: torch.vmap(lambda x: x + torch.rand(3), randomness="different")(torch.ones(2, 3)),
            lambda: torch.inference_mode()(torch.randn)(3),
        ],
    )
    def test_transformations_and_modes(self, draw):
        """What a transformation of torch.func returns is not listed: torch alone knows where it came from."""
        drawn = []
        for _ in range(2):
            with intercept(seed=0):
                drawn.append(draw().tolist())
        assert drawn[0] == drawn[1]

    @torch.inference_mode()
    def test_inference_tensors(self):
        with intercept(seed=0) as intercepted:
            model = nn.ParameterList([nn.Parameter(torch.randn(3)), *(parameter(3) for _ in range(3))])
            model[1].data.exponential_()
            model[3][:] = torch.randn(3)
            model[0] * model[2]
        assert [each.name for each in intercepted.assignments(model)] == ["0", "1", "3"]

    @pytest.mark.parametrize("mode", [FakeTensorMode, lambda: torch.device("meta")])
    def test_tensors_without_numbers(self, mode):
        with intercept(seed=0) as intercepted, mode():
            model = nn.ParameterList([nn.Parameter(torch.randn(3)), nn.Parameter(torch.empty(3))])
            model[1].data.exponential_()
        assert not intercepted.assignments(model)

    def test_layouts_that_have_no_storage(self):
        with intercept(seed=0):
            sparse = torch.randn(2, 2).to_sparse()
            assert (sparse * 2).to_dense().equal(2 * sparse.to_dense())

    def test_hooks_and_recomputation(self):
        """What is drawn while torch calls back."""

        def step():
            with intercept(seed=0):
                weight = nn.Parameter(torch.ones(5))
                seen = []
                weight.register_hook(lambda gradient: seen.append(torch.rand(1).item()))
                checkpoint(lambda w: F.dropout(w).sum(), weight, use_reentrant=False).backward()
            return seen, weight.grad.tolist()

        assert step() == step()
