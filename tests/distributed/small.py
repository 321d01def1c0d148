"""A small model to train under any layout, and what one process makes of it."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

import tritoninit as ti

STEPS, BATCH, LENGTH, SEED = 3, 12, 4, 3
PADDING = 1


class Layer(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.mix(x.cumsum(1)) / LENGTH
        return x + self.down(nn.functional.gelu(self.up(self.norm(x))))


class Model(nn.Module):
    """Layers by number, of which a pipeline's stage may lack some; the head is the embedding, or its own."""

    def __init__(self, words: int = 11, width: int = 8, hidden: int = 12, tied: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width, padding_idx=PADDING)
        self.layers = nn.ModuleDict({str(number): Layer(width, hidden) for number in range(2)})
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, words, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.embedding is not None:
            x = self.embedding(x)
        for layer in self.layers.values():
            x = layer(x)
        return x if self.head is None else self.head(self.norm(x))


RULES = [
    ti.Rule("*.mix.weight", ti.Orthogonal()),
    ti.Rule("*.down.weight", ti.TruncatedNormal(0.0, 0.3, -0.6, 0.6)),
    *ti.TORCH_DEFAULTS,
]


def data(words: int = 11) -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of words, and of those that come next; a padding among them."""
    tokens = torch.arange(BATCH * (LENGTH + 1)).reshape(BATCH, LENGTH + 1) ** 2 % words
    return tokens[:, :-1], tokens[:, 1:]


def loss_of(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits.flatten(0, -2).float(), wanted.flatten())


def train(
    model: nn.Module, step: Callable[[], torch.Tensor], after: Callable[[], None] = lambda: None
) -> list[float]:
    """The losses of three steps, of which each is what ``step`` returns, the gradients being there then."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=False)
    losses = []
    for _ in range(STEPS):
        losses.append(step().item())
        after()
        optimizer.step()
        optimizer.zero_grad()
    return losses


def one(dtype: torch.dtype = torch.float32, **sizes: int | bool) -> tuple[nn.Module, str, list[float]]:
    """The model that one process has, its fingerprint, and its losses, if it is trained."""
    model = Model(**sizes)
    report = ti.initialize_(model, RULES, seed=SEED, dtype=dtype)
    fingerprint = report.audit.fingerprint
    trained = copy.deepcopy(model)
    inputs, wanted = data(model.head.weight.shape[0])

    def step() -> torch.Tensor:
        loss = loss_of(trained(inputs), wanted)
        loss.backward()
        return loss.detach()

    return model, fingerprint, train(trained, step)


def gathered(model: nn.Module) -> dict[str, torch.Tensor]:
    """The global tensors, by torch's own engine.

    FSDP gathers by the memory that it has, which DTensor's ``full_tensor`` does not know of uneven shards.
    """
    modules = [each for each in model.modules() if isinstance(each, FSDPModule)]
    for each in modules:
        each.unshard()
    found = {
        name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().clone()
        for name, p in model.named_parameters()
    }
    for each in modules:
        each.reshard()
    return found


def differing(model: nn.Module, whole: nn.Module) -> list[str]:
    """The names of the tensors whose gathered bits are not those of the one process, or that are missing."""
    mine, right = gathered(model), dict(whole.named_parameters())
    assert mine
    return [name for name, x in mine.items() if not torch.equal(x, right[name].detach())]
