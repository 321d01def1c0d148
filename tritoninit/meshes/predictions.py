"""How long a rank's fills take on a named GPU, by the stored counts of ``tritoninit inspect``."""

from __future__ import annotations

from typing import NamedTuple

import torch

from tritoninit.bench.architectures import ARCHITECTURES, Architecture
from tritoninit.bench.inspection import Counts, seconds_an_element, stored
from tritoninit.meshes.shares import Work


class Rates(NamedTuple):
    """Seconds for an element: of the memory's bandwidth if it is stored, of the busiest unit if computed."""

    stored: float
    computed: float


def gpu_named(name: str) -> Architecture:
    """The GPU of the table whose name begins so, or has that word in it, whatever the case.

    Raises:
        ValueError: there is none, or several.
    """
    word = name.strip().casefold()
    names = {each.name.casefold(): each for each in ARCHITECTURES}
    found = [
        each for known, each in names.items() if word and (known.startswith(word) or word in known.split())
    ]
    if word in names:
        return names[word]
    if len(found) != 1:
        known = ", ".join(each.name for each in ARCHITECTURES)
        raise ValueError(f"{'several GPUs are' if found else 'no GPU is'} called {name!r}; known are {known}")
    return found[0]


class Predictor:
    """Rates of one GPU."""

    def __init__(self, gpu: Architecture) -> None:
        self.gpu = gpu
        self._counts: dict[Work, Counts] = {
            Work(row.kernel, row.distribution, row.dtype): row
            for row in stored()["rows"]
            if row.arch == gpu.arch
        }

    def rates(self, work: Work) -> Rates:
        """What an element takes at least, with all attainable bandwidth, and all of the busiest unit."""
        itemsize = getattr(torch, work.dtype).itemsize
        memory = itemsize / (self.gpu.attainable_gb_per_s * 1e9)
        counts = self._counts.get(work)
        if counts is None and work.dtype == "float16":  # which costs what bfloat16 does, where it is left out
            counts = self._counts.get(work._replace(dtype="bfloat16"))
        if counts is None:
            return Rates(memory, 0.0)
        seconds = seconds_an_element(counts, self.gpu)
        return Rates(memory, max(each for name, each in seconds.items() if name != "memory"))
