"""What would be written and lost: tensors that are computed anew, placeholders, parts of a whole."""

import sys
import types

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import tritoninit as ti
from tritoninit import Constant, Key, Normal, Rule, TargetError, Zeros, initialize_
from tritoninit.plan import Plan
from tritoninit.targets import as_target

KEY = Key(7)


def old_weight_norm():
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(nn.Conv1d(4, 4, 3))


def pruned():
    return prune.random_unstructured(nn.Linear(4, 4), "weight", 0.5)


def forwarded():
    """From the first forward pass on, spectral_norm's weight is computed."""
    linear = nn.utils.spectral_norm(nn.Linear(4, 4))
    linear(torch.zeros(1, 4))
    return linear


PARAMETER = nn.Parameter(torch.zeros(8, 4))

COMPUTED = {
    "old weight_norm": lambda: old_weight_norm().weight,
    "weight_norm": lambda: parametrizations.weight_norm(nn.Conv1d(4, 4, 3)).weight,
    "a view of it": lambda: parametrizations.weight_norm(nn.Conv1d(4, 4, 3)).weight[1:],
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(4, 4)).weight,
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(4, 4)).weight,
    "old spectral_norm": lambda: forwarded().weight,
    "pruned": lambda: pruned().weight,
    "rows": lambda: PARAMETER[[0, 1]],
    "a mask": lambda: PARAMETER[PARAMETER == 0],
    "a copy": lambda: PARAMETER.T.reshape(-1),
    "a clone": lambda: PARAMETER.clone(),
    "another dtype": lambda: PARAMETER.half(),
    "a sum": lambda: PARAMETER + PARAMETER,
    "stacked": lambda: torch.stack([PARAMETER, PARAMETER])[0],
    "changed in place": lambda: torch.zeros(8, 4).mul_(PARAMETER),
}

# Views, by whatever way, lie in the parameter's memory.
KEPT = {
    "itself": lambda p: p,
    "a row": lambda p: p[1],
    "rows": lambda p: p[2:4],
    "chunk": lambda p: p.chunk(2)[1],
    "unbind": lambda p: p.unbind()[1],
    "split": lambda p: p.split([3, 5])[1],
    "transpose": lambda p: p.T,
    "of a view of a view": lambda p: p.view(4, 8)[1:].T[2:],
    "reshape": lambda p: p.reshape(-1),
    "as_strided": lambda p: p.as_strided((3,), (2,)),
    "detach": lambda p: p.detach(),
    "data": lambda p: p.data,
    "diagonal": lambda p: p.diagonal(),
    "of another dtype": lambda p: p.view(torch.int32),
}


class TestFunctions:
    @pytest.mark.parametrize("name", COMPUTED)
    def test_of_what_autograd_computed(self, name):
        x = COMPUTED[name]()
        before, state = x.detach().clone(), torch.get_rng_state()
        for write in (
            ti.normal_,
            ti.zeros_,
            Normal(),
            Constant(1.0),
            as_target,
            lambda x: Plan().add(x, Constant(1.0), KEY),
        ):
            with pytest.raises(TargetError, match="autograd computed the tensor"):
                write(x)
        assert x.equal(before)
        assert torch.get_rng_state().equal(state)

    @pytest.mark.parametrize("grad", [True, False])
    @pytest.mark.parametrize("name", KEPT)
    def test_of_views(self, name, grad):
        parameter = nn.Parameter(torch.full((8, 4), 5.0))
        with torch.set_grad_enabled(grad):
            view = KEPT[name](parameter)
        ti.zeros_(view)
        assert not view.any()
        assert (parameter == 0).sum() == view.numel()

    def test_of_rows_after_their_parameter_was_filled(self):
        """Autograd does not say any more, then, what views are that were made together."""
        parameter = nn.Parameter(torch.zeros(4, 3))
        for row in parameter:
            ti.ones_(row)
        assert (parameter == 1).all()

    def test_of_what_autograd_has_not_looked_at(self):
        with torch.no_grad():
            noise = torch.zeros(3, 4) * 0.02 + PARAMETER[:3]
        assert ti.normal_(noise, key=KEY).equal(ti.normal_(torch.empty(3, 4), key=KEY))

    def test_of_a_deep_graph(self):
        x = PARAMETER
        for _ in range(3000):
            x = x + 1
        with pytest.raises(TargetError, match="autograd computed"):
            ti.normal_(x)


class TestIntercepted:
    @pytest.mark.parametrize("name", COMPUTED)
    @pytest.mark.parametrize(
        ("function", "fill"),
        [
            ("torch.nn.init.normal_", lambda x: nn.init.normal_(x, 0.0, 0.01)),
            ("torch.nn.init.zeros_", nn.init.zeros_),
            ("torch.nn.init.uniform_", lambda x: nn.init.uniform_(x.data)),
            ("Tensor.normal_", lambda x: x.data.normal_(0.0, 0.01)),
            ("Tensor.fill_", lambda x: x.detach().fill_(3.0)),
        ],
    )
    def test_torch_writes_what_is_lost_and_that_is_told(self, name, function, fill):
        with ti.intercept(seed=0) as intercepted:
            x = COMPUTED[name]()
            intercepted.passed_on.clear()
            torch.manual_seed(3)
            with pytest.warns(UserWarning, match=f"{function} of .* is lost") as caught:
                fill(x)
        assert caught[0].filename == __file__
        (passed,) = intercepted.passed_on
        assert passed.function == function
        assert "computed" in passed.reason
        torch.manual_seed(3)
        expected = x.detach().clone()
        fill(expected)
        assert x.equal(expected)

    def test_by_the_parametrisation_itself(self):
        """As in transformers' models, of which the code runs without autograd."""
        with ti.intercept(seed=0) as intercepted:
            model = parametrizations.weight_norm(nn.Linear(4, 4))
            before = model.weight.detach().clone()
            with torch.no_grad(), pytest.warns(UserWarning, match="is lost"):
                nn.init.normal_(model.weight, 0.0, 0.01)
            for each in (model.weight, before):
                assert each.std() > 0.1
        assert [each.function for each in intercepted.passed_on] == ["torch.nn.init.normal_"]

    def test_a_parametrisation_that_gives_the_original(self):
        class Same(nn.Module):
            def forward(self, x):
                return x

        with ti.intercept(seed=0) as intercepted:
            model = nn.Linear(4, 4)
            parametrize.register_parametrization(model, "weight", Same())
            nn.init.ones_(model.weight)
        assert (model.weight == 1).all()
        assert not intercepted.passed_on

    def test_of_what_it_is_computed_from(self):
        with ti.intercept(seed=0) as intercepted:
            model = parametrizations.weight_norm(nn.Linear(4, 4))
            nn.init.normal_(model.parametrizations.weight.original1)
            nn.init.ones_(model.parametrizations.weight.original0.data)
        assert not intercepted.passed_on

    def test_of_placeholders(self):
        parameter = zero3(nn.Linear(3, 4)).weight
        with ti.intercept(seed=0) as intercepted, pytest.warns(UserWarning, match="is lost: a placeholder"):
            nn.init.normal_(parameter)
        assert len(intercepted.passed_on) == 1

    def test_nothing_stays(self):
        before = parametrize.ParametrizationList.forward.__code__
        with pytest.raises(KeyError), ti.intercept(seed=0), ti.intercept(seed=1):
            raise KeyError
        assert parametrize.ParametrizationList.forward.__code__ is before


def zero3(model):
    """What DeepSpeed leaves of parameters."""
    for parameter in model.parameters():
        parameter.ds_shape = parameter.shape
        parameter.data = torch.empty(0)
    return model


def megatron(model, **owners):
    model.weight.tensor_model_parallel, model.weight.partition_dim, model.weight.partition_stride = True, 0, 1
    model.bias.tensor_model_parallel, model.bias.partition_dim = False, -1
    for name, value in owners.items():
        setattr(model, name, value)
    return model


class TestPlaceholders:
    def test_zero3(self):
        model = nn.Sequential(nn.Linear(3, 4), zero3(nn.Linear(4, 5)))
        before = model[0].weight.detach().clone()
        for rules in ([Rule("*", Normal())], [Rule("*", Constant(1.0))], ti.TORCH_DEFAULTS):
            with pytest.raises(TargetError, match=r"^1\.weight: .*GatheredParameters.*; 1\.bias: "):
                initialize_(model, rules, seed=0)
        with pytest.raises(TargetError, match=r"^weight: .*GatheredParameters"):
            initialize_(zero3(nn.Bilinear(2, 3, 4)), seed=0)
        assert model[0].weight.equal(before)
        initialize_(model, seed=0, skip="1")
        for call in (ti.normal_, ti.zeros_, Normal()):
            with pytest.raises(TargetError, match="GatheredParameters"):
                call(model[1].weight)

    def test_zero3_of_what_is_computed(self):
        """To compute a weight from empty ones ends in a signal, and rules do."""
        model = nn.Sequential(zero3(parametrizations.weight_norm(nn.Linear(4, 5))))
        for call in (ti.initialize_, ti.audit):
            with pytest.raises(TargetError, match=r"^0\.weight: .*GatheredParameters"):
                call(model)

    def test_zero3_gathered(self):
        model = zero3(nn.Linear(3, 4))
        for parameter in model.parameters():
            parameter.data = torch.empty(parameter.ds_shape)
        initialize_(model, seed=0)
        plain = nn.Linear(3, 4)
        initialize_(plain, seed=0)
        assert model.weight.equal(plain.weight)

    def test_megatron(self, monkeypatch):
        model = nn.Sequential(nn.Linear(3, 4), megatron(nn.Linear(4, 5)))
        with pytest.raises(TargetError, match=r"^1\.weight: Megatron's shard along dimension 0.*window$"):
            initialize_(model, seed=0)
        initialize_(model, seed=0, skip="1.weight")
        initialize_(megatron(nn.Linear(4, 5), tp_size=1), seed=0)
        state = types.SimpleNamespace(get_tensor_model_parallel_world_size=lambda: 1)
        monkeypatch.setitem(sys.modules, "megatron.core.parallel_state", state)
        initialize_(model, seed=0)
        state.get_tensor_model_parallel_world_size = lambda: 2
        with pytest.raises(TargetError, match="Megatron"):
            initialize_(model, seed=0)

    def test_offloaded(self):
        model = nn.Sequential(nn.Linear(3, 4)).to("meta")
        model[0]._hf_hook = types.SimpleNamespace(hooks=[types.SimpleNamespace(offload=True)])
        with pytest.raises(TargetError, match=r"^0\.weight: accelerate has offloaded it"):
            initialize_(model, seed=0, device="cpu")
        model[0]._hf_hook = types.SimpleNamespace(offload=False)
        initialize_(model, seed=0, device="cpu")


class Scale(nn.Module):
    def forward(self, x):
        return x * 3

    def right_inverse(self, x):
        return x


class TestParametrized:
    @pytest.mark.parametrize("initializer", [Zeros(), Constant(0.0)])
    @pytest.mark.parametrize("make", [parametrizations.weight_norm, parametrizations.spectral_norm])
    @pytest.mark.parametrize("keywords", [{}, {"dtype": torch.bfloat16}, {"device": "cpu"}])
    def test_what_makes_nan(self, make, initializer, keywords):
        model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": make(nn.Linear(4, 4))})
        before = {name: x.clone() for name, x in model.state_dict().items()}
        rules = [Rule("b.weight", initializer), Rule("*", Normal())]
        state = torch.get_rng_state()
        with pytest.raises(
            ValueError, match=r"^b\.weight: its parametrisation _\w+Norm makes numbers .* not finite"
        ):
            initialize_(model, rules, **keywords)
        assert torch.get_rng_state().equal(state)
        for name, x in model.state_dict().items():
            assert x.dtype == before[name].dtype
            assert x.equal(before[name])

    def test_what_becomes_something_else(self):
        model = nn.Sequential(parametrizations.orthogonal(nn.Linear(64, 64)), nn.Linear(64, 64))
        report = initialize_(model, [Rule("*", Normal())], seed=0)
        std = float(model[0].weight.detach().std(correction=0))
        assert 0.1 < std < 0.2
        became = {each.name: each.became for each in report}
        assert {name for name, words in became.items() if words} == {"0.weight"}
        said = [each for each in report.audit.remarks if "_Orthogonal" in each]
        assert len(said) == 1
        assert said[0].startswith("0.weight is not as ")
        assert f"std {std:.3g} by its parametrisation _Orthogonal, of mean" in said[0]

    def test_what_is_as_it_was_asked_for(self):
        model = nn.Sequential(parametrizations.weight_norm(nn.Linear(300, 500)))
        for dtype in (None, torch.bfloat16, torch.float16):
            report = initialize_(model, [Rule("*", Normal(0.0, 0.02))], seed=0, dtype=dtype)
            assert not any(each.became for each in report)
            assert not report.audit.remarks

    def test_several_and_the_order(self):
        model = nn.Linear(4, 4)
        parametrizations.weight_norm(model)
        parametrize.register_parametrization(model, "weight", Scale())
        report = initialize_(model, [Rule("*", Normal())], seed=0)
        (weight,) = (each for each in report if each.name == "weight")
        assert "by its parametrisation _WeightNorm and Scale" in weight.became

    @pytest.mark.parametrize("shape", [(4, 9), (9, 4), (6, 6)])
    def test_by_the_seed_alone(self, shape):
        """What orthogonal draws to complete a rectangle, too; torch's generator stays as it is."""
        weights, state = [], torch.get_rng_state()
        for _ in range(2):
            torch.rand(3)
            before = torch.get_rng_state()
            model = parametrizations.orthogonal(nn.Linear(*shape))
            torch.set_rng_state(before)
            initialize_(model, [Rule("*", Normal())], seed=0)
            assert torch.get_rng_state().equal(before)
            weights.append((model.weight.detach(), model.parametrizations.weight[0].base.clone()))
        torch.set_rng_state(state)
        for first, second in zip(*weights, strict=True):
            assert first.equal(second)

    def test_looking_leaves_no_trace(self):
        """Orthogonal's right_inverse replaces its base."""
        model = nn.ModuleDict(
            {
                "a": parametrizations.orthogonal(nn.Linear(4, 9)),
                "b": parametrizations.weight_norm(nn.Linear(3, 3)),
            }
        )
        with torch.no_grad():
            model["a"].parametrizations.weight.original.add_(0.5)
        before, base = model["a"].weight.detach().clone(), model["a"].parametrizations.weight[0].base
        with pytest.raises(ValueError, match=r"^b\.weight: .* not finite"):
            initialize_(model, [Rule("b.weight", Zeros()), Rule("*", Normal())])
        assert model["a"].parametrizations.weight[0].base is base
        assert model["a"].weight.equal(before)

    def test_a_parametrised_buffer(self):
        """Filled as such, it would be lost: it is computed, too."""
        model = nn.Module()
        model.register_buffer("table", torch.ones(3, 3))
        parametrize.register_parametrization(model, "table", Scale())
        report = initialize_(model, [Rule(nn.Module, {"table": Constant(2.0)})], seed=0)
        assert [each.name for each in report] == ["table"]
        assert model.parametrizations.table.original.equal(torch.full((3, 3), 2.0))
        assert "Scale" in report[0].became

    @pytest.mark.parametrize("make", [getattr(parametrizations, f"{x}_norm") for x in ("weight", "spectral")])
    def test_what_it_is_computed_from_stays_where_it_is(self, make):
        """Other processes look at shared memory, flattened parameters lie in one tensor."""
        plain, module = make(nn.Linear(4, 5)), make(nn.Linear(4, 5))
        each = module.parametrizations.weight
        original = getattr(each, "original1", None)
        original = each.original if original is None else original
        flat = torch.zeros(30)
        original.data = flat[10:].view(5, 4).fill_(0.5)
        initialize_(module, seed=0)
        initialize_(plain, seed=0)
        assert flat[10:].equal(original.detach().flatten())
        assert module.weight.equal(plain.weight)

    def test_infinities_that_were_asked_for(self):
        model = nn.Linear(3, 3)
        parametrize.register_parametrization(model, "weight", Scale())
        initialize_(model, [Rule("weight", Constant(float("inf"))), Rule("bias", Zeros())], seed=0)
        assert model.weight.isinf().all()
