"""What is wrong with a model's parameters and buffers, and what may be meant; the sentences that say so.

Each is said of one tensor (:func:`_mistakes`, :func:`_oddities`), of several that hold the same random
numbers (:func:`_repeated`), or of two that share memory (:func:`_sharing`). How far from what was asked
for is too far, ``moments.py`` says.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Final, NamedTuple

import torch
from torch import Tensor, nn

from tritoninit.auditing.assignments import TORCH, Assignment
from tritoninit.auditing.formulas import looks_drawn
from tritoninit.auditing.moments import ALARM, Expected, Moments, expected, judged, measure
from tritoninit.auditing.outliers import LARGEST, outliers, support
from tritoninit.auditing.overlap import share_memory
from tritoninit.auditing.reading import check_readable, pieces
from tritoninit.auditing.records import Audit, Coverage, TensorRecord
from tritoninit.auditing.shares import Share, combined, measured, summed
from tritoninit.distributed.exchange import worked_out
from tritoninit.distributed.held import held_by, is_dtensor, local_of
from tritoninit.extents import extent
from tritoninit.fills import Fill
from tritoninit.models.scopes import WHOLE, Names, Scope
from tritoninit.models.slots import slots
from tritoninit.targets import TargetError, dtype_name
from tritoninit.window import Window
from tritoninit.windows import Windows
from tritoninit.words import describe, lowered, name_of_many, name_pattern, short

_FEWEST: Final = 16  # of fewer elements, equal ones may be chance or design


def audit(
    model: nn.Module,
    *,
    report: Sequence[Assignment] | None = None,
    gather: bool = False,
    prefix: Names = "",
    windows: Mapping[str, Window | Windows] | None = None,
) -> Audit:
    """Measure a model's parameters and buffers, however it was initialised, and look for mistakes.

    Findings: NaN (infinities too, but in buffers, where masks hold them, they are a remark); tensors without
    memory; the same random numbers, scaled or not, at the start of two parameters, as when a generator is
    seeded anew or a layer copied (of parameters that need no gradient only if a report says that they are
    random); parameters that share memory without being tied. With a report also a mean or a standard
    deviation more than 8 standard errors (:data:`~tritoninit.auditing.moments.ALARM`) from what the
    initializer says, an element where it does not reach, and a constant that is not one. Of other parameters,
    elements that so many draws do not reach (:func:`~tritoninit.auditing.outliers.outliers` has the
    threshold and its rate of false alarms), or that have no square in float32; in buffers a remark, too.
    Weights that are zero throughout are a remark. Each tensor is read twice, or four times if it is small or
    something in it is far out, where it is, in a few MiB of scratch.

    Args:
        model: any module.
        report: what ``initialize_`` returned for it; measured again, unlike ``report.audit``.
        gather: measure what all ranks hold, as one model: its fingerprint is a single process's, and replicas
            that differ are a finding. All ranks of the default process group have to call this then. Without
            it nobody communicates, and of DTensors what this rank holds is measured.
        prefix: what names are in the model that this is a part of, as ``initialize_`` has it; without it and
            ``windows``, those that it was given for the report.
        windows: by full names or globs, which part of the whole a local tensor is.

    Returns:
        What was found, which prints as a table.

    Raises:
        TypeError: ``model`` is no module, or ``report`` no assignments.
        ValueError: a window is of nothing in the model; with ``gather``, another rank raised.
    """

    def look() -> list[_Subject]:
        given: Sequence[object] = report or ()
        if not all(isinstance(each, Assignment) for each in given):
            raise TypeError(f"a report is a sequence of Assignment, not {given!r:.60}")
        scope = Scope(prefix, {} if windows is None else windows)
        if scope == WHOLE:
            scope = getattr(report, "scope", WHOLE)
        return _subjects_in(model, report or (), scope)

    return _audit(look, reported=report is not None, gather=gather)


def audit_of(
    model: nn.Module | None,
    done: Iterable[Assignment],
    noticed: Iterable[tuple[str, str]] = (),
    scope: Scope = WHOLE,
    gather: bool = False,
) -> Audit:
    """As :func:`audit`, of what was done; without a model, of the tensors that it was done to.

    What was ``noticed`` then, of which name, is a remark.
    """

    def look() -> list[_Subject]:
        return _subjects(done) if model is None else _subjects_in(model, done, scope)

    return _audit(look, reported=True, noticed=noticed, gather=gather)


class _Subject(NamedTuple):
    """One parameter or buffer to be looked at, and what was done to it."""

    name: str
    tensor: Tensor
    is_buffer: bool
    assignment: Assignment | None
    is_parametrized: bool = False  # what was drawn went through a function: nothing is expected of the result
    memory: Tensor | None = None  # what holds the elements that are here, where that is not the tensor itself
    windows: Window | Windows | None = None  # where those lie in the whole, where the tensor does not say it

    @property
    def held(self) -> Tensor:
        """What holds the elements that are here."""
        return self.tensor if self.memory is None else self.memory

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole."""
        return tuple(self.tensor.shape) if self.windows is None else self.windows.global_shape

    @property
    def is_set(self) -> bool:
        return self.assignment is not None and bool(self.assignment.backend)


def _subjects(assignments: Iterable[Assignment]) -> list[_Subject]:
    by_name = {each.name: each for each in assignments}
    return [
        _Subject(name, each.tensor, not isinstance(each.tensor, nn.Parameter), each)
        for name, each in by_name.items()
    ]


def _subjects_in(model: nn.Module, assignments: Iterable[Assignment], scope: Scope = WHOLE) -> list[_Subject]:
    by_name = {each.name: each for each in assignments}
    return [
        _Subject(
            slot.name,
            slot.tensor,
            slot.is_buffer,
            by_name.get(slot.name),
            slot.is_parametrized,
            slot.memory,
            slot.windows,
        )
        for slot in slots(model, scope)
    ]


def _audit(
    look: Callable[[], list[_Subject]],
    reported: bool,
    noticed: Iterable[tuple[str, str]] = (),
    gather: bool = False,
) -> Audit:
    subjects: list[_Subject] = []
    wrong: dict[str, str] = {}

    def here() -> list[Share]:
        subjects.extend(look())
        return [_share(each) for each in subjects]

    if gather:
        by_name, wrong = combined(worked_out(here, None, "look at"))
        shares = list(by_name.values())
        pairs = [(each, by_name[each.name]) for each in subjects]
    else:
        shares = here()
        pairs = list(zip(subjects, shares, strict=True))

    def said() -> tuple[list[str], ...]:
        return _said(pairs, reported, noticed)

    everyone = worked_out(said, None, "look at") if gather else [said()]
    findings, remarks, untouched, twice = (
        [*dict.fromkeys(chain.from_iterable(each))] for each in zip(*everyone, strict=True)
    )
    findings += _sentences(wrong.items())
    rows = tuple(share.row for share in shares)
    nonfinite = tuple(row.name for row in rows if row.nan or row.inf)
    return Audit(
        rows,
        tuple(sorted(findings)),
        tuple(sorted(remarks)),
        Coverage(tuple(untouched), tuple(twice), nonfinite),
        tuple(share.row.name for share in shares if share.is_partial),
    )


def _said(
    pairs: Sequence[tuple[_Subject, Share]], reported: bool, noticed: Iterable[tuple[str, str]]
) -> tuple[list[str], ...]:
    """What is found, what is remarked, and the names of what is not set, and of what shares memory."""
    shared = _sharing([each for each, _ in pairs])
    findings = _sentences((each.name, what) for each, share in pairs for what in _mistakes(each, share))
    findings += [
        f"{a} and {b} share memory and are not tied: what sets one sets the other" for a, b in shared
    ]
    findings += _repeated((each, share.row) for each, share in pairs)
    odd = ((each.name, what) for each, share in pairs for what in _oddities(each, share))
    remarks = _sentences((*noticed, *odd))
    untouched = [s.name for s, share in pairs if share.row.hash is None or (reported and not s.is_set)]
    return findings, remarks, untouched, [*dict.fromkeys(chain.from_iterable(shared))]


def _sentences(said: Iterable[tuple[str, str]]) -> list[str]:
    """What is said of each name, in one sentence where it is the same for names of a pattern."""
    alike: dict[tuple[str, str], list[str]] = defaultdict(list)
    for name, what in said:
        alike[name_pattern(name), what].append(name)
    return [f"{name_of_many(names)} {what}" for (_, what), names in alike.items()]


def _mistakes(subject: _Subject, share: Share) -> Iterator[str]:
    row = share.row
    reason = _unreadable(subject.held, subject.windows)
    if reason is not None:
        yield f"cannot be looked at: {reason}"
    elif row.nan or (row.inf and not subject.is_buffer):
        yield _nonfinite(row)
    else:
        yield from _deviations(share)
        if not subject.is_buffer or subject.is_set:
            yield from _far_out(subject, share)


def _oddities(subject: _Subject, share: Share) -> Iterator[str]:
    row = share.row
    if subject.is_buffer and row.inf and not row.nan:
        yield _nonfinite(row)
    elif subject.is_buffer and not subject.is_set:
        yield from _far_out(subject, share)
    elif len(row.shape) > 1 and row.constant == 0 and not (subject.is_buffer or share.is_partial):
        yield "is zero throughout"
    done = subject.assignment
    if done is not None and done.became:
        yield f"is not as {describe(done.initializer, row.shape)} says: {done.became}"
    if done is not None and done.backend == TORCH:
        yield f"is {row.summary}"


def _share(subject: _Subject) -> Share:
    tensor = subject.held
    readable = _unreadable(tensor, subject.windows) is None
    lazy = nn.parameter.is_lazy(tensor)
    shape = () if lazy or tensor.is_nested else subject.shape
    wanted = _expected(subject)
    done = subject.assignment
    row = TensorRecord(
        name=subject.name,
        kind="buffer" if subject.is_buffer else "parameter",
        shape=shape,
        dtype=dtype_name(tensor),
        bytes=_bytes(tensor, shape),
        initializer=repr(done.initializer) if done else None,
        lowered=repr(lowered(done.initializer, shape)) if done else None,
        summary=describe(done.initializer, shape) if done else None,
        seed=done.key.seed if done and done.key else None,
        stream=done.key.stream if done and done.key else None,
        backend=done.backend if done else "",
        code=done.code if done else "",
        hash=None,
        mean=None,
        std=None,
        min=None,
        max=None,
        nan=0,
        inf=0,
        expected_mean=wanted.mean if wanted else None,
        expected_std=wanted.std if wanted else None,
        z_mean=None,
        z_std=None,
    )
    return summed(Share(row, wanted, measured(tensor, subject.windows) if readable else None))


def _bytes(x: Tensor, shape: Sequence[int]) -> int:
    """How many the elements of a whole tensor take, which only those that lie side by side tell."""
    strided = x.layout is torch.strided and not nn.parameter.is_lazy(x) and not x.is_nested
    return math.prod(shape) * x.itemsize if strided else 0


def _unreadable(x: Tensor, windows: Window | Windows | None = None) -> str | None:
    """Why there is nothing to measure in a tensor, or None."""
    try:
        check_readable(local_of(x))
        if is_dtensor(x):
            held_by(x)
        if windows is not None:
            windows.check(x.shape)
    except (TargetError, ValueError) as error:
        return str(error)
    return None


def _expected(subject: _Subject) -> Expected | None:
    if not subject.is_set or subject.assignment is None or subject.is_parametrized:
        return None
    fill = lowered(subject.assignment.initializer, subject.shape)
    return expected(fill, subject.tensor.dtype) if isinstance(fill, Fill) else None


def _deviations(share: Share) -> Iterator[str]:
    """What is not as the initializer says."""
    row, wanted = share.row, share.wanted
    if wanted is None or row.mean is None:
        return
    if not wanted.std:
        if row.constant != wanted.mean:
            extremes = f"{short(row.min, 6)} to {short(row.max, 6)}"
            yield f"should be {short(wanted.mean, 6)} throughout and is {extremes}"
        return
    if not judged(share.count, wanted.kurtosis):
        return
    for what, value, right, z in (
        ("mean", row.mean, wanted.mean, row.z_mean),
        ("standard deviation", row.std, wanted.std, row.z_std),
    ):
        if z is not None and abs(z) > ALARM:
            yield (
                f"has a {what} of {short(value, 6)} where {row.summary} has {short(right, 6)}:"
                f" {short(abs(z), 3)} standard errors apart"
            )


def _far_out(subject: _Subject, share: Share) -> Iterator[str]:
    """What lies where no draw does; of a DTensor this process judges the elements that it holds."""
    x, row, done = subject.held, share.row, subject.assignment
    if row.min is None or row.max is None or not (x.is_floating_point() or x.is_complex()):
        return
    farthest = max(row.min, row.max, key=abs)
    known = subject.is_set and done is not None and not subject.is_parametrized
    ends = support(done.initializer, row.shape, x.dtype) if known and done else None
    if ends is not None:
        varies = share.wanted is None or bool(share.wanted.std)  # of one number another sentence says it
        for value, is_out in ((row.min, row.min < ends[0]), (row.max, row.max > ends[1])):
            if is_out and varies:
                yield f"reaches {short(value, 3)}, which {row.summary} does not"
    elif abs(farthest) > LARGEST:
        yield f"reaches {short(farthest, 3)}, which has no square in float32"
    else:
        here = local_of(x)
        known_moments = Moments(_elements(x), row.mean, row.std, row.min, row.max)
        found = outliers(here, known_moments if here is x else measure(here))
        if found is not None:
            what = (
                short(found.value, 3)
                if found.elements == 1
                else f"{found.elements} like {short(found.value, 3)}"
            )
            if found.distance is None:
                yield f"is {short(found.median, 3)} but for {what}"
            else:
                yield (
                    f"holds {what}, {short(found.distance, 3)} standard deviations of the others away, where"
                    f" draws reach {short(found.reach, 2)}"
                )


def _elements(x: Tensor) -> int:
    """As moments count them."""
    return x.numel() * (2 if x.is_complex() else 1)


def _nonfinite(row: TensorRecord) -> str:
    counts = [f"{count:,} {what}" for count, what in ((row.nan, "NaN"), (row.inf, "infinite")) if count]
    return f"holds {' and '.join(counts)} of {math.prod(row.shape):,} elements"


def _repeated(pairs: Iterable[tuple[_Subject, TensorRecord]]) -> Iterator[str]:
    """What is said of parameters that begin with the same random numbers, whatever their scale and shape."""
    alike: dict[tuple[str, ...], list[tuple[_Subject, TensorRecord]]] = defaultdict(list)
    for subject, row in pairs:
        done = subject.assignment
        # Frozen ones that nobody is known to have drawn may hold a formula's values, such as sinusoids.
        drawn = subject.tensor.requires_grad if done is None else done.key is not None
        if row.hash and drawn and not subject.is_buffer and row.mean is not None and row.constant is None:
            start = _random_start(local_of(subject.held))
            if start is not None:
                alike[start].append((subject, row))
    for group in alike.values():
        if len(group) > 1:
            names: dict[str, list[str]] = defaultdict(list)
            for subject, _ in group:
                names[name_pattern(subject.name)].append(subject.name)
            whole = len({(row.hash, row.dtype, row.shape) for _, row in group}) == 1
            what = "hold" if whole else "begin with"
            yield f"{' and '.join(map(name_of_many, names.values()))} {what} the same random numbers"


def _random_start(x: Tensor) -> tuple[str, ...] | None:
    """A tensor's first elements relative to the very first; None if they do not look random."""
    if x.numel() < _FEWEST or not x.is_floating_point() or not looks_drawn(x):
        return None
    first = next(pieces(x, _FEWEST))[1].double().tolist()
    return tuple(f"{value / first[0]:.4g}" for value in first[1:]) if first[0] else None


def _sharing(subjects: Sequence[_Subject]) -> list[tuple[str, str]]:
    """Pairs of names that share memory, though they are no tied parameters: those have one name."""
    spans: dict[torch.device, list[tuple[int, int, _Subject]]] = defaultdict(list)
    for each in subjects:
        x = local_of(each.held)
        if _unreadable(each.held) is None and x.numel():
            strides = [stride * x.itemsize for stride in x.stride()]
            begin, end = (x.data_ptr() + side for side in extent(x.itemsize, x.shape, strides))
            spans[x.device].append((begin, end, each))
    found = []
    for places in spans.values():
        open_: list[tuple[int, int, _Subject]] = []
        for begin, end, each in sorted(places, key=lambda place: place[0]):
            open_ = [place for place in open_ if place[1] > begin]
            found += [
                (other.name, each.name)
                for _, _, other in open_
                if share_memory(local_of(other.held), local_of(each.held))
            ]
            open_.append((begin, end, each))
    return found
