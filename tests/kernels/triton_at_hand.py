"""The Triton that is here, which need not be the one that the project pins.

What kernels have to do is asserted of whatever compiles them: the bits, nothing flushed to zero that is none,
nothing rounded as one that is written as two, every element stored. What their code costs belongs to one
compiler, and where its instructions stand: that is asserted, to the last one, of the pinned Triton's, and of
another's as a bound, if at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import triton

_CONSTRAINTS = (Path(__file__).parents[2] / "constraints.txt").read_text(encoding="utf-8")
(PINNED_VERSION,) = re.findall(r"^triton==(\S+)$", _CONSTRAINTS, re.MULTILINE)
PINNED = triton.__version__ == PINNED_VERSION


@contextmanager
def skipping(error: type[Exception]) -> Iterator[None]:
    """What stops here at another Triton's code, since nobody has taught it that, is a skip that names it."""
    try:
        yield
    except error as found:
        if PINNED:
            raise
        pytest.skip(f"Triton {triton.__version__} compiles to what is not known here: {found}")


def joins_products_and_sums(arch: str) -> bool:
    """Whether ptxas rounds a packed product and a sum as one for ``arch``, though PTX says as two.

    ptxas 12.9 does for GPUs of compute capability 10.0 and more, where the registry refuses it.
    """
    if arch not in ("sm_100", "sm_120"):
        return False
    nvidia = triton.knobs.nvidia
    ptxas = getattr(nvidia, "ptxas_blackwell", nvidia.ptxas).version
    return tuple(int(part) for part in ptxas.split(".")[:2]) < (13, 1)
