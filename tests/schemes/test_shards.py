"""Schemes on parts that are no DTensors: each is the part of what the whole model has, fans and all."""

import pytest
import torch
from torch import nn

import tritoninit as ti
from tests.schemes.test_architectures import tree
from tritoninit import schemes

# By scheme: its rules, and a model that has what the scheme knows by shapes.
CASES = {
    "mamba": (
        schemes.mamba(4),
        {"a.dt_proj": nn.Linear(6, 8), "a.out_proj": nn.Linear(8, 4), "a.A_log": (8, 4)},
    ),
    "mamba2": (schemes.mamba2(4), {"a.dt_bias": (8,), "a.A_log": (8,), "a.D": (8,)}),
    "s4d": (schemes.s4d(), {"a.log_dt": (8,), "a.A_imag": (8, 4), "a.C": (8, 4, 2), "a.D": (8,)}),
    "rg_lru": (
        schemes.rg_lru(),
        {"recurrent_param": (8,), "input_gate_weight": (2, 4, 6), "recurrent_gate_bias": (2, 6)},
    ),
    "siren": (schemes.siren(), {"0": nn.Linear(6, 8), "1": nn.Linear(8, 4)}),
    "t_fixup": (
        schemes.t_fixup(0, 3),
        {"e": nn.Embedding(8, 6), "v_proj": nn.Linear(8, 4), "k_proj": nn.Linear(8, 4)},
    ),
    "deepnorm": (schemes.deepnorm(3, 0), {"fc1": nn.Linear(6, 8), "q_proj": nn.Linear(6, 8)}),
    "lora": (
        schemes.lora("gaussian"),
        {"l.lora_A": nn.Linear(6, 4, False), "l.lora_B": nn.Linear(4, 8, False)},
    ),
    "lora, orthogonal": (
        schemes.lora("orthogonal"),
        {"l.lora_A": nn.Linear(6, 4, bias=False), "l.lora_B": nn.Linear(4, 8, bias=False)},
    ),
    "mimetic": (
        schemes.mimetic(2),
        {"h.attn.qkv": nn.Linear(8, 24, bias=False), "h.attn.proj": nn.Linear(8, 8, bias=False)},
    ),
    "mixture_of_experts": (schemes.mixture_of_experts(), {"experts.w": (4, 6, 8), "router": nn.Linear(6, 4)}),
    "chrono": (schemes.chrono_lstm(9.0), {"r": nn.LSTM(4, 6)}),
    "dit": (schemes.dit(), {"pos_embed": (1, 16, 8), "x_embedder.proj": nn.Conv2d(4, 8, 2)}),
    "depth_scaled": (schemes.depth_scaled(), {"output": nn.Linear(6, 8), "layers.0.wq": nn.Linear(6, 8)}),
    "fixup": (schemes.fixup(2), {"scale": (1,), "bias1": (1,)}),
    "nanochat": (schemes.nanochat(6), {"c_q": nn.Linear(6, 8, bias=False), "wte": nn.Embedding(8, 6)}),
}


def cut(model, axis, halves):
    """A half of a model's tensors along a dimension, where they have it, and which part each is."""
    windows = {}
    for name, whole in dict(model.named_parameters()).items():
        path, _, local = name.rpartition(".")
        if whole.dim() <= axis or whole.shape[axis] < 2:
            continue
        begin, end = halves(whole.shape[axis])
        part = nn.Parameter(torch.full_like(whole.narrow(axis, begin, end - begin), torch.nan))
        owner = model.get_submodule(path)
        if isinstance(owner, nn.LSTM):
            owner._parameters[local] = part
        else:
            setattr(owner, local, part)
        offsets = [begin if k == axis else 0 for k in range(whole.dim())]
        windows[name] = ti.Window(tuple(whole.shape), tuple(offsets))
    return windows


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("name", CASES)
def test_parts_are_those_of_the_whole(name, axis):
    rules, modules = CASES[name]
    whole = tree({k: _again(each) for k, each in modules.items()})
    ti.initialize_(whole, rules, seed=3)
    expected = {name: value.detach().clone() for name, value in whole.named_parameters()}
    for halves in (lambda n: (0, n // 2), lambda n: (n // 2, n)):
        part = tree({k: _again(each) for k, each in modules.items()})
        windows = cut(part, axis, halves)
        ti.initialize_(part, rules, seed=3, windows=windows)
        for each, value in part.named_parameters():
            window = windows.get(each)
            there = expected[each]
            if window is not None:
                begin = window.offsets[axis]
                there = there.narrow(axis, begin, value.shape[axis])
            assert value.equal(there), each


def _again(given):
    """A module like one, before it was changed."""
    if isinstance(given, tuple):
        return given
    if isinstance(given, nn.Linear):
        return nn.Linear(given.in_features, given.out_features, given.bias is not None)
    if isinstance(given, nn.Embedding):
        return nn.Embedding(given.num_embeddings, given.embedding_dim)
    if isinstance(given, nn.LSTM):
        return nn.LSTM(given.input_size, given.hidden_size)
    return nn.Conv2d(given.in_channels, given.out_channels, given.kernel_size)
