"""Rules for whole models: who matches, in which order, with which key, and that an error writes nothing."""

import itertools
import math
from types import MappingProxyType

import pytest
import torch
from torch import nn

import tritoninit as ti
from tritoninit import (
    Constant,
    Dirac,
    Eye,
    Key,
    Normal,
    Ones,
    Orthogonal,
    Rule,
    RuleSet,
    Sparse,
    Stacked,
    TruncatedNormal,
    Uniform,
    XavierUniform,
    Zeros,
    initialize_,
    registry,
    use_backend,
)
from tritoninit.models.rules import Finder
from tritoninit.models.slots import slots
from tritoninit.schemes import published

EVERYTHING = [Rule("*", Uniform(-1, 1))]


class Block(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fc = nn.Linear(width, 4 * width)
        self.proj = nn.Linear(4 * width, width)


class Model(nn.Module):
    """A transformer's shape: blocks, an embedding, a head tied to it, and a parameter of its own."""

    def __init__(self, depth=2, tie=True):
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(Block() for _ in range(depth))
        self.head = nn.Linear(8, 11, bias=False)
        self.scale = nn.Parameter(torch.empty(3))
        if tie:
            self.head.weight = self.embed.weight


def poison(model):
    for tensor in model.parameters():
        tensor.data.fill_(torch.nan)
    return model


def poisoned(*arguments, **keywords):
    return poison(Model(*arguments, **keywords))


def parameters(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def chosen(model, rules, seed=0):
    return {each.name: each.initializer for each in initialize_(model, rules, seed=seed)}


class TestPatterns:
    def test_class(self):
        rules = [Rule(nn.Linear, Ones()), Rule("*", Zeros())]
        picked = chosen(poisoned(), rules)
        assert {name for name, initializer in picked.items() if initializer == Ones()} == {
            f"blocks.{i}.{layer}.{part}"
            for i in (0, 1)
            for layer in ("fc", "proj")
            for part in ("weight", "bias")
        }

    def test_subclasses_too(self):
        class Special(nn.Linear):
            pass

        assert chosen(Special(2, 2), [Rule(nn.Linear, Ones())]) == {"weight": Ones(), "bias": Ones()}

    def test_a_parent_class_does_not_reach_its_children(self):
        """A rule is about the module that owns the parameter: Block's children own all of Block's."""
        with pytest.raises(ValueError, match="no rule matches 6 parameters"):
            initialize_(Block(), [Rule(Block, Ones())], seed=0)

    @pytest.mark.parametrize(
        ("glob", "names"),
        [
            ("scale", {"scale"}),
            ("*.proj.weight", {"blocks.0.proj.weight", "blocks.1.proj.weight"}),
            (
                "blocks.1.*",
                {
                    f"blocks.1.{p}"
                    for p in ("norm.weight", "norm.bias", "fc.weight", "fc.bias", "proj.weight", "proj.bias")
                },
            ),
            ("blocks.[!0].fc.bias", {"blocks.1.fc.bias"}),
            ("blocks.?.norm.weight", {"blocks.0.norm.weight", "blocks.1.norm.weight"}),
            ("SCALE", set()),
            ("weight", set()),
        ],
    )
    def test_glob(self, glob, names):
        picked = chosen(poisoned(), [Rule(glob, Ones()), Rule("*", Zeros())])
        assert {name for name, initializer in picked.items() if initializer == Ones()} == names

    def test_function_of_name_and_owner(self):
        seen = []

        def wide(name, module):
            seen.append((name, type(module)))
            return isinstance(module, nn.Linear) and module.out_features > module.in_features

        picked = chosen(poisoned(depth=1), [Rule(wide, Ones()), Rule("*", Zeros())])
        assert {n for n, i in picked.items() if i == Ones()} == {"blocks.0.fc.weight", "blocks.0.fc.bias"}
        assert ("scale", Model) in seen
        assert ("embed.weight", nn.Embedding) in seen

    def test_module_that_is_a_single_layer(self):
        assert chosen(nn.Linear(2, 2), [Rule("weight", Ones()), Rule("bias", Zeros())]) == {
            "weight": Ones(),
            "bias": Zeros(),
        }


class TestRules:
    @pytest.mark.parametrize("pattern", [3, int, (nn.Linear, nn.Conv2d), None])
    def test_patterns_that_are_none(self, pattern):
        with pytest.raises(TypeError, match="a pattern is"):
            Rule(pattern, Ones())

    def test_initializers_that_are_none(self):
        with pytest.raises(TypeError, match="takes an Initializer"):
            Rule("*", 0.0)
        for rule in (Rule("*", {"weight": 3}), Rule("*", lambda module: Ones())):
            with pytest.raises(TypeError, match=r"^weight: the rule for '\*' gave no"):
                initialize_(nn.Linear(2, 2), [rule, Rule("*", Ones())], seed=0)

    @pytest.mark.parametrize("rules", [Rule("*", Ones()), {"*": Ones()}, [Ones()]])
    def test_no_sequence_of_rules(self, rules):
        with pytest.raises(TypeError, match="rules are a sequence of Rule"):
            initialize_(nn.Linear(2, 2), rules, seed=0)

    def test_a_name_with_a_glob_s_signs_matches_itself(self):
        model = nn.Module()
        for name in ("a[0]", "a0"):
            model.register_parameter(name, nn.Parameter(torch.zeros(2)))
        picked = chosen(model, [Rule("a[0]", Ones()), Rule("*", Zeros())])
        assert picked["a[0]"] == Ones()


class TestInitializers:
    def test_first_match_wins(self):
        rules = [Rule("*.fc.*", Constant(1.0)), Rule(nn.Linear, Constant(2.0)), Rule("*", Constant(3.0))]
        model = poisoned()
        initialize_(model, rules, seed=0)
        assert (model.blocks[0].fc.weight == 1).all()
        assert (model.blocks[0].proj.weight == 2).all()
        assert (model.blocks[0].norm.weight == 3).all()

    def test_mapping_by_the_parameters_own_name_falls_through(self):
        rules = [
            Rule(nn.Linear, {"weight": Ones()}),
            Rule(nn.LayerNorm, {"bias": Ones()}),
            Rule("*", Zeros()),
        ]
        model = poisoned()
        initialize_(model, rules, seed=0)
        assert (model.blocks[1].fc.weight == 1).all()
        assert (model.blocks[1].fc.bias == 0).all()
        assert (model.blocks[1].norm.bias == 1).all()
        assert (model.blocks[1].norm.weight == 0).all()

    def test_function_of_the_module(self):
        def by_width(module):
            return {"weight": Normal(0.0, 1 / math.sqrt(module.in_features)), "bias": Zeros()}

        picked = chosen(poisoned(), [Rule(nn.Linear, by_width), Rule("*", Ones())])
        assert picked["blocks.0.fc.weight"] == Normal(0.0, 1 / math.sqrt(8))
        assert picked["blocks.0.proj.weight"] == Normal(0.0, 1 / math.sqrt(32))

    def test_structured_initializers(self):
        """What is built on fills is what its own call gives with the parameter's key."""
        model = nn.ModuleDict(
            {
                "orthogonal": nn.Linear(6, 9, bias=False),
                "sparse": nn.Linear(6, 9, bias=False),
                "eye": nn.Linear(6, 9, bias=False),
                "dirac": nn.Conv2d(4, 4, 3, bias=False),
                "normal": nn.Linear(6, 9, bias=False),
            }
        )
        initializers = {
            "orthogonal": Orthogonal(2.0),
            "sparse": Sparse(0.5),
            "eye": Eye(),
            "dirac": Dirac(2),
            "normal": Normal(),
        }
        initialize_(
            poison(model),
            [Rule(f"{name}.weight", initializer) for name, initializer in initializers.items()],
            seed=4,
        )
        for name, initializer in initializers.items():
            weight = model[name].weight
            key = Key(4).fold_in(f"{name}.weight")
            assert weight.detach().equal(initializer(torch.empty(weight.shape), key=key))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_16_bit_models_are_rounded_float32_models(self, dtype):
        rules = [
            Rule(nn.Embedding, TruncatedNormal(0.0, 0.02)),
            Rule(nn.Linear, {"weight": Orthogonal()}),
            Rule("*", Normal()),
        ]
        wide, narrow = poisoned(), poisoned().to(dtype)
        initialize_(wide, rules, seed=1)
        initialize_(narrow, rules, seed=1)
        for one, other in zip(wide.parameters(), narrow.parameters(), strict=True):
            assert one.to(dtype).equal(other)


class TestKeys:
    def test_come_from_the_seed_and_the_qualified_name(self):
        model = poisoned()
        assignments = initialize_(model, EVERYTHING, seed=7)
        for each in assignments:
            assert each.key == Key(7).fold_in(each.name)
            expected = Uniform(-1, 1)(torch.empty(each.tensor.shape), key=each.key)
            assert each.tensor.detach().equal(expected)

    def test_more_layers_leave_the_others_as_they_were(self):
        small, large = poisoned(depth=2), poisoned(depth=5)
        large.extra = nn.Linear(3, 3)
        initialize_(small, EVERYTHING, seed=0)
        initialize_(large, EVERYTHING, seed=0)
        grown = parameters(large)
        assert all(tensor.equal(grown[name]) for name, tensor in parameters(small).items())

    def test_the_order_of_modules_does_not_matter(self):
        layers = dict.fromkeys("abcd", (3, 4))
        models = [nn.ModuleDict({n: nn.Linear(*layers[n]) for n in order}) for order in ("abcd", "dbca")]
        for model in models:
            initialize_(model, EVERYTHING, seed=0)
        first, second = map(parameters, models)
        assert all(tensor.equal(second[name]) for name, tensor in first.items())

    def test_layers_of_one_shape_differ(self):
        model = poisoned()
        initialize_(model, EVERYTHING, seed=0)
        assert not model.blocks[0].fc.weight.equal(model.blocks[1].fc.weight)

    def test_seeds_differ(self):
        runs = []
        for seed in (0, 0, 1, -1):
            model = poisoned()
            initialize_(model, EVERYTHING, seed=seed)
            runs.append(model.embed.weight.detach())
        assert runs[0].equal(runs[1])
        assert not runs[0].equal(runs[2])
        assert not runs[0].equal(runs[3])

    def test_a_seed_leaves_the_default_generator_alone(self):
        model = poisoned()
        state = torch.get_rng_state()
        initialize_(model, EVERYTHING, seed=0)
        assert torch.get_rng_state().equal(state)

    def test_no_seed_takes_64_bits_from_the_default_generator(self):
        model = poisoned()
        torch.manual_seed(9)
        seed = Key.from_generator().seed
        after = torch.get_rng_state()
        torch.manual_seed(9)
        assignments = initialize_(model, EVERYTHING)
        assert assignments[0].key == Key(seed).fold_in(assignments[0].name)
        assert torch.get_rng_state().equal(after)

    @pytest.mark.parametrize("seed", [True, 1.5, "0"])
    def test_a_seed_is_an_integer(self, seed):
        model = poisoned()
        with pytest.raises(TypeError, match="seed must be an integer"):
            initialize_(model, EVERYTHING, seed=seed)
        assert all(p.isnan().all() for p in model.parameters())


class TestSharing:
    def test_a_tied_parameter_is_set_once_under_its_first_name(self):
        model = poisoned(tie=True)
        assignments = initialize_(model, EVERYTHING, seed=0)
        names = [each.name for each in assignments]
        assert names == [name for name, _ in model.named_parameters()]
        assert "embed.weight" in names
        assert "head.weight" not in names
        alone = poisoned(tie=False)
        initialize_(alone, EVERYTHING, seed=0)
        assert model.head.weight.equal(alone.embed.weight)

    def test_the_first_name_picks_the_rule(self):
        model = poisoned(tie=True)
        initialize_(model, [Rule("head.weight", Ones()), Rule("*", Zeros())], seed=0)
        assert (model.head.weight == 0).all()

    def test_a_module_under_two_names(self):
        shared = nn.Linear(3, 3)
        model = nn.ModuleDict({"a": shared, "b": nn.Sequential(shared)})
        assert [each.name for each in initialize_(model, EVERYTHING, seed=0)] == ["a.weight", "a.bias"]

    def test_one_parameter_under_two_names_of_one_module(self):
        model = nn.Module()
        model.first = nn.Parameter(torch.empty(3))
        model.second = model.first
        assert [each.name for each in initialize_(model, EVERYTHING, seed=0)] == ["first"]

    def test_buffers_are_left_alone(self):
        model = nn.BatchNorm1d(3)
        model.running_mean.fill_(5)
        initialize_(model, EVERYTHING, seed=0)
        assert (model.running_mean == 5).all()


class TestResult:
    def test_one_assignment_a_parameter_in_their_order(self):
        model = poisoned()
        assignments = initialize_(model, [Rule(nn.Linear, Ones()), Rule("*", Zeros())], seed=0)
        named = dict(model.named_parameters())
        assert [each.name for each in assignments] == list(named)
        assert all(each.tensor is named[each.name] for each in assignments)
        assert {each.backend for each in assignments} == {registry.resolve("cpu").name}

    def test_it_says_who_wrote(self):
        with use_backend("numpy"):
            assert {each.backend for each in initialize_(poisoned(), EVERYTHING, seed=0)} == {"numpy"}

    def test_a_model_without_parameters(self):
        assert not list(initialize_(nn.ReLU(), [], seed=0))

    def test_parameters_stay_trainable_leaves(self):
        model = poisoned()
        for parameter in list(model.parameters())[::2]:
            parameter.requires_grad_(False)
        before = [parameter.requires_grad for parameter in model.parameters()]
        initialize_(model, EVERYTHING, seed=0)
        assert [parameter.requires_grad for parameter in model.parameters()] == before
        assert all(parameter.is_leaf for parameter in model.parameters())

    @pytest.mark.parametrize("context", [torch.no_grad, torch.enable_grad, torch.inference_mode])
    def test_in_any_mode(self, context):
        expected, model = poisoned(), poisoned()
        initialize_(expected, EVERYTHING, seed=0)
        with context():
            initialize_(model, EVERYTHING, seed=0)
        assert all(a.equal(b) for a, b in zip(expected.parameters(), model.parameters(), strict=True))


class TestErrors:
    def unwritten(self, model, rules, error, match, seed=None):
        poison(model)
        state = torch.get_rng_state()
        with pytest.raises(error, match=match) as raised:
            initialize_(model, rules, seed=seed)
        assert all(parameter.isnan().all() for parameter in model.parameters())
        return raised.value, torch.get_rng_state().equal(state)

    def test_unmatched_parameters_are_all_listed(self):
        """And nothing is drawn from the default generator."""
        error, generator_unused = self.unwritten(
            Model(depth=1), [Rule(nn.Linear, {"weight": Ones()})], ValueError, "no rule matches 6 parameters"
        )
        for name in (
            "embed.weight",
            "scale",
            "blocks.0.norm.weight",
            "blocks.0.norm.bias",
            "blocks.0.fc.bias",
        ):
            assert name in str(error)
        assert "blocks.0.fc.weight" not in str(error)
        assert "head.weight" not in str(error)
        assert generator_unused

    def test_no_rules(self):
        self.unwritten(nn.Linear(2, 2), [], ValueError, "no rule matches 2 parameters: weight, bias")

    @pytest.mark.parametrize(
        ("rules", "error", "match"),
        [
            ([Rule("*.bias", Zeros()), Rule("*", XavierUniform())], ValueError, r"scale: Fan in and fan out"),
            (
                [Rule("scale", Orthogonal()), Rule("*", Zeros())],
                ValueError,
                r"scale: Only tensors with 2 or more",
            ),
            (
                [Rule("scale", Eye()), Rule("*", Zeros())],
                ValueError,
                r"scale: Only tensors with 2 dimensions",
            ),
            (
                [Rule("*.fc.weight", Stacked((Ones(),) * 3)), Rule("*", Zeros())],
                ValueError,
                r"blocks.0.fc.weight: dimension 0 of shape .* has no 3 equal parts",
            ),
            (
                [Rule("scale", Constant(1e39)), Rule("*", Zeros())],
                RuntimeError,
                r"scale: value is out of range",
            ),
        ],
    )
    def test_one_that_does_not_fit_is_named_and_nothing_is_written(self, rules, error, match):
        self.unwritten(Model(), rules, error, match)

    def test_other_dtypes_are_named(self):
        model = Model()
        model.scale = nn.Parameter(torch.full((3,), torch.nan, dtype=torch.complex64))
        rules = [Rule("scale", TruncatedNormal()), *EVERYTHING]
        self.unwritten(model, rules, NotImplementedError, "scale: TruncatedNormal of complex64")

    def test_constants_that_do_not_fit_their_dtype_are_named(self):
        model = nn.Module()
        model.count = nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False)
        with pytest.raises(RuntimeError, match="count: int8 cannot hold the value 300: value cannot be"):
            initialize_(model, [Rule("*", Constant(300))], seed=0)
        assert not model.count.any()

    def test_meta_models_are_named_and_warn_of_nothing(self):
        with torch.device("meta"):
            model = nn.Linear(2, 2)
        state = torch.get_rng_state()
        with pytest.raises(ValueError, match="weight: a meta tensor has no memory"):
            initialize_(model, EVERYTHING)
        assert torch.get_rng_state().equal(state)

    def test_lazy_models_are_named(self):
        with pytest.raises(ValueError, match="weight: a lazy parameter has no shape yet"):
            initialize_(nn.LazyLinear(3), EVERYTHING, seed=0)

    def test_the_original_error_is_kept(self):
        model = nn.Linear(2, 2)
        with pytest.raises(ValueError, match="bias: Fan in") as raised:
            initialize_(model, [Rule("*", XavierUniform())], seed=0)
        assert str(raised.value.__cause__).startswith("Fan in")


class TestRemarks:
    def remarks(self, model, rules, **keywords):
        return list(initialize_(model, rules, seed=0, **keywords).audit.remarks)

    def test_what_matches_nothing(self):
        rules = [
            Rule("0.wieght", Zeros()),
            Rule("*.bais", {"bais": Zeros()}),
            Rule(nn.Linear, {"wieght": Ones(), "weight": Ones(), "bias": Ones()}),
            Rule("*.running_mean", Ones()),  # a rule of one initializer sets no buffer
            Rule("1.running_*", {"running_mean": Zeros()}),
            Rule("*", Zeros(), within=nn.Transformer),
        ]
        model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4))
        for given in (rules + ti.TORCH_DEFAULTS, [*rules, *ti.TORCH_DEFAULTS]):
            assert self.remarks(model, given) == [
                "the key 'wieght' of the rule for Linear matches nothing in the model",
                "the rule '*' matches nothing in the model",
                "the rule '*.bais' matches nothing in the model",
                "the rule '*.running_mean' matches nothing in the model",
                "the rule '0.wieght' matches nothing in the model",
            ]

    def test_what_may_match_nothing(self):
        """Classes, functions, optional rules, those of published schemes, those that others went before."""
        model = nn.Sequential(nn.Linear(3, 4))
        rules = [
            Rule(nn.LSTM, {"weight": Ones()}),
            Rule(lambda name, module: False, Ones()),
            Rule("*.nothing", Ones(), optional=True),
            Rule("0.*", Ones()),
            Rule("0.weight", Zeros()),
        ]
        assert self.remarks(nn.Sequential(nn.Linear(3, 4)), rules) == []
        assert self.remarks(model, ti.schemes.vit_timm()) == []
        assert self.remarks(model, [*ti.schemes.vit_timm(), Rule("0.wieght", Zeros())]) != []

    def test_one_initializer_of_several_rules(self):
        zeros = Zeros()
        found = self.remarks(
            nn.Linear(2, 2), [Rule("wieght", zeros), Rule("weight", zeros), Rule("bias", zeros)]
        )
        assert "the rule 'wieght' matches nothing in the model" in found

    def test_what_was_constant_and_is_drawn(self):
        """peft's lora_B, and branches that begin as if they were not there."""
        model = nn.Sequential(*(nn.Linear(3, 4) for _ in range(3)), nn.LayerNorm(4), nn.Linear(1, 1))
        for i in (0, 2):
            nn.init.zeros_(model[i].weight)
        nn.init.constant_(model[1].weight, 0.5)
        model[1].bias.data.fill_(1)
        assert self.remarks(model, ti.TORCH_DEFAULTS, skip="1.bias") == [
            "1.weight was 0.5 throughout, and is drawn now",
            "{0,2}.weight was 0 throughout, and is drawn now",
        ]
        assert self.remarks(model, ti.TORCH_DEFAULTS) == ["1.bias was 1 throughout, and is drawn now"]
        assert self.remarks(model, ti.TORCH_DEFAULTS) == []

    def test_on_meta_nothing_was(self):
        with torch.device("meta"):
            model = nn.Linear(3, 4)
        assert self.remarks(model, ti.TORCH_DEFAULTS, device="cpu") == []


def test_what_was_known_of_a_class_is_asked_anew_once_it_is_another():
    class Gain(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.empty(3))

    class Scaling(nn.Module):
        pass

    class Scaled(Scaling):
        pass

    named = published.class_named("Norm")
    rules = RuleSet("", "", [Rule(Scaling, Constant(2)), Rule(named, Ones()), Rule("*", Zeros())])
    model = Gain()
    initialize_(model, rules, seed=0)
    assert model.weight[0] == 0
    Gain.__name__ = "GainNorm"
    initialize_(model, rules, seed=0)
    assert model.weight[0] == 1
    Gain.__bases__ = (Scaled,)
    initialize_(model, rules, seed=0)
    assert model.weight[0] == 2


def test_a_class_may_say_of_each_module_whether_it_is_one():
    class IsSpecial(type):
        def __instancecheck__(cls, module):
            return getattr(module, "special", False)

        def __subclasscheck__(cls, kind):
            return True

    class Special(nn.Module, metaclass=IsSpecial):
        pass

    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].special = True
    initialize_(model, [Rule(Special, Ones()), Rule("*", Zeros())], seed=0)
    assert [module.weight[0, 0].item() for module in model] == [0, 1]


class TestFinder:
    """One slot after another: the same as asked alone, and what may look at more is asked each time."""

    def model(self) -> nn.Module:
        layers = [nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)) for _ in range(3)]
        return nn.ModuleDict({"a": layers[0], "b": layers[1], "c": nn.ModuleList([layers[2]])})

    def test_as_alone(self) -> None:
        rules = RuleSet.of(
            [
                Rule(nn.Linear, {"weight": Constant(1.0)}, within=nn.ModuleList),
                Rule("b.*.weight", Constant(2.0)),
                Rule(nn.Linear, MappingProxyType({"bias": Constant(3.0)})),
                Rule("*", lambda module: {"weight": Constant(float(len(module.weight)))}),
                Rule("*", Zeros()),
            ]
        )
        found, finder = slots(self.model()), Finder(rules)
        assert [finder.find(slot) for slot in found] == [rules.find(slot) for slot in found]
        assert len({rules.find(slot) for slot in found}) == 4

    def test_functions_are_asked_of_each(self) -> None:
        count = itertools.count()
        for pattern, given in (
            (lambda name, module: next(count) % 2 == 0, Zeros()),
            (nn.Linear, lambda module: {"weight": Constant(float(next(count)))}),
        ):
            found, finder = slots(self.model()), Finder(RuleSet.of([Rule(pattern, given)]))
            given_to = [finder.find(slot) for slot in found if isinstance(slot.owner, nn.Linear)]
            assert len(set(given_to)) > 1

    def test_a_class_that_says_itself_what_is_in_it(self) -> None:
        class Choosing(type(nn.Module)):  # type: ignore[misc]
            def __instancecheck__(cls, module: object) -> bool:
                return getattr(module, "chosen", False)

        class Chosen(nn.Module, metaclass=Choosing):
            pass

        model = self.model()
        model["b"].chosen = True
        finder = Finder(RuleSet.of([Rule("*", Zeros(), within=Chosen), Rule("*", Constant(1.0))]))
        assert [finder.find(slot) == Zeros() for slot in slots(model)] == [False] * 4 + [True] * 4 + [
            False
        ] * 4
