"""What a tape says of tensors: the initializer of each, as far as there is one that says it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor, nn

from tritoninit.combinators import Patch, Patched, Scaled, Stacked, ZeroRow
from tritoninit.fills import Constant, Fill, Initializer, Normal, TruncatedNormal, Uniform, sole_fill
from tritoninit.initializers import Ones, Zeros
from tritoninit.interception.asked import Asked, Drawn, ReadBackError, Unrecordable, constant, of_number
from tritoninit.interception.regions import Region
from tritoninit.interception.tape import MOST_PARTS, At, Tape, Write
from tritoninit.keys import Key
from tritoninit.models.rules import OwnCode
from tritoninit.models.slots import Slot
from tritoninit.recorded import Recorded

_COPIES = frozenset(
    (
        *("clone", "to", "type", "float", "half", "bfloat16", "double", "cpu", "cuda", "contiguous"),
        *("type_as", "as_tensor", "asarray", "reshape", "flatten", "__deepcopy__"),
    )
)
_ARITHMETIC = frozenset(("mul", "mul_", "div", "div_", "add", "add_", "sub", "sub_", "neg", "neg_"))
_CONSTANTS = (Constant, Zeros, Ones)
_MOST_STEPS = 64  # one after another, of which each goes on with what the one before left
_MOST_COMPUTED = 1 << 16  # elements, to see whether they are all the same


class Summary:
    """The initializers of tensors, from a tape."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape
        self._drawn: list[Drawn] = []
        self._depth = 0

    def asked(self, slot: Slot) -> Asked:
        """How a parameter or a buffer was set.

        Raises:
            Unrecordable: nobody can say.
        """
        tensor = slot.tensor
        if slot.is_parametrized:
            same = [each for each in slot.originals if each.shape == tensor.shape]
            if not same:
                raise Unrecordable("it is computed from tensors of other shapes")
            tensor = same[-1]
        if nn.parameter.is_lazy(tensor):
            raise Unrecordable("it has no shape yet")
        if not tensor.numel():
            return Asked(Zeros())
        if tensor.is_meta and not self._tape.knows(tensor):
            raise Unrecordable("it was not made in the block")
        try:
            return self._asked(self._tape.at(tensor))
        except ReadBackError as error:
            if slot.is_buffer or slot.is_parametrized or error.code.endswith(".__init__"):
                raise  # which cannot be called again
            return Asked(OwnCode(code=error.code))

    def _asked(self, at: At) -> Asked:
        self._drawn.clear()
        initializer = self.of(at)
        if initializer is not None:
            return Asked(initializer, tuple(self._drawn), partial(self._tape.recorded, at))
        recorded, drawn = self._tape.recorded(at)
        return Asked(_as_constant(recorded), drawn, lambda: (recorded, drawn))

    def of(self, at: At) -> Initializer | None:
        """The initializer of a tensor as it was at some point; None if none says it."""
        if self._depth == _MOST_STEPS or not _is_plain(at.region):
            return None
        self._depth += 1
        try:
            return self._of_parts(at)
        finally:
            self._depth -= 1

    def _of_parts(self, at: At) -> Initializer | None:
        base, parts = self._tape.covering(at)
        initializer = self._of_write(base, at) if base is not None else None
        if len(parts) > MOST_PARTS or (base is not None and (initializer is None or not parts)):
            return initializer if not parts else None
        patches: list[Patch] = []
        for write in parts:
            box = _box(write.region, at.region)
            if box is None:
                return None
            here = At(at.storage, write.region, write.entry.number + 1)
            what = self.of(here)
            if what is None:
                return None
            offsets, shape = box
            if shape != write.region.shape:
                fill = sole_fill(what, write.region.shape)
                if fill is None:
                    return None
                what = fill
            patches.append(Patch(what, offsets, shape))
        return _together(initializer, patches, at.region.shape)

    def _of_write(self, write: Write, at: At) -> Initializer | None:
        entry = write.entry
        if entry.reader:
            raise ReadBackError(entry.reader)
        found: Initializer | None
        if isinstance(entry.done, Initializer):
            found = entry.done
            if found.random:
                place = None if at.region == write.region else at.region
                self._drawn.append(Drawn(entry.number, at.region.bytes, place))
        elif isinstance(entry.done, Tensor):
            found = constant(entry.done)
        elif isinstance(entry.done, str):
            found = self._of_call(write)
        else:
            return None
        if found is None or write.region == at.region:
            return found
        if write.region.dtype != at.region.dtype:  # the same bits, looked at as others
            return None
        return sole_fill(found, write.region.shape)

    def _of_call(self, write: Write) -> Initializer | None:
        """What a call left in a region: of copies and of arithmetic with numbers."""
        entry, name = write.entry, str(write.entry.done).rpartition(".")[2]
        if name == "copy_":
            return self._copied(entry.arguments[1], write.region)
        if name == "__setitem__":
            return self._copied(entry.arguments[2], write.region)
        if name in _COPIES:
            return self._copied(entry.arguments[0], write.region)
        return self._arithmetic(write, name.removesuffix("_")) if name in _ARITHMETIC else None

    def _arithmetic(self, write: Write, name: str) -> Initializer | None:
        """What a sum or a product with a number is."""
        region, keywords = write.region, write.entry.keywords
        one, other = (*write.entry.arguments, None)[:2]
        by = self._number(other)
        if by is None and name in ("mul", "add") and "alpha" not in keywords:
            one, by = other, self._number(one)
        if not isinstance(one, At) or one.region.shape != region.shape or one.region.dtype != region.dtype:
            return None
        if (
            (by is None) != (name == "neg")
            or keywords.keys() - {"alpha"}
            or not region.dtype.is_floating_point
        ):
            return None
        before = self.of(one)
        return None if before is None else _affine(before, name, by or 0.0, keywords.get("alpha", 1), region)

    def _number(self, value: object) -> float | None:
        """A number, or the one that all elements of a tensor are."""
        if isinstance(value, At):
            constant = self.of(value)
            if constant is None and math.prod(value.region.shape) == 1:
                constant = self._computed(value)
            return _value(constant) if isinstance(constant, _CONSTANTS) else None
        return value if isinstance(value, (int, float)) else None

    def _computed(self, at: At) -> Initializer | None:
        """The number that an element is, if nobody drew it."""
        try:
            recorded, _ = self._tape.recorded(at)
        except Unrecordable:
            return None
        return _as_constant(recorded)

    def _copied(self, source: object, into: Region) -> Initializer | None:
        if not isinstance(source, At):
            return None
        found = _converted(self.of(source), source.region.dtype, into.dtype)
        if found is None or source.region.shape == into.shape or isinstance(found, _CONSTANTS):
            return found
        same = math.prod(into.shape) == math.prod(source.region.shape)
        return sole_fill(found, source.region.shape) if same else None


def _converted(found: Initializer | None, source: torch.dtype, into: torch.dtype) -> Initializer | None:
    """An initializer of a tensor of another dtype, and then converted; None if that is not the same.

    What is drawn in 16 bits counts as drawn in more: the law is the same.
    """
    floats = source.is_floating_point and into.is_floating_point
    if found is None or source == into or (floats and source.itemsize > into.itemsize):
        return found
    if isinstance(found, _CONSTANTS) and not (source.is_complex or into.is_complex):
        number = torch.tensor(_value(found), dtype=torch.float64, device="cpu")
        return of_number(number.to(source).to(into).item())
    return found if found.random and floats else None


def _is_plain(region: Region) -> bool:
    """Whether each element has memory of its own."""
    reach = 1
    for stride, size in sorted(zip(region.strides, region.shape, strict=True)):
        if size > 1:
            if stride < reach:
                return False
            reach += stride * (size - 1)
    return True


def _box(part: Region, whole: Region) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
    """Offsets and shape of a region within another, if it is a hyper-rectangle of that."""
    if part.dtype != whole.dtype:
        return None
    rest = part.offset - whole.offset
    offsets, shape = [0] * len(whole.shape), [1] * len(whole.shape)
    dimensions = sorted((k for k, n in enumerate(whole.shape) if n > 1), key=lambda k: -whole.strides[k])
    for k in dimensions:
        offsets[k], rest = divmod(rest, whole.strides[k])
    if rest or any(not 0 <= offset < n for offset, n in zip(offsets, whole.shape, strict=True)):
        return None
    for stride, size in zip(part.strides, part.shape, strict=True):
        if size > 1:
            found = [k for k in dimensions if whole.strides[k] == stride and shape[k] == 1]
            if not found or offsets[found[0]] + size > whole.shape[found[0]]:
                return None
            shape[found[0]] = size
    return tuple(offsets), tuple(shape)


def _together(
    base: Initializer | None, patches: Sequence[Patch], shape: tuple[int, ...]
) -> Initializer | None:
    """What a tensor is of which parts were set, in order; None if some of it never was."""
    if _covers(patches, shape):
        fill = patches[0].initializer
        if isinstance(fill, Fill) and all(patch.initializer == fill for patch in patches):
            return fill  # whose elements are drawn by their places, in whichever part
        stacked = _stacked(patches, shape)
        if stacked is not None:
            return stacked
        base = base or Zeros()
    if base is None:
        raise Unrecordable("a part of it was never set" if patches else "it was never set")
    while patches:
        first = patches[0]
        row = first.shape == (1, *shape[1:]) and isinstance(first.initializer, (Zeros, Constant))
        if not row or _value(first.initializer) != 0:
            break
        base, patches = ZeroRow(base, first.offsets[0]), patches[1:]
    return Patched(base, tuple(patches)) if patches else base


def _stacked(patches: Sequence[Patch], shape: tuple[int, ...]) -> Initializer | None:
    """Equal parts along one dimension as such."""
    sizes = {patch.shape for patch in patches}
    if len(sizes) != 1 or len(patches) < 2:
        return None
    (size,) = sizes
    cut = [k for k, (n, whole) in enumerate(zip(size, shape, strict=True)) if n != whole]
    if len(cut) != 1 or shape[cut[0]] != size[cut[0]] * len(patches):
        return None
    ordered = sorted(patches, key=lambda patch: patch.offsets)
    if len({patch.offsets for patch in patches}) != len(patches):
        return None
    return Stacked(tuple(patch.initializer for patch in ordered), cut[0])


def _covers(patches: Sequence[Patch], shape: tuple[int, ...]) -> bool:
    """Whether no element is outside of all of them."""
    ends = [
        sorted({0, size} | {p.offsets[k] for p in patches} | {p.offsets[k] + p.shape[k] for p in patches})
        for k, size in enumerate(shape)
    ]
    if math.prod(len(each) - 1 for each in ends) > _MOST_COMPUTED:
        return False
    return all(
        any(
            all(o <= x < o + n for o, n, x in zip(patch.offsets, patch.shape, corner, strict=True))
            for patch in patches
        )
        for corner in product(*(each[:-1] for each in ends))
    )


def _value(constant: Initializer) -> float:
    if isinstance(constant, Constant):
        return constant.value
    return 1.0 if isinstance(constant, Ones) else 0.0


def _affine(before: Initializer, name: str, by: float, alpha: object, region: Region) -> Initializer | None:
    """What arithmetic with a number makes of an initializer; None if none says it."""
    if not isinstance(alpha, (int, float)):
        return None
    if isinstance(before, _CONSTANTS):
        number = torch.full((), _value(before), dtype=region.dtype, device="cpu")
        other = () if name == "neg" else (by * alpha,)
        return of_number(getattr(number, name)(*other).item())
    try:
        factor = {"mul": by, "div": 1 / by if name == "div" else 1.0, "neg": -1.0}.get(name, 1.0)
        shift = {"add": alpha * by, "sub": -alpha * by}.get(name, 0.0)
        if shift == 0 and factor >= 0 and not isinstance(before, Fill):
            inner = before.initializer if isinstance(before, Scaled) else before
            return Scaled(inner, factor * (before.factor if isinstance(before, Scaled) else 1.0))
        fill = sole_fill(before, region.shape)
        return None if fill is None else _moved(fill, factor, shift)
    except (ValueError, ArithmeticError):
        return None


def _moved(fill: Fill, factor: float, shift: float) -> Initializer | None:
    """The law of ``factor * x + shift`` for numbers drawn by a fill."""
    match fill:
        case Normal(mean, std):
            return Normal(factor * mean + shift, abs(factor) * std)
        case Uniform(low, high):
            return Uniform(*sorted((factor * low + shift, factor * high + shift)))
        case TruncatedNormal(mean, std, a, b):
            ends = sorted((factor * a + shift, factor * b + shift))
            return TruncatedNormal(factor * mean + shift, abs(factor) * std, *ends)
    return None


def _as_constant(recorded: Recorded) -> Initializer:
    """Numbers that come of no draw, as the one that they all are."""
    if recorded.random or math.prod(recorded.result.shape) > _MOST_COMPUTED:
        return recorded
    return constant(recorded.values(Key(0))) or recorded
