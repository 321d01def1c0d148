"""What our Triton kernels cost before they run: compiled for a GPU that is not here, counted on the hot path.

Triton's wheel carries ptxas, nvdisasm and cuobjdump, so that a machine without a GPU can read what an NVIDIA
GPU would execute; for an AMD one, its compiler writes the assembly. The hot path is the one that a full tile
takes: from the entry to the end, through no subroutine (ptxas puts the rare operands of sqrt.rn, and 64-bit
division, there), storing every element of the thread once, with stores that nothing masks. Where a program
writes several tiles in a loop, a further tile costs a further turn.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable
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
    **{f"sm_{arch}": GPUTarget("cuda", arch, 32) for arch in (80, 86, 89, 90, 100, 120)},
    **{arch: GPUTarget("hip", arch, 64) for arch in ("gfx90a", "gfx942", "gfx950")},
}
_TRITON_DTYPES: Final = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_TOOLS: Final = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def compile_kernel(
    kernel: str,
    distribution: str,
    dtype: str,
    arch: str,
    *,
    aligned: bool = True,
    wide: bool = False,
    large: bool = False,
) -> Any:
    """Compile one of ``triton_kernels`` as its launcher would; never from Triton's cache.

    Args:
        kernel: "run_kernel", "table_kernel" or "scattered_kernel".
        distribution: a key of ``triton_kernels.DISTRIBUTIONS``.
        dtype: "float32", "float16" or "bfloat16".
        arch: a key of ``TARGETS``.
        aligned: 16 divides the tensor's address and, for run_kernel, the index of its first element.
        wide: scattered_kernel's 64-bit divisions, for tensors of nearly 2**31 elements or more.
        large: the tensor's storage is of 2 GiB or more, in which AMD's buffer instructions cannot reach all.

    Returns:
        Triton's CompiledKernel; its ``asm`` holds "ptx" and "cubin", or "amdgcn" and "hsaco".
    """
    function = getattr(triton_kernels, kernel)
    if not isinstance(function, triton.JITFunction):
        raise RuntimeError("Triton's interpreter replaces its compiler: unset TRITON_INTERPRET")
    constants: dict[str, Any] = {"DISTRIBUTION": triton_kernels.DISTRIBUTIONS[distribution]}
    pointer, attributes = "*" + _TRITON_DTYPES[dtype], _pointer_attributes(arch, aligned, large)
    if kernel == "run_kernel":
        constants |= {"ALIGNED": aligned, "COUNTERS": triton_kernels.COUNTERS}
    elif kernel == "table_kernel":
        constants |= {"ALIGNED": aligned, "COUNTERS": triton_kernels.COUNTERS}
        constants["DTYPE"] = triton_kernels.DTYPES[getattr(torch, dtype)]
        pointer, attributes = "*i64", _pointer_attributes(arch, True, False)  # of the table
    else:
        constants |= {"WIDE": wide, "PLACES": triton_kernels.PLACES}
    signature = {p.name: "constexpr" if p.is_constexpr else p.annotation_type for p in function.params}
    signature[function.arg_names[0]] = pointer
    source = ASTSource(
        fn=function,
        signature=signature,
        constexprs={(function.arg_names.index(name),): value for name, value in constants.items()},
        attrs={(0,): attributes},
    )
    options = {"num_warps": triton_kernels.NUM_WARPS, "enable_fp_fusion": False}
    with triton.knobs.compilation.scope():
        triton.knobs.compilation.always_compile = True
        return triton.compile(source, target=TARGETS[arch], options=options)


def _pointer_attributes(arch: str, aligned: bool, large: bool) -> list[list[Any]]:
    """What a launch tells the compiler of a pointer, in the words of ``parse_attr`` of Triton's backends."""
    found: list[list[Any]] = [["tt.divisibility", 16]] if aligned else []
    if TARGETS[arch].backend == "hip" and triton.knobs.amd.use_buffer_ops and not large:
        found.append(["tt.pointer_range", 32])
    return found


def elements_per_thread(kernel: str, arch: str) -> int:
    """How many elements a thread of a full tile writes."""
    tile = triton_kernels.PLACES if kernel == "scattered_kernel" else 4 * triton_kernels.COUNTERS
    return int(tile // (triton_kernels.NUM_WARPS * TARGETS[arch].warp_size))


@dataclass(frozen=True)
class Instruction(ABC):
    """One instruction: its guarding predicate ("@!P0", or ""), opcode ("STG.E.128") and operands."""

    guard: str
    opcode: str
    operands: str

    @property
    @abstractmethod
    def kind(self) -> str:
        """Which unit executes it, one of ``KINDS``; a ValueError of an opcode that no table here has."""

    @property
    @abstractmethod
    def global_store_bytes(self) -> int:
        """Bytes that a thread writes to global memory."""

    @property
    @abstractmethod
    def ends(self) -> bool:
        """Whether a thread ends here."""

    @property
    @abstractmethod
    def leads(self) -> tuple[bool, str | None]:
        """Whether the next instruction may follow, and the label that may."""


# What a table of opcodes says: the kinds, each with its opcodes.
KINDS: Final = (
    "fp32",  # float32 add, multiply, multiply-add
    "packed fp32",  # two of them
    "integer",  # add, shift, logic, select, compare, minimum, move; of float32 too where it is no arithmetic
    "multiply",  # of integers, or a move or an addition that the assembler put on the same unit
    "wide multiply",  # to 64 bits, or the upper 32
    "special",  # reciprocal, square root, conversion of number formats
    "scalar",  # once for all threads of a warp or wave
    "memory",
    "control",
)

# The opcodes are those of NVIDIA's CUDA Binary Utilities ("Instruction Set Reference"), the units those of
# the Nsight Compute Profiling Guide ("Pipelines"): the ALU for integers without products, logic and compares,
# the FMA unit for float32 and IMAD, the XU for special functions and conversions.
_SASS_KINDS: Final = {
    "fp32": "FADD FFMA FMUL HFMA2",  # HFMA2 here moves a constant
    "packed fp32": "FADD2 FFMA2 FMUL2",
    "integer": "FMNMX FSEL FSETP IADD IADD3 IMNMX ISETP LEA LOP3 MOV P2R PLOP3 PRMT SEL SHF VIADD VIMNMX",
    "multiply": "IMAD",
    "special": "F2FP F2I I2F I2FP MUFU",
    "scalar": "LDCU R2UR UFADD UI2F UIADD3 UIMAD UISETP ULDC ULEA ULOP3 UMOV USEL USHF VOTEU",
    "memory": "LDC LDG LDL ST STG STL",
    "control": "BRA BSSY BSYNC CALL DEPBAR EXIT NOP RET S2R S2UR",
}
_SASS_KIND: Final = {opcode: kind for kind, opcodes in _SASS_KINDS.items() for opcode in opcodes.split()}
# Instructions whose target the listing does not give. A path through one cannot be followed.
_INDIRECT: Final = frozenset({"BRX", "BRXU", "JMP", "JMX", "JMXU", "BREAK", "BRK", "CONT", "SYNC", "KILL"})
_LABEL = re.compile(r"(\.L_?[\w.]+):")
_SASS = re.compile(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:(@!?U?P\d+)\s+)?([A-Z][A-Z0-9_.]*)\s*([^;]*);")
_SASS_TARGET = re.compile(r"`\((\.L_[\w.]+)\)")


class Sass(Instruction):
    """An NVIDIA GPU's instruction, as nvdisasm writes it."""

    @property
    def operation(self) -> str:
        return self.opcode.partition(".")[0]

    @property
    def kind(self) -> str:
        if self.opcode.startswith(("IMAD.WIDE", "IMAD.HI")):
            return "wide multiply"
        return _known(_SASS_KIND.get(self.operation), self.opcode)

    @cached_property
    def global_store_bytes(self) -> int:
        """16 for STG.E.128, 4 for STG.E, 1 for STG.E.U8."""
        if self.operation not in ("STG", "ST"):
            return 0
        width = re.search(r"\.[US]?(8|16|64|128|256)\b", self.opcode)
        return int(width.group(1)) // 8 if width else 4

    @property
    def ends(self) -> bool:
        return self.operation == "EXIT"

    @property
    def leads(self) -> tuple[bool, str | None]:
        """Nowhere after an EXIT, a RET, or a CALL (a cold one)."""
        if self.operation in _INDIRECT:
            raise ValueError(f"cannot follow {self}")
        if self.operation in ("CALL", "RET"):
            return False, None
        if self.operation == "EXIT":
            return bool(self.guard), None
        if self.operation != "BRA":
            return True, None
        target = _SASS_TARGET.search(self.operands)
        if target is None:
            raise ValueError(f"cannot follow {self}")
        # BRA may also be conditional by an operand: BRA.U UP0, BRA.DIV UR4, BRA P1.
        conditional = self.guard or _SASS_TARGET.sub("", self.operands).strip(" ,")
        return bool(conditional), target.group(1)


# By the names of AMD's CDNA 2 and CDNA 3 instruction set manuals. What is vector, integer and no product, be
# it the comparison or the selection of floats, runs at the full rate, and has one kind.
_GCN_KINDS: Final = {
    "packed fp32": r"v_pk_(add|fma|mul)_f32",
    "fp32": r"v_(add|fma|fmaak|fmac|fmamk|mul|sub|subrev)_f32",
    "multiply": r"v_mul_(lo|hi)_[iu]32",
    "wide multiply": r"v_mad_[iu]64_[iu]32",
    "special": r"v_(cvt_\w+|(exp|log|rcp|rcp_iflag|rsq|sqrt)_f32)",
    "integer": r"v_(add|add3|addc|alignbit|and|and_or|ashrrev|bfe|bfi|bfrev|bitop3|cmp|cndmask|lshl_add"
    r"|lshl_or|lshlrev|lshrrev|max|min|mov|not|or|or3|pack|perm|pk_mov|readfirstlane|readlane|sub|subb|subrev"
    r"|writelane|xad|xor)_\w+",
    "control": r"s_(barrier|branch|cbranch|endpgm|nop|waitcnt)(_\w+)?",
    "memory": r"(buffer|global)_(load|store)_\w+|s_load_\w+",
    "scalar": r"s_(add|addc|addk|and|andn2|ashr|bfe|brev|cmp|cselect|lshl|lshr|mov|movk|mul|mul_hi|mulk|or"
    r"|pack|sub|subb|xor)_\w+",
}
_GCN_KIND: Final = {kind: re.compile(pattern) for kind, pattern in _GCN_KINDS.items()}
_GCN_STORED: Final = {"byte": 1, "short": 2, "dword": 4, "dwordx2": 8, "dwordx3": 12, "dwordx4": 16}
_GCN = re.compile(r"\t([a-z]+_\w+)\s*([^;]*)")


class Gcn(Instruction):
    """An AMD GPU's instruction, as LLVM writes it."""

    @property
    def kind(self) -> str:
        name = re.sub(r"_(e32|e64|sdwa|dpp)$", "", self.opcode)
        return _known(next((k for k, p in _GCN_KIND.items() if p.fullmatch(name)), None), self.opcode)

    @cached_property
    def global_store_bytes(self) -> int:
        """16 for global_store_dwordx4, 2 for buffer_store_short."""
        width = re.match(r"(?:global|buffer|flat)_store_([a-z0-9]+)", self.opcode)
        if width is None:
            return 0
        if width.group(1) not in _GCN_STORED:
            raise ValueError(f"no table says how much {self.opcode} stores")
        return _GCN_STORED[width.group(1)]

    @property
    def ends(self) -> bool:
        return self.opcode == "s_endpgm"

    @property
    def leads(self) -> tuple[bool, str | None]:
        if self.opcode in ("s_setpc_b64", "s_swappc_b64", "s_call_b64", "s_cbranch_g_fork", "s_cbranch_join"):
            raise ValueError(f"cannot follow {self}")
        branches = self.opcode.startswith(("s_branch", "s_cbranch"))
        return self.opcode not in ("s_endpgm", "s_branch"), self.operands.strip() if branches else None


def _known(kind: str | None, opcode: str) -> str:
    if kind is None:
        raise ValueError(f"no table says which unit executes {opcode}")
    return kind


Route = tuple[Instruction, ...]


@dataclass(frozen=True)
class Loop:
    """Indices of a loop's instructions, and of the one through which it is entered."""

    head: int
    members: frozenset[int]


class ControlFlow(ABC):
    """The instructions of one kernel and where each leads.

    Attributes:
        instructions: in the order of the listing.
    """

    def __init__(self, lines: Iterable[str], parse: Callable[[str], Instruction | None]) -> None:
        self.instructions: list[Instruction] = []
        self._labels: dict[str, int] = {}
        for line in lines:
            if label := _LABEL.match(line):
                self._labels[label.group(1)] = len(self.instructions)
            elif instruction := parse(line):
                self.instructions.append(instruction)

    @abstractmethod
    def _best(self, tails: list[Route]) -> list[Route]:
        """Of ways from one instruction to the end, those that the hot path may go; two of a sort at most."""

    @abstractmethod
    def _stores_a_tile(self, path: Route) -> bool:
        """Whether a path that is as good as any stores what a full tile does."""

    def successors(self, index: int) -> list[int]:
        """Indices of the instructions that may follow."""
        onward, label = self.instructions[index].leads
        return [*([index + 1] if onward else []), *([] if label is None else [self._labels[label]])]

    def hot_path(self) -> Route:
        """The path of a full tile, NOPs left out; a loop on the way is gone through once.

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
        return self.instructions[index].ends

    def _turns(self, index: int) -> bool:
        loop = self._loop
        return loop is not None and index in loop.members and loop.head in self.successors(index)

    def _hottest(self, start: int, ends: Callable[[int], bool]) -> Route:
        """The path from an instruction to an end that stores a full tile, NOPs left out."""
        hottest = [path for path in self._candidates(start, ends, {}) if self._stores_a_tile(path)]
        if len(hottest) != 1:
            raise ValueError("no path leads to the end" if not hottest else "two paths store the same")
        return tuple(i for i in hottest[0] if i.opcode != "NOP")

    def _candidates(
        self, start: int, ends: Callable[[int], bool], known: dict[int, list[Route]]
    ) -> list[Route]:
        """Those paths from an instruction to an end that the hot path may end with."""
        if start in known:
            return known[start]
        straight = [start]
        while not ends(straight[-1]) and len(following := self._onward(straight[-1])) == 1:
            straight += following
        passed = tuple(self.instructions[i] for i in straight)
        tails: list[Route] = [()] if ends(straight[-1]) else []
        for index in self._onward(straight[-1]):
            tails += self._candidates(index, ends, known)
        known[start] = [passed + tail for tail in self._best(tails)]
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


class SassFlow(ControlFlow):
    """Of an NVIDIA kernel's listing (``nvdisasm -c``).

    A full tile's path stores most bytes without a guard (a masked store is guarded, or jumped over), and of
    those paths most in all.
    """

    def __init__(self, listing: str) -> None:
        super().__init__(listing.splitlines(), self._parse)

    @staticmethod
    def _parse(line: str) -> Instruction | None:
        found = _SASS.match(line)
        return Sass(found[1] or "", found[2], found[3].strip()) if found else None

    def _best(self, tails: list[Route]) -> list[Route]:
        most = max(map(_bytes_stored, tails), default=None)
        return [tail for tail in tails if _bytes_stored(tail) == most][:2]

    def _stores_a_tile(self, path: Route) -> bool:
        return True  # no path stores more


class GcnFlow(ControlFlow):
    """Of an AMD kernel's assembly, as LLVM writes it.

    A store may be masked by the execution mask or by its address; and of two ways that exclude each other,
    each often has a branch of its own, so that a third one seems to go through both. A full tile's path
    therefore is the one that stores as many bytes as the thread's elements have, and of those the one with
    the fewest stores.

    Args:
        assembly: of one kernel.
        stored: bytes of the elements that a thread of a full tile writes.
    """

    def __init__(self, assembly: str, stored: int) -> None:
        self._stored = stored
        code = assembly.partition("\t.section\t.rodata")[0]
        super().__init__(code.splitlines(), self._parse)

    @staticmethod
    def _parse(line: str) -> Instruction | None:
        found = _GCN.match(line)
        return Gcn("", found[1], found[2].strip()) if found else None

    def _best(self, tails: list[Route]) -> list[Route]:
        by_size: dict[int, list[Route]] = {}
        for tail in sorted(tails, key=_stores):
            found = by_size.setdefault(_bytes_stored(tail)[1], [])
            if len(found) < 2 and _stores(tail) == _stores((found or [tail])[0]):
                found.append(tail)
        return [tail for size, found in by_size.items() if size <= self._stored for tail in found]

    def _stores_a_tile(self, path: Route) -> bool:
        return _bytes_stored(path)[1] == self._stored


def _stores(path: Route) -> int:
    return sum(i.global_store_bytes > 0 for i in path)


def _bytes_stored(path: Route) -> tuple[int, int]:
    """Bytes that a path stores without a guard, and in all."""
    stores = [(i.guard, i.global_store_bytes) for i in path]
    return sum(size for guard, size in stores if not guard), sum(size for _, size in stores)


@dataclass(frozen=True)
class Cost:
    """What one kernel costs, read off its machine code.

    Attributes:
        elements: elements a thread of a full tile writes; those of one turn, where the hot path has a loop.
        path: the hot path; a warp issues each of its instructions once. A loop on it is gone through once.
        further: what each further turn of that loop adds; empty where there is none.
        registers: registers a thread; on AMD its vector registers.
        scalar_registers: those of a wave on AMD, 0 elsewhere.
        scalar_spills: of those, how many are kept in lanes of vector registers, for want of more.
        stack_bytes: stack and local memory a thread, spilled registers included.
        shared_bytes: shared memory a program.
    """

    elements: int
    path: Route
    further: Route
    registers: int
    scalar_registers: int
    scalar_spills: int
    stack_bytes: int
    shared_bytes: int

    @property
    def instructions(self) -> int:
        return len(self.path)

    @property
    def turn(self) -> int:
        return len(self.further)

    @property
    def store_bytes(self) -> tuple[int, ...]:
        """The width of each store to global memory on the hot path, in bytes a thread."""
        return tuple(i.global_store_bytes for i in self.path if i.global_store_bytes)

    @property
    def instructions_per_element(self) -> float:
        return self.per_element(1)

    def per_element(self, turns: int) -> float:
        """Instructions an element, where the hot path's loop is gone through ``turns`` times."""
        return sum(self.kinds_per_element(turns).values())

    def kinds_per_element(self, turns: int) -> dict[str, float]:
        """The same by kind, in the order of ``KINDS``."""
        once, again = (Counter(i.kind for i in route) for route in (self.path, self.further))
        return {kind: (once[kind] + (turns - 1) * again[kind]) / (turns * self.elements) for kind in KINDS}


@dataclass(frozen=True)
class NvidiaCost(Cost):
    """What is known of a kernel for an NVIDIA GPU besides.

    Attributes:
        local_accesses: loads from and stores to local memory anywhere in the kernel.
        ptx_fused: fused multiply-adds in the PTX, which is before ptxas expands sqrt.rn.
        flushes_subnormals: the PTX holds an operation that flushes subnormals to zero.
    """

    local_accesses: int
    ptx_fused: int
    flushes_subnormals: bool

    @property
    def fused(self) -> int:
        """Fused multiply-adds of a thread on the hot path; sqrt.rn holds two of its own."""
        return sum({"FFMA": 1, "FFMA2": 2}.get(i.opcode.partition(".")[0], 0) for i in self.path)


def _nvidia_tool(name: str, *arguments: str, cubin: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [str(_TOOLS / name), *arguments, str(path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def disassemble(cubin: bytes) -> str:
    """The SASS listing of a cubin."""
    return _nvidia_tool("nvdisasm", "-c", cubin=cubin)


def _hot(flow: ControlFlow) -> tuple[Route, Route]:
    path, turn = flow.hot_path(), flow.hot_turn()
    if turn and _bytes_stored(turn) != _bytes_stored(path):
        raise ValueError("a turn of the loop does not store what the path through it does")
    return path, turn


def nvidia_cost(compiled: Any, elements: int) -> NvidiaCost:
    """Measure a kernel compiled for an NVIDIA target, of which a thread writes ``elements`` elements."""
    flow = SassFlow(disassemble(compiled.asm["cubin"]))
    path, turn = _hot(flow)
    usage = _nvidia_tool("cuobjdump", "-res-usage", cubin=compiled.asm["cubin"])
    used = {name: int(number) for name, number in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    ptx = compiled.asm["ptx"]
    return NvidiaCost(
        elements=elements,
        path=path,
        further=turn,
        registers=used["REG"],
        scalar_registers=0,
        scalar_spills=0,
        stack_bytes=used["STACK"] + used["LOCAL"],
        shared_bytes=compiled.metadata.shared,
        local_accesses=sum(i.opcode.startswith(("LDL", "STL")) for i in flow.instructions),
        ptx_fused=len(re.findall(r"\bfma\.rn\.f32\b", ptx)) + 2 * len(re.findall(r"\bfma\.rn\.f32x2\b", ptx)),
        flushes_subnormals=".ftz" in ptx,
    )


def amd_cost(compiled: Any, elements: int, size: int) -> Cost:
    """Measure a kernel compiled for an AMD target, of which a thread writes elements of ``size`` bytes."""
    assembly = compiled.asm["amdgcn"]
    path, turn = _hot(GcnFlow(assembly, elements * size))
    # The code object's metadata (LLVM, "User Guide for AMDGPU Backend", code object V5).
    used = {name: int(number) for name, number in re.findall(r"^ +\.(\w+): +(\d+)$", assembly, re.MULTILINE)}
    return Cost(
        elements=elements,
        path=path,
        further=turn,
        registers=used["vgpr_count"],
        scalar_registers=used["sgpr_count"],
        scalar_spills=used["sgpr_spill_count"],
        stack_bytes=used["private_segment_fixed_size"],
        shared_bytes=used["group_segment_fixed_size"],
    )


def cost_of(kernel: str, distribution: str, dtype: str, arch: str) -> Cost:
    """Compile one of ``triton_kernels``, as :func:`compile_kernel` does, and measure it."""
    compiled = compile_kernel(kernel, distribution, dtype, arch)
    elements = elements_per_thread(kernel, arch)
    if "cubin" in compiled.asm:
        return nvidia_cost(compiled, elements)
    return amd_cost(compiled, elements, getattr(torch, dtype).itemsize)
