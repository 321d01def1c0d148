"""``tritoninit info``: versions, devices and backends."""

from __future__ import annotations

import argparse
import warnings

import torch

from tritoninit import registry
from tritoninit.machine import device_name, software
from tritoninit.terminal import print_lines, table
from tritoninit.words import availability


def run(_: argparse.Namespace) -> int:
    devices = [torch.device("cpu"), *(torch.device("cuda", k) for k in range(torch.cuda.device_count()))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # the table says why a backend is passed over
        statuses = registry.backends()
    backends = [[status.name, ", ".join(status.devices), availability(status)] for status in statuses]
    print_lines(
        "  ".join(f"{name} {version}" for name, version in software().items()),
        "",
        *table(["device", "what it is"], [[str(device), device_name(device)] for device in devices]),
        "",
        *table(["backend", "serves", "here"], backends),
    )
    return 0
