"""What our Triton kernels cost before they run: compiled for a GPU that is not here, counted on the hot path.

Triton's wheel carries ptxas, nvdisasm and cuobjdump, so that a machine without a GPU can read what an NVIDIA
GPU would execute; for an AMD one, its compiler writes the assembly.
"""

from __future__ import annotations

import re
import struct
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from tritoninit.bench.control_flow import ControlFlow, GcnFlow, Route, SassFlow, bytes_stored
from tritoninit.bench.instructions import KINDS, Uncountable
from tritoninit.kernels import triton_kernels
from tritoninit.kernels.stream import FLOAT8

TARGETS: Final = {
    **{f"sm_{arch}": GPUTarget("cuda", arch, 32) for arch in (80, 86, 89, 90, 100, 120)},
    **{arch: GPUTarget("hip", arch, 64) for arch in ("gfx90a", "gfx942", "gfx950")},
}
_TRITON_DTYPES: Final = {
    "float64": "fp64",
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    **dict.fromkeys(FLOAT8, "u8"),
}
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
    stochastic: bool = False,
) -> Any:
    """Compile one of ``triton_kernels`` as its launcher would: what has been launched is in Triton's cache.

    Args:
        kernel: one of them; of "rows_kernel" that for a matrix, all of whose rows can be stored 16 bytes at a
            time, of "edged_rows_kernel" that for one whose rows do not begin or end so; the same of
            "rows_table_kernel" and "edged_rows_table_kernel", of which the latter takes any such matrix.
        distribution: a key of ``triton_kernels.DISTRIBUTIONS``.
        dtype: one of ``lowering.FLOAT_DTYPES``.
        arch: a key of ``TARGETS``.
        aligned: 16 divides the tensor's address and, for run_kernel, the index of its first element; of
            rows, some can be stored 16 bytes at a time.
        wide: the 64-bit divisions of scattered_kernel and rows_kernel, for tensors of nearly 2**31
            elements or more.
        stochastic: elements are rounded up or down at random, not to nearest.
        large: the tensor's storage is of 2 GiB or more, in which AMD's buffer instructions cannot reach all.

    Returns:
        Triton's CompiledKernel; its ``asm`` holds "ptx" and "cubin", or "amdgcn" and "hsaco".
    """
    name = kernel.removeprefix("edged_")
    takes_doubles = dtype == "float64" and not kernel.endswith("table_kernel")
    function = getattr(triton_kernels, f"double_{name}" if takes_doubles else name)
    if not isinstance(function, triton.JITFunction):
        raise RuntimeError("Triton's interpreter replaces its compiler: unset TRITON_INTERPRET")
    constants: dict[str, Any] = {"DISTRIBUTION": triton_kernels.DISTRIBUTIONS[distribution]}
    pointer, attributes = "*" + _TRITON_DTYPES[dtype], _pointer_attributes(arch, aligned, large)
    if kernel in ("run_kernel", "table_kernel"):
        constants |= {"ALIGNED": aligned, "COUNTERS": triton_kernels.COUNTERS}
    elif kernel == "scattered_kernel":
        constants |= {"WIDE": wide, "PLACES": triton_kernels.PLACES}
    else:
        aligned = aligned or kernel.endswith("table_kernel")
        width = (4 if getattr(torch, dtype).itemsize >= 4 else 8) if aligned else 4
        constants |= {"WIDE": wide, "MATRIX": True, "UNIT": True, "VECTORS": aligned, "WIDTH": width}
        constants["SINGLES"] = kernel.startswith("edged_") or not aligned
        constants["GROUPS"] = 2 * triton_kernels.COUNTERS // width
    variant = triton_kernels.STOCHASTIC.value if stochastic else 0
    constants["FORMAT"] = triton_kernels.format_of(variant, getattr(torch, dtype))
    if kernel.endswith("table_kernel"):
        constants["DTYPE"] = triton_kernels.DTYPES[getattr(torch, dtype)]
        pointer, attributes = "*i64", _pointer_attributes(arch, True, False)  # of the table
    signature = {p.name: "constexpr" if p.is_constexpr else p.annotation_type for p in function.params}
    signature[function.arg_names[0]] = pointer
    constexprs = {(function.arg_names.index(name),): value for name, value in constants.items()}
    nothing: dict[tuple[int, ...], list[list[Any]]] = {place: [] for place in sorted(constexprs)}
    source = ASTSource(
        fn=function,
        signature=signature,
        constexprs=constexprs,
        attrs={(0,): attributes} | nothing,  # as a launch has them, whose key in the cache this is
    )
    options = {"num_warps": triton_kernels.NUM_WARPS, "enable_fp_fusion": False}
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
    if "rows" in kernel:
        tile //= 2
    return int(tile // (triton_kernels.NUM_WARPS * TARGETS[arch].warp_size))


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
    def store_bytes(self) -> tuple[int, ...]:
        """The width of each store to global memory on the hot path, in bytes a thread."""
        return tuple(i.global_store_bytes for i in self.path if i.global_store_bytes)

    def kinds_per_element(self, turns: int) -> dict[str, float]:
        """Instructions an element by kind, in the order of ``KINDS``; of a path whose loop has ``turns``."""
        once, again = (Counter(i.kind for i in route) for route in (self.path, self.further))
        return {kind: (once[kind] + (turns - 1) * again[kind]) / (turns * self.elements) for kind in KINDS}


def _nvidia_tool(name: str, *arguments: str, cubin: bytes) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.cubin")
        path.write_bytes(cubin)
        command = [str(_TOOLS / name), *arguments, str(path)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@lru_cache(maxsize=1)  # a kernel's cost and its listing are asked for one after the other
def disassemble(cubin: bytes) -> str:
    """The SASS listing of a cubin."""
    return _nvidia_tool("nvdisasm", "-c", cubin=cubin)


def assembled_constants(cubin: bytes) -> bytes:
    """What ptxas has put into a kernel's constant bank 2, of numbers that instructions have no bits for.

    A cubin is an ELF file of 64 bits: the section .nv.constant2.NAME. Empty if there is none.
    """
    if cubin[:5] != b"\x7fELF\x02":
        return b""
    (table,), (size, count, strings) = (
        struct.unpack_from("<Q", cubin, 40),
        struct.unpack_from("<3H", cubin, 58),
    )
    sections = [struct.unpack_from("<IIQQQQ", cubin, table + number * size) for number in range(count)]
    for name, _, _, _, begin, length in sections:
        if cubin.startswith(b".nv.constant2.", sections[strings][4] + name):
            return cubin[begin : begin + length]
    return b""


def _hot(flow: ControlFlow) -> tuple[Route, Route]:
    path, turn = flow.hot_path(), flow.hot_turn()
    if turn and bytes_stored(turn) != bytes_stored(path):
        raise Uncountable("a turn of the loop does not store what the path through it does")
    return path, turn


def nvidia_cost(compiled: Any, elements: int) -> Cost:
    """Measure a kernel compiled for an NVIDIA target, of which a thread writes ``elements`` elements."""
    path, turn = _hot(SassFlow(disassemble(compiled.asm["cubin"])))
    usage = _nvidia_tool("cuobjdump", "-res-usage", cubin=compiled.asm["cubin"])
    used = {name: int(number) for name, number in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage)}
    return Cost(
        elements=elements,
        path=path,
        further=turn,
        registers=used["REG"],
        scalar_registers=0,
        scalar_spills=0,
        stack_bytes=used["STACK"] + used["LOCAL"],
        shared_bytes=compiled.metadata.shared,
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
