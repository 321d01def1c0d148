"""Whole models: what is kept, moved, materialised and refused; names that wrappers leave alone."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import tritoninit as ti
from tests.model_cases import (
    META,
    NOISE,
    Block,
    Model,
    assert_equal_states,
    initialized,
    poisoned,
    state,
)
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
    TruncatedNormal,
    Uniform,
    Value,
    XavierUniform,
    Zeros,
    initialize_,
)
from tritoninit.fills import sole_fill


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

    def test_truncated_normals_are_not_complex(self):
        model = nn.Linear(2, 2, dtype=torch.complex64)
        self.assert_refused(model, "weight: TruncatedNormal of complex64", [Rule("*", TruncatedNormal())])

    def test_integers_take_constants_and_values(self):
        model = nn.Linear(2, 2)
        model.table = nn.Parameter(torch.tensor([3, 1, 2]), requires_grad=False)
        self.assert_refused(
            model, "table: torch.int64 takes constants, values and what draws integers", NOISE
        )
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
        """Whose vectors are drawn by the weight's key: as near its singular ones as those of a new module."""
        weight = initialized(nn.Linear(5, 3)).weight
        models = [parametrizations.spectral_norm(nn.Linear(5, 3)) for _ in range(2)]
        for model in models:
            initialize_(model, seed=0)
            assert model.parametrizations.weight.original.equal(weight)
        assert_equal_states(state(models[0]), state(models[1]))
        u, v = models[0].parametrizations.weight[0]._u, models[0].parametrizations.weight[0]._v
        assert torch.linalg.matrix_norm(models[0].eval().weight.detach(), 2).item() == pytest.approx(
            1, rel=1e-3
        )
        torch.testing.assert_close(u @ weight @ v, torch.linalg.matrix_norm(weight, 2), rtol=1e-3, atol=0)
        torch.set_default_dtype(torch.float64)
        try:
            initialize_(models[1], seed=0)
        finally:
            torch.set_default_dtype(torch.float32)
        assert_equal_states(state(models[0]), state(models[1]))
        initialize_(models[1], seed=1)
        assert not models[1].parametrizations.weight[0]._u.equal(u)

    def test_spectral_norms_of_all_makes(self):
        """Others' names do not matter, nor does what was there."""

        def built():
            model = nn.ModuleDict(
                {
                    "conv": parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)),
                    "turned": parametrizations.spectral_norm(nn.ConvTranspose1d(3, 4, 3)),
                    "vector": parametrizations.spectral_norm(nn.LayerNorm(5)),
                    "twice": parametrizations.spectral_norm(parametrizations.weight_norm(nn.Linear(4, 4))),
                    "narrow": parametrizations.spectral_norm(nn.Linear(4, 4)).to(torch.bfloat16),
                    "kept": parametrizations.spectral_norm(nn.Linear(4, 4)),
                }
            )
            for buffer in model.buffers():
                buffer.copy_(nn.functional.normalize(torch.randn_like(buffer), dim=0))
            return model

        models = [built() for _ in range(2)]
        kept = models[1]["kept"].parametrizations.weight[0]._u.clone()
        for model in models:
            initialize_(model, seed=0, skip="kept")
        first, second = (state(model) for model in models)
        same = {name for name, tensor in first.items() if tensor.equal(second[name])}
        assert {name.split(".")[0] for name in first.keys() - same} == {"kept"}
        assert models[1]["kept"].parametrizations.weight[0]._u.equal(kept)
        assert all(tensor.isfinite().all() for tensor in first.values())

    def test_parametrisations_under_autocast(self):
        models = [parametrizations.spectral_norm(nn.Linear(9, 8)) for _ in range(2)]
        models += [parametrizations.orthogonal(nn.Linear(9, 8)) for _ in range(2)]
        for model in models[::2]:
            initialize_(model, seed=0)
        for model in models[1::2]:
            with torch.autocast("cpu", dtype=torch.bfloat16):
                initialize_(model, seed=0)
        assert_equal_states(state(models[0]), state(models[1]))
        assert_equal_states(state(models[2]), state(models[3]))

    @pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
    def test_spectral_norms_whatever_the_default_dtype(self, default):
        models = [parametrizations.spectral_norm(nn.Linear(4, 4)) for _ in range(2)]
        initialize_(models[0], seed=0)
        torch.set_default_dtype(default)
        try:
            initialize_(models[1], seed=0)
        finally:
            torch.set_default_dtype(torch.float32)
        assert_equal_states(state(models[0]), state(models[1]))

    def test_spectral_vectors_that_a_rule_names(self):
        model = parametrizations.spectral_norm(nn.Linear(4, 4))
        initialize_(model, [Rule("*.weight.0._u", {"_u": Constant(0.5)}), *TORCH_DEFAULTS], seed=0)
        assert model.parametrizations.weight[0]._u.equal(torch.full((4,), 0.5))

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
