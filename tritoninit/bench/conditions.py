"""What a machine's power and clocks were set to, and what they were, as far as anyone may read it."""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch

from tritoninit.bench.device import CPUS, DEVICE

_CPUINFO: Final = Path("/proc/cpuinfo")
# By the name that results have: what nvidia-smi calls it.
_NUMBERS: Final = {
    "power_limit_w": "power.limit",
    "power_w": "power.draw",
    "clock_mhz": "clocks.sm",
    "memory_clock_mhz": "clocks.mem",
    "temperature_c": "temperature.gpu",
}
# The second until driver 535. A name that a driver does not know keeps it from answering any.
_REASONS: Final = ("clocks_event_reasons.active", "clocks_throttle_reasons.active")
# Bits of nvmlClocksEventReasons (NVML API Reference Guide).
_HELD_BY: Final = (
    *("idle", "clocks that were set", "power cap", "hardware", "sync boost", "heat", "heat, by hardware"),
    *("power brake", "display clocks"),
)


def read() -> dict[str, Any]:
    """The GPU's and the CPUs' power and clocks now; None for what is not there or cannot be read.

    Returns:
        "gpu": watts, MHz and degrees Celsius, and "held_by", in words what keeps the clock from being higher.
        "cpu": "governor" and "boost" of Linux's cpufreq, and "clock_mhz", the mean over all CPUs.
    """
    return {"gpu": _gpu() if DEVICE == "cuda" else None, "cpu": _cpu()}


def _gpu() -> dict[str, Any] | None:
    for which, reasons in itertools.product(_which(), _REASONS):
        answers = _nvidia_smi(which, [*_NUMBERS.values(), reasons])
        if answers is not None:
            *numbers, held = answers
            found = {name: _number(text) for name, text in zip(_NUMBERS, numbers, strict=True)}
            return {**found, "held_by": _words(held)}
    return None


def _which() -> list[list[str]]:
    """How nvidia-smi is told which GPU PyTorch uses: by its number, or else not: there may be one."""
    uuid = getattr(torch.cuda.get_device_properties(), "uuid", None)
    return [[]] if uuid is None else [[f"--id=GPU-{str(uuid).removeprefix('GPU-')}"], []]


def _nvidia_smi(which: Sequence[str], names: Sequence[str]) -> list[str] | None:
    """What the driver answers to each name, of one GPU; None if it does not, or answers of several."""
    command = ["nvidia-smi", *which, f"--query-gpu={','.join(names)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    lines = done.stdout.strip().splitlines()
    answers = [text.strip() for text in lines[0].split(",")] if len(lines) == 1 else []
    return answers if len(answers) == len(names) else None


def _number(text: str) -> float | None:
    return float(text) if re.fullmatch(r"\d+(\.\d+)?", text) else None


def _words(mask: str) -> list[str] | None:
    """
    >>> _words("0x0000000000000005"), _words("[N/A]")
    (['idle', 'power cap'], None)
    """
    if not re.fullmatch(r"0x[0-9a-fA-F]+", mask):
        return None
    bits = int(mask, 16)
    return [word for k, word in enumerate(_HELD_BY) if bits >> k & 1]


def _cpu() -> dict[str, Any]:
    governors = {_text(path) for path in CPUS.glob("cpu[0-9]*/cpufreq/scaling_governor")} - {None}
    boost, no_turbo = _text(CPUS / "cpufreq" / "boost"), _text(CPUS / "intel_pstate" / "no_turbo")
    clocks = re.findall(r"^cpu MHz\s*: ([\d.]+)$", _text(_CPUINFO) or "", re.MULTILINE)
    return {
        "governor": ", ".join(sorted(map(str, governors))) or None,
        "boost": boost == "1" if boost else no_turbo == "0" if no_turbo else None,
        "clock_mhz": round(sum(map(float, clocks)) / len(clocks), 1) if clocks else None,
    }


def _text(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace").strip()
    except OSError:
        return None
