"""What is known of each initializer: its formula and source, its numbers for a shape, what they look like.

All of it is read off the classes: docstrings have the words, ``pieces`` the numbers, and the library draws
the rest. The site and ``tritoninit catalogue`` show the same.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from functools import cache
from types import ModuleType
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from tritoninit import (
    combinators,
    distributions,
    experts,
    fills,
    initializers,
    located,
    mapped,
    structured,
    tables,
)
from tritoninit.auditing.moments import expected, measure
from tritoninit.catalogue import PEERS
from tritoninit.combinators import (
    AsOne,
    BlockDiagonal,
    CopyOf,
    Patch,
    Patched,
    Scaled,
    Stacked,
    StochasticallyRounded,
    ZeroRow,
)
from tritoninit.distributions import Bernoulli, Geometric, Permutation, RandInt
from tritoninit.experts import Experts
from tritoninit.fills import (
    Constant,
    Fill,
    Initializer,
    Normal,
    TruncatedNormal,
    Uniform,
    pieces_of,
    sole_fill,
)
from tritoninit.initializers import KaimingNormal, Ones, XavierUniform, Zeros
from tritoninit.kernels.lowering import FARTHEST_NORMAL, ParameterError
from tritoninit.keys import Key
from tritoninit.laws import Law, law
from tritoninit.mapped import LogUniform, Mapped
from tritoninit.structured import Orthogonal, Sparse, Value
from tritoninit.tables import STFT
from tritoninit.window import Window

Floats = npt.NDArray[np.float64]

# By what an initializer is, the modules that have such.
_GROUPS: Final[Mapping[str, tuple[ModuleType, ...]]] = {
    "Fills": (fills,),
    "Constants and scales by fans": (initializers,),
    "Structured": (structured, located),
    "Of one uniform number each": (mapped,),
    "Other distributions": (distributions,),
    "Tables": (tables,),
    "Made of others": (combinators, experts),
}
# Of those that need arguments, one to show.
_EXAMPLES: Final[Mapping[type[Initializer], Initializer]] = {
    type(each): each
    for each in (
        Constant(0.5),
        Sparse(0.9),
        Value([[0.0, 1.0], [1.0, 0.0]]),
        LogUniform(0.001, 0.1),
        Geometric(0.25),
        STFT("real"),
        Stacked((XavierUniform(), Zeros(), Orthogonal())),
        Scaled(Orthogonal(), 0.5),
        StochasticallyRounded(Normal(0.0, 0.02)),
        ZeroRow(Normal(0.0, 0.02), 0),
        BlockDiagonal(Orthogonal(), 4),
        Patched(Normal(0.0, 0.02), (Patch(Ones(), (0, 0), (2, 4)),)),
        AsOne(XavierUniform()),
        CopyOf("encoder.weight", Normal(0.0, 0.02)),
        Experts(KaimingNormal(nonlinearity="relu")),
    )
}
# Whose elements have one law that is worth a table.
_OF_ONE_LAW: Final = ("Fills", "Of one uniform number each", "Other distributions")
QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95)
# What is shown of whom, as far as it takes these.
_SHAPES: Final = ((768, 768), (3072, 768), (768, 3072), (64, 3, 7, 7), (1024,))
_OWN_SHAPES: Final[Mapping[str, tuple[tuple[int, ...], ...]]] = {
    "Dirac": ((64, 64, 3, 3),),
    "DeltaOrthogonal": ((64, 64, 3, 3), (128, 64, 5)),
    "Experts": ((8, 256, 128),),
    "S4D": ((16,), (768, 16)),
    "STFT": ((129, 1, 256),),
    "Sinusoids": ((512, 64),),
    "Value": ((2, 2),),
}
_SECTION = re.compile(r"^([A-Z]\w+):$", re.MULTILINE)


class Argument(NamedTuple):
    """One that an initializer takes, as it is written; no default is None."""

    name: str
    default: str | None
    text: str


class Elsewhere(NamedTuple):
    """What a peer calls it, and what that is here with the peer's defaults."""

    peer: str
    name: str
    here: Initializer


@dataclass(frozen=True)
class Facts:
    """What is known of one initializer.

    Attributes:
        kind: the class.
        group: what sort of initializer it is.
        summary: in a sentence or two.
        formula: in lines; ``fan_in``, ``sqrt(x)``, ``x**2`` and words in double quotes.
        source: where it was published; empty where there is nothing to cite.
        text: what else its docstring says.
        arguments: those that it takes.
        example: one of it.
    """

    kind: type[Initializer]
    group: str
    summary: str
    formula: tuple[str, ...]
    source: str
    text: str
    arguments: tuple[Argument, ...]
    example: Initializer

    @property
    def name(self) -> str:
        return self.kind.__name__


@cache
def catalogue() -> Mapping[str, Facts]:
    """The facts of every public initializer of this library, by its name, in groups."""
    return {
        kind.__name__: _facts(kind, group)
        for group, modules in _GROUPS.items()
        for module in modules
        for kind in vars(module).values()
        if _is_public(kind, module)
    }


def _is_public(kind: Any, module: ModuleType) -> bool:
    return (
        isinstance(kind, type)
        and issubclass(kind, Initializer)
        and kind.__module__ == module.__name__
        and not kind.__name__.startswith("_")
        and not inspect.isabstract(kind)
        and kind is not structured.OfAnother
    )


def find(name: str) -> tuple[Facts, Initializer]:
    """The facts of what a name stands for, here or elsewhere, and that very initializer.

    Args:
        name: in any spelling; "jax.normal" and the like ask for a peer's.

    Raises:
        ValueError: nobody has that name; with those that look like it.
    """
    known = {_plain(each): (facts, facts.example) for each, facts in catalogue().items()}
    for facts in catalogue().values():
        for each in elsewhere(facts.kind):
            known.setdefault(f"{each.peer}.{_plain(each.name)}", (facts, each.here))
            known.setdefault(_plain(each.name), (facts, each.here))
    found = known.get(_plain(name))
    if found is None:
        near = get_close_matches(_plain(name), known, 3, 0.5)
        names = " or ".join(dict.fromkeys(known[each][0].name for each in near))
        hint = f"did you mean {names}?" if near else f"known are {', '.join(catalogue())}"
        raise ParameterError(f"no initializer is called {name!r}: {hint}")
    return found


def _plain(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower().removesuffix("initializer")


def elsewhere(kind: type[Initializer]) -> Iterator[Elsewhere]:
    """What peers call it, by :data:`tritoninit.catalogue.PEERS`."""
    for peer, names in PEERS.items():
        for name, make in names.items():
            if peer != "tritoninit":
                made = make(*_given(name, make))
                if type(made) is kind:
                    yield Elsewhere(peer, name, made)


def _given(name: str, make: Callable[..., Initializer]) -> Iterator[Any]:
    """The arguments that have no default: those that the example of its namesake here begins with."""
    empty = inspect.Parameter.empty
    required = [each for each in inspect.signature(make).parameters.values() if each.default is empty]
    if required:
        kind: Any = PEERS["tritoninit"][name]
        example = _EXAMPLES.get(kind) or kind()
        names = [field.name for field in fields(example) if not field.kw_only]
        yield from (getattr(example, each) for each in names[: len(required)])


def _facts(kind: type[Initializer], group: str) -> Facts:
    sections = _sections(inspect.cleandoc(kind.__doc__ or ""))
    words = sections.pop("", "")
    summary, _, text = words.partition("\n\n")
    told = _entries(sections.get("Args", ""))
    return Facts(
        kind,
        group,
        " ".join(summary.split()),
        tuple(sections.get("Formula", "").splitlines()),
        " ".join(sections.get("Source", "").split()),
        text,
        tuple(_argument(field, told) for field in fields(kind) if field.init),
        _EXAMPLES.get(kind) or kind(),
    )


def _argument(field: Any, told: Mapping[str, str]) -> Argument:
    has_default = field.default is not MISSING
    return Argument(field.name, repr(field.default) if has_default else None, told.get(field.name, ""))


def _sections(doc: str) -> dict[str, str]:
    """A docstring's sections by their headings, without their indentation; what stands before has none."""
    first, *rest = _SECTION.split(doc)
    found = {"": first.strip()}
    for heading, body in zip(rest[::2], rest[1::2], strict=True):
        inside, outside = _indented(body.strip("\n"))
        found[heading] = inside
        if outside:
            found[""] += f"\n\n{outside}"
    return found


def _indented(body: str) -> tuple[str, str]:
    """A section's indented lines, and what stands after them, without examples."""
    lines = body.splitlines()
    end = next((k for k, line in enumerate(lines) if line and not line.startswith(" ")), len(lines))
    after = "\n".join(lines[end:]).strip()
    return inspect.cleandoc("\n".join(lines[:end])), "" if after.startswith(">>>") else after


def _entries(section: str) -> dict[str, str]:
    """What is said of each argument."""
    found = re.split(r"^(\w+): ", section, flags=re.MULTILINE)[1:]
    return {name: " ".join(text.split()) for name, text in zip(found[::2], found[1::2], strict=True)}


class Numbers(NamedTuple):
    """Of an initializer for a shape: as it is to be, where one fill says so, and as it was drawn."""

    shape: tuple[int, ...]
    low: float | None
    high: float | None
    std: float | None
    least: float
    greatest: float
    drawn_std: float


def rows(initializer: Initializer, shapes: Sequence[Sequence[int]] = ()) -> list[Numbers]:
    """Bounds and standard deviations, for shapes or for those that are usual; one row if no shape matters.

    Raises:
        ValueError: it does not take a shape that is given.
    """
    if shapes:
        return [numbers(initializer, shape) for shape in shapes]
    found = [numbers(initializer, shape) for shape in usual_shapes(initializer)]
    has_law = found[0].std is not None or law(initializer, found[0].shape) is not None
    alike = has_law and len({each[1:4] for each in found}) == 1
    return found[:1] if alike else found


def usual_shapes(initializer: Initializer) -> list[tuple[int, ...]]:
    """Those that an initializer is shown for, as far as it takes them."""
    known = _OWN_SHAPES.get(type(initializer).__name__, _SHAPES)
    return [shape for shape in known if takes(initializer, shape)]


def takes(initializer: Initializer, shape: Sequence[int]) -> bool:
    """Whether an initializer serves float32 weights of a (global) shape."""
    try:
        initializer.check(torch.empty(tuple(shape), device="meta"), Window.whole(shape))
    except ValueError:
        return False
    return True


def numbers(initializer: Initializer, shape: Sequence[int]) -> Numbers:
    """What an initializer is for a (global) shape.

    Raises:
        ValueError: it does not take the shape.
    """
    values = drawn(initializer, shape)
    found = measure(values)
    low, high = bounds(initializer, shape)
    fill = sole_fill(initializer, tuple(shape))
    meant = law(initializer, shape) if fill is None else expected(fill, torch.float32)
    std = None if meant is None else meant.std
    measured = (0.0 if each is None else each for each in (found.min, found.max, found.std))
    return Numbers(tuple(shape), low, high, std, *measured)


def drawn(initializer: Initializer, shape: Sequence[int]) -> torch.Tensor:
    """The numbers that ``Key(0)`` gives on the CPU, in float32.

    Raises:
        ValueError: it does not take the shape.
    """
    values = torch.zeros(tuple(shape), dtype=torch.float32, device="cpu")
    return initializer(values, key=Key(0) if initializer.random else None)


def bounds(initializer: Initializer, shape: Sequence[int]) -> tuple[float | None, float | None]:
    """What no element is below or above, in float32; None where that is not known of all pieces."""
    ends = [_ends(piece.initializer, piece.shape) for piece in pieces_of(initializer, tuple(shape))]
    if any(end is None for end in ends):
        return None, None
    lows, highs = zip(*(end for end in ends if end is not None), strict=True)
    return min(lows), max(highs)


def _ends(initializer: Initializer, shape: Sequence[int]) -> tuple[float, float] | None:
    match initializer:
        case Constant(value) if not isinstance(value, complex):
            return value, value
        case Uniform(low, high):
            return low, high
        case Normal(mean, std):
            return mean - FARTHEST_NORMAL * std, mean + FARTHEST_NORMAL * std
        case TruncatedNormal(mean, std, a, b):
            return max(a, mean - FARTHEST_NORMAL * std), min(b, mean + FARTHEST_NORMAL * std)
        case Orthogonal(gain):
            return -abs(gain), abs(gain)
        case Mapped():
            low, high = sorted(initializer.ends("float32").astype(np.float32).tolist())
            return low, high
        case Bernoulli() | RandInt() | Permutation():
            meant = law(initializer, shape)
            return None if meant is None else (meant.least, meant.greatest)
    return None


def shown_law(known: Facts, initializer: Initializer, shape: Sequence[int]) -> Law | None:
    """The law of each element, of what is shown with one."""
    return law(initializer, shape) if known.group in _OF_ONE_LAW else None


def density(fill: Fill, x: Floats) -> Floats:
    """The density of a fill's law at ``x``; of a constant, which has none, zero."""
    match fill:
        case Uniform(low, high):
            return np.where((x >= low) & (x < high), 1 / (high - low), 0.0) if high > low else 0 * x
        case Normal(mean, std):
            return _gauss((x - mean) / std) / std if std else 0 * x
        case TruncatedNormal(mean, std, a, b):
            left, right = (math.erf((end - mean) / std / math.sqrt(2)) / 2 for end in (a, b))
            mass = right - left
            return np.where((x >= a) & (x <= b), _gauss((x - mean) / std) / (std * mass), 0.0)
    return 0 * x


def _gauss(z: Floats) -> Floats:
    found: Floats = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    return found


class Histogram(NamedTuple):
    """How many numbers lie between which edges."""

    edges: Floats
    counts: npt.NDArray[np.int64]


def histogram(values: torch.Tensor, bins: int) -> Histogram:
    """Of a tensor's numbers: all that are bounded, of others those within four standard deviations."""
    x = values.double().flatten().numpy()
    centre, reach = (float(x.mean()), 4 * float(x.std())) if x.size else (0.0, 0.0)
    low = max(float(x.min(initial=centre)), centre - reach)
    high = min(float(x.max(initial=centre)), centre + reach)
    if not high > low:
        low, high = low - 0.5, high + 0.5
    counts, edges = np.histogram(x, bins, (low, high))
    return Histogram(edges, counts)
