"""Result files of machines that do not exist, with numbers that nobody measured, for the comparison's tests.

Every time is ``elements * bytes / speed``, so that each throughput, share and ratio in a table is known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tritoninit.bench.inspection import Prediction

BYTES = {"float32": 4, "bfloat16": 2}
H100 = {"name": "NVIDIA H100 80GB HBM3", "arch": "sm_90", "memory_bytes": 80 * 2**30, "clock_mhz": 1980}
MI300 = {"name": "AMD Instinct MI300X", "arch": "gfx942", "memory_bytes": 192 * 2**30, "clock_mhz": None}


def machine(accelerator: Mapping[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A machine_info; without an accelerator, of a CPU with two cores."""
    return {
        "python_version": "3.12.1",
        "python_compiler": "GCC 0",
        "system": "Linux",
        "cpu": {"brand_raw": "AMD EPYC", "count": 2},
        "threads": 2,
        "device": "cpu" if accelerator is None else "cuda",
        "accelerator": accelerator,
        **dict.fromkeys(("numpy", "numba", "torch"), "0.0.0"),
        **dict.fromkeys(("triton", "cupy", "jax")),
        "tritoninit": "0.1.0",
        "stream_version": 1,
        "gate": "bits",
        "protocol": 1,
        **changes,
    }


def rows(
    device: str,
    kind: str,
    subject: str,
    dtype: str,
    elements: int,
    gb_per_s: Mapping[str, float],
    *,
    default: str,
    threads: int = 2,
) -> list[dict[str, Any]]:
    """Rows of every contender in ``gb_per_s``, with quartiles at 3/4 and 5/4 of the median."""
    total = elements * BYTES[dtype]
    seconds = {contender: total / (speed * 1e9) for contender, speed in gb_per_s.items()}
    found = []
    for contender, median in seconds.items():
        info = {
            "kind": kind,
            "subject": subject,
            "contender": contender,
            "ours": contender in ("triton", "numba", "numpy"),
            "default": contender == default,
            "dtype": dtype,
            "elements": elements,
            "bytes": total,
            "threads": threads,
            "device": device,
            "gb_per_s": gb_per_s[contender],
            "gs_per_s": gb_per_s[contender] / BYTES[dtype],
            "memset_fraction": seconds["memset"] / median if "memset" in seconds else None,
            "torch_ratio": seconds["torch"] / median if "torch" in seconds else None,
        }
        stats = {
            "min": median / 2,
            "max": 2 * median,
            "mean": median,
            "stddev": 0.0,
            "ops": 1 / median,
            "median": median,
            "q1": median * 0.75,
            "q3": median * 1.25,
            "iqr": median / 2,
            "rounds": 9,
            "iterations": 1,
            "outliers": "0;0",
            "data": [median] * 9,
        }
        name = f"bench_{kind}[{subject}-{dtype}-{elements}-{threads}-{contender}]"
        row = {"name": name, "fullname": f"bench.py::{name}", "group": f"{kind} {subject}", "params": None}
        found.append({**row, "options": {"timer": "none"}, "extra_info": info, "stats": stats})
    return found


def document(machine_info: Mapping[str, Any], found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "machine_info": dict(machine_info),
        "commit_info": {"id": "0123456789abcdef", "dirty": True, "branch": "none"},
        "benchmarks": list(found),
        "datetime": "2000-01-01T00:00:00",
        "version": "0.0.0",
    }


def gpu(accelerator: Mapping[str, Any], speed: float) -> dict[str, Any]:
    """A GPU whose memset writes ``speed`` GB/s from 2**20 elements on, half of that below."""
    shares = {"triton": 0.75, "torch": 0.25, "cupy-philox": 0.5, "cupy-xorwow": 0.625, "jax": 0.125}
    found = []
    for subject, part in (("normal", 1.0), ("truncated_normal", 0.5), ("uniform", 1.0)):
        for dtype in BYTES:
            for elements in (2**10, 2**20, 2**30):
                memset = speed if elements >= 2**20 else speed / 2
                speeds = {name: memset * share * part for name, share in shares.items()}
                found += rows(
                    "cuda", "fill", subject, dtype, elements, {**speeds, "memset": memset}, default="triton"
                )
    model = {"triton": speed / 2, "torch": speed / 8, "memset": speed}
    found += rows("cuda", "model", "gpt2", "float32", 124_439_808, model, default="triton")
    return document(machine(accelerator), found)


def cpu() -> dict[str, Any]:
    """Two cores that write 8 GB/s, one core 6; and the kinds that are no fill."""
    found = []
    for threads, memset in ((2, 8.0), (1, 6.0)):
        speeds = {"numba": 4.0, "numpy": 0.5, "torch": 1.0, "numpy-generator": 0.8, "memset": memset}
        for elements in (2**10, 2**20):
            found += rows(
                "cpu", "fill", "normal", "float32", elements, speeds, default="numba", threads=threads
            )
    call = {"numba": 0.064, "torch": 0.256}
    found += rows("cpu", "call", "normal", "float32", 256, call, default="numba", threads=1)
    model = {"numba": 6.0, "torch": 0.5, "memset": 8.0}
    found += rows("cpu", "model", "gpt2", "float32", 124_439_808, model, default="numba")
    found += rows("cpu", "structured", "orthogonal", "float32", 512 * 512, {"numba": 0.5}, default="numba")
    starts = rows("cpu", "start", "import torch", "float32", 1000, {"python": 4e-6}, default="")
    starts += rows("cpu", "start", "first fill", "float32", 4096, {"numba": 0.8e-5}, default="numba")
    for row in starts:
        row["extra_info"].update(gb_per_s=None, gs_per_s=None)
    return document(machine(), found + starts)


def save(folder: Path, **documents: Mapping[str, Any]) -> list[Path]:
    """Each document as a file named after its argument."""
    paths = []
    for name, content in documents.items():
        paths.append(folder / f"{name}.json")
        paths[-1].write_text(json.dumps(content))
    return paths


def three(folder: Path) -> list[Path]:
    """Files of an H100 whose memset writes 3000 GB/s, of an MI300 with 4000, and of two CPU cores."""
    return save(folder, h100=gpu(H100, 3000.0), mi300=gpu(MI300, 4000.0), epyc=cpu())


def predictions(
    machine_info: Mapping[str, Any], memset: float | None = None
) -> dict[tuple[str, str], Prediction]:
    """In place of ``inspection.predictions``: for the H100 alone."""
    if (machine_info["accelerator"] or {}).get("name") != H100["name"]:
        return {}
    return {
        ("normal", "float32"): Prediction(600.0, "memory", 0.8),
        ("uniform", "bfloat16"): Prediction(1500.0, "issue", 0.9),
        ("normal", "float16"): Prediction(1.0, "memory", 1.0),  # which nobody measured
    }
