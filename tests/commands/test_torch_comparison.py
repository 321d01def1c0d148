"""``tritoninit init --compare``: torch.nn.init does the same, once, in no more memory."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tritoninit as ti
from tests.zoo import init, written
from tritoninit.commands import init_output, torch_comparison
from tritoninit.commands.timing import Timing

pytestmark = pytest.mark.usefixtures("folder")


@pytest.mark.parametrize("rules", [[], ["--rules", "torch"]], ids=["own code", "rules"])
def test_line_and_json(rules, capsys):
    assert init("zoo:tiny", "--compare", "--json", "r", *rules) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("torch.nn.init"))
    found = re.fullmatch(r"torch\.nn\.init: ([\d.e-]+) s, tritoninit ([\d.e-]+) times as fast", line)
    summary = json.loads(Path("r").read_text())
    totals, theirs = summary["totals"], summary["torch_nn_init"]
    assert theirs["runs"] == 1
    assert theirs["ratio"] == pytest.approx(theirs["seconds"] / totals["seconds"])
    assert theirs["gigabytes_per_second"] == pytest.approx(4 * 2288e-9 / theirs["seconds"])
    # As they are printed, in three digits.
    assert float(found[1]) == pytest.approx(theirs["seconds"], rel=5e-3)
    assert float(found[2]) == pytest.approx(theirs["ratio"], rel=5e-3)


def test_whatever_torch_lacks(capsys):
    assert init("zoo:own", "--compare") == 0
    assert capsys.readouterr().out.splitlines()[-2] == (
        "torch.nn.init cannot do the same: NotImplementedError: torch.nn.init has no Odd"
    )


def test_second_construction_fails(capsys):
    """The weights are there: that the comparison is not, is no error."""
    assert init("zoo:once", "--compare", "--out", "w", "--json", "r") == 0
    assert "torch.nn.init cannot do the same: UsageError: cannot build zoo:once: KeyError" in (
        capsys.readouterr().out
    )
    assert "cannot build" in json.loads(Path("r").read_text())["torch_nn_init"]["error"]


def test_interrupt(folder, capsys, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(torch_comparison, "time_construction", interrupt)
    assert init("zoo:tiny", "--compare", "--json", "r") == 130
    assert capsys.readouterr() == ("", "tritoninit: interrupted\n")
    assert written(folder) == []


def test_one_model_at_a_time(capsys):
    """zoo.frugal fails while a module that it made before is alive."""
    assert init("zoo:frugal", "--compare", "--out", "w", "--json", "r") == 0
    assert "tritoninit" in capsys.readouterr().out
    assert "ratio" in json.loads(Path("r").read_text())["torch_nn_init"]


def test_rules_are_compared_in_the_same_memory():
    model = torch.nn.Linear(30, 20)
    done = ti.initialize_(model, ti.TORCH_DEFAULTS, seed=0)
    before = {name: (p.data_ptr(), p.clone()) for name, p in model.named_parameters()}
    timing = torch_comparison.time_fills(done, torch.empty(100), None)
    assert isinstance(timing, Timing)
    assert timing.runs == 1
    for name, p in model.named_parameters():
        address, ours = before[name]
        assert p.data_ptr() == address
        assert not torch.equal(p, ours)


def test_weights_written_are_ours(folder):
    assert init("zoo:tiny", "--out", "a") == 0
    assert init("zoo:tiny", "--out", "b", "--compare") == 0
    assert init("zoo:tiny", "--out", "c", "--compare", "--rules", "torch") == 0
    assert init("zoo:tiny", "--out", "d", "--rules", "torch") == 0
    assert Path("a").read_bytes() == Path("b").read_bytes()
    assert Path("c").read_bytes() == Path("d").read_bytes()


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.5, "0.25"), (2.0, "1"), (118.6, "59.3"), (2468.0, "1.23e3")]
)
def test_ratio_says_which_is_faster(seconds, words):
    found = init_output.compared({"seconds": 2.0, "bytes": 8}, Timing(seconds, 1))
    assert init_output._comparison(found).endswith(f" s, tritoninit {words} times as fast")


def test_no_more_is_imported_than_it_takes():
    """A plain run knows neither pytest nor matplotlib, though it shares the benchmarks' clock and table."""
    code = (
        "import sys; from tritoninit.cli import main;"
        "main(['init', 'zoo:tiny', '--device', 'cpu', '--compare']);"
        "assert not {'pytest', 'matplotlib', 'pytest_benchmark'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
