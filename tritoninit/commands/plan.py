"""``tritoninit plan``: a model on a mesh that need not be here, who holds what, and that it is all there."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tritoninit.commands import plan_output, subjects
from tritoninit.meshes.layouts import Layout, read_layout
from tritoninit.meshes.mesh import Mesh
from tritoninit.meshes.mesh_plan import plan_mesh
from tritoninit.meshes.predictions import gpu_named
from tritoninit.outputs import UsageError, replacing, shown, writable
from tritoninit.presets import LARGE, PRESETS
from tritoninit.schemes import TORCH_DEFAULTS
from tritoninit.terminal import one_line, progress_display, stage


def run(arguments: argparse.Namespace) -> int:
    report_path = writable(arguments.json)
    with _usage_errors():
        gpu = gpu_named(arguments.gpu).name
        mesh, layout = _layout(arguments)
        if arguments.rank is not None:
            mesh.coordinate(arguments.rank)
    subject = subjects.named(
        arguments.spec, dict(arguments.set), arguments.rules, presets={**PRESETS, **LARGE}
    )
    dtype: torch.dtype = getattr(torch, arguments.dtype)
    with progress_display() as progress:
        with stage(progress, f"building {subject.name}"):
            model = subjects.constructed(subject, torch.device("meta"), dtype)
            with _usage_errors(f"cannot find rules for {subject.name}: "):
                rules = subject.rules(model) if subject.rules else TORCH_DEFAULTS
        with stage(progress, "planning"), _usage_errors(f"cannot plan {subject.name}: "):
            plan = plan_mesh(model, rules, mesh=mesh, layout=layout, gpu=gpu)
    ranks = range(mesh.size) if arguments.all else [] if arguments.rank is None else [arguments.rank]
    summary = plan_output.summary(arguments.spec, arguments.dtype, rules, plan, ranks)
    plan_output.show(plan, summary, arguments.rank)
    if report_path is not None:
        with replacing(report_path) as temporary:
            text = json.dumps(summary, indent=1, allow_nan=False, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")
    return 1 if plan.faults else 0


def _layout(arguments: argparse.Namespace) -> tuple[Mesh, Layout]:
    """The mesh and what is cut otherwise than its names say: the file's, and before it the command line's."""
    sizes, layout = None, Layout()
    if arguments.layout is not None:
        try:
            layout, sizes = read_layout(arguments.layout)
        except (OSError, UnicodeError) as error:
            reason = getattr(error, "strerror", None) or one_line(error)
            raise UsageError(f"cannot read {shown(arguments.layout)}: {reason}") from None
    given = arguments.mesh if arguments.mesh is not None else sizes
    if given is None:
        raise UsageError("plan needs --mesh, as in --mesh dp=128,tp=8, or a --layout that has one")
    first: dict[str, str] = {}
    for glob, cuts in arguments.shard:
        first.setdefault(glob, cuts)
    return Mesh.of(given), Layout(
        {**first, **{k: v for k, v in layout.splits.items() if k not in first}}, layout.stages
    )


@contextmanager
def _usage_errors(what: str = "") -> Iterator[None]:
    try:
        yield
    except UsageError:
        raise
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UsageError(f"{what}{error}") from error
    except Exception as error:  # a scheme looks for what the model may not have
        raise UsageError(f"{what}{one_line(error)}") from error
