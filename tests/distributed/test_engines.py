"""FSDP1's flat parameters and ZeRO-3's partitions: ranges of the one model, and padding as it was."""

import copy
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.distributed.fsdp.wrap import ModuleWrapPolicy

import tritoninit as ti
from tests.distributed.ranks import rank
from tritoninit import Rule, TargetError
from tritoninit.auditing.findings import _share, _subjects_in
from tritoninit.auditing.shares import combined

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.filterwarnings("ignore", "error::UserWarning:tritoninit")


class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.up = nn.Linear(width, 5)
        self.norm = nn.LayerNorm(5)
        self.down = nn.Linear(5, width)

    def forward(self, x):
        return self.down(self.norm(self.up(x)).relu())


class Model(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.embed = nn.Embedding(9, width, padding_idx=1)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.qkv_proj = nn.Linear(width, 3 * width, bias=False)
        self.rates = nn.Parameter(torch.zeros(7))
        self.one = nn.Parameter(torch.zeros(1))
        self.head = nn.Linear(width, 9, bias=False)
        self.head.weight = self.embed.weight

    def reset_parameters(self):
        with torch.no_grad():
            self.rates.copy_(torch.rand(7).log())
            self.one.fill_(0.5)

    def forward(self, x):
        return self.head(self.blocks(self.embed(x)))


RULES = [
    Rule("blocks.0.up.weight", ti.Orthogonal()),
    Rule("qkv_proj.weight", ti.XavierNormal()),
    Rule("blocks.1.down.weight", ti.ZeroRow(ti.Normal(), 2)),
    *ti.TORCH_DEFAULTS,
]


def fsdp(model, use_orig_params, **options):
    policy = ModuleWrapPolicy({Block})
    device = torch.device("cpu")
    return FullyShardedDataParallel(
        model, auto_wrap_policy=policy, device_id=device, use_orig_params=use_orig_params, **options
    )


def flats(model):
    """What the wrappers hold, padding included."""
    wrappers = FullyShardedDataParallel.fsdp_modules(model)
    return [each._handle.flat_param.detach() for each in wrappers if each._handle is not None]


@pytest.mark.parametrize("use_orig_params", [True, False])
@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_fsdp1(use_orig_params, ranks):
    whole = Model()
    one = ti.initialize_(whole, RULES, seed=3)
    everyone = []
    for number in range(ranks):
        with rank(number, ranks):
            torch.manual_seed(0)
            wanted, model = fsdp(copy.deepcopy(whole), use_orig_params), fsdp(Model(), use_orig_params)
            handles = [each.clone() for each in flats(model)]
            report = ti.initialize_(model, RULES, seed=3)
            for now, right in zip(flats(model), flats(wanted), strict=True):
                assert now.equal(right)
            assert len(handles) == 3
            assert [each.name for each in report] == [each.name for each in one]
            assert [each.code for each in report] == [each.code for each in one]
            assert [row.shape for row in report.audit.rows] == [row.shape for row in one.audit.rows]
            assert report.audit.ok
            assert ti.audit(model).fingerprint == report.audit.fingerprint
            everyone.append([_share(each) for each in _subjects_in(model, report)])
    shares, unequal = combined(everyone)
    assert not unequal
    assert {name: share.row.hash for name, share in shares.items()} == {
        row.name: row.hash for row in one.audit.rows
    }


def refused(model, match, **options):
    before = [each.clone() for each in flats(model)]
    with pytest.raises(TargetError, match=match):
        ti.initialize_(model, [Rule("*", ti.Normal())], seed=0, **options)
    assert all(now.equal(then) for now, then in zip(flats(model), before, strict=True))


def test_what_fsdp1_decides():
    """Where its memory is, and of which dtype; all else is as without it."""
    with rank(0, 2):
        model = fsdp(Model(), True)
        one = ti.initialize_(model, RULES, seed=0)
        again = ti.initialize_(model, RULES, seed=0, device="cpu", dtype=torch.float32)
        assert again.audit.fingerprint == one.audit.fingerprint
        for kept in ((), "rates"):
            refused(
                model, r"^rates: torch.float32 on cpu in an engine's memory", dtype=torch.bfloat16, skip=kept
            )
        before = [each.clone() for each in flats(model)]
        report = ti.initialize_(model, RULES, seed=1, only="blocks.1")
        assert [each.equal(then) for each, then in zip(flats(model), before, strict=True)] == [
            True,
            True,
            False,
        ]
        assert sum(bool(each.backend) for each in report) == 6


def test_what_lies_in_a_wrapper_without_it():
    with rank(0, 2):
        model = fsdp(nn.Linear(4, 2), use_orig_params=False)
        before = flats(model)[0].clone()
        with pytest.raises(TargetError, match=r"^_flat_param: FSDP's flat parameter, whose wrapper"):
            ti.initialize_(model.module, [Rule("*", ti.Normal())], seed=0)
        assert flats(model)[0].equal(before)


def test_parts_of_fsdp1_s():
    """A window of a flat range's, by a prefix."""
    whole = torch.arange(24.0).reshape(6, 4)
    for number in range(3):
        with rank(number, 3):
            model = fsdp(nn.Linear(4, 2, bias=False), use_orig_params=False)
            windows = {"a.weight": ti.Window((6, 4), (4, 0))}
            ti.initialize_(model, [Rule("*", ti.Value(whole))], seed=0, prefix="a", windows=windows)
            right = whole[4:].flatten()[number * 3 : number * 3 + 3]
            held = flats(model)[0]
            assert held[: len(right)].equal(right)
            assert not held[len(right) :].any()


def test_what_fsdp1_flattened_in_another_order():
    with rank(0, 2):
        inner = nn.Linear(3, 4)
        inner.weight = nn.Parameter(torch.zeros(3, 4).T)
        for use_orig_params in (True, False):
            model = fsdp(copy.deepcopy(inner), use_orig_params)
            refused(model, r"^weight: a shard of FSDP's, .* does not lie row by row.*summon_full_params")
            ti.initialize_(model, seed=0, skip="weight")


class Partition:
    """A process group."""

    def __init__(self, number):
        self.number = number

    def rank(self):
        return self.number


def zero3(model, number, count):
    """What DeepSpeed leaves of parameters; padding is 99."""
    for p in model.parameters():
        each = -(-p.numel() // count)
        begin = min(each * number, p.numel())
        p.ds_shape, p.ds_numel, p.ds_process_group = p.shape, p.numel(), Partition(number)
        p.ds_tensor = torch.full((each,), 99.0)
        p.ds_tensor.ds_numel = each
        p.ds_tensor[: max(min(p.numel() - begin, each), 0)] = torch.nan
        p.data = torch.empty(0)
    return model


@pytest.mark.parametrize("ranks", [1, 2, 3, 8, 60])
def test_zero3(ranks):
    whole = Model()
    one = ti.initialize_(whole, RULES, seed=3).audit
    everyone = []
    for number in sorted({0, 1, ranks // 2, ranks - 1} & set(range(ranks))) if ranks > 8 else range(ranks):
        model = zero3(Model(), number, ranks)
        report = ti.initialize_(model, RULES, seed=3)
        for name, p in model.named_parameters():
            each = -(-p.ds_numel // ranks)
            right = whole.get_parameter(name).detach().flatten()[each * number : each * (number + 1)]
            assert p.ds_tensor[: len(right)].equal(right), name
            assert (p.ds_tensor[len(right) :] == 99).all(), name
            assert p.shape == (0,)
        assert report.audit.ok
        assert [row.shape for row in report.audit.rows] == [row.shape for row in one.rows]
        everyone.append([_share(each) for each in _subjects_in(model, report)])
    shares, unequal = combined(everyone)
    assert not unequal
    if len(everyone) == ranks:
        assert {name: share.row.hash for name, share in shares.items()} == {
            row.name: row.hash for row in one.rows
        }


def test_zero3_gathered():
    """What is gathered is dropped, and the partition is what stays."""
    whole = Model()
    ti.initialize_(whole, RULES, seed=3)
    for number in range(2):
        model, partitioned = zero3(Model(), number, 2), zero3(Model(), number, 2)
        ti.initialize_(partitioned, RULES, seed=3)
        for p in model.parameters():
            p.data = torch.empty(p.ds_shape)
        report = ti.initialize_(model, RULES, seed=3)
        assert report.audit.fingerprint == ti.audit(whole).fingerprint
        for p, other in zip(model.parameters(), partitioned.parameters(), strict=True):
            assert p.ds_tensor.equal(other.ds_tensor)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda p: setattr(p, "_z3_optimizer", object()), "DeepSpeed's optimizer has a copy"),
        (lambda p: setattr(p, "comm", object()), "MiCS"),
        (lambda p: setattr(p.ds_tensor, "ds_quant_scale", torch.ones(1)), "quantised"),
        (lambda p: setattr(p, "ds_secondary_tensor", torch.ones(1)), "hpZ"),
        (lambda p: setattr(p.ds_tensor, "final_location", "nvme"), "ZeRO-Infinity keeps it on a disk"),
        (lambda p: setattr(p, "ds_process_group", None), "among which ranks"),
    ],
)
def test_what_of_zero3_would_not_stay(change, match):
    model = zero3(nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 4)), 0, 2)
    change(model[1].weight)
    for _ in ("partitioned", "gathered"):
        before = [p.ds_tensor.clone() for p in model.parameters()]
        with pytest.raises(TargetError, match=rf"^1\.weight: .*{match}"):
            ti.initialize_(model, seed=0)
        assert all(
            p.ds_tensor.equal(then) or then.isnan().any()
            for p, then in zip(model.parameters(), before, strict=True)
        )
        model[1].weight.data = torch.empty(4, 3)
    ti.initialize_(model, seed=0, skip="1.weight")


def test_what_is_not_known_is_not_verified():
    """Where this rank's part of a weight lies is needed for a fingerprint."""
    model = zero3(nn.Sequential(nn.Linear(3, 4), nn.Linear(3, 4)), 0, 2)
    ti.initialize_(model, seed=0)
    ti.distributed.verify(model)
    model[1].weight.ds_process_group = None
    with pytest.raises(ValueError, match=r"^1\.weight on rank 0 cannot be looked at: .*among which ranks"):
        ti.distributed.verify(model)


def in_processes(tmp_path):
    """Two real ones; what the first that failed said."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "DS_ACCELERATOR": "cpu", "MASTER_ADDR": "127.0.0.1"}
    environment["MASTER_PORT"] = str(20000 + os.getpid() % 20000)
    command = [sys.executable, str(Path(__file__).with_name("engine_ranks.py"))]
    running = [
        subprocess.Popen(
            [*command, str(number), "2", str(tmp_path / "store")],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number in range(2)
    ]
    try:
        said = [each.communicate(timeout=300)[0] for each in running]
    finally:
        for each in running:
            each.kill()
    for each, output in zip(running, said, strict=True):
        assert each.returncode == 0, output[-3000:]
        assert output.endswith("done\n")


@pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_zero3_in_real_processes(tmp_path):
    """Partitioned and gathered, in both dtypes, on the CPU or offloaded to it, and trained."""
    in_processes(tmp_path)
