"""Public models recorded on the meta device: plain PyTorch's moments, and the same bits wherever it is."""

import math
from functools import partial

import pytest
import torch

import tritoninit as ti


def transformers_model(kind, config, **arguments):
    package = pytest.importorskip("transformers")
    package.logging.set_verbosity_error()
    return getattr(package, kind)(getattr(package, config)(**arguments))


def vit_tiny():
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # torchvision raises the latter if it is for another torch
        pytest.skip(f"timm: {error}")
    return timm.create_model("vit_tiny_patch16_224", depth=2)


def vision_transformer():
    try:
        from torchvision.models import VisionTransformer
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision: {error}")
    return VisionTransformer(32, 8, 2, 2, 64, 128)


TOKENS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
SIZES = {"hidden_size": 64, "num_attention_heads": 2, "num_hidden_layers": 2, "intermediate_size": 96}
HALF = {"layers": 1, "ffn_dim": 96, "attention_heads": 2}
CONFIGS = {
    "GPT2LMHeadModel": ("GPT2Config", {"n_layer": 2, "n_embd": 64, "n_head": 2, "n_positions": 32}),
    "LlamaForCausalLM": ("LlamaConfig", SIZES),
    "MixtralForCausalLM": ("MixtralConfig", {**SIZES, "num_local_experts": 4, "num_key_value_heads": 2}),
    "MambaForCausalLM": ("MambaConfig", {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}),
    "ViTForImageClassification": ("ViTConfig", {**SIZES, "image_size": 32}),
    "WhisperForConditionalGeneration": (
        "WhisperConfig",
        {
            **{f"{side}_{name}": n for side in ("encoder", "decoder") for name, n in HALF.items()},
            "d_model": 64,
            "max_source_positions": 40,
            "max_target_positions": 30,
            "decoder_start_token_id": 3,
        },
    ),
}
MODELS = {
    **{
        kind: partial(transformers_model, kind, config, **TOKENS, **sizes, vocab_size=96)
        for kind, (config, sizes) in CONFIGS.items()
    },
    "timm": vit_tiny,
    "torchvision": vision_transformer,
}


def tensors(model):
    return {name: x.detach().clone() for name, x in (*model.named_parameters(), *model.named_buffers())}


def is_constant(x):
    return bool((x == x.flatten()[0]).all())


def assert_moments(name, ours, plain):
    """Of two samples of one law: within six standard errors of their difference."""
    ours, plain = ours.double(), plain.double()
    count, variance = plain.numel(), float(plain.var())
    fourth = float(((plain - plain.mean()) ** 4).mean())
    assert abs(float(ours.mean() - plain.mean())) <= 6 * math.sqrt(2 * variance / count), name
    error = math.sqrt(2 * max(fourth / variance**2 - 1, 0) / count) / 2
    assert abs(float(ours.std() / plain.std()) - 1) <= 6 * error + 1e-9, name


@pytest.mark.parametrize("model", MODELS)
def test_a_model_s_own_code_replayed(model):
    build = MODELS[model]
    torch.manual_seed(0)
    direct = build()
    plain = tensors(direct)
    with ti.record() as own, torch.device("meta"):
        replayed = build()
    rules = own.rules(replayed)
    assert ti.RuleSet.from_json(rules.to_json()) == rules
    assert [rule.pattern for rule in rules] == [name for name, _ in replayed.named_parameters()] + [
        name for name, _ in replayed.named_buffers()
    ]
    report = ti.initialize_(replayed, rules, seed=0, device="cpu")
    assert report.audit.ok, report.audit.findings
    assert report.audit.fingerprint == ti.initialize_(direct, rules, seed=0).audit.fingerprint
    ours, again = tensors(replayed), tensors(direct)
    assert ours.keys() == plain.keys()
    asked = {rule.pattern: rule.initializers for rule in rules}
    for name, expected in plain.items():
        assert torch.equal(ours[name], again[name]), name
        how = asked[name]
        how = how[name.rpartition(".")[2]] if isinstance(how, dict) else how
        if not how.random:
            assert torch.equal(ours[name], expected), name
        else:
            assert not is_constant(expected), name
            if expected.numel() >= 64:
                assert_moments(name, ours[name], expected)
