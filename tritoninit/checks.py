"""Proof, on this machine, that every available backend writes the bits that the NumPy reference writes.

One grid of cases (distribution, dtype, shape, window, memory layout, cut) goes through each backend that the
registry knows and each device that it serves. Where there is no GPU, Triton's kernels run in its interpreter,
which is chosen when Triton is imported: hence in a process of its own, this module's ``main``. Or what Triton
compiles them to, for GPUs that need not be here, is executed on the CPU (``emulations``).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final, NamedTuple

import torch

from tritoninit import registry
from tritoninit.auditing.fingerprint import bits_hash
from tritoninit.distributions import (
    Bernoulli,
    Cauchy,
    Exponential,
    Geometric,
    LogNormal,
    Permutation,
    RandInt,
)
from tritoninit.extents import extent
from tritoninit.factorization import has_kernels
from tritoninit.fills import Constant, Fill, Initializer, Normal, TruncatedNormal, Uniform
from tritoninit.kernels.lowering import FLOAT_DTYPES
from tritoninit.kernels.stream import GRIDS, Draw, row_major_strides
from tritoninit.keys import Key
from tritoninit.mapped import LogOfUniform, LogUniform, RingDecay, TimeStepBias
from tritoninit.plan import Plan
from tritoninit.registry import FillFunction
from tritoninit.structured import Orthogonal
from tritoninit.tables import S4D, STFT, Sinusoids
from tritoninit.targets import Target
from tritoninit.window import Window

REFERENCE = "numpy"

_FILLS = (
    Constant(0.1),
    Uniform(-0.1, 0.3),
    Normal(0.01, 0.02),
    Normal(),  # to which nothing is added that would round an error in the last place away
    TruncatedNormal(0.0, 0.02, -0.04, 0.04),
    TruncatedNormal(0.0, 1.0, 1.5, 6.0),  # a tail, where the quantile has a polynomial of its own
)
# The same, and smaller numbers, rounded up or down at random where the dtype rounds at all.
_STOCHASTIC = tuple(
    fill.stochastically()
    for fill in (Uniform(-0.1, 0.3), Normal(0.0, 1e-4), TruncatedNormal(0.0, 0.02, -0.04, 0.04))
)
# Around the sizes of a Philox block, of a program and of the reference's chunk.
_SIZES = (0, 1, 5, 1023, 1025, 65537)
# Aligned or not, across the end of the low word of an index or of a counter, near the end of a signed index.
_STARTS = (0, 7, 2**32 - 4090, 2**34 - 5, 2**63 - 2**20)
_PLACED = (
    *(((37, 129), layout) for layout in ("contiguous", "shifted", "transposed", "sliced")),
    ((5, 7, 9, 11), "channels-last"),
    ((2, 3, 2, 3, 2, 2), "transposed"),  # more dimensions than a kernel takes
)
_LARGE = 2**20 + 1
# What most fills are of; of others there are fewer and smaller cases.
_USUAL = ("float32", "float16", "bfloat16")
_SMALL = 5000  # elements of the tensors that are filled in one call
_GUARD = 32  # elements of poison on each side of a tensor's memory


def _every_other(shape: Sequence[int]) -> tuple[int, ...]:
    return tuple(2 * stride for stride in row_major_strides(shape))


def _transposed(shape: Sequence[int]) -> tuple[int, ...]:
    return row_major_strides(shape[::-1])[::-1]


def _channels_last(shape: Sequence[int]) -> tuple[int, ...]:
    *outer, channel = row_major_strides((shape[0], *shape[2:], shape[1]))
    return (outer[0], channel, *outer[1:])


# Memory strides, in elements, of a tensor of some shape. A shifted one starts off the 16-byte grid.
_LAYOUTS: dict[str, Callable[[Sequence[int]], tuple[int, ...]]] = {
    "contiguous": row_major_strides,
    "shifted": row_major_strides,
    "transposed": _transposed,
    "sliced": _every_other,
    "channels-last": _channels_last,
}


@dataclass(frozen=True)
class FillCase:
    """One tensor to fill: what with, which window of a global tensor it is, and how it lies in memory.

    ``cut`` is a dimension along which the tensor is filled in three pieces, each a window of its own.
    """

    fill: Fill
    dtype: str
    shape: tuple[int, ...]
    window: Window
    layout: str = "contiguous"
    cut: int | None = None

    def __str__(self) -> str:
        cut = "" if self.cut is None else f", cut along dimension {self.cut}"
        return f"{self.fill} {self.dtype} {self.shape} in {self.window}, {self.layout}{cut}"

    @property
    def small(self) -> bool:
        """Whether it is filled a second time, together with others."""
        return math.prod(self.shape) <= _SMALL

    def poison(self, device: torch.device) -> torch.Tensor:
        """Memory for the tensor and a guard on each side, all of it NaN."""
        _, elements = extent(1, self.shape, _LAYOUTS[self.layout](self.shape))
        size = elements + 1 + 2 * _GUARD  # one more for a shifted tensor
        return torch.full((size,), float("nan"), dtype=getattr(torch, self.dtype), device=device)

    def view(self, memory: torch.Tensor) -> torch.Tensor:
        """The tensor in that memory."""
        shift = 1 if self.layout == "shifted" else 0
        return memory.as_strided(self.shape, _LAYOUTS[self.layout](self.shape), _GUARD + shift)

    def pieces(self, tensor: torch.Tensor) -> Iterator[tuple[torch.Tensor, Window]]:
        if self.cut is None:
            yield tensor, self.window
            return
        size = self.shape[self.cut]
        edges = (0, size // 5, size // 2 + 1, size)
        for first, stop in pairwise(edges):
            offsets = list(self.window.offsets)
            offsets[self.cut] += first
            piece = tensor.narrow(self.cut, first, stop - first)
            yield piece, Window(self.window.global_shape, tuple(offsets))


class CheckFailed(RuntimeError):
    """The comparison itself could not be made."""


class Outcome(NamedTuple):
    """How many values a case compared, and the first that differs, in words, if one does."""

    values: int
    difference: str | None


def grid(quick: bool = False) -> list[FillCase]:
    """The cases that every backend goes through; fewer and smaller if quick, and of float64 and 8 bits."""
    return [case for dtype in FLOAT_DTYPES for case in _grid(dtype, quick)]


def _grid(dtype: str, quick: bool) -> list[FillCase]:
    sizes = (1025,) if quick else _SIZES
    starts = _STARTS[:2] if quick or dtype not in _USUAL else _STARTS
    placed = _PLACED[2:-1] if quick else _PLACED
    n = _LARGE // 8 if quick or dtype not in _USUAL else _LARGE
    cases = []
    stochastic = _STOCHASTIC[1:2] if quick else _STOCHASTIC
    for fill in (*_FILLS, *stochastic) if dtype in GRIDS else _FILLS:
        add = partial(FillCase, fill, dtype)
        cases += [add((n,), Window((start + n,), (start,))) for n in sizes for start in starts]
        for shape, layout in placed:
            inside = Window(tuple(n + 7 for n in shape), tuple(range(1, len(shape) + 1)))
            cases.append(add(shape, inside, layout))
        cases += [add((37, 129), Window((37, 129), (0, 0)), cut=dim) for dim in ((1,) if quick else (0, 1))]
        if fill.random:
            cases.append(add((n,), Window((n + 3,), (3,))))
            cases.append(add((n // 16,), Window((n // 16,), (0,)), cut=0))
    return cases


def compare(
    write: FillFunction, device: torch.device, cases: Sequence[FillCase], seed: int
) -> Iterator[Outcome]:
    """Fill every case by ``write`` on ``device`` and by the reference; ends at the first difference.

    First each case by itself, its pieces in one call, then all that are small in one call.
    """
    numbered = []
    for number, case in enumerate(cases):
        words = Key(0, stream=seed).fold_in(number)  # hashes of the seed, so that all 64 bits of both vary
        numbered.append((case, Key(words.stream, words.fold_in("stream").stream)))
    together = [each for each in numbered if each[0].small]
    for batch in [*([each] for each in numbered), *([together] * bool(together))]:
        for outcome in _compare(write, device, batch):
            yield outcome
            if outcome.difference:
                return


def _compare(
    write: FillFunction, device: torch.device, cases: Sequence[tuple[FillCase, Key]]
) -> Iterator[Outcome]:
    memories = [case.poison(device) for case, _ in cases]
    with registry.use_backend(REFERENCE):
        items = [
            (piece, Plan().append(piece, case.fill, key, window).draw)
            for (case, key), memory in zip(cases, memories, strict=True)
            for piece, window in case.pieces(case.view(memory))
        ]
        write(items)
        for (case, key), memory in zip(cases, memories, strict=True):
            expected = case.poison(torch.device("cpu"))
            reference = torch.empty(case.shape, dtype=expected.dtype)
            plan = Plan()
            plan.add(reference, case.fill, key, case.window)
            plan.run()
            case.view(expected).copy_(reference)
            yield Outcome(reference.numel(), _first_difference(case, memory.cpu(), expected))


def _first_difference(case: FillCase, memory: torch.Tensor, expected: torch.Tensor) -> str | None:
    got, want = _bits(memory), _bits(expected)
    if torch.equal(got, want):
        return None
    for place in (case.view(got) != case.view(want)).nonzero().tolist()[:1]:
        index = tuple(place)
        pair = [_hexadecimal(case.view(bits)[index]) for bits in (got, want)]
        return f"{case}: element {index} is {pair[0]}, the reference has {pair[1]}"
    place = int((got != want).nonzero()[0]) - case.view(got).storage_offset()
    return f"{case}: wrote outside the tensor, {place} elements after its first"


def _bits(x: torch.Tensor) -> torch.Tensor:
    return x.view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.itemsize])


def _hexadecimal(bits: torch.Tensor) -> str:
    digits = 2 * bits.itemsize
    return f"0x{int(bits) & (16**digits - 1):0{digits}x}"


@dataclass(frozen=True)
class BackendCheck:
    """A backend on a device, to be compared with the reference.

    Attributes:
        backend: its name.
        where: the device, in words.
        cases: how many there are, those that are filled twice counted twice.
        run: compares them, one outcome each; ends at the first difference.
        against: what is compared with.
    """

    backend: str
    where: str
    cases: int
    run: Callable[[], Iterator[Outcome]]
    against: str = REFERENCE


def backend_checks(seed: int, quick: bool = False) -> list[BackendCheck]:
    """Every backend on every device that it serves here, Triton's interpreter standing in for a GPU.

    And first the host's mathematical functions (:func:`host_check`). The reference is compared with itself
    where a case is cut or lies in memory otherwise.
    """
    cases = grid(quick)
    found = [host_check()]
    for status in registry.backends():
        backend = registry.get(status.name)
        own = [case for case in cases if case.cut is not None or case.layout != "contiguous"]
        mine = own if backend.name == REFERENCE else cases
        devices = [device for device in _devices() if _serves(backend, device)]
        for device in devices:
            run = partial(compare, backend.load(), device, mine, seed)
            found.append(BackendCheck(backend.name, _describe(backend, device), _outcomes(mine), run))
        if backend.name == "triton" and not devices and importlib.util.find_spec("triton"):
            interpreted = partial(_compare_in_interpreter, seed, quick)
            found.append(
                BackendCheck(backend.name, "cpu, Triton's interpreter", _outcomes(cases), interpreted)
            )
    return found


# What is a function in float64 of random numbers, or of places, by the bits of its float32 values for key 0.
_PINNED: Final[tuple[tuple[Initializer, tuple[int, ...], int], ...]] = (
    (LogUniform(1e-3, 0.1), (4096,), 0x4E80B5383CCC1A65),
    (LogOfUniform(1.0, 16.0), (4096,), 0xE256895960945FC3),
    (TimeStepBias(), (4096,), 0x88B10B530B0E41B2),
    (RingDecay(), (4096,), 0x2CD0019574CE9B25),
    (Exponential(), (4096,), 0xCE9C1843AFE111A5),
    (LogNormal(), (4096,), 0x7A2212FBC40C0CD9),
    (Cauchy(), (4096,), 0x897509D85D44180B),
    (Geometric(0.3), (4096,), 0x658849942B2C7578),
    (Bernoulli(0.3), (4096,), 0x8808FB65895C7578),
    (RandInt(-1000, 1000), (4096,), 0x4668FFCF6CE8F578),
    (Permutation(), (64, 64), 0x3EFDE0BD94A47578),
    (Sinusoids(), (64, 64), 0x5D6C9FBA00B5EC37),
    (Sinusoids(grid=(8, 8), extra=1), (65, 64), 0xA1ADCF652065D91E),
    (S4D("real", "log_decay"), (4, 64), 0xEE87B2FB07319352),
    (S4D("inv", "frequency"), (4, 64), 0x359C2820DC93A77E),
    (STFT("real"), (33, 1, 64), 0xC873BCD461EAAF78),
    (STFT("imag", "hamming", "spectrum", True), (33, 1, 64), 0xCD7F094DCD754868),
)


# Of the same, drawn in float64.
_PINNED_DOUBLES: Final[tuple[tuple[Initializer, int], ...]] = (
    (LogUniform(1e-3, 0.1), 0x6252ACE1D2400DA1),
    (LogOfUniform(1.0, 16.0), 0x8D2BFD1A7419BBB7),
    (TimeStepBias(), 0x7DB00389B219AEAC),
    (RingDecay(), 0x27B24C8689060714),
    (Exponential(), 0x6F34B7A0C3CC3E03),
    (LogNormal(), 0xE1C0238442790BF0),
    (Cauchy(), 0x2B3A521127C3C96E),
    (Geometric(0.3), 0x2E1C218B0C097004),
)


# By kernels of ours, where numba is installed; LAPACK's are each build's own.
_PINNED_FACTORS: Final[tuple[tuple[tuple[int, ...], torch.dtype, int], ...]] = (
    ((300, 200), torch.float32, 0xC8F35DAD6E22D8D0),
    ((96, 1024), torch.float32, 0x6197AF1D9A323736),
    ((60, 130), torch.float64, 0x58330756040D03E2),
)


def host_check() -> BackendCheck:
    """What only the host computes, against the bits that it gave elsewhere.

    Functions of this machine's mathematical library, and QR factorisations if numba is installed.
    """
    count = len(list(_pinned()))
    return BackendCheck("host", "cpu, functions and factorisations", count, _compare_host, "pinned bits")


def _pinned() -> Iterator[tuple[Initializer, tuple[int, ...], torch.dtype, int]]:
    for initializer, pinned in _PINNED_DOUBLES:
        yield initializer, (4096,), torch.float64, pinned
    for initializer, shape, pinned in _PINNED:
        yield initializer, shape, torch.float32, pinned
    if has_kernels():
        for shape, dtype, pinned in _PINNED_FACTORS:
            yield Orthogonal(), shape, dtype, pinned


def _compare_host() -> Iterator[Outcome]:
    for initializer, shape, dtype, pinned in _pinned():
        values = initializer(torch.empty(shape, dtype=dtype, device="cpu"), key=Key(0))
        found = bits_hash(values)
        difference = (
            f"{initializer} {dtype} {shape}: the bits hash to 0x{found:016x}, elsewhere to 0x{pinned:016x}"
        )
        yield Outcome(values.numel(), difference if found != pinned else None)
        if found != pinned:
            return


def emulations(archs: Sequence[str], seed: int, quick: bool = False) -> list[BackendCheck]:
    """Triton's kernels as compiled for each architecture, executed here: what a GPU of it would write.

    On NVIDIA both what Triton hands to ptxas (PTX) and what ptxas makes of it (SASS).

    Raises:
        UsageError: an architecture is not known, or Triton's compiler is not here.
    """
    from tritoninit.bench.inspection import compilable

    archs = compilable(archs, "check --emulate")
    from tritoninit.emulated import launch

    cases = grid(quick)
    if quick:  # of 8 bits one format; and what draws a second word has kernels that take longest to compile
        quickly = (*_USUAL, "float64", "float8_e4m3fn")
        cases = [case for case in cases if case.dtype in quickly and not case.fill.stochastic]
    return [
        BackendCheck(
            "triton",
            f"{arch}, {code.upper()} executed on the CPU",
            _outcomes(cases),
            partial(_compare_emulated, code, arch, cases, seed),
        )
        for arch in archs
        for code in launch.codes(arch)
    ]


def _compare_emulated(code: str, arch: str, cases: Sequence[FillCase], seed: int) -> Iterator[Outcome]:
    """The outcomes of compiled kernels, executed.

    Raises:
        CheckFailed: the code holds what nobody here decodes, or does what it must not.
    """
    from tritoninit.emulated.engine import Fault, Undecoded
    from tritoninit.emulated.launch import Emulated

    with Emulated(code, arch) as gpu:

        def write(items: Sequence[tuple[Target, Draw]]) -> None:
            gpu.fill_many([(tensor, draw) for tensor, draw in items if isinstance(tensor, torch.Tensor)])

        try:
            yield from compare(write, torch.device("cpu"), cases, seed)
        except Fault as error:
            raise CheckFailed(
                f"what Triton compiles for {arch} ({code}) does what it must not: {error}"
            ) from None
        except Undecoded as error:
            raise CheckFailed(
                f"what Triton compiles for {arch} ({code}) is not decoded here: {error}"
            ) from None


def _outcomes(cases: Sequence[FillCase]) -> int:
    return len(cases) + sum(case.small for case in cases)


def _devices() -> list[torch.device]:
    return [torch.device("cpu"), *(torch.device("cuda", k) for k in range(torch.cuda.device_count()))]


def _serves(backend: registry.Backend, device: torch.device) -> bool:
    return device.type in backend.devices and backend.unavailable(device.type) is None


def _describe(backend: registry.Backend, device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device}, {torch.cuda.get_device_name(device)}"
    return "cpu, tensors cut or laid out otherwise" if backend.name == REFERENCE else "cpu"


def _compare_in_interpreter(seed: int, quick: bool) -> Iterator[Outcome]:
    """The outcomes of :func:`main` in a process that interprets Triton.

    Raises:
        CheckFailed: the process did.
    """
    command = [sys.executable, "-m", "tritoninit.checks", "--seed", str(seed), *["--quick"] * quick]
    root = str(Path(__file__).parents[1])  # whoever imported this from a checkout may not have installed it
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path, "TRITON_INTERPRET": "1"}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, env=environment, text=True, bufsize=1
        )
        with process:
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    yield Outcome(*json.loads(line))
            except BaseException:  # an interrupt, too, must not leave it behind
                process.kill()
                raise
        if process.returncode:
            errors.seek(0)
            reason = errors.read().strip().splitlines() or [f"exit code {process.returncode}"]
            raise CheckFailed(f"the check in Triton's interpreter failed: {reason[-1]}")


def main(argv: Sequence[str] | None = None) -> int:
    """Compare Triton's kernels, in its interpreter, with the reference: one JSON outcome a line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args(argv)
    registry.get("triton").load()

    from tritoninit.kernels import triton_kernels

    def write(items: Sequence[tuple[Target, Draw]]) -> None:
        # The interpreter takes 20 ms or more a program, whatever the program's size.
        tensors = [(tensor, draw) for tensor, draw in items if isinstance(tensor, torch.Tensor)]
        if max(tensor.numel() for tensor, _ in tensors) > _SMALL:
            for tensor, draw in tensors:
                triton_kernels.fill(tensor, draw, counters=1 << 16, places=1 << 14)
        else:
            triton_kernels.fill_many(tensors)

    for outcome in compare(write, torch.device("cpu"), grid(arguments.quick), arguments.seed):
        sys.stdout.write(json.dumps(outcome) + "\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
