"""A few GPUs as their vendors describe them, what fits on them, and how fast instructions could run there.

Every figure has its source beside it, or says that none was found. Rates are per multiprocessor (NVIDIA's SM,
AMD's CU) and clock, in lanes: an instruction of a warp of 32 threads takes 32 of them, one of a wave of 64
takes 64. So what a thread executes for an element, divided by the lanes, is the clocks that it takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

# Of a data sheet's bandwidth: what uniforms of four libraries alike reached on an RTX 5080, and the most that
# was found published of any random fill (JuliaGPU/cuTile.jl, pull request 193).
ATTAINABLE: Final = 0.94


@dataclass(frozen=True)
class Resource:
    """What instructions of some kinds (``instructions.KINDS``) share.

    Attributes:
        name: what it is called in a prediction.
        lanes: how many it takes in a clock.
        passes: how often an instruction of a kind goes through it; others do not.
    """

    name: str
    lanes: int
    passes: Mapping[str, int]


@dataclass(frozen=True)
class Architecture:
    """A GPU that a throughput is predicted for.

    Attributes:
        name: as its vendor calls it.
        arch: what Triton compiles for it.
        multiprocessors: how many it has.
        clock_mhz: its highest clock.
        bandwidth_gb_per_s: of its memory, in 1e9 bytes a second, as the data sheet has it.
        resources: what bounds the instructions of a multiprocessor.
        accelerators: the names that a driver gives it.
        source: where the figures are from.
    """

    name: str
    arch: str
    multiprocessors: int
    clock_mhz: int
    bandwidth_gb_per_s: float
    resources: tuple[Resource, ...]
    accelerators: tuple[str, ...]
    source: str

    @property
    def attainable_gb_per_s(self) -> float:
        """What may be expected of its memory where nothing was measured."""
        return ATTAINABLE * self.bandwidth_gb_per_s


@dataclass(frozen=True)
class Residency:
    """What limits the warps (on AMD, waves) that a multiprocessor (on AMD, a SIMD of one) holds.

    Attributes:
        registers: 32-bit registers for each of a warp's lanes, of all warps together.
        granule: registers a lane are allotted in multiples of this.
        warps: most warps.
        programs: most programs a multiprocessor.
        shared_bytes: shared memory a multiprocessor.
        shared_reserved: shared memory that each program takes besides its own.
        simds: between how many of these a program's warps are shared out.
    """

    registers: int
    granule: int
    warps: int
    programs: int
    shared_bytes: int
    shared_reserved: int
    simds: int


def _sm(warps: int, programs: int, shared_kib: int) -> Residency:
    # 64 Ki registers, for the 32 lanes of each warp; a program's shared memory holds 1 KiB of the driver's.
    return Residency(2048, 8, warps, programs, shared_kib * 1024, 1024, 1)


# NVIDIA: CUDA C++ Programming Guide 12.9, "Technical Specifications per Compute Capability". AMD: LLVM's User
# Guide for the AMDGPU Backend, and the CDNA 2 and CDNA 3 instruction set manuals: 512 registers a lane and
# SIMD, of both kinds together, eight waves a SIMD, 64 KiB of LDS a CU; 160 KiB on CDNA 4.
RESIDENCIES: Final = {
    "sm_80": _sm(64, 32, 164),
    "sm_86": _sm(48, 16, 100),
    "sm_89": _sm(48, 24, 100),
    "sm_90": _sm(64, 32, 228),
    "sm_100": _sm(64, 32, 228),
    "sm_120": _sm(48, 24, 100),
    "gfx90a": Residency(512, 8, 8, 32, 65536, 0, 4),
    "gfx942": Residency(512, 8, 8, 32, 65536, 0, 4),
    "gfx950": Residency(512, 8, 8, 32, 163840, 0, 4),
}
# A SIMD's scalar registers, allotted 16 a wave (LLVM's User Guide for the AMDGPU Backend, GFX9).
_SCALAR_REGISTERS, _SCALAR_GRANULE = 800, 16


def resident_warps(
    arch: str, num_warps: int, registers: int, scalar_registers: int, shared_bytes: int
) -> int:
    """Warps that a multiprocessor holds at a time, or waves that an AMD one's SIMD does.

    Args:
        arch: a key of ``RESIDENCIES``.
        num_warps: of a program.
        registers: a thread's.
        scalar_registers: a wave's on AMD, else 0.
        shared_bytes: a program's.
    """
    limits = RESIDENCIES[arch]
    warps = min(limits.warps, limits.registers // _rounded(registers, limits.granule))
    if scalar_registers:
        warps = min(warps, _SCALAR_REGISTERS // _rounded(scalar_registers, _SCALAR_GRANULE))
    of_a_program = num_warps // limits.simds
    programs = min(warps // of_a_program, limits.programs)
    if shared_bytes:
        programs = min(programs, limits.shared_bytes // (shared_bytes + limits.shared_reserved))
    return programs * of_a_program


def _rounded(number: int, granule: int) -> int:
    return -(-number // granule) * granule


def _sm_resources(fp32: int) -> tuple[Resource, ...]:
    """An SM's, of ``fp32`` lanes for float32.

    CUDA C++ Best Practices Guide 13, "Throughput of Native Arithmetic Instructions" (up to 12.9 in the CUDA
    C++ Programming Guide), for 8.0, 8.9, 9.0 and 10.0: 64 (8.0) or 128 float32 operations, 64 integer
    additions, shifts, logical operations and compares, 64 integer multiply-adds, 16 special functions.
    Conversions have 16 or 64; 16 is assumed of all. By the Nsight Compute Profiling Guide ("Pipelines"),
    float32 and IMAD share the FMA unit, and where that has two halves, IMAD runs on one alone. Four warp
    schedulers issue one instruction a clock each, and 32 units load and store (the white papers).

    Of IMAD.WIDE no figure of the vendor's was found. Half of IMAD's rate is assumed, as users measured on 8.9
    and 12.1, and as an H200 has it: of independent chains there, IMAD.WIDE and IMAD.HI ran at 0.25 of FFMA's
    rate, IMAD and LOP3 at 0.50, and so did conversions from 32-bit integers, which are counted at 16 lanes.
    FFMA2 and its kin (10.0) are assumed to keep the FMA unit for two passes, since the data sheet's peak
    leaves no more. The uniform datapath, of which no rate was found, takes issue slots alone.
    """
    arithmetic = ("fp32", "packed fp32", "integer", "multiply", "wide multiply", "special")
    issue = dict.fromkeys((*arithmetic, "scalar", "memory", "control"), 1)
    fma = {"fp32": 1, "packed fp32": 2, "multiply": 1, "wide multiply": 2}
    return (
        Resource("issue", 128, issue),
        Resource("FMA", fp32, fma),
        Resource("IMAD", 64, {"multiply": 1, "wide multiply": 2}),
        Resource("ALU", 64, {"integer": 1}),
        Resource("XU", 16, {"special": 1}),
        Resource("LSU", 32, {"memory": 1}),
    )


# A CU has four SIMDs of 16 lanes, which an instruction of a wave of 64 keeps for four clocks; in each clock,
# one of them is issued instructions, of different kinds and waves (AMD CDNA 2 and CDNA 3 white papers; ROCm
# Compute Profiler, "Pipeline descriptions"). The passes are of LLVM's scheduling model (SISchedule.td,
# SIDPFullSpeedModel for gfx90a, SIDPGFX940FullSpeedModel for gfx942): one for float32, packed or not, and for
# integer products, four for special functions and conversions. No manual of AMD's was found to give rates,
# and some users take v_mul_lo_u32, which only the scattered kernel has, for four.
_CU: Final = (
    Resource(
        "VALU",
        64,
        {
            **dict.fromkeys(("fp32", "packed fp32", "integer", "multiply", "wide multiply"), 1),
            "special": 4,
        },
    ),
    Resource("SALU", 64, {"scalar": 1}),
    Resource("VMEM", 64, {"memory": 1}),
    Resource("branch", 64, {"control": 1}),
)

ARCHITECTURES: Final = (
    Architecture(
        name="A100 SXM 80GB",
        arch="sm_80",
        multiprocessors=108,
        clock_mhz=1410,
        bandwidth_gb_per_s=2039,
        resources=_sm_resources(64),
        accelerators=("NVIDIA A100-SXM4-80GB",),
        source="NVIDIA A100 Tensor Core GPU Architecture (white paper); NVIDIA A100 data sheet (2039 GB/s)",
    ),
    Architecture(
        name="RTX 4090",
        arch="sm_89",
        multiprocessors=128,
        clock_mhz=2520,
        bandwidth_gb_per_s=1008,
        resources=_sm_resources(128),
        accelerators=("NVIDIA GeForce RTX 4090",),
        source="NVIDIA Ada GPU Architecture (white paper), GeForce RTX 4090",
    ),
    Architecture(
        name="H100 SXM",
        arch="sm_90",
        multiprocessors=132,
        clock_mhz=1980,
        bandwidth_gb_per_s=3350,
        resources=_sm_resources(128),
        accelerators=("NVIDIA H100 80GB HBM3",),
        source="NVIDIA H100 Tensor Core GPU Architecture (white paper); NVIDIA H100 data sheet (3.35 TB/s;"
        " 67 float32 TFLOPS, which make the clock 1980 MHz)",
    ),
    Architecture(
        name="H200 SXM",
        arch="sm_90",
        multiprocessors=132,
        clock_mhz=1980,
        bandwidth_gb_per_s=4800,
        resources=_sm_resources(128),
        accelerators=("NVIDIA H200",),
        source="NVIDIA H200 data sheet (4.8 TB/s, 67 float32 TFLOPS); the SMs and clock of the H100",
    ),
    Architecture(
        name="B200",
        arch="sm_100",
        multiprocessors=148,
        clock_mhz=1965,
        bandwidth_gb_per_s=8000,
        resources=_sm_resources(128),
        accelerators=("NVIDIA B200",),
        source="NVIDIA Blackwell Architecture Technical Brief (8 TB/s); no document of the vendor's was found"
        " for the SMs and the clock, which are as users read them",
    ),
    Architecture(
        name="MI250X (one of two dies)",
        arch="gfx90a",
        multiprocessors=110,
        clock_mhz=1700,
        bandwidth_gb_per_s=1638.4,
        resources=_CU,
        accelerators=("AMD Instinct MI250X", "AMD Instinct MI250X/MI250"),
        source="AMD CDNA 2 white paper; AMD Instinct MI250X data sheet (halves of 220 CUs and 3276.8 GB/s)",
    ),
    Architecture(
        name="MI300X",
        arch="gfx942",
        multiprocessors=304,
        clock_mhz=2100,
        bandwidth_gb_per_s=5300,
        resources=_CU,
        accelerators=("AMD Instinct MI300X",),
        source="AMD CDNA 3 white paper; AMD Instinct MI300X data sheet",
    ),
)


def architecture_of(machine_info: Mapping[str, Any]) -> Architecture | None:
    """The GPU that a result file's ``machine_info`` names, or None if it is none of those above.

    A part of one (a MIG slice, a partition), whose multiprocessors are fewer, is another.
    """
    accelerator = machine_info.get("accelerator") or {}
    for architecture in ARCHITECTURES:
        if (
            accelerator.get("name") in architecture.accelerators
            and accelerator.get("multiprocessors") == architecture.multiprocessors
        ):
            return architecture
    return None
