"""Q of many small matrices by Cholesky factorisations, twice, in float64: products, which GPUs are made for.

R is the Cholesky factor of A^T A, and Q = A R^-1; once more of that Q, whose columns are orthogonal but for
rounding (CholeskyQR2: Yamamoto, Nakatsukasa, Yanagisawa and Fukaya, ETNA 44, 2015). R's diagonal is positive.
"""

from __future__ import annotations

import torch
from torch import Tensor

_AT_A_TIME = 1 << 22  # elements: a few times 32 MiB in float64
_NEAR = 0.5  # of the first Q's Gram matrix to the identity: the second Q is then orthogonal to rounding


def orthogonal(tall: Tensor) -> Tensor:
    """The factors Q of matrices (count, rows, columns) in float32, at least as many rows as columns.

    They are as far from the exact ones as rounding a float64 number to float32 is, and about 2**-53 times
    the condition number. Those for which float64 does not suffice, if any, are factorised by Householder's
    reflectors: where a Gram matrix is not positive, or the first Q is far from orthogonal.
    """
    step = max(1, _AT_A_TIME // (tall.shape[1] * tall.shape[2]))
    return torch.cat([_orthogonal(part) for part in torch.split(tall, step)])


def _orthogonal(tall: Tensor) -> Tensor:
    q = tall.to(torch.float64)
    q, _, indefinite = _once(q)
    q, distance, again = _once(q)
    failed = (indefinite | again | ~(distance <= _NEAR)).nonzero().flatten()
    found = q.to(tall.dtype)
    for number in failed.tolist():
        found[number] = by_reflectors(tall[number])
    return found


def _once(a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Q, how far the Gram matrices of ``a`` are from the identity, and which of them have no factor."""
    gram = a.mT @ a
    factor, info = torch.linalg.cholesky_ex(gram)
    q = torch.linalg.solve_triangular(factor.mT, a, upper=True, left=False)
    gram.diagonal(dim1=-2, dim2=-1).sub_(1.0)
    return q, torch.linalg.matrix_norm(gram), info != 0


def by_reflectors(tall: Tensor) -> Tensor:
    """The same for matrices, or one, by the device's QR factorisation."""
    q, r = torch.linalg.qr(tall)
    signed: Tensor = signs(r.diagonal(dim1=-2, dim2=-1))[..., None, :] * q
    return signed


def signs(diagonal: Tensor) -> Tensor:
    """Of R's diagonal, of complex numbers their directions; that of zero is one."""
    ones = torch.ones_like(diagonal)
    if diagonal.is_complex():
        return torch.where(diagonal == 0, ones, torch.sgn(diagonal))
    return torch.where(diagonal < 0, -ones, ones)
