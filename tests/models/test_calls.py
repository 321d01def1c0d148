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


# A slot is looked for by rules (Finder.find), checked (_Checks.on, check_usual) and looked at (is_usual, of
# parameters _is_marked, of what is drawn _all_of): five to six. Where globs are about names, three more each.
# What is asked once for a shape, and once for a model (150 or so), is shared by its slots, of which ResNet-50
# has 320 in 35 cases.
BOUNDS = {"resnet-50": 12.0, "gpt2": 16.0, "llama-3.2-1b": 15.0}


@pytest.mark.parametrize("name", BOUNDS)
def test_calls_per_slot(models, monkeypatch, name):
    model, slots = models[name]
    rules = ti.RuleSet.of(PRESETS[name].rules)
    monkeypatch.setattr("tritoninit.registry.fill", lambda *draws: None)
    monkeypatch.setattr("tritoninit.auditing.reading._seen", lambda device, dtype, group: [None] * len(group))
    ti.initialize_(model, rules, seed=0)
    assert calls(lambda: ti.initialize_(model, rules, seed=0)) / slots < BOUNDS[name]
