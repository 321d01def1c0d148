"""What Triton's kernels do for the part of a parameter that a rank has: launches, and elements drawn for it.

By the rules that the kernels go by, which are asked and not repeated: what is a run of the stream, what
shares a launch, how much a program draws. The memory that a rank has for a parameter begins where 16 divides
the address, as torch allocates it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

from tritoninit.factorization import TOGETHER
from tritoninit.fills import Fill, Piece
from tritoninit.kernels import stream
from tritoninit.kernels.lowering import FLOAT_DTYPES
from tritoninit.kernels.rows import DIMS, goes_by_rows, grouping
from tritoninit.kernels.stream import Draw
from tritoninit.plan import Span, take
from tritoninit.structured import Structured
from tritoninit.window import Window
from tritoninit.windows import Rectangle, Windows


class Work(NamedTuple):
    """What takes time: a kernel of ``triton_kernels``, or "other" of what torch fills, and the kind of it."""

    kernel: str
    distribution: str
    dtype: str


class Together(NamedTuple):
    """Matrices that are drawn by the same launches."""

    shape: tuple[int, ...]
    dtype: str

    def launches(self, count: Any) -> Any:
        """Of so many, a number or an array."""
        most = max(1, TOGETHER["cuda"] // math.prod(self.shape))
        return -(-count // most)


@dataclass
class Batch:
    """Fills that a plan has run together: those that share launches by what these have in common."""

    groups: set[Hashable] = field(default_factory=set)
    alone: int = 0


@dataclass
class Share:
    """What a rank does for its part of a parameter.

    Attributes:
        elements: that it has.
        batches: of its fills; the first joins those of other parameters before it.
        afterwards: launches of what is written after all fills.
        together: how many matrices it has drawn, afterwards, in the launches of all that are alike.
        drawn: random elements that are computed, by fills.
        used: of those, how many are stored.
        built: elements of structured initializers that are computed, whether the rank has them or not.
        kept: of those, how many the rank has.
        work: (elements stored, elements computed) of fills, by what computes them.
    """

    elements: int
    batches: list[Batch] = field(default_factory=lambda: [Batch()])
    afterwards: int = 0
    together: Counter[Together] = field(default_factory=Counter)
    drawn: int = 0
    used: int = 0
    built: int = 0
    kept: int = 0
    work: dict[Work, tuple[int, int]] = field(default_factory=dict)


class Target(NamedTuple):
    """The part of a piece that lies in a local tensor.

    Attributes:
        shape: of it.
        memory: strides, in elements.
        at: where its first element lies in the local tensor, in elements.
        offsets: where it lies in the global tensor.
    """

    shape: tuple[int, ...]
    memory: tuple[int, ...]
    at: int
    offsets: tuple[int, ...]


@dataclass(frozen=True)
class What:
    """What is done to a piece, without the numbers that change no launch.

    Attributes:
        piece: as an initializer has it.
        draw: of a fill, without a place.
    """

    piece: Piece
    draw: Draw | None

    @property
    def builds_whole(self) -> bool:
        """Whether a part of it takes all of it."""
        return bool(getattr(self.piece.initializer, "builds_whole", False))

    @property
    def numbered(self) -> int:
        """How many leading dimensions number weights that are built one by one."""
        return int(getattr(self.piece.initializer, "numbered", 0))

    @property
    def identity(self) -> Hashable:
        """Equal for pieces that take the same launches and draw as much."""
        initializer = self.piece.initializer
        if self.draw is None:
            fills = getattr(initializer, "fills", 0)
            together = getattr(initializer, "drawn_together", False)
            return (*self.piece[1:3], type(initializer), self.builds_whole, self.numbered, fills, together)
        return (*self.piece[1:3], _variant(self.draw), _is_zero(self.draw))


def whats(pieces: Sequence[Piece], dtype: str) -> tuple[What, ...]:
    """What an initializer's pieces come to for a dtype."""
    found = []
    for piece in pieces:
        draw = None
        if isinstance(piece.initializer, Fill):
            fill = piece.initializer
            stochastic = fill.stochastic and dtype in stream.GRIDS
            draw = Draw(fill.distribution, tuple(fill.parameters(dtype)), 0, 0, 0, (), stochastic)
        found.append(What(piece, draw))
    return tuple(found)


def share(windows: Windows, what: Sequence[What], dtype: str, itemsize: int) -> Share:
    """What a rank does that has ``windows`` of a tensor, for which an initializer has these pieces."""
    found = Share(math.prod(windows.local_shape))
    local = stream.row_major_strides(windows.local_shape)
    rectangles = [each for each in windows.rectangles if 0 not in each.shape]
    stage, after_structured = found.batches, False
    stages: list[list[Batch]] = []
    taken: list[Span] = []
    for each in what:
        structured = isinstance(each.piece.initializer, Structured)
        if after_structured and not structured:  # as plans have it: what follows may lie on top
            stage, taken = [Batch()], []
            stages.append(stage)
        after_structured = structured
        targets = [target for part in rectangles if (target := _target(each.piece, part, local)) is not None]
        if structured:
            _build(found, each.piece, targets, dtype)
        elif each.draw is not None:
            for target in targets:
                _lay(stage, taken, target, itemsize)
                _fill(found, stage[-1], each.draw, target, windows.global_shape, dtype, itemsize)
    found.afterwards += sum(launches(batch) for stage in stages for batch in stage)
    return found


def launches(batch: Batch) -> int:
    """How many launches a batch takes that shares them with no other."""
    return len(batch.groups) + batch.alone


def _target(piece: Piece, part: Rectangle, local: tuple[int, ...]) -> Target | None:
    """What of a piece lies in a rectangle; None if nothing does."""
    begins, sizes, at = [], [], 0
    for begin, size, offset, count, inside, stride in zip(
        piece.offsets, piece.shape, part.window.offsets, part.shape, part.begins, local, strict=True
    ):
        low, high = max(begin, offset), min(begin + size, offset + count)
        if low >= high:
            return None
        begins.append(low)
        sizes.append(high - low)
        at += (inside + low - offset) * stride
    return Target(tuple(sizes), local, at, tuple(begins))


def _lay(stage: list[Batch], taken: list[Span], target: Target, itemsize: int) -> None:
    """Begin a new batch where a target may write what another of its batch does, as plans do."""
    strides = [itemsize * stride for stride in target.memory]
    span = Span(target.at * itemsize, itemsize, target.shape, strides)
    if not take(taken, span):
        stage.append(Batch())
        taken[:] = [span]


def _fill(
    found: Share, batch: Batch, draw: Draw, target: Target, shape: tuple[int, ...], dtype: str, itemsize: int
) -> None:
    """Add a fill's launches and elements."""
    count = math.prod(target.shape)
    if dtype not in FLOAT_DTYPES:
        if _is_zero(draw) and dtype.startswith(("int", "uint", "bool")):
            batch.groups.add("zeros")
        else:
            batch.alone += 1
        _work(found, Work("other", "constant", dtype), count, count)
        return
    window = Window(shape, target.offsets)
    placed = draw._replace(start=window.start, strides=window.strides)
    for each in _launched(placed, target, itemsize):
        if each.group is None:
            batch.alone += 1
        else:
            batch.groups.add((dtype, *each.group))
        computed = each.elements
        if draw.distribution != "constant":
            computed = each.computed
            found.drawn += computed
            found.used += each.elements
        _work(found, Work(each.kernel, _name_of(draw), dtype), each.elements, computed)


def _work(found: Share, work: Work, stored: int, computed: int) -> None:
    before = found.work.get(work, (0, 0))
    found.work[work] = (before[0] + stored, before[1] + computed)


def _build(found: Share, piece: Piece, targets: Sequence[Target], dtype: str) -> None:
    """Add what a structured piece builds; once for several parts if it builds the whole for each.

    Of numbered weights, that for each of which a part is there.
    """
    initializer: Any = piece.initializer
    if not targets:
        return
    inside = sum(math.prod(target.shape) for target in targets)
    found.kept += inside
    dims = initializer.numbered
    leading = [zip(target.offsets[:dims], target.shape[:dims], strict=True) for target in targets]
    parts = [place for each in leading for place in product(*(range(o, o + n) for o, n in each))]
    weights = len(set(parts))
    found.built += weights * math.prod(piece.shape[dims:]) if initializer.builds_whole else inside
    if initializer.drawn_together:
        wide = dtype if dtype == "float64" else "float32"
        found.together[Together(piece.shape[dims:], wide)] += weights
    else:
        found.afterwards += (weights if initializer.builds_whole else len(parts)) * initializer.fills


class Launched(NamedTuple):
    """A launch, or part of the one that a ``group`` has; how many elements it stores, and computes.

    Of what could share a launch that is as if it did.
    """

    kernel: str
    group: tuple[Hashable, ...] | None
    elements: int
    computed: int


def _launched(draw: Draw, target: Target, itemsize: int) -> Iterator[Launched]:
    """The launches of a fill, by ``triton_kernels``' rules."""
    from tritoninit.kernels import triton_kernels as kernels

    count = math.prod(target.shape)
    dims = stream.collapse(target.shape, target.memory, draw.strides)
    if kernels.is_run(dims):
        tile = 4 * kernels.COUNTERS
        tiles = (draw.start + count - 1) // tile - draw.start // tile + 1
        aligned = (target.at - draw.start) * itemsize % 16 == 0
        yield Launched("table_kernel", (kernels.variant(draw), aligned), count, tiles * tile)
    elif len(dims) > DIMS:
        inner = target._replace(shape=target.shape[1:], memory=target.memory[1:])
        for k in range(target.shape[0]):
            moved = draw._replace(start=draw.start + k * draw.strides[0], strides=draw.strides[1:])
            yield from _launched(moved, inner._replace(at=target.at + k * target.memory[0]), itemsize)
    elif goes_by_rows(dims):
        found = grouping(dims, target.at, draw.start, itemsize, among_others=True)
        size = 2 * kernels.COUNTERS // found.width
        wide = kernels.is_wide(found, size)
        group = (kernels.variant(draw), wide, found.matrix, found.unit, found.singles, found.width)
        kernel = "edged_rows_table_kernel" if found.singles else "rows_table_kernel"  # as the counts have it
        yield Launched(kernel, group, count, -(-found.total // size) * size * found.width)
    else:  # each place draws a block of four elements
        programs = -(-count // kernels.PLACES)
        yield Launched("scattered_kernel", None, count, 4 * programs * kernels.PLACES)


def _variant(draw: Draw) -> int:
    from tritoninit.kernels import triton_kernels as kernels

    return kernels.variant(draw)


def _name_of(draw: Draw) -> str:
    """The kernels' name for a distribution."""
    from tritoninit.kernels import triton_kernels as kernels

    number = _variant(draw) % kernels.STOCHASTIC.value
    return next(name for name, each in kernels.DISTRIBUTIONS.items() if each == number)


def _is_zero(draw: Draw) -> bool:
    return draw.distribution == "constant" and draw.parameters[0] == 0
