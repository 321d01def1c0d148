"""What holds for every test: the `gpu` marker, and Hypothesis without a clock."""

from __future__ import annotations

import os

import hypothesis
import pytest
import torch

from tests.zoo import folder as folder  # a fixture: models to name on a command line
from tritoninit import registry

# No deadline: a kernel's first call compiles it, and the interpreter is slow. CI draws the same examples each
# time, so that its verdict is about the change.
hypothesis.settings.register_profile("tritoninit", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("tritoninit")


@pytest.hookimpl(tryfirst=True)  # before fixtures that would allocate on the GPU
def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")


@pytest.fixture
def drawn(monkeypatch):
    """Elements that backends write, one number a fill."""
    sizes = []
    fill = registry.fill

    def counting(backend, items, alike=()):
        sizes.extend(target.numel() for target, _ in items)
        sizes.extend(target.numel() for each in alike for target in each.targets)
        fill(backend, items, alike)

    fill_one = registry.fill_one

    def counting_one(backend, target, *draw):
        sizes.append(target.numel())
        fill_one(backend, target, *draw)

    monkeypatch.setattr(registry, "fill", counting)
    monkeypatch.setattr(registry, "fill_one", counting_one)
    return sizes
