"""Runs of the benchmark suite in this process, right ones, and such as something goes wrong in."""

import contextlib
import io
from dataclasses import replace
from functools import cache
from unittest.mock import patch

import cpuinfo
import torch

import tritoninit as ti
from tritoninit import registry
from tritoninit.bench import device, suite

SMALL = "[uniform-float32-2^8"  # one size of one distribution: a fill by each contender, and a call

CALLS = "call[uniform-float32"  # two rows: ours, then torch's


_processor = cache(cpuinfo.get_cpu_info)  # which asks in half a second and several processes what stays


def run(pattern, out=None, **options):
    """The exit code and what was printed; on standard error nothing is, where it is no terminal."""
    printed, errors = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(errors),
        patch("cpuinfo.get_cpu_info", _processor),
    ):
        code = suite.run(True, [pattern], out, **options)
    assert errors.getvalue() == ""
    return code, printed.getvalue()


def spoiled(monkeypatch, spoil):
    """The default backend, which spoils the last target that it wrote."""
    backend = ti.registry.resolve(device.DEVICE)
    fill = backend.load()

    def write(items):
        fill(items)
        spoil(items[-1][0])

    monkeypatch.setitem(registry._REGISTRY, backend.name, replace(backend, load=lambda: write, short=None))


def one_bit(target):
    flat = target.view(-1).view(torch.int32)
    flat[5] ^= 1


def interrupted(*_):
    raise KeyboardInterrupt
