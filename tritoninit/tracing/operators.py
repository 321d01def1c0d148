"""Which operator sets what an initializer says: a trace asks, and ``tritoninit.ops`` answers.

Neither imports the other: operators are there before any initializer is imported, and are made of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

# What says the operator's name, and its numbers.
OPERATOR_OF: list[Callable[[Any], tuple[str, tuple[Any, ...]]]] = []
