"""Every rank of a mesh, one after another, in one process: nothing that is tested here communicates."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh


def forget() -> None:
    """Forget what DTensors cache."""
    from torch.distributed.tensor import debug

    for name in ("_clear_python_sharding_prop_cache", "_clear_fast_path_sharding_prop_cache"):
        getattr(debug, name)()


@contextmanager
def rank(number: int, count: int) -> Iterator[None]:
    """This process is one of several, of which the others are not there."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    forget()  # equal meshes share what is cached for one, the coordinates of another rank among it
    dist.init_process_group("fake", rank=number, world_size=count, store=FakeStore())
    try:
        yield
    finally:
        dist.destroy_process_group()


def meshes(*shape: int) -> Iterator[DeviceMesh]:
    """The mesh as each of its ranks has it; its dimensions are called a, b, c."""
    for number in range(prod(shape)):
        with rank(number, prod(shape)):
            yield init_device_mesh("cpu", shape, mesh_dim_names=tuple("abcd"[: len(shape)]))


def numbered(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Each element is its own index in row-major order."""
    return torch.arange(prod(shape), dtype=dtype).reshape(shape)


def expected(whole: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """What a rank has of ``whole`` if it has these of :func:`numbered`."""
    return whole.reshape(-1)[numbers.reshape(-1).long()].reshape(numbers.shape)


def poison(x: torch.Tensor) -> torch.Tensor:
    """A DTensor with NaN throughout."""
    with torch.no_grad(), warnings.catch_warnings():
        x.to_local().fill_(torch.nan)
    return x
