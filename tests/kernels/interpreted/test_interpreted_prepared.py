"""Kept tables in Triton's interpreter: prepared models and ensembles, against the reference's bits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tritoninit as ti


def model():
    found = nn.Sequential(nn.Linear(9, 7), nn.BatchNorm1d(7), nn.Linear(7, 4).bfloat16(), nn.Embedding(5, 8))
    found[0].weight = nn.Parameter(torch.empty(7, 12)[:, :9])  # goes by rows
    found[3].weight = nn.Parameter(torch.empty(8, 5).T)  # and no run or row of the stream goes through this
    return found


def state(module):
    return {name: x.detach().clone() for name, x in (*module.named_parameters(), *module.named_buffers())}


def expected(module, seed):
    with ti.use_backend("numpy"):
        ti.initialize_(module, seed=seed)
    return state(module)


def test_prepared():
    module = model()
    with ti.use_backend("triton"):
        prepared = ti.prepare(module)
        for seed in (0, 2**64 - 1, 12345678901):
            right = expected(module, seed)
            with torch.no_grad():
                for each in module.parameters():
                    each.fill_(torch.nan)
            prepared(torch.tensor([seed - 2**64]) if seed >= 2**63 else seed)
            assert all(torch.equal(x, right[name]) for name, x in state(module).items())


@pytest.mark.parametrize("size", [8, 3])  # members that begin on a grid of 16 bytes, and others
def test_ensemble(size):
    module = nn.Sequential(nn.Linear(size, 4), nn.BatchNorm1d(4), nn.Linear(4, size).half())
    rules = [ti.Rule("0.weight", ti.ZeroRow(ti.TruncatedNormal(), 1)), *ti.TORCH_DEFAULTS]
    seeds = (3, -1, 2**40)
    with ti.use_backend("triton"):
        members = ti.ensemble(module, seeds, rules)
    for number, seed in enumerate(seeds):
        with ti.use_backend("numpy"):
            ti.initialize_(module, rules, seed=seed)
        for name, x in state(module).items():
            assert torch.equal(members[name][number], x), (name, seed)
