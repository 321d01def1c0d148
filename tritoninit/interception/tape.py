"""What a block's calls did to tensors, in order: those of the meta device, which have no memory, too."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tritoninit.fills import Initializer
from tritoninit.interception import asked
from tritoninit.interception.asked import Unrecordable
from tritoninit.interception.private import StorageWeakRef
from tritoninit.interception.regions import Region, storage_key
from tritoninit.recorded import (
    Call,
    Drawn,
    Given,
    Named,
    Part,
    Recorded,
    Slice,
    Step,
    is_known,
    name_of,
    numbers,
)


@dataclass(frozen=True)
class At:
    """A tensor as it was at some point: its storage, where in it, and how many entries there were by then."""

    storage: int
    region: Region
    before: int


@dataclass(eq=False)
class Entry:
    """Something that was done: an initializer's fill, numbers from elsewhere, or a call of torch's.

    Attributes:
        number: its place on the tape.
        done: an initializer; a tensor of numbers; a name; None for what cannot be done again.
        arguments, keywords: of a call; tensors among them as :class:`At`.
        wrote: what it set, by place in what it returned; None where that is no new memory.
        reads: whose elements went into it.
        what: of what cannot be done again, its name.
        reader: the name of the code that did it after it had read what it had drawn; "" of others.
    """

    number: int
    done: Initializer | Tensor | str | None
    arguments: tuple[Any, ...] = ()
    keywords: Mapping[str, Any] = field(default_factory=dict)
    wrote: tuple[At | None, ...] = ()
    reads: tuple[At, ...] = ()
    what: str = ""
    reader: str = ""


@dataclass(frozen=True)
class Write:
    """A region that an entry set; ``changed`` it if what it held before went into it."""

    entry: Entry
    region: Region
    changed: bool


class Tape:
    """All that was done in a block, by storages."""

    def __init__(self) -> None:
        self._writes: dict[int, list[Write]] = defaultdict(list)
        self._alive: dict[int, Any] = {}  # so that an address does not become another's
        self._count = 0
        self.reader: Callable[[], str] = str

    def at(self, tensor: Tensor, *, unset: bool = False) -> At:
        """A tensor as it is now; numbers that came from elsewhere are kept, unless nobody reads them.

        Raises:
            Unrecordable: it is of a kind whose memory cannot be told.
        """
        key = storage_key(tensor)
        if key is None or not tensor.numel() or tensor.is_conj() or tensor.is_neg():
            raise Unrecordable(f"a {type(tensor).__name__} of shape {tuple(tensor.shape)}")
        region = Region.of(tensor)
        if key not in self._alive and not unset and not tensor.is_meta:
            kept = tensor.detach().cpu().clone()
            self._enter(
                Entry(self._count, kept, wrote=(At(key, region, self._count),)),
                [(key, tensor, region, False)],
            )
        self.know(key, tensor)
        return At(key, region, self._count)

    def know(self, key: int, tensor: Tensor) -> None:
        if key not in self._alive:
            self._alive[key] = StorageWeakRef(tensor.untyped_storage())

    def knows(self, tensor: Tensor) -> bool:
        return storage_key(tensor) in self._alive

    def fill(self, tensor: Tensor, initializer: Initializer) -> None:
        at = self.at(tensor, unset=True)
        entry = Entry(self._count, initializer, wrote=(at,))
        self._enter(entry, [(at.storage, tensor, at.region, False)])

    def lost(self, tensors: Iterable[Tensor], what: str) -> None:
        """What changed these cannot be done again."""
        keyed = [(key, each) for each in tensors if (key := storage_key(each)) is not None and each.numel()]
        changes = [(key, each, Region.of(each), True) for key, each in keyed]
        self._enter(Entry(self._count, None, what=what), changes)

    def call(
        self,
        function: Callable[..., Any] | str,
        arguments: Sequence[Any],
        keywords: Mapping[str, Any],
        changed: Sequence[tuple[Tensor, bool]],
        results: Sequence[Tensor | None],
    ) -> None:
        """A call of torch's function.

        Args:
            function: which one, or its name.
            arguments: frozen.
            keywords: likewise.
            changed: which of its tensors it changed, and whether it looked at them.
            results: what it returned that is new memory, by place.
        """
        name = function if isinstance(function, str) else name_of(function)
        done = name if name is not None and is_known(name) else None
        overwritten = {(storage_key(each), Region.of(each)) for each, read in changed if not read}
        reads = _tensors((dict(keywords), tuple(arguments)))  # what is overwritten comes first in either
        for at in [each for each in reads if (each.storage, each.region) in overwritten][: len(overwritten)]:
            reads.remove(at)  # once: what is copied into itself is read, too
        wrote = tuple(None if each is None else self.at(each, unset=True) for each in results)
        entry = Entry(self._count, done, tuple(arguments), dict(keywords), wrote, tuple(reads))
        entry.what = str(getattr(function, "__name__", function))
        new = [
            (at.storage, each, at.region, False)
            for at, each in zip(wrote, results, strict=True)
            if at and each is not None
        ]
        old = [(storage_key(each) or 0, each, Region.of(each), read) for each, read in changed]
        self._enter(entry, new + old)

    def _enter(self, entry: Entry, writes: Iterable[tuple[int, Tensor, Region, bool]]) -> None:
        entry.reader = self.reader()
        for key, tensor, region, changed in writes:
            self.know(key, tensor)
            self._writes[key].append(Write(entry, region, changed))
        self._count += 1

    def frozen(self, value: Any, overwritten: Tensor | None = None) -> Any:
        """An argument that is kept: numbers, names, and tensors as they are now.

        Raises:
            Unrecordable: it is of another kind.
        """
        if isinstance(value, Tensor):
            return self.at(value, unset=value is overwritten)
        if isinstance(value, torch.Size):
            return tuple(map(int, value))
        if isinstance(value, (list, tuple)):
            return tuple(self.frozen(each, overwritten) for each in value)
        if isinstance(value, np.generic):
            return value.item()
        if value is None or isinstance(value, (bool, complex)):
            return value
        if isinstance(value, (int, float)):
            return int(value) if isinstance(value, int) else float(value)  # of their subclasses
        if isinstance(value, str):
            return "cpu" if value.partition(":")[0] in _DEVICES else value
        if isinstance(value, slice):
            return Slice(*(self.frozen(each) for each in (value.start, value.stop, value.step)))
        if value is ...:
            return Slice(ellipsis=True)
        if isinstance(value, (torch.dtype, torch.memory_format, torch.layout)):
            return Named(str(value).removeprefix("torch."))
        if isinstance(value, torch.device):
            return "cpu"
        if isinstance(value, torch.Generator):
            return None  # one that starts from a key
        if isinstance(value, np.ndarray):
            return self.frozen(torch.from_numpy(value.copy()))
        raise Unrecordable(f"a {type(value).__name__}")

    def covering(self, at: At) -> tuple[Write | None, list[Write]]:
        """The latest that set all of a tensor, and what changed a part of it since, oldest first."""
        parts: list[Write] = []
        for write in reversed(self._writes.get(at.storage, ())):
            if write.entry.number >= at.before or not write.region.meets(at.region):
                continue
            if write.region.covers(at.region):
                return write, parts[::-1]
            if len(parts) > MOST_PARTS:
                return None, parts
            if not any(each.region.covers(write.region) and not each.changed for each in parts):
                parts.append(write)
        return None, parts[::-1]

    def recorded(self, at: At, *, of_readers: bool = False) -> tuple[Recorded, tuple[asked.Drawn, ...]]:
        """The calls that made a tensor, and which of the entries drew its random numbers.

        Args:
            of_readers: of code that has read what it drew, too, whose calls may be others another time.

        Raises:
            Unrecordable: one of them cannot be made again, or nobody has set the tensor.
        """
        entries: dict[int, Entry] = {}
        wanted, seen = [at], {at}
        while wanted:
            each = wanted.pop()
            for entry in self._behind(each):
                if entry.number not in entries:
                    if entry.reader and not of_readers:
                        raise asked.ReadBackError(entry.reader)
                    if entry.done is None:
                        raise Unrecordable(f"{entry.what} cannot be called again")
                    entries[entry.number] = entry
                    more = [read for read in entry.reads if read not in seen]
                    seen.update(more)
                    wanted += more
        parts = _Parts()
        steps = [
            (entries[number], step) for number in sorted(entries) for step in parts.steps(entries[number])
        ]
        drawn = tuple(asked.Drawn(entry.number, _span(entry)) for entry, step in steps if step.random)
        return Recorded(tuple(step for _, step in steps), parts.of(at)), drawn

    def _behind(self, at: At) -> Iterator[Entry]:
        """What set a tensor: the latest that set all of it, and whatever changed some of it since."""
        found = False
        for write in reversed(self._writes.get(at.storage, ())):
            if write.entry.number >= at.before or not write.region.meets(at.region):
                continue
            found = True
            yield write.entry
            if write.region.covers(at.region) and not write.changed:
                return
        if not found:
            raise Unrecordable("it was never set")


MOST_PARTS = 256  # of a tensor: of what was set in more, nobody would read the list
_DEVICES = ("meta", "cuda", "cpu", "xpu", "mps", "hpu", "npu", "mtia", "xla")


def _span(entry: Entry) -> tuple[int, int]:
    """Which bytes an entry set; all of them, if these are in several places."""
    wrote = [at.region.bytes for at in entry.wrote if at is not None]
    return wrote[0] if len(wrote) == 1 else (0, 2**63)


def _tensors(value: Any) -> list[At]:
    if isinstance(value, At):
        return [value]
    if isinstance(value, Slice):
        return _tensors((value.start, value.stop, value.step))
    if isinstance(value, (tuple, list)):
        return [at for each in value for at in _tensors(each)]
    return _tensors(list(value.values())) if isinstance(value, dict) else []


class _Parts:
    """Storages by the order of their first use."""

    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}

    def of(self, at: At) -> Part:
        number = self._numbers.setdefault(at.storage, len(self._numbers))
        region = at.region
        dtype = str(region.dtype).removeprefix("torch.")
        return Part(number, dtype, region.shape, region.strides, region.offset)

    def steps(self, entry: Entry) -> Iterator[Step]:
        done = entry.done
        if isinstance(done, Initializer):
            (at,) = entry.wrote
            assert at is not None
            yield Drawn(self.of(at), done)
        elif isinstance(done, str):
            arguments = tuple(self._given(each) for each in entry.arguments)
            keywords = tuple((name, self._given(each)) for name, each in entry.keywords.items())
            into = tuple(None if at is None else self.of(at) for at in entry.wrote)
            yield Call(done, arguments, keywords, into)
        elif done is not None:
            (at,) = entry.wrote
            assert at is not None
            yield Given(self.of(at), numbers(done))

    def _given(self, value: Any) -> Any:
        if isinstance(value, At):
            return self.of(value)
        if isinstance(value, Slice):
            start, stop, step = map(self._given, (value.start, value.stop, value.step))
            return Slice(start, stop, step, value.ellipsis)
        return tuple(map(self._given, value)) if isinstance(value, tuple) else value
