"""AMD's instructions for gfx90a, gfx942 and gfx950, as LLVM writes them, decoded for ``engine``.

A thread of the engine is a wave here: vector registers are (waves, 64), scalar ones (waves, 1), and what all
waves or lanes share has a length of one. Semantics are those of AMD's "CDNA 3 Instruction Set Architecture"
(ISA below; of gfx950 "CDNA 4"), the state at a kernel's start is that of LLVM's "User Guide for AMDGPU
Backend".

A load answers late: until an s_waitcnt covers it, whatever names a register that it writes is a fault, and so
is a barrier before accesses to LDS are done. Not modelled: when a store to global memory is done, which no
kernel here asks, and the hazards that s_nop is for.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import numpy as np

from tritoninit.emulated import arithmetic as ar
from tritoninit.emulated.arithmetic import Words, u32, u64
from tritoninit.emulated.engine import (
    BARRIER,
    END,
    POISON,
    Action,
    Approximation,
    Build,
    Fault,
    Launch,
    Outcome,
    Program,
    Threads,
    Undecoded,
)
from tritoninit.emulated.gcn_memory import ACCESSES
from tritoninit.emulated.gcn_operands import (
    AGPR,
    ALL_LANES,
    EXEC,
    LANES,
    NUMBER,
    SCC,
    SGPR,
    VCC,
    Instruction,
    Reader,
    Registers,
    Writer,
    lanes_of,
    literal,
    pair,
    put_exec,
    put_lanes,
    put_pair,
    put_vector,
    put_vectors,
    put_word,
)
from tritoninit.emulated.gcn_operations import (
    APPROXIMATIONS,
    COMPUTATIONS,
    DOUBLE_APPROXIMATIONS,
    PACKED,
    WAVE,
    approximated,
    approximated_double,
)

_KERNARG: Final = 0x10000  # where the parameters lie in memory


# The letters of a form (``gcn_operations.COMPUTATIONS``): of a result how many registers, and of which kind.
_RESULTS: Final[dict[str, tuple[int, str, Callable[..., None]]]] = {
    "v": (1, "v", put_vector),
    "a": (1, "a", put_vector),
    "w": (2, "v", put_vectors),
    "u": (1, "v", put_word),
    "s": (1, "s", put_word),
    "t": (2, "s", put_pair),
    "m": (2, "s", put_lanes),
}
_IMPLICIT: Final[dict[str, Writer]] = {"C": partial(put_word, SCC), "X": put_exec}
_SOURCES: Final[dict[str, Callable[[Instruction, int], Reader]]] = {
    "i": lambda at, number: at.word(select=f"src{number}_sel"),
    "f": lambda at, number: at.word(select=f"src{number}_sel", signs=True),
    "a": lambda at, number: operator.itemgetter(at.slot(at.operand(), 1, "a")),
    "h": lambda at, number: operator.itemgetter(at.slot(at.operand(), 1, "vs")),
    "l": lambda at, number: at.long(),
    "d": lambda at, number: at.double(),
    "E": lambda at, number: partial(pair, at.slot(at.operands[0], 2, "v")),
    "V": lambda at, number: _named_mask(at),
    "k": lambda at, number: _immediate(at.operand()),
    "m": lambda at, number: _masked(at.slot(at.operand(), 2, "s")),
    "C": lambda at, number: operator.itemgetter(SCC),
    "L": lambda at, number: operator.itemgetter(LANES),
    "X": lambda at, number: partial(pair, EXEC),
    "D": lambda at, number: operator.itemgetter(at.slot(at.operands[0], 1, "vs")),
}


def _immediate(text: str) -> Reader:
    """16 bits, which s_movk_i32 and its like extend with their sign."""
    value = int(text, 0) if NUMBER.fullmatch(text) else 2**16
    if not -(2**15) <= value < 2**16:
        raise Undecoded(f"operand {text}")
    constant = ar.low(np.array([[(value & 0xFFFF ^ 0x8000) - 0x8000]], np.int64).view(u64))
    return lambda registers: constant


def _named_mask(at: Instruction) -> Reader:
    at.named |= {VCC, VCC + 1}
    return _masked(VCC)


def _masked(slot: int) -> Reader:
    return lambda registers: lanes_of(pair(slot, registers))


def _computation(at: Instruction, form: str, operation: Callable[..., Any]) -> Action:
    """What reads registers, computes and writes registers."""
    results, sources = form.split("=")
    writes = [_result(at, letter) for letter in results]
    reads = [_SOURCES[letter](at, number) for number, letter in enumerate(sources)]
    if at.sdwa and results != "m":  # a mask of lanes has no parts to choose from
        operation = _into_part(operation, at.modifiers.pop("dst_sel", ""))
        at.require("dst_unused", "UNUSED_PAD")
    if len(writes) == 1:
        (write,) = writes

        def compute(threads: Threads, launch: Launch) -> Outcome:
            registers = threads.registers
            write(registers, operation(*[read(registers) for read in reads]))
            return None

        return compute

    def compute_several(threads: Threads, launch: Launch) -> Outcome:
        registers = threads.registers
        for put, value in zip(writes, operation(*[read(registers) for read in reads]), strict=True):
            put(registers, value)
        return None

    return compute_several


def _into_part(operation: Callable[..., Words], part: str) -> Callable[..., Words]:
    """A result of SDWA as a part of a register, whose others are zeros."""
    if part == "DWORD":
        return operation
    if part not in ("WORD_0", "WORD_1"):
        raise Undecoded(f"dst_sel {part}")
    shift = u32(16 if part == "WORD_1" else 0)
    return lambda *operands: (operation(*operands) & u32(0xFFFF)) << shift


def _result(at: Instruction, letter: str) -> Writer:
    if letter in _IMPLICIT:
        return _IMPLICIT[letter]
    count, kinds, put = _RESULTS[letter]
    slot = at.slot(at.operand(), count, kinds)
    if slot == EXEC:
        if letter != "t":
            raise Undecoded("writes exec")
        return put_exec
    return partial(put, slot)


def _half(at: Instruction, upper: bool, negative: bool, text: str) -> Reader:
    """A word of a pair of registers, or a constant, whose lower half alone is defined."""
    if (value := literal(text)) is not None:
        if upper:
            raise Undecoded("a constant's upper half")
        constant = np.array([[value]], u32) ^ (ar.SIGN if negative else u32(0))
        return lambda registers: constant
    slot = at.slot(text, 2, "vs") + upper
    return (lambda registers: ar.negative(registers[slot])) if negative else operator.itemgetter(slot)


def _packed(at: Instruction, count: int, operation: Callable[..., Words]) -> Action:
    """Two at a time: op_sel and neg_lo are of the lower result, op_sel_hi and neg_hi of the upper."""
    target = at.slot(at.operand(), 2, "v")
    texts = [at.operand() for _ in range(count)]

    def reads(select: str, default: int, sign: str) -> list[Reader]:
        switches = zip(at.switches(select, count, default), at.switches(sign, count, 0), texts, strict=True)
        return [_half(at, *switch) for switch in switches]

    return _pair_of(target, operation, reads("op_sel", 0, "neg_lo"), reads("op_sel_hi", 1, "neg_hi"))


def _packed_move(at: Instruction) -> Action:
    """v_pk_mov_b32: a word of the first operand and one of the second, by op_sel."""
    target = at.slot(at.operand(), 2, "v")
    first, second = (_half(at, upper, False, at.operand()) for upper in at.switches("op_sel", 2, 0))
    return _pair_of(target, np.asarray, [first], [second])


def _pair_of(target: int, operation: Callable[..., Any], lower: list[Reader], upper: list[Reader]) -> Action:
    def compute(threads: Threads, launch: Launch) -> Outcome:
        registers = threads.registers
        words = [operation(*[read(registers) for read in reads]) for reads in (lower, upper)]
        put_vector(target, registers, words[0])
        put_vector(target + 1, registers, words[1])
        return None

    return compute


def _table_lookup(at: Instruction) -> Action:
    """v_bitop3_b32: of each bit, one of a table's, whose number the operands' bits are (CDNA 4)."""
    table = int(at.modifiers.pop("bitop3", "0"), 0)

    def look_up(a: Words, b: Words, c: Words) -> Words:
        found = np.zeros((1, 1), u32)
        for number in range(8):
            if table >> number & 1:
                matching = [x if number >> k & 1 else ~x for k, x in ((2, a), (1, b), (0, c))]
                found = found | matching[0] & matching[1] & matching[2]
        return found

    return _computation(at, "v=iii", look_up)


_CONDITIONS: Final[dict[str, Reader]] = {
    "scc0": lambda registers: ~registers[SCC],
    "scc1": operator.itemgetter(SCC),
    "vccz": lambda registers: pair(VCC, registers) == 0,
    "vccnz": lambda registers: pair(VCC, registers) != 0,
    "execz": lambda registers: pair(EXEC, registers) == 0,
    "execnz": lambda registers: pair(EXEC, registers) != 0,
}


def _jump(condition: str | None, target: int) -> Action:
    if condition is None:
        return lambda threads, launch: target
    met = _CONDITIONS[condition]
    return lambda threads, launch: threads.branch(met(threads.registers)[:, 0], target)


def _wait(at: Instruction) -> Action:
    """LDS answers in order, scalar loads in any (ISA 4.4)."""
    found = re.fullmatch(r"lgkmcnt\((\d+)\)", at.operand())
    if found is None:
        raise Undecoded(f"operand {at.operands[0]}")
    left = int(found[1])

    def wait(threads: Threads, launch: Launch) -> Outcome:
        if left and any(kind == "scalar" for kind, _ in threads.pending):
            raise Fault("some of several scalar loads are waited for: which is chance")
        threads.pending = threads.pending[-left:] if left else ()
        return None

    return wait


def _barrier(threads: Threads, launch: Launch) -> Outcome:
    if any(kind == "LDS" for kind, _ in threads.pending):
        raise Fault("a barrier before accesses to LDS are done")
    return BARRIER


def _nothing(at: Instruction) -> Action:
    at.operand()
    return lambda threads, launch: None


_OTHERS: Final[dict[str, Callable[[Instruction], Action]]] = {
    "s_nop": _nothing,
    "s_waitcnt": _wait,
    "s_barrier": lambda at: _barrier,
    "s_endpgm": lambda at: lambda threads, launch: END,
    "v_pk_mov_b32": _packed_move,
    "v_bitop3_b32": _table_lookup,
    **ACCESSES,
}
_JUMP = re.compile(rf"s_(?:branch|cbranch_({'|'.join(_CONDITIONS)}))")


def _action(at: Instruction, labels: dict[str, int], approximation: Approximation) -> Action:
    name = at.opcode
    if name in COMPUTATIONS:
        return _computation(at, *COMPUTATIONS[name])
    if name in APPROXIMATIONS:
        return _computation(at, "v=f", partial(approximated, APPROXIMATIONS[name], approximation))
    if name in DOUBLE_APPROXIMATIONS:
        compute = partial(approximated_double, DOUBLE_APPROXIMATIONS[name], approximation)
        return _computation(at, "w=d", compute)
    if name in PACKED:
        return _packed(at, *PACKED[name])
    if name in _OTHERS:
        return _OTHERS[name](at)
    if jump := _JUMP.fullmatch(name):
        if (condition := jump[1]) and condition.startswith("vcc"):
            at.named |= {VCC, VCC + 1}
        return _jump(condition, labels[at.operand()])
    raise Undecoded("an unknown opcode")


def _checked(action: Action, named: set[int], text: str) -> Action:
    """The action, where no register that it names is still to be loaded."""

    def act(threads: Threads, launch: Launch) -> Outcome:
        for _, slots in threads.pending:
            if not named.isdisjoint(slots):
                raise Fault(f"{text}: a register that no s_waitcnt has waited for")
        return action(threads, launch)

    return act if named else action


# The kernel descriptor's settings, by what they have to be: work-items and work-groups are numbered in one
# dimension; floats round to nearest even (0), overflow to infinity (0), and subnormal ones are kept (3).
_SETTINGS: Final = {
    "0": "group_segment_fixed_size private_segment_fixed_size user_sgpr_dispatch_ptr user_sgpr_queue_ptr"
    " user_sgpr_dispatch_id user_sgpr_flat_scratch_init user_sgpr_kernarg_preload_offset"
    " user_sgpr_private_segment_size uses_dynamic_stack enable_private_segment"
    " system_sgpr_private_segment_wavefront_offset system_sgpr_workgroup_id_y system_sgpr_workgroup_id_z"
    " system_sgpr_workgroup_info system_vgpr_workitem_id float_round_mode_32 float_round_mode_16_64"
    " fp16_overflow tg_split exception_fp_ieee_invalid_op exception_fp_denorm_src exception_fp_ieee_div_zero"
    " exception_fp_ieee_overflow exception_fp_ieee_underflow exception_fp_ieee_inexact"
    " exception_int_div_zero",
    "1": "user_sgpr_kernarg_segment_ptr system_sgpr_workgroup_id_x dx10_clamp ieee_mode",
    "3": "float_denorm_mode_32 float_denorm_mode_16_64",
    r"\d+": "kernarg_size user_sgpr_count user_sgpr_private_segment_buffer user_sgpr_kernarg_preload_length"
    " accum_offset next_free_vgpr next_free_sgpr reserve_vcc reserve_xnack_mask reserve_flat_scratch",
}
_SETTING: Final = {name: value for value, names in _SETTINGS.items() for name in names.split()}


def _settings(text: str) -> dict[str, int]:
    found = re.findall(r"^\t\t\.amdhsa_(\w+) (\S+)$", text, re.MULTILINE)
    for name, value in found:
        if not re.fullmatch(_SETTING.get(name, "unknown"), value):
            raise Undecoded(f".amdhsa_{name} {value}")
    if len(found) != text.count(".amdhsa_") - text.count("\t.amdhsa_kernel") - text.count("_code_object_"):
        raise Undecoded("a setting out of place")
    return {name: int(value) for name, value in found}


def _entry(settings: dict[str, int]) -> tuple[Callable[[Threads, Launch], None], range]:
    """What puts the registers that a kernel starts with, and which of them hold parameters (LLVM: "Initial
    Kernel Execution State"): the private segment's buffer, the parameters' address, the first parameters."""
    pointer = SGPR + 4 * settings.get("user_sgpr_private_segment_buffer", 0)
    preloaded = range(pointer + 2, pointer + 2 + settings.get("user_sgpr_kernarg_preload_length", 0))
    program = SGPR + settings["user_sgpr_count"]
    if preloaded.stop > program:
        raise Undecoded("more preloaded parameters than user registers")

    def enter(threads: Threads, launch: Launch) -> None:
        threads.number = threads.number.reshape(-1, WAVE)
        threads.block = threads.block.reshape(-1, WAVE)[:, 0].copy()
        threads.program = threads.program.reshape(-1, WAVE)[:, :1].copy()
        parameters = np.frombuffer(launch.packed_parameters(), u32)
        launch.memory.add(_KERNARG, parameters, writable=False)
        registers = threads.registers
        registers[0] = threads.number
        put_pair(pointer, registers, np.array([[_KERNARG]], u64))
        for slot, word in zip(preloaded, parameters, strict=False):
            registers[slot] = np.array([[word]], u32)
        registers[program] = threads.program
        put_exec(registers, np.array([[2**WAVE - 1]], u64))

    return enter, preloaded


def _joining(action: Action, preloaded: range) -> Action:
    """The end of what loads the parameters, for firmware that does not preload them. The other enters here:
    what it would find and what was loaded are compared."""

    def join(threads: Threads, launch: Launch) -> Outcome:
        parameters = np.frombuffer(launch.packed_parameters(), u32)
        for slot, word in zip(preloaded, parameters, strict=False):
            if (threads.registers[slot] != word).any():
                raise Fault("the loaded parameters are not the preloaded ones")
        return action(threads, launch)

    return join


_LINE = re.compile(r"\t([a-z]\w*)(?:[ \t]+(\S.*))?")
_DIRECTIVE = re.compile(r"\t\.(loc|file|p2align|size|cfi_\w+)\b.*")


def _instructions(text: str) -> tuple[list[tuple[str, str]], dict[str, int]]:
    """The opcodes with their operands, and where each label leads."""
    if len(names := re.findall(r"^\t\.amdhsa_kernel (\w+)$", text, re.MULTILINE)) != 1:
        raise Undecoded(f"{len(names)} kernels")
    body = text.partition(f"\n{names[0]}:")[2].partition("\n")[2].partition("\t.section\t.rodata")[0]
    lines: list[tuple[str, str]] = []
    labels: dict[str, int] = {}
    for line in (line.partition(";")[0].rstrip() for line in body.splitlines()):
        if found := _LINE.fullmatch(line):
            lines.append((found[1], found[2] or ""))
        elif line.endswith(":"):
            labels[line[:-1]] = len(lines)
        elif line and not _DIRECTIVE.fullmatch(line):
            raise Undecoded(line.strip())
    return lines, labels


def decode(text: str, build: Build) -> Program:
    """A program of one kernel's assembly.

    Raises:
        Undecoded: it holds what is not known here.
    """
    settings = _settings(text)
    enter, preloaded = _entry(settings)
    lines, labels = _instructions(text)
    actions, texts = [], []
    for opcode, rest in lines:
        texts.append(f"{opcode} {rest}".strip())
        at = Instruction(opcode, rest)
        try:
            action = _action(at, labels, build.approximation)
            at.done()
        except (Undecoded, KeyError, ValueError) as unknown:
            raise Undecoded(f"{texts[-1]}: {unknown}") from None
        actions.append(_checked(action, at.named, texts[-1]))
    if preloaded:
        join = next(place for place, (opcode, _) in enumerate(lines) if opcode == "s_branch")
        actions[join] = _joining(actions[join], preloaded)
    poison = np.array([[POISON & 0xFFFFFFFF]], u32)
    registers: Registers = [poison] * SCC + [np.zeros((1, 1), bool), ALL_LANES] + [poison] * 256
    assert len(registers) == AGPR + 256
    return Program(actions, texts, registers, build.threads, build.shared_bytes, enter)
