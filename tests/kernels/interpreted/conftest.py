"""Makes Triton's interpreter compute what the hardware computes, before any test of this folder runs."""

from __future__ import annotations

from typing import Any

from triton.runtime import interpreter as triton_interpreter

from tritoninit.kernels import interpreter

interpreter.make_exact()


def call_device_function(self: Any, *args: Any, **kwargs: Any) -> Any:
    return self.rewrite()(*args, **kwargs)


# Triton patches its language anew at every call of a device function, although the kernel's launch did so:
# half of the interpreter's time.
triton_interpreter.InterpretedFunction.__call__ = call_device_function
