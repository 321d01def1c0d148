"""The built-in models: their sizes, that they run, and that each parameter follows the published scheme."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

import tritoninit as ti
from tritoninit.presets import (
    GPT2,
    LLAMA_RULES,
    PRESETS,
    RESNET_RULES,
    TORCH_DEFAULTS,
    VIT_RULES,
    Llama,
    ResNet,
    ViT,
    ZeroRow,
    gpt2_rules,
    rotary_frequencies,
    rotate,
)

# (elements, parameters). The elements are those of the published checkpoints: openai-community/gpt2,
# meta-llama/Llama-3.2-1B, and "num_params" of torchvision's ResNet50_Weights and ViT_B_16_Weights.
SIZES = {
    "gpt2": (124_439_808, 148),
    "llama-3.2-1b": (1_235_814_400, 146),
    "resnet-50": (25_557_032, 161),
    "vit-b-16": (86_567_656, 152),
}


def initializers(module, rules):
    """The initializer that the rules give each parameter, by name; nothing is written."""
    found = {}
    for name, _ in module.named_parameters():
        owner = module.get_submodule(name.rpartition(".")[0])
        found[name] = next(filter(None, (rule.find(name, owner) for rule in rules)), None)
    return found


def on_meta(name):
    with torch.device("meta"):
        return PRESETS[name].build()


class TestPresets:
    def test_known(self):
        assert list(PRESETS) == list(SIZES)
        assert all(preset.name == name and preset.citation for name, preset in PRESETS.items())

    @pytest.mark.parametrize("name", SIZES)
    def test_size(self, name):
        parameters = list(on_meta(name).parameters())
        assert (sum(p.numel() for p in parameters), len(parameters)) == SIZES[name]

    @pytest.mark.parametrize("name", SIZES)
    def test_every_parameter_has_a_rule(self, name):
        assert None not in initializers(on_meta(name), PRESETS[name].rules).values()

    @pytest.mark.parametrize("name", ["gpt2", "resnet-50", "vit-b-16"])
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_built_in_the_default_dtype(self, name, dtype):
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            model = on_meta(name)
        finally:
            torch.set_default_dtype(default)
        assert {p.dtype for p in model.parameters()} == {dtype}

    @pytest.mark.parametrize(
        ("name", "inputs", "shape"),
        [
            ("gpt2", torch.zeros(2, 1024, dtype=torch.long), (2, 1024, 50257)),
            ("llama-3.2-1b", torch.zeros(2, 100, dtype=torch.long), (2, 100, 128256)),
            ("resnet-50", torch.zeros(2, 3, 224, 224), (2, 1000)),
            ("vit-b-16", torch.zeros(2, 3, 224, 224), (2, 1000)),
        ],
    )
    def test_full_size_shapes(self, name, inputs, shape):
        assert on_meta(name).eval()(inputs.to("meta")).shape == shape

    @pytest.mark.parametrize(("name", "tied"), [("gpt2", "wte"), ("llama-3.2-1b", "model.embed_tokens")])
    def test_head_is_the_embedding(self, name, tied):
        model = on_meta(name)
        assert model.lm_head.weight is model.get_parameter(f"{tied}.weight")


class TestSchemes:
    """The initializer of one parameter of each kind, against the scheme as its publisher's code has it."""

    @pytest.mark.parametrize(
        ("preset", "parameter", "expected"),
        [
            ("gpt2", "wte.weight", ti.Normal(std=0.02)),
            ("gpt2", "wpe.weight", ti.Normal(std=0.02)),
            ("gpt2", "h.3.attn.c_attn.weight", ti.Normal(std=0.02)),
            ("gpt2", "h.3.attn.c_attn.bias", ti.Zeros()),
            ("gpt2", "h.11.attn.c_proj.weight", ti.Normal(std=0.02 / math.sqrt(24))),
            ("gpt2", "h.11.mlp.c_proj.weight", ti.Normal(std=0.02 / math.sqrt(24))),
            ("gpt2", "h.11.mlp.c_proj.bias", ti.Zeros()),
            ("gpt2", "h.0.ln_1.weight", ti.Ones()),
            ("gpt2", "ln_f.bias", ti.Zeros()),
            ("llama-3.2-1b", "model.embed_tokens.weight", ti.Normal(std=0.02)),
            ("llama-3.2-1b", "model.layers.15.mlp.down_proj.weight", ti.Normal(std=0.02)),
            ("llama-3.2-1b", "model.layers.15.post_attention_layernorm.weight", ti.Ones()),
            ("resnet-50", "conv1.weight", ti.KaimingNormal(mode="fan_out", nonlinearity="relu")),
            (
                "resnet-50",
                "layer4.0.downsample.0.weight",
                ti.KaimingNormal(mode="fan_out", nonlinearity="relu"),
            ),
            ("resnet-50", "layer4.2.bn3.weight", ti.Ones()),
            ("resnet-50", "layer4.2.bn3.bias", ti.Zeros()),
            ("resnet-50", "fc.weight", ti.KaimingUniform(a=math.sqrt(5))),
            ("resnet-50", "fc.bias", ti.Uniform(-1 / math.sqrt(2048), 1 / math.sqrt(2048))),
            ("vit-b-16", "class_token", ti.Zeros()),
            ("vit-b-16", "conv_proj.weight", ti.TruncatedNormal(std=math.sqrt(1 / 768))),
            ("vit-b-16", "conv_proj.bias", ti.Zeros()),
            ("vit-b-16", "encoder.pos_embedding", ti.Normal(std=0.02)),
            ("vit-b-16", "encoder.layers.encoder_layer_7.mlp.0.weight", ti.XavierUniform()),
            ("vit-b-16", "encoder.layers.encoder_layer_7.mlp.3.bias", ti.Normal(std=1e-6)),
            ("vit-b-16", "encoder.layers.encoder_layer_7.self_attention.in_proj_weight", ti.XavierUniform()),
            ("vit-b-16", "encoder.layers.encoder_layer_7.self_attention.in_proj_bias", ti.Zeros()),
            (
                "vit-b-16",
                "encoder.layers.encoder_layer_7.self_attention.out_proj.weight",
                ti.KaimingUniform(a=math.sqrt(5)),
            ),
            ("vit-b-16", "encoder.layers.encoder_layer_7.self_attention.out_proj.bias", ti.Zeros()),
            ("vit-b-16", "encoder.ln.weight", ti.Ones()),
            ("vit-b-16", "heads.head.weight", ti.Zeros()),
            ("vit-b-16", "heads.head.bias", ti.Zeros()),
        ],
    )
    def test_initializer(self, preset, parameter, expected):
        assert initializers(on_meta(preset), PRESETS[preset].rules)[parameter] == expected


SMALL = {
    "gpt2": (lambda: GPT2(100, 16, 32, 2, 4), gpt2_rules(2), torch.arange(24).view(2, 12)),
    "llama": (lambda: Llama(100, 32, 2, 4, 2, 64), LLAMA_RULES, torch.arange(24).view(2, 12)),
    "resnet": (lambda: ResNet((1, 2, 1, 1), 8, 10), RESNET_RULES, torch.ones(2, 3, 64, 64)),
    "vit": (lambda: ViT(32, 8, 16, 2, 2, 10), VIT_RULES, torch.ones(2, 3, 32, 32)),
}


class TestForward:
    @pytest.mark.parametrize("name", SMALL)
    def test_every_parameter_has_a_gradient(self, name):
        build, rules, inputs = SMALL[name]
        model = build()
        ti.initialize_(model, rules, seed=0)
        logits = model(inputs)
        assert logits.isfinite().all()
        logits.square().sum().backward()
        missing = [name for name, p in model.named_parameters() if p.grad is None]
        assert not missing

    @pytest.mark.parametrize("name", ["gpt2", "llama"])
    def test_causal(self, name):
        build, rules, tokens = SMALL[name]
        model = build()
        ti.initialize_(model, rules, seed=0)
        changed = tokens.clone()
        changed[:, 7] = 99
        before, after = model(tokens), model(changed)
        torch.testing.assert_close(before[:, :7], after[:, :7])
        assert not torch.allclose(before[:, 7:], after[:, 7:])

    def test_rotary_frequencies_as_the_published_scaling_defines_them(self):
        # Written from the definition in wavelengths (rope_type "llama3"), where ours counts turns.
        plain = 500_000.0 ** (-torch.arange(0, 64, 2, dtype=torch.float64) / 64)
        expected = []
        for frequency in plain.tolist():
            wavelength = 2 * math.pi / frequency
            if wavelength < 8192 / 4:
                expected.append(frequency)
            elif wavelength > 8192 / 1:
                expected.append(frequency / 32)
            else:
                smooth = (8192 / wavelength - 1) / (4 - 1)
                expected.append((1 - smooth) * frequency / 32 + smooth * frequency)
        # float32 arithmetic: a few ulp of 2**-24, more where 1 - smooth cancels
        torch.testing.assert_close(
            rotary_frequencies(64).double(), torch.tensor(expected).double(), rtol=1e-5, atol=0
        )

    def test_rotation_keeps_norms_and_depends_on_distance(self):
        x = ti.normal_(torch.empty(1, 1, 1, 64), key=ti.Key(0)).expand(1, 1, 50, 64)
        turned = rotate(x, rotary_frequencies(64))
        torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
        products = turned[0, 0] @ turned[0, 0].T
        # angles of up to 50 radians in float32: errors of 50 * 2**-24 of a product of norm 64
        torch.testing.assert_close(products[10, 3], products[40, 33], rtol=1e-4, atol=1e-3)


LAYERS = {
    "linear": lambda: nn.Linear(300, 200),
    "conv1d": lambda: nn.Conv1d(40, 60, 5),
    "conv2d": lambda: nn.Conv2d(16, 64, 3, groups=4),
    "conv3d": lambda: nn.Conv3d(8, 32, 3),
    "transposed1d": lambda: nn.ConvTranspose1d(40, 60, 5),
    "transposed2d": lambda: nn.ConvTranspose2d(16, 64, 3, groups=4),
    "transposed3d": lambda: nn.ConvTranspose3d(8, 32, 3),
    "bilinear": lambda: nn.Bilinear(20, 30, 40),
    "embedding": lambda: nn.Embedding(200, 100),
    "padded": lambda: nn.Embedding(200, 100, padding_idx=-2),
    "bag": lambda: nn.EmbeddingBag(200, 100, padding_idx=3),
    "layernorm": lambda: nn.LayerNorm(10),
    "groupnorm": lambda: nn.GroupNorm(2, 10),
    "rmsnorm": lambda: nn.RMSNorm(10),
    "batchnorm": lambda: nn.Sequential(
        nn.BatchNorm1d(3), nn.BatchNorm2d(3), nn.BatchNorm3d(3), nn.SyncBatchNorm(3)
    ),
    "instancenorm": lambda: nn.Sequential(
        *(c(3, affine=True) for c in (nn.InstanceNorm1d, nn.InstanceNorm2d))
    ),
    "prelu": lambda: nn.PReLU(3, init=0.125),
    "rnn": lambda: nn.RNN(50, 60, 2),
    "lstm": lambda: nn.LSTM(50, 60, proj_size=20, bidirectional=True),
    "gru": lambda: nn.GRU(50, 60),
    "cells": lambda: nn.Sequential(nn.RNNCell(50, 60), nn.LSTMCell(50, 60), nn.GRUCell(50, 60)),
    "attention": lambda: nn.MultiheadAttention(64, 4, add_bias_kv=True),
    "cross-attention": lambda: nn.MultiheadAttention(64, 4, kdim=32, vdim=48),
    "encoder": lambda: nn.TransformerEncoderLayer(64, 4, 128),
}


class TestTorchDefaults:
    @pytest.mark.parametrize("layer", LAYERS)
    def test_same_distribution_as_torch(self, layer):
        """Constants equal; otherwise the same scale and the same shape, as far as two samples tell."""
        torch.manual_seed(0)
        theirs, ours = LAYERS[layer](), LAYERS[layer]()
        ti.initialize_(ours, TORCH_DEFAULTS, seed=0)
        for (name, a), (_, b) in zip(theirs.named_parameters(), ours.named_parameters(), strict=True):
            if a.unique().numel() == 1:
                assert torch.equal(a, b), name
                continue
            # The std of n normals has a relative error near 1 / sqrt(2 n), that of uniforms a smaller one.
            # The difference of two samples has 1 / sqrt(n), and gets five of them.
            assert abs(a.std() / b.std() - 1) < 5 / math.sqrt(a.numel()), name
            a, b = a.detach().flatten(), b.detach().flatten()
            assert stats.ks_2samp(a, b).pvalue > 1e-4, name  # seeds are fixed: it fails always or never
            assert torch.equal(a == 0, b == 0), name  # the padding row, and nothing else

    @pytest.mark.parametrize("layer", ["linear", "conv2d", "transposed2d", "bilinear", "lstm", "attention"])
    def test_bounds_are_torchs(self, layer):
        """The exact bound, from the formula in torch.nn's documentation."""
        module = LAYERS[layer]()
        bounds = {
            "linear": {"weight": 300**-0.5, "bias": 300**-0.5},
            "conv2d": {"weight": (4 * 9) ** -0.5, "bias": (4 * 9) ** -0.5},
            "transposed2d": {"weight": (16 * 9) ** -0.5, "bias": (16 * 9) ** -0.5},
            "bilinear": {"weight": 20**-0.5, "bias": 20**-0.5},
            "lstm": {name: 60**-0.5 for name, _ in module.named_parameters()},
            "attention": {"in_proj_weight": (6 / (64 + 192)) ** 0.5, "out_proj.weight": 64**-0.5},
        }[layer]
        found = initializers(module, TORCH_DEFAULTS)
        for name, bound in bounds.items():
            fill = found[name].fill(module.get_parameter(name).shape)
            # KaimingUniform computes 1/sqrt(fan) as sqrt(3) sqrt(2 / 6 / fan): equal to rounding
            assert (-fill.low, fill.high) == pytest.approx((bound, bound), rel=1e-14)

    def test_parametrized_weight_is_an_error_that_names_it(self):
        module = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
        with pytest.raises(ValueError, match=r"parametrizations\.weight\.original0"):
            ti.initialize_(module, TORCH_DEFAULTS, seed=0)


class TestZeroRow:
    def test_only_that_row(self):
        scheme = ti.Normal()
        key = ti.Key(1)
        plain = scheme(torch.empty(6, 4), key=key)
        padded = ZeroRow(scheme, 2)(torch.empty(6, 4), key=key)
        assert not padded[2].any()
        kept = [0, 1, 3, 4, 5]
        assert torch.equal(padded[kept], plain[kept])

    @pytest.mark.parametrize("row", [0, 2, 5, -1])
    def test_windows_agree_with_the_whole(self, row):
        scheme, key = ZeroRow(ti.Normal(), row), ti.Key(1)
        whole = scheme(torch.empty(6, 4), key=key)
        parts = [
            scheme(torch.empty(2, 4), key=key, window=ti.Window((6, 4), (first, 0))) for first in (0, 2, 4)
        ]
        assert torch.equal(torch.cat(parts), whole)

    def test_parameter_that_requires_grad(self):
        weight = nn.Parameter(torch.empty(3, 2))
        ZeroRow(ti.Normal(), 1)(weight, key=ti.Key(0))
        assert not weight[1].any()
        assert weight.is_leaf
