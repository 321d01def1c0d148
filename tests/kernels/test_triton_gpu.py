"""The Triton kernels on a CUDA GPU: the reference's bits, and a launch's manners."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import transform_cases
import triton
from cut_cases import CUTS
from kernel_cases import (
    DTYPES,
    FILLS,
    LAYOUTS,
    SIZES,
    STARTS,
    WINDOWS,
    assert_fill_matches,
    assert_same_bits,
    contiguous,
    edge_draws,
    make_draw,
    permuted,
)
from many_cases import Case, assert_many_match, layouts_and_windows, runs

from tritoninit.kernels import lowering, reference, triton_kernels
from tritoninit.kernels.stream import Draw, row_major_strides

pytestmark = pytest.mark.gpu

MEMORY = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16}
every_fill = pytest.mark.parametrize(("name", "dtype"), [(name, dtype) for name in FILLS for dtype in DTYPES])


def bits_of(tensor: torch.Tensor) -> np.ndarray:
    signed = torch.int32 if tensor.dtype == torch.float32 else torch.int16
    unsigned = np.uint32 if tensor.dtype == torch.float32 else np.uint16
    return tensor.contiguous().view(signed).cpu().numpy().view(unsigned)


def expected_bits(size: int, dtype: str, draw: Draw) -> np.ndarray:
    out = np.empty(size, MEMORY[dtype])
    reference.fill_many([(out, dtype, draw)], threads=8)
    return out.view(np.uint32 if dtype == "float32" else np.uint16)


def poisoned(size: int, dtype: str, device: str = "cuda") -> torch.Tensor:
    return torch.full((size,), float("nan"), dtype=getattr(torch, dtype), device=device)


@every_fill
@pytest.mark.parametrize("size", [*SIZES, 10_000_019])
def test_sizes_and_starts(name, dtype, size):
    for start in STARTS if size < 10**6 else STARTS[:2]:
        draw = make_draw(name, dtype, start, (1,))
        assert_fill_matches(triton_kernels.fill, contiguous(size), dtype, draw, "cuda")


@every_fill
def test_layouts(name, dtype):
    for layout in LAYOUTS:
        for start in (0, 2**34 - 5):
            draw = make_draw(name, dtype, start, row_major_strides(layout.shape))
            assert_fill_matches(triton_kernels.fill, layout, dtype, draw, "cuda")


@every_fill
def test_windows(name, dtype):
    for window in WINDOWS:
        draw = make_draw(name, dtype, window.start, row_major_strides(window.global_shape))
        backwards = permuted("reversed", window.shape[::-1], tuple(range(len(window.shape)))[::-1])
        for layout in (contiguous(*window.shape), backwards):
            assert_fill_matches(triton_kernels.fill, layout, dtype, draw, "cuda")


@every_fill
def test_last_indices(name, dtype):
    for stop in (2**63 - 1, 2**63 - 4096, 2**63 - 4097):
        for size in (5, 4096, 5000):
            draw = make_draw(name, dtype, stop - size, (1,))
            assert_fill_matches(triton_kernels.fill, contiguous(size), dtype, draw, "cuda")


@every_fill
def test_block_size_changes_no_value(name, dtype):
    run, rows = contiguous(70_000), permuted("transposed", (170, 310), (1, 0))
    scattered = permuted("transposed", (5, 9310), (1, 0))
    draw, beside, placed = (make_draw(name, dtype, 3, strides) for strides in ((1,), (170, 1), (5, 1)))
    for size in (256, 512, 2048):
        assert_fill_matches(partial(triton_kernels.fill, counters=size), run, dtype, draw, "cuda")
        assert_fill_matches(partial(triton_kernels.fill, counters=size), rows, dtype, beside, "cuda")
        assert_fill_matches(partial(triton_kernels.fill, places=2 * size), scattered, dtype, placed, "cuda")


@every_fill
def test_edge_parameters(name, dtype):
    for draw in edge_draws(name, dtype):
        assert_fill_matches(triton_kernels.fill, contiguous(100_003), dtype, draw, "cuda")


# One transform at a time, over the whole domain. The GPU is fast enough for all of it; the reference takes
# seconds for each hundred million numbers, which makes three of these slow.


def test_philox():
    transform_cases.check_known_answers("cuda")
    transform_cases.check_boundaries("cuda")


@pytest.mark.slow
def test_every_radius():
    assert transform_cases.check_radii("cuda", every=1, block=1024) == 71_303_169


@pytest.mark.slow
def test_every_angle():
    assert transform_cases.check_sines("cuda", every=1, block=1024) == 2 * 67_108_865


@pytest.mark.slow
def test_logs_of_probability_products():
    compared = transform_cases.check_logs_of_products("cuda", every=8, block=1024)
    assert compared == 60 * 2**20 + 1


def test_box_muller_and_slope():
    transform_cases.check_box_muller("cuda")
    transform_cases.check_slopes("cuda")


# Tensors of more than 2**31 elements: 4 GiB of 16-bit numbers, 64-bit addresses.

BIG = 2**31 + 1024
PIECE = 4096


@pytest.fixture
def big() -> Iterator[torch.Tensor]:
    free, _ = torch.cuda.mem_get_info()
    if free < 2 * BIG + 2**30:
        pytest.skip(f"{BIG} 16-bit elements need 5 GiB of GPU memory: {free / 2**30:.1f} GiB are free")
    yield torch.full((BIG,), float("nan"), dtype=torch.bfloat16, device="cuda")
    torch.cuda.empty_cache()


def test_a_run_of_more_than_2_31_elements(big):
    draw = make_draw("normal", "bfloat16", 5, (1,))
    triton_kernels.fill(big, draw)
    assert not big.isnan().any()
    for begin in (0, 2**30 - 7, 2**31 + 512 - PIECE, BIG - PIECE):
        expected = expected_bits(PIECE, "bfloat16", make_draw("normal", "bfloat16", 5 + begin, (1,)))
        assert_same_bits(bits_of(big[begin : begin + PIECE]), expected, begin)


@pytest.mark.parametrize("columns", [5, 1024])
def test_a_transposed_fill_of_more_than_2_31_elements(big, columns):
    """By places and by rows: 64-bit divisions, and memory offsets beyond 2**31."""
    rows = BIG // columns
    tensor = big[: rows * columns].view(columns, rows).T
    triton_kernels.fill(tensor, make_draw("uniform", "bfloat16", 0, (columns, 1)))
    assert not tensor.isnan().any()
    count = PIECE // columns
    for row in (0, rows // 2 - 1, rows - count):
        as_run = make_draw("uniform", "bfloat16", row * columns, (1,))
        expected = expected_bits(count * columns, "bfloat16", as_run)
        assert_same_bits(bits_of(tensor[row : row + count]).reshape(-1), expected, row)


# A launch's manners.


@every_fill
def test_cuda_graph(name, dtype):
    """Captured and replayed: a fill allocates, synchronises and reads nothing on the host."""
    size = 100_000
    draw = make_draw(name, dtype, 3, (1,))
    tensor = poisoned(size, dtype)
    strided = torch.full((300, 200), float("nan"), dtype=tensor.dtype, device="cuda").T
    placed = make_draw(name, dtype, 3, row_major_strides(strided.shape))
    for target, what in ((tensor, draw), (strided, placed)):
        triton_kernels.fill(target, what)  # compiled, and loaded: neither can be captured
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        triton_kernels.fill(tensor, draw)
        triton_kernels.fill(strided, placed)
    for _ in range(2):
        tensor.fill_(float("nan"))
        strided.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        assert_same_bits(bits_of(tensor), expected_bits(size, dtype, draw))
        as_run = expected_bits(strided.numel(), dtype, placed._replace(strides=(1,)))
        assert_same_bits(bits_of(strided).reshape(-1), as_run)


def test_the_current_stream_is_used():
    """A poisoning comes before the fill on a stream that is busy for a while. Were the fill launched on
    another stream, it would run first, and be poisoned."""
    draw = make_draw("normal", "float32", 0, (1,))
    tensor = poisoned(1 << 20, "float32")
    triton_kernels.fill(tensor, draw)
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(200_000_000)  # about a tenth of a second
        tensor.fill_(float("nan"))
        triton_kernels.fill(tensor, draw)
    assert not side.query(), "the fill waited for the stream: it must not synchronise"
    side.synchronize()
    assert_same_bits(bits_of(tensor), expected_bits(1 << 20, "float32", draw))


def test_a_device_that_is_not_current():
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU here: a second device cannot be tried")
    draw = make_draw("normal", "float32", 0, (1,))
    tensor = poisoned(100_003, "float32", "cuda:1")
    assert torch.cuda.current_device() == 0
    triton_kernels.fill(tensor, draw)
    assert torch.cuda.current_device() == 0
    torch.cuda.synchronize(1)
    assert_same_bits(bits_of(tensor), expected_bits(100_003, "float32", draw))


@contextmanager
def compilations() -> Iterator[list[str]]:
    """The kernels that Triton compiles, or takes from its cache on disk, meanwhile."""
    compiled: list[str] = []
    with triton.knobs.compilation.scope():
        triton.knobs.compilation.listener = lambda *, src, **_: compiled.append(src.name)
        yield compiled


def test_new_seeds_and_bounds_do_not_compile():
    tensor, strided = poisoned(100_000, "float32"), poisoned(60_000, "float32").view(200, 300).T
    short = strided[:, :5]

    def fill(seed: int, stream: int, start: int, parameters: tuple[float, ...]) -> None:
        triton_kernels.fill(tensor, Draw("uniform", parameters, seed, stream, start, (1,)))
        triton_kernels.fill(strided, Draw("uniform", parameters, seed, stream, start, (200, 1)))
        triton_kernels.fill(short, Draw("uniform", parameters, seed, stream, start, (200, 1)))

    for function in (triton_kernels.run_kernel, triton_kernels.rows_kernel, triton_kernels.scattered_kernel):
        function.device_caches.clear()
    with compilations() as first:
        fill(3, 5, 32, lowering.uniform(-0.1, 0.3, "float32"))
    assert sorted(first) == ["rows_kernel", "run_kernel", "scattered_kernel"]  # the listener listens
    with compilations() as later:
        for seed in (0, 1, 16, 2**31, 2**32 - 1, 2**32, 2**64 - 1):
            for start in (0, 16, 2**31, 2**40):
                fill(seed, 2**64 - 1 - seed, start, lowering.uniform(-1 - seed % 7, 1 + seed % 3, "float32"))
    assert later == []


# Many tensors in few launches.


@pytest.mark.parametrize("tiles", [None, 1, 2, 3, 16])
def test_many_at_once(tiles):
    fill_many = partial(triton_kernels.fill_many, tiles_per_program=tiles)
    assert_many_match(fill_many, [*runs(), *layouts_and_windows()], "cuda")


@pytest.mark.parametrize("tiles", [None, 1, 3])
def test_many_cuts_at_once(tiles):
    """Rectangles whose last dimension is cut, by every fill."""
    fill_many = partial(triton_kernels.fill_many, tiles_per_program=tiles)
    cases = [Case(c.layout, dtype, c.draw(name, dtype)) for name in FILLS for dtype in DTYPES for c in CUTS]
    assert_many_match(fill_many, cases, "cuda")


def test_many_and_large():
    """Enough tiles that programs draw several each, by default."""
    assert_many_match(triton_kernels.fill_many, runs((1, 10_000_019, 4096)), "cuda")


def test_one_element_beside_more_than_2_31(big):
    large, rest = big[: 2**31 + 16], big[2**31 + 16 :]
    small = poisoned(3, "bfloat16")
    draw = make_draw("uniform", "bfloat16", 16, (1,))
    first, second = draw._replace(start=0), draw._replace(start=8)
    triton_kernels.fill_many([(small[1:2], second), (large, draw), (small[:1], first)])
    assert not large.isnan().any()
    assert rest.isnan().all()
    for begin in (0, 2**30 - 7, 2**31 + 16 - PIECE):
        expected = expected_bits(PIECE, "bfloat16", draw._replace(start=16 + begin))
        assert_same_bits(bits_of(large[begin : begin + PIECE]), expected, begin)
    assert_same_bits(bits_of(small[:1]), expected_bits(1, "bfloat16", first))
    assert_same_bits(bits_of(small[1:2]), expected_bits(1, "bfloat16", second))
    assert small[2].isnan()


class Counted:
    """A kernel that counts its launches."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.launches = 0

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*arguments: Any, **options: Any) -> None:
            self.launches += 1
            self.kernel[grid](*arguments, **options)

        return launch


Items = list[tuple[torch.Tensor, Draw]]


def model(tensors: int, seed: int = 0) -> Items:
    """float32 tensors of a thousand to a million elements, drawn from the five distributions in turn."""
    draws = [make_draw(name, "float32", 0, (1,)) for name in FILLS]
    sizes = np.random.default_rng(seed).integers(1000, 1_000_000, tensors)
    return [
        (poisoned(int(size), "float32"), draws[k % len(draws)]._replace(stream=seed + k))
        for k, size in enumerate(sizes)
    ]


def assert_filled(items: Items) -> None:
    for k, (tensor, draw) in enumerate(items):
        assert_same_bits(bits_of(tensor), expected_bits(tensor.numel(), "float32", draw), (k, draw))


def test_a_model_takes_five_launches(monkeypatch):
    items = model(161)
    kernels = {}
    for name in ("run_kernel", "table_kernel", "rows_kernel", "rows_table_kernel", "scattered_kernel"):
        kernels[name] = Counted(getattr(triton_kernels, name))
        monkeypatch.setattr(triton_kernels, name, kernels[name])
    triton_kernels.fill_many(items)
    launches = {name: kernel.launches for name, kernel in kernels.items()}
    assert launches.pop("table_kernel") == 5
    assert not any(launches.values())
    assert_filled(items)


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype:UserWarning")
def test_many_neither_synchronise_nor_leave_their_stream():
    """On a stream that is busy for a while, the host returns before the poisoning has run, let alone the copy
    of the table. A fill launched elsewhere would be poisoned after it."""
    items = model(40)
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        triton_kernels.fill_many(items)  # compiled, loaded, and the table's memory at hand
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.cuda.stream(side):
            torch.cuda._sleep(400_000_000)  # about a fifth of a second
            for tensor, _ in items:
                tensor.fill_(float("nan"))
            triton_kernels.fill_many(items)
            waiting = not side.query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert waiting, "the fill waited for the stream: it must not synchronise"
    side.synchronize()
    assert_filled(items)


def test_tables_of_several_streams_are_kept_until_read():
    """Fills queue behind two busy streams: no table's memory may be taken for the next before it was read."""
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    rounds = [model(12, seed) for seed in range(16)]
    triton_kernels.fill_many(model(12, 99))
    torch.cuda.synchronize()
    for stream in streams:
        with torch.cuda.stream(stream):
            torch.cuda._sleep(200_000_000)
    for k, items in enumerate(rounds):
        with torch.cuda.stream(streams[k % 2]):
            triton_kernels.fill_many(items)
    torch.cuda.synchronize()
    for items in rounds:
        assert_filled(items)


def test_many_in_a_cuda_graph():
    """Captured as launches without a table, whose memory would be gone when the graph is replayed."""
    items = model(10)
    for tensor, draw in items:
        triton_kernels.fill(tensor, draw)  # compiled, and loaded
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        triton_kernels.fill_many(items)
    for _ in range(2):
        for tensor, _ in items:
            tensor.fill_(float("nan"))
        triton_kernels.fill_many(model(10, 99))  # would write over a table that was given back
        graph.replay()
        torch.cuda.synchronize()
        assert_filled(items)


def test_many_on_two_devices():
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU here: a second device cannot be tried")
    items = model(20)
    items = [(tensor.to(f"cuda:{k % 2}"), draw) for k, (tensor, draw) in enumerate(items)]
    triton_kernels.fill_many(items)
    assert torch.cuda.current_device() == 0
    torch.cuda.synchronize(0)
    torch.cuda.synchronize(1)
    assert_filled(items)


def test_new_models_do_not_compile():
    triton_kernels.table_kernel.device_caches.clear()
    with compilations() as first:
        triton_kernels.fill_many(model(30))
    assert first == ["table_kernel"] * 5
    with compilations() as later:
        for seed in (1, 16, 2**31, 2**32 - 1):
            triton_kernels.fill_many(model(20 + seed % 7, seed))
    assert later == []
