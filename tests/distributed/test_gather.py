"""Real processes: what all ranks measured, as one model."""

import json
import os
import subprocess
import sys
from pathlib import Path

from torch import nn

import tritoninit as ti

PROGRAM = """
import json, sys, torch
from torch import nn
from torch.distributed.fsdp import fully_shard
import tritoninit as ti

store, rank, count = sys.argv[1], int(sys.argv[2]), 2
torch.set_num_threads(1)
torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
mesh = torch.distributed.init_device_mesh("cpu", (count,))
with torch.device("meta"):
    model = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 6))
fully_shard(model, mesh=mesh)
report = ti.initialize_(model, seed=1, device="cpu")
alone = report.audit.partial
gathered = report.gather()
first = [gathered.fingerprint, gathered.partial, gathered.findings, gathered.ok, str(report).count("part (")]
model(torch.ones(4, 6)).sum().backward()
found = [model[0].weight.full_tensor().tolist(), alone, *first]
with torch.no_grad():
    if rank:
        model[1].running_var[3] = 7.0
        model[2].bias.to_local()[1] = torch.nan
found.append(ti.audit(model, gather=True).findings)
print(json.dumps(found))
torch.distributed.destroy_process_group()
"""


def test_gathered(tmp_path):
    """One fingerprint, the findings of all, and names of what differs between replicas; on both ranks."""
    root = Path(ti.__file__).parents[1]
    path = os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "store")]
    ranks = [
        subprocess.Popen(
            [*command, str(rank)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path}
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=300)[0] for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0]
    outputs = [output.splitlines()[-1] for output in outputs]  # after what gloo says of its connections
    assert outputs[0] == outputs[1]
    weight, alone, fingerprint, partial, findings, ok, partly, later = json.loads(outputs[0])
    whole = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 6))
    report = ti.initialize_(whole, seed=1)
    assert weight == whole[0].weight.tolist()
    assert fingerprint == report.audit.fingerprint
    assert alone == [name for name, _ in whole.named_parameters()]
    assert (partial, findings, ok, partly) == ([], [], True, 0)
    assert later == [
        "1.running_var is not the same on all ranks that hold it",
        "2.bias holds 1 NaN of 6 elements",
    ]
