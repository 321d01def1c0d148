"""Who is cut how on a mesh: by the names of its axes, as PyTorch's engines do it, or by globs on parameters.

| axis | what it does |
|---|---|
| ``pp`` | contiguous stages of layers, the embedding and the head counted as a layer each |
| ``ep`` | experts, along dimension 0 of stacked ones |
| ``tp`` | queries, keys, values, gates and the head by outputs, what follows by inputs, embeddings by rows |
| ``dp``, ``fsdp`` | dimension 0 of what those leave, as ``fully_shard`` does |
| ``hsdp``, ``ddp``, ``replicate`` | nothing |

Several axes of one kind count as one. Where there are ``dp`` axes, ranks along ``ep`` are data-parallel to
each other in all but experts, and what is none is cut over both, as in torchtitan. Where there are fewer
experts than ranks to share them, ``dp`` cuts dimension 1 of them, likewise.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from tritoninit.distributed.cuts import chunk
from tritoninit.fans import module_axes
from tritoninit.kernels.lowering import integer
from tritoninit.meshes.mesh import EXPERT, KINDS, PIPELINE, SHARD, TENSOR, Mesh, kind_of
from tritoninit.meshes.regions import Placement, Split
from tritoninit.models.globs import Globs
from tritoninit.models.slots import Slot

# What tensor parallelism cuts by outputs and by inputs: names of Llama, Mixtral and their kin in transformers
# and in torchtitan, and of GPT-2.
_BY_OUTPUTS: Final = frozenset(
    (
        *("q_proj", "k_proj", "v_proj", "qkv_proj", "wq", "wk", "wv", "c_attn"),
        *("gate_proj", "up_proj", "gate_up_proj", "w1", "w3", "c_fc"),
        *("lm_head", "output"),
    )
)
_BY_INPUTS: Final = frozenset(("o_proj", "wo", "down_proj", "w2", "c_proj"))
_BY_ROWS: Final = frozenset(("embed_tokens", "tok_embeddings", "wte"))
_MOST_MODULES: Final = 1 << 16  # where modules share others, there are many more places than modules
_SPLIT = re.compile(r"(-?\d+)(?:/(\d+))?@(.+)")


@dataclass(frozen=True)
class Layout:
    """How parameters are cut, where that is not for the axes' names to say.

    Args:
        splits: by glob on a parameter's name, its cuts in order, as text: ``"0@tp,0@dp"`` cuts dimension 0
            over ``tp`` and what is left over ``dp``; ``"1@dp*ep"`` cuts dimension 1 over both as if they were
            one axis; ``"0/3@tp"`` cuts each third of dimension 0; ``"replicate"`` cuts nothing. The first
            glob that matches counts, and nothing else cuts that parameter then; its stage stays.
        stages: by glob, the number of the stage of a pipeline that has the parameter, or several.

    >>> Layout({"*.c_attn.weight": "1/3@tp,0@dp"}).splits["*.c_attn.weight"]
    '1/3@tp,0@dp'
    """

    splits: Mapping[str, str] = field(default_factory=dict)
    stages: Mapping[str, int | Sequence[int]] = field(default_factory=dict)

    def placements(self, found: Sequence[Slot], mesh: Mesh) -> list[Placement]:
        """How each of a model's slots lies on a mesh.

        Args:
            found: the model's.
            mesh: its axes and their sizes.

        Returns:
            One a slot, in order.

        Raises:
            ValueError: a glob matches nothing, an axis is not known, or cuts what is not there.
        """
        cuts = {glob: splits_of(text, mesh) for glob, text in self.splits.items()}
        named = {axis for each in cuts.values() for split in each for axis in split.axes}
        unknown = [name for name in mesh.names if kind_of(name) is None and name not in named]
        if unknown:
            raise ValueError(
                f"what is the axis {', '.join(unknown)} for? Names begin with {', '.join(KINDS)};"
                " or say what it cuts"
            )
        names = [slot.name for slot in found]
        if None in self.stages.values():
            raise ValueError("a stage of a layout is its number, or several")
        chosen, staged = _matched(cuts, names), _matched(self.stages, names)
        stages = _stages(found, mesh)
        experts = _numbered_experts(names)
        placed = []
        for slot, own, stage in zip(found, chosen, staged, strict=True):
            splits = _by_names(slot, mesh) if own is None else own
            splits = tuple(_checked(slot, split) for split in splits)
            holders = []
            if stages:
                numbers = stages[slot] if stage is None else _stage_numbers(stage, slot, mesh)
                holders.append((mesh.axes(PIPELINE), numbers))
            elif stage is not None:
                raise ValueError(f"{slot.name} has a stage, and the mesh {mesh} no pp")
            if slot.name in experts and (axes := mesh.axes(EXPERT)):
                holders.append((axes, _holder(*experts[slot.name], mesh.count(axes))))
            placed.append(Placement(splits, tuple(holders)))
        return placed


def read_layout(path: str | Path) -> tuple[Layout, dict[str, int] | None]:
    """A layout, and its mesh if it says one, from a file: JSON, or TOML from Python 3.11 on.

    The document has ``mesh`` (sizes by axis), ``shard`` and ``stages``, each of which may be left out.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no such document.
    """
    path = Path(path)
    document = _document(path)
    if not isinstance(document, dict) or not set(document) <= {"mesh", "shard", "stages"}:
        raise ValueError(f"{path.name} is no layout: it has mesh, shard and stages, and nothing else")
    for name in document:
        if not isinstance(document[name], dict):
            raise ValueError(f"{path.name}: {name} is no table")
    for glob, text in document.get("shard", {}).items():
        if not isinstance(text, str):
            raise ValueError(f"{path.name}: what cuts {glob!r} is no text, but {text!r}")
    mesh = document.get("mesh")
    if mesh is not None:
        Mesh.of(mesh)
    return Layout(document.get("shard", {}), document.get("stages", {})), mesh


def _document(path: Path) -> Any:
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".toml":
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path.name} is not JSON: {error}") from None
    try:
        import tomllib
    except ImportError:
        raise ValueError(f"{path.name}: TOML needs Python 3.11; JSON does not") from None
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path.name} is not TOML: {error}") from None


def splits_of(text: str, mesh: Mesh) -> tuple[Split, ...]:
    """Cuts as they are written, ``"0@tp,0@dp"``.

    Raises:
        ValueError: they are not, or of axes that the mesh does not have.
    """
    if text.strip() == "replicate":
        return ()
    found = []
    for part in text.split(","):
        match = _SPLIT.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"{part.strip()!r} is not DIM@AXIS, as in 0@tp,0@dp, nor replicate")
        dim, parts, axes = match.groups()
        names = tuple(axis.strip() for axis in axes.split("*"))
        unknown = [name for name in names if name not in mesh.names]
        if unknown or len(set(names)) < len(names):
            raise ValueError(f"no axis {(unknown or names)[0]!r} for {part.strip()!r} in the mesh {mesh}")
        if len(dim) > 4 or len(parts or "") > 9 or (parts is not None and int(parts) < 1):
            raise ValueError(f"{part.strip()!r} cuts no dimension into parts")
        found.append(Split(int(dim), names, int(parts or 1)))
    return tuple(found)


def _matched(by_glob: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
    """What the first glob that matches has for each name; None where none does.

    Raises:
        ValueError: a glob matches none of them.
    """
    values = list(by_glob.values())
    globs = Globs(by_glob)
    used: set[int] = set()
    found = []
    for name in names:
        places = list(globs.matching(name))
        used.update(places)
        found.append(values[places[0]] if places else None)
    idle = [glob for k, glob in enumerate(by_glob) if k not in used]
    if idle:
        raise ValueError(f"nothing in the model matches {', '.join(map(repr, idle))}")
    return found


def _checked(slot: Slot, split: Split) -> Split:
    """A cut, its dimension counted from the first; raises if the slot cannot be cut so."""
    shape = tuple(slot.tensor.shape)
    if not -len(shape) <= split.dim < len(shape):
        raise ValueError(f"{slot.name}: {split} cuts a dimension that {shape} does not have")
    dim = split.dim % len(shape)
    if shape[dim] % split.parts:
        raise ValueError(f"{slot.name}: {shape} has no {split.parts} equal parts along dimension {dim}")
    return split._replace(dim=dim)


def _by_names(slot: Slot, mesh: Mesh) -> tuple[Split, ...]:
    """The cuts of a parameter by what its name and its module say; buffers are everywhere the same."""
    shape = slot.tensor.shape
    if slot.is_buffer or not shape:
        return ()
    experts, tensor, shard = (mesh.axes(kind) for kind in (EXPERT, TENSOR, SHARD))
    stacked = _is_stacked(slot.name)
    splits = []
    if stacked and experts:
        splits.append(Split(0, experts))
    if tensor and (cut := _tensor_parallel(slot, stacked)):
        splits.append(Split(cut[0], tensor, cut[1]))
    if shard:
        few = stacked and len(shape) > 1 and shape[0] < mesh.count((*experts, *shard))
        if experts and not (stacked or _NUMBERED.search(slot.name)):
            shard = tuple(name for name in mesh.names if name in (*shard, *experts))
        splits.append(Split(1 if few and experts else 0, shard))
    return tuple(splits)


_NUMBERED = re.compile(r"(?:^|\.)experts\.(\d+)\.")


def _is_stacked(name: str) -> bool:
    """Whether dimension 0 of a parameter counts experts."""
    return "experts" in name.split(".")[:-1] and _NUMBERED.search(name) is None


def _tensor_parallel(slot: Slot, stacked: bool) -> tuple[int, int] | None:
    """The dimension of a parameter that ``tp`` cuts, and how many weights lie side by side there."""
    *path, local = slot.name.split(".")
    is_bias = local == "bias" or local.endswith("_bias")
    role = path[-1] if local in ("weight", "bias") and path else local.removesuffix("_bias")
    dims = len(slot.tensor.shape)
    if role in _BY_ROWS:
        return (0, 1) if dims == 2 else None
    if role not in _BY_OUTPUTS | _BY_INPUTS:
        return None
    apart = getattr(slot.owner, "is_concatenated", True)  # of gates and factors, transformers' word again
    gated = 2 if role == "gate_up_proj" and apart else 1
    if is_bias:
        return (dims - 1, 3 if role == "c_attn" else gated) if role in _BY_OUTPUTS else None
    if stacked:
        out, into = dims - 2, dims - 1
        if getattr(slot.owner, "is_transposed", False):  # transformers' word for experts of (in, out)
            out, into = into, out
        return ((out, gated) if role in _BY_OUTPUTS else (into, 1)) if dims > 2 else None
    axes = module_axes(slot.owner, slot.name, slot.tensor.shape)
    if dims != 2 or axes is None:
        return None
    if role in _BY_INPUTS:
        return axes.in_axes[0], 1
    return axes.out_axes[0], len(axes.parts) if len(set(axes.parts)) == 1 else 1


def _numbered_experts(names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Of experts that are modules of their own, the number of each and how many there are beside it."""
    numbers: dict[str, dict[str, int]] = defaultdict(dict)
    for name in names:
        if match := _NUMBERED.search(name):
            numbers[name[: match.start(1)]][name] = int(match[1])
    return {
        name: (number, max(each.values()) + 1) for each in numbers.values() for name, number in each.items()
    }


def _holder(number: int, count: int, ranks: int) -> tuple[int, ...]:
    """Which of some ranks has one of several experts, that they share out in contiguous chunks."""
    return tuple(
        rank
        for rank in range(ranks)
        if any(start <= number < stop for start, stop in chunk([(0, count)], ranks, rank))
    )


def _stage_numbers(given: int | Sequence[int], slot: Slot, mesh: Mesh) -> tuple[int, ...]:
    numbers = tuple(given) if isinstance(given, (str, Sequence)) else (given,)
    count = mesh.count(mesh.axes(PIPELINE))
    found = tuple(integer(f"the stage of {slot.name}", number) for number in numbers)
    if any(not 0 <= number < count for number in found):
        raise ValueError(f"{slot.name}: no stage {numbers} of {count}")
    return found


_LAYER = re.compile(r"^(.*?(?:^|\.)\d+)\.")


def _stages(found: Sequence[Slot], mesh: Mesh) -> dict[Slot, tuple[int, ...]]:
    """By slot, the stages that have it; nothing if there is no pipeline.

    As torchtitan's pipelines: the embedding and the head count as a layer each, and the first stages have one
    more where that does not divide. What comes before the layers is in the first stage, what comes after them
    in the last; what is tied, in all that it has a place in.

    Raises:
        ValueError: there are no layers, or fewer than stages.
    """
    count = mesh.count(mesh.axes(PIPELINE)) if mesh.axes(PIPELINE) else 0
    if not count:
        return {}
    layers = list(dict.fromkeys(match[1] for slot in found if (match := _LAYER.match(slot.name))))
    if len(layers) + 2 < count or not layers:
        raise ValueError(f"{len(layers)} numbered layers for {count} stages of a pipeline")
    stage_of = dict(zip(layers, _stage_of_layers(len(layers), count), strict=True))
    by_name: dict[str, int] = {}
    current, left = 0, len(layers)
    seen: set[str] = set()
    for name in _names_in_order(found):
        match = _LAYER.match(name)
        if match and match[1] in stage_of:
            current = stage_of[match[1]]
            seen.add(match[1])
            left = len(layers) - len(seen)
        by_name[name] = current if left or (match and match[1] in stage_of) else count - 1
    return {
        slot: tuple(sorted({by_name[name] for name in slot.names if name in by_name}))
        or (by_name[slot.name],)
        for slot in found
    }


def _names_in_order(found: Sequence[Slot]) -> list[str]:
    """The names of all places where slots are, in the order in which a model has its modules."""
    root = found[0].ancestors[0]
    names: dict[str, None] = {}
    for prefix, module in islice(root.named_modules(remove_duplicate=False), _MOST_MODULES):
        for local in (*module._parameters, *module._buffers):
            names.setdefault(f"{prefix}.{local}" if prefix else local)
    return list(names)


def _stage_of_layers(layers: int, stages: int) -> list[int]:
    """The stage of each layer."""
    if stages == 1:
        return [0] * layers
    least, more = divmod(layers + 2, stages)
    sizes = [least + (stage < more) for stage in range(stages)]
    sizes[0] -= 1
    sizes[-1] -= 1
    return [stage for stage, size in enumerate(sizes) for _ in range(size)]
