"""A tensor's elements, wherever they lie, a piece at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from tritoninit.registry import Seen, resolve
from tritoninit.targets import TargetError, check_memory


def check_readable(x: Tensor) -> None:
    """Raise TargetError unless a tensor has elements in memory to look at."""
    if torch.nn.parameter.is_lazy(x):
        raise TargetError("a lazy parameter has no shape yet")
    if x.is_meta:
        raise TargetError("a meta tensor has no memory")
    if x.layout != torch.strided:
        raise TargetError(f"only strided tensors can be read, not {x.layout}")
    if hasattr(x, "__tensor_flatten__"):
        raise TargetError(f"a {type(x).__name__} holds other tensors: look at those")
    check_memory(x)


def pieces(x: Tensor, most: int) -> Iterator[tuple[int, Tensor]]:
    """The elements in row-major order, ``most`` at a time or fewer: (index of the first, 1-d piece).

    A piece is contiguous, a copy where the tensor is not. It lies on the tensor's device, or in host memory
    if that may lack 64-bit arithmetic. The first is no smaller than any other.
    """
    for begin, slab in _slabs(x.detach(), 0, most):
        piece = slab.reshape(-1).resolve_conj().resolve_neg()
        if piece.stride() != (1,):  # a single element counts as contiguous whatever its stride
            piece = piece.clone(memory_format=torch.contiguous_format)
        yield begin, piece if piece.device.type in ("cpu", "cuda") else piece.cpu()


class Constants:
    """Which of several tensors, by place, are one number throughout, and which; of one element, none is.

    They are looked at now; what was found is there to be iterated over. Their ends, of which most differ, are
    looked at first: of all tensors on a device together, since a device takes as long to tell of one. Where
    the device can look by itself, nobody waits for it until somebody asks.
    """

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        alike: dict[tuple[torch.device, torch.dtype], tuple[list[int], list[Tensor]]] = {}
        for place, x in enumerate(tensors):
            if x.numel() > 1:
                kind = x.device, x.dtype
                group = alike.get(kind)
                if group is None:
                    group = alike[kind] = [], []
                group[0].append(place)
                group[1].append(x)
        self._found = [
            (places, _seen(*kind, group)) for kind, (places, group) in alike.items() if not kind[1].is_complex
        ]

    def __iter__(self) -> Iterator[tuple[int, float]]:
        for places, found in self._found:
            numbers = found if isinstance(found, list) else found.numbers()
            yield from ((k, x) for k, x in zip(places, numbers, strict=True) if x is not None)


def _seen(device: torch.device, dtype: torch.dtype, group: Sequence[Tensor]) -> list[float | None] | Seen:
    """What tensors are throughout, or what will say so."""
    if device.type == "cuda" and dtype in _FLOATS and all(x.is_contiguous() for x in group):
        backend = resolve(device.type)
        if backend.look is not None and not torch.cuda.is_current_stream_capturing():
            return backend.look()(group)
    with torch.no_grad():
        ends = iter(torch.cat([_ends(x) for x in group]).tolist())
    pairs = zip(group, ends, ends, strict=True)
    return [
        float(first) if first == last and (x.detach() == first).all() else None for x, first, last in pairs
    ]


_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_TORCHS = (torch.nn.Parameter, Tensor)


def _ends(x: Tensor) -> Tensor:
    if x.is_contiguous():
        if type(x) in _TORCHS:
            return x.as_strided((2,), (x.numel() - 1,))
        return x.detach().view(-1)[:: x.numel() - 1]  # which more subclasses know
    return torch.stack([x[(0,) * x.dim()], x[(-1,) * x.dim()]])


def _slabs(x: Tensor, begin: int, most: int) -> Iterator[tuple[int, Tensor]]:
    if x.numel() <= most:
        if x.numel():
            yield begin, x
        return
    if x.is_contiguous():
        x = x.view(-1)
    row = x.numel() // x.shape[0]
    step = max(1, most // row)
    for first in range(0, x.shape[0], step):
        slab = x[first : first + step]
        yield from _slabs(slab if row <= most else slab[0], begin + first * row, most)
