"""Public models, initialised by the default rules: which are right, which are refused, and why.

    python tools/sweep.py --packages timm transformers --out sweep.json
    python tools/sweep.py --page --out sweep.json

Each model is built as small as its configuration allows, directly and on the meta device, and initialised
both times. It is right if no parameter or buffer differs in a bit. One that cannot be built on the meta
device is built directly twice. Then each is built twice in a block of ``intercept(seed=0)``, from generators
in other states, which is to give the same numbers, too. Each has a process of its own (made by ``fork``, so
not on Windows), a deadline and a bound on its memory. Packages that are not installed are passed over.
``--page`` writes docs/models.md from a file of results.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import multiprocessing
import random
import re
import resource
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import tritoninit as ti
from tools.sweep_models import PACKAGES, Build, check_size

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
SECONDS = 150  # of the processor; of the clock, on a busy machine, ten times as many
BYTES = 12 * 2**30
REFUSED = ("refused", "refused on meta", "wrong", "failed")
BUT_BUFFERS = "right but for buffers"
OUTCOMES = ("tried", "right", "right, and not built on meta", BUT_BUFFERS, *REFUSED, "intercepted")
HEAD = """\
# Models as they come

Public models, each as small as its configuration allows, built directly and on the meta device and then
initialised by `ti.initialize_(model, seed=0)`, whose default rules end with `ti.OWN_CODE`. Right are those of
which both ways gave every parameter and buffer, equal in every bit; those that cannot be built on the meta
device were built directly twice. Right but for buffers are those whose constructors draw buffers: from the
meta device these come of the seed, and in a model that was built directly they stay as they are. Intercepted
are those that `ti.intercept(seed=0)` gave the same numbers when they were built in it twice, whatever
torch's, NumPy's and Python's generators were before. Made by `tools/sweep.py`, which installs nothing and
tries what is there.

What is refused has parameters whose numbers only a constructor knows: rules have to say them, such as
`ti.Rule("*.gamma", ti.Ones())`, or the model is built under `ti.intercept(seed=0)`. Refused on meta are those
with buffers that only a constructor computes: build them with their parameters on the meta device and their
buffers real.
"""


def outcome(build: Build) -> tuple[str, str]:
    """What came of a model, and why, in words."""
    try:
        model = build()
        check_size(model)
    except Exception as error:  # noqa: BLE001 - a package's own
        return "not built", words(error)
    try:
        report = ti.initialize_(model, seed=0)
    except (ValueError, NotImplementedError, TypeError, RuntimeError) as error:
        return "refused", words(error)
    unset = [
        name for name, tensor in tensors(model).items() if tensor.is_floating_point() and tensor.isnan().any()
    ]
    if unset:
        return "wrong", f"NaN in {', '.join(unset[:3])}"
    return _from_meta(build, tensors(model), sum(bool(each.code) for each in report))


def _from_meta(build: Build, expected: dict[str, torch.Tensor], by_own_code: int) -> tuple[str, str]:
    """The same, of the model that is built on the meta device."""
    why = f"{by_own_code} by own code" if by_own_code else ""
    try:
        with torch.device("meta"):
            model = build()
    except Exception as error:  # noqa: BLE001 - a package's own
        torch.manual_seed(1)  # then built directly twice, and nothing may come from torch's generator
        model = build()
        ti.initialize_(model, seed=0)
        found = difference(expected, tensors(model))
        return ("wrong", found) if found else ("right, and not built on meta", words(error))
    try:
        ti.initialize_(model, seed=0, device="cpu")
    except (ValueError, NotImplementedError, TypeError, RuntimeError) as error:
        return "refused on meta", words(error)
    found = difference(expected, tensors(model))
    if (
        found
        and (drawn := _drawn_by_constructor(build, expected))
        and not difference(expected, tensors(model), drawn)
    ):
        return BUT_BUFFERS, f"{', '.join(drawn)} drawn by the constructor"
    return ("wrong", found) if found else ("right", why)


def _drawn_by_constructor(build: Build, expected: dict[str, torch.Tensor]) -> list[str]:
    """The buffers that differ in a second model, built directly: their numbers come of torch's generator."""
    model = build()
    ti.initialize_(model, seed=0)
    return [name for name, x in model.named_buffers() if name in expected and not same(x, expected[name])]


def intercepted(build: Build) -> str:
    """What differs between two builds in ``intercept(seed=0)``, whatever generators were; "" if nothing."""
    states = []
    for other in (1, 2):
        torch.manual_seed(other)
        np.random.seed(other)  # noqa: NPY002 - the one that packages draw from
        random.seed(other)
        try:
            with ti.intercept(seed=0):
                states.append(tensors(build()))
        except Exception as error:  # noqa: BLE001 - it was built without
            return words(error)
    return difference(*states)


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def difference(
    one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], besides: Sequence[str] = ()
) -> str:
    if one.keys() != other.keys():
        return f"other names: {', '.join(sorted(one.keys() ^ other.keys())[:3])}"
    told = {name: x for name, x in one.items() if name not in besides}
    apart = [name for name, x in told.items() if x.dtype != other[name].dtype or not same(x, other[name])]
    return f"{len(apart)} differ: {', '.join(apart[:3])}" if apart else ""


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and bool(torch.equal(one, other) or ((one == other) | (one != one)).all())


def words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def run(build: Build) -> dict[str, str]:
    """:func:`outcome` and :func:`intercepted`, in a process of its own."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(build, there))
    process.start()
    there.close()
    told = {"outcome": "failed", "why": f"no answer in {10 * SECONDS} s"}
    try:
        if here.poll(10 * SECONDS):
            told = here.recv()
    except EOFError:
        process.join()
        told = {"outcome": "failed", "why": f"exit status {process.exitcode}"}
    process.kill()
    process.join()
    return told


def _child(build: Build, there: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + SECONDS,) * 2)
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open("/dev/null", "w")  # noqa: SIM115 - until the process ends
    told = dict(zip(("outcome", "why"), outcome(build), strict=True))
    if told["outcome"] != "not built":
        told["intercepted"] = intercepted(build)
    there.send(told)


def sweep(packages: Sequence[str], match: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    """(package, model, what came of it) of each."""
    for package in packages:
        try:
            models = list(PACKAGES[package]())
        except ImportError as error:
            print(f"{package}: passed over: {error}", file=sys.stderr)
            continue
        for name, build in models:
            if re.search(match, name):
                yield package, name, run(build)


def page(results: dict[str, Any]) -> str:
    """docs/models.md: the counts by package, and why models are refused."""
    lines = [HEAD, "| package | " + " | ".join(OUTCOMES) + " |", "| --- |" + " ---: |" * len(OUTCOMES)]
    totals: Counter[str] = Counter()
    for package, found in sorted(results.items()):
        counts = _counts(found["models"])
        totals += counts
        cells = " | ".join(str(counts[each]) for each in OUTCOMES)
        lines.append(f"| {package} {found['version']} | {cells} |")
    lines.append(f"| all | {' | '.join(str(totals[each]) for each in OUTCOMES)} |")
    for package, found in sorted(results.items()):
        others = {
            name: told for name, told in found["models"].items() if told["outcome"] in (BUT_BUFFERS, *REFUSED)
        }
        notes = [f"- {name}, {told['outcome']}: {_brief(told['why'])}" for name, told in others.items()]
        notes += [
            f"- {name}, not the same twice in `intercept`: {_brief(told['intercepted'])}"
            for name, told in found["models"].items()
            if told.get("intercepted")
        ]
        if notes:
            lines += ["", f"## {package}", "", *notes]
    return "\n".join(lines) + "\n"


def _counts(models: dict[str, dict[str, str]]) -> Counter[str]:
    """How many models have which outcome; tried are those that could be built."""
    counts = Counter(told["outcome"] for told in models.values())
    counts["tried"] = len(models) - counts["not built"]
    counts["intercepted"] = sum(told.get("intercepted") == "" for told in models.values())
    return counts


def _brief(why: str) -> str:
    """The first hundred characters, without the kind of error."""
    why = why.partition(": ")[2] or why
    return why if len(why) <= 100 else why[:100].rpartition(" ")[0] + " ..."


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--packages", nargs="+", choices=PACKAGES, default=[*PACKAGES])
    parser.add_argument("--match", default="", help="only models whose name has this regular expression")
    parser.add_argument("--out", type=Path, default=Path("sweep.json"))
    parser.add_argument(
        "--page", action="store_true", help=f"write {PAGE.name} from the file that --out names"
    )
    arguments = parser.parse_args()
    if arguments.page:
        PAGE.write_text(page(json.loads(arguments.out.read_text())))
        return
    warnings.simplefilter("ignore")
    logging.disable(logging.ERROR)
    results: dict[str, Any] = {}
    for package, name, told in sweep(arguments.packages, arguments.match):
        found = results.setdefault(package, {"version": importlib.metadata.version(package), "models": {}})
        found["models"][name] = told
        print(f"{package} {name}: {told['outcome']} {told['why'][:150]}", flush=True)
        arguments.out.write_text(json.dumps(results, indent=1))
    for package, found in results.items():
        print(package, found["version"], dict(Counter(told["outcome"] for told in found["models"].values())))


if __name__ == "__main__":
    main()
