"""LoRA's factors and DoRA's magnitudes, by hand and as huggingface/peft draws them."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

import tritoninit as ti
from tritoninit import KaimingUniform, Normal, Zeros
from tritoninit.schemes import lora

RANK = 8


class Adapted(nn.Module):
    """A layer with an adapter, as PEFT names its parts."""

    def __init__(self, base_layer, into, out):
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(into, RANK, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(RANK, out)})
        self.lora_magnitude_vector = nn.ModuleDict({"default": Magnitude(out)})


class Magnitude(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(shape))


def adapted(init="kaiming"):
    torch.manual_seed(0)
    model = nn.ModuleDict({"q_proj": Adapted(nn.Linear(48, 32), 48, 32)})
    report = ti.initialize_(model, lora(init), seed=3, only="*lora_*")
    found = {each.name: each.initializer for each in report if "lora_" in each.name}
    return model["q_proj"], [found[f"q_proj.lora_{side}.default.weight"] for side in "AB"]


def same_samples(a, b):
    """Smirnov's bound, which two samples of one distribution exceed one time in a million."""
    n, m = a.numel(), b.numel()
    return stats.ks_2samp(a.flatten(), b.flatten()).statistic < math.sqrt(math.log(2e6) / 2 * (1 / n + 1 / m))


class TestByHand:
    def test_kaiming(self):
        model, (a, b) = adapted()
        assert (a, b) == (KaimingUniform(math.sqrt(5), axes=ti.Axes()), Zeros())
        bound = 1 / math.sqrt(48)
        assert 0.98 * bound < model.lora_A["default"].weight.abs().max() <= bound
        assert not any(p.any() for p in model.lora_B.parameters())

    def test_gaussian(self):
        assert adapted("gaussian")[1] == [Normal(std=1 / RANK), Zeros()]

    def test_random(self):
        model, (a, b) = adapted("random")
        assert a == b == KaimingUniform(math.sqrt(5), axes=ti.Axes())
        assert 0 < model.lora_B["default"].bias.abs().max() <= 1 / math.sqrt(RANK)

    def test_orthogonal_factors_have_no_product(self):
        model, _ = adapted("orthogonal")
        a, b = model.lora_A["default"].weight, model.lora_B["default"].weight
        assert (b @ a).abs().max() < 1e-7
        for factor in (
            a,
            b,
        ):  # each element is a sum of rank / 2 squares that make a half on average, over 100
            assert factor.square().mean().item() == pytest.approx(0.005, rel=0.3)
            assert torch.linalg.matrix_rank(factor) == RANK // 2

    def test_orthogonal_shards(self):
        _, (a, _) = adapted("orthogonal")
        whole = a(torch.empty(RANK, 48), key=ti.Key(5))
        part = a(torch.empty(3, 20), key=ti.Key(5), window=ti.Window((RANK, 48), (4, 10)))
        assert part.equal(whole[4:7, 10:30])

    def test_orthogonal_ranks_are_even(self):
        _, (a, _) = adapted("orthogonal")
        with pytest.raises(ValueError, match="even rank, not 7"):
            a(torch.empty(7, 48))

    def test_embeddings_change_places(self):
        model = nn.Module()
        model.lora_embedding_A = nn.ParameterDict({"default": torch.ones(RANK, 20)})
        model.lora_embedding_B = nn.ParameterDict({"default": torch.ones(12, RANK)})
        found = [each.initializer for each in ti.initialize_(model, lora(), seed=0)]
        assert found == [Zeros(), Normal()]
        found = [each.initializer for each in ti.initialize_(model, lora("random"), seed=0)]
        assert found == [Normal(), Normal()]

    @pytest.mark.parametrize("names", [("lora_A", "lora_B"), ("q.lora_a.weight", "q.lora_b.weight")])
    def test_other_libraries_names(self, names):
        model = nn.Module()
        for name in names:
            *path, local = name.split(".")
            holder = model
            for each in path:
                if not hasattr(holder, each):
                    holder.add_module(each, nn.Module())
                holder = getattr(holder, each)
            holder.register_parameter(local, nn.Parameter(torch.ones(4, 6)))
        a, b = ti.initialize_(model, lora(), seed=0)
        assert isinstance(a.initializer, KaimingUniform)
        assert b.initializer == Zeros()

    @pytest.mark.parametrize("init", ["pissa", "eva", True, None])
    def test_what_takes_data(self, init):
        with pytest.raises(ValueError, match="init is one of"):
            lora(init)


class TestMagnitudes:
    def test_linear(self):
        model, _ = adapted()
        expected = model.base_layer.weight.norm(dim=1)
        assert torch.allclose(model.lora_magnitude_vector["default"].weight, expected)

    def test_convolution_and_embedding(self):
        conv, embedding = nn.Conv2d(3, 6, 3), nn.Embedding(20, 6)
        expected = (conv.weight.flatten(1).norm(dim=1).view(1, 6, 1, 1), embedding.weight.norm(dim=0))
        for base, norms in zip((conv, embedding), expected, strict=True):
            model = Adapted(base, 3, 6)
            model.lora_magnitude_vector["default"] = Magnitude(*norms.shape)
            ti.initialize_(model, lora(), seed=0, only="*lora_magnitude*")
            assert torch.allclose(model.lora_magnitude_vector["default"].weight, norms)

    def test_on_the_layer_itself(self):
        layer = nn.Linear(5, 4, bias=False)
        layer.magnitude = nn.Parameter(torch.zeros(4))
        ti.initialize_(layer, lora(), seed=0, only="magnitude")
        assert torch.allclose(layer.magnitude, layer.weight.norm(dim=1))

    def test_a_weight_that_is_not_here(self):
        with torch.device("meta"):
            model = Adapted(nn.Linear(48, 32), 48, 32)
        with pytest.raises(ValueError, match=r"lora_magnitude_vector.*load that first"):
            ti.initialize_(model, lora(), seed=0, device="cpu", only="*lora_*")


@pytest.mark.parametrize(
    ("init", "theirs"),
    [("kaiming", True), ("gaussian", "gaussian"), ("orthogonal", "orthogonal"), ("random", False)],
)
@pytest.mark.parametrize("dora", [False, True])
def test_as_peft_draws_them(init, theirs, dora):
    peft = pytest.importorskip("peft")
    layers = {"linear": nn.Linear(96, 80), "conv": nn.Conv2d(8, 12, 3), "embedding": nn.Embedding(60, 24)}
    if init == "orthogonal":  # for linear layers alone, there
        layers = {"linear": nn.Linear(96, 80)}
    config = peft.LoraConfig(r=8, target_modules=list(layers), init_lora_weights=theirs, use_dora=dora)
    model = peft.get_peft_model(nn.ModuleDict(layers), config)
    expected = {name: p.detach().clone() for name, p in model.named_parameters() if "lora_" in name}
    assert expected
    ti.initialize_(model, lora(init), seed=1, only="*lora_*")
    for name, parameter in model.named_parameters():
        if name not in expected:
            continue
        want, found = expected[name], parameter.detach()
        if "magnitude" in name and init in ("kaiming", "gaussian", "orthogonal"):
            assert torch.allclose(found, want, rtol=1e-5), name
        elif "magnitude" not in name:
            assert want.any() == found.any(), name
            assert same_samples(want, found), name
