"""The maximal update parametrisation: how standard deviations grow with width."""

import math

import pytest
import torch
from torch import nn

import tritoninit as ti
from tritoninit import schemes
from tritoninit.fills import sole_fill
from tritoninit.models.mup import mup
from tritoninit.models.rules import RuleSet
from tritoninit.models.slots import slots
from tritoninit.presets import GPT2, Llama, ViT
from tritoninit.schemes import TORCH_DEFAULTS


class Net(nn.Module):
    """Attention and an MLP beside a residual stream, between an input and an output of fixed sizes."""

    def __init__(self, width):
        super().__init__()
        self.embed = nn.Linear(8, width)
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        """The activations by name, of x (batch, length, 8)."""
        x = self.embed(x)
        seen = {"stream": x}
        q, k, seen["values"] = self.q(x), self.k(x), self.v(x)
        scores = q @ k.mT / q.shape[-1]  # by the width, not its root: mup's attention
        seen["attended"] = self.o(scores.softmax(-1) @ seen["values"])
        x = x + seen["attended"]
        seen["inner"] = self.up(x)
        seen["mlp"] = self.down(seen["inner"].relu())
        seen["logits"] = self.head(x + seen["mlp"])
        return seen


FIXED = ti.RuleSet("fixed", "", [ti.Rule(nn.Linear, {"weight": ti.Normal(std=0.1), "bias": ti.Zeros()})])


def scales(rules, width, seeds=2):
    """The root mean square of each activation, over a batch and ``seeds`` models."""
    model = Net(width)
    x = ti.normal_(torch.empty(16, 4, 8), key=ti.Key(7))
    squares = {}
    for seed in range(seeds):
        ti.initialize_(model, rules, seed=seed)
        with torch.no_grad():
            for name, value in model(x).items():
                squares[name] = squares.get(name, 0.0) + value.square().mean().item() / seeds
    return {name: math.sqrt(square) for name, square in squares.items()}


class TestMup:
    WIDTHS = (64, 256, 1024)
    HIDDEN = ("values", "attended", "inner", "mlp")

    def test_coordinates_keep_their_scale_with_width(self):
        """Over 16 times the width, fixed deviations let each layer grow fourfold more; mup's let none grow.

        The margin of 1.25 is for sampling: two models a width, whose narrowest layers have 64 coordinates.
        """
        base = Net(self.WIDTHS[0])
        plain = [scales(FIXED, width) for width in self.WIDTHS]
        scaled = [scales(mup(FIXED, base), width) for width in self.WIDTHS]
        assert plain[0] == scaled[0]  # at the base width, the very same weights
        for name in self.HIDDEN:
            assert plain[-1][name] > 3 * plain[0][name], name
            assert max(s[name] for s in scaled) < 1.25 * min(s[name] for s in scaled), name
        for s, width in zip(scaled, self.WIDTHS, strict=True):
            shrunk = scaled[0]["logits"] * math.sqrt(
                self.WIDTHS[0] / width
            )  # by 1 / sqrt(width) before training
            assert s["logits"] == pytest.approx(shrunk, rel=0.25)

    def test_hidden_layers_by_fan_are_right_already(self):
        """torch.nn's bound is 1 / sqrt(fan_in) at any width; only the output's changes, and the biases'."""
        wide, rules = Net(256), mup(TORCH_DEFAULTS, Net(64))
        fills = {s.name: sole_fill(RuleSet.of(rules).find(s), s.tensor.shape) for s in slots(wide)}
        assert fills["q.weight"].high == pytest.approx(1 / 16)
        assert fills["down.weight"].high == pytest.approx(1 / math.sqrt(512))
        assert fills["embed.weight"].high == pytest.approx(1 / math.sqrt(8))
        assert fills["head.weight"].high == pytest.approx(1 / 8 / 4)
        assert fills["q.bias"].high == pytest.approx(1 / 8)  # the base model's

    @pytest.mark.parametrize(
        ("build", "name", "factor"),
        [
            (lambda w: nn.Embedding(50, w), "weight", 1),
            (lambda w: nn.LayerNorm(w), "weight", 1),
            (lambda w: nn.MultiheadAttention(w, 1), "in_proj_weight", 1 / 2),
            (lambda w: nn.Conv2d(3, w, 3), "weight", 1),
            (lambda w: nn.Conv2d(w, 2 * w, 3), "weight", 1 / 2),
            (lambda w: nn.Conv2d(w, 3, 3), "weight", 1 / 4),
            (lambda w: nn.Conv2d(w, w, 3, groups=w), "weight", 1),  # depthwise: 9 inputs at any width
            (lambda w: nn.ConvTranspose2d(w, 3, 3), "weight", 1 / 4),
            (lambda w: nn.ConvTranspose2d(3, w, 3), "weight", 1),
            (lambda w: nn.LSTM(5, w), "weight_ih_l0", 1),
            (lambda w: nn.LSTM(5, w), "weight_hh_l0", 1 / 2),
            (lambda w: GPT2(9, 4, w, 1, 1), "h.0.mlp.c_fc.weight", 1 / 2),
            (lambda w: GPT2(9, 4, w, 1, 1), "wte.weight", 1),  # the head is tied to it
            (lambda w: Llama(9, w, 1, 1, 1, w, tied=False), "lm_head.weight", 1 / 4),
            (lambda w: ViT(32, 8, w, 1, 1, 10), "encoder.pos_embedding", 1),
        ],
    )
    def test_factor(self, build, name, factor):
        """Four times the width: a half for hidden weights, a quarter for the output's."""
        rules = mup([ti.Rule("*", ti.Normal(std=0.5))], build(8))
        slot = next(slot for slot in slots(build(32)) if slot.name == name)
        assert sole_fill(RuleSet.of(rules).find(slot), slot.tensor.shape).std == pytest.approx(0.5 * factor)

    def test_meaning_gives_the_fans(self):
        """A depthwise convolution's outputs reach 9 places of one channel, at any width."""
        rules = mup([ti.Rule("weight", ti.KaimingNormal(a=1, mode="fan_out"))], nn.Conv2d(8, 8, 3, groups=8))
        slot = slots(nn.Conv2d(32, 32, 3, groups=32))[0]
        assert sole_fill(RuleSet.of(rules).find(slot), slot.tensor.shape).std == pytest.approx(1 / 3)

    def test_constants_stay(self):
        rules = mup([ti.Rule("*", ti.Constant(3.0))], Net(64))
        assert {rules.find(slot) for slot in slots(Net(128))} == {ti.Constant(3.0)}

    def test_padding_stays_zero(self):
        rules = mup(TORCH_DEFAULTS, nn.Embedding(5, 4, padding_idx=1))
        wide = nn.Embedding(5, 8, padding_idx=1)
        ti.initialize_(wide, rules, seed=0)
        assert (wide.weight == 0).all(1).tolist() == [False, True, False, False, False]

    def test_base_on_the_meta_device(self):
        with torch.device("meta"):
            base = Net(64)
        assert scales(mup(FIXED, base), 128, 1) == scales(mup(FIXED, Net(64)), 128, 1)

    def test_buffers(self):
        wide = nn.BatchNorm1d(8)
        wide.running_var.fill_(5)
        ti.initialize_(wide, mup(TORCH_DEFAULTS, nn.BatchNorm1d(4)), seed=0)
        assert wide.running_var.tolist() == [1.0] * 8

    @pytest.mark.parametrize(
        ("wide", "base", "initializer", "message"),
        [
            (nn.Linear(4, 4), nn.Linear(4, 4, bias=False), ti.Zeros(), "bias: the base model has no such"),
            (nn.Linear(4, 4), nn.Linear(2, 2), ti.Orthogonal(), "weight: mup scales distributions"),
            (nn.Conv1d(4, 4, 1), nn.Linear(2, 2), ti.Normal(), r"\(4, 4, 1\) is no wider \(2, 2\)"),
        ],
    )
    def test_error(self, wide, base, initializer, message):
        with pytest.raises(ValueError, match=message):
            ti.initialize_(wide, mup([ti.Rule("*", initializer)], base), seed=0)

    def test_experts_need_axes(self):
        def experts(width):
            model = nn.Module()
            model.experts = nn.Parameter(torch.zeros(3, width, width))
            return model

        with pytest.raises(ValueError, match="give axes="):
            ti.initialize_(experts(8), mup([ti.Rule("*", ti.Normal())], experts(4)), seed=0)
        axes = ti.Axes((2,), (1,), batch_axes=(0,))
        rules = mup([ti.Rule("*", ti.VarianceScaling(axes=axes))], experts(4))
        std = sole_fill(rules.find(slots(experts(16))[0]), (3, 16, 16)).std
        assert std == pytest.approx(
            math.sqrt(1 / 16) / 0.87962566103423978
        )  # of the normal that is cut at two

    def test_citation_names_both(self):
        rules = mup(schemes.gpt2(2), GPT2(9, 4, 8, 2, 1))
        assert rules.name == "mup(gpt2)"
        assert "Tensor Programs V" in rules.citation
        assert "Radford" in rules.citation
