"""How many launches a whole model takes on a GPU, without one: kernels that count instead of running."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import tritoninit as ti
from tests.distributed.ranks import meshes, rank
from tritoninit import Backend, registry
from tritoninit.plan import Step, _batches
from tritoninit.presets import PRESETS

pytest.importorskip("triton")


class Counting:
    """Stands in for a kernel."""

    def __init__(self):
        self.launches = 0

    def __getitem__(self, grid):
        return self.launch

    def launch(self, *arguments, **options):
        self.launches += 1


@pytest.fixture
def kernels(monkeypatch):
    """Triton's launcher as the CPU's backend, with kernels that only count; so do the integers' zeros."""
    from tritoninit.kernels import triton_kernels

    names = ("run_kernel", "scattered_kernel", "table_kernel", "rows_kernel", "rows_table_kernel")
    counting = {name: Counting() for name in (*names, "_foreach_zero_")}
    for name in names:
        monkeypatch.setattr(triton_kernels, name, counting[name])
    monkeypatch.setattr(torch, "_foreach_zero_", counting["_foreach_zero_"].launch)
    backend = Backend("counting", frozenset({"cpu"}), lambda _: None, lambda: triton_kernels.fill_many)
    monkeypatch.setitem(registry._REGISTRY, "counting", backend)
    with ti.use_backend("counting"):
        yield counting


def counts(kernels):
    return {name: kernel.launches for name, kernel in kernels.items() if kernel.launches}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt2", {"table_kernel": 2}),  # constants; normals of two deviations
        ("llama-3.2-1b", {"table_kernel": 2}),
        ("llama-3-8b", {"table_kernel": 2}),
        ("resnet-50", {"table_kernel": 3, "_foreach_zero_": 1}),  # the head is uniform; counters of batches
        ("vit-b-16", {"table_kernel": 3, "run_kernel": 1}),  # the patches alone are truncated
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_presets(kernels, name, expected, dtype):
    if name == "llama-3-8b" and dtype == torch.float32:
        pytest.skip("32 GB, though of memory that nothing touches")
    preset = PRESETS[name]
    with torch.device("meta"):
        model = preset.build()
    ti.initialize_(model, preset.rules, seed=0, device="cpu", dtype=dtype)
    assert counts(kernels) == expected  # the limit is eight


def test_torch_defaults(kernels):
    """Five distributions and integers: six launches, whatever the number of layers."""
    layers = [
        nn
        for _ in range(20)
        for nn in (
            torch.nn.Conv2d(3, 4, 3),
            torch.nn.BatchNorm2d(4),
            torch.nn.Embedding(5, 6, padding_idx=1),
            torch.nn.LSTM(3, 4),
        )
    ]
    ti.initialize_(torch.nn.ModuleList(layers), seed=0)
    assert counts(kernels) == {"table_kernel": 3, "_foreach_zero_": 1}


TENSOR_PARALLEL = {
    "model.embed_tokens": ColwiseParallel(),
    **{f"model.layers.*.self_attn.{name}_proj": ColwiseParallel() for name in "qkv"},
    "model.layers.*.self_attn.o_proj": RowwiseParallel(),
    **{f"model.layers.*.mlp.{name}_proj": ColwiseParallel() for name in ("gate", "up")},
    "model.layers.*.mlp.down_proj": RowwiseParallel(),
}


@pytest.mark.parametrize("shards", [(2, 2), (2, 3)], ids=["even", "uneven"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_sharded_model(kernels, shards, dtype):
    """FSDP2 over tensor parallelism: one launch more than the whole model takes, for all that is cut."""
    preset = PRESETS["llama-3.2-1b"]
    with torch.device("meta"):
        model = preset.build()
    last = shards[0] * shards[1] - 1
    with rank(last, last + 1):
        mesh = init_device_mesh("cpu", shards, mesh_dim_names=("dp", "tp"))
        parallelize_module(model, mesh["tp"], TENSOR_PARALLEL)
        fully_shard(model, mesh=mesh["dp"])
        ti.initialize_(model, preset.rules, seed=0, device="cpu", dtype=dtype)
    assert counts(kernels) == {"table_kernel": 2, "rows_table_kernel": 1}


def test_windows_of_a_model(kernels):
    """Cut along their last dimension at any offset: a launch of what 16-byte stores fit, one of the rest."""
    plan = ti.Plan()
    for k in range(40):
        window = ti.Window((64, 1000), (0, 4 * k))
        plan.add(torch.empty(64, 100 + k), ti.Normal(), ti.Key(k), window)
        plan.add(
            torch.empty(64, 64), ti.Normal(std=0.02), ti.Key(k), ti.Window((64, 1024), (0, 64 * (k % 9)))
        )
    plan.run()
    assert counts(kernels) == {"rows_table_kernel": 2}


def test_rectangles_side_by_side_go_together(kernels):
    """A window's rectangles lie among each other in memory, and share none of it."""
    plan = ti.Plan()
    for k in range(10):
        windows = ti.Windows.runs((64, 1000), [None, [(500, 600), (0, 100), (300, 340)]])
        plan.add(torch.empty(windows.local_shape), ti.Normal(), ti.Key(k), windows)
        windows = ti.Windows.runs((4, 20, 64), [None, [(12, 20), (0, 8)], None])
        plan.add(torch.empty(windows.local_shape), ti.Normal(), ti.Key(k), windows)
    plan.run()
    assert counts(kernels) == {"rows_table_kernel": 1}


@pytest.mark.parametrize(
    "parts",
    [
        lambda x: (x[:, :5], x[:, 4:]),
        lambda x: (x[:, 3:], x[:, :2], x[:, 1:3]),
        lambda x: (x[::2], x[1::2, :5], x[1::2, 3:]),
        lambda x: (x[:, :4], x.flatten()[2:4]),
        lambda x: (x.flatten()[::3], x.flatten()[1::3], x.flatten()[::4]),
        lambda x: (x[:, :5].T, x.flatten()[60:]),
    ],
)
def test_what_shares_memory_is_told_from_what_lies_beside(parts):
    """In order: what the last of them writes stays."""
    x, expected = torch.zeros(8, 8), torch.zeros(8, 8)
    plan = ti.Plan()
    for k, (part, same) in enumerate(zip(parts(x), parts(expected), strict=True)):
        plan.add(part, ti.Normal(), ti.Key(k))
        ti.normal_(same, key=ti.Key(k))
    assert sum(1 for _ in _batches(plan.steps)) == 2
    plan.run()
    assert x.equal(expected)


@given(
    st.lists(
        st.tuples(
            st.integers(0, 20),
            st.lists(st.integers(1, 4), min_size=2, max_size=2),
            st.sampled_from([(8, 1), (1, 8), (6, 1), (8, 2), (16, 8), (12, 3), (9, 2)]),
        ),
        max_size=6,
    )
)
def test_a_batch_writes_no_element_twice(views):
    """Of any views of one memory."""
    memory = torch.arange(128.0)
    plan = ti.Plan()
    for offset, shape, strides in views:
        view = memory.as_strided(shape, strides, offset)
        if view.unique().numel() == view.numel():
            plan.steps.append(Step(view, ti.Normal(), None, None))
    for batch in _batches(plan.steps):
        elements = torch.cat([step.target.flatten() for step in batch]) if batch else memory
        assert elements.unique().numel() == elements.numel()


def test_what_overlaps_is_launched_in_order(kernels):
    plan, x = ti.Plan(), torch.empty(64)
    for tensor in (x, x[:32], x[32:], torch.empty(8)):
        plan.add(tensor, ti.Normal(), ti.Key(0))
    plan.run()
    assert counts(kernels) == {"run_kernel": 1, "table_kernel": 1}


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(96, 32, padding_idx=1)
        self.column = torch.nn.Linear(32, 64)
        self.row = torch.nn.Linear(64, 32)
        self.norm = torch.nn.LayerNorm(32)
        self.qkv_proj = torch.nn.Linear(32, 96, bias=False)


def blocks(device="cpu"):
    with torch.device(device):
        return torch.nn.Sequential(*(Block() for _ in range(4)))


def sharded(mesh, row_parallel):
    """FSDP2 of tensor-parallel weights."""
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    model = blocks("meta")
    plan = {"embedding": RowwiseParallel(), "column": ColwiseParallel(), "qkv_proj": ColwiseParallel()}
    plan |= {"row": RowwiseParallel()} if row_parallel else {}
    for each in model:
        parallelize_module(each, mesh["b"], plan, src_data_rank=None)
        fully_shard(each, mesh=mesh["a"])
    return model


def launches(kernels, *arguments, **keywords):
    for kernel in kernels.values():
        kernel.launches = 0
    ti.initialize_(*arguments, seed=0, **keywords)
    return counts(kernels)


def test_a_rank_takes_no_more_launches_than_a_process_alone(kernels):
    """But for rows that are cut, one each, and for uneven shards, which no 16 bytes fit."""
    alone = launches(kernels, blocks())
    for mesh in meshes(2, 2):
        assert launches(kernels, sharded(mesh, False), device="cpu") == alone
        cut = launches(kernels, sharded(mesh, True), device="cpu")
        assert sum(cut.values()) <= sum(alone.values()) + 4
    for mesh in meshes(3, 2):
        uneven = launches(kernels, sharded(mesh, False), device="cpu")
        assert sum(uneven.values()) <= 2 * sum(alone.values())
    windows = {
        "*.column.weight": ti.Window((128, 32), (64, 0)),
        "*.embedding.weight": ti.Window((192, 32), (96, 0)),
        "*.qkv_proj.weight": ti.Windows.runs((192, 32), [[(32, 64), (96, 128), (160, 192)], None]),
    }
    assert launches(kernels, blocks(), windows=windows) == alone
    windows["*.row.weight"] = ti.Window((32, 128), (0, 64))
    assert sum(launches(kernels, blocks(), windows=windows).values()) <= sum(alone.values()) + 4
