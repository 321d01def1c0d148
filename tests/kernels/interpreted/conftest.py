"""Makes Triton's interpreter compute what the hardware computes, before any test of this folder runs."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter as triton_interpreter
from triton.runtime.interpreter import TensorHandle

from tritoninit.kernels import interpreter

interpreter.make_exact()

_implicit_cvt = triton_interpreter._implicit_cvt


def implicit_cvt(argument: Any) -> Any:
    """A kernel's argument as the compiled kernel gets it.

    The interpreter gives an integer from 2**31 to 2**32 the type int64 but 32 unsigned bits, which a right
    shift then takes for a negative number; and it leaves a float, whatever the parameter's annotation, to
    become a float64 tensor if it is subnormal or infinite in float32.
    """
    if isinstance(argument, float):
        return tl.tensor(TensorHandle(np.array([argument], np.float32), tl.float32), tl.float32)
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
