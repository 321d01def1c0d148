"""How functions become machine code for the CPU: inlined into kernels, and kernels when they are imported."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from numba import njit, types

from tritoninit.kernels import stream
from tritoninit.kernels.numba_cache import KernelCache

inline = njit(inline="always", error_model="numpy")

# Compiled into the kernels, and read by numba's cache neither from their file nor from their code.
_CONSTANTS = repr([item for item in vars(stream).items() if item[0].isupper()]).encode()


def kernel(*signature: Any, files: tuple[str, ...] = ()) -> Callable[[Any], Any]:
    """Compile on import, or load from the cache on disk; without one where numba can write none.

    Args:
        signature: the types of the arguments.
        files: others than the kernel's own that functions of it come from.
    """
    content = _CONSTANTS + b"".join(Path(file).read_bytes() for file in files)

    def compiled(function: Any) -> Any:
        function.__qualname__ += f"_{zlib.crc32(content):08x}"  # part of the name of the cache's file
        dispatcher = njit(nogil=True, error_model="numpy")(function)
        with suppress(RuntimeError, OSError):  # "no locator available": slower to start
            dispatcher._cache = KernelCache(function)
        dispatcher.compile(types.void(*signature))
        dispatcher.disable_compile()
        return dispatcher

    return compiled
