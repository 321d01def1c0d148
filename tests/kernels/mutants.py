"""Compiled code with an error put in: what the comparison with the reference has to notice.

Those that are named stand for kinds of errors, of compilers or of ours. Random ones change one instruction:
the last bit of a number, or one register for another that is used nearby. Some of those change no result (a
bit that nothing reads, a register that holds the same), so that not all can be noticed.
"""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from emulated_cases import LONG, edge_cases, long_run_cases, run_cases

from tritoninit.emulated.engine import Fault, Undecoded
from tritoninit.emulated.launch import Emulated
from tritoninit.kernels import stream

Edit = Callable[[str], str]


def substitute(pattern: str, new: str, place: int | None = None) -> Edit:
    """Replace what a pattern finds: everywhere, or at one place, counted from 0."""

    def edit(text: str) -> str:
        found = list(re.finditer(pattern, text))
        for match in reversed(found if place is None else found[place : place + 1]):
            text = text[: match.start()] + match.expand(new) + text[match.end() :]
        return text

    return edit


def other_last_bit(number: float) -> Edit:
    """Change a float32 constant's last bit wherever PTX has it."""
    (bits,) = struct.unpack("<I", struct.pack("<f", number))
    return lambda text: text.replace(f"0f{bits:08X}", f"0f{bits ^ 1:08X}")


@dataclass(frozen=True)
class Mutant:
    """An error in the run kernel's code for one fill and dtype; or, if ``refused``, what nobody decodes."""

    what: str
    code: str
    arch: str
    fill: str
    dtype: str
    edit: Edit = str
    options: Mapping[str, Any] = field(default_factory=dict)
    refused: bool = False

    def __str__(self) -> str:
        return f"{self.code} {self.fill} {self.dtype}: {self.what}"

    def noticed(self) -> str | None:
        """By what: a differing bit, a fault, or a decoder that refuses; None if by nothing.

        Raises:
            ValueError: the edit changed nothing, so that there is nothing to notice.
        """
        with Emulated(self.code, self.arch, edit=self.edit, options=self.options) as gpu:
            why = reason(gpu, self.fill, self.dtype)
        if not gpu.edits and not self.options:
            raise ValueError(f"{self} is no mutant: the code is as it was")
        return why


def reason(gpu: Emulated, fill: str, dtype: str) -> str | None:
    try:
        run_cases(gpu, dtype, (fill,))
        if LONG.get(dtype) == fill:
            long_run_cases(gpu, dtype)
        edge_cases(gpu, dtype, (fill,))
    except (AssertionError, Fault, Undecoded) as error:
        return f"{type(error).__name__}: {error}"
    return None


_FUSED: dict[str, Any] = {"enable_fp_fusion": True}

QUICK = (
    Mutant("a multiplier of Philox off by one, once", "ptx", "sm_90", "uniform", "float32",
           substitute("-766435501", "-766435502", 7)),
    Mutant("a coefficient's last bit", "ptx", "sm_90", "standard", "float32", other_last_bit(stream.SINE[0])),
    Mutant("index < stop becomes <=", "ptx", "sm_90", "uniform", "float32",
           substitute(r"setp\.lt\.s64", "setp.le.s64")),
    Mutant("the first barrier removed", "ptx", "sm_90", "normal", "float32",
           substitute(r"\tbar\.sync \t0;", "", 0)),
    Mutant("products and sums fused", "sass", "sm_90", "uniform", "float32", options=_FUSED),
    Mutant("one bit of a logic table", "sass", "sm_90", "normal", "float32",
           substitute("0x96, !PT", "0x97, !PT", 40)),
    Mutant("a coefficient's last bits, once", "gcn", "gfx942", "standard", "float32",
           substitute(r"(v_fmaak_f32 .*0x[0-9a-f]+)[0-9a-e]\b", r"\1f", 3)),
    Mutant("a barrier removed", "gcn", "gfx942", "normal", "float32",
           substitute("\ts_barrier", "\ts_nop 0", 0)),
)  # fmt: skip

SLOW = (
    Mutant("a store's guard removed", "ptx", "sm_90", "uniform", "float32",
           substitute(r"@%p\d+ (st\.global\.b32)", r"\1", 31)),
    Mutant("the second barrier removed", "ptx", "sm_90", "normal", "float32",
           substitute(r"\tbar\.sync \t0;", "", 1)),
    Mutant("products flush subnormals", "ptx", "sm_90", "normal", "float32",
           substitute(r"mul\.rn\.f32", "mul.rn.ftz.f32"), refused=True),
    Mutant("an approximate square root", "ptx", "sm_90", "normal", "float32",
           substitute(r"sqrt\.rn\.f32", "sqrt.approx.f32", 0), refused=True),
    Mutant("bfloat16 cut off, once", "ptx", "sm_90", "normal", "bfloat16",
           substitute(r"cvt\.rn\.bf16\.f32", "cvt.rz.bf16.f32", 5), refused=True),
    Mutant("two halves of a word exchanged", "ptx", "sm_90", "normal", "bfloat16",
           substitute(r"(mov\.b32 \s*%r\d+), \{(%rs\d+), (%rs\d+)\}", r"\1, {\3, \2}", 2)),
    Mutant("a minimum becomes a maximum, once", "ptx", "sm_90", "uniform", "float32",
           substitute(r"min\.f32", "max.f32", 3)),
    Mutant("16 bytes stored 8 further", "ptx", "sm_90", "uniform", "float32",
           substitute(r"(st\.global\.v4\.b32 \[ %rd\d+) \+ 0", r"\1 + 8", 2)),
    Mutant("16 bytes stored 16 further", "ptx", "sm_90", "uniform", "float32",
           substitute(r"(st\.global\.v4\.b32 \[ %rd\d+) \+ 0", r"\1 + 16", 2)),
    Mutant("products and sums fused", "ptx", "sm_90", "normal", "float32", options=_FUSED, refused=True),
    Mutant("products and sums fused", "ptx", "sm_90", "uniform", "float32", options=_FUSED),
    Mutant("products and sums fused", "sass", "sm_90", "normal", "float32", options=_FUSED),
    Mutant("products flush subnormals", "sass", "sm_90", "normal", "float32",
           substitute(r"FMUL ", "FMUL.FTZ ")),
    Mutant("sums flush subnormals", "sass", "sm_90", "uniform", "float32",
           substitute(r"FADD ", "FADD.FTZ ")),
    Mutant("a minimum becomes a maximum, once", "sass", "sm_90", "uniform", "float32",
           substitute(r"(FMNMX R\d+, .*), PT ;", r"\1, !PT ;", 4)),
    Mutant("a barrier removed", "sass", "sm_90", "normal", "float32",
           substitute(r"BAR\.SYNC\.DEFER_BLOCKING 0x0", "NOP", 0)),
    Mutant(">= becomes <, once", "sass", "sm_90", "uniform", "float32",
           substitute(r"ISETP\.GE\.AND\.EX", "ISETP.LT.AND.EX", 6)),
    Mutant("a store's guard removed", "sass", "sm_90", "uniform", "float32",
           substitute(r"@!?P\d (STG\.E)", r"    \1", 5)),
    Mutant("products and sums fused", "gcn", "gfx942", "uniform", "float32", options=_FUSED),
    Mutant("products and sums fused", "gcn", "gfx942", "normal", "float32", options=_FUSED),
    Mutant("lanes outside stored as if inside", "gcn", "gfx942", "uniform", "float32",
           substitute(r"v_cndmask_b32_e(?:32|64) (v\d+), v\d+, (v\d+), .*", r"v_mov_b32_e32 \1, \2", 0)),
    Mutant("a buffer's bound too small", "gcn", "gfx942", "constant", "bfloat16",
           substitute("0x7ffffffe", "0x10")),
    Mutant("a wait removed", "gcn", "gfx942", "normal", "float32",
           substitute(r"\ts_waitcnt lgkmcnt\(0\)", "\ts_nop 0", 0)),
)  # fmt: skip


_REGISTERS = {
    "ptx": r"%(?:rd|rs|r|p)\d+",
    "sass": r"(?<![\w.])U?R\d+\b|(?<!\w)U?P\d\b",
    "gcn": r"\b[vs]\d+\b|\b[vs]\[\d+:\d+\]",
}
_NUMBER = r"(?<=[ ,])-?(?:0x[0-9a-f]+|\d+)(?=[,;\s]|$)"
# Lines that may be changed, and those of them that may not: they compute nothing, or lead nowhere if changed.
_LINES = {
    "ptx": (r"\s+(?:@!?%p\d+ )?[a-z]+\S*\s.*;", r"\s+(\.|//|ld\.param|ret|bar|bra|@!?%p\d+ bra)"),
    "sass": (r"\s+/\*[0-9a-f]{4,}\*/", r".*\b(NOP|BRA|BSSY|BSYNC|EXIT|RET|CALL|LDC|ULDC|S2R|S2UR|BAR\S*)\b"),
    "gcn": (
        r"\t(v_|s_|ds_|global_store|buffer_store)",
        r"\ts_(nop|waitcnt|branch|endpgm|barrier|cbranch|load)",
    ),
}


def random_mutations(code: str, text: str, count: int, seed: int) -> Iterator[tuple[str, str]]:
    """Texts in which one instruction is another, each with that instruction before and after."""
    rng = random.Random(seed)
    lines = (text.partition("\t.section\t.rodata")[0] if code == "gcn" else text).split("\n")
    takes, leaves = map(re.compile, _LINES[code])
    places = [k for k, line in enumerate(lines) if takes.match(line) and not leaves.match(line)]
    while count:
        k = rng.choice(places)
        line = _mutated(code, lines, k, rng)
        if line is not None and line != lines[k]:
            count -= 1
            what = re.sub(r"\s+", " ", f"{lines[k].strip()} -> {line.strip()}")
            yield what, text.replace("\n".join(lines), "\n".join([*lines[:k], line, *lines[k + 1 :]]))


def _mutated(code: str, lines: list[str], k: int, rng: random.Random) -> str | None:
    """A line with a number's last bit or a source register changed; None if it has neither."""
    line = lines[k]
    begin = line.index("*/") + 2 if code == "sass" else 0
    if rng.randrange(3) == 0:
        numbers = [m for m in re.finditer(_NUMBER, line) if m.start() > begin + 8]
        if not numbers:
            return None
        chosen = rng.choice(numbers)
        changed = int(chosen[0], 0) ^ 1
        digits = f"{'-' * (changed < 0)}{hex(abs(changed))}" if "x" in chosen[0] else str(changed)
        return line[: chosen.start()] + digits + line[chosen.end() :]
    sources = list(re.finditer(_REGISTERS[code], line[begin:]))[1:]
    if not sources:
        return None
    chosen = rng.choice(sources)
    near = [
        name
        for other in lines[max(0, k - 40) : k]
        for name in re.findall(_REGISTERS[code], other.split("*/")[-1])
        if _sort(name) == _sort(chosen[0]) and name != chosen[0]
    ]
    if not near:
        return None
    return line[: begin + chosen.start()] + rng.choice(near) + line[begin + chosen.end() :]


def _sort(register: str) -> tuple[str, int]:
    """Its file, and how many registers it names."""
    numbers = [int(number) for number in re.findall(r"\d+", register)]
    return re.match(r"%?[a-zA-Z]+", register)[0], numbers[-1] - numbers[0]  # type: ignore[index]
