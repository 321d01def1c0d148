"""Where benchmarks run, and when a call is over there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def synchronised(call: Callable[[], Any]) -> Callable[[], Any]:
    """``call``, and then wait for what it launched."""

    def run() -> None:
        call()
        if DEVICE == "cuda":
            torch.cuda.synchronize()

    return run
