"""``tritoninit init --compare``: how long torch.nn.init takes to do the same, once."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING

from torch import Tensor

from tritoninit.auditing.assignments import Assignment
from tritoninit.bench.torch_equivalents import torch_equivalent
from tritoninit.commands.subjects import Subject, constructed
from tritoninit.commands.timing import WARM_UP, Timing, timed
from tritoninit.terminal import one_line, stage
from tritoninit.words import lowered

if TYPE_CHECKING:
    from rich.progress import Progress

_STAGE = "initialising by torch.nn.init"


def time_fills(done: Iterable[Assignment], small: Tensor, progress: Progress | None) -> Timing | str:
    """The same distributions, into the same memory; or why it cannot."""
    with stage(progress, _STAGE), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            calls = [
                (torch_equivalent(lowered(each.initializer, each.tensor.shape)), each.tensor) for each in done
            ]
            _warm_up(small)

            def run() -> None:
                for call, tensor in calls:
                    call(tensor)

            return timed(run, small.device, runs=1)
        except (RuntimeError, ValueError) as error:
            return one_line(error)


def time_construction(subject: Subject, small: Tensor, progress: Progress | None) -> Timing | str:
    """The model's own code as it is, once more; or why it cannot.

    Whoever holds the model that was built first has twice its memory meanwhile.
    """
    with stage(progress, _STAGE):
        try:
            _warm_up(small)
            return timed(lambda: constructed(subject, small.device, small.dtype), small.device, runs=1)
        except (RuntimeError, ValueError) as error:
            return one_line(error)


def _warm_up(small: Tensor) -> None:
    for fill in WARM_UP:
        torch_equivalent(fill)(small)
