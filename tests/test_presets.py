"""The built-in models: their sizes, that they run, and that each parameter follows the published scheme."""

import hashlib
import math

import pytest
import torch
from torch import nn

import tritoninit as ti
from tritoninit.models.rules import RuleSet
from tritoninit.models.slots import slots
from tritoninit.presets import (
    GPT2,
    PRESETS,
    Conv1D,
    Llama,
    Mixture,
    ResNet,
    ViT,
    llama_3_8b,
    mixture,
    rotary_frequencies,
    rotate,
)
from tritoninit.schemes import gpt2, llama, resnet, vit_torchvision

# (elements, parameters). The elements are those of the published checkpoints: openai-community/gpt2,
# meta-llama/Llama-3.2-1B, meta-llama/Meta-Llama-3-8B, and "num_params" of torchvision's ResNet50_Weights and
# ViT_B_16_Weights.
SIZES = {
    "gpt2": (124_439_808, 148),
    "llama-3.2-1b": (1_235_814_400, 146),
    "llama-3-8b": (8_030_261_248, 291),
    "resnet-50": (25_557_032, 161),
    "vit-b-16": (86_567_656, 152),
}


def initializers(module, rules):
    """The initializer that the rules give each parameter and buffer, by name; nothing is written."""
    return {slot.name: RuleSet.of(rules).find(slot) for slot in slots(module)}


def on_meta(name):
    with torch.device("meta"):
        return PRESETS[name].build()


class TestPresets:
    def test_known(self):
        assert list(PRESETS) == list(SIZES)
        assert all(preset.name == name and preset.rules.citation for name, preset in PRESETS.items())

    @pytest.mark.parametrize("name", SIZES)
    def test_size(self, name):
        parameters = list(on_meta(name).parameters())
        assert (sum(p.numel() for p in parameters), len(parameters)) == SIZES[name]

    @pytest.mark.parametrize("name", SIZES)
    def test_every_parameter_has_a_rule(self, name):
        found = initializers(on_meta(name), PRESETS[name].rules)
        computed = {slot for slot, initializer in found.items() if initializer is None}
        assert computed == ({"model.frequencies"} if name.startswith("llama") else set())

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
            ("llama-3-8b", torch.zeros(2, 100, dtype=torch.long), (2, 100, 128256)),
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

    def test_head_of_its_own(self):
        model = on_meta("llama-3-8b")
        assert model.lm_head.weight is not model.model.embed_tokens.weight

    def test_rotary_frequencies_of_llama_3_are_plain(self):
        with torch.device("meta"):
            model = llama_3_8b()
        head = model.model.layers[0].self_attn.head
        plain = 500_000.0 ** (-torch.arange(0, 128, 2, dtype=torch.float64) / 128)
        assert head == 128
        # float32 arithmetic: the exponent's rounding, times ln(500000) = 13
        torch.testing.assert_close(
            rotary_frequencies(head, factor=model.model.stretch).double(), plain, rtol=2e-6, atol=0
        )


class TestMixture:
    """A Llama with experts, small enough to run."""

    def small(self):
        model = Mixture(vocabulary=11, width=8, depth=2, heads=2, kv_heads=1, inner=6, experts=4, active=2)
        ti.initialize_(model, mixture(), seed=0)
        return model

    def test_runs_and_learns(self):
        logits = self.small()(torch.arange(6).reshape(2, 3))
        assert logits.shape == (2, 3, 11)
        logits.square().sum().backward()

    def test_experts_that_are_alike_are_one(self):
        """Whichever of them the router takes, their weights add up to one."""
        mlp = self.small().model.layers[0].mlp
        x = torch.randn(3, 8)
        with torch.no_grad():
            for stacked in mlp.experts.parameters():
                stacked[:] = stacked[0]
            torch.testing.assert_close(mlp(x), mlp.experts(x, 0))

    def test_every_parameter_has_a_rule(self):
        assert None not in [
            each
            for name, each in initializers(self.small(), mixture()).items()
            if name != "model.frequencies"
        ]


RESNET_CONVOLUTION = ti.KaimingNormal(mode="fan_out", nonlinearity="relu", axes=ti.Axes())
TORCH_XAVIER = ti.XavierUniform(axes=ti.Axes())
TORCH_LINEAR = ti.KaimingUniform(a=math.sqrt(5), axes=ti.Axes())


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
            ("llama-3-8b", "lm_head.weight", ti.Normal(std=0.02)),
            ("resnet-50", "conv1.weight", RESNET_CONVOLUTION),
            ("resnet-50", "layer4.0.downsample.0.weight", RESNET_CONVOLUTION),
            ("resnet-50", "layer4.2.bn3.running_mean", ti.Zeros()),
            ("resnet-50", "layer4.2.bn3.running_var", ti.Ones()),
            ("resnet-50", "layer4.2.bn3.num_batches_tracked", ti.Zeros()),
            ("resnet-50", "layer4.2.bn3.weight", ti.Ones()),
            ("resnet-50", "layer4.2.bn3.bias", ti.Zeros()),
            ("resnet-50", "fc.weight", TORCH_LINEAR),
            ("resnet-50", "fc.bias", ti.Uniform(-1 / math.sqrt(2048), 1 / math.sqrt(2048))),
            ("vit-b-16", "class_token", ti.Zeros()),
            ("vit-b-16", "conv_proj.weight", ti.TruncatedNormal(std=math.sqrt(1 / 768))),
            ("vit-b-16", "conv_proj.bias", ti.Zeros()),
            ("vit-b-16", "encoder.pos_embedding", ti.Normal(std=0.02)),
            ("vit-b-16", "encoder.layers.encoder_layer_7.mlp.0.weight", ti.XavierUniform()),
            ("vit-b-16", "encoder.layers.encoder_layer_7.mlp.3.bias", ti.Normal(std=1e-6)),
            ("vit-b-16", "encoder.layers.encoder_layer_7.self_attention.in_proj_weight", TORCH_XAVIER),
            ("vit-b-16", "encoder.layers.encoder_layer_7.self_attention.in_proj_bias", ti.Zeros()),
            (
                "vit-b-16",
                "encoder.layers.encoder_layer_7.self_attention.out_proj.weight",
                TORCH_LINEAR,
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
    "gpt2": (lambda: GPT2(100, 16, 32, 2, 4), gpt2(2), torch.arange(24).view(2, 12)),
    "llama": (lambda: Llama(100, 32, 2, 4, 2, 64), llama(cut=None), torch.arange(24).view(2, 12)),
    "untied": (lambda: Llama(100, 32, 2, 4, 2, 64, 1, False), llama(cut=None), torch.arange(24).view(2, 12)),
    "resnet": (lambda: ResNet((1, 2, 1, 1), 8, 10), resnet(False), torch.ones(2, 3, 64, 64)),
    "vit": (lambda: ViT(32, 8, 16, 2, 2, 10), vit_torchvision(), torch.ones(2, 3, 32, 32)),
}

# blake2b of the names and the bits of the parameters, with seed 0: part of what stream version 1 promises.
BITS = {
    "gpt2": "5f6be1cbc35fe19b",
    "llama": "36c51aa2fae96229",
    "resnet": "989eb46d5e09d882",
    "vit": "860295a812f69733",
}


class TestBits:
    @pytest.mark.parametrize("name", BITS)
    def test_golden(self, name):
        build, rules, _ = SMALL[name]
        model = build()
        ti.initialize_(model, rules, seed=0)
        digest = hashlib.blake2b(digest_size=8)
        for parameter, values in model.named_parameters():
            digest.update(parameter.encode() + values.detach().numpy().tobytes())
        assert digest.hexdigest() == BITS[name]


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

    @pytest.mark.parametrize("name", ["gpt2", "llama", "untied"])
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


class TestConv1D:
    def test_fan_in_is_the_first_dimension(self):
        layer = Conv1D(64, 1024)
        ti.initialize_(layer, [ti.Rule("*", {"weight": ti.KaimingUniform(a=1), "bias": ti.Zeros()})], seed=0)
        # Of n uniforms on +-sqrt(3 / fan_in), the largest lies within 20 / n of the bound but for exp(-20).
        largest, n = layer.weight.abs().max().item(), 64 * 1024
        assert largest == pytest.approx(math.sqrt(3 / 64), rel=20 / n)


class TestZeroRow:
    def test_only_that_row(self):
        initializer = ti.Normal()
        key = ti.Key(1)
        plain = initializer(torch.empty(6, 4), key=key)
        padded = ti.ZeroRow(initializer, 2)(torch.empty(6, 4), key=key)
        assert not padded[2].any()
        kept = [0, 1, 3, 4, 5]
        assert torch.equal(padded[kept], plain[kept])

    @pytest.mark.parametrize("row", [0, 2, 5, -1])
    def test_windows_agree_with_the_whole(self, row):
        initializer, key = ti.ZeroRow(ti.Normal(), row), ti.Key(1)
        whole = initializer(torch.empty(6, 4), key=key)
        parts = [
            initializer(torch.empty(2, 4), key=key, window=ti.Window((6, 4), (first, 0)))
            for first in (0, 2, 4)
        ]
        assert torch.equal(torch.cat(parts), whole)

    def test_parameter_that_requires_grad(self):
        weight = nn.Parameter(torch.empty(3, 2))
        ti.ZeroRow(ti.Normal(), 1)(weight, key=ti.Key(0))
        assert not weight[1].any()
        assert weight.is_leaf
