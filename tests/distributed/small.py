"""A small model to train under any layout, and what one process makes of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

import tritoninit as ti

STEPS, BATCH, LENGTH, WORDS, SEED = 3, 12, 4, 11, 3
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


class _Summed(torch.autograd.Function):
    """What all ranks have is added up on the way there, or on the way back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, group: Any, on_the_way_back: bool) -> torch.Tensor:
        ctx.group, ctx.on_the_way_back = group, on_the_way_back
        return x.clone() if on_the_way_back else _sum(x, group)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        (gradient,) = gradients
        return _sum(gradient, ctx.group) if ctx.on_the_way_back else gradient, None, None


def _sum(x: torch.Tensor, group: Any) -> torch.Tensor:
    total = x.clone()
    torch.distributed.all_reduce(total, group=group)
    return total


class Experts(nn.Module):
    """A mixture in which every expert sees every token; on a mesh, each rank has some of the experts."""

    def __init__(self, count: int = 5, width: int = 8, hidden: int = 6) -> None:
        super().__init__()
        self.up = nn.Parameter(torch.empty(count, hidden, width))
        self.down = nn.Parameter(torch.empty(count, width, hidden))

    def forward(self, x: torch.Tensor, gates: torch.Tensor, mesh: DeviceMesh | None = None) -> torch.Tensor:
        up, down, group = self.up, self.down, None
        if mesh is not None:
            group = mesh.get_group()
            x, gates = (_Summed.apply(each, group, True) for each in (x, gates))
            up, down = up.to_local(), down.to_local()
            here = min(mesh.get_local_rank() * -(-self.up.shape[0] // mesh.size()), gates.shape[-1])
            gates = gates[..., here : here + up.shape[0]]
        inside = nn.functional.gelu(torch.einsum("bld,ehd->bleh", x, up))
        found = (torch.einsum("bleh,edh->bled", inside, down) * gates[..., None]).sum(-2)
        return found if mesh is None else _Summed.apply(found, group, False)


class Mixture(nn.Module):
    def __init__(self, words: int = WORDS, width: int = 8) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.router = nn.Linear(width, 5)
        self.experts = Experts()
        self.head = nn.Linear(width, words)
        self.mesh: DeviceMesh | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embedding(x)
        return self.head(x + self.experts(x, self.router(x).softmax(-1), self.mesh)).clone()


class Model(nn.Module):
    """Layers by number, of which a pipeline's stage may lack some; the head is the embedding, or its own."""

    def __init__(self, words: int = WORDS, width: int = 8, hidden: int = 12, tied: bool = True) -> None:
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
        return x if self.head is None else self.head(self.norm(x)).clone()  # FSDP warns of views


RULES = [
    ti.Rule("*.mix.weight", ti.Orthogonal()),
    ti.Rule("experts.up", ti.Experts(ti.Orthogonal())),
    ti.Rule("experts.*", ti.KaimingNormal(axes=ti.Axes((2,), (1,), (0,)))),
    ti.Rule("*.down.weight", ti.TruncatedNormal(0.0, 0.3, -0.6, 0.6)),
    *ti.TORCH_DEFAULTS,
]


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Numbers of words, and of those that come next; a padding among them."""
    tokens = torch.arange(BATCH * (LENGTH + 1)).reshape(BATCH, LENGTH + 1) ** 2 % WORDS
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()  # as a pipeline takes them


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


def one(
    kind: type[nn.Module] = Model, dtype: torch.dtype = torch.float32, **sizes: Any
) -> tuple[nn.Module, str, list[float]]:
    """The model that one process has, its fingerprint, and its losses, if it is trained."""
    model = kind(**sizes)
    report = ti.initialize_(model, RULES, seed=SEED, dtype=dtype)
    fingerprint = report.audit.fingerprint
    trained = copy.deepcopy(model)
    inputs, wanted = data()

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


def differing(model: nn.Module, whole: nn.Module, names: Mapping[str, str] | None = None) -> list[str]:
    """The names of the tensors whose gathered bits are not those of the one process.

    Args:
        names: what modules of the model are called in the whole, if not what they are here.
    """
    mine, right = gathered(model), dict(whole.named_parameters())
    assert mine
    full = {name: name for name in mine}
    for here, there in (names or {}).items():
        full |= {name: there + name.removeprefix(here) for name in mine if name.startswith(f"{here}.")}
    return [name for name, x in mine.items() if not torch.equal(x, right[full[name]].detach())]
