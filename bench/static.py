"""What our Triton kernels cost before they run: compiled for a GPU that is not here, counted on the hot path.

Triton's wheel carries ptxas, nvdisasm and cuobjdump, so that a machine without a GPU can read what an NVIDIA
GPU would execute. The hot path is the one that a full tile takes: from the entry to an EXIT, through no
subroutine (ptxas puts the rare operands of sqrt.rn, and 64-bit division, there), storing every element of
the thread with stores that nothing guards.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

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
        kernel: "run_kernel" or "scattered_kernel".
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
    if kernel == "run_kernel":
        constants |= {"ALIGNED": aligned, "COUNTERS": triton_kernels.COUNTERS}
    else:
        constants |= {"WIDE": wide, "PLACES": triton_kernels.PLACES}
    signature = {p.name: "constexpr" if p.is_constexpr else p.annotation_type for p in function.params}
    signature["pointer"] = "*" + _TRITON_DTYPES[dtype]
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
    tile = 4 * triton_kernels.COUNTERS if kernel == "run_kernel" else triton_kernels.PLACES
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
        """The path of a full tile, NOPs left out.

        Of all paths from the entry to an EXIT, the one that stores most bytes without a guard (a masked
        store is guarded, or jumped over), and of those the one that stores most in all.

        Raises:
            ValueError: no path, a loop, or two paths that store the same; then no count would be sound.
        """
        hottest = self._hottest(0, {})
        if len(hottest) != 1:
            raise ValueError("no path leads to an EXIT" if not hottest else "two paths store the same")
        return tuple(i for i in hottest[0] if i.operation != "NOP")

    def _hottest(self, start: int, known: dict[int, list[Route] | None]) -> list[Route]:
        """Those paths from an instruction to an EXIT that store most: at most two, which is one too many."""
        if start in known:
            paths = known[start]
            if paths is None:
                raise ValueError("the kernel loops")
            return paths
        known[start] = None
        straight, following = self._straight(start)
        tails: list[Route] = [()] if straight[-1].operation == "EXIT" else []
        for index in following:
            tails += self._hottest(index, known)
        most = max(map(_bytes_stored, tails), default=None)
        known[start] = paths = [straight + tail for tail in tails if _bytes_stored(tail) == most][:2]
        return paths

    def _straight(self, start: int) -> tuple[Route, list[int]]:
        """The instructions from ``start`` up to a fork or an end, and where that leads."""
        passed = []
        following = [start]
        while len(following) == 1:
            if following[0] in passed:
                raise ValueError("the kernel loops")
            passed.append(following[0])
            following = self.successors(passed[-1])
            if self.instructions[passed[-1]].operation == "EXIT":
                break
        return tuple(self.instructions[i] for i in passed), following


def _bytes_stored(path: Route) -> tuple[int, int]:
    """Bytes that a path stores without a guard, and in all."""
    stores = [(i.guard, i.global_store_bytes) for i in path]
    return sum(size for guard, size in stores if not guard), sum(size for _, size in stores)


@dataclass(frozen=True)
class StaticCost:
    """What one NVIDIA kernel costs, read off its machine code.

    Attributes:
        elements: elements a thread of a full tile writes.
        instructions: instructions of the hot path, NOPs left out; a warp issues each once.
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
    fused: int
    registers: int
    stack_bytes: int
    local_accesses: int
    store_bytes: tuple[int, ...]
    ptx_fused: int
    flushes_subnormals: bool

    @property
    def instructions_per_element(self) -> float:
        return self.instructions / self.elements


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
    path = flow.hot_path()
    usage = _nvidia_tool("cuobjdump", "-res-usage", cubin=compiled.asm["cubin"])
    used = {name: int(number) for name, number in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    ptx = compiled.asm["ptx"]
    return StaticCost(
        elements=elements,
        instructions=len(path),
        fused=sum({"FFMA": 1, "FFMA2": 2}.get(i.operation, 0) for i in path),
        registers=used["REG"],
        stack_bytes=used["STACK"] + used["LOCAL"],
        local_accesses=sum(i.operation in ("LDL", "STL") for i in flow.instructions),
        store_bytes=tuple(i.global_store_bytes for i in path if i.global_store_bytes),
        ptx_fused=len(re.findall(r"\bfma\.rn\.f32\b", ptx)) + 2 * len(re.findall(r"\bfma\.rn\.f32x2\b", ptx)),
        flushes_subnormals=".ftz" in ptx,
    )
