"""Makes Triton's interpreter compute what the hardware computes, before any test of this folder runs."""

from __future__ import annotations

from typing import Any

import numpy as np
from triton.runtime import interpreter as triton_interpreter

from tritoninit.kernels import interpreter

interpreter.make_exact()

_implicit_cvt = triton_interpreter._implicit_cvt


def implicit_cvt(argument: Any) -> Any:
    """An integer argument as the 64 bits that its type says.

    The interpreter gives an integer from 2**31 to 2**32 the type int64 but 32 unsigned bits, which a right
    shift then takes for a negative number.
    """
    converted = _implicit_cvt(argument)
    if isinstance(argument, int) and 2**31 <= argument < 2**32:
        converted.handle.data = converted.handle.data.astype(np.int64)
    return converted


triton_interpreter._implicit_cvt = implicit_cvt


def call_device_function(self: Any, *args: Any, **kwargs: Any) -> Any:
    return self.rewrite()(*args, **kwargs)


# Triton patches its language anew at every call of a device function, although the kernel's launch did so:
# half of the interpreter's time.
triton_interpreter.InterpretedFunction.__call__ = call_device_function
