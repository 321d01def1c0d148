"""What real ranks do together; test_processes.py says what has to come of it."""

from __future__ import annotations

import math
import os
import random
import re
import shutil
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from datetime import timedelta
from itertools import product
from typing import Any

import torch
import torch.distributed as dist
from packaging.version import Version
from torch import nn
from torch.distributed import checkpoint
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import ShardingStrategy, fully_shard
from torch.distributed.pipelining import PipelineStage, ScheduleGPipe
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import tritoninit as ti
from tests.distributed import engine_ranks, small
from tests.distributed.processes import PATIENCE, ROOT, Cases
from tests.distributed.ranks import forget
from tritoninit.distributed.private import StridedShard

CASES = Cases()
SHORTLY = timedelta(seconds=5)  # after which ranks that wait for one that was killed know
GATHERS_STRIDED = Version(torch.__version__) >= Version("2.11")  # torch itself, before training
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def warm() -> None:
    """What every rank would import and compile for itself."""
    small.one()


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
    parallelize_module(
        model, mesh, {**parts, **{part: how() for part, how in ENDS.items()}}, src_data_rank=None
    )
    model.head.weight = model.embedding.weight  # which parallelize_module makes two of
    return model


# Uneven parts have to be handed on as what they are: of a local one torch takes all to be of its size.
LAYER = {"up": lambda: ColwiseParallel(use_local_output=False), "down": RowwiseParallel}
ENDS = {
    "embedding": lambda: ColwiseParallel(output_layouts=Replicate()),
    "head": lambda: RowwiseParallel(input_layouts=Replicate()),
}


def shared_out(mesh: DeviceMesh | None) -> tuple[torch.Tensor, torch.Tensor]:
    """This rank's share of the batch; without a mesh, all of it."""
    here = 0 if mesh is None else flat_rank(mesh)
    size = small.BATCH // (1 if mesh is None else mesh.size())
    inputs, wanted = small.data()
    return inputs[here * size : (here + 1) * size], wanted[here * size : (here + 1) * size]


def flat_rank(mesh: DeviceMesh) -> int:
    place = 0
    for size, coordinate in zip(mesh.shape, mesh.get_coordinate(), strict=True):
        place = place * size + coordinate
    return place


def mean_of_all(loss: torch.Tensor) -> torch.Tensor:
    total = loss.detach().clone()
    dist.all_reduce(total)
    return total / dist.get_world_size()


def trained(model: nn.Module, mesh: DeviceMesh | None) -> list[float]:
    """The losses, each rank of a mesh having its share of the batch."""
    inputs, wanted = shared_out(mesh)

    def step() -> torch.Tensor:
        loss = small.loss_of(model(inputs), wanted)
        loss.backward()
        return mean_of_all(loss)

    return small.train(model, step)


def initialized(
    model: nn.Module, *, kind: type[nn.Module] = small.Model, dtype: torch.dtype = torch.float32, **sizes: Any
) -> dict[str, Any]:
    """What a layout makes of the model, beside what one process does."""
    whole, fingerprint, losses = small.one(kind, dtype, **sizes)
    report = ti.initialize_(model, small.RULES, seed=small.SEED, device="cpu", dtype=dtype, check_ranks=True)
    audit = report.gather()
    return {
        "differing": small.differing(model, whole),
        "fingerprints": [audit.fingerprint, ti.distributed.verify(model), fingerprint],
        "findings": [*audit.findings, *audit.partial],
        "losses": losses,
    }


def looked_at(model: nn.Module, data: DeviceMesh | None, **how: Any) -> dict[str, Any]:
    """The same, and what comes of training it."""
    return {**initialized(model, **how), "trained": trained(model, data)}


@CASES.on(3, *DTYPES)
def fsdp2(dtype: str) -> Any:
    """Every weight is cut unevenly, one has a padding row and is tied."""
    mesh = init_device_mesh("cpu", (3,))
    model = sharded(on_meta(), mesh)
    found = looked_at(model, mesh, dtype=DTYPES[dtype])
    assert model.head.weight is model.embedding.weight
    return found


@CASES.on(2)
def tensor_parallel_alone() -> Any:
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


def stage_of(number: int) -> tuple[nn.Module, dict[str, str]]:
    """Half of the model, with the names that it has there."""
    model = on_meta(tied=False)
    if number == 0:
        model.norm = model.head = None
    else:
        model.embedding = None
    del model.layers[str(1 - number)]
    return model, {}


def renamed_stage_of(number: int) -> tuple[nn.Module, dict[str, str]]:
    """Half of the model, with names of its own, and what these are there."""
    model = on_meta(tied=False)
    names = ["layers.1", "norm", "head"] if number else ["embedding", "layers.0"]
    parts = [model.get_submodule(name) for name in names]
    return nn.Sequential(*parts), {str(place): name for place, name in enumerate(names)}


@CASES.on(2, "whole", "renamed")
@CASES.on(4, "sharded")
def pipeline(how: str) -> Any:
    """Two stages, of plain modules or of sharded ones, that have the whole's names or are told them."""
    count = 2 if how == "sharded" else 1
    mesh = init_device_mesh("cpu", (2, count), mesh_dim_names=("stages", "data"))
    number = mesh.get_local_rank("stages")
    model, names = (renamed_stage_of if how == "renamed" else stage_of)(number)
    if how == "sharded":
        sharded(model, mesh["data"])
    whole, fingerprint, losses = small.one(tied=False)
    group = mesh.get_group("data")
    report = ti.initialize_(
        model, small.RULES, seed=small.SEED, device="cpu", check_ranks=group, prefix=names
    )
    audit = report.gather()
    found = {
        "differing": small.differing(model, whole, names),
        "fingerprints": [audit.fingerprint, ti.distributed.verify(model, prefix=names), fingerprint],
        "findings": [*audit.findings, *audit.partial],
        "losses": losses,
    }
    stage = PipelineStage(model, number, 2, torch.device("cpu"), group=mesh.get_group("stages"))
    schedule = ScheduleGPipe(stage, 2, loss_fn=small.loss_of)
    inputs, wanted = shared_out(mesh["data"])

    def step() -> torch.Tensor:
        if number == 0:
            schedule.step(inputs)
            return mean_of_all(torch.zeros(()))
        parts: list[torch.Tensor] = []
        schedule.step(target=wanted, losses=parts)
        return mean_of_all(2 * torch.stack(parts).mean())  # half of the ranks have no loss

    return {**found, "trained": small.train(model, step)}


@CASES.on(4, False, True)
def expert_parallel(is_sharded: bool) -> Any:
    """Five experts on four ranks, of which one has none; or on two, and cut along a dimension by FSDP."""
    with torch.device("meta"):
        model = small.Mixture()
    if is_sharded:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "experts"))
    else:
        mesh = init_device_mesh("cpu", (4,), mesh_dim_names=("experts",))
    model.mesh = mesh["experts"]
    for name, p in list(model.experts.named_parameters()):
        cut = distribute_tensor(p.detach(), mesh["experts"], [Shard(0)], src_data_rank=None)
        setattr(model.experts, name, nn.Parameter(cut))
    if is_sharded:
        fully_shard(model.experts, mesh=mesh["data"], shard_placement_fn=lambda p: Shard(1))
        fully_shard(model, mesh=mesh["data"])
    return looked_at(model, mesh["data"] if is_sharded else None, kind=small.Mixture)


def drawn_placements() -> list[tuple[Any, ...]]:
    """(mesh, shape, placements, dtype, initializer) of thirty layouts, the same in each process."""
    draw = random.Random(13)
    found = []
    for _ in range(30):
        mesh = draw.choice([(2,), (3,), (5,), (6,), (2, 2), (2, 3), (3, 2), (1, 4), (2, 1, 3)])
        shape = tuple(draw.randint(1, 9) for _ in range(draw.randint(1, 3)))
        cuts = [draw.choice([Replicate(), *map(Shard, range(len(shape)))]) for _ in mesh]
        if len(mesh) == 1 and draw.random() < 0.4:
            cuts = [StridedShard(0, split_factor=draw.randint(2, 3))]
        kinds = [ti.Normal(), ti.TruncatedNormal(), ti.Uniform(-1.0, 1.0)]
        if len(shape) > 1:
            kinds.append(ti.Orthogonal())
        if len(shape) == 2:
            kinds += [ti.XavierUniform(axes=ti.Axes((1,), (0,))), ti.Sparse(0.5)]
        found.append((mesh, shape, cuts, draw.choice(list(DTYPES)), draw.choice(kinds)))
    return found


@CASES.on(6)
def placements() -> Any:
    """Fewer ranks than there are may be in the mesh: the others have nothing, and write nothing."""
    meshes: dict[tuple[int, ...], DeviceMesh] = {}
    found = []
    for number, (shape, sizes, layout, dtype, initializer) in enumerate(drawn_placements()):
        if shape not in meshes:
            meshes[shape] = DeviceMesh("cpu", torch.arange(math.prod(shape)).reshape(shape))
        mesh = meshes[shape]
        whole = initializer(torch.empty(sizes, dtype=DTYPES[dtype]), key=ti.Key(number).fold_in("w"))
        right = distribute_tensor(whole, mesh, layout, src_data_rank=None)
        module = nn.Module()
        poison = torch.full(sizes, torch.nan, dtype=DTYPES[dtype])
        module.w = nn.Parameter(distribute_tensor(poison, mesh, layout, src_data_rank=None))
        report = ti.initialize_(module, [ti.Rule("w", initializer)], seed=number, check_ranks=True)
        gathers = mesh.get_coordinate() is not None and (
            GATHERS_STRIDED or not any(isinstance(each, StridedShard) for each in layout)
        )
        found.append(
            {
                "local": module.w.to_local().equal(right.to_local()),
                "gathered": not gathers
                or right.full_tensor().equal(whole) == module.w.full_tensor().equal(whole),
                "fingerprints": [
                    report.gather().fingerprint,
                    ti.distributed.verify(module),
                    f"{ti.bits_hash(whole, salt='w'):016x}",
                ],
            }
        )
    return found


@CASES.on(2, *product((True, False), ("FULL_SHARD", "SHARD_GRAD_OP", "NO_SHARD")))
def fsdp1(how: tuple[bool, str]) -> None:
    """In each of its ways, after forward passes, too, and trained."""
    use_orig_params, strategy = how
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        engine_ranks.fsdp1(use_orig_params, ShardingStrategy[strategy])


@CASES.on(2)
def fsdp1_from_meta() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        engine_ranks.from_meta()


@CASES.on(4)
def checkpoints() -> Any:
    """Saved on one mesh, and loaded on others, and where there is none."""
    folders = [[tempfile.mkdtemp() if dist.get_rank() == 0 else None] for _ in range(2)]
    for folder in folders:
        dist.broadcast_object_list(folder)
    whole, *_ = small.one()
    line = init_device_mesh("cpu", (4,))
    square = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "tensor"))
    first = sharded(on_meta(), line)
    ti.initialize_(first, small.RULES, seed=small.SEED, device="cpu")
    checkpoint.save(first.state_dict(), checkpoint_id=folders[0][0])

    def loaded(model: nn.Module, folder: str) -> list[str]:
        ti.initialize_(model, [ti.Rule("*", ti.Constant(7.0))], seed=0, device="cpu")
        checkpoint.load(model.state_dict(), checkpoint_id=folder)
        return [*small.differing(model, whole), ti.distributed.verify(model)]

    second = sharded(tensor_parallel(on_meta(), square["tensor"]), square["data"])
    found = {
        "FSDP2 x TP": loaded(second, folders[0][0]),
        "HSDP": loaded(sharded(on_meta(), square), folders[0][0]),
    }
    checkpoint.save(second.state_dict(), checkpoint_id=folders[1][0])
    found["one"] = loaded(on_meta(), folders[1][0])
    if dist.get_rank() == 0:
        for (folder,) in folders:
            shutil.rmtree(folder)
    return found


def raised(function: Callable[[], object]) -> str:
    try:
        function()
    except (TypeError, ValueError) as error:
        return str(error)
    return ""


@CASES.on(2)
def gathered() -> Any:
    """One fingerprint, the findings of all, and names of what differs between replicas; on both ranks."""
    mesh = init_device_mesh("cpu", (2,))
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 6))
    fully_shard(model, mesh=mesh)
    report = ti.initialize_(model, seed=1, device="cpu")
    found = {"alone": report.audit.partial}
    audit = report.gather()
    found["first"] = [audit.fingerprint, audit.partial, audit.findings, audit.ok, str(report).count("part (")]
    model(torch.ones(4, 6)).sum().backward()
    found["weight"] = model[0].weight.full_tensor().tolist()
    with torch.no_grad():
        if dist.get_rank():
            model[1].running_var[3] = 7.0
            model[2].bias.to_local()[1] = torch.nan
    found["later"] = ti.audit(model, gather=True).findings
    found["verified"] = raised(lambda: ti.distributed.verify(model))
    return found


@CASES.on(3)
def errors() -> Any:
    """An error of one rank, of whatever kind, before it has told the others what it holds."""
    odd = dist.get_rank() == 1
    model, nothing = nn.Linear(6, 5), {"nothing": ti.Window.whole((5,))}
    report = ti.initialize_(model, seed=0)
    report.module = 7 if odd else model
    return {
        "verify, a window": raised(lambda: ti.distributed.verify(model, windows=nothing if odd else None)),
        "verify, a prefix": raised(lambda: ti.distributed.verify(model, prefix=3 if odd else "")),
        "verify, a model": raised(lambda: ti.distributed.verify(None if odd else model)),
        "audit, a window": raised(lambda: ti.audit(model, gather=True, windows=nothing if odd else None)),
        "audit, a report": raised(lambda: ti.audit(model, gather=True, report=[1] if odd else None)),
        "audit, a model": raised(lambda: ti.audit(None if odd else model, gather=True)),
        "report": raised(report.gather),
        "afterwards": [ti.distributed.verify(model), ti.audit(model, gather=True).fingerprint],
    }


@CASES.on(4)
def replicas() -> Any:
    """Who differs from whom: of rectangles, of plain tensors, of tensors without memory, in a group."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicas", "shards"))
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5))
    fully_shard(model, mesh=mesh)
    ti.initialize_(model, seed=1, device="cpu")
    rank, found = dist.get_rank(), [ti.distributed.verify(model)]
    with torch.no_grad():
        if rank == 3:
            model[0].bias.to_local()[0] += 1
    found.append(raised(lambda: ti.distributed.verify(model)))
    found.append(raised(lambda: ti.distributed.verify(model, group=mesh.get_group("shards"))))
    if rank == 1:
        model[1].running_mean = torch.zeros(5, dtype=torch.bfloat16)
    if rank == 2:
        model[1].running_var = torch.empty(5, device="meta")
    found.append(raised(lambda: ti.distributed.verify(model)))
    # Rows of which some are twice, fewer than there are in all; a rectangle of another shape.
    part, windows = nn.Linear(6, 2, bias=False), {"weight": ti.Window((20, 6), (2 * rank - rank // 3, 0))}
    ti.initialize_(part, seed=1, windows=windows)
    found.append(raised(lambda: ti.distributed.verify(part, windows=windows)))
    found.append(ti.audit(part, windows=windows, gather=True).findings)
    other = nn.Linear(6, 2 if rank else 3, bias=False)
    ti.initialize_(other, seed=1)
    found.append(ti.audit(other, gather=True).findings)
    return found


@CASES.on(3)
def disagreements() -> Any:
    """Before anything is written, all raise the same error, which names the first of several parameters."""
    rank = dist.get_rank()
    odd = rank == 1

    def tried(
        build: Callable[[], nn.Module] = lambda: nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4)), **how: Any
    ) -> Any:
        model = build()
        before = [p.detach().clone() for p in model.parameters()]
        state = torch.get_rng_state()
        message = raised(lambda: ti.initialize_(model, check_ranks=True, **{"seed": 1, **how}))
        if not message:
            return "", [p.equal(q) for p, q in zip(model.parameters(), before, strict=True)].count(True)
        as_it_was = all(map(torch.equal, model.parameters(), before)) and torch.get_rng_state().equal(state)
        return message, as_it_was

    def layers(*sizes: int) -> nn.Module:
        return nn.Sequential(*(nn.Linear(6, size) for size in sizes))

    values = torch.arange(20.0).reshape(4, 5)
    defaults = list(ti.TORCH_DEFAULTS)
    found = {
        "equal": tried(),
        "seed": tried(seed=7 if odd else 1),
        "rules": tried(rules=[ti.Rule("1.bias", ti.Normal(0.0, 0.1 if odd else 0.2)), *defaults]),
        "values": tried(rules=[ti.Rule("1.weight", ti.Value(values + odd)), *defaults]),
        "same values": tried(rules=[ti.Rule("1.weight", ti.Value(values)), *defaults]),
        "shape": tried(lambda: layers(3, 4 + odd)),
        "names": tried(lambda: layers(*[3] * (2 + odd))),
        "dtype": tried(dtype=torch.bfloat16 if odd else torch.float32),
        "skipped": tried(skip=["1.weight"] if odd else []),
        "an error": tried(rules=[ti.Rule("*.weight", ti.Normal())] if odd else ti.TORCH_DEFAULTS),
    }
    torch.manual_seed(0)
    found["drawn alike"] = tried(seed=None)
    torch.manual_seed(rank)
    found["drawn apart"] = tried(seed=None)
    group = dist.new_group([0, 2])
    model = nn.Linear(6, 5)
    found["group"] = raised(lambda: ti.initialize_(model, seed=7 if odd else 1, check_ranks=group))
    return found


GUIDES = ["deepspeed", "fsdp2", "megatron", "pipeline", "sharded", "tensor_parallel"]


@CASES.on(4, *GUIDES)
def guide(page: str) -> None:
    """The code of a page of docs/, one block after another."""
    text = (ROOT / "docs" / f"{page}.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert blocks
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, f"{page}.md", "exec"), names)


def _until_killed(model: nn.Module, where: str, victim: int) -> None:
    """Go until the victim is killed."""
    is_victim = dist.get_rank() == victim

    def killing(name: str, module: nn.Module) -> bool:
        if is_victim and where == "initialisation" and name == "layers.1.down.weight":
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    ti.initialize_(model, [ti.Rule(killing, ti.Zeros()), *small.RULES], seed=small.SEED, device="cpu")
    inputs, wanted = small.data()
    for step in range(small.STEPS):
        if is_victim and step == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        small.loss_of(model(inputs), wanted).backward()


@CASES.on(4, "initialisation")
@CASES.on(3, "training")
def killed(where: str) -> Any:
    """One rank is, the others end with torch's own error, and those that are left begin anew."""
    victim = dist.get_world_size() - 1
    mesh = DeviceMesh.from_group(dist.new_group(timeout=SHORTLY), "cpu")
    begin, error = time.monotonic(), ""
    try:
        _until_killed(sharded(on_meta(), mesh), where, victim)
    except RuntimeError as torchs:
        error = str(torchs)
    seconds, rank = time.monotonic() - begin, dist.get_rank()
    dist.destroy_process_group()
    store = f"file://{sys.argv[2]}/again-{where}"
    dist.init_process_group("gloo", store, PATIENCE, world_size=victim, rank=rank)
    forget()
    mesh = init_device_mesh("cpu", (victim,))
    return {"error": error, "seconds": seconds, **looked_at(sharded(on_meta(), mesh), mesh)}


@CASES.on(4, afterwards=True)
def rerun() -> Any:
    """All ranks anew, the one that was killed among them."""
    mesh = init_device_mesh("cpu", (4,))
    return looked_at(sharded(on_meta(), mesh), mesh)
