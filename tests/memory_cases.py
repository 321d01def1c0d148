"""Tensors without memory of their own, or with less than their shape says, and how they come to be."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree


class Wrapper(torch.Tensor):
    """Holds another tensor and says so to nobody, as its like do that came before __tensor_flatten__."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device=inner.device)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        args, kwargs = pytree.tree_map_only(Wrapper, lambda x: x.inner, (args, kwargs or {}))
        return pytree.tree_map_only(torch.Tensor, Wrapper, func(*args, **kwargs))


def fake(device: str = "cpu") -> torch.Tensor:
    with FakeTensorMode():
        return torch.zeros(4, 4, device=device)


def freed(x: torch.Tensor, size: int = 0) -> torch.Tensor:
    """As FSDP leaves parameters that it is not using."""
    x.untyped_storage().resize_(size)
    return x


def escaped(transform: Callable[..., Any]) -> torch.Tensor:
    """What a transformation of torch.func made of a tensor, kept for longer than it lasts."""
    kept: list[torch.Tensor] = []

    def loss(x):
        kept.append(x)
        return x.sum()

    transform(loss)(torch.zeros(2, 4, 4))
    return kept[0]


def swapped() -> torch.Tensor:
    plain, other = torch.zeros(4, 4), fake()
    torch.utils.swap_tensors(plain, other)
    return plain


# Each of at least (4, 4); by name, so that a run that ends in a signal says in which.
WITHOUT: dict[str, Callable[[], torch.Tensor]] = {
    "fake": fake,
    "fake view": lambda: fake()[1:],
    "fake, of another device": lambda: fake("cuda"),
    "fake, on meta": lambda: fake("meta"),
    "fake, by swapping": swapped,
    "wrapper": lambda: Wrapper(torch.zeros(4, 4)),
    "wrapper's view": lambda: Wrapper(torch.zeros(5, 4))[1:],
    "functionalised": lambda: escaped(torch.func.functionalize),
    "functionalised view": lambda: escaped(torch.func.functionalize)[1],
    "of vmap": lambda: escaped(torch.vmap),
    "of grad": lambda: escaped(torch.func.grad),
    "of vmap of grad": lambda: escaped(lambda f: torch.vmap(torch.func.grad(f))),
    "immutable zeros": lambda: torch._efficientzerotensor((4, 4)),
    "meta": lambda: torch.zeros(4, 4, device="meta"),
    "nested": lambda: torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(4, 3)]),
    "jagged": lambda: torch.nested.nested_tensor([torch.zeros(2, 3), torch.zeros(4, 3)], layout=torch.jagged),
    "quantised": lambda: torch.quantize_per_tensor(torch.zeros(4, 4), 0.1, 0, torch.qint8),
    "quantised by channel": lambda: torch.quantize_per_channel(
        torch.zeros(4, 4), torch.ones(4), torch.zeros(4), 0, torch.quint8
    ),
    "sparse": lambda: torch.eye(4).to_sparse(),
    "sparse rows": lambda: torch.eye(4).to_sparse_csr(),
    "mkldnn": lambda: torch.zeros(4, 4).to_mkldnn(),
}

SHORT: dict[str, Callable[[], torch.Tensor]] = {
    "freed": lambda: freed(torch.zeros(4, 4)),
    "freed parameter": lambda: freed(nn.Parameter(torch.zeros(4, 4))),
    "freed view": lambda: freed(torch.zeros(8, 4)[4:]),
    "freed transpose": lambda: freed(torch.zeros(4, 5).T),
    "too short": lambda: freed(torch.zeros(1024, 1024), 40),
    "too short by one": lambda: freed(torch.zeros(4, 4), 63),
    "too short for a view": lambda: freed(torch.zeros(2048, 1024)[1024:], 4096),
    "too short for strides": lambda: freed(torch.zeros(1024, 2048)[:, ::2].T, 1024 * 1024 * 4),
    "freed float64": lambda: freed(torch.zeros(1024, 1024, dtype=torch.float64)),
    "freed integers": lambda: freed(torch.zeros(1024, 1024, dtype=torch.int64), 8),
}
