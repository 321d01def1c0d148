"""Whole models: our backends against what codebases write with torch.nn.init, and against memset."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

import tritoninit
from tritoninit.auditing.assignments import Assignment
from tritoninit.bench.contenders import (
    Trial,
    WrongValues,
    check_bits,
    check_distribution,
    default,
    ours,
)
from tritoninit.bench.device import ALL_THREADS, DEVICE, Memory, largest
from tritoninit.fills import Constant, Fill
from tritoninit.keys import Key
from tritoninit.presets import PRESETS, Conv1D
from tritoninit.words import lowered

DTYPES = {"gpt2": "float32", "resnet-50": "float32", "llama-3.2-1b": "bfloat16", "llama-3-8b": "bfloat16"}
GPU_ONLY = ("llama-3-8b",)
# A model of at most so many elements is compared with the reference whole; of a larger one, which would take
# the reference minutes, so many elements at both ends of every parameter.
WHOLE, ENDS = 2**27, 2**16


def apply_gpt2(model: nn.Module) -> None:
    """GPT-2's scheme as codebases write it."""

    def set_module(module: nn.Module) -> None:
        if isinstance(module, (Conv1D, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, (Conv1D, nn.LayerNorm)):
            nn.init.zeros_(module.bias)
        if isinstance(module, nn.LayerNorm):
            nn.init.ones_(module.weight)

    model.apply(set_module)
    for name, parameter in model.named_parameters():
        if name.endswith("c_proj.weight"):
            nn.init.normal_(parameter, std=0.02 / math.sqrt(2 * 12))


def apply_resnet(model: nn.Module) -> None:
    """ResNet's scheme as torchvision writes it, on top of torch.nn's defaults for the rest."""

    def set_module(module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, (nn.BatchNorm2d, nn.Linear)):
            module.reset_parameters()

    model.apply(set_module)


def apply_llama(model: nn.Module) -> None:
    """Llama's scheme as transformers writes it; a head that is the embedding is not drawn twice."""
    drawn: set[torch.Tensor] = set()

    def set_module(module: nn.Module) -> None:
        if isinstance(module, (nn.Linear, nn.Embedding)) and module.weight not in drawn:
            nn.init.normal_(module.weight, std=0.02)
            drawn.add(module.weight)
        elif isinstance(module, nn.RMSNorm):
            nn.init.ones_(module.weight)

    model.apply(set_module)


APPLY: dict[str, Callable[[nn.Module], None]] = {
    "gpt2": apply_gpt2,
    "resnet-50": apply_resnet,
    "llama-3.2-1b": apply_llama,
    "llama-3-8b": apply_llama,
}


def trials(quick: bool) -> list[Trial]:
    names = [default()] if quick else [name for name in ours() if name != "numpy"]
    found = []
    for subject in ("gpt2",) if quick else APPLY:
        if subject in GPU_ONLY and DEVICE != "cuda":
            continue
        with torch.device("meta"):
            elements = sum(parameter.numel() for parameter in PRESETS[subject].build().parameters())
        of_model = [
            Trial("model", subject, DTYPES[subject], elements, ALL_THREADS, name)
            for name in [*names, "torch", "memset"]
        ]
        # A model is alone in the memory: three quarters of it, where a tensor of many has one.
        found += [trial for trial in of_model if trial.bytes <= 3 * largest()]
    return found


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    """The model that was built last, by name."""
    return {}


def built(trial: Trial, models: dict[str, nn.Module], memory: Memory) -> nn.Module:
    """The trial's model, in memory of its own that is paged in."""
    if trial.subject not in models:
        models.clear()
        memory.free()
        preset = PRESETS[trial.subject]
        with torch.device("meta"):
            model = preset.build()
        tritoninit.initialize_(model, preset.rules, seed=0, device=DEVICE, dtype=trial.torch_dtype)
        models[trial.subject] = model
    return models[trial.subject]


@contextmanager
def counting_launches() -> Iterator[Counter[str]]:
    """How often our kernels, and the zeros that integers get, are launched on a GPU in the block, by name."""
    from tritoninit.kernels import triton_kernels

    counts: Counter[str] = Counter()

    def counted(name: str, launch: Callable[..., Any]) -> Callable[..., Any]:
        def count(*arguments: Any, **options: Any) -> Any:
            counts[name] += 1
            return launch(*arguments, **options)

        return count

    class Counted:
        def __init__(self, name: str) -> None:
            self._name, self._kernel = name, getattr(triton_kernels, name)

        def __getitem__(self, grid: Any) -> Callable[..., Any]:
            return counted(self._name, self._kernel[grid])

    with ExitStack() as stack:
        for name in ("run_kernel", "table_kernel", "rows_kernel", "rows_table_kernel", "scattered_kernel"):
            stack.enter_context(mock.patch.object(triton_kernels, name, Counted(name)))
        zeros = counted("_foreach_zero_", torch._foreach_zero_)
        stack.enter_context(mock.patch.object(torch, "_foreach_zero_", zeros))
        yield counts


def bench_model(
    trial: Trial, models: dict[str, nn.Module], memory: Memory, described: Any, timed: Callable[..., None]
) -> None:
    model = built(trial, models, memory)
    rules = PRESETS[trial.subject].rules
    parameters = [parameter.detach() for parameter in model.parameters()]

    def initialize() -> tritoninit.Report:
        return tritoninit.initialize_(model, rules, seed=0)

    calls: dict[str, Callable[[], object]] = {
        "torch": lambda: APPLY[trial.subject](model),
        "memset": lambda: torch._foreach_zero_(parameters),  # in few launches, as ours are on a GPU
    }
    call = calls.get(trial.contender, initialize)
    with trial.serving():
        wanted = initialize()
        for parameter in parameters:
            parameter.fill_(math.nan)
        call()
        if trial.contender == "memset":
            for parameter in parameters:
                check_bits(parameter, Constant(0.0), Key(0), ENDS)
        else:
            check_model(trial, wanted)
        if trial.contender == "triton":
            with counting_launches() as counts:
                call()
            described.extra_info["launches"] = counts.total()
        timed(call)


def check_model(trial: Trial, wanted: Iterable[Assignment]) -> None:
    """Raise WrongValues unless a model holds what was asked for: our bits, or torch's sample of it."""
    most = WHOLE if trial.elements <= WHOLE else ENDS
    for each in wanted:
        fill = lowered(each.initializer, each.tensor.shape)
        assert isinstance(fill, Fill)
        try:
            if trial.ours or not fill.random:
                check_bits(each.tensor, fill, each.key or Key(0), most)
            else:
                check_distribution(each.tensor, fill)
        except WrongValues as error:
            raise WrongValues(f"{each.name}: {error}") from None
