"""Tables that a formula makes are told from what is drawn, so that two of the same are no finding."""

import math

import pytest
import torch
from torch import nn

import tritoninit as ti
from tritoninit.auditing.findings import audit
from tritoninit.auditing.formulas import looks_drawn


def angles(positions, width, first=0.0, base=10000.0):
    frequencies = base ** (-torch.arange(width // 2, dtype=torch.float64) / (width // 2))
    return (first + torch.arange(positions, dtype=torch.float64))[:, None] * frequencies


def interleaved(positions, width, first=0.0):
    a = angles(positions, width, first)
    return torch.stack([a.sin(), a.cos()], -1).flatten(1)


def concatenated(positions, width, first=0.0, base=10000.0):
    a = angles(positions, width, first, base)
    return torch.cat([a.sin(), a.cos()], 1)


def on_a_grid(side, width, first=0.0):
    """Masked autoencoders'."""
    half = concatenated(side, width // 2, first)
    return torch.cat([half.repeat(side, 1), half.repeat_interleave(side, 0)], 1)


def fourier(n):
    k = torch.arange(n, dtype=torch.float64)
    return (2 * math.pi / n * k[:, None] * k + 0.1).cos()


TABLES = {
    "interleaved": interleaved(100, 64),
    "interleaved from 1": interleaved(100, 64, 1),
    "interleaved from 2, wide": interleaved(20, 512, 2),
    "narrow": interleaved(50, 4, 1),
    "few positions": interleaved(5, 256, 1),
    "concatenated from 1": concatenated(77, 32, 1),
    "cosines first": angles(60, 48, 1).cos(),
    "positions as columns": concatenated(64, 32, 1).T,
    "with a batch's dimension": interleaved(64, 32, 1)[None],
    "scaled": 22.6 * interleaved(64, 32, 1),
    "grid from 1": on_a_grid(14, 192, 1),
    "rotary cosines": torch.cat([angles(64, 32).cos()] * 2, 1),
    "rotary cosines, long": angles(64, 64, 3, 500000.0).cos(),
    "four octaves": (torch.linspace(0.01, 1, 64)[:, None] * 2.0 ** torch.arange(8) * math.pi).sin(),
    "fourier": fourier(64),
    "window": 0.3 + torch.hann_window(200, dtype=torch.float64),
    "one sinusoid": (0.7 + 1.9 * torch.arange(200, dtype=torch.float64)).sin(),
    "relative positions": (torch.arange(64)[:, None] - torch.arange(64)).double() + 0.5,
    "logarithms": (1 + (torch.arange(32)[:, None] - torch.arange(32)).abs()).double().log() + 0.1,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
@pytest.mark.parametrize("frozen", [False, True])
def test_tables_that_repeat(table, dtype, frozen):
    """Trained or frozen, under encoder and decoder, or at two lengths."""
    module = nn.Module()
    module.encoder = nn.Parameter(table.to(dtype).clone(), requires_grad=not frozen)
    module.decoder = nn.Parameter(table.to(dtype).clone(), requires_grad=not frozen)
    module.longer = nn.Parameter(table.to(dtype).expand(1, *table.shape).clone(), requires_grad=not frozen)
    module.register_buffer("cache", table.to(dtype).clone())
    assert audit(module).ok


RANDOM = {
    "linear": lambda: nn.Linear(40, 24).weight,
    "bias": lambda: nn.Linear(40, 24).bias,
    "convolution": lambda: nn.Conv2d(8, 4, 3).weight,
    "wide": lambda: nn.Linear(5000, 2).weight,
    "narrow": lambda: nn.Linear(1, 5000).weight,
    "embedding": lambda: nn.Embedding(100, 8).weight,
    "few": lambda: nn.Parameter(torch.randn(4, 4)),
    "orthogonal": lambda: nn.Parameter(nn.init.orthogonal_(torch.empty(32, 32))),
    "truncated": lambda: nn.Parameter(nn.init.trunc_normal_(torch.empty(99, 9), 0, 1, -1, 1)),
    "about one": lambda: nn.Parameter(1 + 0.01 * torch.randn(700)),
    "rows of many scales": lambda: nn.Parameter(torch.randn(64, 64) * torch.logspace(-2, 0, 64)[:, None]),
    "columns of many scales": lambda: nn.Parameter(torch.randn(64, 64) * torch.logspace(-2, 0, 64)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("draw", RANDOM.values(), ids=RANDOM)
def test_the_same_random_numbers_are_found(draw, dtype):
    if dtype == torch.bfloat16 and draw is RANDOM["about one"]:
        return  # of which bfloat16 has eight numbers
    for seed in range(20):
        module = nn.ParameterList()
        for _ in range(2):
            torch.manual_seed(seed)
            module.append(draw().to(dtype))
        module = nn.ModuleList([nn.ParameterList([p]) for p in module])
        assert audit(module).findings == ("{0,1}.0 hold the same random numbers",)


def test_every_fill_looks_drawn():
    fills = (ti.Normal(), ti.Uniform(-1.0, 1.0), ti.Uniform(1.0, 2.0), ti.TruncatedNormal(0.0, 1.0, 0.0, 3.0))
    for seed, fill in enumerate(fills * 100):
        for shape in ((16,), (256,), (7, 9), (64, 3, 3)):
            assert looks_drawn(fill(torch.empty(shape), key=ti.Key(seed)))
