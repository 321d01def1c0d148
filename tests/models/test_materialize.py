"""Parameters and buffers that move, change their dtype, or get memory for the first time."""

import dataclasses
import functools
import math
import subprocess
import sys
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import tritoninit as ti
from tests.model_cases import META, NOISE, Model, assert_equal_states, initialized, poisoned, state
from tritoninit import (
    TORCH_DEFAULTS,
    Constant,
    Keep,
    Key,
    Normal,
    Rule,
    Value,
    initialize_,
)
from tritoninit.presets import PRESETS, Llama


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


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x

    def right_inverse(self, x):
        return x / 2


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

    @pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool, torch.bfloat16])
    @pytest.mark.parametrize("value", [0, 1])
    def test_a_buffer_that_is_written_by_way_of_data(self, dtype, value):
        """Which counts no change: torch_geometric's eps."""

        class Silent(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("eps", torch.full((2,), value, dtype=dtype))

            def reset_parameters(self):
                self.eps.data.fill_(value)

        with META:
            model = Silent()
        initialize_(model, seed=0, device="cpu")
        assert model.eps.dtype == dtype
        assert model.eps.tolist() == [value, value]

    @pytest.mark.parametrize(
        "methods",
        [
            {"_init_weights": lambda self: self.rope.table.copy_(torch.arange(4.0))},
            {"_init_weights": lambda self, module: module.table.copy_(torch.arange(4.0))},
            {"_init_weights": lambda self, m, name: m.table.copy_(torch.arange(4.0) * (name == "rope"))},
            {"_init_weights": lambda self, m: m is self and self.rope.table.copy_(torch.arange(4.0))},
            {"reset_parameters": lambda self: self.rope.table.copy_(torch.arange(4.0))},
        ],
    )
    def test_init_weights_takes_what_it_takes(self, methods):
        model = nn.Module()
        with META:
            model.rope = Rotary(offers=False)
        for name, method in methods.items():
            setattr(model, name, method.__get__(model))
        initialize_(model, seed=0, device="cpu")
        assert model.rope.table.tolist() == [0, 1, 2, 3]

    @pytest.mark.parametrize("method", ["init_non_persistent_buffers", "_init_buffers"])
    def test_timm_s_names(self, method):
        with META:
            model = Rotary(offers=False)
        setattr(model, method, lambda: model.table.copy_(torch.arange(4.0)))
        initialize_(model, seed=0, device="cpu")
        assert model.table.tolist() == [0, 1, 2, 3]

    def test_reset_parameters_that_assigns_to_data(self):
        """Of a parameter, too, which is none of what is computed then."""
        with META:
            model = Rotary(offers=False)
            model.weight = nn.Parameter(torch.ones(3))

        def reset():
            model.weight.data = torch.zeros(3)
            model.table.data = torch.arange(4.0)

        model.reset_parameters = reset
        initialize_(model, NOISE, seed=0, device="cpu")
        assert model.table.tolist() == [0, 1, 2, 3]
        assert model.weight.abs().min() > 0

    def test_the_way_out_is_told(self):
        with META:
            model = nn.Sequential(Rotary(offers=False))
        with pytest.raises(ValueError, match="parameters on the meta device and its buffers real"):
            initialize_(model, seed=0, device="cpu")

    @pytest.mark.parametrize("dtype", [None, torch.bfloat16])
    @pytest.mark.parametrize("dim", [0, 1, None])
    def test_weight_norm(self, dtype, dim):
        def build():
            return nn.Sequential(parametrizations.weight_norm(nn.Conv1d(4, 6, 3), dim=dim), nn.Linear(2, 2))

        with META:
            model = build()
        model[0].parametrizations.weight.original1.tag = "kept"
        initialize_(model, seed=0, device="cpu", dtype=dtype)
        direct = build()
        initialize_(direct, seed=0, dtype=dtype)
        assert_equal_states(state(model), state(direct))
        assert model[0].weight.equal(direct[0].weight)
        assert model[0].parametrizations.weight.original1.tag == "kept"
        assert all(p.requires_grad for p in model.parameters())

    @pytest.mark.parametrize(
        "build",
        [
            lambda: parametrizations.spectral_norm(nn.Linear(4, 5)),
            lambda: parametrizations.spectral_norm(parametrizations.weight_norm(nn.Linear(4, 5))),
            lambda: parametrizations.spectral_norm(nn.LayerNorm(5)),
            lambda: parametrizations.orthogonal(nn.Linear(4, 5)),
            lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(4, 4)), nn.Linear(2, 2)),
        ],
    )
    def test_buffers_that_are_set_with_the_weight(self, build):
        model = build().to("meta")  # orthogonal cannot be built there
        initialize_(model, seed=0, device="cpu")
        initialize_(direct := build(), seed=0)
        assert_equal_states(state(model), state(direct))

    def test_a_parametrised_buffer(self):
        model = nn.Module()
        model.register_buffer("table", torch.ones(3, 3))
        torch.nn.utils.parametrize.register_parametrization(model, "table", Doubled())
        model.to("meta")
        initialize_(model, [Rule(nn.Module, {"table": Constant(2.0)})], seed=0, device="cpu")
        assert model.table.equal(torch.full((3, 3), 2.0))

    def test_several_parametrisations_and_a_tie(self):
        def build():
            model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
            for _ in range(2):
                torch.nn.utils.parametrize.register_parametrization(model["a"], "weight", Doubled())
            model["b"].weight = model["a"].parametrizations.weight.original
            return model

        with META:
            model = build()
        initialize_(model, seed=0, device="cpu")
        initialize_(direct := build(), seed=0)
        assert_equal_states(state(model), state(direct))
        assert model["b"].weight is model["a"].parametrizations.weight.original

    def test_what_a_tie_hides_is_no_success(self):
        """The direction is the tied one's, and its norm would be nobody's."""
        with META:
            model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
            parametrizations.weight_norm(model["b"])
        model["a"].weight = model["b"].parametrizations.weight.original1
        with pytest.raises(ValueError, match=r"b\.parametrizations\.weight\.original0: on the meta device"):
            initialize_(model, seed=0, device="cpu")

    def test_meta_tensors_in_lists_and_dicts(self):
        with META:
            model = nn.LSTM(3, 4)  # whose list of its weights is none
            model.masks = {"one": [torch.ones(3)], "two": (nn.Parameter(torch.ones(2)), {torch.ones(1)})}
        model.itself = [model.masks]
        model.itself.append(model.itself)
        with pytest.raises(
            ValueError, match=r"masks\['one'\]\[0\]: a plain.*masks\['two'\]\[0\].*masks\['two'\]\[1\]\[0\]"
        ):
            initialize_(model, seed=0, device="cpu")
        assert all(p.is_meta for p in model.parameters())

    def test_a_plain_attribute(self):
        with META:
            model = nn.Linear(2, 2)
            model.mask = torch.ones(3)
        with pytest.raises(ValueError, match="mask: a plain attribute on the meta device"):
            initialize_(model, seed=0, device="cpu")

    @pytest.mark.parametrize(
        "draw",
        [
            lambda table: table.normal_(),
            lambda table: table.copy_(torch.rand(4)),
            lambda table: table.copy_(torch.tensor(np.random.mtrand.rand(4))),
            lambda table: nn.init.normal_(table),
        ],
    )
    def test_random_buffers_come_of_their_names(self, draw):
        def built(seed, first):
            with META:
                model = nn.Sequential(*(Rotary() for _ in range(3)))
            for rotary in model:
                rotary.reset_buffers = lambda owner=rotary: draw(owner.table)
            if not first:
                torch.rand(3), np.random.mtrand.rand(3)
                model[0].reset_buffers = lambda: model[0].table.zero_()
            initialize_(model, seed=seed, device="cpu")
            return [rotary.table for rotary in model]

        first, again, other = built(0, first=True), built(0, first=False), built(1, first=True)
        assert first[1].equal(again[1])  # whatever the others draw
        assert first[2].equal(again[2])
        assert len({tuple(table.tolist()) for table in first + other}) == 6

    def test_fills_of_buffers_are_this_library_s(self):
        with META:
            model = nn.Sequential(Rotary())
        model[0].reset_buffers = lambda: nn.init.normal_(model[0].table)
        initialize_(model, seed=3, device="cpu")
        key = Key(3).fold_in("0.table").fold_in(0)
        assert model[0].table.equal(Normal()(torch.empty(4), key=key))

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


class Buffered(nn.Module):
    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.fc = nn.Linear(2, 2)
        self.register_buffer("table", torch.zeros(3, dtype=dtype))


class TestBuffersComeOutTheSameTwice:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.complex64])
    @pytest.mark.parametrize(
        "reset",
        [
            lambda table: table[:1].fill_(1),
            lambda table: table.data[:1].fill_(1),
            lambda table: table.copy_(table.add(1)),
            lambda table: table.copy_(torch.tensor(np.random.default_rng().integers(2**60))),
        ],
    )
    def test_what_is_set_in_part_or_from_what_was_there_is_not_computed(self, dtype, reset):
        """The rest had been NaN, or whatever was in the memory."""
        with META:
            model = Buffered(dtype)
        model.reset_buffers = lambda: reset(model.table)
        with pytest.raises(ValueError, match="not computed by their modules: table"):
            initialize_(model, seed=0, device="cpu")
        assert model.table.is_meta
        assert model.fc.weight.is_meta

    @pytest.mark.parametrize("value", [0.0, 1.0, math.nan])
    def test_a_method_that_remembers_that_it_was_called(self, value):
        with META:
            model = Buffered()
        model.done = False

        def reset_buffers():
            if not model.done:
                model.done = True
                model.table.fill_(value)

        model.reset_buffers = reset_buffers
        initialize_(model, seed=0, device="cpu")
        assert model.done
        assert model.table.equal(torch.full((3,), value)) or math.isnan(value)

    def test_modules_stay(self):
        with META:
            model = Buffered()

        def reset_parameters():
            model.table.fill_(1)
            model.fc = nn.Linear(3, 3)

        model.reset_parameters = reset_parameters
        fc = model.fc
        initialize_(model, seed=0, device="cpu")
        assert model.fc is fc
        assert (model.table == 1).all()


class TestOtherPlaces:
    """Meta tensors that are somewhere else than where modules hold parameters and buffers."""

    def test_attributes_lists_dicts_and_objects_that_hold_the_same_follow(self):
        with META:
            model = Buffered()
        model.reset_buffers = lambda: model.table.fill_(2)
        vars(model)["again"] = model.table
        model.several = [model.fc.weight, {"bias": model.fc.bias}, deque([model.table])]
        model.kept = SimpleNamespace(weight=model.fc.weight)
        initialize_(model, seed=0, device="cpu")
        assert model.again is model.table
        assert model.several[0] is model.kept.weight is model.fc.weight
        assert model.several[1]["bias"] is model.fc.bias
        assert model.several[2][0] is model.table

    def test_what_cannot_follow_is_refused(self):
        with META:
            model = nn.Linear(2, 2)
        model.several = (model.weight,)
        with pytest.raises(ValueError, match=r"several\[0\]: a second place"):
            initialize_(model, seed=0, device="cpu")
        assert model.weight.is_meta

    @pytest.mark.parametrize(
        ("hold", "name"),
        [
            (lambda x: SimpleNamespace(x=x), r"held\.x"),
            (lambda x: dataclasses.make_dataclass("Held", ["x"])(x), r"held\.x"),
            (lambda x: deque([x]), r"held\[0\]"),
            (lambda x: functools.partial(torch.add, x), r"held\[0\]"),
            (lambda x: [nn.Linear(2, 2, device="meta")], r"held\[0\]\._parameters\['weight'\]"),
        ],
    )
    def test_others_are_refused(self, hold, name):
        with META:
            model = nn.Linear(2, 2)
        model.held = hold(torch.zeros(2, device="meta"))
        with pytest.raises(ValueError, match=f"{name}: a plain attribute on the meta device"):
            initialize_(model, seed=0, device="cpu")
        assert model.weight.is_meta
