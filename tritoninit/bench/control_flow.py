"""The hot path through a kernel's machine code: which instructions a thread of a full tile executes.

It leads from the entry to the end, through no subroutine (ptxas puts the rare operands of sqrt.rn, and 64-bit
division, there), and stores every element of the thread once, with stores that nothing masks. Where a program
writes several tiles in a loop, a further tile costs a further turn.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from tritoninit.bench.instructions import Gcn, Instruction, Sass, Uncountable

_LABEL = re.compile(r"(\.L_?[\w.]+):")
_SASS = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:(@!?U?P\d+)\s+)?([A-Z][A-Z0-9_.]*)\s*([^;]*);")
_GCN = re.compile(r"\t([a-z]+_\w+)\s*([^;]*)")

Route = tuple[Instruction, ...]


@dataclass(frozen=True)
class Loop:
    """Indices of a loop's instructions, and of the one through which it is entered."""

    head: int
    members: frozenset[int]


class ControlFlow(ABC):
    """The instructions of one kernel and where each leads.

    Attributes:
        instructions: in the order of the listing.
    """

    def __init__(self, lines: Iterable[str], parse: Callable[[str], Instruction | None]) -> None:
        self.instructions: list[Instruction] = []
        self._labels: dict[str, int] = {}
        for line in lines:
            if label := _LABEL.match(line):
                self._labels[label.group(1)] = len(self.instructions)
            elif instruction := parse(line):
                self.instructions.append(instruction)

    @abstractmethod
    def _best(self, tails: list[Route]) -> list[Route]:
        """Of ways from one instruction to the end, those that the hot path may go; two of a sort at most."""

    @abstractmethod
    def _stores_a_tile(self, path: Route) -> bool:
        """Whether a path that is as good as any stores what a full tile does."""

    def successors(self, index: int) -> list[int]:
        """Indices of the instructions that may follow."""
        onward, label = self.instructions[index].leads
        return [*([index + 1] if onward else []), *([] if label is None else [self._labels[label]])]

    def hot_path(self) -> Route:
        """The path of a full tile, NOPs left out; a loop on the way is gone through once.

        Raises:
            Uncountable: no path, more than one loop, or two paths that store the same; then no count would
                be sound.
        """
        return self._hottest(0, self._exits)

    def hot_turn(self) -> Route:
        """What each further turn of the loop adds to :meth:`hot_path`; empty where there is no loop.

        Raises:
            Uncountable: as for :meth:`hot_path`, of the paths from the loop's head back to it.
        """
        return () if self._loop is None else self._hottest(self._loop.head, self._turns)

    def _exits(self, index: int) -> bool:
        return self.instructions[index].ends

    def _turns(self, index: int) -> bool:
        loop = self._loop
        return loop is not None and index in loop.members and loop.head in self.successors(index)

    def _hottest(self, start: int, ends: Callable[[int], bool]) -> Route:
        """The path from an instruction to an end that stores a full tile, NOPs left out."""
        hottest = [path for path in self._candidates(start, ends, {}) if self._stores_a_tile(path)]
        if len(hottest) != 1:
            raise Uncountable("no path leads to the end" if not hottest else "two paths store the same")
        return tuple(i for i in hottest[0] if i.opcode != "NOP")

    def _candidates(
        self, start: int, ends: Callable[[int], bool], known: dict[int, list[Route]]
    ) -> list[Route]:
        """Those paths from an instruction to an end that the hot path may end with."""
        if start in known:
            return known[start]
        straight = [start]
        while not ends(straight[-1]) and len(following := self._onward(straight[-1])) == 1:
            straight += following
        passed = tuple(self.instructions[i] for i in straight)
        tails: list[Route] = [()] if ends(straight[-1]) else []
        for index in self._onward(straight[-1]):
            tails += self._candidates(index, ends, known)
        known[start] = [passed + tail for tail in self._best(tails)]
        return known[start]

    def _onward(self, index: int) -> list[int]:
        """The successors, without the way from the loop's end back to its head."""
        loop = self._loop
        back = loop.head if loop is not None and index in loop.members else None
        return [i for i in self.successors(index) if i != back]

    @cached_property
    def _loop(self) -> Loop | None:
        """The loop that the entry leads to, or None."""
        predecessors, back = self._explore()
        heads = {head for _, head in back}
        if len(heads) > 1:
            raise Uncountable(f"the kernel has {len(heads)} loops")
        if not heads:
            return None
        (head,) = heads
        # The natural loop (Aho, Lam, Sethi and Ullman, "Compilers", 9.6.6): what leads to the edges back to
        # the head without passing it.
        members = {head}
        waiting = [source for source, _ in back]
        while waiting:
            index = waiting.pop()
            if index not in members:
                members.add(index)
                waiting += predecessors[index]
        if head and 0 in members:
            raise Uncountable("the loop is entered in two places")
        return Loop(head, frozenset(members))

    def _explore(self) -> tuple[dict[int, list[int]], list[tuple[int, int]]]:
        """The predecessors of what the entry leads to, and the edges that close a cycle, depth first."""
        predecessors: dict[int, list[int]] = {0: []}
        back = []
        path = {0: iter(self.successors(0))}
        while path:
            index, onward = next(reversed(path.items()))
            following = next(onward, None)
            if following is None:
                del path[index]
                continue
            if following in path:
                back.append((index, following))
            if following not in predecessors:
                predecessors[following] = []
                path[following] = iter(self.successors(following))
            predecessors[following].append(index)
        return predecessors, back


class SassFlow(ControlFlow):
    """Of an NVIDIA kernel's listing (``nvdisasm -c``).

    A full tile's path stores most bytes without a guard (a masked store is guarded, or jumped over), and of
    those paths most in all.
    """

    def __init__(self, listing: str) -> None:
        super().__init__(listing.splitlines(), self._parse)

    @staticmethod
    def _parse(line: str) -> Instruction | None:
        found = _SASS.match(line)
        return Sass(found[1] or "", found[2], found[3].strip()) if found else None

    def _best(self, tails: list[Route]) -> list[Route]:
        most = max(map(bytes_stored, tails), default=None)
        return [tail for tail in tails if bytes_stored(tail) == most][:2]

    def _stores_a_tile(self, path: Route) -> bool:
        return True  # no path stores more


class GcnFlow(ControlFlow):
    """Of an AMD kernel's assembly, as LLVM writes it.

    A store may be masked by the execution mask or by its address; and of two ways that exclude each other,
    each often has a branch of its own, so that a third one seems to go through both. A full tile's path
    therefore is the one that stores as many bytes as the thread's elements have, and of those the one with
    the fewest stores.

    Args:
        assembly: of one kernel.
        stored: bytes of the elements that a thread of a full tile writes.
    """

    def __init__(self, assembly: str, stored: int) -> None:
        self._stored = stored
        code = assembly.partition("\t.section\t.rodata")[0]
        super().__init__(code.splitlines(), self._parse)

    @staticmethod
    def _parse(line: str) -> Instruction | None:
        found = _GCN.match(line)
        return Gcn("", found[1], found[2].strip()) if found else None

    def _best(self, tails: list[Route]) -> list[Route]:
        by_size: dict[int, list[Route]] = {}
        for tail in sorted(tails, key=_stores):
            found = by_size.setdefault(bytes_stored(tail)[1], [])
            if len(found) < 2 and _stores(tail) == _stores((found or [tail])[0]):
                found.append(tail)
        return [tail for size, found in by_size.items() if size <= self._stored for tail in found]

    def _stores_a_tile(self, path: Route) -> bool:
        return bytes_stored(path)[1] == self._stored


def _stores(path: Route) -> int:
    return sum(i.global_store_bytes > 0 for i in path)


def bytes_stored(path: Route) -> tuple[int, int]:
    """Bytes that a path stores without a guard, and in all."""
    stores = [(i.guard, i.global_store_bytes) for i in path]
    return sum(size for guard, size in stores if not guard), sum(size for _, size in stores)
