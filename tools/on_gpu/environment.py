"""What the machine is, and what is predicted for it: what Python alone can tell, then what PyTorch can."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any

from tools.on_gpu import rows

# Exit codes of what leaves nothing to measure, and why.
NO_GPU, NO_PACKAGE = 3, 4
NOTHING_TO_MEASURE = {
    NO_GPU: "torch finds no CUDA GPU here",
    NO_PACKAGE: "this Python has no torch or no triton: make gpu PYTHON=... chooses another",
}
NEEDED = ("torch", "triton")  # by every step
PACKAGES = (
    *("torch", "triton", "numpy", "numba", "jax", "pytest", "pytest-benchmark", "hypothesis", "rich"),
    *("scipy", "matplotlib", "safetensors", "transformers", "mpmath"),
)
# What nvidia-smi is asked for; it answers in this order.
QUERY = (
    *("name", "driver_version", "vbios_version", "pstate", "persistence_mode", "mig.mode.current"),
    *("memory.total", "memory.used", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem"),
    *("power.draw", "power.limit", "temperature.gpu", "clocks_throttle_reasons.active", "ecc.mode.current"),
)


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--stand-in", action="store_true")
    arguments = parser.parse_args()
    facts: dict[str, Any] = {"stand_in": arguments.stand_in, **of_python()}
    write(arguments.out, facts)
    facts["nvidia_smi"] = nvidia_smi()
    write(arguments.out, facts)
    if not all(map(importlib.util.find_spec, NEEDED)):
        return NO_PACKAGE
    start = time.perf_counter()
    import torch

    facts["import_torch_seconds"] = round(time.perf_counter() - start, 2)
    if not torch.cuda.is_available() and not arguments.stand_in:
        return NO_GPU
    code = 0
    for part in (of_torch, of_memory, predicted, of_backends):
        try:
            facts |= part()
        except Exception as error:  # noqa: BLE001 - the others are to be known whatever one raises
            facts[f"{part.__name__}_error"] = f"{type(error).__name__}: {error}"
            code = 1
        write(arguments.out, facts)
    print(json.dumps(facts, indent=1))
    return code


def write(path: Path, facts: dict[str, Any]) -> None:
    rows.replace(path, json.dumps(facts, indent=1) + "\n")


def of_python() -> dict[str, Any]:
    installed = {(found.metadata["Name"] or "").lower(): found.version for found in metadata.distributions()}
    cupy = [version for name, version in installed.items() if name.startswith("cupy")]  # cupy-cuda12x, ...
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": sys.version,
        "platform": platform.platform(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "packages": {name: installed.get(name) for name in PACKAGES} | {"cupy": cupy[0] if cupy else None},
    }


def nvidia_smi() -> dict[str, str] | str:
    """What the driver says of each thing asked for, or why it says nothing."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
        values = [value.strip() for value in (done.stdout.splitlines() or [""])[0].split(",")]
        if done.returncode == 0 and len(values) == len(QUERY):
            return dict(zip(QUERY, values, strict=True))
        # Of several names, one that a driver does not know keeps it from saying anything of the others.
        plain = subprocess.run(command[:1], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    said = (done.stdout + done.stderr).strip()[:500]
    return f"exit code {done.returncode}: {said}\n{plain.stdout[:3000]}"


def of_torch() -> dict[str, Any]:
    from tritoninit.bench import device

    return {"device": device.DEVICE, "accelerator": device.accelerator()}


def of_memory() -> dict[str, Any]:
    import torch

    if not torch.cuda.is_available():
        return {}
    free, total = torch.cuda.mem_get_info()
    properties = torch.cuda.get_device_properties()
    return {"memory_free": free, "memory_total": total, "properties": str(properties)}


def predicted() -> dict[str, Any]:
    """The throughput of large fills that the counted instructions allow, where the GPU is a known one."""
    import torch

    from tritoninit.bench import device, inspection
    from tritoninit.bench.architectures import architecture_of

    machine = {"accelerator": device.accelerator()}
    architecture = architecture_of(machine)
    # The memory's bound is another, once a memset was measured.
    computed = inspection.predictions(machine, math.inf)
    return {
        "architecture": None if architecture is None else architecture.name,
        "bandwidth_gb_per_s": None if architecture is None else architecture.bandwidth_gb_per_s,
        "predictions": [
            {
                "subject": subject,
                "dtype": dtype,
                **asdict(prediction),
                "computed_gs_per_s": computed[subject, dtype].gs_per_s,
                "computed_bound": computed[subject, dtype].bound,
                "bytes": getattr(torch, dtype).itemsize,
            }
            for (subject, dtype), prediction in inspection.predictions(machine).items()
        ],
    }


def of_backends() -> dict[str, Any]:
    """Why each backend cannot run here, None where it can: Triton's first kernel is compiled and launched."""
    from tritoninit import registry

    return {"backends": {each.name: each.unavailable for each in registry.backends()}}


if __name__ == "__main__":
    sys.exit(main())
