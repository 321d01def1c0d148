"""A tensor so small that nothing but the call itself takes time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

import tritoninit
from tritoninit.bench.contenders import FILLS, KEY, Trial, check, check_bits, contender, default, ours
from tritoninit.bench.device import ALL_THREADS, DEVICE

ELEMENTS = 256
# As users write them: with keyword arguments, and into one tensor.
CALLS: dict[str, tuple[Callable[[torch.Tensor], Any], Callable[[torch.Tensor], Any]]] = {
    "uniform": (
        lambda x: tritoninit.uniform_(x, -0.1, 0.1, key=KEY),
        lambda x: torch.nn.init.uniform_(x, -0.1, 0.1),
    ),
    "normal": (
        lambda x: tritoninit.normal_(x, 0.0, 0.02, key=KEY),
        lambda x: torch.nn.init.normal_(x, 0.0, 0.02),
    ),
    "uniform, no key": (
        lambda x: tritoninit.uniform_(x, -0.1, 0.1),
        lambda x: torch.nn.init.uniform_(x, -0.1, 0.1),
    ),
}


def trials(quick: bool) -> list[Trial]:
    names = [default()] if quick else [name for name in ours() if name != "numpy"]
    return [
        Trial("call", subject, "float32", ELEMENTS, ALL_THREADS, name)
        for subject in CALLS
        for name in [*names, "torch"]
    ]


def bench_call(trial: Trial, timed: Callable[..., None]) -> None:
    by_us, by_torch = CALLS[trial.subject]
    call = by_us if trial.ours else by_torch
    tensor = torch.full((ELEMENTS,), math.nan, device=DEVICE)
    with trial.serving():
        fill = FILLS[trial.subject.partition(",")[0]]
        if trial.subject.endswith("no key") and trial.ours:
            torch.manual_seed(0)
            key = tritoninit.Key.from_generator()
            torch.manual_seed(0)
            check_bits(call(tensor), fill, key, ELEMENTS)
        else:
            check(contender(trial.contender), fill, call(tensor))
        timed(lambda: call(tensor))
