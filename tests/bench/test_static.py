"""What compiled kernels cost, of kernels that differ by a known number of instructions."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest
import triton
import triton.language as tl
from triton.compiler import ASTSource

from tritoninit.bench import static
from tritoninit.bench.instructions import KINDS

OPTIONS = {"num_warps": 4, "enable_fp_fusion": False}


@triton.jit
def chain(pointer, factor, addend, LENGTH: tl.constexpr):
    """LENGTH dependent integer multiply-adds a thread, one instruction each."""
    x = tl.arange(0, 128)
    for _ in tl.static_range(LENGTH):
        x = x * factor + addend
    tl.store(pointer + tl.arange(0, 128), x)


def cost_of_chain(length: int) -> static.Cost:
    signature = {"pointer": "*i32", "factor": "i32", "addend": "i32", "LENGTH": "constexpr"}
    source = ASTSource(fn=chain, signature=signature, constexprs={(3,): length})
    compiled = triton.compile(source, target=static.TARGETS["sm_90"], options=OPTIONS)
    return static.nvidia_cost(compiled, elements=1)


def test_count_of_a_compiled_kernel():
    """Through compiler, assembler and disassembler: 100 multiply-adds more are 100 instructions more."""
    short, long = cost_of_chain(20), cost_of_chain(120)
    assert len(long.path) - len(short.path) == 100
    assert short.store_bytes == long.store_bytes == (4,)
    # Thread index, pointer, operands, address and the rest: a handful beside the chain itself.
    assert 20 < len(short.path) < 40


@triton.jit(do_not_specialize=["turns"])
def chain_loop(pointer, factor, addend, turns, LENGTH: tl.constexpr):
    """LENGTH dependent integer multiply-adds a thread and a store, ``turns`` times."""
    x = tl.arange(0, 128)
    for turn in tl.range(turns, loop_unroll_factor=1):
        for _ in tl.static_range(LENGTH):
            x = x * factor + addend
        tl.store(pointer + turn * 128 + tl.arange(0, 128), x)


def cost_of_chain_loop(length: int) -> static.Cost:
    signature = {"pointer": "*i32", "factor": "i32", "addend": "i32", "turns": "i32", "LENGTH": "constexpr"}
    source = ASTSource(fn=chain_loop, signature=signature, constexprs={(4,): length})
    compiled = triton.compile(source, target=static.TARGETS["sm_90"], options=OPTIONS)
    return static.nvidia_cost(compiled, elements=1)


def test_turn_of_a_compiled_kernel():
    """100 multiply-adds more are 100 instructions more in each turn, and as many on the path of one turn."""
    short, long = cost_of_chain_loop(20), cost_of_chain_loop(120)
    assert len(long.further) - len(short.further) == 100
    assert len(long.path) - len(short.path) == 100
    assert short.store_bytes == long.store_bytes == (4,)
    # A turn beside its chain: address, counter, comparison, branch. The rest: the start and the end, once.
    assert 20 < len(short.further) < 35 < len(short.path) < 60
    of_three = len(short.path) + 2 * len(short.further)
    assert sum(short.kinds_per_element(1).values()) == len(short.path)
    assert sum(short.kinds_per_element(3).values()) == pytest.approx(of_three / 3)


@triton.jit
def mixture(at, x, a, b, PRODUCTS: tl.constexpr, FMAS: tl.constexpr, ROOTS: tl.constexpr, XORS: tl.constexpr):
    """So many of each a thread, each of which needs the one before."""
    at += tl.arange(0, 256)
    word = tl.load(at)
    for _ in tl.static_range(PRODUCTS):
        product = word.to(tl.uint64) * a
        word = (product >> 32).to(tl.uint32) ^ product.to(tl.uint32)
    y = word.to(tl.float32, bitcast=True)
    for _ in tl.static_range(FMAS):
        y = tl.fma(y, y, x)
    for _ in tl.static_range(ROOTS):
        y = tl.rsqrt(y)
    word = y.to(tl.uint32, bitcast=True)
    for _ in tl.static_range(XORS):
        word = (word ^ a) + b
    tl.store(at, word)


@cache
def kinds_of_mixture(arch: str, more: str) -> Counter[str]:
    """Instructions by kind with ten of each, and with 50 more of one."""
    signature = {"at": "*u32", "x": "fp32", "a": "u32", "b": "u32"}
    lengths = {name: 10 + 50 * (name == more) for name in ("PRODUCTS", "FMAS", "ROOTS", "XORS")}
    source = ASTSource(
        fn=mixture,
        signature=signature | dict.fromkeys(lengths, "constexpr"),
        constexprs={(len(signature) + i,): length for i, length in enumerate(lengths.values())},
    )
    target = static.TARGETS[arch]
    options = {"num_warps": 256 // target.warp_size, "enable_fp_fusion": False}
    compiled = triton.compile(source, target=target, options=options)
    found = static.nvidia_cost(compiled, 1) if target.backend == "cuda" else static.amd_cost(compiled, 1, 4)
    assert found.store_bytes == (4,)
    return Counter(i.kind for i in found.path)


@pytest.mark.parametrize("arch", ["sm_90", "gfx90a", "gfx942"])
@pytest.mark.parametrize(
    ("more", "kind", "number"),
    [
        ("PRODUCTS", "wide multiply", 50),
        ("FMAS", "fp32", 50),
        ("ROOTS", "special", 50),
        ("XORS", "integer", 100),
    ],
)
def test_kinds_of_a_compiled_kernel(arch, more, kind, number):
    """50 more are 50 instructions more of their kind; with each xor goes an addition."""
    difference = kinds_of_mixture(arch, more)
    difference = Counter({k: difference[k] - kinds_of_mixture(arch, "")[k] for k in KINDS})
    if more == "PRODUCTS":  # whose halves are joined, by as many as the compiler pleases
        assert difference.pop("integer") >= 50
    assert difference == Counter({kind: number})


def test_the_interpreter_cannot_compile(monkeypatch):
    monkeypatch.setattr(static.triton_kernels, "run_kernel", object())
    with pytest.raises(RuntimeError, match="TRITON_INTERPRET"):
        static.compile_kernel("run_kernel", "normal", "float32", "sm_90")
