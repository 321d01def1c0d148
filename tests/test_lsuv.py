"""LSUV: unit variances layer by layer, on what a batch makes of a model, with no trace but in weights."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tritoninit as ti
from tritoninit import Keep, Rule, Zeros

BATCH = torch.randn(128, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 5 + 1


def network():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, bias=False),
        nn.Tanh(),
        nn.BatchNorm2d(16),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(16 * 64, 32),
        nn.ReLU(),
        nn.Linear(32, 10),
    )


def variances(model, *batch):
    found = {}
    hooks = [
        layer.register_forward_hook(
            lambda m, i, o, name=name: found.update({name: o.var(correction=0).item()})
        )
        for name, layer in model.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    ]
    with torch.no_grad():
        model(*batch)
    for hook in hooks:
        hook.remove()
    return found


class TestVariances:
    def test_all_are_one(self):
        model = network()
        found = ti.lsuv_(model, BATCH, seed=0)
        assert [each.name for each in found] == ["0.weight", "2.weight", "7.weight", "9.weight"]
        measured = variances(model.eval(), BATCH)
        for each in found:
            assert measured[each.name.removesuffix(".weight")] == pytest.approx(each.after, rel=1e-4)
            assert abs(each.after - 1) < 0.1
        assert found[0].before > 10

    def test_directions_are_orthonormal(self):
        model = network()
        ti.lsuv_(model, BATCH, seed=0)
        whole = ti.initialize_(network(), ti.lsuv.ORTHONORMAL, seed=0)
        for name, layer in ((each.name, each.tensor) for each in whole if each.name == "7.weight"):
            ours = model.get_parameter(name)
            assert torch.allclose(ours / ours.norm(), layer / layer.norm(), atol=1e-6)
        assert not model[0].bias.any()

    def test_by_hand(self):
        """Algorithm 1 of the paper, of two layers and one step each, which linear layers need."""
        model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10))
        x = torch.randn(500, 20, generator=torch.Generator().manual_seed(1))
        ti.lsuv_(model, x, seed=3, tolerance=1e-3)
        first = ti.orthogonal_(torch.empty(30, 20), key=ti.Key(3).fold_in("0.weight"))
        second = ti.orthogonal_(torch.empty(10, 30), key=ti.Key(3).fold_in("2.weight"))
        first /= (x @ first.T).var(correction=0).sqrt()
        second /= (F.relu(x @ first.T) @ second.T).var(correction=0).sqrt()
        assert torch.allclose(model[0].weight, first, rtol=1e-3)
        assert torch.allclose(model[2].weight, second, rtol=1e-3)

    def test_the_tolerance_decides(self):
        loose = ti.lsuv_(network(), BATCH, seed=0, tolerance=1e9)
        assert [each.steps for each in loose] == [0, 0, 0, 0]
        assert [each.steps for each in ti.lsuv_(network(), BATCH, seed=0, most_steps=0)] == [0, 0, 0, 0]
        tight = ti.lsuv_(network(), BATCH, seed=0, tolerance=1e-5)
        assert all(abs(each.after - 1) < 1e-5 for each in tight)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_dtypes(self, dtype):
        model = nn.Sequential(nn.Linear(20, 30), nn.ReLU(), nn.Linear(30, 10)).to(dtype)
        rules = [Rule("*", Keep())] if dtype == torch.float64 else ti.lsuv.ORTHONORMAL
        found = ti.lsuv_(model, torch.randn(500, 20, dtype=dtype) * 9, rules=rules, seed=0)
        assert all(abs(each.after - 1) < 0.1 for each in found)


class TestTraces:
    def test_modes_and_statistics_and_gradients(self):
        model = network()
        model[5].eval()
        before = {name: value.clone() for name, value in model[4].state_dict().items()}
        state = torch.get_rng_state()
        ti.lsuv_(model, BATCH, seed=0)
        assert torch.get_rng_state().equal(state)
        assert [m.training for m in (model, model[4], model[5])] == [True, True, False]
        assert all(value.equal(before[name]) for name, value in model[4].state_dict().items())
        assert all(p.grad is None and p.requires_grad for p in model.parameters())
        assert not any(m._forward_hooks for m in model.modules())

    def test_buffers_that_a_pass_changes(self):
        class Counts(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
                self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

            def forward(self, x):
                self.calls += 1
                return self.layer(x)

        model = Counts()
        ti.lsuv_(model, torch.randn(64, 4), seed=0)
        assert model.calls == 0

    def test_what_raises_leaves_no_hook(self):
        model = network()
        with pytest.raises(RuntimeError):
            ti.lsuv_(model, torch.randn(2, 4, 8, 8), seed=0)
        assert model.training
        assert not any(m._forward_hooks for m in model.modules())


class TestModels:
    def test_the_order_is_the_pass_s(self):
        class Backwards(nn.Module):
            def __init__(self):
                super().__init__()
                self.last = nn.Linear(8, 8)
                self.first = nn.Linear(8, 8)
                self.idle = nn.Linear(8, 8)

            def forward(self, x, *, scale):
                return self.last(F.relu(self.first(x)) * scale)

        found = ti.lsuv_(Backwards(), torch.randn(256, 8), scale=3.0, seed=0)
        assert [each.name for each in found] == ["first.weight", "last.weight"]

    def test_zero_layers_stay(self):
        rules = [Rule("2.weight", Zeros()), *ti.lsuv.ORTHONORMAL]
        model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
        found = ti.lsuv_(model, torch.randn(64, 4), rules=rules, seed=0)
        assert [each.note for each in found] == ["", "its outputs are all one number"]
        assert not model[2].weight.any()

    def test_tied_and_repeated(self):
        model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
        model[2].weight = model[0].weight
        found = ti.lsuv_(model, torch.randn(64, 8), seed=0)
        assert [each.name for each in found] == ["0.weight"]
        again = nn.Linear(8, 8)
        (one,) = ti.lsuv_(nn.Sequential(again, nn.ReLU(), again), torch.randn(64, 8), seed=0)
        assert abs(one.after - 1) < 0.1

    def test_a_weight_that_its_inputs_hang_on(self):
        """A head that is tied to the embedding: its outputs go with the square of the weight."""

        class Tied(nn.Module):
            def __init__(self):
                super().__init__()
                self.embedding = nn.Embedding(9, 8)
                self.head = nn.Linear(8, 9, bias=False)
                self.head.weight = self.embedding.weight

            def forward(self, x):
                return self.head(self.embedding(x))

        (found,) = ti.lsuv_(Tied(), torch.arange(9), seed=0, tolerance=1e-3)
        assert found.before > 2
        assert abs(found.after - 1) < 1e-3
        assert found.steps <= 3

    def test_parametrised(self):
        model = nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 4)
        )
        found = ti.lsuv_(model, 4 * torch.randn(64, 8), seed=0)
        assert all(abs(each.after - 1) < 0.1 for each in found)
        assert found[0].steps > 0

    def test_only_and_skip(self):
        model = network()
        kept = model[2].weight.detach().clone()
        found = ti.lsuv_(model, BATCH, seed=0, skip="2")
        assert [each.name for each in found] == ["0.weight", "7.weight", "9.weight"]
        assert model[2].weight.equal(kept)
        assert [each.name for each in ti.lsuv_(network(), BATCH, seed=0, only="7")] == ["7.weight"]


@pytest.mark.gpu
def test_on_the_gpu():
    """The weights of a CPU's run, but for what passes round otherwise."""
    here, there = network(), network().cuda()
    one, other = ti.lsuv_(here, BATCH, seed=0), ti.lsuv_(there, BATCH.cuda(), seed=0)
    assert [each.name for each in one] == [each.name for each in other]
    assert all(abs(each.after - 1) < 0.1 for each in other)
    for a, b in zip(here.parameters(), there.parameters(), strict=True):
        assert torch.allclose(a, b.cpu(), rtol=1e-2, atol=1e-3)


class TestMistakes:
    @pytest.mark.parametrize("number", [0.0, -1.0, math.nan, math.inf])
    def test_tolerances(self, number):
        with pytest.raises(ValueError, match="tolerance"):
            ti.lsuv_(network(), BATCH, tolerance=number)

    def test_no_examples(self):
        with pytest.raises(ValueError, match=r"^weight: the layer's outputs"):
            ti.lsuv_(nn.Linear(4, 4), torch.empty(0, 4), seed=0)

    def test_infinite_outputs(self):
        with pytest.raises(ValueError, match=r"^0\.weight: the layer's outputs"):
            ti.lsuv_(network(), BATCH * math.inf, seed=0)

    def test_sharded_models(self):
        from torch.distributed.tensor import Shard, distribute_tensor

        from tests.distributed.ranks import meshes

        for mesh in meshes(2):
            model = nn.Linear(4, 4)
            model.weight = nn.Parameter(
                distribute_tensor(model.weight.detach(), mesh, [Shard(0)], src_data_rank=None)
            )
            with pytest.raises(ValueError, match="weight: a part of it is here"):
                ti.lsuv_(model, torch.randn(2, 4))
