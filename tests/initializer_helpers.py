"""How the tests of initializers draw, and look at bits."""

import pytest
import torch

from tritoninit import Key

KEY = Key(2024).fold_in("test_initializers")
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
Z = 5.0  # see tests/test_initializers.py

in_every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))


def drawn(initializer, shape, dtype=torch.float32, key=KEY):
    """``initializer`` on poisoned contiguous memory."""
    return initializer(torch.full(shape, torch.nan, dtype=dtype), key=key)


def bits(tensor):
    """Bit patterns, which tell -0 from 0 and NaN from NaN."""
    return tensor.contiguous().view(torch.int32 if tensor.dtype == torch.float32 else torch.int16)


def gram_error(values):
    """The largest element of Q^T Q - I, in float64, over the shorter side."""
    matrix = values.double().reshape(values.shape[0], -1)
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    return (tall.T @ tall - torch.eye(tall.shape[1])).abs().max().item()
