"""Instructions as listings have them: which unit executes each, what it stores, and where it leads.

Of NVIDIA's machine code (SASS) as nvdisasm writes it, and of AMD's assembly as LLVM does.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Final


class Uncountable(ValueError):
    """Machine code that holds what no count can be sure of; the message says what."""


@dataclass(frozen=True)
class Instruction(ABC):
    """One instruction: its guarding predicate ("@!P0", or ""), opcode ("STG.E.128") and operands."""

    guard: str
    opcode: str
    operands: str

    @property
    @abstractmethod
    def kind(self) -> str:
        """Which unit executes it, one of ``KINDS``; Uncountable if no table here has its opcode."""

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
    "integer": "FMNMX FSEL FSETP IADD IADD3 IMNMX ISETP LEA LOP3 MOV P2R PLOP3 PRMT R2P SEL SHF VIADD VIMNMX",
    "multiply": "IMAD",
    "special": "F2FP F2I I2F I2FP MUFU",
    "scalar": "LDCU R2UR UFADD UI2F UIADD3 UIMAD UISETP ULDC ULEA ULOP3 UMOV USEL USHF VOTEU",
    "memory": "LDC LDG LDL ST STG STL",
    "control": "BRA BSSY BSYNC CALL CS2R DEPBAR EXIT NOP RET S2R S2UR",
}
_SASS_KIND: Final = {opcode: kind for kind, opcodes in _SASS_KINDS.items() for opcode in opcodes.split()}
# Instructions whose target the listing does not give. A path through one cannot be followed.
_INDIRECT: Final = frozenset({"BRX", "BRXU", "JMP", "JMX", "JMXU", "BREAK", "BRK", "CONT", "SYNC", "KILL"})
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
        """Nowhere after an EXIT, a RET, or a CALL (a cold one); but a guarded CALL of a label is a jump."""
        if self.operation in _INDIRECT:
            raise Uncountable(f"cannot follow {self}")
        target = _SASS_TARGET.search(self.operands)
        if self.operation == "CALL" and self.guard and target is not None:
            return True, target.group(1)
        if self.operation in ("CALL", "RET"):
            return False, None
        if self.operation == "EXIT":
            return bool(self.guard), None
        if self.operation != "BRA":
            return True, None
        if target is None:
            raise Uncountable(f"cannot follow {self}")
        # BRA may also be conditional by an operand: BRA.U UP0, BRA.DIV UR4, BRA P1.
        conditional = self.guard or _SASS_TARGET.sub("", self.operands).strip(" ,")
        return bool(conditional), target.group(1)


# By the names of AMD's CDNA 2 and CDNA 3 instruction set manuals. What is vector, integer and no product, be
# it the comparison or the selection of floats, runs at the full rate, and has one kind.
_GCN_KINDS: Final = {
    "packed fp32": r"v_pk_(add|fma|mul)_f32",
    "fp32": r"v_(add|fma|fmaak|fmac|fmamk|mul|sub|subrev)_f32",
    "multiply": r"v_mul_(lo|hi)_[iu]32|v_mad_legacy_u16",
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
            raise Uncountable(f"no table says how much {self.opcode} stores")
        return _GCN_STORED[width.group(1)]

    @property
    def ends(self) -> bool:
        return self.opcode == "s_endpgm"

    @property
    def leads(self) -> tuple[bool, str | None]:
        if self.opcode in ("s_setpc_b64", "s_swappc_b64", "s_call_b64", "s_cbranch_g_fork", "s_cbranch_join"):
            raise Uncountable(f"cannot follow {self}")
        branches = self.opcode.startswith(("s_branch", "s_cbranch"))
        return self.opcode not in ("s_endpgm", "s_branch"), self.operands.strip() if branches else None


def _known(kind: str | None, opcode: str) -> str:
    if kind is None:
        raise Uncountable(f"no table says which unit executes {opcode}")
    return kind
