"""Ensembles: each member is what initialize_ makes of the model by its seed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tritoninit as ti
from tests.test_prepared import MODELS, state
from tritoninit import registry

SEEDS = (0, 7, -3, 2**64 - 1)


def assert_members(model, members, seeds, *rules, **options):
    assert members.keys() == state(model).keys()
    for number, seed in enumerate(seeds):
        ti.initialize_(model, *rules, seed=seed, **options)
        for name, x in state(model).items():
            member = members[name][number]
            assert (member.shape, member.dtype) == (x.shape, x.dtype)
            assert torch.equal(member, x), (name, seed)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "nothing"])
@pytest.mark.parametrize("backend", ["numba", "numpy"])
def test_the_bits_of_initialize(name, backend):
    with ti.use_backend(backend):
        model = MODELS[name]()
        before = state(model)
        members = ti.ensemble(model, SEEDS)
        assert all(torch.equal(x.nan_to_num(), before[name].nan_to_num()) for name, x in state(model).items())
        assert_members(model, members, SEEDS)


@pytest.mark.parametrize(
    "how",
    [
        ti.Orthogonal(),
        ti.Stacked((ti.Orthogonal(), ti.Normal()), axis=0),
        ti.Stacked((ti.Uniform(), ti.Normal()), axis=1),
        ti.ZeroRow(ti.TruncatedNormal(), 2),
        ti.Eye(),
        ti.Keep(),
        ti.Stacked((ti.Keep(), ti.Normal()), axis=0),
        ti.Stacked((ti.Keep(), ti.Orthogonal()), axis=0),
    ],
    ids=repr,
)
@pytest.mark.parametrize("size", [5, 8])  # members that begin on a grid of 16 bytes, and others
def test_initializers_of_all_kinds(how, size):
    model = nn.ModuleList([nn.Linear(size, 6, bias=False), nn.Linear(size * 2, 6)])
    rules = [ti.Rule("*weight", how), ti.Rule("*bias", ti.Constant(0.5))]
    if isinstance(how, ti.Stacked) and how.axis and size % 2:
        pytest.skip("no two parts")
    assert_members(model, ti.ensemble(model, SEEDS, rules), SEEDS, rules)


def test_what_is_kept_is_the_models_own():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model[1].running_mean.fill_(3.0)
    members = ti.ensemble(model, [1, 2], only="0.weight")
    assert members["1.running_mean"].equal(torch.full((2, 3), 3.0))
    assert members["0.bias"].equal(model[0].bias.expand(2, 3))
    assert not members["0.weight"][0].equal(members["0.weight"][1])


def test_as_torch_func_takes_them():
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)).eval()
    model[2].bias.requires_grad_(False)
    members, x = ti.ensemble(model, torch.tensor([5, -1])), torch.randn(4, 3)
    assert {name for name, p in members.items() if p.requires_grad} == {
        name for name, p in model.named_parameters() if p.requires_grad
    }
    found = torch.vmap(torch.func.functional_call, (None, 0, None))(model, members, (x,))
    for number, seed in enumerate((5, -1)):
        ti.initialize_(model, seed=seed)
        torch.testing.assert_close(found[number], model(x))


def test_tied_ones_are_there_once():
    model = MODELS["tied"]()
    members = ti.ensemble(model, [1, 2])
    assert list(members) == ["0.weight"]
    torch.vmap(torch.func.functional_call, (None, 0, None))(model, members, (torch.tensor([1, 2]),))


def test_one_call_a_dtype_and_no_fill_a_member(monkeypatch):
    """What Python does, does not depend on how many members there are."""
    model = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 2))
    monkeypatch.setattr(registry, "fill", None)
    ti.ensemble(model, range(100))


@pytest.mark.parametrize("name", [name for name in MODELS if name != "nothing"])
def test_into_memory_that_is_there(name):
    """What an earlier call gave, gradients and views of it included."""
    model = MODELS[name]()
    members = ti.ensemble(model, range(4))
    places = {name: (id(x), x.data_ptr(), x.requires_grad) for name, x in members.items()}
    assert ti.ensemble(model, SEEDS, out=members) is members
    assert {name: (id(x), x.data_ptr(), x.requires_grad) for name, x in members.items()} == places
    assert_members(model, members, SEEDS)


def test_memory_that_is_another():
    model = nn.Linear(3, 2)
    members = ti.ensemble(model, range(4))
    before = {name: x.detach().clone() for name, x in members.items()}
    weight = members["weight"].detach()
    others = [
        ({"weight": weight}, "out has no 'bias'"),
        (
            {**members, "weight": weight[:3]},
            r"out\['weight'\] is to be contiguous, torch.float32 \(4, 2, 3\)",
        ),
        ({**members, "weight": weight.double()}, "not torch.float64"),
        ({**members, "weight": weight.transpose(1, 2).contiguous().transpose(1, 2)}, "contiguous"),
        ({**members, "bias": members["bias"].to("meta")}, "on meta"),
    ]
    for out, message in others:
        with pytest.raises(ValueError, match=message):
            ti.ensemble(model, SEEDS, out=out)
    assert all(x.equal(before[name]) for name, x in members.items())


def test_seeds():
    model = nn.Linear(2, 2)
    for wrong in ([1.5], ["1"], [True], torch.tensor([1.0]), torch.tensor([[1]]), torch.tensor(1)):
        with pytest.raises(TypeError):
            ti.ensemble(model, wrong)
    for wrong in ([2**64], []):
        with pytest.raises(ValueError, match=r"64 bits|at least one member"):
            ti.ensemble(model, wrong)
    with torch.device("meta"), pytest.raises(ValueError, match="meta tensor has no memory"):
        ti.ensemble(nn.Linear(2, 2), [1])


@pytest.mark.parametrize("seeds", [range(-3, 4, 2), range(9, 0, -4), range(2**63 - 2, 2**63 + 2)], ids=str)
def test_a_range_is_its_numbers(seeds):
    model = nn.Linear(2, 2)
    members, same = ti.ensemble(model, seeds), ti.ensemble(model, list(seeds))
    assert all(x.equal(same[name]) for name, x in members.items())
