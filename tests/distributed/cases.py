"""What real ranks do together; test_processes.py says what has to come of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import tritoninit as ti
from tests.distributed import small
from tests.distributed.processes import Cases

CASES = Cases()
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def on_meta(**sizes: Any) -> small.Model:
    with torch.device("meta"):
        return small.Model(**sizes)


def sharded(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    """Each layer apart, and the rest around them."""
    for layer in model.layers.values():
        fully_shard(layer, mesh=mesh)
    return fully_shard(model, mesh=mesh)


def tensor_parallel(model: nn.Module, mesh: DeviceMesh) -> nn.Module:
    parts = {f"layers.{number}.{part}": how() for number in "01" for part, how in LAYER.items()}
    parallelize_module(model, mesh, {**parts, **{part: how() for part, how in ENDS.items()}}, src_data_rank=None)
    model.head.weight = model.embedding.weight  # which parallelize_module makes two of
    return model


# Uneven parts have to be handed on as what they are: of a local one torch takes all to be of its size.
LAYER = {"up": lambda: ColwiseParallel(use_local_output=False), "down": RowwiseParallel}
ENDS = {
    "embedding": lambda: ColwiseParallel(output_layouts=Replicate()),
    "head": lambda: RowwiseParallel(input_layouts=Replicate()),
}


def trained(model: nn.Module, mesh: DeviceMesh | None, dtype: torch.dtype = torch.float32) -> list[float]:
    """The losses, each rank of a mesh having its share of the batch; without one, all of it."""
    inputs, wanted = small.data(model.head.weight.shape[0])
    count = 1 if mesh is None else mesh.size()
    here = 0 if mesh is None else mesh.get_local_rank() if mesh.ndim == 1 else flat_rank(mesh)
    share = slice(here * small.BATCH // count, (here + 1) * small.BATCH // count)

    def step() -> torch.Tensor:
        loss = small.loss_of(model(inputs[share]), wanted[share])
        loss.backward()
        total = loss.detach().clone()
        torch.distributed.all_reduce(total)
        return total / torch.distributed.get_world_size()

    return small.train(model, step)


def flat_rank(mesh: DeviceMesh) -> int:
    row, column = mesh.get_coordinate()
    return row * mesh.size(1) + column


def initialized(model: nn.Module, dtype: torch.dtype = torch.float32, **sizes: Any) -> dict[str, Any]:
    """What a layout makes of the model, beside what one process does."""
    whole, fingerprint, losses = small.one(dtype, **sizes)
    report = ti.initialize_(model, small.RULES, seed=small.SEED, device="cpu", dtype=dtype)
    audit = report.gather()
    return {
        "differing": small.differing(model, whole),
        "fingerprints": [audit.fingerprint, fingerprint],
        "findings": [*audit.findings, *audit.partial],
        "losses": losses,
    }


def looked_at(
    model: nn.Module, data: DeviceMesh | None, dtype: torch.dtype = torch.float32, **sizes: Any
) -> dict[str, Any]:
    """The same, and what comes of training it."""
    return {**initialized(model, dtype, **sizes), "trained": trained(model, data, dtype)}


@CASES.on(3, *DTYPES)
def fsdp2(dtype: str) -> Any:
    """Every weight is cut unevenly, one has a padding row and is tied."""
    mesh = init_device_mesh("cpu", (3,))
    model = sharded(on_meta(), mesh)
    found = looked_at(model, mesh, DTYPES[dtype])
    assert model.head.weight is model.embedding.weight
    return found


@CASES.on(2)
def tensor_parallel_2() -> Any:
    mesh = init_device_mesh("cpu", (2,))
    return looked_at(tensor_parallel(on_meta(), mesh), None)


@CASES.on(4)
def fsdp2_by_tensor_parallel() -> Any:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    model = sharded(tensor_parallel(on_meta(), mesh["tensor"]), mesh["data"])
    return looked_at(model, mesh["data"])


@CASES.on(6, 10, 7)
def fsdp2_by_tensor_parallel_uneven(hidden: int) -> Any:
    """Of 10 rows, FSDP cuts each half unevenly; of 7, the first cut is uneven, too."""
    mesh = init_device_mesh("cpu", (3, 2), mesh_dim_names=("data", "tensor"))
    model = sharded(tensor_parallel(on_meta(hidden=hidden), mesh["tensor"]), mesh["data"])
    return looked_at(model, mesh["data"], hidden=hidden)


@CASES.on(4)
def hybrid_sharded() -> Any:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicas", "shards"))
    return looked_at(sharded(on_meta(), mesh), mesh)
