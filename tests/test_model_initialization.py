"""Whole models: what is kept, moved, materialised and refused; names that wrappers leave alone."""

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import tritoninit as ti
from tritoninit import (
    TORCH_DEFAULTS,
    Axes,
    Constant,
    KaimingNormal,
    Keep,
    Key,
    Normal,
    Ones,
    Rule,
    RuleSet,
    Scaled,
    Uniform,
    Value,
    XavierUniform,
    ZeroRow,
    Zeros,
    initialize_,
)
from tritoninit.fills import sole_fill
from tritoninit.initializers import FanScaled
from tritoninit.presets import PRESETS, Conv1D, Llama

NOISE = [Rule("*", Normal())]
META = torch.device("meta")
# torch.compile imports parts of torch that use what torch deprecates.
INDUCTOR = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


class Block(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.norm = nn.BatchNorm1d(width)
        self.fc = nn.Linear(width, 2 * width)


class Model(nn.Module):
    def __init__(self, depth=2):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.head = nn.Linear(8, 11, bias=False)
        self.head.weight = self.embed.weight


def poisoned(model=None):
    model = Model() if model is None else model
    with torch.no_grad():
        for tensor in model.parameters():
            tensor.fill_(torch.nan)
    return model


def state(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_equal_states(one, other):
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype, name
        assert tensor.equal(other[name]), name


def initialized(model=None, rules=TORCH_DEFAULTS, **keywords):
    model = poisoned(model)
    initialize_(model, rules, seed=0, **keywords)
    return model


class TestDefaults:
    def test_are_torch_s_own(self):
        model = initialized()
        bound = 1 / math.sqrt(8)
        assert model.blocks[0].fc.weight.abs().max() <= bound
        assert model.blocks[0].fc.bias.abs().max() <= bound
        assert 0.7 < model.embed.weight.std() < 1.3  # 88 normals: 4 sigma of the sample's
        assert model.blocks[1].norm.weight.equal(torch.ones(8))

    def test_buffers_that_a_mapping_names_are_set(self):
        model = Model()
        model.blocks[0].norm.running_mean.fill_(5)
        model.blocks[0].norm.running_var.fill_(5)
        model.blocks[0].norm.num_batches_tracked.fill_(5)
        report = initialize_(model, seed=0)
        norm = model.blocks[0].norm
        assert norm.running_mean.equal(torch.zeros(8))
        assert norm.running_var.equal(torch.ones(8))
        assert norm.num_batches_tracked.equal(torch.tensor(0))
        names = [each.name for each in report]
        assert names[: len(list(model.parameters()))] == [n for n, _ in model.named_parameters()]
        assert "blocks.0.norm.running_var" in names

    def test_a_glob_reaches_no_buffer(self):
        model = Model()
        model.blocks[0].norm.running_var.fill_(5)
        initialize_(model, NOISE, seed=0)
        assert (model.blocks[0].norm.running_var == 5).all()

    def test_rules_go_before_defaults(self):
        rules = [Rule("*.fc.weight", Constant(3.0))] + TORCH_DEFAULTS  # noqa: RUF005 - as a user writes it
        assert isinstance(rules, RuleSet)
        assert rules.citation == TORCH_DEFAULTS.citation
        model = initialized(rules=rules)
        assert (model.blocks[0].fc.weight == 3).all()
        assert model.blocks[0].fc.bias.abs().max() <= 1 / math.sqrt(8)

    def test_within(self):
        model = nn.ModuleDict({"a": Block(), "b": nn.Sequential(nn.Linear(3, 3))})
        initialize_(model, [Rule(nn.Linear, Ones(), within=Block), Rule("*", Zeros())], seed=0)
        assert (model["a"].fc.weight == 1).all()
        assert (model["b"][0].weight == 0).all()


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


class TestFineTuning:
    def checkpoint(self):
        """A backbone's weights; the head is new."""
        trained = initialized(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 6)))
        return {name: tensor for name, tensor in trained.state_dict().items() if name.startswith("0.")}

    def test_initialise_then_load(self):
        checkpoint = self.checkpoint()
        model = initialized(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)))
        head = state(model[1])
        model.load_state_dict(checkpoint, strict=False)
        assert_equal_states(state(model[0]), {k[2:]: v for k, v in checkpoint.items()})
        assert_equal_states(state(model[1]), head)

    @pytest.mark.parametrize("how", ["skip", "only", "keep"])
    def test_load_then_initialise_the_rest(self, how):
        checkpoint = self.checkpoint()
        model = poisoned(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)))
        missing = model.load_state_dict(checkpoint, strict=False).missing_keys
        if how == "skip":
            initialize_(model, seed=0, skip=checkpoint.keys())
        elif how == "only":
            initialize_(model, seed=0, only=missing)
        else:
            initialize_(model, [Rule("0.*", Keep()), *TORCH_DEFAULTS], seed=0)
        assert_equal_states(state(model[0]), {k[2:]: v for k, v in checkpoint.items()})
        whole = initialized(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)))
        assert_equal_states(state(model[1]), state(whole[1]))

    def test_load_into_meta_then_initialise_the_rest(self):
        checkpoint = self.checkpoint()
        with META:
            model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3))
        missing = model.load_state_dict(checkpoint, strict=False, assign=True).missing_keys
        initialize_(model, seed=0, only=missing, device="cpu")
        assert_equal_states(state(model[0]), {k[2:]: v for k, v in checkpoint.items()})
        whole = initialized(nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 3)))
        assert_equal_states(state(model[1]), state(whole[1]))

    def test_frozen(self):
        model = poisoned()
        model.blocks[0].requires_grad_(False)
        frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        report = initialize_(model, seed=0, skip=frozen)
        assert {each.name for each in report if each.initializer == Keep()} == set(frozen)
        assert model.blocks[0].fc.weight.isnan().all()
        assert not model.blocks[1].fc.weight.isnan().any()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
    def test_value(self, dtype):
        values = np.linspace(-1, 1, 33).reshape(11, 3)
        model = nn.Embedding(11, 3, dtype=dtype)
        report = initialize_(model, [Rule("weight", Value(values))], seed=0)
        assert model.weight.equal(torch.from_numpy(values).to(dtype))
        assert repr(report[0].initializer) == "Value(float64, shape (11, 3))"
        assert report[0].key is None

    def test_a_value_of_another_shape(self):
        model = poisoned(nn.Linear(3, 2))
        with pytest.raises(
            ValueError, match=r"weight: Value\(float32, shape \(3, 2\)\) does not fit .*\(2, 3\)"
        ):
            initialize_(model, [Rule("weight", Value(torch.zeros(3, 2))), *TORCH_DEFAULTS])
        assert model.bias.isnan().all()

    def test_values_are_equal_to_themselves_alone(self):
        one, other = Value([1.0]), Value([2.0])
        assert one == one
        assert one != other
        assert len({one, other}) == 2
        assert Rule("a", one) != Rule("a", other)

    def test_lists_are_rounded_once(self):
        assert Value([0.1])(torch.empty(1, dtype=torch.float64)).item() == 0.1
        with META:
            assert Value([0.1])(torch.empty(1, device="cpu")).item() == pytest.approx(0.1)

    @pytest.mark.parametrize(
        ("values", "dtype"),
        [([300], torch.uint8), ([-1], torch.uint8), ([1.5], torch.int64), ([1 + 2j], torch.float32)],
    )
    def test_values_that_the_dtype_does_not_hold(self, values, dtype):
        target = torch.zeros(1, dtype=dtype)
        with pytest.raises(ValueError, match=r"holds numbers that|has imaginary parts"):
            Value(values)(target)
        assert target.item() == 0

    def test_a_meta_value(self):
        with pytest.raises(ValueError, match="no values"):
            Value(torch.empty(3, device="meta"))

    def test_a_value_in_a_window(self):
        values = torch.arange(12.0).view(3, 4)
        out = Value(values)(torch.zeros(2, 2), window=ti.Window((3, 4), (1, 2)))
        assert out.equal(values[1:, 2:])


class TestUnusual:
    """What cannot simply be drawn: one behaviour each, and nothing written where it is an error."""

    def assert_refused(self, model, match, rules=TORCH_DEFAULTS, **keywords):
        rng = torch.get_rng_state()
        before = [(t, t.detach().clone()) for t in model.parameters() if not nn.parameter.is_lazy(t)]
        with pytest.raises((ValueError, NotImplementedError), match=match):
            initialize_(model, rules, **keywords)
        assert all(now.equal(then) for now, then in before)
        assert torch.get_rng_state().equal(rng)

    def test_unmatched(self):
        class Odd(nn.Module):
            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.ones(3))
                self.inner = nn.Linear(2, 2)
                self.inner.shift = nn.Parameter(torch.ones(3))

        self.assert_refused(Odd(), r"no rule matches 2 parameters: scale, inner\.shift")

    def test_lazy(self):
        model = nn.Sequential(nn.Linear(2, 3), nn.LazyLinear(4))
        self.assert_refused(model, r"1\.weight: a lazy parameter.*1\.bias: a lazy parameter")

    def test_several_problems_in_one_message(self):
        model = nn.Sequential(nn.Linear(2, 3), nn.LazyLinear(4))
        model.extra = nn.Parameter(torch.ones(2))
        self.assert_refused(model, r"1\.weight: a lazy .*; no rule matches 1 parameters: extra")

    def test_float64(self):
        self.assert_refused(nn.Linear(2, 2).double(), "weight: .*float64")

    def test_integers_take_constants_and_values(self):
        model = nn.Linear(2, 2)
        model.table = nn.Parameter(torch.tensor([3, 1, 2]), requires_grad=False)
        self.assert_refused(model, "table: torch.int64 takes constants and values", NOISE)
        initialize_(model, [Rule("table", Value([7, 8, 9])), *TORCH_DEFAULTS], seed=0)
        assert model.table.tolist() == [7, 8, 9]
        initialize_(model, [Rule("table", Constant(4)), *TORCH_DEFAULTS], seed=0)
        assert model.table.tolist() == [4, 4, 4]

    def test_quantised(self):
        class Packed(nn.Parameter):
            """As bitsandbytes' Params4bit: bytes that are no numbers."""

            def __new__(cls, data):
                return torch.Tensor._make_subclass(cls, data, False)

        model = nn.Linear(2, 2)
        model.weight = Packed(torch.tensor([1, 2], dtype=torch.uint8))
        self.assert_refused(model, "weight: a quantised Packed", [Rule("*", Zeros())])
        initialize_(model, [Rule("weight", Keep()), Rule("*", Zeros())], seed=0)
        assert model.weight.tolist() == [1, 2]

    def test_a_fan_that_the_shape_does_not_tell(self):
        class Experts(nn.Module):
            def __init__(self):
                super().__init__()
                self.up = nn.Parameter(torch.zeros(4, 8, 16))

        self.assert_refused(
            Experts(), r"up: which dimensions of shape \(4, 8, 16\)", [Rule("*", KaimingNormal())]
        )
        axes = Axes(in_axes=(1,), out_axes=(2,), batch_axes=(0,))
        model = Experts()
        report = initialize_(model, [Rule("*", XavierUniform(axes=axes))], seed=0)
        bound = math.sqrt(6 / (8 + 16))
        assert sole_fill(report[0].initializer, (4, 8, 16)) == Uniform(-bound, bound)
        assert 0.95 * bound < model.up.abs().max() < bound

    def test_weight_norm_through_its_parametrization(self):
        plain = initialized(nn.Sequential(nn.Linear(5, 3)))
        model = nn.Sequential(parametrizations.weight_norm(nn.Linear(5, 3)))
        report = initialize_(model, seed=0)
        assert {each.name for each in report} == {"0.weight", "0.bias"}
        # The norm times the direction: two roundings of each element.
        torch.testing.assert_close(model[0].weight, plain[0].weight, rtol=2**-22, atol=0)
        assert model[0].bias.equal(plain[0].bias)

    def test_spectral_norm_through_its_parametrization(self):
        model = parametrizations.spectral_norm(nn.Linear(5, 3))
        vectors = model.parametrizations.weight[0]._u.clone()
        initialize_(model, seed=0)
        assert model.parametrizations.weight.original.equal(initialized(nn.Linear(5, 3)).weight)
        assert model.parametrizations.weight[0]._u.equal(vectors)  # looking at the weight would have moved it

    def test_a_parametrization_without_an_inverse(self):
        class Doubled(nn.Module):
            def forward(self, x):
                return 2 * x

        model = nn.Linear(2, 2)
        parametrize.register_parametrization(model, "weight", Doubled())
        self.assert_refused(model, "weight: its parametrisation Doubled has no right_inverse")

    def test_what_cannot_be_inverted_is_found_before_anything_is_written(self):
        model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
        parametrizations.orthogonal(model[1], use_trivialization=False, orthogonal_map="cayley")
        self.assert_refused(model, r"1\.weight: its parametrisation _Orthogonal cannot be inverted")

    def test_looking_at_a_report_changes_nothing(self):
        model = parametrizations.spectral_norm(nn.Linear(64, 64))
        report = initialize_(model, seed=0)
        vectors = model.parametrizations.weight[0]._u.clone()
        assert report.audit.ok  # nothing is expected of what went through a function
        assert ti.audit(model).ok
        assert model.parametrizations.weight[0]._u.equal(vectors)
        assert model.training
        assert all(module.training for module in model.modules())

    def test_a_parametrised_weight_answers_to_its_originals_names(self):
        trained = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 5)), nn.Linear(5, 6))
        loaded = {name: tensor.clone() for name, tensor in trained[0].state_dict(prefix="0.").items()}
        model = nn.Sequential(parametrizations.weight_norm(nn.Linear(4, 5)), nn.Linear(5, 6))
        model.load_state_dict(loaded, strict=False)
        report = initialize_(model, NOISE, seed=0, skip=loaded.keys())
        assert {each.name for each in report if each.initializer == Keep()} == {"0.weight", "0.bias"}
        assert_equal_states({k: v for k, v in state(model).items() if k in loaded}, loaded)

    @pytest.mark.parametrize("first", ["a", "b"])
    def test_a_weight_tied_to_a_parametrised_one_s_original(self, first):
        a, b = nn.Linear(3, 3), nn.Linear(3, 3)
        parametrizations.spectral_norm(a)
        b.weight = a.parametrizations.weight.original
        model = nn.ModuleDict({name: {"a": a, "b": b}[name] for name in sorted("ab", reverse=first == "b")})
        kept = b.weight.detach().clone()
        initialize_(model, seed=5, skip="b")
        assert b.weight.equal(kept)
        report = initialize_(model, NOISE, seed=5)
        assert sorted(each.name for each in report) == sorted([f"{first}.weight", "a.bias", "b.bias"])
        assert b.weight.equal(Normal()(torch.empty(3, 3), key=Key(5).fold_in(f"{first}.weight")))

    def test_old_style_weight_norm(self):
        with pytest.warns(FutureWarning):
            model = nn.utils.weight_norm(nn.Linear(2, 2))
        self.assert_refused(model, "weight_g: part of an old-style WeightNorm.*weight_v: part of", NOISE)
        self.assert_refused(model, "no rule matches 2 parameters: weight_g, weight_v")
        initialize_(model, skip=["weight_g", "weight_v"], seed=0)

    def test_autograd_notices(self):
        """A backward pass through weights that were set since fails, as after torch.nn.init."""
        model = nn.Linear(3, 3)
        loss = (model.weight * model.weight).sum()
        initialize_(model, seed=0)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            loss.backward()

    def test_the_generator_moves_on_success_only(self):
        rng = torch.get_rng_state()
        initialize_(Model())
        assert not torch.get_rng_state().equal(rng)


class TestFans:
    def fill(self, module, initializer, name="weight"):
        holder = nn.ModuleDict({"it": poisoned(module)})
        report = initialize_(holder, [Rule(f"it.{name}", initializer), Rule("*", Zeros())], seed=0)
        (found,) = [each for each in report if each.name == f"it.{name}"]
        assert isinstance(found.initializer, FanScaled)
        return sole_fill(found.initializer, found.tensor.shape)

    @pytest.mark.parametrize(
        ("module", "fan_in", "fan_out"),
        [
            (nn.Linear(6, 4), 6, 4),
            (nn.Conv2d(6, 4, 3), 54, 36),
            (nn.Conv2d(6, 4, 3, groups=2), 27, 18),
            (nn.Conv2d(6, 12, 3, groups=6), 9, 18),  # depthwise, two outputs an input
            (nn.ConvTranspose2d(6, 4, 3), 54, 36),
            (nn.ConvTranspose2d(6, 4, 3, groups=2), 27, 18),
            (nn.Conv1d(6, 4, 5, groups=2), 15, 10),
            (nn.ConvTranspose3d(6, 4, 2), 48, 32),
            (nn.Bilinear(3, 5, 4), 15, 4),
        ],
        ids=str,
    )
    def test_by_the_module_s_meaning(self, module, fan_in, fan_out):
        assert self.fill(module, KaimingNormal(nonlinearity="linear")) == Normal(0.0, math.sqrt(1 / fan_in))
        scheme = KaimingNormal(mode="fan_out", nonlinearity="linear")
        assert self.fill(module, scheme) == Normal(0.0, math.sqrt(1 / fan_out))

    def test_each_output_of_a_transposed_convolution_sums_over_fan_in(self):
        """The meaning itself: N(0, 1) inputs give outputs of variance gain**2, away from the edges."""
        torch.manual_seed(0)
        module = nn.ConvTranspose2d(32, 8, 3, groups=4, bias=False)
        initialize_(module, [Rule("weight", KaimingNormal(nonlinearity="linear"))], seed=0)
        out = module(torch.randn(64, 32, 12, 12))[:, :, 2:-2, 2:-2]
        # fan_in is 72 weights a channel: the variance of their mean square over 8 channels is 2 / 576.
        assert out.var().item() == pytest.approx(1.0, abs=5 * math.sqrt(2 / 576))

    def test_attention_in_three_parts(self):
        fill = self.fill(nn.MultiheadAttention(8, 2), XavierUniform(), "in_proj_weight")
        bound = math.sqrt(6 / 16)
        assert fill == Uniform(-bound, bound)

    @pytest.mark.parametrize(
        ("module", "gates"), [(nn.LSTM(6, 5), 4), (nn.GRU(6, 5), 3), (nn.GRUCell(6, 5), 3)]
    )
    def test_gates_one_by_one(self, module, gates):
        name = "weight_ih_l0" if isinstance(module, nn.RNNBase) else "weight_ih"
        assert getattr(module, name).shape == (5 * gates, 6)
        bound = math.sqrt(6 / 11)
        assert self.fill(module, XavierUniform(), name) == Uniform(-bound, bound)

    @pytest.mark.parametrize(
        ("name", "module", "fan_in", "fan_out"),
        [
            ("qkv", nn.Linear(8, 24), 8, 8),
            ("Wqkv", nn.Linear(8, 24), 8, 8),
            ("gate_up_proj", nn.Linear(8, 20), 8, 10),
            ("c_attn", Conv1D(8, 24), 8, 8),
            ("c_fc", Conv1D(8, 32), 8, 32),
            ("other", nn.Linear(8, 24), 8, 24),
        ],
    )
    def test_fused_projections_part_by_part(self, name, module, fan_in, fan_out):
        model = nn.ModuleDict({name: poisoned(module)})
        (found, _) = initialize_(model, [Rule("*.weight", XavierUniform()), Rule("*", Zeros())], seed=0)
        bound = math.sqrt(6 / (fan_in + fan_out))
        assert sole_fill(found.initializer, found.tensor.shape) == Uniform(-bound, bound)

    def test_grouped_queries_need_axes(self):
        model = nn.ModuleDict({"qkv_proj": nn.Linear(8, 12, bias=False)})
        with pytest.raises(ValueError, match=r"qkv_proj.weight: which dimensions .* give axes="):
            initialize_(model, [Rule("*", XavierUniform())], seed=0)
        initialize_(model, [Rule("*", XavierUniform(axes=Axes(parts=(8, 2, 2))))], seed=0)

    def test_through_what_wraps_a_scheme(self):
        module = nn.ConvTranspose2d(6, 4, 3)
        for scheme in (Scaled(KaimingNormal(), 2.0), ZeroRow(KaimingNormal(), 1)):
            (found, _) = initialize_(module, [Rule("weight", scheme), Rule("bias", Zeros())], seed=0)
            assert sole_fill(found.initializer.initializer, (6, 4, 3, 3)) == Normal(0.0, math.sqrt(2 / 54))

    def test_parts_of_different_sizes(self):
        """Grouped-query attention: each part on its own fans, all from one stream."""
        axes = Axes(parts=(8, 2, 2))
        model = poisoned(nn.Linear(8, 12, bias=False))
        initialize_(model, [Rule("weight", XavierUniform(axes=axes))], seed=5)
        key, start = Key(5).fold_in("weight"), 0
        for size in (8, 2, 2):
            window = ti.Window((12, 8), (start, 0))
            bound = math.sqrt(6 / (8 + size))
            part = ti.uniform_(torch.empty(size, 8), -bound, bound, key=key, window=window)
            assert model.weight[start : start + size].equal(part)
            start += size

    def test_parts_in_columns_of_a_shard(self):
        scheme = XavierUniform(axes=Axes((0,), (1,), parts=(8, 2, 2)))
        whole = scheme(torch.empty(6, 12), key=Key(1))
        shard = scheme(torch.empty(4, 5), key=Key(1), window=ti.Window((6, 12), (1, 6)))
        assert shard.equal(whole[1:5, 6:11])

    @pytest.mark.parametrize(
        ("axes", "match"),
        [
            (Axes(parts=(4, 4)), r"parts \(4, 4\) do not add up"),
            (Axes((0,), (0,)), "names a dimension twice"),
            (Axes((1,), (5,)), "no dimension 5"),
            (Axes(groups=4), "has no 4 groups"),
        ],
    )
    def test_axes_that_do_not_fit(self, axes, match):
        with pytest.raises(ValueError, match=match):
            XavierUniform(axes=axes)(torch.empty(6, 7))

    def test_a_call_on_a_tensor_reads_shapes_as_torch_does(self):
        # (6, 4, 3, 3) may be a transposed convolution's (in, out, ...): torch takes it for (out, in, ...).
        assert sole_fill(KaimingNormal(), (6, 4, 3, 3)) == sole_fill(KaimingNormal(), (6, 36))


class TestMoving:
    def test_dtype(self):
        narrow = initialized(dtype=torch.bfloat16)
        assert narrow.head.weight is narrow.embed.weight
        assert_equal_states(state(narrow), state(initialized(Model().to(torch.bfloat16))))

    def test_what_is_kept_is_rounded(self):
        model = Model()
        before = model.blocks[0].fc.weight.detach().clone()
        initialize_(model, seed=0, dtype=torch.float16, skip="blocks.0.fc")
        assert model.blocks[0].fc.weight.equal(before.half())

    def test_attributes_of_parameters_stay(self):
        model = Model()
        model.embed.weight.tag = "kept"
        model.blocks[0].fc.weight.requires_grad_(False)
        initialize_(model, seed=0, dtype=torch.float16)
        assert model.embed.weight.tag == "kept"
        assert not model.blocks[0].fc.weight.requires_grad
        assert model.blocks[0].fc.bias.requires_grad

    def test_an_optimizer_made_before_follows(self):
        """As with Module.to: the same parameters, in other memory, their gradients and hooks with them."""
        model = Model()
        before = dict(model.named_parameters())
        model.blocks[0].fc(torch.ones(2, 8)).sum().backward()
        initialize_(model, seed=0, dtype=torch.bfloat16)
        assert all(parameter is before[name] for name, parameter in model.named_parameters())
        assert model.head.weight is model.embed.weight
        assert model.blocks[0].fc.weight.grad.dtype == torch.bfloat16
        torch.optim.SGD(before.values(), 0.1).step()

    def test_a_tie_to_what_is_not_initialised_holds(self):
        model = Model()
        initialize_(model.head, seed=0, dtype=torch.bfloat16)
        assert model.head.weight is model.embed.weight

    @pytest.mark.parametrize("device", [torch.device("cpu"), META])
    def test_subclasses_of_parameter_stay(self, device):
        class Special(nn.Parameter):
            pass

        model = nn.Linear(2, 3, bias=False)
        model.weight = Special(torch.zeros(3, 2, device=device))
        model.weight.tag = "mine"
        initialize_(model, seed=0, device="cpu", dtype=torch.float16)
        assert type(model.weight) is Special
        assert model.weight.tag == "mine"
        assert model.weight.abs().max() > 0

    def test_a_recurrent_layer_runs(self):
        """It keeps a list of its weights, too."""
        with META:
            model = nn.LSTM(3, 4)
        initialize_(model, seed=0, device="cpu")
        assert all(one is other for one, other in zip(model._flat_weights, model.parameters(), strict=True))
        model(torch.ones(2, 1, 3))

    def test_a_parametrised_weight_moves_with_what_it_is_computed_from(self):
        model = parametrizations.spectral_norm(nn.Linear(4, 4))
        initialize_(model, seed=0, dtype=torch.bfloat16)
        assert model.parametrizations.weight.original.dtype == torch.bfloat16
        assert model(torch.ones(1, 4, dtype=torch.bfloat16)).dtype == torch.bfloat16

    def test_a_parametrised_weight_that_is_kept_stays_on_meta(self):
        with META:
            model = nn.Sequential(nn.Linear(2, 2), parametrizations.weight_norm(nn.Linear(2, 2)))
        initialize_(model, seed=0, device="cpu", skip="1.weight")
        assert model[1].parametrizations.weight.original0.is_meta
        assert not model[1].bias.is_meta

    @pytest.mark.parametrize(
        "where", [{"device": "meta"}, {"dtype": torch.int32}, {"device": "cuda:99"}, {"device": "?"}]
    )
    def test_where_no_parameter_can_be(self, where):
        model, rng = poisoned(), torch.get_rng_state()
        with pytest.raises((ValueError, RuntimeError, AssertionError)):
            initialize_(model, **where)
        assert model.embed.weight.isnan().all()
        assert torch.get_rng_state().equal(rng)

    def test_parameters_that_are_there_keep_their_identity(self):
        model = Model()
        before = dict(model.named_parameters())
        initialize_(model, seed=0, device="cpu", dtype=torch.float32)
        assert all(parameter is before[name] for name, parameter in model.named_parameters())


class Rotary(nn.Module):
    def __init__(self, offers=True):
        super().__init__()
        self.register_buffer("table", torch.arange(4.0), persistent=False)
        if offers:
            self.reset_buffers = lambda: self.table.copy_(torch.arange(4.0))


class TestMeta:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_equals_a_model_built_directly(self, dtype):
        with META:
            model = Model()
        assert initialize_(model, seed=0, device="cpu", dtype=dtype)
        assert_equal_states(state(model), state(initialized(Model().to(dtype))))
        assert model.head.weight is model.embed.weight
        assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in model.parameters())

    @pytest.mark.parametrize("name", ["resnet-50", "vit-b-16"])
    def test_presets(self, name):
        preset = PRESETS[name]
        with META:
            model = preset.build()
        initialize_(model, preset.rules, seed=0, device="cpu", dtype=torch.bfloat16)
        direct = preset.build().to(torch.bfloat16)
        initialize_(direct, preset.rules, seed=0)
        assert_equal_states(state(model), state(direct))

    def test_rotary_tables_are_computed(self):
        small = {"vocabulary": 50, "width": 32, "depth": 2, "heads": 4, "kv_heads": 2, "inner": 64}
        rules = PRESETS["llama-3.2-1b"].rules
        with META:
            model = Llama(**small)
        initialize_(model, rules, seed=0, device="cpu", dtype=torch.bfloat16)
        direct = Llama(**small)
        assert model.model.frequencies.equal(direct.model.frequencies)
        assert model.model.frequencies.dtype == torch.float32
        initialize_(direct, rules, seed=0, dtype=torch.bfloat16)
        tokens = torch.arange(6).view(2, 3)
        assert model(tokens).equal(direct(tokens))

    def test_a_device_is_needed(self):
        with META:
            model = Model()
        with pytest.raises(ValueError, match="meta tensor"):
            initialize_(model, seed=0)

    def test_a_buffer_that_nobody_computes(self):
        with META:
            model = nn.ModuleDict({"fc": nn.Linear(2, 2), "rope": Rotary(offers=False)})
        with pytest.raises(
            ValueError, match=r"rope\.table: a buffer on the meta device .*Rotary offers no way"
        ):
            initialize_(model, seed=0, device="cpu")
        assert model["fc"].weight.is_meta
        initialize_(model, [Rule(Rotary, {"table": Value(range(4))}), *TORCH_DEFAULTS], seed=0, device="cpu")
        assert model["rope"].table.tolist() == [0, 1, 2, 3]

    def test_a_buffer_that_its_method_leaves_alone(self):
        with META:
            model = nn.ModuleDict({"rope": Rotary(offers=False)})
        model["rope"].reset_parameters = lambda: None
        with pytest.raises(ValueError, match=r"not computed by their modules: rope\.table"):
            initialize_(model, seed=0, device="cpu")
        assert model["rope"].table.is_meta

    def test_reset_parameters_overwrites_nothing_but_the_buffer(self):
        class Both(Rotary):
            def __init__(self):
                super().__init__(offers=False)
                self.weight = nn.Parameter(torch.ones(2))
                self.register_buffer("mean", torch.full((2,), 3.0))

            def reset_parameters(self):
                self.weight.data.zero_()
                self.mean.zero_()
                self.table.fill_(1)

        model = Both()
        weight = model.weight
        model.table = model.table.to("meta")
        initialize_(model, [Rule("*", Keep())], seed=0, device="cpu")
        assert model.weight is weight
        assert model.weight.tolist() == [1, 1]
        assert model.mean.tolist() == [3, 3]
        assert model.table.tolist() == [1, 1, 1, 1]

    def test_the_next_way_is_tried(self):
        """Gemma's embedding owns a buffer that the model's _init_weights computes."""

        class Embedding(nn.Embedding):
            def __init__(self):
                super().__init__(3, 4)
                self.register_buffer("scale", torch.tensor(2.0), persistent=False)

        class Outer(nn.Module):
            def __init__(self):
                super().__init__()
                self.embed = Embedding()

            def _init_weights(self, module):
                if hasattr(module, "scale"):
                    module.scale.fill_(2.0)

        with META:
            model = Outer()
        initialize_(model, NOISE, seed=0, device="cpu")
        assert model.embed.scale == 2
        assert model.embed.weight.std() > 0

    def test_a_way_that_raises_leaves_the_buffer_on_meta(self):
        class Raising(Rotary):
            def __init__(self):
                super().__init__(offers=False)
                self.weight = nn.Parameter(torch.ones(3))

            def reset_parameters(self):
                self.table.zero_()
                raise KeyError("boom")

        with META:
            model = Raising()
        rng = torch.get_rng_state()
        for _ in range(2):  # a second call must not take what the first one left for computed
            with pytest.raises(
                ValueError, match=r"not computed by their modules: table \(KeyError: 'boom'\)"
            ):
                initialize_(model, NOISE, device="cpu")
            assert model.table.is_meta
            assert model.weight.is_meta
        assert torch.get_rng_state().equal(rng)

    @pytest.mark.parametrize(
        "kind", ["BertForSequenceClassification", "Gemma2ForCausalLM", "LlamaForCausalLM"]
    )
    def test_a_transformers_backbone_is_loaded_and_the_rest_drawn(self, kind):
        transformers = pytest.importorskip("transformers")
        cls = getattr(transformers, kind)
        config = cls.config_class(
            vocab_size=60,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            head_dim=8,
            intermediate_size=20,
            tie_word_embeddings=False,
        )
        full = cls(config)
        head = "classifier" if kind.startswith("Bert") else "lm_head"
        loaded = {k: v for k, v in full.state_dict().items() if not k.startswith(head)}
        with META:
            model = cls(config)
        missing = model.load_state_dict(loaded, strict=False, assign=True).missing_keys
        initialize_(model, [Rule("*", Normal(std=0.02))], seed=0, only=missing, device="cpu")
        after = model.state_dict()
        assert all(after[name].equal(tensor) for name, tensor in loaded.items())
        assert after[f"{head}.weight"].std() > 0
        for (name, one), (_, other) in zip(model.named_buffers(), full.named_buffers(), strict=True):
            assert one.equal(other), name

    def test_a_plain_attribute(self):
        with META:
            model = nn.Linear(2, 2)
            model.mask = torch.ones(3)
        with pytest.raises(ValueError, match="mask: a plain attribute on the meta device"):
            initialize_(model, seed=0, device="cpu")

    def test_a_seed_leaves_the_default_generator_alone(self):
        with META:
            model = nn.Sequential(Rotary())
            model.append(nn.BatchNorm1d(3))
        model[0].reset_buffers = lambda: model[0].table.copy_(torch.rand(4))
        state = torch.get_rng_state()
        initialize_(model, seed=0, device="cpu")
        assert torch.get_rng_state().equal(state)


_MEMORY = """
import resource, torch, tritoninit as ti
from tritoninit.presets import PRESETS

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

preset = PRESETS["llama-3.2-1b"]
ti.initialize_(torch.nn.Linear(1000, 1000), seed=0)  # compiled, threads started
with torch.device("meta"):
    model = preset.build()
before = peak()
ti.initialize_(model, preset.rules, seed=0, device="cpu", dtype=torch.bfloat16)
size = sum(p.nbytes for p in model.parameters())
print(size, peak() - before, model.lm_head.weight is model.model.embed_tokens.weight)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux")
def test_peak_memory_of_a_meta_model_is_the_parameters_own():
    """1.2 billion parameters in bfloat16: no default pass, no second copy, no float32 stage."""
    environment = {"PYTHONPATH": str(Path(ti.__file__).parents[1]), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, "-c", _MEMORY], capture_output=True, text=True, check=True, env=environment
    )
    size, grown, tied = done.stdout.split()
    assert int(size) == 2 * 1_235_814_400
    assert int(grown) < 1.05 * int(size)
    assert tied == "True"
