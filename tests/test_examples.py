"""The examples run, and say what they promise."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

import tritoninit as ti

ROOT = Path(__file__).parents[1]
# Of examples/fsdp2_llama.py's model where one process has it: bits that no release changes.
FINGERPRINT = "70b1f6dd40a6230d"
EXAMPLES = {
    "train_mlp.py": "step 200  loss 0.0",
    "intercept_transformers.py": "transformer.wte.weight",
    "meta_llama.py": "logits (2, 6, 1000) tied: True",
    "ensemble.py": "64 members  loss 0.0",
    "fsdp2_llama.py": f"one model on 2 ranks, fingerprint {FINGERPRINT}",
}
LAUNCHERS = {"fsdp2_llama.py": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]}


def test_all_examples_are_tested():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name, tmp_path):
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error::RuntimeWarning",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, *LAUNCHERS.get(name, []), str(ROOT / "examples" / name)]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert EXAMPLES[name] in done.stdout


def test_the_model_of_one_process():
    """That examples/fsdp2_llama.py shards, built whole."""
    example = runpy.run_path(str(ROOT / "examples" / "fsdp2_llama.py"))
    model = example["Llama"](**example["SMALL"])
    assert ti.initialize_(model, ti.schemes.llama(), seed=0).audit.fingerprint == FINGERPRINT
