"""Whether a candidate is slower than its baseline: ``tritoninit compare --fail-below``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tritoninit.bench.comparison import Comparison, Task, fact
from tritoninit.bench.result_files import Results, Row
from tritoninit.bench.tables import OF_MEMSET, OF_TORCH
from tritoninit.outputs import UsageError, shown
from tritoninit.terminal import table
from tritoninit.words import short


@dataclass(frozen=True)
class Kept:
    """How much of a baseline's speed relative to torch, or to memset, a candidate kept at a task."""

    task: Task
    baseline: Row
    candidate: Row

    @property
    def part(self) -> float | None:
        """The larger of the two; None if the files have neither in common.

        A contender's ratio to itself is 1 whatever its speed, and left out.
        """
        parts = [
            now / before
            for other, before, now in (
                ("torch", self.baseline.torch_ratio, self.candidate.torch_ratio),
                ("memset", self.baseline.memset_fraction, self.candidate.memset_fraction),
            )
            if before is not None and now is not None and other != self.candidate.contender
        ]
        return max(parts, default=None)


def kept(found: Comparison) -> list[Kept]:
    """The tasks at which the second machine can be held against the first.

    A machine that is shared is now faster and now slower, so that times of two runs say little. Torch and
    memset are timed in the same run as we are, and what slows all three cancels. What a row keeps is the
    larger of what it keeps of the two ratios: one lucky measurement of torch or of memset moves one of them,
    a slower kernel both. What has neither ratio is not held against anything, nor is the start of a process,
    most of which is not ours.
    """
    pairs = []
    for line in found.lines:
        before, now = line.cells
        if before is not None and now is not None and line.task.kind != "start":
            pairs.append(Kept(line.task, before, now))
    return [pair for pair in pairs if pair.part is not None]


def verdict(found: Comparison, least: float) -> tuple[list[str], int]:
    """What to say of a baseline and a candidate, and the exit code.

    Raises:
        UsageError: there is nothing that both have.
    """
    baseline, candidate = found.results
    pairs = kept(found)
    if not pairs:
        raise UsageError(
            f"{shown(baseline.path)} and {shown(candidate.path)} have no row in common that"
            " --fail-below could judge"
        )
    fell = [pair for pair in pairs if pair.part is not None and pair.part < least]
    lines = [
        "",
        *_two_machines(baseline, candidate),
        f"{len(pairs) - len(fell)} of {len(pairs)} rows kept {least:g} of the baseline's relative speed",
    ]
    missing = sum(1 for line in found.lines if line.cells[0] and not line.cells[1])
    if missing:
        lines.append(f"{missing} rows of the baseline were not measured again")
    if fell:
        before, now = shown(baseline.path), shown(candidate.path)
        lines += ["", f"Fell, {before} before and {now} now", *_fallen(fell)]
    return lines, int(bool(fell))


def _two_machines(baseline: Results, candidate: Results) -> Iterator[str]:
    """A line if the files are of two machines, on which ratios differ though no kernel does."""
    facts = {"device": ("device",), "accelerator": ("accelerator", "name"), "CPU": ("cpu", "brand_raw")}
    differences = []
    for name, where in {**facts, "threads": ("threads",)}.items():
        before, now = fact(baseline.machine, where), fact(candidate.machine, where)
        if before != now:
            differences.append(f"{name} {shown(before)} before and {shown(now)} now")
    if differences:
        yield f"These are two machines, whose ratios may differ for that alone: {', '.join(differences)}"


def _fallen(fell: Sequence[Kept]) -> list[str]:
    rows = [
        [
            str(pair.task),
            *(
                measure.show(row)
                for measure in (OF_TORCH, OF_MEMSET)
                for row in (pair.baseline, pair.candidate)
            ),
            short(pair.part, 3),
        ]
        for pair in fell
    ]
    return table(
        ["row", f">{OF_TORCH.heading} before", ">now", f">{OF_MEMSET.heading} before", ">now", ">kept"], rows
    )
