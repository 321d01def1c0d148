"""What ranks agree on, where there is one; real ones are in tests/distributed."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import tritoninit as ti
from tritoninit import agreement
from tritoninit.agreement import exactly


def test_one_process_agrees_with_itself(monkeypatch):
    """By one gather of little, and by none unless it is asked."""
    told = []

    def alone(mine, group=None):
        told.append((mine, group))
        return [mine]

    monkeypatch.setattr(agreement, "of_all_ranks", alone)
    model, other = nn.Linear(3, 4), nn.Linear(3, 4)
    ti.initialize_(model, seed=5)
    assert not told
    ti.initialize_(other, seed=5, check_ranks=True)
    assert model.weight.equal(other.weight)
    [(digest, group)] = told
    assert (len(digest), group) == (32, None)


def test_an_error_is_told(monkeypatch):
    told = []
    monkeypatch.setattr(agreement, "of_all_ranks", lambda mine, group: told.append(mine) or [mine])
    for how in ({"seed": "five"}, {"rules": 3}, {"device": "meta"}, {"only": "nothing"}):
        with pytest.raises((TypeError, ValueError)):
            ti.initialize_(nn.Linear(3, 4), check_ranks=True, **how)
    assert [failure.why.split(":")[0] for failure in told] == [
        "NumberError",
        "TypeError",
        "ValueError",
        "ValueError",
    ]


def test_buffers_that_are_computed_and_lazy_parameters():
    """What is planned for them, too."""
    with torch.device("meta"):
        model = nn.Sequential(nn.BatchNorm1d(3), nn.LazyLinear(4))
    ti.initialize_(model, seed=1, skip="1", device="cpu", check_ranks=True)
    assert model[0].running_var.eq(1).all()


@dataclass(frozen=True)
class Own(ti.Elementwise):
    """With what has no repr of its own."""

    how: object
    numbers: object = None

    def fill(self, shape):
        return ti.Normal()


class Nameless:
    pass


def test_exactly():
    """Equal on all ranks if values are, and on no others."""
    values = torch.arange(3.0)
    for a, b in (
        (ti.Normal(0.0, 0.1), ti.Normal(0.0, 0.1)),
        (ti.Value(values), ti.Value(values.clone())),
        (ti.Stacked((ti.Value(values), ti.Zeros())), ti.Stacked((ti.Value(values * 1), ti.Zeros()))),
        (Own(len, {"a": np.arange(3)}), Own(len, {"a": np.arange(3)})),
        (Own(Nameless()), Own(Nameless())),
        (Own(np.random.default_rng(0)), Own(np.random.default_rng(0))),
        (Own({"a", "b", "c"}), Own({"c", "b", "a"})),
        (Own(nn.Linear), Own(nn.Linear)),
        (Own(partial(max, 1)), Own(partial(max, 1))),
    ):
        assert exactly(a) == exactly(b)
        assert " at 0x" not in exactly(a)
    for a, b in (
        (ti.Normal(0.0, 0.1), ti.Normal(0.0, np.nextafter(0.1, 1.0))),
        (ti.Value(values), ti.Value(values + 1)),
        (ti.Value(values), ti.Value(values.double())),
        (ti.Scaled(ti.Orthogonal(), 2.0), ti.Scaled(ti.Orthogonal(), 3.0)),
        (Own(len), Own(max)),
        (Own(partial(max, 1)), Own(partial(max, 2))),
        (Own(partial(max, key=len)), Own(partial(max, key=abs))),
        (Own({1, 2}), Own({1, 3})),
        (Own(len, {"a": np.arange(3)}), Own(len, {"a": np.arange(3) + 1})),
    ):
        assert exactly(a) != exactly(b)


def test_every_rank_plans_alike(monkeypatch):
    """Whatever its rules are: no address, no order of a set, no generator's state is in what it tells."""
    told = []
    monkeypatch.setattr(agreement, "of_all_ranks", lambda mine, group: told.append(mine) or [mine])
    for _ in range(2):
        model = nn.Sequential(
            nn.Embedding(9, 4, padding_idx=1), nn.LSTM(4, 4), nn.MultiheadAttention(4, 2), nn.BatchNorm1d(4)
        )
        rules = [
            ti.Rule("1.weight_hh*", ti.Orthogonal()),
            ti.Rule("2.in_proj_weight", ti.Value(np.ones((12, 4)))),
            *ti.TORCH_DEFAULTS,
        ]
        ti.initialize_(model, rules, seed=0, check_ranks=True)
        torch.rand(3)
    assert told[0] == told[1]


def test_parts_are_planned_as_the_whole(monkeypatch):
    """Names and shapes are the whole's; which part a rank has, and where, it keeps to itself."""
    told = []
    monkeypatch.setattr(agreement, "of_all_ranks", lambda mine, group: told.append(mine) or [mine])

    def plan(rows, offset, size, **how):
        model = nn.Linear(3, rows, bias=False)
        windows = {"up.weight": ti.Window((size, 3), (offset, 0))}
        ti.initialize_(model, seed=0, prefix="up", windows=windows, check_ranks=True, **how)
        return told.pop()

    whole = nn.Module()
    whole.up = nn.Linear(3, 8, bias=False)
    ti.initialize_(whole, seed=0, check_ranks=True)
    right = told.pop()
    assert plan(4, 0, 8) == plan(3, 4, 8) == right
    assert plan(4, 0, 9) != right
    assert plan(4, 0, 8, dtype=torch.bfloat16) != right


@pytest.mark.parametrize("ranks", [None, 0, 1, "world", [0, 1]])
def test_what_is_no_group(ranks):
    """A typing mistake neither asks everyone nor nobody."""
    with pytest.raises(TypeError, match="check_ranks is True, False or a process group, not "):
        ti.initialize_(nn.Linear(3, 4), check_ranks=ranks)
