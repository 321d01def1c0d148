"""Parameters by names that wrappers leave alone, and which of them a selection means."""

import pytest
import torch
from torch import nn

from tests.model_cases import INDUCTOR, NOISE, Model, assert_equal_states, initialized, poisoned, state
from tritoninit import (
    Keep,
    Normal,
    Rule,
    Uniform,
    Zeros,
    initialize_,
)


class TestNames:
    """What wraps a model changes no key, no glob and no name in the report."""

    def assert_same(self, wrapped, plain):
        report = initialize_(wrapped, [Rule("blocks.*", Normal()), Rule("embed.weight", Uniform())], seed=3)
        expected = initialize_(plain, [Rule("blocks.*", Normal()), Rule("embed.weight", Uniform())], seed=3)
        assert [each.name for each in report] == [each.name for each in expected]
        for one, other in zip(wrapped.parameters(), plain.parameters(), strict=True):
            assert one.equal(other)

    @INDUCTOR
    def test_compiled(self):
        self.assert_same(torch.compile(poisoned()), poisoned())

    @INDUCTOR
    def test_compiled_within(self):
        model = poisoned()
        model.blocks[1] = torch.compile(model.blocks[1])
        assert "blocks.1._orig_mod.fc.weight" in dict(model.named_parameters())
        self.assert_same(model, poisoned())

    def test_data_parallel(self):
        self.assert_same(nn.DataParallel(poisoned()), poisoned())

    def test_averaged(self):
        self.assert_same(torch.optim.swa_utils.AveragedModel(poisoned()), poisoned())

    def test_checkpointed(self):
        from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

        model = poisoned()
        model.blocks[0] = checkpoint_wrapper(model.blocks[0])
        self.assert_same(model, poisoned())

    def test_a_module_of_that_name_keeps_it(self):
        """Only wrappers' own attributes are dropped: a user's "module" is a name like others."""
        model = nn.ModuleDict({"module": nn.Linear(2, 2), "other": nn.Linear(2, 2)})
        report = initialize_(model, NOISE, seed=0)
        assert [each.name for each in report][:2] == ["module.weight", "module.bias"]

    def test_fsdp_s_and_ddp_s_attributes(self):
        """By attribute and class: the wrappers themselves need a process group."""
        model = poisoned()
        wrapper = nn.Module()
        wrapper._fsdp_wrapped_module = model.blocks[0]
        model.blocks[0] = wrapper
        parallel = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
        nn.Module.__init__(parallel)
        parallel.module = model
        self.assert_same(parallel, poisoned())

    def test_a_wrapper_s_own_parameter_of_the_same_name(self):
        wrapper = nn.Module()
        wrapper._orig_mod = nn.Linear(2, 2)
        wrapper.weight = nn.Parameter(torch.zeros(2))
        with pytest.raises(ValueError, match=r"several tensors have one name .*: weight"):
            initialize_(wrapper, NOISE, seed=0)

    def test_a_shared_module_is_set_once_under_its_first_name(self):
        shared = nn.Linear(3, 3)
        report = initialize_(nn.ModuleDict({"a": shared, "b": shared}), NOISE, seed=0)
        assert [each.name for each in report] == ["a.weight", "a.bias"]


class TestSelection:
    @pytest.mark.parametrize(
        "selection",
        [
            ["blocks.0.fc.weight", "blocks.0.fc.bias"],
            "blocks.0.fc.*",
            "blocks.0.fc",
            lambda model: model.blocks[0].fc,
            lambda model: [model.blocks[0].fc],
            lambda model: (n for n in ("blocks.0.fc.weight", "blocks.0.fc.bias")),
        ],
    )
    def test_only_and_skip(self, selection):
        def pick(model):
            return selection(model) if callable(selection) else selection

        chosen = {"blocks.0.fc.weight", "blocks.0.fc.bias"}
        model = poisoned()
        initialize_(model, NOISE, seed=0, only=pick(model))
        whole = initialized(rules=NOISE)
        for name, parameter in model.named_parameters():
            expected = whole.get_parameter(name)
            assert parameter.equal(expected) if name in chosen else parameter.isnan().all()
        model = poisoned()
        report = initialize_(model, NOISE, seed=0, skip=pick(model))
        for each in report:
            assert (each.initializer == Keep()) == (each.name in chosen)
            assert bool(each.tensor.isnan().any()) == (each.name in chosen)

    def test_a_tied_parameter_answers_to_all_its_names(self):
        report = initialize_(poisoned(), NOISE, seed=0, skip=["head.weight"])
        assert [each.name for each in report if each.initializer == Keep()] == ["embed.weight"]

    @INDUCTOR
    def test_wrapped_names_are_understood_too(self):
        model = torch.compile(poisoned())
        report = initialize_(model, NOISE, seed=0, skip=["_orig_mod.embed.weight", "blocks.0.fc.bias"])
        kept = [each.name for each in report if each.initializer == Keep()]
        assert kept == ["embed.weight", "blocks.0.fc.bias"]

    @pytest.mark.parametrize("what", ["only", "skip"])
    def test_what_selects_nothing_is_an_error(self, what):
        """A misspelt name would otherwise overwrite what was loaded."""
        model = Model()
        before = state(model)
        with pytest.raises(ValueError, match=rf"{what} matches nothing in the model: blocks\.9\.fc, Conv2d"):
            initialize_(model, **{what: ["embed.weight", "blocks.9.fc", nn.Conv2d(1, 1, 1)]})
        assert_equal_states(state(model), before)
        with pytest.raises(TypeError, match="names, globs and modules"):
            initialize_(model, **{what: [3]})

    def test_skipped_parameters_need_no_rule(self):
        initialize_(Model(), [Rule("blocks.*", Zeros())], skip="embed.weight", seed=0)

    def test_both(self):
        report = initialize_(poisoned(), NOISE, seed=0, only="blocks.*", skip="*.bias")
        drawn = {each.name for each in report if each.initializer != Keep()}
        assert drawn == {f"blocks.{i}.{n}.weight" for i in (0, 1) for n in ("norm", "fc")}
