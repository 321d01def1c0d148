"""spectral_norm's vectors: drawn by a key where the weight is, as the module draws them when it is made."""

from __future__ import annotations

from collections.abc import Container

import torch
from torch import nn
from torch.nn import functional as F

from tritoninit.fills import Normal
from tritoninit.keys import Key
from tritoninit.models.slots import at_rest

_STEPS = 15  # of the power iteration: torch's own number for new vectors


def renew_vectors(parametrizations: nn.ModuleList, key: Key, besides: Container[int] = ()) -> None:
    """Draw the vectors of a weight's spectral norms anew, and bring them near its singular vectors.

    They are the start of the power iteration that estimates the norm, and so decide what the weight is.

    Args:
        parametrizations: of the weight, whose originals are set.
        key: the weight's; ``"0._u"`` and ``"0._v"`` are folded into it for the first parametrisation's.
        besides: ids of buffers that are set otherwise.
    """
    values = [
        p for name, p in parametrizations.named_parameters(recurse=False) if name.startswith("original")
    ]
    with torch.no_grad(), at_rest(parametrizations):
        for number, each in enumerate(parametrizations):
            vectors = {name: each._buffers.get(name) for name in ("_u", "_v")}
            if _is_spectral_norm(each) and not any(id(vector) in besides for vector in vectors.values()):
                for name, vector in vectors.items():
                    if vector is not None:
                        drawn = torch.empty(vector.shape, device=vector.device)
                        vector.copy_(Normal()(drawn, key=key.fold_in(f"{number}.{name}")))
                _iterate(each, *values)
            values = [each(*values)]


def _is_spectral_norm(module: nn.Module) -> bool:
    """Whether it is torch's, of a weight with more than one dimension: the class has no public name."""
    kind = type(module)
    own = (kind.__module__, kind.__name__) == ("torch.nn.utils.parametrizations", "_SpectralNorm")
    return own and {"_u", "_v"} <= module._buffers.keys()


def _iterate(module: nn.Module, weight: torch.Tensor) -> None:
    u, v, dim, eps = (getattr(module, name) for name in ("_u", "_v", "dim", "eps"))
    matrix = weight.movedim(dim, 0).flatten(1)
    v.copy_(F.normalize(v, dim=0, eps=eps))
    for _ in range(_STEPS):
        u.copy_(F.normalize(matrix @ v, dim=0, eps=eps))
        v.copy_(F.normalize(matrix.mH @ u, dim=0, eps=eps))
