"""Every kernel's compiled code, executed and compared with the reference, bit for bit, without a GPU.

What ptxas made (SASS) is what an NVIDIA GPU executes, and what LLVM made an AMD one; PTX lies between Triton
and ptxas.
"""

from __future__ import annotations

import pytest
from emulated_cases import CASES, emulated
from kernel_cases import DTYPES

ARCHS = {
    "ptx": ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"),
    "sass": ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"),
    "gcn": ("gfx90a", "gfx942", "gfx950"),
}
# The least part of the instructions that the cases execute, without those of edges. Of PTX it is all. ptxas
# adds the subroutine for rare square roots (test_variants.py sends all of them there), and padding.
COVERED = {"ptx": 1.0, "sass": 0.93, "gcn": 0.95}


QUICK_TABLES = (
    *(("ptx", "sm_90", "bfloat16"), ("sass", "sm_90", "float32")),
    *(("gcn", "gfx942", "float32"), ("gcn", "gfx942", "bfloat16")),
)


def quick(code: str, arch: str, dtype: str, kind: str) -> bool:
    if kind == "rows table":
        return (code, arch, dtype) in QUICK_TABLES
    if "rows" in kind:
        return kind == "rows" and (code, arch) == ("ptx", "sm_90") and dtype != "float16"
    if code == "sass":
        return (arch, dtype) == ("sm_90", "float32") and kind in ("run", "long run")
    # Of 16-bit dtypes bfloat16: float16 is drawn by the same code but for its rounding, and is a slow test.
    return (code, arch) in (("ptx", "sm_90"), ("gcn", "gfx942")) and dtype != "float16"


@pytest.mark.parametrize(
    ("code", "arch", "dtype", "kind"),
    [
        pytest.param(*case, marks=[] if quick(*case) else [pytest.mark.slow])
        for case in [(c, a, d, k) for c, archs in ARCHS.items() for a in archs for d in DTYPES for k in CASES]
    ],
)
def test_every_bit(code, arch, dtype, kind):
    with emulated(code, arch) as gpu:
        CASES[kind](gpu, dtype)
    if kind not in ("edges", "long run"):
        executed = sum(len(program.executed) for program in gpu.programs.values())
        assert executed >= COVERED[code] * sum(len(program.actions) for program in gpu.programs.values())
