"""The one way in which ranks talk to each other, and only where a caller asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

T = TypeVar("T")


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
