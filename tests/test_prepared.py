"""Models that are prepared once and initialised by one seed after another: the same bits as initialize_."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import parametrizations

import tritoninit as ti
from tests.distributed.ranks import meshes
from tritoninit.kernels.stream import FLOAT8

SEEDS = (0, 7, -3, 2**64 - 1)


class Scaled(nn.Module):
    """Own code that computes numbers from random ones."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3, 5))
        self.reset_parameters()

    def reset_parameters(self):
        with torch.no_grad():
            self.weight.copy_(torch.rand(3, 5).log())


def tied():
    model = nn.Sequential(nn.Embedding(6, 4, padding_idx=1), nn.Linear(4, 6, bias=False))
    model[1].weight = model[0].weight
    return model


def empty():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(2, 3))
    model[0].weight = nn.Parameter(torch.empty(3, 0))
    return model


def layouts():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Linear(8, 6), nn.Linear(300_000, 2))
    model.to(memory_format=torch.channels_last)
    model[1].weight = nn.Parameter(torch.empty(8, 12)[:, ::2].T)
    return model


MODELS = {
    "layers": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.LSTM(3, 5), nn.Bilinear(2, 3, 4)
    ),
    "attention": lambda: nn.TransformerEncoderLayer(8, 2, 16),
    "bfloat16": lambda: nn.Linear(33, 7).bfloat16(),
    "tied": tied,
    "layouts": layouts,
    "own code": lambda: nn.Sequential(Scaled(), nn.Linear(2, 3)),
    "parametrised": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 4)), nn.Linear(2, 2)),
    "spectral": lambda: parametrizations.spectral_norm(nn.Linear(3, 4)),
    "nothing": nn.ReLU,
}


def poisoned(model):
    with torch.no_grad():
        for each in (*model.parameters(), *model.buffers()):
            each.fill_(float("nan") if each.is_floating_point() else 5)
    return model


def state(model):
    return {name: x.detach().clone() for name, x in (*model.named_parameters(), *model.named_buffers())}


def assert_same(one, other):
    assert one.keys() == other.keys()
    for name, x in one.items():
        assert torch.equal(x.nan_to_num(-77.0), other[name].nan_to_num(-77.0)), name


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_the_bits_of_initialize(name, backend):
    with ti.use_backend(backend):
        model = MODELS[name]()
        prepared = ti.prepare(model)
        for seed in SEEDS:
            ti.initialize_(model, seed=seed)
            expected = state(model)
            if name not in ("parametrised", "spectral"):
                poisoned(model)
            assert prepared(seed) is model
            assert_same(state(model), expected)


@pytest.mark.parametrize(
    "how",
    [
        ti.Orthogonal(),
        ti.Stacked((ti.Orthogonal(), ti.Normal()), axis=0),
        ti.Stacked((ti.Uniform(), ti.Normal()), axis=1),
        ti.ZeroRow(ti.TruncatedNormal(), 2),
        ti.Sparse(0.5),
        ti.Eye(),
    ],
    ids=repr,
)
def test_initializers_of_all_kinds(how):
    model = nn.ModuleList([nn.Linear(8, 6, bias=False), nn.Linear(8, 6)])
    rules = [ti.Rule("*weight", how), ti.Rule("*bias", ti.Constant(0.5))]
    prepared = ti.prepare(model, rules)
    for seed in SEEDS:
        ti.initialize_(model, rules, seed=seed)
        expected = state(model)
        prepared(poisoned(model) and seed)
        assert_same(state(model), expected)


def test_only_skip_prefix_and_buffers():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    options = {"skip": "0.bias", "prefix": "layers.4"}
    prepared = ti.prepare(model, **options)
    with torch.no_grad():
        model[0].bias.fill_(7.0)
        model[1].running_mean.fill_(3.0)
    prepared(3)
    found = state(model)
    poisoned(model)
    with torch.no_grad():
        model[0].bias.fill_(7.0)
    ti.initialize_(model, seed=3, **options)
    assert_same(found, state(model))
    assert model[0].bias.eq(7.0).all()


def test_seeds():
    model = nn.Linear(3, 4)
    prepared = ti.prepare(model)
    torch.manual_seed(5)
    prepared()
    drawn = state(model)
    torch.manual_seed(5)
    ti.initialize_(model)
    assert_same(state(model), drawn)
    for seed in (torch.tensor(-9), torch.tensor([-9])):
        prepared(seed)
        found = state(model)
        ti.initialize_(model, seed=-9)
        assert_same(state(model), found)
    for wrong in (1.5, "1", True, torch.tensor(1.0), torch.tensor([1, 2])):
        with pytest.raises(TypeError):
            prepared(wrong)
    with pytest.raises(ValueError, match="64 bits"):
        prepared(2**64)


def test_autograd_knows():
    model = nn.Linear(3, 4)
    prepared = ti.prepare(model)
    loss = (model(torch.ones(2, 3)) ** 2).sum() * model.weight.sin().sum()
    prepared(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def replaced(model):
    model[0].weight = nn.Parameter(torch.empty(4, 3))


def moved(model):
    model[0].weight.data = torch.empty(4, 3)


def resized(model):
    model[0].weight = nn.Parameter(torch.empty(7, 3))


def narrowed(model):
    model.bfloat16()


def transposed(model):
    model[1].weight.data = model[1].weight.data.T


def exchanged(model):
    model[1] = nn.Linear(4, 4)


def added(model):
    model.append(nn.Linear(2, 2))


def left(model):
    model[1].bias = None


@pytest.mark.parametrize(
    "change",
    [replaced, moved, resized, narrowed, transposed, exchanged, added, left],
    ids=lambda f: f.__name__,
)
def test_a_model_that_was_changed_is_prepared_anew(change):
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
    prepared = ti.prepare(model)
    prepared(1)
    before = model[0].weight
    change(model)
    prepared(2)
    found = state(model)
    ti.initialize_(poisoned(model), seed=2)
    assert_same(state(model), found)
    assert before.isfinite().all()


def test_what_cannot_be_written_any_more_raises_first():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 4))
    prepared = ti.prepare(model)
    prepared(1)
    expected = model[0].weight.clone()
    model[1].weight.untyped_storage().resize_(0)
    with pytest.raises(ValueError, match=r"1\.weight: the tensor's memory ends"):
        prepared(2)
    assert model[0].weight.equal(expected)


def test_meta_is_refused():
    with torch.device("meta"):
        model = nn.Linear(3, 4)
    with pytest.raises(ValueError, match="meta tensor has no memory"):
        ti.prepare(model)


def test_shared_memory_is_written_in_order():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 2, bias=False))
    model[1].weight = nn.Parameter(model[0].weight.detach()[1:3])
    prepared = ti.prepare(model)
    ti.initialize_(model, seed=4)
    expected = state(model)
    prepared(4)
    assert_same(state(model), expected)


def test_sharded():
    for mesh in meshes(3):
        model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 4))
        fully_shard(model, mesh=mesh)
        prepared = ti.prepare(model)
        for seed in SEEDS:
            ti.initialize_(model, seed=seed)
            expected = [p.to_local().detach().clone() for p in model.parameters()]
            with torch.no_grad():
                for p in model.parameters():
                    p.to_local().fill_(torch.nan)
            prepared(seed)
            assert all(
                torch.equal(p.to_local(), x) for p, x in zip(model.parameters(), expected, strict=True)
            )


def test_what_is_kept():
    assert repr(ti.prepare(nn.Linear(2, 2))) == "Prepared(Linear: 2 fills kept, 0 drawn anew)"
    rules = [ti.Rule("weight", ti.Orthogonal()), *ti.TORCH_DEFAULTS]
    assert repr(ti.prepare(nn.Linear(2, 2), rules)) == "Prepared(Linear: 1 fills kept, 1 drawn anew)"


@pytest.mark.parametrize("backend", ["numba", "numpy"])
@pytest.mark.parametrize("value", [0.0, -0.0, 1e-9, 1.0009765625, math.inf, math.nan, 3.0])
def test_constants_of_every_dtype(backend, value):
    names = ["float32", "float16", "bfloat16", "float64", "complex64"]
    names += FLOAT8 if math.isfinite(value) else ()  # not all of which have others
    names += ["int64"] if value == 3.0 else []
    module = nn.Module()
    for name in names:
        made = torch.empty(5, dtype=getattr(torch, name))
        module.register_parameter(f"of_{name}", nn.Parameter(made, requires_grad=False))
    rules = [ti.Rule("*", ti.Constant(value))]
    with ti.use_backend(backend):
        prepared = ti.prepare(module, rules)
        ti.initialize_(module, rules, seed=0)
        expected = {name: x.view(torch.uint8).clone() for name, x in module.named_parameters()}
        for x in module.parameters():
            x.view(torch.uint8).fill_(0x5A)
        prepared(0)
        members = ti.ensemble(module, [0, 1], rules)
    for name, x in module.named_parameters():
        assert x.view(torch.uint8).equal(expected[name]), name
        assert members[name][1].view(torch.uint8).equal(expected[name]), name


@pytest.mark.parametrize("dtype", FLOAT8)
def test_eight_bits(dtype):
    module = nn.ParameterDict({"a": nn.Parameter(torch.empty(3, 70).to(getattr(torch, dtype)))})
    rules = [ti.Rule("a", ti.Normal(0.0, 0.02))]
    prepared, members = ti.prepare(module, rules), ti.ensemble(module, SEEDS, rules)
    for number, seed in enumerate(SEEDS):
        ti.initialize_(module, rules, seed=seed)
        expected = module["a"].detach().view(torch.uint8).clone()
        module["a"].detach().view(torch.uint8).fill_(0x5A)
        prepared(seed)
        assert module["a"].detach().view(torch.uint8).equal(expected)
        assert members["a"].detach()[number].view(torch.uint8).equal(expected)
