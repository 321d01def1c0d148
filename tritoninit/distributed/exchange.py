"""The one way in which ranks talk to each other, and only where a caller asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

import torch

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")


class Failure(NamedTuple):
    """What a rank has in place of what it was to tell the others, who wait for it."""

    why: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        return cls(f"{type(error).__name__}: {error}")


def of_all_ranks(mine: T, group: ProcessGroup | None = None) -> list[T]:
    """What each rank of a process group has, all of which call this.

    By default the default group; without one, or outside of the group, ``[mine]``.
    """
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return [mine]
    if distributed.get_rank(group) < 0:
        return [mine]
    everyone: list[Any] = [None] * distributed.get_world_size(group)
    distributed.all_gather_object(everyone, mine, group=group)
    return cast(list[T], everyone)


def worked_out(work: Callable[[], T], group: ProcessGroup | None, doing: str) -> list[T]:
    """The same of what each rank works out, none of which waits for one that cannot.

    Raises:
        ValueError: another rank could not do what it was ``doing``; the same on all that could.
        Exception: what ``work`` raises here.
    """
    try:
        mine: T | Failure = work()
    except Exception as error:
        of_all_ranks(Failure.of(error), group)
        raise
    return succeeded(of_all_ranks(mine, group), group, doing)


def succeeded(everyone: list[T | Failure], group: ProcessGroup | None, doing: str) -> list[T]:
    """What all ranks have, unless the first of those that failed is to be told."""
    for number, each in zip(numbers_of(group), everyone, strict=True):
        if isinstance(each, Failure):
            raise ValueError(f"rank {number} cannot {doing} the model: {each.why}")
    return cast(list[T], everyone)


def numbers_of(group: ProcessGroup | None = None) -> list[int]:
    """By their places in :func:`of_all_ranks`, the numbers that ranks have in the default group."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return [0]
    if distributed.get_rank(group) < 0:
        return [distributed.get_rank()]
    return list(distributed.get_process_group_ranks(group))


def ranks_in_words(numbers: list[int]) -> str:
    """Who they are; of very many the first."""
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    if len(numbers) > 8:
        return f"ranks {', '.join(map(str, numbers[:7]))} and {len(numbers) - 7} more"
    return f"ranks {', '.join(map(str, numbers[:-1]))} and {numbers[-1]}"
