"""Real models, built from torch.nn alone, each with the rules of its published initialization scheme.

Parameters carry the names and shapes of the published checkpoints. Dropout has no parameters and is left out.
Rules set every parameter, so that ``Preset.build`` leaves some of them as the allocator found them.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tritoninit.fills import Normal
from tritoninit.models.rules import Rule, RuleSet
from tritoninit.schemes import gpt2, llama, resnet, vit_torchvision


@dataclass(frozen=True)
class Preset:
    """A model that can be initialised by name.

    Attributes:
        name: what the command line calls it.
        build: makes the module, on the device of the enclosing ``torch.device`` and in the default dtype.
        rules: how its parameters are set; every one matches.
    """

    name: str
    build: Callable[[], nn.Module]
    rules: RuleSet


def _tied_head(embedding: nn.Embedding) -> nn.Linear:
    """The projection back to the vocabulary, whose weight is the embedding's."""
    head = nn.Linear(embedding.embedding_dim, embedding.num_embeddings, bias=False, device="meta")
    head.weight = embedding.weight
    return head


def _unset(*shape: int) -> nn.Parameter:
    """What is still to be set: NaN, or a report would remark on what its memory held before."""
    return nn.Parameter(torch.full(shape, math.nan))


class Conv1D(nn.Module):
    """x @ weight + bias, with the weight (in, out) as OpenAI's checkpoints store it."""

    def __init__(self, size_in: int, size_out: int) -> None:
        super().__init__()
        self.nf = size_out  # as in transformers' class of the name, by which its fans are told
        self.weight = _unset(size_in, size_out)
        self.bias = _unset(size_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.T, self.bias)


class GPT2Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_attn = Conv1D(width, 3 * width)
        self.c_proj = Conv1D(width, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.c_attn(x).unflatten(-1, (3, self.heads, -1))
        q, k, v = parts.permute(2, 0, 3, 1, 4)  # each (batch, heads, length, size)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        out: Tensor = self.c_proj(mixed.transpose(1, 2).flatten(2))
        return out


class GPT2MLP(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = Conv1D(width, 4 * width)
        self.c_proj = Conv1D(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.c_proj(F.gelu(self.c_fc(x), approximate="tanh"))
        return out


class GPT2Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = GPT2Attention(width, heads)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = GPT2MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        x = x + self.mlp(self.ln_2(x))
        return x


class GPT2(nn.Module):
    """GPT-2 (Radford et al., 2019); token indices (batch, length) to logits (batch, length, vocabulary)."""

    def __init__(
        self, vocabulary: int = 50257, context: int = 1024, width: int = 768, depth: int = 12, heads: int = 12
    ) -> None:
        super().__init__()
        self.wte = nn.Embedding(vocabulary, width)
        self.wpe = nn.Embedding(context, width)
        self.h = nn.ModuleList(GPT2Block(width, heads) for _ in range(depth))
        self.ln_f = nn.LayerNorm(width)
        self.lm_head = _tied_head(self.wte)

    def forward(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.wte(tokens) + self.wpe.weight[: tokens.shape[1]]
        for block in self.h:
            x = block(x)
        logits: Tensor = self.lm_head(self.ln_f(x))
        return logits


def rotary_frequencies(
    size: int,
    base: float = 500_000.0,
    factor: float = 32.0,
    low: float = 1.0,
    high: float = 4.0,
    context: int = 8192,
) -> Tensor:
    """Radians a position of Llama 3's rotary embedding, float32 (size / 2,).

    A frequency that makes fewer than ``low`` turns over the original context is divided by ``factor``, one
    that makes more than ``high`` is kept, and those between are blended (Llama 3.1's ``rope_scaling``). A
    factor of 1 keeps all, as Llama 3 does.
    """
    frequency = base ** (-torch.arange(0, size, 2, dtype=torch.float32) / size)
    turns = context * frequency / (2 * math.pi)
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return frequency * (kept + (1 - kept) / factor)


def rotate(x: Tensor, frequencies: Tensor) -> Tensor:
    """Turn the pairs (i, i + size / 2) of x (batch, heads, length, size) by position times frequency."""
    angles = torch.outer(torch.arange(x.shape[-2], dtype=torch.float32, device=x.device), frequencies)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


class LlamaAttention(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int) -> None:
        super().__init__()
        self.head = width // heads
        self.q_proj = nn.Linear(width, heads * self.head, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * self.head, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * self.head, bias=False)
        self.o_proj = nn.Linear(heads * self.head, width, bias=False)

    def forward(self, x: Tensor, frequencies: Tensor) -> Tensor:
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (project(x).unflatten(-1, (-1, self.head)).transpose(1, 2) for project in projections)
        q, k = rotate(q, frequencies), rotate(k, frequencies)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return out


class LlamaMLP(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(width, inner, bias=False)
        self.up_proj = nn.Linear(width, inner, bias=False)
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class LlamaBlock(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int, inner: int) -> None:
        super().__init__()
        self.self_attn = LlamaAttention(width, heads, kv_heads)
        self.mlp = LlamaMLP(width, inner)
        self.input_layernorm = nn.RMSNorm(width, eps=1e-5)
        self.post_attention_layernorm = nn.RMSNorm(width, eps=1e-5)

    def forward(self, x: Tensor, frequencies: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), frequencies)
        x = x + self.mlp(self.post_attention_layernorm(x))
        return x


class LlamaModel(nn.Module):
    frequencies: Tensor

    def __init__(
        self, vocabulary: int, width: int, depth: int, heads: int, kv_heads: int, inner: int, stretch: float
    ) -> None:
        super().__init__()
        self.stretch = stretch
        self.embed_tokens = nn.Embedding(vocabulary, width)
        self.layers = nn.ModuleList(LlamaBlock(width, heads, kv_heads, inner) for _ in range(depth))
        self.norm = nn.RMSNorm(width, eps=1e-5)
        frequencies = rotary_frequencies(width // heads, factor=stretch)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def reset_buffers(self) -> None:
        """Compute the rotary table anew, once it has memory."""
        self.frequencies.copy_(rotary_frequencies(2 * self.frequencies.numel(), factor=self.stretch))

    def forward(self, tokens: Tensor) -> Tensor:
        x: Tensor = self.embed_tokens(tokens)
        for layer in self.layers:
            x = layer(x, self.frequencies)
        out: Tensor = self.norm(x)
        return out


class Llama(nn.Module):
    """Llama 3 (Meta, 2024); token indices (batch, length) to logits (batch, length, vocabulary).

    Args:
        stretch: by what the longer context of Llama 3.1 and 3.2 slows the low rotary frequencies down.
        tied: the projection back to the vocabulary is the embedding.
    """

    def __init__(
        self,
        vocabulary: int = 128256,
        width: int = 2048,
        depth: int = 16,
        heads: int = 32,
        kv_heads: int = 8,
        inner: int = 8192,
        stretch: float = 32.0,
        tied: bool = True,
    ) -> None:
        super().__init__()
        self.model = LlamaModel(vocabulary, width, depth, heads, kv_heads, inner, stretch)
        embedding = self.model.embed_tokens
        self.lm_head = _tied_head(embedding) if tied else nn.Linear(width, vocabulary, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.lm_head(self.model(tokens))
        return logits


def llama_3_8b() -> Llama:
    """Meta-Llama-3-8B."""
    return Llama(width=4096, depth=32, inner=14336, stretch=1.0, tied=False)


def llama3_405b() -> Llama:
    """Meta-Llama-3.1-405B ("The Llama 3 Herd of Models", 2024, table 3)."""
    return Llama(width=16384, depth=126, heads=128, inner=53248, stretch=8.0, tied=False)


class Experts(nn.Module):
    """Gated feed-forward layers, stacked along dimension 0; gates and factors lie in one weight."""

    def __init__(self, width: int, inner: int, experts: int) -> None:
        super().__init__()
        self.gate_up_proj = _unset(experts, 2 * inner, width)
        self.down_proj = _unset(experts, width, inner)

    def forward(self, x: Tensor, expert: int) -> Tensor:
        gate, up = F.linear(x, self.gate_up_proj[expert]).chunk(2, -1)
        return F.linear(F.silu(gate) * up, self.down_proj[expert])


class MixtureMLP(nn.Module):
    """The ``active`` experts that a router gives the largest weights, as Mixtral has it."""

    def __init__(self, width: int, inner: int, experts: int, active: int) -> None:
        super().__init__()
        self.active = active
        self.gate = nn.Linear(width, experts, bias=False)
        self.experts = Experts(width, inner, experts)

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = self.gate(x).softmax(-1).topk(self.active, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        out = torch.zeros_like(x)
        for expert in range(self.gate.out_features):
            of_it = torch.where(chosen == expert, weights, 0.0).sum(-1, keepdim=True)
            out = out + of_it * self.experts(x, expert)
        return out


def mixture() -> RuleSet:
    """Llama's rules, with experts as any other matrix."""
    rules = llama(cut=None)
    return RuleSet("mixture", rules.citation, (Rule("*.experts.*", Normal(std=0.02)), *rules))


class Mixture(Llama):
    """A Llama whose feed-forward layers are mixtures of experts; tokens to logits, likewise."""

    def __init__(
        self,
        vocabulary: int = 163840,
        width: int = 7168,
        depth: int = 61,
        heads: int = 64,
        kv_heads: int = 8,
        inner: int = 2048,
        experts: int = 384,
        active: int = 8,
    ) -> None:
        super().__init__(vocabulary, width, depth, heads, kv_heads, inner, stretch=1.0, tied=False)
        for layer in self.model.layers:
            assert isinstance(layer, LlamaBlock)
            layer.mlp = MixtureMLP(width, inner, experts, active)  # type: ignore[assignment]


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut; the 3x3 strides (ResNet "v1.5")."""

    def __init__(self, size_in: int, size: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(size_in, size, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(size)
        self.conv2 = nn.Conv2d(size, size, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(size)
        self.conv3 = nn.Conv2d(size, 4 * size, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * size)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or size_in != 4 * size:
            shortcut = nn.Conv2d(size_in, 4 * size, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(4 * size))

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + self.downsample(x))


class ResNet(nn.Module):
    """Bottleneck ResNet (He et al., CVPR 2016); images (batch, 3, height, width) to (batch, classes)."""

    def __init__(
        self, depths: tuple[int, int, int, int] = (3, 4, 6, 3), size: int = 64, classes: int = 1000
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, size, 7, 2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(size)
        sizes = [size, 4 * size, 8 * size, 16 * size, 32 * size]
        self.layer1 = self._stage(sizes[0], size, depths[0], 1)
        self.layer2 = self._stage(sizes[1], 2 * size, depths[1], 2)
        self.layer3 = self._stage(sizes[2], 4 * size, depths[2], 2)
        self.layer4 = self._stage(sizes[3], 8 * size, depths[3], 2)
        self.fc = nn.Linear(sizes[4], classes)

    @staticmethod
    def _stage(size_in: int, size: int, depth: int, stride: int) -> nn.Sequential:
        rest = (Bottleneck(4 * size, size, 1) for _ in range(depth - 1))
        return nn.Sequential(Bottleneck(size_in, size, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, padding=1)
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


class ViTBlock(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width, eps=1e-6)
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln_2 = nn.LayerNorm(width, eps=1e-6)
        # The two layers are 0 and 3 in the published checkpoint, which counts a dropout.
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Identity(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.self_attention(y, y, y, need_weights=False)[0]
        x = x + self.mlp(self.ln_2(x))
        return x


class ViTEncoder(nn.Module):
    def __init__(self, length: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.pos_embedding = _unset(1, length, width)
        self.layers = nn.Sequential(
            OrderedDict((f"encoder_layer_{k}", ViTBlock(width, heads)) for k in range(depth))
        )
        self.ln = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.ln(self.layers(x + self.pos_embedding))
        return out


class ViT(nn.Module):
    """Vision Transformer (Dosovitskiy et al., 2021); images (batch, 3, image, image) to (batch, classes)."""

    def __init__(
        self,
        image: int = 224,
        patch: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        classes: int = 1000,
    ) -> None:
        super().__init__()
        self.conv_proj = nn.Conv2d(3, width, patch, patch)
        self.class_token = _unset(1, 1, width)
        self.encoder = ViTEncoder((image // patch) ** 2 + 1, width, depth, heads)
        self.heads = nn.Sequential(OrderedDict(head=nn.Linear(width, classes)))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.conv_proj(x).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.class_token.expand(len(x), -1, -1), patches), 1)
        logits: Tensor = self.heads(self.encoder(tokens)[:, 0])
        return logits


PRESETS: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("gpt2", GPT2, gpt2(depth=12)),
        Preset("llama-3.2-1b", Llama, llama(cut=None)),
        Preset("llama-3-8b", llama_3_8b, llama(cut=None)),
        Preset("resnet-50", ResNet, resnet(zero_residual=False)),
        Preset("vit-b-16", ViT, vit_torchvision()),
    )
}
# Those that no machine holds: to be planned, not built.
LARGE: Mapping[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset("llama3-405b", llama3_405b, llama(cut=None)),
        # The sizes of Kimi K2 (Moonshot AI, 2025), with plain attention, and experts in every layer.
        Preset("moe-1t", Mixture, mixture()),
    )
}
