"""Whether ranks that hold the same elements hold the same bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from tritoninit.auditing.fingerprint import bits_hash
from tritoninit.auditing.reading import check_readable
from tritoninit.auditing.shares import CUT_TWICE, Place, are_apart
from tritoninit.distributed.exchange import numbers_of, ranks_in_words, worked_out
from tritoninit.distributed.held import local_of, readable
from tritoninit.models.scopes import Names, Scope
from tritoninit.models.slots import Slot, slots
from tritoninit.targets import LostError, dtype_name
from tritoninit.window import Window
from tritoninit.windows import Windows

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup


@dataclass(frozen=True)
class _Part:
    """What a rank holds of a tensor.

    Attributes:
        shape: of the global tensor.
        dtype: its name.
        counts: whether it is a parameter, of which the fingerprint is.
        hashes: by place, salted with the name.
        unreadable: why there are none; "" if there are.
    """

    shape: tuple[int, ...]
    dtype: str
    counts: bool
    hashes: dict[Place, int]
    unreadable: str = ""


def verify(
    model: nn.Module,
    *,
    group: ProcessGroup | None = None,
    prefix: Names = "",
    windows: Mapping[str, Window | Windows] | None = None,
) -> str:
    """Compare what all ranks hold of a model: replicas have to have equal bits.

    Every rank hashes what it holds, without a copy, and one all-gather of the hashes tells them all. Of a
    DTensor, ranks that hold the same rectangle are replicas; a plain tensor is one on every rank that has its
    name, unless ``windows`` say which part it is. Buffers count like parameters.

    Args:
        model: any module, whose tensors have memory. All ranks of the group have to call this.
        group: the ranks to compare; by default the default process group. A rank outside of it, or without
            any, compares with nobody.
        prefix: as :func:`~tritoninit.initialize_` has it.
        windows: likewise.

    Returns:
        16 hexadecimal digits: the fingerprint of the one model that the ranks hold together, which is that of
        the audit of a single process's (:attr:`Audit.fingerprint`); where the ranks of the group hold a part
        of the model, as one stage of a pipeline does, of that part.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: a window is of nothing in the model; or replicas differ, or have no memory to look at,
            which is told by names and ranks, the same on all ranks; or another rank raised.
    """

    def mine() -> dict[str, _Part]:
        return dict(_parts(model, Scope(prefix, {} if windows is None else windows)))

    everyone = worked_out(mine, group, "look at")
    numbers = numbers_of(group)
    names = dict.fromkeys(name for parts in everyone for name in parts)
    wrong = [line for name in names for line in _differences(name, everyone, numbers)]
    if wrong:
        raise ValueError("; ".join(wrong))
    total = 0
    for name in names:
        held: dict[Place, int] = {}
        for parts in everyone:
            if name in parts and parts[name].counts:
                held |= parts[name].hashes
        total += sum(held.values())
    return f"{total % 2**64:016x}"


def _parts(model: nn.Module, scope: Scope) -> Iterator[tuple[str, _Part]]:
    for slot in slots(model, scope):
        x = slot.memory
        shape = () if nn.parameter.is_lazy(x) or x.is_nested else slot.shape
        try:
            if slot.shard is not None and slot.shard.is_unknown:
                raise LostError(slot.shard.trouble)
            check_readable(local_of(x))
            hashes, unreadable = dict(_hashes(slot, x)), ""
        except ValueError as error:
            hashes, unreadable = {}, str(error)
        yield slot.name, _Part(shape, dtype_name(x), not slot.is_buffer, hashes, unreadable)


def _hashes(slot: Slot, x: Tensor) -> Iterator[tuple[Place, int]]:
    for part, window in readable(x, slot.windows).parts:
        assert isinstance(part, torch.Tensor)  # of a tensor's memory
        yield (window.offsets, tuple(part.shape)), bits_hash(part, window=window, salt=slot.name)


def _differences(name: str, everyone: list[dict[str, _Part]], numbers: list[int]) -> Iterator[str]:
    """What is wrong with a tensor, by the ranks that are not as the first of those that hold the same."""
    first: _Part | None = None
    known: dict[Place, tuple[int, int]] = {}
    others: dict[tuple[str, int], list[int]] = {}
    for number, parts in zip(numbers, everyone, strict=True):
        part = parts.get(name)
        if part is None:
            continue
        first = first or part
        if part.unreadable:
            others.setdefault((f"cannot be looked at: {part.unreadable}", -1), []).append(number)
        elif (part.shape, part.dtype) != (first.shape, first.dtype):
            what = f"is {part.dtype} of {part.shape} where others have {first.dtype} of {first.shape}"
            others.setdefault((what, -1), []).append(number)
        else:
            for place, value in part.hashes.items():
                holder, before = known.setdefault(place, (number, value))
                if before != value:
                    others.setdefault(("is not what it is", holder), []).append(number)
    if not (others or are_apart(known)):
        others[CUT_TWICE, -1] = [n for n, parts in zip(numbers, everyone, strict=True) if name in parts]
    for (what, holder), ranks in others.items():
        whom = f" on rank {holder}" if holder >= 0 else ""
        yield f"{name} on {ranks_in_words([*dict.fromkeys(ranks)])} {what}{whom}"
