"""What a result depends on besides the code: versions of packages, and the device."""

from __future__ import annotations

import os
import platform
from importlib import metadata, util
from pathlib import Path

import torch

from tritoninit._version import __version__
from tritoninit.kernels.stream import STREAM_VERSION


def versions(*names: str) -> dict[str, str | None]:
    """Of installed packages, by the name that is imported; None for what is not installed."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        if util.find_spec(name) is None:
            return None
    # CuPy and Triton come in packages of several names, which takes reading every package's list of files.
    owners = metadata.packages_distributions().get(name)
    return metadata.version(owners[0]) if owners else None


def software() -> dict[str, str]:
    """The versions that weights, their measurement and the file they are in depend on, by name."""
    others = versions("triton", "numpy", "rich", "safetensors")
    return {
        "tritoninit": __version__,
        "stream": str(STREAM_VERSION),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: version or "none" for name, version in others.items()},
    }


def device_name(device: torch.device) -> str:
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        capability = f"{properties.major}.{properties.minor}"
        return f"{properties.name}, capability {capability}, {properties.total_memory / 2**30:.0f} GiB"
    if device.type == "cpu":
        return f"{_processor()}, {torch.get_num_threads()} threads of {os.cpu_count()}"
    return str(device)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()
