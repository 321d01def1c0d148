"""Parts of a model that are no DTensors: by names and windows, Megatron's marks, PEFT's wrappers."""

import sys
import types

import pytest
import torch
from torch import nn

import tritoninit as ti
from tests.distributed.ranks import expected, meshes, numbered
from tritoninit import Rule, TargetError, Window, Windows
from tritoninit.auditing.findings import _share, _subjects_in
from tritoninit.auditing.shares import combined
from tritoninit.models.slots import slots


def layers(count=4, width=6):
    return nn.ModuleDict(
        {
            "embed": nn.Embedding(9, width, padding_idx=1),
            "layers": nn.ModuleList(
                nn.Sequential(nn.Linear(width, 5), nn.Linear(5, width)) for _ in range(count)
            ),
            "norm": nn.LayerNorm(width),
        }
    )


RULES = [
    Rule("layers.3.*.weight", ti.Orthogonal()),
    Rule("layers.2.*", ti.Normal(0.0, 0.5)),
    *ti.TORCH_DEFAULTS,
]


@pytest.fixture(scope="module")
def whole():
    model = layers()
    ti.initialize_(model, RULES, seed=3)
    return model


class TestPrefix:
    @pytest.mark.parametrize(
        "prefix", ["layers.3", "layers.3.", lambda name: f"layers.3.{name}", {"": "layers.3"}]
    )
    def test_a_part_alone(self, whole, prefix):
        """Keys, rules, reports and fingerprints by the names that there are in the whole."""
        part = layers().layers[3]
        report = ti.initialize_(part, RULES, seed=3, prefix=prefix)
        for name, parameter in part.named_parameters():
            assert parameter.equal(whole.get_parameter(f"layers.3.{name}")), name
        names = [f"layers.3.{name}" for name, _ in part.named_parameters()]
        assert [each.name for each in report] == names
        assert [row.name for row in report.audit.rows] == names
        assert isinstance(report[0].initializer, ti.Orthogonal)
        audited = ti.audit(part, prefix=prefix)
        assert audited.fingerprint == report.audit.fingerprint != ti.audit(part).fingerprint
        assert ti.audit(part, report=report).fingerprint == report.audit.fingerprint

    def test_parts_make_up_the_whole(self, whole):
        """A pipeline's stages, from the meta device, with their own numbers: and the fingerprints add up."""
        with torch.device("meta"):
            model = layers()
        stages = [
            (nn.ModuleDict({"embed": model.embed, "a": model.layers[0]}), {"a": "layers.0"}),
            (nn.Sequential(*model.layers[1:]), lambda name: f"layers.{int(name[0]) + 1}{name[1:]}"),
            (model.norm, "norm"),
        ]
        total, everyone = 0, []
        for stage, prefix in stages:
            report = ti.initialize_(stage, RULES, seed=3, device="cpu", prefix=prefix)
            total += int(report.audit.fingerprint, 16)
            everyone.append([_share(each) for each in _subjects_in(stage, report, report.scope)])
        for name, parameter in model.named_parameters():
            assert parameter.equal(whole.get_parameter(name)), name
        assert f"{total % 2**64:016x}" == ti.audit(whole).fingerprint
        shares, unequal = combined(everyone)
        assert set(shares) == set(dict(whole.named_parameters()))
        assert not unequal

    def test_names_of_a_map(self):
        model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)))
        report = ti.initialize_(model, seed=0, prefix={"1": "b", "1.0": "a.", "1.1.bias": "c", "x.y": "z"})
        names = [each.name for each in report]
        assert names == ["0.weight", "0.bias", "a.weight", "a.bias", "b.1.weight", "c"]
        assert "the name 'x.y' of prefix matches nothing in the model" in report.audit.remarks

    def test_tied_parameters_go_by_their_first_name(self, whole):
        block = nn.ModuleDict({"a": nn.Linear(6, 5), "b": nn.Linear(6, 5)})
        block.b.weight = block.a.weight
        ti.initialize_(block, RULES, seed=3, prefix={"a": "layers.1.0", "b": "layers.2.0"})
        assert block.a.weight.equal(whole.layers[1][0].weight)
        assert block.b.bias.equal(whole.layers[2][0].bias)

    def test_what_is_kept_goes_by_either_name(self):
        for name in ("0.weight", "layers.3.0.weight", "layers.*.0.weight"):
            report = ti.initialize_(layers().layers[3], seed=0, prefix="layers.3", skip=name)
            assert [each.name for each in report if not each.backend] == ["layers.3.0.weight"]

    def test_fused_projections_are_known_by_their_full_names(self):
        whole, alone = nn.ModuleDict({"qkv_proj": nn.Linear(4, 12)}), nn.Linear(4, 12)
        rules = [Rule("*.weight", ti.XavierUniform()), Rule("*", ti.Zeros())]
        ti.initialize_(whole, rules, seed=0)
        ti.initialize_(alone, rules, seed=0, prefix="qkv_proj")
        assert alone.weight.equal(whole.qkv_proj.weight)

    def test_own_code_and_computed_buffers(self):
        """Numbers that code computes come of the full name, too."""

        class Decay(nn.Module):
            def __init__(self):
                super().__init__()
                self.rates = nn.Parameter(torch.empty(5))
                self.register_buffer("noise", torch.empty(4))
                self.reset_parameters()

            def reset_parameters(self):
                with torch.no_grad():
                    self.rates.copy_(torch.rand(5).log())
                nn.init.normal_(self.noise)

        with torch.device("meta"):
            whole, alone = nn.ModuleDict({"x": Decay()}), Decay()
        ti.initialize_(whole, seed=0, device="cpu")
        ti.initialize_(alone, seed=0, device="cpu", prefix="x")
        assert alone.rates.equal(whole.x.rates)
        assert alone.noise.equal(whole.x.noise)

    def test_what_is_no_name(self):
        model = nn.Linear(2, 2)
        before = model.weight.clone()
        for prefix in (3, None, {"a": 3}, ["a"], lambda name: None):
            with pytest.raises(TypeError, match=r"^prefix "):
                ti.initialize_(model, seed=0, prefix=prefix)
        with pytest.raises(ValueError, match=r"several tensors have one name.*prefix= has it: a"):
            ti.initialize_(model, seed=0, prefix=lambda name: "a")
        with pytest.raises(TypeError, match=r"^prefix "):
            ti.audit(model, prefix=3)
        assert model.weight.equal(before)

    def test_parts_of_one_name_that_differ_are_told(self):
        """Two stages under one name: their shapes may tell, and the numbers of what is not set."""
        everyone = []
        for part in (nn.Linear(3, 4), nn.Linear(3, 5)):
            report = ti.initialize_(part, seed=0)
            everyone.append([_share(each) for each in _subjects_in(part, report)])
        assert list(combined(everyone)[1]) == ["weight", "bias"]


class PeftModel(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.base_model = LoraModel(model)


class BaseTuner(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model


class LoraModel(BaseTuner):
    pass


class BaseTunerLayer:
    pass


class LoraLinear(nn.Module, BaseTunerLayer):
    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base_layer.in_features, 2, bias=False)})


class ModulesToSaveWrapper(nn.Module):
    def __init__(self, module):
        super().__init__()
        self.original_module = module
        self.modules_to_save = nn.ModuleDict({"default": nn.LayerNorm(6)})


@pytest.fixture
def pefts(monkeypatch):
    for kind in (PeftModel, BaseTuner, LoraModel, BaseTunerLayer, LoraLinear, ModulesToSaveWrapper):
        monkeypatch.setattr(kind, "__module__", "peft.tuners")


def adapted(model):
    for block in model.layers:
        block[0] = LoraLinear(block[0])
    model.norm = ModulesToSaveWrapper(model.norm)
    return PeftModel(model)


def test_adapters_change_no_key(pefts, whole):
    """PEFT's base_model.model, base_layer and original_module; what it adds has names of its own."""
    model = adapted(layers())
    ti.initialize_(model, RULES, seed=3)
    found = {slot.name: slot.tensor for slot in slots(model)}
    for name, parameter in whole.named_parameters():
        assert found[name].equal(parameter), name
    added = set(found) - set(dict(whole.named_parameters()))
    assert "layers.0.0.lora_A.default.weight" in added
    assert "norm.modules_to_save.default.weight" in added
    report = ti.initialize_(
        model,
        RULES,
        seed=3,
        skip=["base_model.model.embed.weight", "base_model.model.layers.0.0.base_layer.bias"],
    )
    assert [each.name for each in report if not each.backend] == ["embed.weight", "layers.0.0.bias"]


def test_other_modules_of_these_names_keep_them():
    model = nn.ModuleDict(
        {"base_model": nn.ModuleDict({"model": nn.Linear(2, 2)}), "base_layer": nn.Linear(2, 2)}
    )
    names = {each.name for each in ti.initialize_(model, seed=0)}
    assert {"base_model.model.weight", "base_layer.weight"} <= names


def parallel(rank, size):
    """What each rank of Megatron's has of a layer's weights: by name, (local module, windows)."""
    each, block = 12 // size, 8 // size
    heads = [(k * 8 + rank * block, k * 8 + (rank + 1) * block) for k in range(3)]
    return {
        "column": Window((12, 8), (rank * each, 0)),
        "row": Window((8, 12), (0, rank * each)),
        "vocabulary": Window((12, 8), (rank * each, 0)),
        "qkv_proj": Windows.runs((24, 8), [heads, None]),
        "gate_up_proj": Windows.runs(
            (24, 8), [[(rank * each, (rank + 1) * each), (12 + rank * each, 12 + (rank + 1) * each)], None]
        ),
    }


def local_shape(window, size):
    if isinstance(window, Windows):
        return window.local_shape
    dim = 1 if window.global_shape == (8, 12) else 0
    return tuple(n // size if k == dim else n for k, n in enumerate(window.global_shape))


def local_model(rank, size, device="cpu"):
    with torch.device(device):
        return nn.ModuleDict(
            {
                "block": nn.ModuleDict(
                    {
                        name: nn.Linear(shape[1], shape[0], bias=name == "column")
                        for name, window in parallel(rank, size).items()
                        for shape in [local_shape(window, size)]
                    }
                ),
                "norm": nn.LayerNorm(8),
            }
        )


def whole_model():
    shapes = {name: window.global_shape for name, window in parallel(0, 1).items()}
    return nn.ModuleDict(
        {
            "block": nn.ModuleDict(
                {name: nn.Linear(shape[1], shape[0], bias=name == "column") for name, shape in shapes.items()}
            ),
            "norm": nn.LayerNorm(8),
        }
    )


WINDOW_RULES = {
    "fans": [Rule("block.*.weight", ti.XavierNormal()), *ti.TORCH_DEFAULTS],
    "defaults": ti.TORCH_DEFAULTS,
    "structured": [Rule("block.*.weight", ti.Orthogonal()), *ti.TORCH_DEFAULTS],
    "padding row": [Rule("block.vocabulary.weight", ti.ZeroRow(ti.KaimingNormal(), 7)), *ti.TORCH_DEFAULTS],
}


@pytest.mark.parametrize("rules", WINDOW_RULES)
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_windows(rules, device):
    """Column, row, vocabulary; q, k and v, and gates of each rank by parts: slices of the one model."""
    rules, whole = WINDOW_RULES[rules], whole_model()
    one = ti.initialize_(whole, rules, seed=5).audit
    for size in (1, 2, 4):
        everyone = []
        for rank in range(size):
            windows = {f"block.{name}.weight": window for name, window in parallel(rank, size).items()}
            windows["block.column.bias"] = Window((12,), (rank * 12 // size,))
            model = local_model(rank, size, device)
            report = ti.initialize_(model, rules, seed=5, device="cpu", windows=windows)
            for name, parameter in model.named_parameters():
                numbers = numbered(*whole.get_parameter(name).shape)
                numbers = _held(numbers, windows[name], parameter.shape) if name in windows else numbers
                assert parameter.equal(expected(whole.get_parameter(name).detach(), numbers)), name
            assert report.audit.ok
            assert len(report.audit.partial) == (6 if size > 1 else 0)
            assert report.audit.rows[0].shape == (12, 8)
            assert ti.audit(model, windows=windows).fingerprint == report.audit.fingerprint
            everyone.append([_share(each) for each in _subjects_in(model, report, report.scope)])
        shares, unequal = combined(everyone)
        assert not unequal
        assert {name: share.row.hash for name, share in shares.items()} == {
            row.name: row.hash for row in one.rows
        }


def _held(numbers, window, shape):
    """The numbers in a window, by slicing."""
    local = torch.empty(shape)
    for part, place in Windows.of(window, shape).parts(local):
        part.copy_(numbers[tuple(slice(o, o + n) for o, n in zip(place.offsets, part.shape, strict=True))])
    return local


class TestWindows:
    def test_globs_and_exact_names(self):
        model = nn.ModuleList(nn.Linear(4, 2) for _ in range(3))
        windows = {
            "*.weight": Window((8, 4), (2, 0)),
            "*": Window((8,), (2,)),
            "1.weight": Window((16, 4), (2, 0)),
        }
        report = ti.initialize_(model, seed=0, windows=windows)
        assert [row.shape for row in report.audit.rows] == [(8, 4), (8,), (16, 4), (8,), (8, 4), (8,)]

    def test_under_a_prefix(self):
        """By full names, of which one may be another's name here."""
        model = nn.Sequential(nn.Linear(4, 2), nn.Linear(4, 2))
        swapped = {"0": "1", "1": "0"}
        window = Window((8, 4), (2, 0))
        report = ti.initialize_(model, seed=0, prefix=swapped, windows={"0.weight": window}, skip="0.bias")
        assert [row.name for row in report.audit.rows] == ["1.weight", "1.bias", "0.weight", "0.bias"]
        assert [row.shape for row in report.audit.rows] == [(2, 4), (2,), (8, 4), (2,)]
        assert [each.name for each in report if not each.backend] == ["0.bias"]
        with pytest.raises(ValueError, match=r"windows matches nothing in the model: 'weight'"):
            ti.initialize_(nn.Linear(4, 2), seed=0, prefix="a", windows={"weight": window})

    def test_buffers_that_rules_set(self):
        model = nn.Module()
        model.register_buffer("table", torch.empty(3, 4))
        ti.initialize_(
            model,
            [Rule(nn.Module, {"table": ti.Normal()})],
            seed=0,
            windows={"table": Window((6, 4), (3, 0))},
        )
        whole = ti.normal_(torch.empty(6, 4), key=ti.Key(0).fold_in("table"))
        assert model.table.equal(whole[3:])

    def test_what_does_not_fit(self):
        model = nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2))
        before = [p.detach().clone() for p in model.parameters()]
        for window, match in (
            (Window((8, 4), (7, 0)), r"^0\.weight: a tensor of shape \(2, 4\) does not lie inside"),
            (Window((8,), (0,)), r"^0\.weight: a tensor of shape \(2, 4\) does not lie inside"),
            (Windows.flat((8, 4), 0, 8), r"^0\.weight: a tensor of shape \(2, 4\) where one of \(8,\) is"),
        ):
            with pytest.raises(ValueError, match=match):
                ti.initialize_(model, [Rule("*", ti.Normal())], seed=0, windows={"0.weight": window})
            for call in (ti.initialize_, ti.audit):
                with pytest.raises(
                    ValueError, match=r"windows matches nothing in the model: 'x\.\*', 'weight'"
                ):
                    call(model, windows={"x.*": window, "0.weight": window, "weight": window})
        for wrong in (
            {"0.weight": (8, 4)},
            [("0.weight", Window((2, 4), (0, 0)))],
            {0: Window((2, 4), (0, 0))},
        ):
            with pytest.raises(TypeError, match=r"^windows "):
                ti.initialize_(model, seed=0, windows=wrong)
        assert all(now.equal(then) for now, then in zip(model.parameters(), before, strict=True))

    def test_of_dtensors_on_the_meta_device(self):
        """Experts 2 and 3 of eight, sharded again: rules see eight."""
        from torch.distributed.tensor import Shard, distribute_tensor

        whole = ti.Experts(ti.Orthogonal())(torch.empty(8, 5, 4), key=ti.Key(0).fold_in("moe.weight"))
        for mesh in meshes(2):
            model = nn.Module()
            meta = torch.empty(2, 5, 4, device="meta")
            model.weight = nn.Parameter(distribute_tensor(meta, mesh, [Shard(1)], src_data_rank=None))
            windows = {"moe.*": Window((8, 5, 4), (2, 0, 0))}
            rules = [Rule("*", ti.Experts(ti.Orthogonal()))]
            report = ti.initialize_(model, rules, seed=0, device="cpu", prefix="moe", windows=windows)
            rows = (slice(0, 3), slice(3, 5))[mesh.get_rank()]
            assert model.weight.to_local().equal(whole[2:4, rows])
            assert report.audit.rows[0].shape == (8, 5, 4)

    def test_of_what_has_no_shape(self):
        model = nn.Sequential(nn.LazyLinear(3), nn.Linear(3, 2))
        windows = {"*.weight": Window((4, 3), (2, 0))}
        with pytest.raises(TargetError, match=r"^0\.weight: a lazy parameter"):
            ti.initialize_(model, seed=0, windows=windows, skip="0.bias")
        ti.initialize_(model, seed=0, windows=windows, skip="0")

    def test_what_is_computed_from_a_part(self):
        model = nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))
        with pytest.raises(TargetError, match=r"^weight: what it is computed from is a part of it"):
            ti.initialize_(model, seed=0, windows={"weight": Window((8, 4), (0, 0))})

    def test_kept_parts_of_what_has_no_memory(self):
        with torch.device("meta"):
            model = nn.Linear(4, 2)
        rules = [Rule("weight", ti.Stacked((ti.Normal(), ti.Keep()))), Rule("*", ti.Zeros())]
        with pytest.raises(ValueError, match=r"^weight: a part of it is to be kept"):
            ti.initialize_(model, rules, seed=0, device="cpu", windows={"weight": Window((8, 4), (0, 0))})

    def test_own_code_sees_the_whole(self):
        """Its shapes, its fans; what it computes is cut."""

        class Whole(nn.Module):
            def __init__(self, rows, made=None):
                super().__init__()
                self.weight = nn.Parameter(torch.zeros(rows, 4))
                self.rates = nn.Parameter(torch.zeros(rows))

            def reset_parameters(self):
                nn.init.normal_(self.weight, std=1 / self.weight.shape[0])
                with torch.no_grad():
                    self.rates.copy_(torch.linspace(0, 1, self.weight.shape[0]) + torch.rand(len(self.rates)))

        whole, part = Whole(8), Whole(2)
        ti.initialize_(whole, seed=0)
        report = ti.initialize_(
            part, seed=0, windows={"weight": Window((8, 4), (4, 0)), "rates": Window((8,), (4,))}
        )
        assert part.weight.equal(whole.weight[4:6])
        assert part.rates.equal(whole.rates[4:6])
        assert part.weight.shape == (2, 4)
        assert report.audit.ok


def marked(weight, dim, stride=1):
    weight.tensor_model_parallel, weight.partition_dim, weight.partition_stride = True, dim, stride
    return weight


def megatrons_shard(whole, dim, stride, rank, size):
    """As megatron.core's _initialize_affine_weight_cpu deals out a master weight, in other words."""
    blocks = whole.split(whole.shape[dim] // size // stride, dim)
    return torch.cat(blocks[rank::size], dim)


class Group:
    def __init__(self, rank, size):
        self.rank, self.size = lambda: rank, lambda: size


class TestMegatron:
    @pytest.mark.parametrize("stride", [1, 2, 3])
    @pytest.mark.parametrize("dim", [0, 1])
    @pytest.mark.parametrize("by", ["state", "group"])
    def test_marks(self, monkeypatch, dim, stride, by):
        whole = nn.Linear(24, 24)
        ti.initialize_(whole, seed=0)
        for rank in range(4):
            shape = (24, 6) if dim else (6, 24)
            model = nn.Linear(shape[1], shape[0], bias=False)
            marked(model.weight, dim, stride)
            if by == "group":
                model.tp_group = Group(rank, 4)
            else:
                self.state(monkeypatch, rank, 4)
            report = ti.initialize_(model, seed=0)
            assert model.weight.equal(megatrons_shard(whole.weight, dim, stride, rank, 4))
            assert report.audit.rows[0].shape == (24, 24)
            assert report.audit.partial == ("weight",)

    @staticmethod
    def state(monkeypatch, rank, size, expert=(0, 1)):
        names = {"tensor_model_parallel": (rank, size), "expert_tensor_parallel": expert}
        functions = {
            f"get_{name}_{what}": lambda value=value: value
            for name, each in names.items()
            for what, value in zip(("rank", "world_size"), each, strict=True)
        }
        monkeypatch.setitem(sys.modules, "megatron.core.parallel_state", types.SimpleNamespace(**functions))

    def test_what_is_not_known_is_not_guessed(self, monkeypatch):
        model = nn.Linear(4, 6, bias=False)
        marked(model.weight, 0)

        def refused():
            with pytest.raises(
                TargetError, match=r"^weight: Megatron's shard along dimension .* give windows="
            ):
                ti.initialize_(model, seed=0)

        refused()  # no state
        model.tp_size = 2  # Transformer Engine's, without a group
        refused()
        del model.tp_size
        self.state(monkeypatch, 1, 2)
        for name, wrong in (("partition_dim", 2), ("partition_dim", None), ("partition_stride", 4)):
            before = getattr(model.weight, name)
            setattr(model.weight, name, wrong)
            refused()
            setattr(model.weight, name, before)

        def uninitialised():
            raise AssertionError("tensor model parallel group is not initialized")

        monkeypatch.setattr(
            sys.modules["megatron.core.parallel_state"], "get_tensor_model_parallel_rank", uninitialised
        )
        refused()

    def test_windows_go_before_marks(self, monkeypatch):
        """Of a gated weight that is marked as one stretch."""
        self.state(monkeypatch, 1, 2)
        whole = ti.normal_(torch.empty(8, 4), key=ti.Key(0).fold_in("weight"))
        model = nn.Linear(4, 4, bias=False)
        marked(model.weight, 0)
        halves = Windows.runs((8, 4), [[(2, 4), (6, 8)], None])
        ti.initialize_(model, [Rule("*", ti.Normal())], seed=0, windows={"weight": halves})
        assert model.weight.equal(whole[[2, 3, 6, 7]])

    def test_experts(self, monkeypatch):
        self.state(monkeypatch, 1, 2, expert=(0, 4))
        model = nn.Linear(4, 6, bias=False)
        model.is_expert = True
        marked(model.weight, 0)
        report = ti.initialize_(model, [Rule("*", ti.Normal())], seed=0)  # all ranks have this one
        assert report.audit.rows[0].shape == (24, 4)
        model.weight.allreduce = False
        with pytest.raises(TargetError, match=r"^weight: one of Megatron's experts"):
            ti.initialize_(model, seed=0)
        ti.initialize_(model, [Rule("*", ti.Normal())], seed=0, windows={"weight": Window((24, 4), (0, 0))})

    def test_what_all_ranks_have(self, monkeypatch):
        self.state(monkeypatch, 1, 2)
        one, other = nn.Linear(4, 6), nn.Linear(4, 6)
        one.weight.tensor_model_parallel, one.weight.partition_dim = False, -1
        for model in (one, other):
            ti.initialize_(model, seed=0)
        assert one.weight.equal(other.weight)
