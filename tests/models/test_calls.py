"""How much of Python a call of initialize_ is: counted, so that no clock and no neighbour has a say."""

import sys
from collections.abc import Callable

import pytest
import torch

import tritoninit as ti
from tritoninit.presets import PRESETS


def calls(run: Callable[[], object]) -> int:
    """Of Python's own functions: what else there is to do is C's, and goes with these."""
    count = 0

    def note(frame: object, event: str, argument: object) -> None:
        nonlocal count
        count += event == "call"

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(before)
    return count


@pytest.fixture(scope="module")
def models():
    """By name: a model in memory that nothing reads, and how many parameters and buffers it has."""
    found = {}
    for name in ("resnet-50", "gpt2", "llama-3.2-1b"):
        with torch.device("meta"):
            model = PRESETS[name].build()
        found[name] = model.to_empty(device="cpu"), len([*model.parameters(), *model.buffers()])
    return found


# A slot is made, looked at (is_usual, of parameters _is_marked), looked for by rules (Finder.find) and
# checked (_Checks.on, check_usual): six to seven; where globs are about names, one more. What is asked once
# for a module (its place among others), once for those that are alike (some 25 times for ResNet-50, 15 each)
# and once for a model (150) is shared by its slots, of which ResNet-50 has 320 and the others half as many.
# It was 9.1, 11.5 and 10.6 when this was written.
BOUNDS = {"resnet-50": 10.5, "gpt2": 13.0, "llama-3.2-1b": 12.0}


@pytest.mark.parametrize("name", BOUNDS)
def test_calls_per_slot(models, monkeypatch, name):
    model, slots = models[name]
    rules = ti.RuleSet.of(PRESETS[name].rules)
    monkeypatch.setattr("tritoninit.registry.fill", lambda *draws: None)
    monkeypatch.setattr("tritoninit.auditing.reading._seen", lambda device, dtype, group: [None] * len(group))
    ti.initialize_(model, rules, seed=0)
    assert calls(lambda: ti.initialize_(model, rules, seed=0)) / slots < BOUNDS[name]
