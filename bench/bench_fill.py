"""One tensor filled: every backend here against torch.nn.init and against memset, on the device at hand.

Run ``make bench``; rows of one run are comparable. A backend is timed after its values were compared with
the reference's on this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import tritoninit
from tritoninit.bench.device import DEVICE, synchronised
from tritoninit.kernels import reference
from tritoninit.targets import as_array, dtype_name

ELEMENTS = 2**24
FILLS: dict[str, tuple[tritoninit.Fill, Callable[[torch.Tensor], Any]]] = {
    "uniform": (tritoninit.Uniform(-0.1, 0.1), lambda x: torch.nn.init.uniform_(x, -0.1, 0.1)),
    "normal": (tritoninit.Normal(0.0, 0.02), lambda x: torch.nn.init.normal_(x, 0.0, 0.02)),
    "truncated_normal": (
        tritoninit.TruncatedNormal(0.0, 0.02, -0.04, 0.04),
        lambda x: torch.nn.init.trunc_normal_(x, 0.0, 0.02, -0.04, 0.04),
    ),
}
BACKENDS = [b.name for b in tritoninit.backends() if b.available and DEVICE in b.devices]
KEY = tritoninit.Key(0)


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def assert_equals_reference(fill: tritoninit.Fill, tensor: torch.Tensor) -> None:
    plan = tritoninit.Plan()
    draw = plan.add(tensor, fill, KEY).draw
    plan.run()
    expected = torch.empty(tensor.shape, dtype=tensor.dtype)
    reference.fill(as_array(expected), dtype_name(tensor), draw)
    assert torch.equal(tensor.cpu(), expected)


@pytest.mark.parametrize("threads", [1, 2], indirect=True, ids="threads={}".format)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16], ids=lambda d: str(d).removeprefix("torch.")
)
@pytest.mark.parametrize("name", FILLS)
@pytest.mark.parametrize("contender", [*BACKENDS, "torch", "memset"])
def bench_fill(benchmark: Any, contender: str, name: str, dtype: torch.dtype, threads: int) -> None:
    ours, theirs = FILLS[name]
    tensor = torch.zeros(
        ELEMENTS, dtype=dtype, device=DEVICE
    )  # written once, so that no page faults are timed
    benchmark.group = f"{name} {dtype_name(tensor)} threads={threads}"
    benchmark.extra_info.update(
        contender=contender,
        distribution=name,
        dtype=dtype_name(tensor),
        elements=ELEMENTS,
        bytes=tensor.nbytes,
        threads=threads,
        device=DEVICE,
    )
    if contender in ("torch", "memset"):
        call = tensor.zero_ if contender == "memset" else lambda: theirs(tensor)
        benchmark.pedantic(synchronised(call), rounds=9, warmup_rounds=1)
        return
    with tritoninit.use_backend(contender):
        assert_equals_reference(ours, tensor[: 2**20])
        benchmark.pedantic(synchronised(lambda: ours(tensor, key=KEY)), rounds=9, warmup_rounds=1)
