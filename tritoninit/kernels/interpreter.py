"""Triton's interpreter, made to compute what the hardware computes.

Three things are not the hardware's. It evaluates ``tl.fma(x, y, z)`` as ``x * y + z``, rounded twice; it
truncates float32 to bfloat16, where the hardware rounds to nearest even; and it guesses the types of scalars
from their values: a float that is subnormal or infinite in float32 becomes a float64, and an integer
from 2**31 to 2**32 an int64 of 32 unsigned bits, which a right shift takes for a negative number. Exact ones
are put in their place; the fma works with error-free transformations, hence for every input and independently
of the reference's shortcut.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def correctly_rounded_fma(a: Any, b: Any, c: Any) -> npt.NDArray[np.float32]:
    """float32 ``a * b + c`` of float32 arrays, rounded once, for all finite inputs without float64 underflow.

    The product is exact in float64. TwoSum (Knuth, TAOCP 2, 4.2.2) gives the sum as s + e exactly; s is then
    rounded to odd (Boldo and Melquiond, 2008: "Emulation of FMA and correctly rounded sums"), after which
    rounding to float32 rounds the exact sum.
    """
    product = np.multiply(a, b, dtype=np.float64)
    addend = np.broadcast_to(np.asarray(c, np.float64), product.shape)
    total = product + addend
    back = total - product
    error = (product - (total - back)) + (addend - back)
    bits = total.view(np.int64)
    away = (error > 0) == (total > 0)  # the exact sum lies further from zero than its rounded value
    odd = bits | 1
    toward = np.where((bits & 1) == 0, np.where(away, odd, bits - 1), bits)
    rounded = np.where(error == 0, bits, toward).view(np.float64)
    return np.asarray(np.where(total == 0, total, rounded).astype(np.float32))


def make_exact() -> None:
    """Give Triton's interpreter a true ``tl.fma``, a rounded bfloat16 and arguments as a compiled kernel gets
    them, for the rest of this process.
    """
    import triton.language as tl
    from triton.runtime import interpreter
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    def create_fma(_: Any, x: Any, y: Any, z: Any) -> Any:
        if x.data.dtype != np.float32:
            raise NotImplementedError(f"fma of {x.data.dtype}")
        return TensorHandle(correctly_rounded_fma(x.data, y.data, z.data), x.dtype)

    def cast_impl(self: Any, source: Any, target: Any) -> Any:
        if source.dtype.scalar == tl.float32 and target.scalar == tl.bfloat16:
            # bfloat16 lives in uint16 there: 0x7FFF and the kept part's last bit round to nearest even.
            bits = source.data.view(np.uint32).astype(np.uint64)
            patterns = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
            return TensorHandle(patterns.astype(np.uint16), target.scalar)
        return truncating_cast(self, source, target)

    def implicit_cvt(argument: Any) -> Any:
        if isinstance(argument, float):
            return tl.tensor(TensorHandle(np.array([argument], np.float32), tl.float32), tl.float32)
        converted = guessing_cvt(argument)
        if isinstance(argument, int) and 2**31 <= argument < 2**32:
            converted.handle.data = converted.handle.data.astype(np.int64)
        return converted

    def patch_lang_tensor(tensor: Any, *scope: Any) -> None:
        patch(tensor, *scope)
        tensor.__index__ = lambda self: int(self.handle.data.item())

    truncating_cast = InterpreterBuilder.cast_impl
    guessing_cvt = interpreter._implicit_cvt
    interpreter._implicit_cvt = implicit_cvt
    # Before 3.7 a loop's bound is int() of an array of one element, which NumPy 2.4 refuses.
    patch = interpreter._patch_lang_tensor
    interpreter._patch_lang_tensor = patch_lang_tensor
    InterpreterBuilder.create_fma = create_fma
    InterpreterBuilder.cast_impl = cast_impl
