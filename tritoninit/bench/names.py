"""Machines' names where there is little room: cut where they are alike, and not where they differ."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

_CUT: Final = "\N{HORIZONTAL ELLIPSIS}"
_BEGINS: Final = re.compile(r"(?<=[\s/_,(-])(?=\S)")  # where a word does, of a file's name, too


def cut(names: Sequence[str], room: int) -> list[str]:
    """Each name in so many characters, if that leaves all of them different; else whole.

    What a name has in common with the one most like it gives way, from its end; the word in which they begin
    to differ stays, and what follows it as far as there is room.

    >>> cut(["AMD EPYC, 2 cores (monday)", "AMD EPYC, 2 cores (friday)", "H200"], 20)
    ['AMD EPYC, 2…(monday)', 'AMD EPYC, 2…(friday)', 'H200']
    """
    found = [name if len(name) <= room else _cut(name, _alike(name, names), room) for name in names]
    return found if len(set(found)) == len(set(names)) else list(names)


def _alike(name: str, names: Sequence[str]) -> int:
    """How many characters it begins with as another does, up to the beginning of a word."""
    most = max((_same(name, other) for other in names if other != name), default=0)
    begins = [match.start() for match in _BEGINS.finditer(name) if match.start() <= most]
    # An opening bracket belongs to what it opens.
    begin = begins[-1] if begins else 0
    return begin - 1 if begin and name[begin - 1] == "(" else begin


def _same(one: str, other: str) -> int:
    """How many characters they begin with alike."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((k for k, (a, b) in pairs if a != b), min(len(one), len(other)))


def _cut(name: str, alike: int, room: int) -> str:
    rest = name[alike:]
    if not alike or len(rest) > room - 2:  # no room for what is alike: the end gives way
        begin = _CUT if alike else ""
        kept = (name if not alike else rest)[: room - len(begin)]
        return begin + kept if begin + kept == begin + rest else begin + kept[:-1] + _CUT
    return name[: room - 1 - len(rest)].rstrip(" ,;") + _CUT + rest
