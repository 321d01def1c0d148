"""Calls of torch.nn.init's functions, and what this library writes for them."""

import io
import math

import pytest
import torch
from torch import nn

import tritoninit
from tritoninit import Key

KEPT = dict(vars(nn.init))  # as transformers keeps them, since before any block

CALLS = [
    ("uniform_", (6, 4), (-0.5, 0.25)),
    ("normal_", (6, 4), (0.1, 0.02)),
    ("trunc_normal_", (6, 4), (0.0, 0.02, -0.03, 0.04)),
    ("constant_", (6, 4), (0.3,)),
    ("ones_", (6, 4), ()),
    ("zeros_", (6, 4), ()),
    ("eye_", (6, 4), ()),
    ("dirac_", (6, 4, 3), (2,)),
    ("xavier_uniform_", (6, 4), (1.5,)),
    ("xavier_normal_", (6, 4, 2), (0.5,)),
    ("kaiming_uniform_", (6, 4), (math.sqrt(5),)),
    ("kaiming_normal_", (6, 4), (0, "fan_out", "relu")),
    ("orthogonal_", (6, 4), (0.7,)),
    ("sparse_", (6, 4), (0.4, 0.1)),
]
DETERMINED = {"constant_", "ones_", "zeros_", "eye_", "dirac_"}

calls = pytest.mark.parametrize(("name", "shape", "arguments"), CALLS, ids=[name for name, *_ in CALLS])


def key(number, seed=0):
    return Key(seed).fold_in(number)


def ours(name, shape, arguments, number=0, dtype=torch.float32, seed=0):
    """What the functional interface writes with the key of the block's random fill of that number."""
    keyed = {} if name in DETERMINED else {"key": key(number, seed)}
    return getattr(tritoninit, name)(torch.full(shape, torch.nan, dtype=dtype), *arguments, **keyed)


def nans(*shape, dtype=torch.float32):
    return torch.full(shape, torch.nan, dtype=dtype)


def parameter(*shape, dtype=torch.float32):
    return nn.Parameter(nans(*shape, dtype=dtype))


def saved(value):
    file = io.BytesIO()
    torch.save(value, file)
    file.seek(0)
    return torch.load(file, weights_only=True)
