"""The examples run, and say what they promise."""

import json
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
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": str(ROOT),
    "PYTHONWARNINGS": "error::RuntimeWarning",
    "OMP_NUM_THREADS": "1",
}
# Of a process for all of them that need none of their own: to import torch takes as long as an example.
ONE_BY_ONE = """
import contextlib, io, json, runpy, sys
said = {}
for path in sys.argv[1:]:
    sys.argv = [path]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        runpy.run_path(path, run_name="__main__")
    said[path.rpartition("/")[2]] = out.getvalue()
print(json.dumps(said))
"""


def test_all_examples_are_tested():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


def run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, env=ENVIRONMENT, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", LAUNCHERS)
def test_example_that_is_launched(name, tmp_path):
    said = run([sys.executable, *LAUNCHERS[name], str(ROOT / "examples" / name)], tmp_path)
    assert EXAMPLES[name] in said


def test_examples(tmp_path):
    """One after another, those that import least first."""
    paths = [str(ROOT / "examples" / name) for name in EXAMPLES if name not in LAUNCHERS]
    said = json.loads(run([sys.executable, "-c", ONE_BY_ONE, *paths], tmp_path).splitlines()[-1])
    for name, text in said.items():
        assert EXAMPLES[name] in text, name
    assert {*said, *LAUNCHERS} == {*EXAMPLES}


def test_the_model_of_one_process():
    """That examples/fsdp2_llama.py shards, built whole."""
    example = runpy.run_path(str(ROOT / "examples" / "fsdp2_llama.py"))
    model = example["Llama"](**example["SMALL"])
    assert ti.initialize_(model, ti.schemes.llama(), seed=0).audit.fingerprint == FINGERPRINT
