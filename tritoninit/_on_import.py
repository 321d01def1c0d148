"""What is taken as it is while the package is imported: others may stand in for it, or change it, later."""

from __future__ import annotations

import ctypes
import os
import threading

import torch

ENVIRONMENT_VARIABLE = "TRITONINIT_BACKEND"
BACKEND = os.environ.get(ENVIRONMENT_VARIABLE, "")

# torch.nn.init's, in whose place libraries that load weights put functions that do nothing.
NN_INIT = dict(vars(torch.nn.init))
INITIALIZERS = {
    f"torch.nn.init.{name}": NN_INIT[name]
    for name in (
        *("constant_", "dirac_", "eye_", "kaiming_normal_", "kaiming_uniform_", "normal_", "ones_"),
        *("orthogonal_", "sparse_", "trunc_normal_", "uniform_", "xavier_normal_", "xavier_uniform_"),
        "zeros_",
    )
}


class Scratch(threading.local):
    """Where a thread draws bits of the CPU's generators: to make a tensor takes longer than to draw.

    One that a mode or a transformation of torch's makes is theirs, and whoever first draws may be in one.

    Attributes:
        bits: the tensor.
        word: its memory, to read which takes a tenth of what it takes to ask the tensor.
    """

    def __init__(self) -> None:
        with torch.inference_mode(False):
            self.bits = torch.empty((), dtype=torch.int64, device="cpu")
        self.word = ctypes.c_uint64.from_address(self.bits.data_ptr())


SCRATCH = Scratch()
