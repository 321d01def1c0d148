"""Public models, initialised by the default rules: which are right, which are refused, and why.

    python tools/sweep.py --packages timm transformers --out sweep.json

Each model is built as small as its configuration allows, directly and on the meta device, and initialised both
times. It is right if no parameter or buffer differs in a bit and none is left out. Each has a process of its own
(POSIX only: ``fork``), 60 seconds and 12 GiB. Packages that are not installed are passed over. ``--page`` writes
docs/models.md from a file of results.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import logging
import multiprocessing
import re
import resource
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import tritoninit as ti
from tools.sweep_models import PACKAGES, Build, check_size

PAGE = Path(__file__).parents[1] / "docs" / "models.md"
SECONDS = 60
BYTES = 12 * 2**30


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
    return ("wrong", found) if found else ("right", why)


def tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def difference(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> str:
    if one.keys() != other.keys():
        return f"other names: {', '.join(sorted(one.keys() ^ other.keys())[:3])}"
    apart = [name for name, x in one.items() if x.dtype != other[name].dtype or not same(x, other[name])]
    return f"{len(apart)} differ: {', '.join(apart[:3])}" if apart else ""


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and bool(torch.equal(one, other) or ((one == other) | (one != one)).all())


def words(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]


def run(build: Build) -> dict[str, str]:
    """:func:`outcome`, in a process of its own."""
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(build, there))
    process.start()
    there.close()
    told = ("failed", f"no answer in {SECONDS} s")
    try:
        if here.poll(SECONDS):
            told = here.recv()
    except EOFError:
        process.join()
        told = ("failed", f"exit status {process.exitcode}")
    process.kill()
    process.join()
    return dict(zip(("outcome", "why"), told, strict=True))


def _child(build: Build, there: Any) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open("/dev/null", "w")  # noqa: SIM115 - until the process ends
    there.send(outcome(build))


def sweep(packages: Sequence[str], match: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    """(package, model, what came of it) of each."""
    for package in packages:
        try:
            models = PACKAGES[package]()
            for name, build in models:
                if re.search(match, name):
                    yield package, name, run(build)
        except ImportError as error:
            print(f"{package}: passed over: {error}", file=sys.stderr)


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
