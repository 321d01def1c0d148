"""cuRAND's device interface in one kernel, as someone who knows it would write it: the honest rival.

A thread makes one Philox4_32_10 generator and then goes through the tensor in strides of the grid, four
draws a turn in float32 and eight in bfloat16, each turn stored at once in 16 bytes. The grid is as large as
fits on the GPU at a time. CuPy compiles it, by NVRTC, with the headers of whatever cuRAND is installed.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

SEED: Final = 0
_HEADER: Final = "curand_kernel.h"
_THREADS: Final = 256  # a block
_TURN: Final = {torch.float32: 4, torch.bfloat16: 8}  # elements in 16 bytes
_SOURCE: Final = """
#include <curand_kernel.h>

__device__ __forceinline__ float4 draw(curandStatePhilox4_32_10_t* state, float shift, float scale) {
    float4 x = DRAW4(state);
    x.x = fmaf(x.x, scale, shift);
    x.y = fmaf(x.y, scale, shift);
    x.z = fmaf(x.z, scale, shift);
    x.w = fmaf(x.w, scale, shift);
    return x;
}

__device__ __forceinline__ unsigned rounded(float low, float high) {  // both to bfloat16, to even
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
}

extern "C" __global__ void fill(STORED* out, unsigned long long turns, unsigned long long seed,
                                unsigned long long offset, float shift, float scale) {
    const unsigned long long thread = blockIdx.x * (unsigned long long)blockDim.x + threadIdx.x;
    const unsigned long long stride = gridDim.x * (unsigned long long)blockDim.x;
    curandStatePhilox4_32_10_t state;
    curand_init(seed, thread, offset, &state);
    for (unsigned long long i = thread; i < turns; i += stride) {
#ifdef NARROW
        const float4 a = draw(&state, shift, scale), b = draw(&state, shift, scale);
        out[i] = make_uint4(rounded(a.x, a.y), rounded(a.z, a.w), rounded(b.x, b.y), rounded(b.z, b.w));
#else
        out[i] = draw(&state, shift, scale);
#endif
    }
}
"""


def dtypes() -> tuple[torch.dtype, ...]:
    """What it writes here: bfloat16 where the GPU rounds to it by one instruction (8.0 and above)."""
    return tuple(_TURN) if torch.cuda.get_device_capability() >= (8, 0) else (torch.float32,)


def source(draw: str, dtype: torch.dtype) -> str:
    """The kernel's text.

    Args:
        draw: cuRAND's function of four values, ``curand_uniform4`` or ``curand_normal4``.
        dtype: what is stored, float32 or bfloat16.
    """
    narrow = dtype == torch.bfloat16
    lines = [f"#define DRAW4 {draw}", f"#define STORED {'uint4' if narrow else 'float4'}"]
    return "\n".join([*lines, *["#define NARROW"] * narrow, _SOURCE])


def filler(draw: str, dtype: torch.dtype, shift: float, scale: float) -> Callable[[Tensor], Tensor]:
    """Compile it, and return what fills a tensor with ``shift`` and ``scale`` times what is drawn.

    Each call draws what follows the call before it, on CUDA's default stream, which is PyTorch's, too.

    Raises:
        RuntimeError: no header of cuRAND's is found. Of CuPy, whatever it raises where it cannot compile.
    """
    cupy: Any = importlib.import_module("cupy")
    options = ("--std=c++17", *(f"-I{folder}" for folder in includes(cupy)))
    kernel = cupy.RawKernel(source(draw, dtype), "fill", options, backend="nvrtc")
    at_once = cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(kernel.kernel.ptr, _THREADS, 0)
    most_blocks = at_once * torch.cuda.get_device_properties().multi_processor_count
    width, drawn = _TURN[dtype], 0

    def fill(tensor: Tensor) -> Tensor:
        nonlocal drawn
        turns, rest = divmod(tensor.numel(), width)
        if rest:
            raise ValueError(
                f"{tensor.numel()} elements are no multiple of the {width} that are stored at once"
            )
        blocks = min(most_blocks, -(-turns // _THREADS))
        numbers = (tensor.data_ptr(), turns, SEED, drawn)
        kernel((blocks,), (_THREADS,), (*map(np.uint64, numbers), np.float32(shift), np.float32(scale)))
        drawn += width * -(-turns // (blocks * _THREADS))  # of its own sequence, by each thread
        return tensor

    return fill


def includes(cupy: Any) -> list[Path]:
    """Where NVRTC finds cuRAND's headers, and libcu++'s, which those include: CuPy's copy or a toolkit's."""
    curand = headers(cupy.cuda.get_cuda_path())
    libraries = (Path(cupy.__file__).parent / "_core/include/cupy/_cccl/libcudacxx", curand / "cccl")
    return [curand, *(folder for folder in libraries if folder.is_dir())]


def headers(cuda: str | None) -> Path:
    """The folder that has ``curand_kernel.h``: of a wheel of NVIDIA's, or of a CUDA toolkit.

    Args:
        cuda: where CuPy has found CUDA, if it has.

    Raises:
        RuntimeError: no such folder is known.
    """
    for folder in _folders(cuda):
        if (folder / _HEADER).is_file():
            return folder
    raise RuntimeError(f"{_HEADER} is not installed: it comes with nvidia-curand, or a CUDA toolkit")


def _folders(cuda: str | None) -> Iterator[Path]:
    wheels = importlib.util.find_spec("nvidia")
    for where in (wheels and wheels.submodule_search_locations) or ():
        yield from sorted(Path(where).glob("*/include"))  # cu13 since CUDA 13, curand before
    for toolkit in (cuda, os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        if toolkit:
            yield Path(toolkit, "include")
