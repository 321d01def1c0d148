"""spectral_norm's vectors: drawn by a key where the weight is, as the module draws them when it is made."""

from __future__ import annotations

from collections.abc import Container, Sequence

import torch
from torch import nn
from torch.nn import functional as F

from tritoninit.fills import Normal
from tritoninit.keys import Key
from tritoninit.models.slots import Place, at_rest, originals_of

_STEPS = 15  # of the power iteration: torch's own number for new vectors


def renew_vectors(parametrizations: nn.ModuleList, key: Key, besides: Container[Place] = ()) -> None:
    """Draw the vectors of a weight's spectral norms anew, and bring them near its singular vectors.

    They are the start of the power iteration that estimates the norm, and so decide what the weight is.

    Args:
        parametrizations: of the weight, whose originals are set.
        key: the weight's; ``"0._u"`` and ``"0._v"`` are folded into it for the first parametrisation's.
        besides: where buffers are that are set otherwise.
    """
    if not any(map(_is_spectral_norm, parametrizations)):
        return
    values: Sequence[torch.Tensor] = originals_of(parametrizations)
    with torch.no_grad(), at_rest(parametrizations):
        for number, each in enumerate(parametrizations):
            vectors = {name: each._buffers.get(name) for name in ("_u", "_v")}
            if _is_spectral_norm(each) and not any((id(each), name) in besides for name in vectors):
                for name, vector in vectors.items():
                    if vector is not None:
                        drawn = torch.empty(vector.shape, dtype=torch.float32, device=vector.device)
                        vector.copy_(Normal()(drawn, key=key.fold_in(f"{number}.{name}")))
                _iterate(each, *values)
            values = [each(*values)]


def _is_spectral_norm(module: nn.Module) -> bool:
    """Whether it is torch's, of a weight with more than one dimension."""
    return torchs(module) == "_SpectralNorm" and {"_u", "_v"} <= module._buffers.keys()


def torchs(parametrization: nn.Module) -> str:
    """The name of the class, if it is of torch's own: they are not public."""
    kind = type(parametrization)
    return kind.__name__ if kind.__module__ == "torch.nn.utils.parametrizations" else ""


def _iterate(module: nn.Module, weight: torch.Tensor) -> None:
    u, v, dim, eps = (getattr(module, name) for name in ("_u", "_v", "dim", "eps"))
    matrix = weight.movedim(dim, 0).flatten(1)
    v.copy_(F.normalize(v, dim=0, eps=eps))
    for _ in range(_STEPS):
        u.copy_(F.normalize(matrix @ v, dim=0, eps=eps))
        v.copy_(F.normalize(matrix.mH @ u, dim=0, eps=eps))
