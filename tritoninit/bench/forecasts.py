"""GPUs that nobody measured, beside those that somebody did: from a file of counted instructions.

``tritoninit inspect --out`` writes one; ``results/static.json`` is one. It has no times, and what is
predicted from it is shown as such wherever it is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tritoninit.bench import inspection
from tritoninit.bench.architectures import ARCHITECTURES, Architecture, architecture_of
from tritoninit.bench.inspection import Counts, Prediction
from tritoninit.bench.result_files import Results
from tritoninit.outputs import UsageError, shown

_BENCHMARKED = ("run_kernel",)  # what fills of one tensor run


@dataclass(frozen=True)
class Forecast:
    """One GPU: ``predictions`` are by distribution and dtype, ``triton`` is the compiler that was counted."""

    path: Path
    architecture: Architecture
    triton: str
    predictions: Mapping[tuple[str, str], Prediction]

    @property
    def name(self) -> str:
        return self.architecture.name


def is_one(content: Any) -> bool:
    """Whether a JSON document is of counted instructions, right or not."""
    return isinstance(content, dict) and {"architectures", "rows"} <= set(content) and "what" in content


def read(path: Path, content: Mapping[str, Any], results: Sequence[Results]) -> list[Forecast]:
    """What a file of counts says of GPUs that are not among those measured.

    Raises:
        UsageError: it is of another stream version, or damaged.
    """
    name = shown(path)
    version = content.get("stream_version")
    others = {r.machine["stream_version"] for r in results}
    if any(other != version for other in others):
        raise UsageError(f"these may not be compared: stream_version is {version!r:.40} in {name}")
    measured = [architecture_of(r.machine) for r in results]
    try:
        rows = [Counts(**row) for row in content["rows"] if row["kernel"] in _BENCHMARKED]
        found = [
            Forecast(path, each, str(content.get("triton")), predictions)
            for each in ARCHITECTURES
            if each not in measured
            and (predictions := inspection.of_benchmarks([r for r in rows if r.arch == each.arch], each))
        ]
        if not all(math.isfinite(number) and number >= 0 for row in rows for number in row.kinds.values()):
            raise ValueError("a count is no number")
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError):
        raise UsageError(
            f"{name} is damaged: it is no file of counts that tritoninit inspect wrote"
        ) from None
    if not any(row.arch == each.arch for row in rows for each in ARCHITECTURES):
        archs = ", ".join(dict.fromkeys(f"{row.arch!r:.40}" for row in rows)) or "none"
        raise UsageError(f"{name} predicts nothing: the table of GPUs has none of its architectures, {archs}")
    return found
