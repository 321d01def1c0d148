"""What a tape says of tensors: the initializer of each, as far as there is one that says it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from glob import escape
from itertools import product

import torch
from torch import Tensor, nn

from tritoninit.combinators import AsOne, Patch, Patched, Scaled, Stacked, ZeroRow
from tritoninit.fans import module_axes
from tritoninit.fills import Constant, Fill, Initializer, Normal, TruncatedNormal, Uniform, sole_fill
from tritoninit.initializers import Ones, Zeros
from tritoninit.interception.regions import Region
from tritoninit.interception.tape import At, Tape, Unrecordable, Write
from tritoninit.keys import Key
from tritoninit.models.rules import Rule, RuleSet
from tritoninit.models.slots import Slot, slots
from tritoninit.recorded import Recorded

_COPIES = frozenset(
    (
        *("clone", "to", "type", "float", "half", "bfloat16", "double", "cpu", "cuda", "contiguous"),
        *("type_as", "as_tensor", "asarray", "reshape", "flatten", "__deepcopy__"),
    )
)
_MOST_COMPUTED = 1 << 16  # elements, to see whether they are all the same


class Summary:
    """From a tape to rules."""

    def __init__(self, tape: Tape) -> None:
        self._tape = tape

    def rules(self, model: nn.Module) -> RuleSet:
        """One rule a parameter and a buffer that the block set.

        Raises:
            ValueError: parameters of which nobody can say how they were set, by name.
        """
        rules: list[Rule] = []
        problems: list[str] = []
        for slot in slots(model):
            try:
                initializer = self._of_slot(slot)
            except Unrecordable as error:
                if not slot.is_buffer:
                    problems.append(f"{slot.name}: {error}")
                continue
            name = slot.name if slot.name == escape(slot.name) else escape(slot.name)
            rules.append(Rule(name, {slot.local: initializer} if slot.is_buffer else initializer))
        if problems:
            raise ValueError(f"not recorded: {'; '.join(problems)}")
        return RuleSet("recorded", f"the code of {type(model).__name__}", rules)

    def _of_slot(self, slot: Slot) -> Initializer:
        tensor = slot.tensor
        if slot.is_parametrized:
            same = [each for each in slot.originals if each.shape == tensor.shape]
            if not same:
                raise Unrecordable("it is computed from tensors of other shapes")
            tensor = same[-1]
        if nn.parameter.is_lazy(tensor):
            raise Unrecordable("it has no shape yet")
        if not tensor.numel():
            return Zeros()
        if not self._tape.knows(tensor):
            raise Unrecordable("it was not made in the block")
        at = self._tape.at(tensor)
        initializer = self.of(at) or self._tape.recorded(at)
        if isinstance(initializer, Recorded):
            initializer = _as_constant(initializer)
        return _as_asked(slot, initializer)

    def of(self, at: At) -> Initializer | None:
        """The initializer of a tensor as it was at some point; None if none says it."""
        if not _is_plain(at.region):
            return None
        base, parts = self._tape.covering(at)
        initializer = self._of_write(base, at) if base is not None else None
        if base is not None and (initializer is None or not parts):
            return initializer
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
        found: Initializer | None
        if isinstance(entry.done, Initializer):
            found = entry.done
        elif isinstance(entry.done, Tensor):
            found = _constant(entry.done)
        elif isinstance(entry.done, str):
            found = self._of_call(write)
        else:
            return None
        if found is None or write.region == at.region:
            return found
        return sole_fill(found, write.region.shape)

    def _of_call(self, write: Write) -> Initializer | None:
        """What a call left in a region: of copies and of arithmetic with numbers."""
        entry = write.entry
        name = str(entry.done).rpartition(".")[2]
        shape = write.region.shape
        first, *others = (*entry.arguments, None)
        if name == "copy_" or (name == "__setitem__" and isinstance(entry.arguments[-1], At)):
            return self._copied(entry.arguments[1 if name == "copy_" else 2], shape)
        if name in _COPIES and isinstance(first, At):
            return self._copied(first, shape)
        if not isinstance(first, At):
            first, others = (others[0], [first]) if others and isinstance(others[0], At) else (None, [])
            if name not in ("mul", "add"):
                return None
        if (
            first is None
            or not write.region.dtype.is_floating_point
            or first.region.dtype != write.region.dtype
        ):
            return None
        by = next((each for each in others if each is not None), None)
        if isinstance(by, At):
            constant = self.of(by)
            other = self.of(first)
            if name in ("mul", "mul_", "add", "add_") and not isinstance(constant, (Constant, Zeros, Ones)):
                first, constant, other = by, other, constant
            if not isinstance(constant, (Constant, Zeros, Ones)):
                return None
            by = _value(constant)
        if first.region.shape != shape or (entry.keywords and set(entry.keywords) - {"alpha"}):
            return None
        before = self.of(first)
        return (
            None
            if before is None
            else _affine(before, name.rstrip("_"), by, entry.keywords.get("alpha", 1), write.region)
        )

    def _copied(self, source: object, shape: tuple[int, ...]) -> Initializer | None:
        if not isinstance(source, At):
            return None
        found = self.of(source)
        if found is None or source.region.shape == shape:
            return found
        if isinstance(found, (Constant, Zeros, Ones)) or math.prod(shape) == math.prod(source.region.shape):
            return sole_fill(found, source.region.shape)
        return None


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
        stacked = _stacked(patches, shape)
        if stacked is not None:
            return stacked
        base = base or Zeros()
    if base is None:
        raise Unrecordable("a part of it was never set")
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


def _constant(values: Tensor) -> Initializer | None:
    """The one number that all elements are."""
    if values.is_complex() or values.dtype == torch.bool:
        return None
    first = values.flatten()[0]
    same = bool((values == first).all()) or bool(values.isnan().all())
    return _of_number(first.item()) if same else None


def _of_number(value: float) -> Initializer:
    if value == 0 and math.copysign(1, value) > 0:
        return Zeros()
    return Ones() if value == 1 else Constant(value)


def _affine(before: Initializer, name: str, by: object, alpha: object, region: Region) -> Initializer | None:
    """What arithmetic with a number makes of an initializer."""
    if name not in ("mul", "div", "add", "sub", "neg") or not isinstance(alpha, (int, float)):
        return None
    if name != "neg" and not isinstance(by, (int, float)):
        return None
    if isinstance(before, (Constant, Zeros, Ones)):
        one = torch.full((), _value(before), dtype=region.dtype, device="cpu")
        changed = one.neg() if name == "neg" else getattr(one, name)(by)
        if name in ("add", "sub") and alpha != 1:
            changed = getattr(one, name)(by, alpha=alpha)
        return _of_number(changed.item())
    number = float(by) if isinstance(by, (int, float)) else 0.0
    try:
        factor = {"mul": number, "div": 1 / number if name == "div" else 0.0, "neg": -1.0}.get(name, 1.0)
        shift = {"add": alpha * number, "sub": -alpha * number}.get(name, 0.0)
        if isinstance(before, Fill):
            return _moved(before, factor, shift)
        if shift == 0 and factor >= 0:
            if isinstance(before, Scaled):
                return replace(before, factor=before.factor * factor)
            return Scaled(before, factor)
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
    return _constant(recorded.values(Key(0))) or recorded


def _as_asked(slot: Slot, initializer: Initializer) -> Initializer:
    """An initializer that means in a rule what the code meant, which did not ask what the dimensions mean."""
    shape = tuple(slot.tensor.shape)
    try:
        same = initializer.of_weight(module_axes(slot.owner, slot.name, shape), shape) == initializer
    except ValueError:
        same = False
    return initializer if same else AsOne(initializer)
