"""Whole models, and one small tensor: our backends against what users write with torch.nn.init.

Run ``make bench``; rows of one run are comparable. A backend is timed after its bits were compared with the
reference's on this machine, by the fingerprint of the whole model.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import tritoninit
from tritoninit.bench.device import DEVICE, synchronised
from tritoninit.presets import PRESETS, Conv1D

SERVING = [b.name for b in tritoninit.backends() if b.available and DEVICE in b.devices]
BACKENDS = [name for name in SERVING if name != "numpy"]


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


APPLY: dict[str, Callable[[nn.Module], None]] = {"gpt2": apply_gpt2, "resnet-50": apply_resnet}


@pytest.mark.parametrize("contender", [*BACKENDS, "torch", "memset"])
@pytest.mark.parametrize("name", APPLY)
def bench_model(benchmark: Any, name: str, contender: str) -> None:
    preset = PRESETS[name]
    with torch.device("meta"):
        model = preset.build()
    tritoninit.initialize_(model, preset.rules, seed=0, device=DEVICE)
    parameters = list(model.parameters())
    benchmark.group = f"model {name}"
    benchmark.extra_info.update(
        contender=contender,
        model=name,
        dtype="float32",
        elements=sum(p.numel() for p in parameters),
        bytes=sum(p.nbytes for p in parameters),
        parameters=len(parameters),
        threads=torch.get_num_threads(),
        device=DEVICE,
    )

    def initialize() -> tritoninit.Report:
        return tritoninit.initialize_(model, preset.rules, seed=0)

    if contender == "torch":
        benchmark.pedantic(synchronised(lambda: APPLY[name](model)), rounds=11, warmup_rounds=2)
    elif contender == "memset":
        zero = synchronised(lambda: [p.detach().zero_() for p in parameters])
        benchmark.pedantic(zero, rounds=11, warmup_rounds=2)
    else:
        with tritoninit.use_backend("numpy"):
            expected = initialize().audit.fingerprint
        with tritoninit.use_backend(contender):
            assert initialize().audit.fingerprint == expected
            benchmark.pedantic(synchronised(initialize), rounds=11, warmup_rounds=2)


CALLS: dict[str, tuple[Callable[[torch.Tensor, Any], Any], Callable[[torch.Tensor], Any]]] = {
    "uniform": (
        lambda x, key: tritoninit.uniform_(x, -0.1, 0.1, key=key),
        lambda x: nn.init.uniform_(x, -0.1, 0.1),
    ),
    "normal": (lambda x, key: tritoninit.normal_(x, 0, 0.02, key=key), lambda x: nn.init.normal_(x, 0, 0.02)),
}


@pytest.mark.parametrize("contender", [*BACKENDS, "torch"])
@pytest.mark.parametrize("name", CALLS)
def bench_call(benchmark: Any, name: str, contender: str) -> None:
    """A tensor so small that nothing but the call itself takes time."""
    ours, theirs = CALLS[name]
    tensor, key = torch.zeros(256, device=DEVICE), tritoninit.Key(0)
    benchmark.group = f"call {name}"
    benchmark.extra_info.update(
        contender=contender,
        distribution=name,
        dtype="float32",
        elements=256,
        bytes=1024,
        threads=1,
        device=DEVICE,
    )
    if contender == "torch":
        benchmark.pedantic(theirs, (tensor,), rounds=200, iterations=100, warmup_rounds=5)
        return
    with tritoninit.use_backend(contender):
        benchmark.pedantic(ours, (tensor, key), rounds=200, iterations=100, warmup_rounds=5)
