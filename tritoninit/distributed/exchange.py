"""The one way in which ranks talk to each other, and only where a caller asks for it."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import torch

T = TypeVar("T")


def of_all_ranks(mine: T) -> list[T]:
    """What each rank of the default process group has, all of which call this; without one, ``[mine]``."""
    distributed = torch.distributed
    if not (distributed.is_available() and distributed.is_initialized()):
        return [mine]
    everyone: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, mine)
    return cast(list[T], everyone)
