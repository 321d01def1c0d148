"""Whole models: that a wrong one is found, and that torch writes what we are compared with."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import tritoninit as ti
from tritoninit.bench import bench_again, bench_models
from tritoninit.bench.contenders import Trial, WrongValues
from tritoninit.kernels.stream import Draw
from tritoninit.models.rules import RuleSet


def test_a_wrong_model_is_found():
    model = nn.Linear(64, 64)
    rules = RuleSet("test", "nobody", [ti.Rule("weight", ti.Normal(0.0, 0.1)), ti.Rule("bias", ti.Zeros())])
    done = ti.initialize_(model, rules, seed=0)
    ours = Trial("model", "tiny", "float32", 64 * 65, 1, ti.registry.resolve("cpu").name)
    torch_row = replace(ours, contender="torch")
    bench_models.check_model(ours, done)
    nn.init.normal_(model.weight, 0.0, 0.1)
    bench_models.check_model(torch_row, done)
    with pytest.raises(WrongValues, match=r"weight: .*the reference has"):
        bench_models.check_model(ours, done)
    nn.init.normal_(model.weight, 0.0, 0.15)
    with pytest.raises(WrongValues, match=r"weight: .*standard deviation"):
        bench_models.check_model(torch_row, done)


def test_launches_are_counted():
    """Of the kernels that run, which here are the ones that Triton's launchers would launch."""
    triton_kernels = pytest.importorskip("tritoninit.kernels.triton_kernels")
    items = [(torch.empty(100), Draw("normal", (0.0, 1.0), 0, number, 0, (1,))) for number in range(3)]
    launched = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **options: launched.append(grid)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("run_kernel", "table_kernel"):
            patch.setattr(triton_kernels, name, Kernel())
        with bench_models.counting_launches() as counts:
            triton_kernels.fill_many(items)
            triton_kernels.fill(*items[0])
            torch._foreach_zero_([torch.ones(2, dtype=torch.int64)])
        assert counts == {"run_kernel": 1, "table_kernel": 1, "_foreach_zero_": 1}
        assert len(launched) == 2
        triton_kernels.fill(*items[0])
    assert counts.total() == 3


@pytest.mark.parametrize("name", ["gpt2", "resnet-50"])
def test_torch_writes_the_same_scheme(name):
    """What codebases write sets every parameter that our rules set, to the same distribution."""
    preset = bench_models.PRESETS[name]
    model = preset.build()
    done = ti.initialize_(model, preset.rules, seed=0)
    for parameter in model.parameters():
        parameter.detach().fill_(math.nan)
    bench_models.APPLY[name](model)
    row = Trial("model", name, "float32", 2**28, 1, "torch")
    bench_models.check_model(row, done)


def test_again_beside_torch_and_memset():
    """Prepared models and ensembles have rows of their own; what they write is checked first."""
    found = bench_again.trials(quick=False)
    assert not bench_again.trials(quick=True)
    default = ti.registry.resolve("cpu").name
    assert {(trial.subject, trial.contender) for trial in found if bench_again.DEVICE == "cpu"} == {
        (subject, contender)
        for subject in ("gpt2, prepared", "resnet-50, prepared", "1000 networks")
        for contender in (default, "torch", "memset")
    }
    for trial in found:
        if trial.subject == bench_again.ENSEMBLE:
            bench_again._of_members(trial)()
