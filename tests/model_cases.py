"""Models that the tests of whole models initialise, and how they look at them."""

import pytest
import torch
from torch import nn

from tritoninit import (
    TORCH_DEFAULTS,
    Normal,
    Rule,
    initialize_,
)

NOISE = [Rule("*", Normal())]


META = torch.device("meta")


# torch.compile imports parts of torch that use what torch deprecates.
INDUCTOR = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


class Block(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.fc = nn.Linear(width, 2 * width)


class Model(nn.Module):
    def __init__(self, depth=2):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight


def poisoned(model=None):
    model = Model() if model is None else model
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.fill_(torch.nan)
    return model


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal_states(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert tensor.equal(other[name]), name


def initialized(model=None, rules=TORCH_DEFAULTS, **keywords):
    model = poisoned(model)
    initialize_(model, rules, seed=0, **keywords)
    return model
