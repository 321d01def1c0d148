"""What pytest-benchmark's rows need beyond its own: the accelerator, the versions; no raw samples."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np
import torch

import tritoninit


def pytest_benchmark_update_machine_info(config: Any, machine_info: dict[str, Any]) -> None:
    # The host's name and kernel say nothing about speed.
    for name in ("node", "release", "machine", "processor"):
        machine_info.pop(name, None)
    cpu = machine_info.get("cpu", {})
    machine_info["cpu"] = {name: cpu.get(name) for name in ("brand_raw", "count")}
    machine_info.update(
        torch=torch.__version__,
        numpy=np.__version__,
        tritoninit=tritoninit.__version__,
        stream_version=tritoninit.STREAM_VERSION,
        system=platform.system(),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
    )


def pytest_benchmark_update_json(config: Any, benchmarks: Any, output_json: dict[str, Any]) -> None:
    for row in output_json["benchmarks"]:
        row["stats"].pop("data", None)
        median = row["stats"]["median"]
        row["extra_info"]["melements_per_s"] = round(row["extra_info"]["elements"] / median / 1e6, 1)
