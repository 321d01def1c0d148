"""A tensor so small that nothing but the call itself takes time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

import tritoninit
from tritoninit.bench.contenders import FILLS, KEY, Row, check, check_bits, contender, default, ours
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


def rows(quick: bool) -> list[Row]:
    names = [default()] if quick else [name for name in ours() if name != "numpy"]
    return [
        Row("call", subject, "float32", ELEMENTS, ALL_THREADS, name)
        for subject in CALLS
        for name in [*names, "torch"]
    ]


def bench_call(row: Row, timed: Callable[..., None]) -> None:
    by_us, by_torch = CALLS[row.subject]
    call = by_us if row.ours else by_torch
    tensor = torch.full((ELEMENTS,), math.nan, device=DEVICE)
    with row.serving():
        fill = FILLS[row.subject.partition(",")[0]]
        if row.subject.endswith("no key") and row.ours:
            torch.manual_seed(0)
            key = tritoninit.Key.from_generator()
            torch.manual_seed(0)
            check_bits(call(tensor), fill, key, ELEMENTS)
        else:
            check(contender(row.contender), fill, call(tensor))
        timed(lambda: call(tensor))
