"""Parts of a sharded model drawn again: each rank's part of what one process would have."""

import warnings

import pytest
import torch
from torch import nn
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

import tritoninit as ti
from tests.distributed.ranks import expected, meshes, numbered

MESHES = [((2,), [Shard(0)]), ((3,), [Shard(1)]), ((2, 2), [Shard(1), Shard(0)]), ((2,), [Replicate()])]


def trained():
    layer = nn.Linear(10, 14)
    with torch.no_grad():
        layer.weight.copy_(numbered(14, 10))
        layer.bias.fill_(3.0)
    return layer


def sharded(mesh, placements):
    layer = trained()
    for name in ("weight", "bias"):
        whole = getattr(layer, name).detach()
        ours = placements if name == "weight" else [Replicate()] * mesh.ndim
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a group that does not communicate
            setattr(layer, name, nn.Parameter(distribute_tensor(whole, mesh, ours, src_data_rank=None)))
    return layer


CHANGES = {
    "rows": lambda layer: ti.reinitialize_(layer, seed=4, step=2, rows={"weight": [0, 6, 13], "bias": [6]}),
    "columns": lambda layer: ti.reinitialize_(layer, seed=4, columns={"weight": [9, 3]}),
    "mask": lambda layer: ti.reinitialize_(layer, seed=4, masks={"weight": numbered(14, 10) % 3 == 0}),
    "orthogonal": lambda layer: ti.reinitialize_(
        layer, [ti.Rule("weight", ti.Orthogonal()), *ti.TORCH_DEFAULTS], seed=4, rows={"weight": [2, 8]}
    ),
    "layer": lambda layer: ti.reinitialize_(layer, seed=4, only="weight"),
    "shrink": lambda layer: ti.shrink_and_perturb_(layer, seed=4, shrink=0.5, perturb=0.25),
    "rows, rounded at random": lambda layer: ti.reinitialize_(
        layer.bfloat16(), seed=4, rows={"weight": [0, 6, 13], "bias": [6]}, rounding="stochastic"
    ),
    "shrink, rounded at random": lambda layer: ti.shrink_and_perturb_(
        layer.bfloat16(), seed=4, shrink=0.97, perturb=0.25, rounding="stochastic"
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize(("shape", "placements"), MESHES, ids=str)
def test_every_rank_has_its_part(change, shape, placements):
    whole = trained()
    CHANGES[change](whole)
    assert not whole.weight.equal(numbered(14, 10))
    for mesh in meshes(*shape):
        layer = sharded(mesh, placements)
        numbers = distribute_tensor(numbered(14, 10), mesh, placements, src_data_rank=None).to_local()
        CHANGES[change](layer)
        assert layer.weight.to_local().equal(expected(whole.weight, numbers))
        assert layer.bias.to_local().equal(whole.bias)
