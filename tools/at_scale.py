"""Write docs/at_scale.md from docs/plans: ``python tools/at_scale.py``; ``--plan`` makes those first."""

from __future__ import annotations

import argparse
import json
import math
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tritoninit.bench.architectures import ARCHITECTURES, ATTAINABLE
from tritoninit.bench.result_files import read
from tritoninit.cli import main as tritoninit
from tritoninit.words import short

ROOT = Path(__file__).resolve().parents[1]
PAGE, PLANS = ROOT / "docs" / "at_scale.md", ROOT / "docs" / "plans"
MODELS = {"llama3-405b": "pp=16,tp=8,dp=128", "moe-1t": "dp=16,ep=64"}
TITLES = {
    "llama3-405b": "Llama 3.1 405B on 16,384 H100",
    "moe-1t": "A mixture of experts of 1.04e12 parameters on 1,024 H100",
}
LINK = 400e9 / 8  # bytes a second of a GPU's network card
STORAGE = 2e12  # bytes a second that a cluster's storage keeps up
NVLINK = 900e9 / 2  # between the GPUs of a machine, in each direction
FIGURES = {"tp": NVLINK}  # what lies within a machine; all else goes by the cards
HEAD = """\
# Initialising at scale

What it takes to give the ranks of a mesh their parts of **one** model, the same whatever the mesh, by four
ways. Everything here is arithmetic: no machine of this size was there. Made by `python tools/at_scale.py`
from [plans](plans) that `tritoninit plan` wrote.

- **A seed checkpoint**: one process draws the whole model on a CPU and saves it; every rank loads its part.
  It is what [torchtitan](https://github.com/pytorch/torchtitan/blob/main/docs/checkpoint.md) has for runs on
  different meshes to start alike ([issue 514](https://github.com/pytorch/torchtitan/issues/514)).
- **Scattered**: the first rank of each pipeline stage draws whole matrices, and `distribute_tensor` scatters
  them, from group rank 0 along each dimension of the mesh in turn
  ([documentation](https://docs.pytorch.org/docs/stable/distributed.tensor.html), `src_data_rank`).
- **Broadcast**: it sends everything to everybody, and each rank keeps its part: `sync_module_states=True` of
  [FSDP](https://docs.pytorch.org/docs/stable/fsdp.html), `broadcast_from_rank0` of state dicts.
- **tritoninit**: each rank draws its part, by the place of every element in the global tensor. Nobody sends
  anything.

"""
ASSUMED = """\
- A network card of 400 Gb/s a GPU, 50 GB/s, and storage that keeps up 2 TB/s: what Llama 3 was trained on
  (Grattafiori et al., "The Llama 3 Herd of Models", [arXiv:2407.21783](https://arxiv.org/abs/2407.21783),
  section 3.3.1). Ranks along `tp` are in one machine, where NVLink has 450 GB/s each way (NVIDIA H100 data
  sheet). Links and storage are used in full, and latency is nothing.
- The checkpoint is drawn by `torch.nn.init.normal_` at {torch} G/s, [measured](measured.md) on {machine}; a
  larger CPU is faster, `trunc_normal_` is slower. The host has the whole model in its memory. It leaves that
  host by one card, and all ranks read their parts at once.
- A GPU that draws whole matrices writes {bandwidth:.0f} GB/s, {attainable:.0%} of its data sheet's.
- tritoninit's seconds are those of the kernels of the rank that takes longest: a bound, from counted
  instructions and the data sheet (`tritoninit inspect`), not measured. Of what a rank computes up to {llama}
  (Llama) and {moe} (mixture) is not stored: whole tiles are drawn for the ends of tensors, and whole blocks
  for the ends of rows.
- What the host does is in none of the seconds. To plan the fills of {parameters} parameters takes Python
  milliseconds, longer than those kernels.
- Structured initializers are another matter: of an orthogonal matrix each rank that has a part builds the
  whole, as `tritoninit plan` then says.
"""


class Way(NamedTuple):
    """A way to initialise: the bytes that go over networks, the seconds, and what they are spent on."""

    name: str
    moved: float
    seconds: float
    spent: str


def rate_of_torch() -> tuple[float, str, int]:
    """Elements a second of torch's float32 normals on a CPU, of which machine and with how many threads."""
    results = read(ROOT / "tritoninit" / "bench" / "results" / "epyc-2-core.json")
    rows = [
        row
        for row in results.rows
        if (row.kind, row.subject, row.dtype, row.contender) == ("fill", "normal", "float32", "torch")
        and row.elements == 2**24
        and results.scope(row) == "all"
    ]
    return rows[0].rate, results.name, int(results.machine["threads"])


def ways(plan: Mapping[str, Any]) -> list[Way]:
    """Those of a model."""
    gpu = next(each for each in ARCHITECTURES if each.name == plan["gpu"])
    everything, stages = plan["bytes"], plan["mesh"].get("pp", 1)
    others = {name: size for name, size in plan["mesh"].items() if name != "pp"}
    stage, ranks = everything / stages, math.prod(others.values())
    drawn_by_cpu = plan["elements"] / rate_of_torch()[0]
    drawn_by_gpu = stage / (gpu.attainable_gb_per_s * 1e9)
    scattered, sending, left = 0.0, 0.0, stage
    for name, size in others.items():
        scattered += everything * (1 - 1 / size)
        sending += left * (1 - 1 / size) / FIGURES.get(name, LINK)
        left /= size
    saved, loaded = everything / LINK, plan["all_ranks"]["bytes"] / STORAGE
    return [
        Way(
            "seed checkpoint",
            everything + plan["all_ranks"]["bytes"],
            drawn_by_cpu + saved + loaded,
            f"drawing {short(drawn_by_cpu, 3)}, saving {short(saved, 3)}, loading {short(loaded, 2)}",
        ),
        Way(
            "scattered",
            scattered,
            drawn_by_gpu + sending,
            f"drawing {short(drawn_by_gpu, 2)}, sending {short(sending, 3)}",
        ),
        Way(
            "broadcast",
            everything * (ranks - 1),
            drawn_by_gpu + stage / LINK,
            f"drawing {short(drawn_by_gpu, 2)}, sending {short(stage / LINK, 3)}",
        ),
        Way("tritoninit", 0, plan["most"]["seconds"], f"kernels, {plan['most']['launches']} launches"),
    ]


def page() -> str:
    """The text."""
    plans = {name: json.loads((PLANS / f"{name}.json").read_text(encoding="utf-8")) for name in MODELS}
    rate, machine, threads = rate_of_torch()
    llama = plans["llama3-405b"]
    gpu = next(each for each in ARCHITECTURES if each.name == llama["gpu"])
    numbers = {
        "torch": short(rate / 1e9, 3),
        "machine": f"{machine.partition(',')[0]} with {threads} threads",
        "bandwidth": gpu.attainable_gb_per_s,
        "attainable": ATTAINABLE,
        "llama": f"{llama['most']['in_vain_share']:.2%}",
        "moe": f"{plans['moe-1t']['most']['in_vain_share']:.2%}",
        "parameters": sum(each["count"] for each in llama["layout"]) // llama["mesh"]["pp"],
    }
    assumed = ASSUMED.format(**numbers)
    models = (line for name, plan in plans.items() for line in _model(name, plan))
    return HEAD + "\n".join((*models, "## What is assumed", "", assumed))


def _model(name: str, plan: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {TITLES[name]}"
    yield ""
    yield f"    tritoninit plan {name} --mesh {MODELS[name]}"
    yield ""
    yield "| way | bytes moved | seconds | of which |"
    yield "|---|---:|---:|---|"
    for way in ways(plan):
        moved = f"{short(way.moved / 1e12, 3)} TB" if way.moved else "0"
        yield f"| {way.name} | {moved} | {short(way.seconds, 3)} | {way.spent} |"
    largest, smallest = plan["largest"], plan["smallest"]
    yield ""
    held = [f"{each['bytes'] / 1e6:,.4g}" for each in (smallest, largest)]
    yield textwrap.fill(
        f"{plan['elements']:,} elements in {plan['parameters']:,} parameters, {plan['bytes'] / 1e12:.3g} TB"
        f" in {plan['dtype']}. Ranks hold {' to '.join(held)} MB. It is proven that they have every element,"
        " and those that are no replicas none twice.",
        110,
    )
    yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--plan", action="store_true", help="make the plans anew, in half a minute")
    if parser.parse_args().plan:
        for name, mesh in MODELS.items():
            assert tritoninit(["plan", name, "--mesh", mesh, "--json", str(PLANS / f"{name}.json")]) == 0
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
