"""What a mesh of ranks would hold, draw and launch of a model, and the proof that it is all of the model."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import product, zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tritoninit.distributed.held import is_dtensor
from tritoninit.fills import Initializer, pieces_of
from tritoninit.meshes import regions
from tritoninit.meshes.coverage import Proof, coverage
from tritoninit.meshes.layouts import Layout
from tritoninit.meshes.mesh import REPLICATE, SHARD, Mesh, kind_of
from tritoninit.meshes.regions import Placement, Split
from tritoninit.meshes.shares import Batch, Share, Together, What, Work, share, whats
from tritoninit.model_initialization import chosen
from tritoninit.models.rules import Rule
from tritoninit.models.slots import Slot
from tritoninit.schemes import TORCH_DEFAULTS
from tritoninit.targets import TargetError
from tritoninit.windows import Windows
from tritoninit.words import describe, name_of_many, name_pattern

if TYPE_CHECKING:
    from tritoninit.meshes.predictions import Predictor

Numbers: TypeAlias = npt.NDArray[Any]


class Parameter(NamedTuple):
    """A parameter, or a buffer that rules set, on a mesh.

    Attributes:
        name: its qualified name.
        shape: the global shape.
        dtype: as torch calls it.
        is_buffer: it is no parameter.
        placement: how it is cut, and who has a part of it.
        initializer: what sets it, in words.
        proof: that what ranks have of it is all of it.
        ranks: how many have a part of it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    is_buffer: bool
    placement: Placement
    initializer: str
    proof: Proof
    ranks: int


class Rank(NamedTuple):
    """What one rank does.

    Attributes:
        rank: its number.
        coordinate: where it lies in the mesh, by axis.
        elements: that it holds, those of buffers that rules set included.
        bytes: of them.
        launches: of kernels, by the grouping of plans and Triton's launcher.
        in_vain: elements that it computes and does not store.
        in_vain_share: of all that it computes.
        seconds: that its launches take on the GPU, at least; without what the host does.
    """

    rank: int
    coordinate: dict[str, int]
    elements: int
    bytes: int
    launches: int
    in_vain: int
    in_vain_share: float
    seconds: float


@dataclass(frozen=True, eq=False)
class MeshPlan:
    """A model on a mesh, on paper. Made by :func:`plan_mesh`.

    Attributes:
        mesh: the axes and their sizes.
        parameters: in the order in which a model has them, then buffers that rules set.
        gpu: the name of the one that seconds are predicted for.
        elements, bytes, launches, computed, stored, seconds: a number a rank; the third and the fourth count
            random and structured elements alone, those that are computed and those of them that are stored.
        remarks: what is not as it may seem.
    """

    mesh: Mesh
    parameters: Sequence[Parameter] = field(repr=False)
    gpu: str
    elements: Numbers = field(repr=False)
    bytes: Numbers = field(repr=False)
    launches: Numbers = field(repr=False)
    computed: Numbers = field(repr=False)
    stored: Numbers = field(repr=False)
    seconds: Numbers = field(repr=False)
    remarks: tuple[str, ...] = ()

    @property
    def faults(self) -> list[str]:
        """What is left out, or held twice by ranks that are no replicas, by name; empty if all is covered."""
        return [f"{each.name}: {fault}" for each in self.parameters for fault in each.proof.faults]

    def rank(self, number: int) -> Rank:
        """What one rank does.

        Args:
            number: from 0.

        Returns:
            Its elements, bytes, launches and seconds.

        Raises:
            ValueError: there is none of that number.
        """
        place = self.mesh.coordinate(number)
        computed, stored = int(self.computed[number]), int(self.stored[number])
        return Rank(
            number,
            dict(zip(self.mesh.names, place, strict=True)),
            int(self.elements[number]),
            int(self.bytes[number]),
            int(self.launches[number]),
            computed - stored,
            (computed - stored) / computed if computed else 0.0,
            float(self.seconds[number]),
        )

    @property
    def largest(self) -> Rank:
        """The rank that holds most bytes, the first of them."""
        return self.rank(int(self.bytes.argmax()))

    @property
    def smallest(self) -> Rank:
        """The rank that holds fewest bytes, the first of them."""
        return self.rank(int(self.bytes.argmin()))

    def held(self, number: int) -> dict[str, Windows]:
        """By name, what a rank holds: rectangles of global tensors, as a window of its memory has them.

        Args:
            number: of the rank, from 0.

        Returns:
            Windows by the parameters' names.
        """
        place = self.mesh.coordinate(number)
        return {
            each.name: regions.held(each.shape, each.placement.splits, self.mesh, place)
            for each in self.parameters
            if _holds(each.placement, self.mesh, place)
        }

    def groups(self) -> list[list[Parameter]]:
        """The parameters, those that are alike but for numbers in their names together.

        Returns:
            Lists of parameters, in the model's order.
        """

        def alike(each: Parameter) -> tuple[object, ...]:
            return name_pattern(each.name), each.shape, each.dtype, each.placement.splits, each.initializer

        found: dict[tuple[object, ...], list[Parameter]] = {}
        for each in self.parameters:
            found.setdefault(alike(each), []).append(each)
        return list(found.values())

    def as_dict(self, ranks: Iterable[int] = ()) -> dict[str, Any]:
        """All of it, as JSON has it; of single ranks the largest, the smallest and those that are given.

        Args:
            ranks: the numbers of those.

        Returns:
            Numbers, strings, lists and dictionaries.
        """
        real = [each for each in self.parameters if not each.is_buffer]
        return {
            "mesh": dict(zip(self.mesh.names, self.mesh.shape, strict=True)),
            "world_size": self.mesh.size,
            "gpu": self.gpu,
            "elements": sum(_count(each.shape) for each in real),
            "bytes": sum(_count(each.shape) * _itemsize(each.dtype) for each in real),
            "parameters": len(real),
            "all_ranks": {"elements": int(self.elements.sum()), "bytes": int(self.bytes.sum())},
            "largest": self.largest._asdict(),
            "smallest": self.smallest._asdict(),
            "most": {
                "launches": int(self.launches.max()),
                "seconds": float(self.seconds.max()),
                "in_vain_share": float(_shares(self.computed, self.stored).max()),
            },
            "ranks": [self.rank(number)._asdict() for number in ranks],
            "layout": [
                {
                    "names": name_of_many([each.name for each in group]),
                    "count": len(group),
                    "shape": list(group[0].shape),
                    "dtype": group[0].dtype,
                    "cut": str(group[0].placement),
                    "initializer": group[0].initializer,
                    "regions": group[0].proof.regions,
                    "replicas": _range(group),
                }
                for group in self.groups()
            ],
            "covered": not self.faults,
            "faults": self.faults,
            "remarks": list(self.remarks),
        }


def plan_mesh(
    module: nn.Module,
    rules: Iterable[Rule] = TORCH_DEFAULTS,
    *,
    mesh: Mesh | str | Mapping[str, int],
    layout: Layout | None = None,
    dtype: torch.dtype | None = None,
    gpu: str = "H100",
) -> MeshPlan:
    """What each rank of a mesh would hold, draw and launch to initialise its part of a model.

    Nothing is drawn and nobody is asked: the model may lie on the meta device, and the mesh be larger than
    any machine. For every parameter it is proven, in integers, that what ranks hold is all of it, once, or
    once for each replica (``MeshPlan.faults``).

    Args:
        module: the whole model, before any engine has cut it.
        rules: as :func:`~tritoninit.initialize_` takes them.
        mesh: its axes and their sizes, outermost first: ``"pp=16,tp=8,dp=128"``. What an axis does its name
            says: ``dp`` and ``fsdp`` shard as ``fully_shard`` does, ``hsdp`` and ``replicate`` do not, and
            ``tp``, ``ep`` and ``pp`` are for tensors, experts and stages.
        layout: what is cut otherwise than the axes' names say.
        dtype: of floating-point parameters; by default as they are.
        gpu: whose figures seconds are predicted by: A100, H100, H200, B200, MI300X, ...

    Returns:
        The plan, which prints as a table of ranks.

    Raises:
        ValueError: the mesh, the layout or the GPU make no sense, or rules cannot set the model.
        RuntimeError: there is no Triton, by whose kernels' rules launches are counted.

    >>> plan = plan_mesh(nn.Linear(6, 8), mesh="dp=4")
    >>> plan.faults, plan.largest.elements, plan.held(3)["weight"].rectangles[0].window
    ([], 14, Window(global_shape=(8, 6), offsets=(6, 0)))
    """
    from tritoninit.meshes.predictions import Predictor, gpu_named

    _check_triton()
    mesh = Mesh.of(mesh)
    predictor = Predictor(gpu_named(gpu))
    found = chosen(module, rules, dtype)
    for slot, _ in found:
        if is_dtensor(slot.tensor):
            raise TargetError(f"{slot.name} is a DTensor: plan the model before it is cut")
    placements = (layout or Layout()).placements([slot for slot, _ in found], mesh)
    steps = [
        _Step.of(slot, initializer, placement, dtype)
        for (slot, initializer), placement in zip(found, placements, strict=True)
    ]
    tables = _tables(steps, mesh)
    total = _Totals(mesh)
    parameters = []
    for step in steps:
        table, holding = tables[step.kind], _holding(step.placement.holders, mesh)
        total.add(table, holding, step.itemsize)
        ranks = int(np.count_nonzero(holding))
        proof = table.proof
        if proof.faults or not ranks:  # so that they name ranks of this parameter's
            proof = _proof(step.shape, step.placement, mesh)
        each = ranks // max(1, len(_coordinates(step.placement, mesh)))
        fewest, most = proof.replicas
        proof = Proof(proof.regions, (each * fewest, each * most), proof.faults)
        parameters.append(step.parameter(proof, ranks))
    return total.plan(parameters, predictor, tuple(_remarks(steps, mesh)))


def _check_triton() -> None:
    try:
        import triton  # noqa: F401 - what it is needed for says so itself
    except ImportError:
        raise RuntimeError("launches are counted by Triton's launcher, and triton is not installed") from None


@dataclass(frozen=True)
class _Step:
    """A slot, how it lies on the mesh, and what is done to it."""

    slot: Slot
    shape: tuple[int, ...]
    dtype: str
    itemsize: int
    placement: Placement
    what: tuple[What, ...]
    words: str

    @staticmethod
    def of(slot: Slot, initializer: Initializer, placement: Placement, dtype: torch.dtype | None) -> _Step:
        shape, kind = tuple(slot.tensor.shape), slot.tensor.dtype
        if dtype is not None and kind.is_floating_point:
            kind = dtype
        name = str(kind).removeprefix("torch.")
        what = whats(pieces_of(initializer, shape), name)
        return _Step(slot, shape, name, kind.itemsize, placement, what, describe(initializer, shape))

    @property
    def geometry(self) -> Hashable:
        """Equal for slots of which the same ranks hold the same rectangles, as far as they hold any."""
        axes = self.placement.axes
        within = tuple(each for each in self.placement.holders if axes.intersection(each[0]))
        return self.shape, self.placement.splits, within

    @cached_property
    def kind(self) -> Hashable:
        """Equal for slots for which a rank does the same, if it does anything."""
        return self.geometry, self.dtype, tuple(each.identity for each in self.what)

    def parameter(self, proof: Proof, ranks: int) -> Parameter:
        return Parameter(
            self.slot.name,
            self.shape,
            self.dtype,
            self.slot.is_buffer,
            self.placement,
            self.words,
            proof,
            ranks,
        )


class _Batch(NamedTuple):
    """A batch of all ranks' plans: which have it, the groups that share its launches, as bits, and others."""

    there: Numbers
    groups: Numbers
    alone: Numbers


class _Table(NamedTuple):
    """Shares of a parameter, an array over the axes along which they differ, and the proof of it."""

    proof: Proof
    elements: Numbers
    computed: Numbers
    stored: Numbers
    afterwards: Numbers
    together: dict[Together, Numbers]
    batches: list[_Batch]
    work: dict[Work, tuple[Numbers, Numbers]]


def _tables(steps: Sequence[_Step], mesh: Mesh) -> dict[Hashable, _Table]:
    """What ranks do, by the kind of a step; where a rank has what is found once for all of one geometry."""
    alike: dict[Hashable, list[_Step]] = {}
    for step in steps:
        alike.setdefault(step.geometry, []).append(step)
    bits: dict[Hashable, int] = {}
    found: dict[Hashable, _Table] = {}
    for members in alike.values():
        first = members[0]
        splits = Placement(first.placement.splits)
        windows = {
            mesh.rank(place): regions.held(first.shape, splits.splits, mesh, place)
            for place in _coordinates(splits, mesh)
        }
        shape = tuple(n if name in splits.axes else 1 for name, n in zip(mesh.names, mesh.shape, strict=True))
        own = splits.axes.intersection(axis for axes, _ in first.placement.holders for axis in axes)
        proof = _proof(first.shape, first.placement, mesh) if own else coverage(first.shape, windows)
        for step in members:
            if step.kind not in found:
                shares = [share(each, step.what, step.dtype, step.itemsize) for each in windows.values()]
                found[step.kind] = _table(shares, shape, proof, bits)
    return found


def _table(
    shares: Sequence[Share], shape: tuple[int, ...], proof: Proof, bits: dict[Hashable, int]
) -> _Table:
    def array(numbers: Iterable[int], dtype: type = np.int64) -> Numbers:
        return np.array(list(numbers), dtype).reshape(shape)

    def as_bits(batch: Batch | None) -> int:
        groups = batch.groups if batch else ()
        return sum(1 << bits.setdefault(group, len(bits)) for group in groups)

    batches = []
    for each in zip_longest(*(one.batches for one in shares)):
        there = array((batch is not None for batch in each), np.bool_)
        alone = array(batch.alone if batch else 0 for batch in each)
        batches.append(_Batch(there, array(map(as_bits, each), np.uint64), alone))
    kinds = {work for one in shares for work in one.work}
    return _Table(
        proof,
        array(one.elements for one in shares),
        array(one.drawn + one.built for one in shares),
        array(one.used + one.kept for one in shares),
        array(one.afterwards for one in shares),
        {
            matrices: array(one.together[matrices] for one in shares)
            for matrices in {each for one in shares for each in one.together}
        },
        batches,
        {
            work: (
                array(one.work.get(work, (0, 0))[0] for one in shares),
                array(one.work.get(work, (0, 0))[1] for one in shares),
            )
            for work in kinds
        },
    )


class _Totals:
    """Sums over parameters, a number a rank."""

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh

        def zeros() -> Numbers:
            return np.zeros(mesh.shape, np.int64)

        self.elements, self.bytes, self.computed, self.stored, self.launches = (zeros() for _ in range(5))
        self._groups = np.zeros(mesh.shape, np.uint64)  # of the batch that other parameters may join
        self._work: dict[Work, tuple[Numbers, Numbers]] = {}
        self._together: dict[Together, Numbers] = {}
        self._zeros = zeros

    def add(self, table: _Table, holding: Numbers, itemsize: int) -> None:
        """Add a parameter, for the ranks that have a part of it."""
        self.elements += table.elements * holding
        self.bytes += table.elements * holding * itemsize
        self.computed += table.computed * holding
        self.stored += table.stored * holding
        self.launches += table.afterwards * holding
        for matrices, count in table.together.items():
            self._together[matrices] = self._together.get(matrices, 0) + count * holding
        for number, batch in enumerate(table.batches):
            here = batch.there & holding
            if number:
                self._end(here)
            self._groups |= np.where(here, batch.groups, np.uint64(0))
            self.launches += batch.alone * here
        for work, (stored, computed) in table.work.items():
            sums = self._work.setdefault(work, (self._zeros(), self._zeros()))
            np.add(sums[0], stored * holding, out=sums[0])
            np.add(sums[1], computed * holding, out=sums[1])

    def _end(self, here: Numbers) -> None:
        """Launch the batches of some ranks."""
        self.launches += np.where(here, np.bitwise_count(self._groups), 0)
        self._groups[here] = 0

    def plan(
        self, parameters: Sequence[Parameter], predictor: Predictor, remarks: tuple[str, ...]
    ) -> MeshPlan:
        """Of all that has been added."""
        self._end(np.ones(self.mesh.shape, np.bool_))
        for matrices, count in self._together.items():
            self.launches += matrices.launches(count)
        seconds = np.zeros(self.mesh.shape)
        for work, (stored, computed) in self._work.items():
            rates = predictor.rates(work)
            seconds += np.maximum(stored * rates.stored, computed * rates.computed)
        return MeshPlan(
            self.mesh,
            parameters,
            predictor.gpu.name,
            self.elements.reshape(-1),
            self.bytes.reshape(-1),
            self.launches.reshape(-1),
            self.computed.reshape(-1),
            self.stored.reshape(-1),
            seconds.reshape(-1),
            remarks,
        )


@lru_cache(maxsize=256)
def _holding(holders: tuple[tuple[tuple[str, ...], tuple[int, ...]], ...], mesh: Mesh) -> Numbers:
    """Which ranks have a part."""
    found = np.ones(mesh.shape, np.bool_)
    for axes, numbers in holders:
        along = np.zeros(mesh.shape, np.int64)
        for name in axes:
            k = mesh.names.index(name)
            place = np.arange(mesh.shape[k]).reshape([-1 if j == k else 1 for j in range(len(mesh.shape))])
            along = along * mesh.shape[k] + place
        found &= np.isin(along, numbers)
    return found


def _coordinates(placement: Placement, mesh: Mesh) -> list[tuple[int, ...]]:
    """Of the ranks that have a part, one each of those that have the same by their place in the mesh."""
    axes = placement.axes
    fixed = dict.fromkeys(mesh.names, 0)
    for names, numbers in placement.holders:
        if not numbers:
            return []
        number = numbers[0]
        for name in reversed(names):
            number, fixed[name] = divmod(number, mesh.shape[mesh.names.index(name)])
    places = product(
        *(
            range(n) if name in axes else (fixed[name],)
            for name, n in zip(mesh.names, mesh.shape, strict=True)
        )
    )
    within = [(names, set(numbers)) for names, numbers in placement.holders if axes.intersection(names)]
    return [
        place for place in places if all(mesh.along(names, place) in numbers for names, numbers in within)
    ]


def _proof(shape: tuple[int, ...], placement: Placement, mesh: Mesh) -> Proof:
    places = _coordinates(placement, mesh)
    windows = {mesh.rank(place): regions.held(shape, placement.splits, mesh, place) for place in places}
    return coverage(shape, windows)


def _holds(placement: Placement, mesh: Mesh, place: Sequence[int]) -> bool:
    return all(mesh.along(axes, place) in numbers for axes, numbers in placement.holders)


def _remarks(steps: Sequence[_Step], mesh: Mesh) -> Iterator[str]:
    """What is not as it may seem."""
    used = {axis for step in steps for axis in step.placement.axes}
    used |= {axis for step in steps for axes, _ in step.placement.holders for axis in axes}
    for name in mesh.names:
        if name not in used and kind_of(name) != REPLICATE:
            yield f"{name} cuts nothing: its {mesh.count((name,))} ranks are replicas"
    shard = set(mesh.axes(SHARD))
    real = [step for step in steps if not step.slot.is_buffer]
    scalars = [step.slot.name for step in real if not step.shape]
    if shard and scalars:
        yield f"fully_shard refuses parameters without a dimension, which are replicas here: {_some(scalars)}"
    uneven = [
        step.slot.name
        for step in real
        for split in step.placement.splits
        if split.dim and shard.intersection(split.axes) and _is_uneven(step, split, mesh)
    ]
    if uneven:
        yield f"fully_shard cuts unevenly along dimension 0 alone, which is not that of {_some(uneven)}"
    for words, numbered in (
        ("the whole of", False),
        ("the whole of each weight that it has a part of in", True),
    ):
        whole = [
            step.slot.name
            for step in steps
            if any(each.builds_whole and bool(each.numbered) is numbered for each in step.what)
        ]
        if whole:
            yield (
                f"every rank that has a part builds {words} {_some(whole)}: torch's operations for that are"
                " in no launches and no seconds"
            )
    parametrized = [step.slot.name for step in steps if step.slot.is_parametrized]
    if parametrized:
        yield f"parametrised, and taken for plain parameters here: {_some(parametrized)}"


def _is_uneven(step: _Step, split: Split, mesh: Mesh) -> bool:
    before = [each for each in step.placement.splits if each.dim == split.dim]
    axes = [axis for each in before for axis in each.axes]
    return step.shape[split.dim] % mesh.count(axes) != 0


def _some(names: Sequence[str]) -> str:
    patterns: dict[str, list[str]] = {}
    for name in names:
        patterns.setdefault(name_pattern(name), []).append(name)
    words = [name_of_many(group) for group in patterns.values()]
    return ", ".join(words[:4]) + (f" and {len(words) - 4} more" if len(words) > 4 else "")


def _range(group: Sequence[Parameter]) -> list[int]:
    """The fewest and the most replicas that a part has."""
    fewest, most = zip(*(each.proof.replicas for each in group), strict=True)
    return [min(fewest), max(most)]


def _count(shape: Sequence[int]) -> int:
    return math.prod(shape)


def _itemsize(dtype: str) -> int:
    return int(getattr(torch, dtype).itemsize)


def _shares(computed: Numbers, stored: Numbers) -> Numbers:
    """What part of all that is computed is not stored."""
    return np.where(computed > 0, (computed - stored) / np.maximum(computed, 1), 0.0)
