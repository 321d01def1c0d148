"""What ranks tell each other before any of them writes, where a caller asks for it: what each plans."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from tritoninit.auditing.fingerprint import bits_hash
from tritoninit.distributed.exchange import Failure, numbers_of, of_all_ranks, ranks_in_words, succeeded

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

_STAGES = (
    "ranks that hold other parts of the model, as stages of a pipeline do, are asked in groups of their own"
)


class Planned(NamedTuple):
    """What a rank is about to do to one parameter or buffer, in words of which each is exact.

    Attributes:
        name: its qualified name.
        shape: the global one.
        dtype: that it has then.
        initializer: with all of its numbers (:func:`exactly`).
        seed: of its key; "" where nothing is drawn.
        stream: likewise.
    """

    name: str
    shape: str
    dtype: str
    initializer: str
    seed: str
    stream: str


class Agreement:
    """Has ranks agree before they write; in a block, of which an error reaches those who wait for this one.

    Args:
        ranks: those of the default process group (True), of another, or none (False), which costs nothing.

    Raises:
        TypeError: ``ranks`` is neither.
    """

    def __init__(self, ranks: bool | ProcessGroup) -> None:
        if not (isinstance(ranks, bool) or _is_group(ranks)):
            raise TypeError(f"check_ranks is True, False or a process group, not {ranks!r:.80}")
        self._pending = ranks is not False
        self._group = None if isinstance(ranks, bool) else ranks

    def __enter__(self) -> Agreement:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._pending and isinstance(error, Exception):
            of_all_ranks(Failure.of(error), self._group)

    def on(self, planned: Iterable[Planned]) -> None:
        """Raise unless all ranks plan the same.

        Raises:
            ValueError: some do not, or could not come this far; the same on all that did.
        """
        if not self._pending:
            return
        mine = list(planned)
        digest = hashlib.blake2b(repr(sorted(mine)).encode(), digest_size=16).hexdigest()
        self._pending = False
        told: list[str | Failure] = of_all_ranks(digest, self._group)
        digests = succeeded(told, self._group, "initialise")
        if len(set(digests)) == 1:
            return
        numbers = numbers_of(self._group)
        # Of those that agree one speaks, in the order of its model.
        speaks = digests.index(digest) == torch.distributed.get_rank(self._group)
        tables = of_all_ranks(mine if speaks else None, self._group)
        groups = [
            ([n for n, each in zip(numbers, digests, strict=True) if each == digests[k]], table)
            for k, table in enumerate(tables)
            if table is not None
        ]
        raise ValueError(_difference(groups))


def _is_group(x: object) -> bool:
    """Whether it is a process group, or what torch gives those that are outside of one."""
    distributed = torch.distributed
    if not distributed.is_available():
        return False
    return isinstance(x, distributed.ProcessGroup) or x is distributed.GroupMember.NON_GROUP_MEMBER


def _difference(groups: Sequence[tuple[list[int], Sequence[Planned]]]) -> str:
    """Where ranks first plan something else, and what."""
    tables = [{each.name: each for each in table} for _, table in groups]
    for name in dict.fromkeys(name for table in tables for name in table):
        found = [table.get(name) for table in tables]
        first = found[0]
        for (ranks, _), each in zip(groups, found, strict=True):
            if each == first:
                continue
            mine, others = ranks_in_words(groups[0][0]), ranks_in_words(ranks)
            if each is None or first is None:
                absent, there = (others, mine) if each is None else (mine, others)
                return f"ranks do not agree: {name} is in the model of {there}, not of {absent} ({_STAGES})"
            field = next(k for k in Planned._fields if getattr(each, k) != getattr(first, k))
            values = getattr(each, field), getattr(first, field)
            return (
                f"ranks do not agree: {name} is to have the {field} {values[0] or 'of none'} on {others} and"
                f" {values[1] or 'of none'} on {mine}; nothing was written"
            )
    raise AssertionError("tables that differ in nothing")


def exactly(x: Any) -> str:
    """A value in words that are equal on all ranks if it is, and on no others: arrays by their bits."""
    if isinstance(x, (torch.Tensor, np.ndarray)):
        return f"{type(x).__name__}({x.dtype}, {tuple(x.shape)}, {bits_hash(x):016x})"
    if is_dataclass(x) and not isinstance(x, type):
        inside = ", ".join(f"{each.name}={exactly(getattr(x, each.name))}" for each in fields(x))
        return f"{type(x).__qualname__}({inside})"
    if isinstance(x, Mapping):
        return f"{{{', '.join(f'{exactly(k)}: {exactly(v)}' for k, v in x.items())}}}"
    if isinstance(x, (list, tuple)):
        return f"[{', '.join(map(exactly, x))}]"
    if isinstance(x, (set, frozenset)):  # in an order that each process has for itself
        return f"{{{', '.join(sorted(map(exactly, x)))}}}"
    if isinstance(x, partial):
        return f"{exactly(x.func)}({exactly(x.args)}, {exactly(x.keywords)})"
    if callable(x):
        return str(getattr(x, "__qualname__", type(x).__qualname__))
    return re.sub(r" at 0x\w+", "", repr(x))
