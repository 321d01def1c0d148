"""A plan of a mesh says what engines and kernels do: the same rectangles, launches and numbers drawn."""

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import tritoninit as ti
from tests.distributed.ranks import meshes
from tritoninit import Rule, Windows, registry
from tritoninit.distributed.cuts import in_order
from tritoninit.distributed.held import held_by, is_dtensor
from tritoninit.meshes import regions
from tritoninit.meshes.layouts import Layout, read_layout
from tritoninit.meshes.mesh import Mesh
from tritoninit.meshes.mesh_plan import plan_mesh
from tritoninit.meshes.regions import Split
from tritoninit.presets import GPT2, LARGE, Llama, Mixture
from tritoninit.schemes import gpt2, llama

pytest.importorskip("triton")

SMALL = {"vocabulary": 51, "width": 24, "depth": 2, "heads": 4, "inner": 37}
RULES = llama(cut=None)


def on_meta(build, *arguments, **settings):
    with torch.device("meta"):
        return build(*arguments, **settings)


def small():
    return on_meta(Llama, **SMALL, kv_heads=2, tied=False)


def mixture():
    return on_meta(Mixture, **SMALL, kv_heads=2, experts=6, active=2)


def tensor_parallel(model, mesh):
    """As PyTorch's tutorial on tensor parallelism has it for Llama."""
    plan = {"model.embed_tokens": RowwiseParallel(), "lm_head": ColwiseParallel()}
    for name in ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj"):
        plan[f"model.layers.*.{name}"] = ColwiseParallel()
    for name in ("self_attn.o_proj", "mlp.down_proj"):
        plan[f"model.layers.*.{name}"] = RowwiseParallel()
    parallelize_module(model, mesh, plan, src_data_rank=None)


def sharded(model, mesh):
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)


ENGINES = {
    "dp=8": lambda model, mesh: sharded(model, mesh),
    "hsdp=2,fsdp=3": lambda model, mesh: sharded(model, mesh),
    "tp=4": tensor_parallel,
    "dp=3,tp=2": lambda model, mesh: (tensor_parallel(model, mesh["b"]), sharded(model, mesh["a"])),
}


def engines(axes):
    """The model as each rank of a mesh has it, cut by PyTorch."""
    mesh = Mesh.of(axes)
    for rank, device_mesh in enumerate(meshes(*mesh.shape)):
        model = small()
        ENGINES[axes](model, device_mesh)
        yield rank, model


def rectangles(windows):
    return windows.local_shape, [
        (each.window, each.shape, each.begins) for each in windows.rectangles if 0 not in each.shape
    ]


@pytest.mark.parametrize("axes", ENGINES)
def test_rectangles_are_the_engines(axes):
    plan = plan_mesh(small(), RULES, mesh=axes)
    assert plan.faults == []
    for rank, model in engines(axes):
        held = plan.held(rank)
        parameters = dict(model.named_parameters())
        assert set(held) == set(parameters)
        elements = 0
        for name, x in parameters.items():
            theirs = held_by(x) if is_dtensor(x) else Windows.runs(x.shape, [None] * x.ndim)
            shape, parts = rectangles(theirs)
            assert parts == rectangles(held[name])[1], (rank, name)
            elements += np.prod(shape)
        assert plan.rank(rank).elements == elements


def test_rectangles_are_those_of_an_order_of_cuts():
    """Of any axes in any order, as for DTensors."""
    rng = random.Random(1)
    for _ in range(60):
        mesh = Mesh.of({"a": rng.randint(1, 3), "b": rng.randint(1, 4), "c": rng.randint(1, 2)})
        shape = tuple(rng.randint(0, 9) for _ in range(rng.randint(1, 3)))
        axes = rng.sample(mesh.names, rng.randint(0, 3))
        splits = [Split(rng.randrange(len(shape)), (axis,)) for axis in axes]
        order = {
            dim: [mesh.names.index(s.axes[0]) for s in splits if s.dim == dim] for dim in range(len(shape))
        }
        for rank in range(mesh.size):
            place = mesh.coordinate(rank)
            assert mesh.rank(place) == rank
            assert regions.held(shape, splits, mesh, place) == in_order(shape, order, mesh.shape, place)


class Counting:
    """Stands in for a kernel."""

    def __init__(self):
        self.launches = []

    def __getitem__(self, grid):
        return lambda *arguments, **options: self.launches.append((grid[0], options))


# Elements that a program of each kernel computes.
COMPUTED = {
    "table_kernel": lambda options: 4 * options["COUNTERS"],
    "rows_table_kernel": lambda options: options["GROUPS"] * options["WIDTH"],
    "scattered_kernel": lambda options: 4 * options["PLACES"],
}


@pytest.fixture
def counted(monkeypatch):
    """(launches, random elements computed) by Triton's launcher, whose kernels only count."""
    from tritoninit.kernels import triton_kernels

    kernels = {name: Counting() for name in (*COMPUTED, "run_kernel", "rows_kernel")}
    for name, kernel in kernels.items():
        monkeypatch.setattr(triton_kernels, name, kernel)
    totals = Counter()

    def launched():
        found = {name: list(kernel.launches) for name, kernel in kernels.items()}
        for kernel in kernels.values():
            kernel.launches.clear()
        return found

    def fill_many(items):
        triton_kernels.fill_many(items)
        totals["launches"] += sum(map(len, launched().values()))
        for item in items:
            if item[1].distribution != "constant" and item[0].numel():
                triton_kernels.fill_many([item, item])  # as it is among others: by a table
                found = launched()
                twice = (grid * COMPUTED[name](options) for name in COMPUTED for grid, options in found[name])
                totals["computed"] += sum(twice) // 2

    backend = ti.Backend("counting", frozenset({"cpu"}), lambda _: None, lambda: fill_many)
    monkeypatch.setitem(registry._REGISTRY, "counting", backend)
    with ti.use_backend("counting"):
        yield totals


OTHERS = [
    Rule("*.q_proj.weight", ti.Orthogonal()),
    Rule("*.o_proj.weight", ti.Stacked((ti.Normal(), ti.TruncatedNormal(std=0.1), ti.Zeros()), axis=1)),
    Rule("*.k_proj.weight", ti.Stacked((ti.Orthogonal(), ti.ZeroRow(ti.Uniform(), 2)), axis=0)),
    Rule("*.gate_proj.weight", ti.Sparse(0.3)),
    Rule("model.embed_tokens.weight", ti.ZeroRow(ti.Normal(), 7)),
]


@pytest.mark.parametrize("axes", ["dp=8", "dp=3,tp=2", "tp=4"])
@pytest.mark.parametrize("rules", [RULES, [*OTHERS, *RULES]], ids=["plain", "others"])
def test_launches_and_draws_are_the_kernels(counted, axes, rules):
    plan = plan_mesh(small(), rules, mesh=axes, dtype=torch.bfloat16)
    for rank, model in engines(axes):
        counted.clear()
        ti.initialize_(model, rules, seed=0, device="cpu", dtype=torch.bfloat16)
        assert plan.launches[rank] == counted["launches"], rank
        if rules is RULES:
            assert plan.computed[rank] == counted["computed"], rank


def test_shards_take_no_more_launches_than_the_model():
    whole = plan_mesh(small(), RULES, mesh="dp=1")
    assert whole.launches.tolist() == [2]
    assert plan_mesh(small(), RULES, mesh="fsdp=8").launches.max() <= 4  # by how memory lies


def test_structured_initializers_build_more_than_they_keep():
    layer = on_meta(nn.Linear, 8, 12, bias=False)
    plan = plan_mesh(layer, [Rule("weight", ti.Orthogonal())], mesh="dp=4")
    assert plan.rank(0).in_vain == 96 - 24
    assert "builds the whole of weight" in plan.remarks[0]


@pytest.mark.parametrize(
    ("initializer", "fills", "whole"),
    [(ti.Orthogonal(), 1, True), (ti.Sparse(0.3), 2, True), (ti.Eye(), 1, False)],
    ids=str,
)
def test_experts_that_are_built_one_by_one(counted, initializer, fills, whole):
    """A rank builds those that it has parts of, each once, however many parts that are, or those parts."""
    block = nn.Module()
    block.weight = nn.Parameter(torch.empty(6, 8, 12))
    rules = [Rule("weight", ti.Experts(initializer))]
    plan = plan_mesh(block, rules, mesh="ep=2,dp=2", layout=Layout({"weight": "0@ep,1/2@dp"}))
    for rank in range(4):
        windows = plan.held(rank)
        assert len(windows["weight"].rectangles) == 2
        part = nn.Module()
        part.weight = nn.Parameter(torch.empty(windows["weight"].local_shape))
        counted.clear()
        ti.initialize_(part, rules, seed=0, windows=windows)
        times = 1 if isinstance(initializer, ti.Orthogonal) else 3 if whole else 6  # those are drawn together
        assert plan.launches[rank] == counted["launches"] == times * fills
        assert plan.rank(rank).in_vain == (144 if whole else 0)
    assert [("of each weight that it has a part of in weight" in each) for each in plan.remarks] == [
        True
    ] * whole


def test_parameters_of_other_initializers_are_no_group():
    """Numbers in names do not make a layer's bias and a normalisation's alike."""
    model = on_meta(lambda: nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(4, 6)))
    layout = plan_mesh(model, mesh="dp=2").as_dict()["layout"]
    found = {each["names"]: each["initializer"] for each in layout}
    assert found["1.bias"] == "Zeros"
    assert found["{0,2}.bias"].startswith("Uniform")


def test_experts():
    """Stacked, in fewer parts than ranks; what is none of them is cut over both axes."""
    plan = plan_mesh(mixture(), LARGE["moe-1t"].rules, mesh="dp=4,ep=3,tp=2")
    cuts = {each.name.partition("layers.0.")[2] or each.name: str(each.placement) for each in plan.parameters}
    assert cuts["mlp.experts.gate_up_proj"] == "0@ep,1/2@tp,1@dp"
    assert cuts["mlp.experts.down_proj"] == "0@ep,2@tp,1@dp"
    assert cuts["mlp.gate.weight"] == "0@dp*ep"
    assert cuts["self_attn.q_proj.weight"] == "0@tp,0@dp*ep"
    assert plan.faults == []
    assert "fully_shard cuts unevenly" in plan.remarks[0]
    gates = plan.held(1)["model.layers.0.mlp.experts.gate_up_proj"]
    assert [each.window.offsets[1] for each in gates.rectangles] == [19]
    last = plan.held(18)[
        "model.layers.0.mlp.experts.gate_up_proj"
    ]  # of 19 gates and 19 factors rows 30 to 38
    assert [each.window.offsets[1] for each in last.rectangles] == [37 + 30 - 19]


def test_experts_that_are_modules():
    block = nn.Module()
    block.experts = on_meta(lambda: nn.ModuleList(nn.Linear(4, 6) for _ in range(5)))
    plan = plan_mesh(block, mesh="ep=2,replicate=2")
    assert plan.faults == []
    assert [sorted(name[8] for name in plan.held(rank) if "bias" in name) for rank in (0, 2)] == [
        ["0", "1", "2"],
        ["3", "4"],
    ]
    assert {each.proof.replicas for each in plan.parameters} == {(2, 2)}


def test_stages():
    """As torchtitan's: the embedding and the head count as a layer each. What is tied is in two stages."""
    deep = nn.Module()
    deep.embedding, deep.layers = nn.Embedding(3, 2), nn.ModuleList(nn.Linear(2, 2) for _ in range(126))
    deep.norm, deep.head = nn.LayerNorm(2), nn.Linear(2, 3)
    plan = plan_mesh(deep, mesh="pp=16")
    layers = [
        len({name.split(".")[1] for name in plan.held(k) if name.startswith("layers")}) for k in range(16)
    ]
    assert layers == [7, *[8] * 14, 7]
    assert "embedding.weight" in plan.held(0)
    assert {"norm.weight", "head.weight"} <= set(plan.held(15))
    plan = plan_mesh(on_meta(Llama, **SMALL, kv_heads=2), RULES, mesh="pp=2")
    assert all("model.embed_tokens.weight" in plan.held(stage) for stage in (0, 1))
    assert plan.parameters[0].proof.replicas == (2, 2)
    assert plan_mesh(nn.Sequential(*(nn.Linear(2, 2) for _ in range(4))), mesh="pp=2").faults == []


def test_gpt2():
    """Weights that are (in, out), and three side by side."""
    model = on_meta(GPT2, vocabulary=40, context=8, width=12, depth=2, heads=2)
    plan = plan_mesh(model, gpt2(2), mesh="tp=2")
    cuts = {each.name: str(each.placement) for each in plan.parameters}
    assert cuts["h.0.attn.c_attn.weight"] == "1/3@tp"
    assert cuts["h.0.attn.c_attn.bias"] == "0/3@tp"
    assert cuts["h.0.mlp.c_fc.weight"] == "1@tp"
    assert cuts["h.0.mlp.c_proj.weight"] == "0@tp"
    assert cuts["h.0.mlp.c_proj.bias"] == cuts["wpe.weight"] == "replicate"
    assert cuts["wte.weight"] == "0@tp"
    parts = plan.held(1)["h.0.attn.c_attn.weight"].rectangles
    assert [each.window.offsets[1] for each in parts] == [6, 18, 30]


class TestLayouts:
    def test_text(self):
        layout = Layout({"*.q_proj.weight": "1@dp*tp", "*norm*": "replicate", "*": "-1@tp, 0@dp"})
        plan = plan_mesh(small(), RULES, mesh="dp=2,tp=3", layout=layout)
        cuts = {each.name: str(each.placement) for each in plan.parameters}
        assert cuts["model.layers.1.self_attn.q_proj.weight"] == "1@dp*tp"
        assert cuts["model.norm.weight"] == "replicate"
        assert cuts["lm_head.weight"] == "1@tp,0@dp"
        assert plan.faults == []

    @pytest.mark.parametrize(
        ("axes", "layout", "message"),
        [
            ("dp", {}, "'dp' is not AXIS=SIZE"),
            ("dp=0", {}, "one rank or more"),
            ("dp=2,dp=2", {}, "different names"),
            ("d-p=2", {}, "different names"),
            ("dp=99999999", {}, "99,999,999 ranks"),
            ("dp=1.5", {}, "is not AXIS=SIZE"),
            ("x=2", {}, "what is the axis x for"),
            ("dpx=2", {}, "what is the axis dpx for"),
            ("dp=2", {"*.nothing": "0@dp"}, "nothing in the model matches '\\*.nothing'"),
            ("dp=2", {"*": "0@tp"}, "no axis 'tp'"),
            ("dp=2", {"*": "0@dp*dp"}, "no axis 'dp'"),
            ("dp=2", {"*": "dp"}, "'dp' is not DIM@AXIS"),
            ("dp=2", {"*": ""}, "'' is not DIM@AXIS"),
            ("dp=2", {"*": "0/0@dp"}, "cuts no dimension into parts"),
            ("dp=2", {"*": "1@dp"}, "cuts a dimension that \\(24,\\) does not have"),
            ("dp=2", {"lm_head.weight": "0/2@dp"}, "has no 2 equal parts along dimension 0"),
            ("pp=5", {}, "2 numbered layers for 5 stages"),
        ],
    )
    def test_what_makes_no_sense(self, axes, layout, message):
        with pytest.raises(ValueError, match=message):
            plan_mesh(small(), RULES, mesh=axes, layout=Layout(layout))

    def test_unknown_axes_may_cut_what_is_said(self):
        layout = Layout({"lm_head.weight": "0@x"})
        assert plan_mesh(small(), RULES, mesh="x=2", layout=layout).faults == []

    @pytest.mark.parametrize("name", ["layout.json", "layout.toml"])
    def test_files(self, tmp_path, name):
        path = tmp_path / name
        if name.endswith("json"):
            path.write_text(
                '{"mesh": {"pp": 2}, "shard": {"*": "replicate"}, "stages": {"lm_head.*": [0, 1]}}'
            )
        else:
            pytest.importorskip("tomllib")
            path.write_text('mesh = {pp = 2}\n[shard]\n"*" = "replicate"\n[stages]\n"lm_head.*" = [0, 1]\n')
        layout, mesh = read_layout(path)
        plan = plan_mesh(small(), RULES, mesh=mesh, layout=layout)
        assert "lm_head.weight" in plan.held(0)
        assert plan.faults == []

    @pytest.mark.parametrize(
        "text", ["", "[]", '{"shards": {}}', '{"shard": []}', '{"shard": {"*": 3}}', "[" * 9999]
    )
    def test_what_is_no_layout(self, tmp_path, text):
        path = tmp_path / "layout.json"
        path.write_text(text)
        with pytest.raises(ValueError, match=r"layout\.json"):
            read_layout(path)


class TestWrongLayouts:
    """They are found, and named."""

    def test_an_axis_that_cuts_twice(self):
        plan = plan_mesh(small(), RULES, mesh="dp=2", layout=Layout({"lm_head.weight": "0@dp,1@dp"}))
        assert plan.faults == [
            "lm_head.weight: no rank has [0:26, 12:24] of (51, 24)",
            "lm_head.weight: no rank has [26:51, 0:12] of (51, 24)",
        ]

    def test_an_axis_that_has_stages_and_cuts(self):
        plan = plan_mesh(small(), RULES, mesh="pp=2", layout=Layout({"lm_head.weight": "0@pp"}))
        assert plan.faults == ["lm_head.weight: no rank has [0:26, :] of (51, 24)"]

    @pytest.mark.parametrize("stage", [2, -1, [0, 2], "x", None, 0.5])
    def test_what_is_no_stage(self, stage):
        with pytest.raises((ValueError, TypeError), match="stage"):
            plan_mesh(small(), RULES, mesh="pp=2", layout=Layout(stages={"lm_head.weight": stage}))

    def test_in_no_stage(self):
        plan = plan_mesh(small(), RULES, mesh="pp=2", layout=Layout(stages={"lm_head.weight": []}))
        assert plan.faults == ["lm_head.weight: no rank has [:, :] of (51, 24)"]

    @pytest.mark.parametrize(
        ("low", "high", "fault"),
        [
            (1, 0, "no rank has [6:7, :] of (24,"),
            (-1, 0, "several ranks (0, 1) have [5:6, :] of (24,"),
            (0, -1, "no rank has [11:12, :] of (24,"),
            (0, 1, "several ranks (1, 2) have [12:13, :] of (24,"),
        ],
    )
    def test_mutants(self, monkeypatch, low, high, fault):
        """One rank's part of one parameter begins or ends an element further than it should."""
        right = regions.held

        def wrong(shape, splits, mesh, coordinate):
            windows = right(shape, splits, mesh, coordinate)
            if len(shape) != 2 or shape[0] != 24 or mesh.rank(coordinate) != 1:
                return windows
            ((start, _),), size = [each.window.offsets for each in windows.rectangles], windows.local_shape[0]
            return Windows.runs(shape, [[(start + low, start + size + high)], None])

        monkeypatch.setattr(regions, "held", wrong)
        faults = plan_mesh(small(), RULES, mesh="dp=4").faults
        assert len(faults) == 2 * 3  # queries, what follows them, and the last of the feed-forward layer
        assert all(each.partition(": ")[2].startswith(fault) for each in faults)
        assert "model.layers.0.self_attn.q_proj.weight" in faults[0]


def test_what_cannot_be_planned():
    with pytest.raises(ValueError, match="no rank 8 in a mesh of 8"):
        plan_mesh(small(), RULES, mesh="dp=8").rank(8)
    with pytest.raises(TypeError, match="a mesh is the sizes of its axes by name, not 8"):
        plan_mesh(small(), RULES, mesh=8)
    with pytest.raises(ValueError, match="no rule matches"):
        plan_mesh(nn.ParameterList([torch.zeros(3)]), [Rule(nn.Linear, ti.Zeros())], mesh="dp=2")
    with pytest.raises(ValueError, match=r"no GPU is called 'H1000'; known are A100 SXM"):
        plan_mesh(small(), RULES, mesh="dp=2", gpu="H1000")
    for mesh in meshes(2):
        model = nn.Linear(4, 4)
        fully_shard(model, mesh=mesh)
        with pytest.raises(ti.TargetError, match="plan the model before it is cut"):
            plan_mesh(model, mesh="dp=2")


def test_remarks():
    model = nn.Linear(4, 4)
    model.scale = nn.Parameter(torch.zeros(()))
    plan = plan_mesh(model, [Rule("scale", ti.Ones()), *ti.TORCH_DEFAULTS], mesh="dp=2,tp=2")
    assert [each.partition(" ")[0] for each in plan.remarks] == ["tp", "fully_shard"]


def test_seconds():
    """Bound by memory where all is stored that is computed, whichever dimension is cut."""
    layer = on_meta(nn.Linear, 4096, 4096, bias=False)
    rules = [Rule("weight", ti.Normal())]
    by_rows, by_columns = (
        plan_mesh(layer, rules, mesh="dp=2", layout=Layout({"weight": f"{dim}@dp"})) for dim in (0, 1)
    )
    assert by_rows.seconds[0] == pytest.approx(2**23 * 4 / (0.94 * 3350e9), rel=1e-6)
    assert by_rows.gpu == "H100 SXM"
    assert by_columns.seconds[0] == pytest.approx(by_rows.seconds[0], rel=0.3)
    assert by_columns.computed[0] == by_columns.stored[0]
    faster = plan_mesh(layer, rules, mesh="dp=2", gpu="b200")
    assert faster.seconds[0] < by_rows.seconds[0]
    everything = plan_mesh(
        layer, [replace(rules[0], initializers=ti.Ones())], mesh="dp=2", dtype=torch.float16
    )
    assert everything.rank(1).in_vain == 0
