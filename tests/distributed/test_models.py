"""Sharded models: every rank's part of the one model, whatever the mesh."""

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import tritoninit as ti
from tests.distributed.ranks import expected, meshes
from tritoninit import Rule


class Rotary(nn.Module):
    """A buffer that is computed, and is not in the state dict."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer("angles", torch.empty(width), persistent=False)
        self.reset_parameters()

    def reset_parameters(self):
        self.angles.copy_(10.0 ** -torch.arange(self.angles.numel(), device=self.angles.device))


class Block(nn.Module):
    def __init__(self, width, hidden, words):
        super().__init__()
        self.embedding = nn.Embedding(words, width, padding_idx=1)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.norm = nn.LayerNorm(width)
        self.odd = nn.Parameter(torch.empty(7, 3, 5))  # uneven on every mesh
        self.square = nn.Linear(width, width, bias=False)
        self.qkv_proj = nn.Linear(width, 3 * width, bias=False)  # parts with fans of their own
        self.experts = nn.Parameter(torch.empty(4, 6, width))
        self.gates = nn.Linear(width, 2 * width, bias=False)
        self.head = nn.Linear(width, words, bias=False)
        self.head.weight = self.embedding.weight
        self.rotary = Rotary(width)


RULES = [
    Rule("odd", ti.TruncatedNormal(0.0, 0.02, -0.05, 0.05)),
    Rule("square.weight", ti.Orthogonal()),
    Rule("qkv_proj.weight", ti.XavierUniform()),
    Rule("experts", ti.KaimingNormal(axes=ti.Axes((2,), (1,), (0,)))),
    Rule("gates.weight", ti.Stacked((ti.Orthogonal(), ti.Normal(0.0, 0.5)))),
    *ti.TORCH_DEFAULTS,
]
SIZES = {"uneven": (10, 14, 11), "even": (8, 16, 16)}
TENSOR_PARALLEL = {
    "embedding": RowwiseParallel(),
    "up": ColwiseParallel(),
    "down": RowwiseParallel(),
    "qkv_proj": ColwiseParallel(),
    "gates": ColwiseParallel(),
}


def on_one(sizes, dtype=torch.float32):
    model = Block(*SIZES[sizes])
    ti.initialize_(model, RULES, seed=3, dtype=dtype)
    return model.state_dict() | dict(model.named_buffers())


def fsdp(model, mesh):
    return fully_shard(model, mesh=mesh)


def blocks(model, mesh):
    """Some layers are apart, and cut along dimension 1, and the rest of the model is around them."""
    fully_shard(model.square, mesh=mesh, shard_placement_fn=lambda p: Shard(1))
    fully_shard(model.up, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def tensor_parallel(model, mesh):
    parallelize_module(model, mesh, dict(TENSOR_PARALLEL), src_data_rank=None)
    model.head.weight = model.embedding.weight  # which parallelize_module makes two of
    return model


def both(model, mesh):
    tensor_parallel(model, mesh["b"])
    return fully_shard(model, mesh=mesh["a"])


LAYOUTS = {
    "FSDP2": (fsdp, (3,), "uneven"),
    "FSDP2 of blocks": (blocks, (2,), "even"),
    "HSDP": (fsdp, (2, 2), "uneven"),
    "TP": (tensor_parallel, (2,), "even"),
    "FSDP2 x TP, even": (both, (2, 2), "even"),
    "FSDP2 x TP": (both, (3, 2), "even"),
}


def held_of(model, layout, mesh):
    """The numbers of the elements that a rank holds, by torch's own means, of a model of plain memory."""
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.arange(p.numel(), dtype=torch.float32).reshape(p.shape))
    return {name: local(p).clone() for name, p in layout(model, mesh).named_parameters()}


def local(p):
    return p.detach().to_local() if isinstance(p, DTensor) else p.detach()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_from_meta(name, dtype):
    """Built there, sharded by torch's engine, and given memory and values in one call."""
    layout, mesh_shape, sizes = LAYOUTS[name]
    whole = on_one(sizes, dtype)
    for mesh in meshes(*mesh_shape):
        numbers = held_of(Block(*SIZES[sizes]), layout, mesh)
        with torch.device("meta"):
            model = layout(Block(*SIZES[sizes]), mesh)
        before = dict(model.named_parameters())
        ti.initialize_(model, RULES, seed=3, device="cpu", dtype=dtype)
        assert model.head.weight is model.embedding.weight
        for parameter, p in model.named_parameters():
            assert p is before[parameter] or not isinstance(p, DTensor)  # whom optimizers and FSDP know
            assert p.device.type == "cpu"
            assert p.dtype == dtype
            assert local(p).equal(expected(whole[parameter], numbers[parameter])), parameter
        assert model.rotary.angles.equal(whole["rotary.angles"])
