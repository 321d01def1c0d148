"""The seam between what to draw and who draws it: a list of fills, checked first and then run."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from itertools import islice, pairwise
from operator import attrgetter, itemgetter, le
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import numpy as np
import torch

from tritoninit import registry
from tritoninit.distributed.held import is_dtensor, writable
from tritoninit.extents import extent
from tritoninit.kernels.lowering import FLOAT_DTYPES, PARTS, RangeError, shown
from tritoninit.kernels.stream import GRIDS, Alike, Draw
from tritoninit.keys import Key
from tritoninit.registry import Backend
from tritoninit.targets import Target, as_parts, as_target, device_type, dtype_name
from tritoninit.traced import apart
from tritoninit.window import Window
from tritoninit.windows import Windows

R = TypeVar("R")

KeySource: TypeAlias = "Key | Callable[[], Key]"
NO_KEY = Key(0)  # of what draws nothing


def resolve_key(key: KeySource) -> Key:
    return key if isinstance(key, Key) else key()


class Drawable(Protocol):
    """What a plan needs to know of a fill."""

    @property
    def random(self) -> bool: ...
    @property
    def distribution(self) -> str: ...
    def parameters(self, dtype: str, /) -> tuple[Any, ...]: ...
    @property
    def stochastic(self) -> bool: ...
    def of_parts(self, dtype: str, /) -> Drawable: ...


class Step(NamedTuple):
    """One fill of a plan, lowered: ``backend`` is None for dtypes that the target's library fills itself."""

    target: Target
    fill: Drawable
    draw: Draw
    backend: Backend | None


class Plan:
    """Fills to run together. Whatever can be wrong raises in :meth:`add`, before anything is written."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._served: dict[tuple[Any, str, str | None], tuple[str, Backend | None]] = {}
        self._places = [(0, -1)]  # from which step on, and what is the place of those
        self._alike: list[tuple[Step, Alike, Callable[[], Sequence[int]]]] = []
        self._afterwards: list[Callable[[], None]] = []
        self._together: dict[Callable[[], Any], Any] = {}

    def add(
        self, tensor: Any, fill: Drawable, key: KeySource, window: Window | Windows | None = None
    ) -> Step | None:
        """Append a fill of ``tensor``, the ``window`` of a global tensor (by default: all of it).

        A key that is yet to be drawn is drawn last, once nothing can be wrong any more, and not at all for
        a constant.

        Args:
            tensor: a torch tensor on any device, a NumPy array, a DTensor, or an object with
                ``__dlpack__``; of any shape and strides.
            fill: what with; of a dtype that it serves.
            key: which random numbers, or what draws a key.
            window: which part of a global tensor the tensor is; all of it if None.

        Returns:
            The step that it is; None of what lies in several places (a DTensor, Windows), or nowhere here.

        Raises:
            TypeError: ``tensor`` is no tensor.
            ValueError: it cannot be written, it lies outside its window, or the parameters make no sense.
            NotImplementedError: random numbers of its dtype are not served.
        """
        if isinstance(window, Windows) or is_dtensor(tensor):
            held = writable(tensor, window)
            check_fill(fill, held.whole)
            registry.resolve(device_type(held.local))
            taken = resolve_key(key) if fill.random else NO_KEY
            for part, inside in held.parts:
                self.append(part, fill, taken, inside)
            self.afterwards(held.changed)
            return None
        target = as_target(tensor)
        if window is None:
            window = Window.whole(target.shape)
        else:
            window.check(target.shape)
        return self.append(target, fill, key, window)

    def append(self, target: Target, fill: Drawable, key: KeySource, window: Window) -> Step:
        """As :meth:`add`, of a target that is known to be writable and to lie inside its window.

        Args:
            target: the tensor or array.
            fill: what with.
            key: which random numbers, or what draws a key.
            window: which part of a global tensor the target is.

        Returns:
            The step that it is.

        Raises:
            ValueError, NotImplementedError: the dtype is not served, or does not hold the values.
        """
        kind = target.dtype, device_type(target), registry.overriding()
        served = self._served.get(kind)
        if served is None:
            dtype = dtype_name(target)
            by_ours = dtype in FLOAT_DTYPES
            served = self._served[kind] = dtype, registry.resolve(kind[1]) if by_ours else None
        dtype, backend = served
        if backend is not None:
            parameters = fill.parameters(dtype)
        elif fill.random and dtype in PARTS:
            parts = Window((*window.global_shape, 2), (*window.offsets, 0))
            return self.append(as_parts(target), fill.of_parts(dtype), key, parts)
        else:
            parameters = check_fill(fill, target)
        key = resolve_key(key) if fill.random else NO_KEY
        draw = Draw(fill.distribution, parameters, key.seed, key.stream, window.start, window.strides)
        if fill.stochastic:
            draw = draw._replace(stochastic=dtype in GRIDS)
        step = Step(target, fill, draw, backend)
        self.steps.append(step)
        return step

    def repeat(self, step: Step, target: Target, key: Key) -> None:
        """Append what a step is for another target of the same shape, dtype and device, by another key.

        The target is known to be writable.

        Args:
            step: of a plan.
            target: the other.
            key: the other's.
        """
        first, fill, draw, backend = step
        if fill.random:
            draw = draw._replace(seed=key.seed, stream=key.stream)
        target = target if target.dtype == first.dtype else as_parts(target)
        self.steps.append(Step(target, fill, draw, backend))

    def alike(
        self,
        step: Step,
        targets: list[torch.Tensor],
        seed: int,
        streams: Sequence[int],
        places: Callable[[], Sequence[int]],
    ) -> None:
        """Append what a step is for many tensors.

        Args:
            step: of one of them.
            targets: the tensors, each of which can be written, contiguous, not empty, of torch's own classes
                and none of inference mode's; of one shape, dtype and device.
            seed: of their keys.
            streams: of their keys; empty where nothing is drawn.
            places: asked where it matters, which is where memory is written twice: in which order they are
                set, among what is appended :meth:`at` other places.
        """
        drawn = [seed] * len(streams), list(streams)
        seeds, streams = drawn if streams else ([0] * len(targets), [0] * len(targets))
        found = Alike(targets, step.draw, seeds, streams)
        self._alike.append((step, found, places))

    def at(self, place: int) -> None:
        """Have what is appended next be set in that place, whatever was appended before.

        Args:
            place: a number, in the order of which all is set.
        """
        self._places.append((len(self.steps), place))

    @property
    def size(self) -> int:
        """How many things there are to do, fills and others."""
        alike = sum(len(each.targets) for _, each, _ in self._alike)
        return len(self.steps) + alike + len(self._afterwards)

    def afterwards(self, write: Callable[[], None]) -> None:
        """Call ``write`` after the fills, for what is no fill itself.

        Args:
            write: called once, by :meth:`run`.
        """
        self._afterwards.append(write)

    def together(self, kind: Callable[[], R]) -> R:
        """The plan's only one of a ``kind``, made when first asked for: what steps compute in common.

        Args:
            kind: a class, or what makes one.

        Returns:
            That one.
        """
        if kind not in self._together:
            self._together[kind] = kind()
        found: R = self._together[kind]
        return found

    def run(self) -> None:
        """Write every fill, as if in order, and then what is no fill, in order.

        Fills that share no memory go to their backend together.
        """
        if self._alike and _are_apart(self.steps, [alike for _, alike, _ in self._alike]):
            backends = [step.backend for step, *_ in self._alike] + [step.backend for step in self.steps]
            for backend in dict.fromkeys(backends):
                found = [alike for step, alike, _ in self._alike if step.backend is backend]
                _run(backend, [step for step in self.steps if step.backend is backend], found)
        elif len(self.steps) == 1 and not self._alike:
            _run(self.steps[0].backend, self.steps)
        else:
            for batch in _batches(self._in_order()):
                for backend in dict.fromkeys([step.backend for step in batch]):
                    _run(backend, [step for step in batch if step.backend is backend])
        for write in self._afterwards:
            write()

    def _in_order(self) -> Sequence[Step]:
        """Every step, in the order of their places; those of one in that in which they came."""
        if not self._alike:
            return self.steps
        found: list[tuple[int, Step]] = []
        bounds = [*(begin for begin, _ in self._places), len(self.steps)]
        for (_, place), (begin, end) in zip(self._places, pairwise(bounds), strict=True):
            found += [(place, step) for step in self.steps[begin:end]]
        for first, alike, places in self._alike:
            for place, (target, draw) in zip(places(), alike.items(), strict=True):
                found.append((place, Step(target, first.fill, draw, first.backend)))
        found.sort(key=itemgetter(0))
        return [step for _, step in found]


class KeptPlan:
    """Fills of tensors, checked and lowered, to be run again and again by other seeds, as a plan runs them.

    Args:
        steps: of tensors; their keys' seeds do not count.
        strides: bytes from each target to the next of its kind.
        count: how many of each kind there are; the k-th is drawn by the k-th seed.
    """

    def __init__(self, steps: Sequence[Step], strides: Sequence[int] = (), count: int = 1) -> None:
        self._calls: list[tuple[torch.device | None, Callable[[torch.Tensor], None]]] = []
        self._changed: list[torch.Tensor] = []
        apart = {id(step): stride for step, stride in zip(steps, strides or [0] * len(steps), strict=True)}
        for batch in _batches(steps) if steps else ():
            alike: dict[tuple[Backend | None, torch.device], list[Step]] = {}
            for step in batch:
                target: Any = step.target
                alike.setdefault((step.backend, target.device), []).append(step)
                self._changed += [] if target.is_inference() else [target]
            for (backend, device), found in alike.items():
                if backend is None:
                    whole = [step._replace(target=_all_of(step, apart[id(step)], count)) for step in found]
                    self._calls.append((None, partial(_unserved_again, whole)))
                    continue
                items: Any = [(step.target, step.draw) for step in found]
                distances = [apart[id(step)] for step in found]
                self._calls.append((device, registry.keep(backend, items, distances, count)))

    def run(self, seeds: torch.Tensor | int) -> None:
        """Write every fill by seeds: an integer, or int64 in a tensor of one dimension, on any device."""
        there: dict[torch.device | None, torch.Tensor] = {}
        for device, write in self._calls:
            if device not in there:
                if isinstance(seeds, int):
                    signed = seeds - 2**64 if seeds >= 2**63 else seeds
                    there[device] = torch.full((1,), signed, dtype=torch.int64, device=device or "cpu")
                else:
                    there[device] = seeds if device is None else seeds.to(device)
            write(there[device])
        torch.autograd.graph.increment_version(self._changed)


def _all_of(step: Step, stride: int, count: int) -> torch.Tensor:
    """The targets of a kind as one tensor, along a first dimension."""
    target: Any = step.target
    strides = stride // target.itemsize, *target.stride()
    all_of: torch.Tensor = target.detach().as_strided((count, *target.shape), strides)
    return all_of


def _unserved_again(steps: Sequence[Step], seeds: torch.Tensor) -> None:
    _run(None, steps)


def _run(backend: Backend | None, steps: Sequence[Step], alike: Sequence[Alike] = ()) -> None:
    if backend is None:
        with torch._C.DisableTorchFunction():  # what a TorchFunctionMode watches are its user's calls
            _fill_unserved(steps, alike)
    else:
        registry.fill(backend, [(step.target, step.draw) for step in steps], alike)


def check_fill(fill: Drawable, target: Target) -> tuple[Any, ...]:
    """The parameters of a fill of the target's dtype, or the error that filling it would raise."""
    dtype = dtype_name(target)
    if dtype in FLOAT_DTYPES:
        return fill.parameters(dtype)
    if fill.random and dtype in PARTS:
        return fill.of_parts(dtype).parameters(PARTS[dtype])
    if fill.random:
        raise NotImplementedError(
            f"{type(fill).__name__.lstrip('_')} of {dtype}: random fills serve {', '.join(FLOAT_DTYPES)}"
        )
    parameters = fill.parameters(dtype)
    try:
        if isinstance(target, torch.Tensor):
            _try_to_hold(target.dtype, *map(type, parameters), *parameters)
        else:
            with np.errstate(over="raise"):
                np.empty((), target.dtype).fill(*parameters)
    except NotImplementedError:
        raise
    except (RuntimeError, TypeError, ValueError, ArithmeticError) as error:
        (value,) = parameters
        raise RangeError(f"{dtype} cannot hold the value {shown(value)}: {error}") from error
    return parameters


@lru_cache(maxsize=4096)
def _try_to_hold(dtype: torch.dtype, kind: type, value: Any) -> None:
    """Raise what torch does where a dtype cannot hold a value; 1, 1.0 and True are as many.

    Whatever modes are on, fake tensors' among them: what is found is remembered without them, too. A mode is
    on in one thread, and in another torch's public names lead out of all of them.
    """
    # Of a single element torch fills 8-bit floats without a look at the range.
    apart(lambda: torch.empty(2, dtype=dtype, device="cpu").fill_(value))


def _batches(steps: Sequence[Step]) -> Iterator[Sequence[Step]]:
    """Cut a plan, in order, where a step writes memory that an earlier one of its batch writes, too."""
    if _are_apart(steps):
        yield steps
        return
    batch: list[Step] = []
    taken: dict[str, list[Span]] = {}
    for step in steps:
        device, span = _span(step.target)
        if not take(taken.setdefault(device, []), span):
            yield batch
            batch = []
            taken = {device: [span]}
        batch.append(step)
    yield batch


def _are_apart(steps: Sequence[Step], alike: Sequence[Alike] = ()) -> bool:
    """Whether no target begins before another ends, as is so of most: whatever lies among their elements."""
    begins, ends = [], []
    for target, _, _, _ in steps:
        if isinstance(target, torch.Tensor) and target.is_contiguous():
            begins.append(target.data_ptr())
            ends.append(begins[-1] + target.nbytes)
        else:
            _, span = _span(target)
            begins.append(span.begin)
            ends.append(span.end)
    for each in alike:
        size, addresses = each.targets[0].nbytes, [*map(torch.Tensor.data_ptr, each.targets)]
        begins += addresses
        ends += [address + size for address in addresses]
    # Where two share memory, more have begun than others have ended, somewhere.
    begins.sort()
    ends.sort()
    return all(map(le, ends, islice(begins, 1, None)))


class Span:
    """The addresses between which a target lies, and what of them it writes where others lie among its own.

    Of a pitch that divides the strides from it on, a target writes one stretch, as long as what the smaller
    strides reach. Stretches that do not meet are of rectangles side by side, as a matrix's columns are.
    """

    def __init__(self, first: int, itemsize: int, shape: Sequence[int], strides: Sequence[int]) -> None:
        """``first`` is the address of the first element; all but the shape is in bytes."""
        begin, end = extent(itemsize, shape, strides)
        self.begin, self.end = first + begin, first + end
        self._itemsize = itemsize
        self._walk = [(n, abs(stride)) for n, stride in zip(shape, strides, strict=True) if n > 1 and stride]
        self._base, self._pitch = self.begin, 0
        self._stretches: list[tuple[int, int]] = []

    def _length(self, pitch: int) -> int:
        """Of a stretch; more than the pitch where there is no such."""
        if any(stride % pitch for _, stride in self._walk if stride >= pitch):
            return pitch + 1
        return self._itemsize + sum((size - 1) * stride for size, stride in self._walk if stride < pitch)

    def joined_by(self, other: Span) -> bool:
        """Make the other one part of this, if its stretch meets none of those that are here."""
        if not self._stretches:
            self._pitch = max((stride for _, stride in self._walk), default=0)
            self._stretches.append((0, self._length(self._pitch)))
        pitch = self._pitch
        if not pitch:
            return False
        first = (other.begin - self._base) % pitch
        stretch = first, first + other._length(pitch)
        place = bisect_left(self._stretches, stretch)
        before = self._stretches[place - 1][1] if place else 0
        after = self._stretches[place][0] if place < len(self._stretches) else pitch
        if first < before or stretch[1] > after:
            return False
        self._stretches.insert(place, stretch)
        self.begin, self.end = min(self.begin, other.begin), max(self.end, other.end)
        return True


def take(spans: list[Span], span: Span) -> bool:
    """Add a span to others in order, none of which overlap; False if it may write what one of them does."""
    if span.begin == span.end:
        return True
    place = bisect_left(spans, span.begin, key=attrgetter("begin"))
    near = spans[max(place - 1, 0) : place + 2]  # enough to tell one from several
    met = [each for each in near if each.end > span.begin and each.begin < span.end]
    if not met:
        spans.insert(place, span)
    return not met or (len(met) == 1 and met[0].joined_by(span))


def _span(target: Target) -> tuple[str, Span]:
    """The device on which a target lies, and where."""
    if isinstance(target, np.ndarray):
        device, first, strides = "cpu", target.ctypes.data, target.strides
    else:
        device, first = str(target.device), target.data_ptr()
        strides = tuple(stride * target.itemsize for stride in target.stride())
    return device, Span(first, target.itemsize, tuple(target.shape), strides)


def _fill_unserved(steps: Sequence[Step], alike: Sequence[Alike] = ()) -> None:
    """Constants, the one distribution of every dtype, into dtypes that no backend serves."""
    zeros: list[torch.Tensor] = []
    for step in steps:
        target, (value,) = step.target, step.draw.parameters
        if not isinstance(target, torch.Tensor):
            target.fill(value)
        elif value == 0 and not (target.is_floating_point() or target.is_complex()):
            zeros.append(target.detach())
        else:
            target.detach().fill_(value)
    for each in alike:  # integers
        (value,) = each.draw.parameters
        if value == 0:
            zeros += each.targets
        else:
            for x in each.targets:
                x.fill_(value)
    if zeros:
        torch._foreach_zero_(zeros)  # the counters of many layers, in one launch
