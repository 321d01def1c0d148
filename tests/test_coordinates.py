"""The coordinate check, and the rates that it needs: sizes that go with the width, and those that do not."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import tritoninit as ti
from tritoninit import coordinates

DATA = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
WIDTHS = (32, 64, 128, 256)


def perceptron(width):
    return nn.Sequential(
        nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4)
    )


def loss(model, step):
    return F.mse_loss(model(DATA), DATA[:, :4] + step)


class Tokens(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.embedding = nn.Embedding(20, width)
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)
        self.head = nn.Linear(width, 20, bias=False)

    def forward(self, x):
        x = self.embedding(x)
        y = self.norm(x)
        return self.head(x + self.attention(y, y, y, need_weights=False)[0])


class TestCheck:
    @pytest.mark.parametrize("optimizer", ["adam", "sgd"])
    def test_mup_is_flat_and_the_standard_is_not(self, optimizer):
        lr = 1e-2 if optimizer == "adam" else 0.1
        found = ti.coord_check(perceptron, loss, WIDTHS, lr=lr, optimizer=optimizer, seeds=2)
        standard = ti.coord_check(
            perceptron, loss, WIDTHS, lr=lr, optimizer=optimizer, seeds=2, standard=True
        )
        assert found.growth < 0.2
        assert found.growth < standard.growth - 0.2
        if optimizer == "adam":
            assert standard.slopes()["4"] > 0.5
        assert list(found.slopes()) == ["0", "2", "4", ""]

    def test_transformers(self):
        def loss(model, step):
            tokens = torch.randint(20, (8, 6), generator=torch.Generator().manual_seed(step))
            return F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())

        found = ti.coord_check(Tokens, loss, (16, 32, 64, 128), seeds=1, steps=3)
        assert found.growth < 0.25
        assert {"embedding", "norm", "head", ""} <= set(found.slopes())

    def test_a_wrong_rate_is_seen(self, monkeypatch):
        """As of a hidden weight that is trained at the base's rate at every width."""

        def wrong(model, base, lr, **given):
            return [{"params": list(model.parameters()), "lr": lr}]

        monkeypatch.setattr(coordinates, "mup_groups", wrong)
        assert ti.coord_check(perceptron, loss, WIDTHS, seeds=1).growth > 0.5

    def test_numbers_and_their_order(self):
        found = ti.coord_check(perceptron, loss, (16, 32), steps=2, seeds=1)
        assert (found.widths, found.steps) == ((16, 32), 2)
        assert len(found.coordinates) == 2 * 3 * 4
        first, again = (
            found.coordinates,
            ti.coord_check(perceptron, loss, (16, 32), steps=2, seeds=1).coordinates,
        )
        assert first == again
        assert [(each.width, each.step, each.name) for each in first[:5]] == [
            *((16, 0, name) for name in ("0", "2", "4", "")),
            (16, 1, "0"),
        ]
        model = perceptron(16)
        ti.initialize_(model, seed=0)
        with torch.no_grad():
            assert first[0].size == pytest.approx(model[0](DATA).abs().mean().item(), rel=1e-6)
            assert first[3].size == pytest.approx(model(DATA).abs().mean().item(), rel=1e-6)

    def test_slopes(self):
        points = [
            coordinates.Coordinate(w, 0, n, s) for w in (1, 2, 4) for n, s in (("a", w**0.5), ("b", 0.0))
        ]
        found = coordinates.CoordCheck((1, 2, 4), 0, tuple(points))
        assert found.slopes() == {"a": pytest.approx(0.5), "b": -math.inf}
        assert found.slopes(0) == found.slopes(-1)
        with pytest.raises(IndexError):
            found.slopes(1)

    def test_a_figure(self, tmp_path):
        pytest.importorskip("matplotlib")
        path = tmp_path / "check.svg"
        ti.coord_check(perceptron, loss, (8, 16), steps=1, seeds=1).plot(path)
        text = path.read_text()
        assert text.count("step ") >= 2
        assert "output" in text

    @pytest.mark.parametrize(
        ("given", "match"),
        [
            ({"widths": (8,)}, "two widths"),
            ({"widths": (8, 8)}, "two widths"),
            ({"widths": (0, 8)}, "two widths"),
            ({"steps": -1}, "steps"),
            ({"seeds": 0}, "seeds"),
            ({"lr": math.nan}, "rate"),
            ({"optimizer": "lion"}, "adam, sgd"),
        ],
    )
    def test_mistakes(self, given, match):
        with pytest.raises(ValueError, match=match):
            ti.coord_check(perceptron, loss, **{"widths": (8, 16), **given})

    def test_a_loss_that_is_not_finite(self):
        with pytest.raises(ValueError, match="width 8: the loss of step 1 is nan"):
            ti.coord_check(perceptron, lambda m, k: loss(m, 0) * (math.nan if k else 1), (8, 16), seeds=1)


class TestRates:
    """Yang et al. 2022, table 3."""

    def test_adam(self):
        rates = ti.mup_rates(Tokens(64), Tokens(16))
        assert rates == {
            "embedding.weight": 1.0,
            "norm.weight": 1.0,
            "norm.bias": 1.0,
            "attention.in_proj_weight": 0.25,
            "attention.in_proj_bias": 1.0,
            "attention.out_proj.weight": 0.25,
            "attention.out_proj.bias": 1.0,
            "head.weight": 0.25,
        }

    def test_sgd(self):
        rates = ti.mup_rates(Tokens(64), Tokens(16), optimizer="sgd")
        assert rates == {
            "embedding.weight": 4.0,
            "norm.weight": 4.0,
            "norm.bias": 4.0,
            "attention.in_proj_weight": 1.0,
            "attention.in_proj_bias": 4.0,
            "attention.out_proj.weight": 1.0,
            "attention.out_proj.bias": 4.0,
            "head.weight": 0.25,
        }

    def test_widths_that_do_not_grow_alike(self):
        """microsoft/mup, MuSGD: the ratio of what fan_in and fan_out have become."""
        wide, base = nn.Linear(32, 16), nn.Linear(8, 8)
        assert ti.mup_rates(wide, base, optimizer="sgd") == {"weight": 0.5, "bias": 2.0}
        assert ti.mup_rates(wide, base) == {"weight": 0.25, "bias": 1.0}

    def test_recurrent_and_convolutional(self):
        rates = ti.mup_rates(nn.LSTM(5, 32), nn.LSTM(5, 8))
        assert rates == {"weight_ih_l0": 1.0, "weight_hh_l0": 0.25, "bias_ih_l0": 1.0, "bias_hh_l0": 1.0}
        wide, base = (nn.Conv2d(c, 2 * c, 3, groups=c) for c in (16, 4))
        assert ti.mup_rates(wide, base)["weight"] == 1.0  # each output sums over one channel's nine

    def test_at_the_base_width(self):
        for optimizer in ("adam", "sgd"):
            assert set(ti.mup_rates(Tokens(16), Tokens(16), optimizer=optimizer).values()) == {1.0}

    def test_on_the_meta_device(self):
        with torch.device("meta"):
            base = Tokens(16)
        assert ti.mup_rates(Tokens(64), base) == ti.mup_rates(Tokens(64), Tokens(16))

    def test_axes_that_rules_say(self):
        def experts(width):
            module = nn.Module()
            module.w = nn.Parameter(torch.empty(4, width, 3 * width))
            return module

        with pytest.raises(ValueError, match=r"^w: "):
            ti.mup_rates(experts(8), experts(4))
        rules = [ti.Rule("w", ti.Scaled(ti.KaimingNormal(axes=ti.Axes((-2,), (-1,), (0,))), 2.0))]
        assert ti.mup_rates(experts(8), experts(4), rules=rules) == {"w": 0.5}

    def test_what_base_has_not(self):
        with pytest.raises(ValueError, match=r"^bias: the base model has no such parameter"):
            ti.mup_rates(nn.Linear(4, 4), nn.Linear(4, 4, bias=False))
        with pytest.raises(ValueError, match="adam, sgd"):
            ti.mup_rates(nn.Linear(4, 4), nn.Linear(4, 4), optimizer="Adam")

    def test_groups(self):
        model, base = Tokens(64), Tokens(16)
        model.norm.bias.requires_grad_(False)
        groups = ti.mup_groups(model, base, 0.5, weight_decay=0.1)
        assert [(each["lr"], each["weight_decay"]) for each in groups] == [(0.5, 0.1), (0.125, 0.4)]
        held = [parameter for each in groups for parameter in each["params"]]
        assert len(held) == len(set(held)) == len(list(model.parameters())) - 1
        optimizer = torch.optim.AdamW(groups, lr=1.0)
        assert [each["lr"] for each in optimizer.param_groups] == [0.5, 0.125]
        assert "weight_decay" not in ti.mup_groups(model, base, 0.5)[0]
        with pytest.raises(ValueError, match="finite and not negative"):
            ti.mup_groups(model, base, -1.0)

    def test_tied_and_parametrised(self):
        model, base = (nn.Sequential(nn.Embedding(9, w), nn.Linear(w, 9, bias=False)) for w in (32, 8))
        for each in (model, base):
            each[1].weight = each[0].weight
        assert ti.mup_rates(model, base) == {"0.weight": 1.0}
        normed = [nn.utils.parametrizations.weight_norm(nn.Linear(w, w)) for w in (32, 8)]
        groups = ti.mup_groups(*normed, 1.0)
        assert sum(len(each["params"]) for each in groups) == 3
