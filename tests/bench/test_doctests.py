"""The examples in the benchmarks' docstrings, which pytest's own collection would take for a conftest's."""

import doctest
import importlib
from pathlib import Path

import pytest

from tritoninit.bench import suite

MODULES = [
    path.stem for path in Path(suite.__file__).parent.glob("*.py") if ">>> " in path.read_text("utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    failed, attempted = doctest.testmod(importlib.import_module(f"tritoninit.bench.{name}"))
    assert attempted
    assert not failed
