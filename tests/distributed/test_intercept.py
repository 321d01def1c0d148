"""Code written for torch, about models that are sharded: every rank's part of what one process has."""

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

import tritoninit as ti
from tests.distributed.ranks import expected, meshes, numbered


class Block(nn.Module):
    """Initialised after it was sharded, as torchtitan's models are."""

    def __init__(self):
        super().__init__()
        self.up = nn.Linear(6, 7)
        self.norm = nn.LayerNorm(7)
        self.down = nn.Linear(7, 6, bias=False)
        self.scale = nn.Parameter(torch.empty(5, 3))
        self.register_buffer("count", torch.empty(3))

    def init_weights(self):
        self.up.reset_parameters()
        self.norm.reset_parameters()
        nn.init.orthogonal_(self.down.weight, 2.0)
        self.scale.data.uniform_(-1.0, 3.0)
        nn.init.trunc_normal_(self.up.bias, std=0.02)
        self.count.zero_()


def told(intercepted, model):
    return [(each.name, each.initializer, each.key) for each in intercepted.assignments(model)]


def whole():
    model = Block()
    with ti.intercept(seed=5) as intercepted:
        model.init_weights()
    return model, told(intercepted, model)


def shard(model, mesh):
    return fully_shard(model, mesh=mesh)


def two_dimensions(model, mesh):
    parallelize_module(model, mesh["b"], {"up": ColwiseParallel()}, src_data_rank=None)
    return fully_shard(model, mesh=mesh["a"])


@pytest.mark.parametrize(("layout", "mesh_shape"), [(shard, (3,)), (shard, (8,)), (two_dimensions, (2, 2))])
def test_initialised_after_sharding(layout, mesh_shape):
    one, calls = whole()
    for mesh in meshes(*mesh_shape):
        numbers = Block()
        with torch.no_grad():
            for parameter in numbers.parameters():
                parameter.copy_(numbered(*parameter.shape))
        numbers = dict(layout(numbers, mesh).named_parameters())
        with torch.device("meta"):
            model = layout(Block(), mesh)
        model.to_empty(device="cpu")
        with ti.intercept(seed=5) as intercepted:
            model.init_weights()
        assert not intercepted.passed_on
        assert told(intercepted, model) == calls
        for name, parameter in model.named_parameters():
            values = expected(one.get_parameter(name).detach(), numbers[name].to_local())
            assert parameter.to_local().equal(values), name
        assert intercepted.report(model).audit.ok


@pytest.mark.parametrize("change", [lambda x: x.mul_(2.0), lambda x: x.to_local().mul_(2.0)])
def test_what_was_changed_since_is_not_told(change):
    for mesh in meshes(2):
        parameter = nn.Parameter(distribute_tensor(torch.zeros(4, 4), mesh, [Shard(1)], src_data_rank=None))
        model = nn.ParameterDict({"a": parameter})
        with ti.intercept(seed=0) as intercepted:
            nn.init.normal_(parameter)
            before = parameter.to_local().clone()
            assert told(intercepted, model) == [("a", ti.Normal(), ti.Key(0).fold_in(0))]
            with torch.no_grad():
                change(parameter)
        assert parameter.to_local().equal(before * 2)
        assert not told(intercepted, model)


def test_sharded_in_the_block():
    """What is still pending is there when the shards are cut."""
    with ti.intercept(seed=0):
        one = nn.Linear(6, 7)
    for mesh in meshes(2):
        numbers = distribute_tensor(numbered(7, 6), mesh, [Shard(0)], src_data_rank=None).to_local()
        with ti.intercept(seed=0):
            model = fully_shard(nn.Linear(6, 7), mesh=mesh)
            other = nn.Linear(6, 7)
            weight = distribute_tensor(other.weight, mesh, [Shard(0)], src_data_rank=None)
        assert model.weight.to_local().equal(expected(one.weight.detach(), numbers))
        assert weight.to_local().equal(expected(other.weight.detach(), numbers))


def test_refusals_are_torchs():
    """What this library does not serve goes to torch, and is listed."""
    for mesh in meshes(2):
        x = distribute_tensor(torch.zeros(4, 4), mesh, [Shard(0)], src_data_rank=None)
        with ti.intercept(seed=0) as intercepted, pytest.warns(UserWarning, match="random operators"):
            nn.init.normal_(x, 0.0, 1e38)  # of whose numbers float32 does not hold all
        (passed,) = intercepted.passed_on
        assert (passed.function, "float32" in passed.reason) == ("torch.nn.init.normal_", True)
        assert x.to_local().std() > 0
