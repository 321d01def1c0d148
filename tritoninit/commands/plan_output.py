"""What ``tritoninit plan`` says: the same on the terminal and, with more digits, as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tritoninit.machine import software
from tritoninit.meshes.mesh_plan import MeshPlan
from tritoninit.models.rules import Rule, RuleSet
from tritoninit.terminal import print_lines, table, terminal_width
from tritoninit.words import shape_in_words, short


def summary(
    spec: str, dtype: str, rules: Iterable[Rule], plan: MeshPlan, ranks: Iterable[int]
) -> dict[str, Any]:
    """All that ``plan`` has to say, as JSON has it."""
    scheme = rules.citation if isinstance(rules, RuleSet) else ""
    return {
        "spec": spec,
        "dtype": dtype,
        "scheme": scheme,
        "versions": software(),
        **plan.as_dict(ranks),
    }


_RANKS = (
    *("what", ">rank", "at", ">elements", ">MB", ">launches"),
    *(">in vain", ">microseconds"),
)
_LAYOUT = (*("parameters", ">count", "shape", "cut", ">parts", ">replicas", "initializer"),)
_HELD = ("parameter", "shape", "holds", "from")


def show(plan: MeshPlan, summary: Mapping[str, Any], rank: int | None) -> None:
    """Print how a model is cut, what single ranks do, and the proof; of one rank all that it holds."""
    width = terminal_width()
    print_lines(
        f"{summary['spec']}, {summary['dtype']}, on {plan.mesh}: {plan.mesh.size:,}"
        f" rank{'' if plan.mesh.size == 1 else 's'}",
        *([f"Scheme: {summary['scheme']}"] if summary["scheme"] else []),
        "",
        *table(_LAYOUT, [_group(each) for each in summary["layout"]], ((0, 20), (6, 12)), width),
        "",
        *table(_RANKS, [*_ranks(summary)], width=width),
        "",
    )
    if rank is not None:
        print_lines(*table(_HELD, _held(plan, rank), ((0, 20),), width), "")
    print_lines(
        f"{summary['elements']:,} elements in {summary['parameters']:,} parameters,"
        f" {summary['bytes'] / 1e9:,.4g} GB; {summary['all_ranks']['bytes'] / 1e9:,.4g} GB with replicas.",
        f"Seconds are predicted for the kernels of each rank, as in tritoninit inspect, on {plan.gpu}: a",
        "bound, without launching and what the host does. In vain is what they compute and do not store.",
        *summary["remarks"],
        *_proof(plan, summary),
    )


def _group(each: Mapping[str, Any]) -> list[str]:
    fewest, most = each["replicas"]
    return [
        each["names"],
        f"{each['count']:,}",
        shape_in_words(each["shape"]),
        each["cut"],
        f"{each['regions']:,}",
        f"{fewest:,}" if fewest == most else f"{fewest:,}..{most:,}",
        each["initializer"],
    ]


def _ranks(summary: Mapping[str, Any]) -> Iterable[list[str]]:
    rows = [("largest", summary["largest"]), ("smallest", summary["smallest"])]
    for what, each in [*rows, *(("", each) for each in summary["ranks"])]:
        at = ",".join(f"{name}={place}" for name, place in each["coordinate"].items())
        numbers = (f"{each['elements']:,}", f"{each['bytes'] / 1e6:,.4g}", f"{each['launches']:,}")
        share, seconds = each["in_vain_share"], each["seconds"]
        yield [what, f"{each['rank']:,}", at, *numbers, f"{share:.1%}", short(seconds * 1e6, 3)]


def _held(plan: MeshPlan, rank: int) -> list[list[str]]:
    """Every rectangle that a rank holds."""
    shapes = {each.name: each.shape for each in plan.parameters}
    return [
        [
            name if not k else "",
            shape_in_words(shapes[name]),
            shape_in_words(part.shape),
            _place(part.window.offsets),
        ]
        for name, windows in plan.held(rank).items()
        for k, part in enumerate(each for each in windows.rectangles if 0 not in each.shape)
    ]


def _place(offsets: Sequence[int]) -> str:
    return f"({', '.join(map(str, offsets))})"


def _proof(plan: MeshPlan, summary: Mapping[str, Any]) -> Iterable[str]:
    faults = summary["faults"]
    if faults:
        yield from faults[:20]
        if len(faults) > 20:
            yield f"... and {len(faults) - 20:,} more"
        yield "Not every element lies in one part: nothing that follows from this layout is one model."
        return
    regions = sum(each.proof.regions for each in plan.parameters)
    yield (
        f"Proven: the {regions:,} parts that ranks hold make up all parameters, and no two have an element"
        " in common."
    )
