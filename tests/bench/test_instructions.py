"""What single instructions do; the kinds of those of compiled kernels are in ``test_static.py``."""

from __future__ import annotations

import pytest

from tritoninit.bench.instructions import Gcn, Sass, Uncountable


@pytest.mark.parametrize("instruction", [Sass("", "TENSOR.OP", "R1"), Gcn("", "v_mfma_f32_32x32x1f32", "v0")])
def test_an_unknown_opcode_is_named(instruction):
    with pytest.raises(Uncountable, match=instruction.opcode):
        _ = instruction.kind
