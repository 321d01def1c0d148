"""Fixup, T-Fixup, DeepNorm, branches that start as zero: by their formulas, and by what they are for."""

import math

import pytest
import torch
from torch import nn

import tritoninit as ti
from tritoninit import (
    Constant,
    KaimingNormal,
    Normal,
    Ones,
    Scaled,
    Stacked,
    XavierNormal,
    XavierUniform,
    Zeros,
)
from tritoninit.fills import sole_fill
from tritoninit.models.rules import RuleSet
from tritoninit.models.slots import slots
from tritoninit.schemes import (
    SCHEMES,
    deepnorm,
    deepnorm_alpha,
    depths_of,
    fixup,
    layer_scale,
    rezero,
    skip_init,
    t_fixup,
)


def chosen(model, rules):
    return {slot.name: RuleSet.of(rules).find(slot) for slot in slots(model)}


def holder(**parameters):
    model = nn.Module()
    for name, shape in parameters.items():
        model.register_parameter(name, nn.Parameter(torch.ones(shape)))
    return model


class TestScalars:
    def test_rezero(self):
        model = nn.ModuleList([holder(resweight=(1,)), nn.Linear(2, 2)])
        found = chosen(model, rezero() + ti.TORCH_DEFAULTS)
        assert found["0.resweight"] == Zeros()
        assert found["1.weight"] != Zeros()

    def test_skip_init(self):
        assert chosen(holder(skipinit_gain=()), skip_init()) == {"skipinit_gain": Zeros()}

    def test_layer_scale(self):
        class LayerScale(nn.Module):
            def __init__(self, name):
                super().__init__()
                self.register_parameter(name, nn.Parameter(torch.ones(3)))

        blocks = nn.ModuleDict({"ls1": LayerScale("gamma"), "layer_scale1": LayerScale("lambda1")})
        blocks["block"] = holder(
            layer_scale=(3, 1, 1), gamma_1=(3,), lambda_2=(3,), layer_scale_parameter=(3,)
        )
        found = chosen(blocks, layer_scale(1e-6))
        assert len(found) == 6
        assert set(found.values()) == {Constant(1e-6)}
        assert chosen(nn.ModuleList([holder(gamma=(3,))]), layer_scale()) == {
            "0.gamma": None
        }  # ConvNeXt's, a norm's

    def test_timm(self):
        timm = pytest.importorskip("timm")
        for kind, value in (("cait_xxs24_224", 1e-5), ("convnext_atto", 1e-6)):
            model = timm.create_model(kind)
            found = chosen(model, layer_scale(value))
            scaled = {name: p for name, p in model.named_parameters() if found[name] is not None}
            assert scaled
            assert all(torch.allclose(p, torch.tensor(value)) for p in scaled.values())


class FixupBlock(nn.Module):
    """As hongyi-zhang/Fixup has its basic block, and its bottleneck."""

    def __init__(self, width, layers, shortcut):
        super().__init__()
        for k in range(layers):
            self.add_module(f"conv{k + 1}", nn.Conv2d(width, width, 3, bias=False))
            self.register_parameter(f"bias{k + 1}a", nn.Parameter(torch.ones(1)))
        self.scale = nn.Parameter(torch.zeros(1))
        if shortcut:
            self.downsample = nn.Conv2d(width, width, 1, bias=False)


class FixupNet(nn.Module):
    def __init__(self, layers, blocks):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3)
        self.layer1 = nn.Sequential(*(FixupBlock(8, layers, k == 0) for k in range(blocks)))
        self.layer2 = nn.Sequential(*(FixupBlock(8, layers, k == 0) for k in range(blocks)))
        self.fc = nn.Linear(8, 5)


class TestFixup:
    @pytest.mark.parametrize(("layers", "power"), [(2, -1 / 2), (3, -1 / 4)])
    def test_formula(self, layers, power):
        found = chosen(FixupNet(layers, 3), fixup())
        kaiming = KaimingNormal(mode="fan_out", nonlinearity="relu", axes=ti.Axes())
        for k in range(1, layers):
            fill = sole_fill(found[f"layer2.1.conv{k}.weight"], (8, 8, 3, 3))
            assert fill.std == pytest.approx(math.sqrt(2 / 72) * 6**power, rel=1e-12)
        assert found[f"layer1.0.conv{layers}.weight"] == Zeros()
        assert found["layer1.0.downsample.weight"] == kaiming
        assert found["fc.weight"] == found["fc.bias"] == Zeros()
        assert found["layer1.0.bias1a"] == Zeros()
        assert found["layer1.0.scale"] == Constant(1.0)
        assert found["conv1.weight"] == ti.KaimingUniform(math.sqrt(5), axes=ti.Axes())

    def test_a_given_number_of_blocks(self):
        found = chosen(FixupNet(2, 1), fixup(16))["layer1.0.conv1.weight"]
        assert isinstance(found, Scaled)
        assert found.factor == 0.25
        with pytest.raises(ValueError, match="blocks must be positive"):
            chosen(FixupNet(2, 1), fixup(0))

    def test_torchvision(self):
        torchvision = pytest.importorskip("torchvision")
        found = chosen(torchvision.models.resnet50(), fixup())
        factors = {each.factor for each in found.values() if isinstance(each, Scaled)}
        assert factors == {16**-0.25}
        zeros = {name for name, each in found.items() if each == Zeros() and "conv" in name}
        assert len(zeros) == 16
        assert all("conv3" in name for name in zeros)


def transformer(encoder=2, decoder=3):
    return nn.ModuleDict(
        {"embed": nn.Embedding(9, 16), "t": nn.Transformer(16, 2, encoder, decoder, 32, batch_first=True)}
    )


class TestTransformers:
    def test_t_fixup(self):
        found = chosen(transformer(), t_fixup(2, 3))
        encoder, decoder = 0.67 * 2**-0.25, (9 * 3) ** -0.25
        for side, factor in (("encoder", encoder), ("decoder", decoder)):
            layer = f"t.{side}.layers.1"
            for name in ("linear1", "linear2", "self_attn.out_proj"):
                assert found[f"{layer}.{name}.weight"] == XavierUniform(factor)
                assert found[f"{layer}.{name}.bias"] == Zeros()
            packed = Stacked((XavierUniform(), XavierUniform(), XavierUniform(factor)))
            assert found[f"{layer}.self_attn.in_proj_weight"] == packed
            assert found[f"{layer}.self_attn.in_proj_bias"] == Zeros()
            assert found[f"{layer}.norm1.weight"] == Ones()
        assert found["embed.weight"] == Normal(std=(9 * 2) ** -0.25 / 4)

    def test_deepnorm(self):
        found = chosen(transformer(), deepnorm(2, 3))
        encoder, decoder = 0.87 * (2**4 * 3) ** (-1 / 16), (12 * 3) ** -0.25
        assert found["t.encoder.layers.0.linear1.weight"] == XavierNormal(encoder)
        assert found["t.decoder.layers.0.multihead_attn.out_proj.weight"] == XavierNormal(decoder)
        assert found["embed.weight"] == Normal()
        assert deepnorm_alpha(2, 3) == (0.81 * 48 ** (1 / 16), 9**0.25)

    @pytest.mark.parametrize("depths", [(18, 0), (0, 18)])
    def test_deepnorm_of_one_side(self, depths):
        model = nn.ModuleDict({"q_proj": nn.Linear(4, 4), "v_proj": nn.Linear(4, 4), "fc1": nn.Linear(4, 8)})
        found = chosen(model, deepnorm(*depths))
        assert found["q_proj.weight"] == XavierNormal()
        assert found["v_proj.weight"] == found["fc1.weight"] == XavierNormal(144**-0.25)
        assert max(deepnorm_alpha(*depths)) == 36**0.25

    def test_packed_in_other_layouts(self):
        class Conv1D(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.empty(4, 12))

        model = nn.ModuleDict({"c_attn": Conv1D(), "qkv": nn.Linear(4, 12)})
        found = chosen(model, deepnorm(0, 2))
        one, beta = XavierNormal(), XavierNormal(2**-1)
        assert found["c_attn.weight"] == Stacked((one, one, beta), 1)
        assert found["qkv.weight"] == Stacked((one, one, beta), 0)

    @pytest.mark.parametrize("depths", [(0, 0), (-1, 3)])
    def test_no_layers(self, depths):
        for scheme in (t_fixup, deepnorm):
            with pytest.raises(ValueError, match="must be positive"):
                scheme(*depths)

    def test_by_name(self):
        assert depths_of(transformer()) == (2, 3)
        assert depths_of(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))) == (0, 2)
        model = transformer()
        for name in ("t_fixup", "deepnorm"):
            ti.initialize_(model, SCHEMES[name](model), seed=0)
        with pytest.raises(ValueError, match="no numbered layers"):
            depths_of(nn.Linear(2, 2))

    def test_signals_keep_their_size_through_a_hundred_layers(self):
        """What DeepNorm is for: updates of a deep post-norm model stay bounded at the start."""
        model = nn.ModuleList(
            nn.ModuleDict({"fc1": nn.Linear(32, 64), "fc2": nn.Linear(64, 32)}) for _ in range(100)
        )
        ti.initialize_(model, deepnorm(0, 100), seed=0)
        alpha = deepnorm_alpha(0, 100)[1]
        x = torch.randn(8, 32, requires_grad=True)
        y = x
        for block in model:
            y = nn.functional.layer_norm(alpha * y + block["fc2"](block["fc1"](y).relu()), (32,))
        y.sum(0)[0].backward()
        assert torch.nn.functional.cosine_similarity(x, y).mean() > 0.5
        assert 0.1 < x.grad.norm() < 10
