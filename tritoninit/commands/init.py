"""``tritoninit init``: build a model, once, initialise it, and say what became of every parameter."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from tritoninit import registry
from tritoninit.auditing.report import Report
from tritoninit.bench.torch_equivalents import torch_equivalent
from tritoninit.commands import init_output, subjects, torch_comparison, weights
from tritoninit.commands.subjects import Subject
from tritoninit.commands.timing import WARM_UP, Timing, timed
from tritoninit.interception.entry import intercept
from tritoninit.interception.intercepted import Intercepted, PassedOn
from tritoninit.keys import Key
from tritoninit.model_initialization import initialize_
from tritoninit.models.rules import RuleSet
from tritoninit.outputs import UsageError, replacing, writable
from tritoninit.rounding import NEAREST
from tritoninit.targets import as_target
from tritoninit.terminal import one_line, progress_display, stage

if TYPE_CHECKING:
    from rich.progress import Progress


def run(arguments: argparse.Namespace) -> int:
    out, report_path = writable(arguments.out), writable(arguments.json)
    if out is not None:
        if out == report_path:
            raise UsageError("--out and --json name the same file")
        weights.import_safetensors()
    subject = subjects.named(arguments.spec, dict(arguments.set), arguments.rules)
    if subject.rules is None and arguments.rounding != NEAREST:
        raise UsageError(
            f"--rounding is of what rules draw, and {subject.name} is initialised by its own code: give"
            " --rules"
        )
    device = _device(arguments.device)
    dtype: torch.dtype = getattr(torch, arguments.dtype)
    with _backend(arguments.backend, device), progress_display() as progress:
        small = torch.empty(4096, device=device, dtype=dtype)
        done = _initialized(subject, arguments.seed, arguments.rounding, small, progress)
        with stage(progress, "measuring"):
            audit = done.report.audit
        if out is not None:
            weights.save(done.model, out, progress)
        summary = init_output.summary(arguments, device, done.report, done.passed_on, done.timing)
        scheme = done.scheme
        if arguments.compare:
            if subject.rules is None:
                del done  # its memory is for the model's second construction
                theirs = torch_comparison.time_construction(subject, small, progress)
            else:
                theirs = torch_comparison.time_fills(done.report, small, progress)
            summary["torch_nn_init"] = init_output.compared(summary["totals"], theirs)
    init_output.show(audit, summary, scheme)
    if report_path is not None:
        with replacing(report_path) as temporary:
            text = json.dumps(summary, indent=1, allow_nan=False, ensure_ascii=False)
            temporary.write_text(text + "\n", encoding="utf-8")
    return 0


def _device(name: str | None) -> torch.device:
    """The device of that name, or the best there is.

    Raises:
        UsageError: it is not here.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except Exception as error:  # noqa: BLE001 - by what it is that is missing another one
        raise UsageError(f"no device {name!r} here: {one_line(error)}") from None
    if device.type == "meta":
        raise UsageError("the meta device has no memory to fill")
    return device


@contextmanager
def _backend(name: str | None, device: torch.device) -> Iterator[None]:
    """The backend asked for, found to be able to serve the device.

    Raises:
        UsageError: it cannot, or there is none of that name.
    """
    with ExitStack() as stack:
        try:
            if name is not None:
                stack.enter_context(registry.use_backend(name))
            registry.resolve(device.type)
        except (ValueError, RuntimeError) as error:
            raise UsageError(str(error)) from None
        yield


class _Initialized(NamedTuple):
    """A model, and what was done to it: ``scheme`` is where its rules are published, if it has any."""

    model: nn.Module
    report: Report
    timing: Timing
    scheme: str | None = None
    passed_on: Sequence[PassedOn] = ()


def _initialized(
    subject: Subject, seed: int, rounding: str, small: Tensor, progress: Progress | None
) -> _Initialized:
    if subject.rules is None:
        return _by_own_code(subject, seed, small, progress)
    with stage(progress, f"building {subject.name}"):
        model = subjects.constructed(
            subject, torch.device("meta") if subject.on_meta else small.device, small.dtype
        )
        with _usage_errors(f"cannot find rules for {subject.name}"):
            rules = subject.rules(model)
        if subject.on_meta:
            with _usage_errors(f"cannot initialise {subject.name}"):
                initialize_(model, rules, seed=0, device=small.device, dtype=small.dtype)
        _touch(model)
    return _by_rules(model, rules, subject.name, seed, rounding, small, progress)


def _by_own_code(subject: Subject, seed: int, small: Tensor, progress: Progress | None) -> _Initialized:
    """Construct the model by its own code, its initialisation intercepted; timed is all of it."""
    built: list[tuple[nn.Module, Intercepted]] = []

    def run() -> None:
        with intercept(seed=seed) as intercepted:
            built.append((subjects.constructed(subject, small.device, small.dtype), intercepted))

    with stage(progress, f"building {subject.name}"):
        with intercept(seed=0):
            for fill in WARM_UP:
                torch_equivalent(fill)(small)
        timing = timed(run, small.device, runs=1)
    ((model, intercepted),) = built
    return _Initialized(model, intercepted.report(model), timing, passed_on=intercepted.passed_on)


def _by_rules(
    model: nn.Module,
    rules: RuleSet,
    name: str,
    seed: int,
    rounding: str,
    small: Tensor,
    progress: Progress | None,
) -> _Initialized:
    """Initialise the model; timed is that, from looking up the rules to the last element."""
    reports: list[Report] = []

    def run() -> None:
        reports[:] = [initialize_(model, rules, seed=seed, rounding=rounding)]

    with stage(progress, "initialising"), _usage_errors(f"cannot initialise {name}"):
        for fill in WARM_UP:
            fill(small, key=Key(0))
        timing = timed(run, small.device)
    return _Initialized(model, reports[0], timing, rules.citation)


@contextmanager
def _usage_errors(what: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (ValueError, TypeError, NotImplementedError) as error:
        raise UsageError(f"{what}: {error}") from error
    except Exception as error:  # a scheme looks for what the model may not have; memory has an end
        raise UsageError(f"{what}: {one_line(error)}") from error


def _touch(module: nn.Module) -> None:
    """Write NaN to every parameter: memory is paged in before anything is timed, and an omission shows.

    Raises:
        UsageError: a parameter cannot be written.
    """
    for name, parameter in module.named_parameters():
        try:
            as_target(parameter)
        except ValueError as error:
            raise UsageError(f"{name}: {error}") from None
        with torch.no_grad():
            parameter.fill_(math.nan if parameter.is_floating_point() else 0)
