"""Launching again what was compiled: the same arguments in the same places, and only where the like fits."""

import inspect

import pytest
import torch

import tritoninit as ti
from tests.kernels.kernel_cases import make_draw
from tritoninit.kernels.stream import Alike, Draw

pytest.importorskip("triton")
from tritoninit.kernels import triton_kernels, triton_launch


class Compiled:
    """Stands in for what Triton compiled, of which nothing is asked but to be launched."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        def launch(*arguments):
            self.kernel.again.append(
                (grid, inspect.signature(self.kernel.function).bind(*arguments).arguments)
            )

        return launch


class Kernel:
    """Stands in for a kernel of Triton's, and notes what is launched."""

    def __init__(self, kernel):
        self.function, self.first, self.again = kernel.fn, [], []

    def __getitem__(self, grid):
        def launch(*arguments, **named):
            options = {name: named.pop(name) for name in ("num_warps", "enable_fp_fusion")}
            bound = inspect.signature(self.function).bind(*arguments, **named).arguments
            self.first.append(((*grid, 1, 1), bound, options))
            return Compiled(self)

        return launch


@pytest.fixture
def kernels(monkeypatch):
    monkeypatch.setattr(triton_launch, "_COMPILED", {})
    monkeypatch.setattr(triton_launch.triton, "JITFunction", Kernel)
    monkeypatch.setattr(triton_launch, "CompiledKernel", Compiled)
    names = ("run_kernel", "double_run_kernel", "table_kernel")
    found = {name: Kernel(getattr(triton_kernels, name)) for name in names}
    for name, kernel in found.items():
        monkeypatch.setattr(triton_kernels, name, kernel)
    return found


def plain(bound):
    """Without what differs though it is the same memory."""
    return {name: x.data_ptr() if isinstance(x, torch.Tensor) else x for name, x in bound.items()}


DTYPES = [torch.float32, torch.bfloat16, torch.float64, torch.float8_e5m2]
KINDS = [(dtype, False) for dtype in DTYPES] + [(torch.bfloat16, True), (torch.float8_e5m2, True)]


@pytest.mark.parametrize(("dtype", "stochastic"), KINDS)
@pytest.mark.parametrize("distribution", ["normal", "uniform", "truncated", "constant"])
@pytest.mark.parametrize("start", [0, 5, 2**40 + 3])
def test_one_tensor(kernels, dtype, stochastic, distribution, start):
    kernel = kernels["double_run_kernel" if dtype == torch.float64 else "run_kernel"]
    tensor = torch.zeros(5000).to(dtype)
    draw = make_draw(distribution, str(dtype).removeprefix("torch."), start, (1,))
    draw = draw._replace(stochastic=stochastic and distribution != "constant")
    triton_kernels.fill(tensor, draw)
    triton_kernels.fill(tensor, draw)
    ((grid, bound, options),), ((grid_again, bound_again),) = kernel.first, kernel.again
    assert grid == grid_again
    assert plain(bound) == plain(bound_again)
    assert list(bound_again) == list(inspect.signature(kernel.function).parameters)  # every one, in order
    assert options == {"num_warps": triton_kernels.NUM_WARPS, "enable_fp_fusion": False}


def test_what_decides_is_compiled_apart(kernels):
    """Dtype, distribution, the place in the stream, and where the memory begins; no number does."""
    memory = torch.zeros(64)
    normal = make_draw("normal", "float32", 0, (1,))
    kinds = [
        (memory[:32], normal),
        (memory[1:32], normal),
        (memory[:32], normal._replace(start=1)),
        (memory[:32], make_draw("uniform", "float32", 0, (1,))),
        (memory[:32].bfloat16(), make_draw("normal", "bfloat16", 0, (1,))),
        (memory[:32].bfloat16(), make_draw("normal", "bfloat16", 0, (1,))._replace(stochastic=True)),
    ]
    for tensor, draw in kinds:
        triton_kernels.fill(tensor, draw)
    assert len(kernels["run_kernel"].first) == len(kinds)
    assert not kernels["run_kernel"].again
    for number in (0, 2**63, 2**64 - 1):
        triton_kernels.fill(memory[4:20], Draw("normal", (7.0, 3.0), number, number, 32, (1,)))
    assert len(kernels["run_kernel"].first) == len(kinds)
    assert len(kernels["run_kernel"].again) == 3


def test_many_tensors(kernels):
    table = kernels["table_kernel"]
    items = [(torch.zeros(100 + k), make_draw("normal", "float32", 0, (1,))) for k in range(3)]
    triton_kernels.fill_many(items)
    triton_kernels.fill_many(items)
    ((grid, bound, _),), ((grid_again, bound_again),) = table.first, table.again
    assert grid == grid_again
    bound.pop("table"), bound_again.pop("table")
    assert bound == bound_again


@pytest.mark.parametrize("shifts", [(0, 0, 0), (0, 1, 1), (1, 1, 1), (0, 0, 1), (1, 0, 0)])
@pytest.mark.parametrize("shapes", [((3, 4), (5,), (2, 3, 7)), ((40, 70),) * 3])
def test_alike_are_as_one_by_one(shifts, shapes):
    """Of several shapes, on 16 bytes' grid or beside it: the same rows of the same launches, or alone."""
    memory = torch.zeros(3, 4096)
    sizes = [torch.Size(shape).numel() for shape in shapes]
    targets = [
        row[shift : shift + size].view(shape)
        for row, shift, size, shape in zip(memory, shifts, sizes, shapes, strict=True)
    ]
    draw = make_draw("normal", "float32", 0, targets[0].stride())
    alike = Alike(targets, draw, [5, 5, 2**64 - 1], [7, 2**63, 9])
    assert [each.strides for _, each in alike.items()] == [x.stride() for x in targets]

    def found(items, alike):
        groups, alone = triton_kernels._group(items, alike, triton_kernels.COUNTERS)
        rows = {
            group: sorted(
                row.tobytes() for row in triton_kernels._table(runs, 2048, 1)[0][["origin", "stop", "seed"]]
            )
            for group, runs in groups.items()
        }
        return rows, [(x.data_ptr(), each) for x, each in alone]

    assert found([], [alike]) == found(alike.items(), [])


def test_what_stands_for_a_kernel_is_asked_each_time(kernels, monkeypatch):
    """As one that counts launches does."""
    calls = []

    class Counting:
        def __getitem__(self, grid):
            return lambda *arguments, **options: calls.append(grid) or Compiled(None)

    monkeypatch.setattr(triton_kernels, "run_kernel", Counting())
    for _ in range(3):
        triton_kernels.fill(torch.zeros(8), make_draw("normal", "float32", 0, (1,)))
    assert len(calls) == 3


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_bits_on_a_gpu(dtype):
    """First, again, on another stream, from memory that is not aligned: those of the CPU."""
    for make in (ti.Normal(0.5, 2.0), ti.Uniform(-1.0, 1.0), ti.TruncatedNormal(std=0.02), ti.Constant(-0.0)):
        for begin, size in ((0, 1), (0, 4099), (1, 4099), (3, 70000)):
            expected = make(torch.empty(size, dtype=dtype), key=ti.Key(2**63 + 5, 7))
            memory = torch.full((begin + size,), torch.nan, dtype=dtype, device="cuda")
            for stream in (torch.cuda.current_stream(), torch.cuda.current_stream(), torch.cuda.Stream()):
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    make(memory[begin:].fill_(torch.nan), key=ti.Key(2**63 + 5, 7))
                stream.synchronize()
                found = memory[begin:].cpu()
                assert found.view(torch.uint8).equal(expected.view(torch.uint8))


@pytest.mark.gpu
def test_another_device_and_a_graph():
    draws = torch.empty(1000, device="cuda")
    ti.normal_(draws, key=ti.Key(1))  # compiled, and loaded
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        ti.normal_(draws, key=ti.Key(1))
    expected = draws.fill_(0).clone()
    graph.replay()
    assert not draws.equal(expected)
    assert draws.cpu().equal(ti.normal_(torch.empty(1000), key=ti.Key(1)))
    if torch.cuda.device_count() > 1:
        other = torch.empty(1000, device="cuda:1")
        assert ti.normal_(other, key=ti.Key(1)).cpu().equal(draws.cpu())
