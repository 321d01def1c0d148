"""Thin kernels around the device helpers of ``triton_kernels``: tests reach one transform at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import triton
import triton.language as tl

from tritoninit.kernels import triton_kernels


@triton.jit
def words_kernel(counters, key, words, SIZE: tl.constexpr, BLOCK: tl.constexpr):
    """Philox of int32 (4, SIZE) counters under the two words of ``key``, into (4, SIZE) words."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < SIZE
    c0 = tl.load(counters + at, inside).to(tl.uint32, bitcast=True)
    c1 = tl.load(counters + SIZE + at, inside).to(tl.uint32, bitcast=True)
    c2 = tl.load(counters + 2 * SIZE + at, inside).to(tl.uint32, bitcast=True)
    c3 = tl.load(counters + 3 * SIZE + at, inside).to(tl.uint32, bitcast=True)
    k0 = tl.load(key).to(tl.uint32, bitcast=True)
    k1 = tl.load(key + 1).to(tl.uint32, bitcast=True)
    a, b, c, d = triton_kernels.philox4x32(c0, c1, c2, c3, k0, k1)
    tl.store(words + at, a.to(tl.int32, bitcast=True), inside)
    tl.store(words + SIZE + at, b.to(tl.int32, bitcast=True), inside)
    tl.store(words + 2 * SIZE + at, c.to(tl.int32, bitcast=True), inside)
    tl.store(words + 3 * SIZE + at, d.to(tl.int32, bitcast=True), inside)


@triton.jit
def minus_two_log_kernel(x, out, size, EXPONENT: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, triton_kernels.minus_two_log(tl.load(x + at, at < size, 1.0), EXPONENT), at < size)


@triton.jit
def radius_kernel(x, out, size, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.sqrt_rn(triton_kernels.minus_two_log(tl.load(x + at, at < size, 1.0), 32))
    tl.store(out + at, value, at < size)


@triton.jit
def sine_kernel(f, out, size, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, triton_kernels.sine(tl.load(f + at, at < size, 0.0)), at < size)


@triton.jit
def slope_kernel(below, above, out, size, TAILS: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    left, right = tl.load(below + at, at < size, 0.5), tl.load(above + at, at < size, 0.5)
    tl.store(out + at, triton_kernels.slope(left, right, TAILS), at < size)


@triton.jit
def box_muller_kernel(x, y, cosines, sines, size, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    x = tl.load(x + at, inside, 0).to(tl.uint32, bitcast=True)
    y = tl.load(y + at, inside, 0).to(tl.uint32, bitcast=True)
    cosine, sine = triton_kernels.box_muller(x, y)
    tl.store(cosines + at, cosine, inside)
    tl.store(sines + at, sine, inside)


def launch(kernel: Any, size: int, *arguments: Any, block: int = 1024, **constants: Any) -> None:
    """Run an elementwise kernel over ``size`` elements, compiled as the fills are: nothing fused unasked."""
    kernel[(triton.cdiv(size, block),)](*arguments, **constants, BLOCK=block, enable_fp_fusion=False)


def elementwise(kernel: Any, *inputs: Any, block: int = 1024, device: str = "cpu", **constants: Any) -> Any:
    """The float32 results of a kernel of one output, on NumPy arrays."""
    tensors = [torch.from_numpy(x).to(device) for x in inputs]
    out = torch.empty(inputs[0].shape, dtype=torch.float32, device=device)
    launch(kernel, out.numel(), *tensors, out, out.numel(), block=block, **constants)
    return out.cpu().numpy()


def words(counters: Any, key: Any, *, device: str = "cpu") -> Any:
    """Philox4x32-10 of uint32 counters of shape (4, n) under a uint32 key of shape (2,): uint32 (4, n)."""
    tensors = [torch.from_numpy(x.view(np.int32)).to(device) for x in (counters, key)]
    out = torch.empty_like(tensors[0])
    size = counters.shape[1]
    launch(words_kernel, size, *tensors, out, SIZE=size)
    return out.cpu().numpy().view(np.uint32)


def box_muller(x: Any, y: Any, *, block: int = 1024, device: str = "cpu") -> tuple[Any, Any]:
    """The two normals of uint32 words x and y."""
    tensors = [torch.from_numpy(word.view(np.int32)).to(device) for word in (x, y)]
    out = torch.empty((2, *x.shape), dtype=torch.float32, device=device)
    launch(box_muller_kernel, x.size, *tensors, out[0], out[1], x.size, block=block)
    cosines, sines = out.cpu().numpy()
    return cosines, sines
