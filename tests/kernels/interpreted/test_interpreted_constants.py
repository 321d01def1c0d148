"""Which tensors are one number throughout, by the kernel in Triton's interpreter: as torch compares them."""

import pytest
import torch

from tritoninit.kernels import triton_constants

NAN = float("nan")


def tensors(dtype):
    """(tensor, the number that it is throughout or None)."""
    size = 3 * triton_constants.BLOCK + 7
    same, last, inner = (torch.full((size,), 0.75, dtype=dtype) for _ in range(3))
    last[-1] = inner[2 * triton_constants.BLOCK + 1] = 0.5
    zeros = torch.zeros(5, dtype=dtype)
    zeros[2] = -0.0
    return [
        (same, 0.75),
        (last, None),
        (inner, None),
        (zeros, 0.0),
        (torch.full((4,), NAN, dtype=dtype), None),
        (torch.tensor([1.0, NAN, 1.0], dtype=dtype), None),
        (torch.full((3, 3), float("-inf"), dtype=dtype), float("-inf")),
        (torch.tensor([2.0, 2.0], dtype=dtype)[1:], 2.0),
        (torch.nn.Parameter(torch.full((2, 2), 1e-3, dtype=dtype)), float(torch.tensor(1e-3, dtype=dtype))),
    ]


@pytest.mark.parametrize("dtype", triton_constants.DTYPES, ids=str)
def test_as_torch_compares(dtype, monkeypatch):
    monkeypatch.setattr(triton_constants, "PROGRAMS", 2)  # of which the interpreter runs one after the other
    given = tensors(dtype)
    assert triton_constants.look([x for x, _ in given]).numbers() == [number for _, number in given]


def test_what_is_there_now():
    """What is written afterwards is not seen."""
    x = torch.ones(10)
    found = triton_constants.look([x])
    x[3] = 2
    assert found.numbers() == [1.0]
