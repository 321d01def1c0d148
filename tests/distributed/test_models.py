"""Sharded models: every rank's part of the one model, whatever the mesh."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, distribute_module, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import tritoninit as ti
from tests.distributed.ranks import expected, meshes, rank
from tritoninit import Rule, audit
from tritoninit.auditing.findings import _share, _subjects_in
from tritoninit.auditing.records import Audit
from tritoninit.auditing.shares import combined


class Rotary(nn.Module):
    """A buffer that is computed, and is not in the state dict."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer("angles", torch.empty(width), persistent=False)
        self.reset_parameters()

    def reset_parameters(self):
        self.angles.copy_(10.0 ** -torch.arange(self.angles.numel(), device=self.angles.device))


class Decay(nn.Module):
    """Parameters of which no rule knows more than the code does: a fill, and numbers that it computes."""

    def __init__(self, width):
        super().__init__()
        self.bias = nn.Parameter(torch.empty(width))
        self.rates = nn.Parameter(torch.empty(width, 3))
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.uniform_(self.bias, 1.0, 2.0)
        with torch.no_grad():
            self.rates.copy_(torch.rand(self.rates.shape).log())


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
        self.decay = Decay(width)


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
    report = ti.initialize_(model, RULES, seed=3, dtype=dtype)
    return model.state_dict() | dict(model.named_buffers()), report


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
    whole, one = on_one(sizes, dtype)
    everyone = []
    for mesh in meshes(*mesh_shape):
        numbers = held_of(Block(*SIZES[sizes]), layout, mesh)
        with torch.device("meta"):
            model = layout(Block(*SIZES[sizes]), mesh)
        before = dict(model.named_parameters())
        report = ti.initialize_(model, RULES, seed=3, device="cpu", dtype=dtype)
        assert [each.code for each in report] == [each.code for each in one]
        everyone.append([_share(each) for each in _subjects_in(model, report)])
        assert model.head.weight is model.embedding.weight
        for parameter, p in model.named_parameters():
            assert p is before[parameter] or not isinstance(p, DTensor)  # whom optimizers and FSDP know
            assert p.device.type == "cpu"
            assert p.dtype == dtype
            assert local(p).equal(expected(whole[parameter], numbers[parameter])), parameter
        assert model.rotary.angles.equal(whole["rotary.angles"])
    compare(everyone, one.audit)


def compare(everyone, audit):
    """What all ranks measured is what one process measures of the one model."""
    shares, unequal = combined(everyone)
    assert not unequal
    rows = [share.row for share in shares.values()]
    assert Audit(tuple(rows), (), (), audit.coverage).fingerprint == audit.fingerprint
    for row, wanted in zip(rows, audit.rows, strict=True):
        mine, theirs = asdict(row), asdict(wanted)
        for field in ("mean", "std", "z_mean", "z_std"):  # sums in another order
            if theirs[field] is not None:
                theirs[field] = pytest.approx(theirs[field], rel=1e-9, abs=1e-9)
        assert mine == theirs


def two_layers(mesh, device):
    with torch.device(device):
        model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 6))
    return fully_shard(model, mesh=mesh)


def test_one_rank_alone_says_so():
    """Without communication a report tells of what is here."""
    whole = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 6))
    ti.initialize_(whole, seed=1)
    total = 0
    for mesh in meshes(2):
        model = two_layers(mesh, "meta")
        assert audit(model).coverage.untouched == ("0.weight", "0.bias", "1.weight", "1.bias")
        report = ti.initialize_(model, seed=1, device="cpu")
        assert report.audit.partial == ("0.weight", "0.bias", "1.weight", "1.bias")
        assert report.audit.ok
        assert report.audit.rows[0].shape == (5, 6)
        assert "fingerprint of this rank's part (4 are cut)" in str(report)
        total += int(report.audit.fingerprint, 16)
    assert f"{total % 2**64:016x}" == audit(whole).fingerprint


def test_replicas_that_differ():
    everyone = []
    for mesh in meshes(2, 2):
        model = two_layers(mesh, "meta")
        report = ti.initialize_(model, seed=1, device="cpu")
        if tuple(mesh.get_coordinate()) == (1, 0):
            with torch.no_grad():
                model[1].bias.to_local()[0] += 1
        everyone.append([_share(each) for each in _subjects_in(model, report)])
    assert list(combined(everyone)[1]) == ["1.bias"]


def test_mistakes_are_seen_in_shards():
    for mesh in meshes(2):
        model = two_layers(mesh, "cpu")
        ti.initialize_(model, [Rule("*", ti.Normal())], seed=1)
        with torch.no_grad():
            model[0].bias.to_local()[0] = torch.nan
            model[1].weight.to_local()[:, 0] = 0.0
        found = audit(model).findings
        assert any("0.bias holds 1 NaN" in each for each in found)
        assert not any("1.weight" in each for each in found)


def test_after_a_forward_pass():
    """What a pass gathered, and may keep, is not what lasts."""
    for mesh in meshes(2):
        model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 6))
        whole = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 6))
        ti.initialize_(whole, seed=1)
        fully_shard(model, mesh=mesh, reshard_after_forward=False)
        model(torch.ones(2, 6))
        ti.initialize_(model, seed=1)
        first = slice(0, 3) if mesh.get_rank() == 0 else slice(3, 6)
        assert model[1].weight.to_local().equal(whole[1].weight[first])
        model(torch.ones(2, 6))


def test_gradients_and_requires_grad_stay():
    """In another dtype; what a parameter is known by, too."""
    for mesh in meshes(2):
        model = two_layers(mesh, "cpu")
        model[0].bias.requires_grad_(False)
        model[0].weight.grad = torch.ones_like(model[0].weight)
        model[0].weight.mark = "mine"
        ti.initialize_(model, seed=1, dtype=torch.bfloat16)
        assert model[0].weight.grad.dtype == torch.bfloat16
        assert model[0].weight.mark == "mine"
        assert isinstance(model[0].weight, nn.Parameter)
        assert model[0].weight.requires_grad
        assert not model[0].bias.requires_grad


def test_errors_change_nothing():
    for mesh in meshes(2):
        model = two_layers(mesh, "meta")
        with pytest.raises(ti.TargetError, match=r"^0\.weight: a meta tensor has no memory.*; 1\.bias: "):
            ti.initialize_(model, seed=0)
        with pytest.raises(ValueError, match=r"no rule matches 2 parameters: 0\.bias, 1\.bias"):
            ti.initialize_(model, [Rule("*.weight", ti.Normal())], seed=0, device="cpu")
        assert all(p.is_meta for p in model.parameters())


def test_replicated_buffers():
    """As distribute_module makes of what is on the meta device: computed, and cut."""
    whole = Rotary(6)
    for mesh in meshes(2):
        with torch.device("meta"):
            model = nn.Sequential(Rotary(6), nn.Linear(6, 4))
        distribute_module(model, mesh)
        model[0].angles = distribute_tensor(
            torch.empty(6, device="meta"), mesh, [Shard(0)], src_data_rank=None
        )
        ti.initialize_(model, seed=0, device="cpu")
        assert isinstance(model[0].angles, DTensor)
        half = whole.angles.chunk(2)[mesh.get_rank()]
        assert model[0].angles.to_local().equal(half)


def test_launches_and_memory(drawn):
    """A shard of a gigabyte: no more elements are drawn, and no more memory taken, than it has."""
    with rank(63, 64):
        mesh = init_device_mesh("cpu", (64,))
        with torch.device("meta"):
            model = nn.Linear(2**14, 2**14)
        fully_shard(model, mesh=mesh)
        Path("/proc/self/clear_refs").write_text("5")  # the peak is what there is now
        before = peak()
        ti.initialize_(
            model, [Rule("*", ti.XavierUniform()), Rule("bias", ti.Normal())][::-1], seed=0, device="cpu"
        )
        assert sorted(drawn) == [2**8, 2**22]
        assert peak() - before < 2**24 + 2**23


def peak():
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def test_what_is_computed_from_dtensors():
    """Parametrised weights, whose assignment would communicate, are refused by name, or kept."""
    for mesh in meshes(2):
        model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)))
        for parameter in ("original0", "original1"):
            held = model[0].parametrizations.weight
            value = distribute_tensor(getattr(held, parameter).detach(), mesh, [Shard(0)], src_data_rank=None)
            setattr(held, parameter, nn.Parameter(value))
        try:
            model[0].weight.sum()
        except NotImplementedError:
            pytest.skip("this torch computes no such weight")
        with pytest.raises(ti.TargetError, match=r"^0\.weight: a DTensor is what it is computed from"):
            ti.initialize_(model, seed=0)
        ti.initialize_(model, [Rule("*weight", ti.Keep()), *ti.TORCH_DEFAULTS], seed=0)
