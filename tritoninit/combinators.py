"""Initializers made of others, in any nesting: rows of zeros, parts side by side, times a factor, kept."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from operator import add, gt

from tritoninit.fans import Axes
from tritoninit.fills import Atom, Constant, Initializer, Piece, pieces_of
from tritoninit.kernels.lowering import ParameterError, integer, integers, plain
from tritoninit.plan import KeySource, Plan
from tritoninit.rounding import NEAREST, check_rounding
from tritoninit.targets import Target
from tritoninit.window import Window


@dataclass(frozen=True)
class ZeroRow(Initializer):
    """``initializer``, but zeros in one row: the vector of an embedding's padding index.

    Args:
        initializer: of the whole tensor, its zero row included.
        row: along dimension 0; negative ones count from the end.

    Raises:
        TypeError: no initializer, or a row that is no integer.
    """

    initializer: Initializer
    row: int

    def __post_init__(self) -> None:
        _check_initializer(self.initializer)
        object.__setattr__(self, "row", integer("row", self.row))

    @property
    def random(self) -> bool:
        return self.initializer.random

    def of_weight(self, axes: Axes | None, shape: Sequence[int]) -> Initializer:
        return replace(self, initializer=self.initializer.of_weight(axes, shape))

    def check(self, target: Target, window: Window) -> None:
        self.initializer.check(target, window)  # the zero row may be all that is left of it
        super().check(target, window)

    def pieces(self, shape: Sequence[int]) -> Sequence[Piece]:
        found = pieces_of(self.initializer, shape)
        rows = shape[0] if shape else 0
        if shape and not rows:
            return found
        if not -rows <= self.row < rows:
            raise ValueError(f"no row {self.row} in a tensor of shape {tuple(shape)}")
        row = self.row % rows
        parts: list[Piece] = []
        for piece in found:
            if piece.initializer.by_place:  # apart from the zeros, so that all are written together
                parts += (*_rows(piece, 0, row), *_rows(piece, row + 1, rows))
            else:
                parts.append(piece)
        return (*parts, Piece(Constant(0.0), (row, *(0,) * (len(shape) - 1)), (1, *shape[1:])))


def _rows(piece: Piece, start: int, stop: int) -> Iterator[Piece]:
    """What of a piece lies in the rows from ``start`` to ``stop`` of the tensor, if anything does."""
    begin, end = max(piece.offsets[0], start), min(piece.offsets[0] + piece.shape[0], stop)
    if begin < end:
        yield piece._replace(offsets=(begin, *piece.offsets[1:]), shape=(end - begin, *piece.shape[1:]))


@dataclass(frozen=True)
class Stacked(Initializer):
    """Equal parts along one axis, each by an initializer of its own, for a tensor of the part's shape.

    What is random in elements that are independent is drawn by their places in the whole; a structured part
    (an orthogonal matrix) with ``key.fold_in(number of the part)``.

    Args:
        initializers: in the order of the parts.
        axis: along which they lie; negative ones count from the end.

    Raises:
        TypeError: a part that is no initializer.
        ParameterError: no part.
    """

    initializers: tuple[Initializer, ...]
    axis: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "initializers", tuple(self.initializers))
        if not self.initializers:
            raise ParameterError("a stack has at least one part")
        for each in self.initializers:
            _check_initializer(each)
        object.__setattr__(self, "axis", integer("axis", self.axis))

    def __repr__(self) -> str:
        first, *others = self.initializers
        equal = len(others) > 0 and all(each == first for each in others)
        parts = f"({first!r},) * {len(others) + 1}" if equal else repr(self.initializers)
        return f"Stacked({parts}, axis={self.axis})"

    @property
    def random(self) -> bool:
        return any(each.random for each in self.initializers)

    def of_weight(self, axes: Axes | None, shape: Sequence[int]) -> Initializer:
        count = len(self.initializers)
        part = part_shape(shape, self.axis, count)
        meanings: Sequence[Axes | None] = [None] * count
        if axes is not None:
            meanings = axes.of_parts(self.axis, count, shape)
        meant = (
            each.of_weight(meaning, part) for each, meaning in zip(self.initializers, meanings, strict=True)
        )
        return replace(self, initializers=tuple(meant))

    def pieces(self, shape: Sequence[int]) -> Sequence[Piece]:
        part = part_shape(shape, self.axis, len(self.initializers))
        axis = self.axis % len(shape)
        found = []
        for number, initializer in enumerate(self.initializers):
            for piece in pieces_of(initializer, part):
                begin = number * part[axis] + piece.offsets[axis]
                offsets = (*piece.offsets[:axis], begin, *piece.offsets[axis + 1 :])
                found.append(piece._replace(offsets=offsets, path=(number, *piece.path)))
        return found


@dataclass(frozen=True)
class BlockDiagonal(Initializer):
    """Equal blocks along the diagonal of dimensions 0 and 1, each by ``initializer``; zeros beside them.

    Fans are those of one block. What is random in elements that are independent is drawn by their places in
    the whole; a structured block (an orthogonal matrix) with ``key.fold_in(number of the block)``.

    Args:
        initializer: of one block, a tensor of the whole's dimensions.
        blocks: how many there are; both dimensions are multiples.

    Raises:
        TypeError: no initializer.
        ParameterError: no block.
    """

    initializer: Initializer
    blocks: int

    def __post_init__(self) -> None:
        _check_initializer(self.initializer)
        object.__setattr__(self, "blocks", integer("blocks", self.blocks))
        if self.blocks < 1:
            raise ParameterError(f"at least one block, not {self.blocks}")

    @property
    def random(self) -> bool:
        return self.initializer.random

    def of_weight(self, axes: Axes | None, shape: Sequence[int]) -> Initializer:
        """The same; what the dimensions of one block mean, modules do not say."""
        return replace(self, initializer=self.initializer.of_weight(None, self._block(shape)))

    def _block(self, shape: Sequence[int]) -> tuple[int, ...]:
        return part_shape(part_shape(shape, 0, self.blocks), 1, self.blocks)

    def pieces(self, shape: Sequence[int]) -> Sequence[Piece]:
        if len(shape) < 2:
            raise ValueError(f"blocks along a diagonal have two dimensions or more, unlike {tuple(shape)}")
        block = self._block(shape)
        found = [Piece(Constant(0.0), (0,) * len(shape), tuple(shape))]
        for number in range(self.blocks):
            for piece in pieces_of(self.initializer, block):
                row, column, *others = piece.offsets
                offsets = (number * block[0] + row, number * block[1] + column, *others)
                found.append(piece._replace(offsets=offsets, path=(number, *piece.path)))
        return found


def part_shape(shape: Sequence[int], axis: int, count: int) -> tuple[int, ...]:
    """The shape of each of ``count`` equal parts along an axis.

    Raises:
        ValueError: there are none.
    """
    shape = integers("shape", shape)
    if not -len(shape) <= axis < len(shape):
        raise ValueError(f"no dimension {axis} in shape {shape}")
    axis %= len(shape)
    size, rest = divmod(shape[axis], count)
    if rest:
        raise ValueError(f"dimension {axis} of shape {tuple(shape)} has no {count} equal parts")
    return (*shape[:axis], size, *shape[axis + 1 :])


@dataclass(frozen=True)
class Scaled(Initializer):
    """What ``initializer`` is for a tensor, with its values times ``factor``.

    Args:
        initializer: any but :class:`Keep`.
        factor: finite, not negative.

    Raises:
        TypeError: no initializer.
        ParameterError: no such factor.
    """

    initializer: Initializer
    factor: float

    def __post_init__(self) -> None:
        _check_initializer(self.initializer)
        object.__setattr__(self, "factor", plain("factor", self.factor))
        if not 0 <= self.factor < math.inf:
            raise ParameterError(f"a factor is finite and not negative, unlike {self.factor}")

    @property
    def random(self) -> bool:
        return self.initializer.random

    def of_weight(self, axes: Axes | None, shape: Sequence[int]) -> Initializer:
        return replace(self, initializer=self.initializer.of_weight(axes, shape))

    def pieces(self, shape: Sequence[int]) -> Sequence[Piece]:
        return [
            piece._replace(initializer=piece.initializer.times(self.factor))
            for piece in pieces_of(self.initializer, shape)
        ]


@dataclass(frozen=True)
class StochasticallyRounded(Initializer):
    """``initializer``, whose values are rounded to 16 and 8 bits up or down at random, right in the mean.

    Of the two numbers of the dtype next to the float32 value x, low <= x <= high, the upper one with the
    probability (x - low) / (high - low): to 2**-24, which makes a difference only below the dtype's normal
    numbers. What the dtype has stays as it is. The random words are a stream of their own beside the values',
    a function of the key and the element's place, the same on every device and shard. float32 and float64
    are not rounded, and stay as they are; so does what takes no key, such as constants and given values,
    which are rounded to nearest.

    Uniform and truncated normal values stay within their bounds, a uniform's below its upper one: they are
    kept between the first and the last number of the dtype there before they are rounded.

    Args:
        initializer: any; of parts that others set, such as those of :class:`Stacked`, all of them.

    Raises:
        TypeError: no initializer.

    >>> from tritoninit import Key, Normal
    >>> import torch
    >>> x = torch.empty(10**6, dtype=torch.bfloat16)
    >>> round(float(StochasticallyRounded(Normal(1.003, 0.0))(x, key=Key(0)).double().mean()), 4)
    1.003
    """

    initializer: Initializer

    def __post_init__(self) -> None:
        _check_initializer(self.initializer)

    @property
    def random(self) -> bool:
        return self.initializer.random

    def of_weight(self, axes: Axes | None, shape: Sequence[int]) -> Initializer:
        return replace(self, initializer=self.initializer.of_weight(axes, shape))

    def pieces(self, shape: Sequence[int]) -> Sequence[Piece]:
        return [
            piece._replace(initializer=piece.initializer.stochastically())
            for piece in pieces_of(self.initializer, shape)
        ]


def rounded(initializer: Initializer, rounding: str) -> Initializer:
    """An initializer whose values are rounded as a word says; itself where that makes no difference.

    Raises:
        ParameterError: the word is none.
    """
    check_rounding(rounding)
    if rounding == NEAREST or not initializer.random or isinstance(initializer, StochasticallyRounded):
        return initializer
    if isinstance(initializer, CopyOf):  # which is about the whole parameter
        return CopyOf(initializer.name, rounded(initializer.initializer, rounding))
    return StochasticallyRounded(initializer)


@dataclass(frozen=True)
class Patch:
    """A hyper-rectangle of a tensor that an initializer of its own sets.

    Args:
        initializer: for a tensor of the rectangle's shape.
        offsets: where it begins, one number a dimension.
        shape: of the rectangle.

    Raises:
        TypeError: no initializer.
        ParameterError: an offset that is negative, or not one a dimension.
    """

    initializer: Initializer
    offsets: tuple[int, ...]
    shape: tuple[int, ...]

    def __post_init__(self) -> None:
        _check_initializer(self.initializer)
        for name in ("offsets", "shape"):
            object.__setattr__(self, name, integers(name, getattr(self, name)))
        if len(self.offsets) != len(self.shape):
            raise ParameterError(f"offsets {self.offsets} for a patch of shape {self.shape}")


@dataclass(frozen=True)
class Patched(Initializer):
    """``initializer``, and then patches on top, later ones over those before.

    What is random in elements that are independent is drawn by their places in the whole; a structured patch
    with ``key.fold_in(-1 - number of the patch)``.

    Args:
        initializer: of the whole tensor.
        patches: in order.

    Raises:
        TypeError: no initializer, or patches that are none.
    """

    initializer: Initializer
    patches: tuple[Patch, ...]

    def __post_init__(self) -> None:
        _check_initializer(self.initializer)
        object.__setattr__(self, "patches", tuple(self.patches))
        if not all(isinstance(patch, Patch) for patch in self.patches):
            raise TypeError("patches are a sequence of Patch")

    @property
    def random(self) -> bool:
        return self.initializer.random or any(patch.initializer.random for patch in self.patches)

    def pieces(self, shape: Sequence[int]) -> Sequence[Piece]:
        found = [*pieces_of(self.initializer, shape)]
        if 0 in shape:
            return found
        for number, patch in enumerate(self.patches):
            ends = [offset + size for offset, size in zip(patch.offsets, patch.shape, strict=True)]
            if len(ends) != len(shape) or min(patch.offsets, default=0) < 0 or any(map(gt, ends, shape)):
                raise ValueError(f"no {patch} in a tensor of shape {tuple(shape)}")
            for piece in pieces_of(patch.initializer, patch.shape):
                offsets = tuple(map(add, patch.offsets, piece.offsets))
                found.append(piece._replace(offsets=offsets, path=(-1 - number, *piece.path)))
        return found


@dataclass(frozen=True)
class AsOne(Initializer):
    """``initializer`` of the whole tensor as torch.nn.init sees it: one weight (out, in, *receptive field).

    In a rule for a model, others ask the module what its weight's dimensions mean, and draw packed
    projections, gates and groups each for themselves; its code may not have.

    Args:
        initializer: whatever its module says, for all of the tensor.

    Raises:
        TypeError: no initializer.
    """

    initializer: Initializer

    def __post_init__(self) -> None:
        _check_initializer(self.initializer)

    @property
    def random(self) -> bool:
        return self.initializer.random

    def pieces(self, shape: Sequence[int]) -> Sequence[Piece]:
        return pieces_of(self.initializer, shape)


@dataclass(frozen=True)
class CopyOf(Initializer):
    """What code made a copy of another parameter: the same random numbers, by the key of that one's name.

    For :func:`~tritoninit.initialize_`, which gives every other parameter the key of its own name. The two
    are equal if their initializers are, whether the other is set in the same call or not.

    Args:
        name: the qualified name of the other.
        initializer: of this one.

    Raises:
        TypeError: a name that is no string, or no initializer.
    """

    name: str
    initializer: Initializer

    def __post_init__(self) -> None:
        _check_initializer(self.initializer)
        if not isinstance(self.name, str):
            raise TypeError(f"a parameter's name is a string, not {self.name!r}")

    @property
    def random(self) -> bool:
        return self.initializer.random

    def of_weight(self, axes: Axes | None, shape: Sequence[int]) -> Initializer:
        return replace(self, initializer=self.initializer.of_weight(axes, shape))

    def pieces(self, shape: Sequence[int]) -> Sequence[Piece]:
        return pieces_of(self.initializer, shape)


def key_name(name: str, initializer: Initializer) -> str:
    """By which name a parameter of ``name`` has its key."""
    return initializer.name if isinstance(initializer, CopyOf) else name


def _check_initializer(value: object) -> None:
    if not isinstance(value, Initializer):
        raise TypeError(f"not an Initializer: {value!r}")


@dataclass(frozen=True)
class Keep(Atom):
    """Leave the tensor, or a part of it, as it is: loaded, frozen or set by hand."""

    random = False

    def check(self, target: Target, window: Window) -> None:
        pass

    def add(self, plan: Plan, target: Target, key: KeySource, window: Window) -> None:
        pass

    def times(self, factor: float) -> Atom:
        raise ValueError("what is kept has no scale")
