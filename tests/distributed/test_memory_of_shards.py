"""A rank writes its own memory alone: of gigabytes, no more than the shard and a few MB are ever there."""

import os
import subprocess
import sys
from pathlib import Path

CODE = """
import gc
import sys
from pathlib import Path

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard

import tritoninit as ti
from tests.distributed.ranks import rank

torch.set_num_threads(1)
MB = 2**20


def status(field):
    return 1024 * int(Path("/proc/self/status").read_text().split(field)[1].split()[0])


def built(mesh, width):
    with torch.device("meta"):
        model = nn.Sequential(*(nn.Linear(width, width) for _ in range(4)), nn.Embedding(2 * width, width))
    model[0].weight.requires_grad_(False)
    for each in model:
        fully_shard(each, mesh=mesh["a"], shard_placement_fn=lambda p: Shard(p.dim() - 1))
    return model


def local(width, rows):
    with torch.device("meta"):
        return nn.Sequential(*(nn.Linear(width, rows, bias=False) for _ in range(4)))


def windows(width, rows):
    halves = [(0, rows // 2), (width // 2, width // 2 + rows // 2)]
    return {"*": ti.Windows.runs((width, width), [halves, None])}


def spent(run):
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS:")
    model = run()
    held = sum(p.numel() * 4 for p in map(lambda p: getattr(p, "_local_tensor", p), model.parameters()))
    return status("VmHWM:") - before, held


def of_shards(mesh, width):
    model = built(mesh, width)
    rules = [ti.Rule("0.weight", ti.ZeroRow(ti.XavierNormal(), 3)), *ti.TORCH_DEFAULTS]
    ti.initialize_(model, rules, seed=0, device="cpu")
    return model


def of_windows(width, rows):
    model = local(width, rows)
    ti.initialize_(model, seed=0, device="cpu", windows=windows(width, rows))
    return model


with rank(63, 64):
    mesh = init_device_mesh("cpu", (64,), mesh_dim_names=("a",))
    of_shards(mesh, 2**10), of_windows(2**10, 2**4)  # what is compiled and loaded
    for run in (lambda: of_shards(mesh, 2**13), lambda: of_windows(2**13, 2**7)):
        found, held = spent(run)
        sys.stdout.write(f"{found / MB:.1f} {held / MB:.1f}\\n")
"""


def test_peak():
    """A rank of 64 of a model of 1.5 GB, cut along its rows' elements, too; and by windows."""
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, check=False, env=environment, cwd=root
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for line in done.stdout.splitlines():
        peak, held = map(float, line.split())
        assert held > 15
        assert peak < held + 8, done.stdout
