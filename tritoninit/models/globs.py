"""Which of many globs a name matches."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from fnmatch import translate
from functools import cached_property, lru_cache
from heapq import merge
from itertools import groupby
from operator import methodcaller
from typing import Final

_TOGETHER: Final = 64  # globs that one regular expression rules out,
_AT_ONCE: Final = 8  # and into how many it is divided if it does not
_WILD: Final = frozenset("*?[")


@lru_cache(maxsize=1 << 14)
def compiled(glob: str) -> re.Pattern[str]:
    """What ``fnmatchcase`` matches with; it remembers fewer, and thousands take turns in a set of rules."""
    return re.compile(translate(glob))


class Globs:
    """Many globs, looked at together: of most, one look at dozens tells that a name is none of theirs.

    >>> list(Globs(["*.bias", "head", "h*"]).matching("head"))
    [1, 2]
    """

    def __init__(self, globs: Iterable[str]) -> None:
        self._exact: dict[str, list[int]] = {}
        wild: list[tuple[int, str]] = []
        for index, glob in enumerate(globs):
            self._exact.setdefault(glob, []).append(index)
            if not _WILD.isdisjoint(glob):
                wild.append((index, glob))
        self._groups = [_Group(each) for each in _cut(wild, _TOGETHER)]

    def none_matches(self, name: str) -> bool:
        """Whether it is known at one look that none matches a name, as is so of most."""
        if name in self._exact:
            return False
        return not self._groups or (len(self._groups) == 1 and not self._groups[0].may_match(name))

    def matching(self, name: str) -> Iterator[int]:
        """The places of those that match a name or are equal to it, in order."""
        if not self._groups:
            return iter(self._exact.get(name, ()))
        if len(self._groups) == 1:  # as most have: without generators, which take longer than the looks
            found = self._groups[0].all_matching(name)
            exact = self._exact.get(name, ())
            return iter(sorted({*exact, *found}) if exact else found)
        wild = (index for group in self._groups for index in group.matching(name))
        return (index for index, _ in groupby(merge(self._exact.get(name, ()), wild)))


class _Group:
    """Globs with their places, as one regular expression and, of several, as smaller groups."""

    def __init__(self, globs: Sequence[tuple[int, str]]) -> None:
        self._globs = globs

    @cached_property
    def may_match(self) -> Callable[[str], object]:
        ends = [glob[1:] for _, glob in self._globs if glob[0] == "*" and _WILD.isdisjoint(glob[1:])]
        if len(ends) == len(self._globs):  # as many are, and a regular expression looks at every character
            return methodcaller("endswith", tuple(ends))
        return re.compile("|".join(translate(glob) for _, glob in self._globs)).match

    @cached_property
    def _inner(self) -> list[_Group]:
        return [_Group(each) for each in _cut(self._globs, max(1, len(self._globs) // _AT_ONCE))]

    def all_matching(self, name: str) -> list[int]:
        if not self.may_match(name):
            return []
        if len(self._globs) == 1:
            return [self._globs[0][0]]
        return [index for index, glob in self._globs if compiled(glob).match(name)]

    def matching(self, name: str) -> Iterator[int]:
        if not self.may_match(name):
            return
        if len(self._globs) == 1:
            yield self._globs[0][0]
        else:
            for group in self._inner:
                yield from group.matching(name)


def _cut(globs: Sequence[tuple[int, str]], size: int) -> list[Sequence[tuple[int, str]]]:
    return [globs[k : k + size] for k in range(0, len(globs), size)]
