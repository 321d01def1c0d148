"""orthogonal_, sparse_ and the distributions that are functions of fills, against torch's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import tritoninit
from tritoninit.bench.contenders import KEY, Trial, WrongValues, check_distribution, default
from tritoninit.bench.device import ALL_THREADS, DEVICE, Memory
from tritoninit.fills import Normal

SIZES = (512, 2048, 8192)
GPU_ONLY = {("orthogonal", 8192)}  # minutes on the CPU
SPARSITY, STD = 0.9, 0.01
# What of torch.Tensor's methods draws by a function of fills, and with what.
DRAWS = {
    "exponential": (),
    "log_normal": (0.0, 0.5),
    "cauchy": (),
    "geometric": (0.3,),
    "bernoulli": (0.3,),
    "random": (0, 1000),
}
DRAWN_SIZES = (512, 2048)
_REFERENCE_SIZE = 2048  # the largest of which the reference sorts every column in a second


def trials(quick: bool) -> list[Trial]:
    if quick:
        return []
    subjects = {**dict.fromkeys(("orthogonal", "sparse"), SIZES), **dict.fromkeys(DRAWS, DRAWN_SIZES)}
    return [
        Trial("structured", subject, "float32", size**2, ALL_THREADS, name)
        for subject, sizes in subjects.items()
        for size in sizes
        if DEVICE == "cuda" or (subject, size) not in GPU_ONLY
        for name in (default(), "torch")
    ]


def bench_structured(trial: Trial, affordable: None, timed: Callable[..., None], memory: Memory) -> None:
    size = math.isqrt(trial.elements)
    (matrix, *_) = (each.view(size, size) for each in memory.ring(trial.elements, torch.float32))
    matrix.fill_(math.nan)

    def by_us() -> Tensor:
        if trial.subject in DRAWS:
            draw: Callable[..., Tensor] = getattr(tritoninit, f"{trial.subject}_")
            return draw(matrix, *DRAWS[trial.subject], key=KEY)
        if trial.subject == "orthogonal":
            return tritoninit.orthogonal_(matrix, key=KEY)
        return tritoninit.sparse_(matrix, SPARSITY, STD, key=KEY)

    def by_torch() -> Tensor:
        if trial.subject in DRAWS:
            draw: Callable[..., Tensor] = getattr(matrix, f"{trial.subject}_")
            return draw(*DRAWS[trial.subject])
        if trial.subject == "orthogonal":
            return torch.nn.init.orthogonal_(matrix)
        return torch.nn.init.sparse_(matrix, SPARSITY, STD)

    call = by_us if trial.ours else by_torch
    with trial.serving():
        call()
        _CHECKS.get(trial.subject, partial(check_draws, trial.subject))(matrix)
        if trial.ours and trial.subject == "sparse" and size <= _REFERENCE_SIZE:
            check_sparse_bits(matrix)
        timed(call)


def check_orthogonal(matrix: Tensor) -> None:
    """Raise WrongValues unless the product with its transpose is the identity.

    Householder's QR leaves it within n eps or so in norm (Higham, Accuracy and Stability of Numerical
    Algorithms, theorem 19.4, whose constant is small in practice): 1e-3 at the largest size.
    """
    product = matrix.double().T @ matrix.double()
    product.diagonal().sub_(1.0)
    worst = float(product.abs().max())
    if not worst <= len(matrix) * torch.finfo(matrix.dtype).eps:
        raise WrongValues(f"not orthogonal: an element of Q^T Q - I is {worst:.2g}")


def check_sparse(matrix: Tensor) -> None:
    """Raise WrongValues unless every column has its zeros, and the rest could be normal."""
    zeros = (matrix == 0).sum(dim=0)
    wanted = math.ceil(SPARSITY * len(matrix))
    # PyTorch draws the radius of a pair of normals from 24 bits: it is 0 once in 2**24.
    if int(zeros.min()) < wanted or int(zeros.max()) > wanted + 2:
        raise WrongValues(f"columns of {int(zeros.min())} to {int(zeros.max())} zeros, not {wanted}")
    check_distribution(matrix[matrix != 0], Normal(0.0, STD))


def check_draws(subject: str, matrix: Tensor) -> None:
    """Raise WrongValues unless the median, and the share above it, could be the distribution's."""
    middle, above = _MEDIANS[subject]
    share = float((matrix > middle).double().mean())
    if not abs(share - above) < 5 * math.sqrt(above * (1 - above) / matrix.numel()):
        raise WrongValues(f"{share:.4f} of the numbers are above {middle}, not {above:.4f}")


# By distribution, a number about the middle, and how likely larger ones are.
_MEDIANS = {
    "exponential": (math.log(2), 0.5),
    "log_normal": (1.0, 0.5),
    "cauchy": (0.0, 0.5),
    "geometric": (2.0, 0.7**2),
    "bernoulli": (0.5, 0.3),
    "random": (499.5, 0.5),
}
_CHECKS: dict[str, Callable[[Tensor], None]] = {"orthogonal": check_orthogonal, "sparse": check_sparse}


def check_sparse_bits(matrix: Tensor) -> None:
    """Raise WrongValues unless the reference writes the same matrix."""
    with tritoninit.use_backend("numpy"):
        reference = tritoninit.sparse_(torch.empty(matrix.shape), SPARSITY, STD, key=KEY)
    if not torch.equal(matrix.cpu(), reference):
        raise WrongValues("the reference has another sparse matrix")
