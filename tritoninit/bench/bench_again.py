"""Models that are initialised again and again: prepared once, as a CUDA graph's replay, and as ensembles."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import tritoninit
from tritoninit.bench.bench_models import APPLY, DTYPES, check_model
from tritoninit.bench.contenders import Trial, WrongValues, default
from tritoninit.bench.device import ALL_THREADS, DEVICE, Memory, largest
from tritoninit.presets import PRESETS

MODELS = ("gpt2", "resnet-50", "llama-3.2-1b")
PREPARED, GRAPH = ", prepared", ", replayed"
MEMBERS = 1000
ENSEMBLE = f"{MEMBERS} networks"
_CHECKED = (0, 1, MEMBERS - 1)  # members that are compared with the model alone


def network() -> nn.Sequential:
    """One of an ensemble: small, as those of control and of regression are."""
    return nn.Sequential(
        nn.Linear(10, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1)
    )  # fmt: skip


def trials(quick: bool) -> list[Trial]:
    if quick:
        return []
    found = []
    for name in MODELS:
        if DEVICE != "cuda" and DTYPES[name] != "float32":
            continue  # a gigabyte, of which the whole models' rows tell
        with torch.device("meta"):
            elements = sum(parameter.numel() for parameter in PRESETS[name].build().parameters())
        for how in (PREPARED, GRAPH) if DEVICE == "cuda" else (PREPARED,):
            found += _of(f"{name}{how}", DTYPES[name], elements)
    each = sum(parameter.numel() for parameter in network().parameters())
    return [trial for trial in found if trial.bytes <= 3 * largest()] + _of(
        ENSEMBLE, "float32", MEMBERS * each
    )


def _of(subject: str, dtype: str, elements: int) -> list[Trial]:
    names = default(), "torch", "memset"
    return [Trial("model", subject, dtype, elements, ALL_THREADS, name) for name in names]


def bench_again(trial: Trial, memory: Memory, timed: Callable[..., None]) -> None:
    memory.free()
    with trial.serving():
        timed(_of_members(trial) if trial.subject == ENSEMBLE else _of_model(trial))


def _of_model(trial: Trial) -> Callable[[], object]:
    name = trial.subject.partition(",")[0]
    preset = PRESETS[name]
    with torch.device("meta"):
        model = preset.build()
    wanted = tritoninit.initialize_(model, preset.rules, seed=0, device=DEVICE, dtype=trial.torch_dtype)
    parameters = [parameter.detach() for parameter in model.parameters()]
    if trial.contender == "memset":
        return lambda: torch._foreach_zero_(parameters)
    if not trial.ours:
        return lambda: APPLY[name](model)
    prepared = tritoninit.prepare(model, preset.rules)
    call: Callable[[], object] = lambda: prepared(0)  # noqa: E731 - which of two it is
    if trial.subject.endswith(GRAPH):
        seed = torch.zeros(1, dtype=torch.int64, device=DEVICE)
        prepared(seed)  # compiled, and loaded
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            prepared(seed)
        call = graph.replay
    for parameter in parameters:
        parameter.fill_(math.nan)
    call()
    check_model(trial, wanted)
    return call


def _of_members(trial: Trial) -> Callable[[], object]:
    model = network().to(DEVICE)
    members = tritoninit.ensemble(model, range(MEMBERS))
    if trial.contender == "memset":
        stacked = [each.detach() for each in members.values()]
        return lambda: torch._foreach_zero_(stacked)
    if not trial.ours:
        others: Any = [network().to(DEVICE) for _ in range(MEMBERS)]

        def by_torch() -> None:
            for each in others:
                for layer in (each[0], each[2], each[4]):
                    layer.reset_parameters()

        return by_torch
    for number in _CHECKED:
        tritoninit.initialize_(model, seed=number)
        for name, parameter in model.named_parameters():
            if not torch.equal(members[name][number], parameter):
                raise WrongValues(f"{name} of member {number} is another than the model's alone")
    return lambda: tritoninit.ensemble(model, range(MEMBERS), out=members)
