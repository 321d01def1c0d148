"""What a name on the command line stands for, and how it is built."""

import pytest
import torch
from torch import nn

from tritoninit.commands.subjects import constructed, named
from tritoninit.outputs import UsageError
from tritoninit.presets import PRESETS
from tritoninit.schemes import TORCH_DEFAULTS

pytestmark = pytest.mark.usefixtures("folder")

CPU = torch.device("cpu")


def test_a_preset_brings_its_rules_and_can_be_built_on_the_meta_device():
    subject = named("gpt2", {}, None)
    assert subject.on_meta
    assert subject.rules(None) is PRESETS["gpt2"].rules
    module = constructed(subject, torch.device("meta"), torch.bfloat16)
    assert {(p.device.type, p.dtype) for p in module.parameters()} == {("meta", torch.bfloat16)}


def test_a_callable_has_its_own_code_unless_a_scheme_is_chosen():
    assert named("zoo:tiny", {}, None).rules is None
    chosen = named("zoo:tiny", {}, "torch")
    assert not chosen.on_meta
    assert chosen.rules(nn.Linear(1, 1)).citation == TORCH_DEFAULTS.citation


def test_settings_arrive():
    subject = named("torch.nn:Linear", {"in_features": 3, "out_features": 2, "bias": False}, None)
    module = constructed(subject, CPU, torch.float32)
    assert (module.in_features, module.out_features, module.bias) == (3, 2, None)


@pytest.mark.parametrize("spec", ["zoo:where", "zoo:raises", "zoo:three"])
def test_default_dtype_is_as_before(spec):
    before = torch.get_default_dtype()
    try:
        constructed(named(spec, {}, None), CPU, torch.bfloat16)
    except UsageError:
        assert spec != "zoo:where"
    assert torch.get_default_dtype() == before
