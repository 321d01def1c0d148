"""What our Triton kernels cost before they run: compiled for a GPU that is not here, counted on the hot path.

Triton's wheel carries ptxas, nvdisasm and cuobjdump, so that a machine without a GPU can read what an NVIDIA
GPU would execute. The hot path is the one that a full tile takes: from the entry to an EXIT, through no
subroutine (ptxas puts the rare operands of sqrt.rn, and 64-bit division, there), storing every element of
the thread with stores that nothing guards. Where a program writes several tiles in a loop, a further tile
costs a further turn.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tritoninit.kernels import triton_kernels

TARGETS: Final = {
    **{f"sm_{arch}": GPUTarget("cuda", arch, 32) for arch in (80, 89, 90, 100)},
    **{arch: GPUTarget("hip", arch, 64) for arch in ("gfx90a", "gfx942")},
}
_TRITON_DTYPES: Final = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_TOOLS: Final = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def compile_kernel(
    kernel: str, distribution: str, dtype: str, arch: str, *, aligned: bool = True, wide: bool = False
) -> Any:
    """Compile one of ``triton_kernels`` as its launcher would; never from Triton's cache.

    Args:
        kernel: "run_kernel", "table_kernel" or "scattered_kernel".
        distribution: a key of ``triton_kernels.DISTRIBUTIONS``.
        dtype: "float32", "float16" or "bfloat16".
        arch: a key of ``TARGETS``.
        aligned: 16 divides the tensor's address and, for run_kernel, the index of its first element.
        wide: scattered_kernel's 64-bit divisions, for tensors of nearly 2**31 elements or more.

    Returns:
        Triton's CompiledKernel; its ``asm`` holds "ptx" and "cubin", or "amdgcn" and "hsaco".
    """
    function = getattr(triton_kernels, kernel)
    if not isinstance(function, triton.JITFunction):
        raise RuntimeError("Triton's interpreter replaces its compiler: unset TRITON_INTERPRET")
    constants: dict[str, Any] = {"DISTRIBUTION": triton_kernels.DISTRIBUTIONS[distribution]}
    pointer = "*" + _TRITON_DTYPES[dtype]
    if kernel == "run_kernel":
        constants |= {"ALIGNED": aligned, "COUNTERS": triton_kernels.COUNTERS}
    elif kernel == "table_kernel":
        constants |= {"ALIGNED": aligned, "COUNTERS": triton_kernels.COUNTERS}
        constants["DTYPE"] = triton_kernels.DTYPES[getattr(torch, dtype)]
        pointer = "*i64"
    else:
        constants |= {"WIDE": wide, "PLACES": triton_kernels.PLACES}
    signature = {p.name: "constexpr" if p.is_constexpr else p.annotation_type for p in function.params}
    signature[function.arg_names[0]] = pointer
    source = ASTSource(
        fn=function,
        signature=signature,
        constexprs={(function.arg_names.index(name),): value for name, value in constants.items()},
        attrs={(0,): [["tt.divisibility", 16]]} if aligned else {},
    )
    options = {"num_warps": triton_kernels.NUM_WARPS, "enable_fp_fusion": False}
    with triton.knobs.compilation.scope():
        triton.knobs.compilation.always_compile = True
        return triton.compile(source, target=TARGETS[arch], options=options)


def elements_per_thread(kernel: str, arch: str) -> int:
    """How many elements a thread of a full tile writes."""
    tile = triton_kernels.PLACES if kernel == "scattered_kernel" else 4 * triton_kernels.COUNTERS
    return int(tile // (triton_kernels.NUM_WARPS * TARGETS[arch].warp_size))


@dataclass(frozen=True)
class Instruction:
    """One SASS instruction: its guarding predicate ("@!P0", or ""), opcode ("STG.E.128") and operands."""

    guard: str
    opcode: str
    operands: str

    @property
    def operation(self) -> str:
        return self.opcode.partition(".")[0]

    @property
    def global_store_bytes(self) -> int:
        """Bytes a thread writes to global memory: 16 for STG.E.128, 4 for STG.E, 1 for STG.E.U8, else 0."""
        if self.operation not in ("STG", "ST"):
            return 0
        width = re.search(r"\.[US]?(8|16|64|128|256)\b", self.opcode)
        return int(width.group(1)) // 8 if width else 4


Route = tuple[Instruction, ...]

_INSTRUCTION = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:(@!?U?P\d+)\s+)?([A-Z][A-Z0-9_.]*)\s*([^;]*);")
_LABEL = re.compile(r"(\.L_[\w.]+):")
_TARGET = re.compile(r"`\((\.L_[\w.]+)\)")
# Instructions whose target the listing does not give. A path through one cannot be followed.
_INDIRECT: Final = frozenset({"BRX", "BRXU", "JMP", "JMX", "JMXU", "BREAK", "BRK", "CONT", "SYNC", "KILL"})


@dataclass(frozen=True)
class Loop:
    """Indices of a loop's instructions, and of the one through which it is entered."""

    head: int
    members: frozenset[int]


class ControlFlow:
    """The instructions of one kernel's listing (``nvdisasm -c``) and where each leads."""

    def __init__(self, listing: str) -> None:
        self.instructions: list[Instruction] = []
        labels: dict[str, int] = {}
        for line in listing.splitlines():
            if label := _LABEL.match(line):
                labels[label.group(1)] = len(self.instructions)
            elif found := _INSTRUCTION.match(line):
                guard, opcode, operands = found.groups(default="")
                self.instructions.append(Instruction(guard, opcode, operands.strip()))
        self._labels = labels

    def successors(self, index: int) -> list[int]:
        """Indices of the instructions that may follow; none after an EXIT, a RET, or a CALL (a cold one)."""
        instruction = self.instructions[index]
        operation = instruction.operation
        if operation in _INDIRECT:
            raise ValueError(f"cannot follow {instruction}")
        if operation in ("CALL", "RET"):
            return []
        if operation == "EXIT":
            return [index + 1] if instruction.guard else []
        if operation != "BRA":
            return [index + 1]
        target = _TARGET.search(instruction.operands)
        if target is None:
            raise ValueError(f"cannot follow {instruction}")
        # BRA may also be conditional by an operand: BRA.U UP0, BRA.DIV UR4, BRA P1.
        conditional = instruction.guard or _TARGET.sub("", instruction.operands).strip(" ,")
        return [index + 1, self._labels[target.group(1)]] if conditional else [self._labels[target.group(1)]]

    def hot_path(self) -> Route:
        """The path of a full tile, NOPs left out; a loop on the way is gone through once.

        Of all paths from the entry to an EXIT, the one that stores most bytes without a guard (a masked
        store is guarded, or jumped over), and of those the one that stores most in all.

        Raises:
            ValueError: no path, more than one loop, or two paths that store the same; then no count would
                be sound.
        """
        return self._hottest(0, self._exits)

    def hot_turn(self) -> Route:
        """What each further turn of the loop adds to :meth:`hot_path`; empty where there is no loop.

        Raises:
            ValueError: as for :meth:`hot_path`, of the paths from the loop's head back to it.
        """
        return () if self._loop is None else self._hottest(self._loop.head, self._turns)

    def _exits(self, index: int) -> bool:
        return self.instructions[index].operation == "EXIT"

    def _turns(self, index: int) -> bool:
        loop = self._loop
        return loop is not None and index in loop.members and loop.head in self.successors(index)

    def _hottest(self, start: int, ends: Callable[[int], bool]) -> Route:
        """The path from an instruction to an end that stores most, NOPs left out."""
        hottest = self._candidates(start, ends, {})
        if len(hottest) != 1:
            raise ValueError("no path leads to the end" if not hottest else "two paths store the same")
        return tuple(i for i in hottest[0] if i.operation != "NOP")

    def _candidates(
        self, start: int, ends: Callable[[int], bool], known: dict[int, list[Route]]
    ) -> list[Route]:
        """Those paths from an instruction to an end that store most: at most two, which is one too many."""
        if start in known:
            return known[start]
        straight = [start]
        while not ends(straight[-1]) and len(following := self._onward(straight[-1])) == 1:
            straight += following
        passed = tuple(self.instructions[i] for i in straight)
        tails: list[Route] = [()] if ends(straight[-1]) else []
        for index in self._onward(straight[-1]):
            tails += self._candidates(index, ends, known)
        most = max(map(_bytes_stored, tails), default=None)
        known[start] = [passed + tail for tail in tails if _bytes_stored(tail) == most][:2]
        return known[start]

    def _onward(self, index: int) -> list[int]:
        """The successors, without the way from the loop's end back to its head."""
        loop = self._loop
        back = loop.head if loop is not None and index in loop.members else None
        return [i for i in self.successors(index) if i != back]

    @cached_property
    def _loop(self) -> Loop | None:
        """The loop that the entry leads to, or None."""
        predecessors, back = self._explore()
        heads = {head for _, head in back}
        if len(heads) > 1:
            raise ValueError(f"the kernel has {len(heads)} loops")
        if not heads:
            return None
        (head,) = heads
        # The natural loop (Aho, Lam, Sethi and Ullman, "Compilers", 9.6.6): what leads to the edges back to
        # the head without passing it.
        members = {head}
        waiting = [source for source, _ in back]
        while waiting:
            index = waiting.pop()
            if index not in members:
                members.add(index)
                waiting += predecessors[index]
        if head and 0 in members:
            raise ValueError("the loop is entered in two places")
        return Loop(head, frozenset(members))

    def _explore(self) -> tuple[dict[int, list[int]], list[tuple[int, int]]]:
        """The predecessors of what the entry leads to, and the edges that close a cycle, depth first."""
        predecessors: dict[int, list[int]] = {0: []}
        back = []
        path = {0: iter(self.successors(0))}
        while path:
            index, onward = next(reversed(path.items()))
            following = next(onward, None)
            if following is None:
                del path[index]
                continue
            if following in path:
                back.append((index, following))
            if following not in predecessors:
                predecessors[following] = []
                path[following] = iter(self.successors(following))
            predecessors[following].append(index)
        return predecessors, back


def _bytes_stored(path: Route) -> tuple[int, int]:
    """Bytes that a path stores without a guard, and in all."""
    stores = [(i.guard, i.global_store_bytes) for i in path]
    return sum(size for guard, size in stores if not guard), sum(size for _, size in stores)


@dataclass(frozen=True)
class StaticCost:
    """What one NVIDIA kernel costs, read off its machine code.

    Attributes:
        elements: elements a thread of a full tile writes; those of one turn, where the hot path has a loop.
        instructions: instructions of the hot path, NOPs left out; a warp issues each once. A loop on it is
            gone through once.
        turn: instructions that each further turn of that loop adds; 0 where there is none.
        fused: fused multiply-adds of a thread on the hot path; sqrt.rn holds two of its own.
        registers: registers a thread.
        stack_bytes: stack and local memory a thread, spilled registers included.
        local_accesses: loads from and stores to local memory anywhere in the kernel.
        store_bytes: width of each store to global memory on the hot path, in bytes a thread.
        ptx_fused: fused multiply-adds in the PTX, which is before ptxas expands sqrt.rn.
        flushes_subnormals: the PTX holds an operation that flushes subnormals to zero.
    """

    elements: int
    instructions: int
    turn: int
    fused: int
    registers: int
    stack_bytes: int
    local_accesses: int
    store_bytes: tuple[int, ...]
    ptx_fused: int
    flushes_subnormals: bool

    @property
    def instructions_per_element(self) -> float:
        return self.per_element(1)

    def per_element(self, turns: int) -> float:
        """Instructions an element, where the hot path's loop is gone through ``turns`` times."""
        return (self.instructions + (turns - 1) * self.turn) / (turns * self.elements)


def _nvidia_tool(name: str, *arguments: str, cubin: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [str(_TOOLS / name), *arguments, str(path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def disassemble(cubin: bytes) -> str:
    """The SASS listing of a cubin."""
    return _nvidia_tool("nvdisasm", "-c", cubin=cubin)


def static_cost(compiled: Any, elements: int) -> StaticCost:
    """Measure a kernel compiled for an NVIDIA target, of which a thread writes ``elements`` elements."""
    flow = ControlFlow(disassemble(compiled.asm["cubin"]))
    path, turn = flow.hot_path(), flow.hot_turn()
    if turn and _bytes_stored(turn) != _bytes_stored(path):
        raise ValueError("a turn of the loop does not store what the path through it does")
    usage = _nvidia_tool("cuobjdump", "-res-usage", cubin=compiled.asm["cubin"])
    used = {name: int(number) for name, number in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    ptx = compiled.asm["ptx"]
    return StaticCost(
        elements=elements,
        instructions=len(path),
        turn=len(turn),
        fused=sum({"FFMA": 1, "FFMA2": 2}.get(i.operation, 0) for i in path),
        registers=used["REG"],
        stack_bytes=used["STACK"] + used["LOCAL"],
        local_accesses=sum(i.operation in ("LDL", "STL") for i in flow.instructions),
        store_bytes=tuple(i.global_store_bytes for i in path if i.global_store_bytes),
        ptx_fused=len(re.findall(r"\bfma\.rn\.f32\b", ptx)) + 2 * len(re.findall(r"\bfma\.rn\.f32x2\b", ptx)),
        flushes_subnormals=".ftz" in ptx,
    )
