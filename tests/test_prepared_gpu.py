"""Prepared models and ensembles on a GPU: the bits of initialize_, CUDA graphs that draw by a seed there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import tritoninit as ti
from tests.test_prepared import state

pytestmark = pytest.mark.gpu
SEEDS = (0, 7, -3, 2**64 - 1)


@pytest.fixture(autouse=True)
def _needs_a_gpu():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")


def model():
    found = nn.Sequential(nn.Linear(9, 7), nn.BatchNorm1d(7), nn.Linear(7, 4), nn.Embedding(50, 64)).cuda()
    found[2].bfloat16()
    return found


def expected(module, seed, *rules):
    there = {name: x.cpu() for name, x in state(module).items()}
    ti.initialize_(module, *rules, seed=seed)
    right = {name: x.cpu() for name, x in state(module).items()}
    assert there.keys() == right.keys()
    return right


def assert_is(module, right):
    for name, x in state(module).items():
        assert torch.equal(x.cpu(), right[name]), name


def poison(module):
    with torch.no_grad():
        for each in module.parameters():
            each.fill_(torch.nan)


def test_the_bits_of_initialize():
    module = model()
    prepared = ti.prepare(module)
    for seed in SEEDS:
        right = expected(module, seed)
        poison(module)
        prepared(seed)
        assert_is(module, right)
        poison(module)
        signed = seed - 2**64 if seed >= 2**63 else seed
        prepared(torch.tensor(signed, device="cuda"))
        assert_is(module, right)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
def test_a_call_does_not_wait():
    module = model()
    prepared = ti.prepare(module)
    prepared(1)
    seed = torch.tensor([2], device="cuda")
    try:
        torch.cuda.set_sync_debug_mode("error")
        prepared(3)
        prepared(seed)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_replays_draw_by_the_seed_that_is_there():
    module = model()
    prepared = ti.prepare(module)
    seed = torch.zeros(1, dtype=torch.int64, device="cuda")
    prepared(seed)  # compiled, and loaded
    right = {each: expected(module, each) for each in SEEDS}
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        prepared(seed)
    for each in SEEDS:
        poison(module)
        seed.fill_(each - 2**64 if each >= 2**63 else each)
        graph.replay()
        torch.cuda.synchronize()
        assert_is(module, right[each])


@pytest.mark.filterwarnings("ignore:The CUDA Graph is empty:UserWarning")  # it is: nothing was captured
def test_what_is_built_cannot_be_captured():
    rules = [ti.Rule("0.weight", ti.Orthogonal()), *ti.TORCH_DEFAULTS]
    prepared = ti.prepare(model(), rules)
    seed = torch.zeros(1, dtype=torch.int64, device="cuda")
    prepared(seed)
    graph = torch.cuda.CUDAGraph()
    with pytest.raises(RuntimeError, match=r"drawn by way of the host: 0\.weight"), torch.cuda.graph(graph):
        prepared(seed)


def test_members():
    module = model()
    members = ti.ensemble(module, SEEDS)
    assert all(x.is_cuda for x in members.values())
    for number, seed in enumerate(SEEDS):
        right = expected(module, seed)
        for name, x in members.items():
            assert torch.equal(x[number].cpu(), right[name]), name
