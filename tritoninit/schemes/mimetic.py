"""Mimetic initialization: attention that starts like attention which was trained."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from tritoninit.fans import Axes
from tritoninit.fills import Initializer, Normal
from tritoninit.kernels.lowering import integer, make_plain
from tritoninit.keys import Key
from tritoninit.models.rules import RuleSet, SlotRule
from tritoninit.models.slots import Slot
from tritoninit.structured import Structured, check_real, wide
from tritoninit.targets import Target, device_of
from tritoninit.window import Window

# The projections of an attention layer, by the names of timm, torch.nn, Llama and BERT, and what holds them.
_PROJECTIONS = {
    "qkv": re.compile(r"^(?P<layer>.*?)\.?(qkv\.weight|in_proj_weight|Wqkv\.weight)$"),
    "q": re.compile(r"^(?P<layer>.*?)\.?(self\.)?(q_proj|query)\.weight$"),
    "k": re.compile(r"^(?P<layer>.*?)\.?(self\.)?(k_proj|key)\.weight$"),
    "v": re.compile(r"^(?P<layer>.*?)\.?(self\.)?(v_proj|value)\.weight$"),
    "out": re.compile(r"^(?P<layer>.*?)\.?(out_proj|o_proj|proj|output\.dense)\.weight$"),
}
_ATTENTION = re.compile(r"att[^.]*$", re.IGNORECASE)


def mimetic(
    heads: int, *, alpha_qk: float = 0.7, beta_qk: float = 0.7, alpha_vo: float = 0.4, beta_vo: float = 0.4
) -> RuleSet:
    """Queries times keys about the identity, values times outputs about minus the identity: put it first.

    Of width d, each head's W_Q W_K^T is the best approximation of its rank of alpha_qk Z / sqrt(d) + beta_qk
    I, and W_V W_O is alpha_vo Z / sqrt(d) - beta_vo I, with standard normal matrices Z, by singular values.
    Trockman and Kolter, ICML 2023, section 4. It is made for fixed sinusoids as positions
    (:class:`~tritoninit.Sinusoids`).

    The factors of one layer draw the same matrices, by the layer's name. They take a decomposition a head,
    and are equal to rounding wherever they are computed, as :class:`~tritoninit.Orthogonal` is.

    Args:
        heads: of each attention layer, whose weights are square; packed (q, k, v), too.
        alpha_qk: how random queries and keys are.
        beta_qk: how much of the identity is in their product.
        alpha_vo: how random values and outputs are.
        beta_vo: how much of the identity is taken from their product.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.
    """

    def choose(slot: Slot) -> Initializer | None:
        if slot.is_buffer or len(slot.shape) != 2:
            return None
        for part, pattern in _PROJECTIONS.items():
            found = pattern.match(slot.name)
            if found is not None and (part != "out" or _ATTENTION.search(found["layer"])):
                return _Mimetic(part, found["layer"], heads, alpha_qk, beta_qk, alpha_vo, beta_vo)
        return None

    return RuleSet("mimetic", "Trockman and Kolter, ICML 2023", (SlotRule(choose=choose),))


@dataclass(frozen=True)
class _Mimetic(Structured):
    """One of an attention layer's projections, (out, in) as torch.nn.Linear has it, or three stacked."""

    part: str
    layer: str
    heads: int
    alpha_qk: float
    beta_qk: float
    alpha_vo: float
    beta_vo: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "heads", integer("heads", self.heads))
        make_plain(self, "alpha_qk", "beta_qk", "alpha_vo", "beta_vo")

    def of_weight(self, axes: Axes | None, shape: Sequence[int]) -> Initializer:
        return self

    def check(self, target: Target, window: Window) -> None:
        rows, columns = window.global_shape if len(window.global_shape) == 2 else (0, 1)
        if rows != columns * len(self.part if self.part != "out" else "o"):
            raise ValueError(f"mimetic attention has square weights, unlike {window.global_shape}")
        if self.heads < 1 or columns % self.heads:
            raise ValueError(f"a width of {columns} has no {self.heads} heads")
        check_real("mimetic attention", target)

    def build(self, target: Target, key: Key, window: Window) -> torch.Tensor:
        shared, width = Key(key.seed).fold_in(self.layer), window.global_shape[1]
        parts = ["out"] if self.part == "out" else list(self.part)
        dtype = wide(target)
        values = torch.cat([self._projection(each, shared, width, dtype) for each in parts]).to(dtype)
        return window.cut(values, target.shape).to(device_of(target))

    def _projection(self, part: str, key: Key, width: int, dtype: torch.dtype) -> torch.Tensor:
        if part in "qk":
            size = width // self.heads
            keys = [key.fold_in("qk").fold_in(head) for head in range(self.heads)]
            pairs = (_factors(self.alpha_qk, self.beta_qk, each, width, dtype) for each in keys)
            return torch.cat([(left.T if part == "q" else right)[:size] for left, right in pairs])
        left, right = _factors(self.alpha_vo, -self.beta_vo, key.fold_in("vo"), width, dtype)
        return (left if part == "v" else right).T


def _factors(
    alpha: float, beta: float, key: Key, width: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two matrices whose product is alpha Z / sqrt(width) + beta I, by singular values, in float64.

    Z is drawn in ``dtype``.
    """
    z = Normal()(torch.empty(width, width, dtype=dtype, device="cpu"), key=key).double()
    z *= alpha / math.sqrt(width)
    z.diagonal().add_(beta)
    u, s, vh = torch.linalg.svd(z)
    largest = u.gather(0, u.abs().argmax(0, keepdim=True)).squeeze(0)
    signs = torch.where(largest < 0, -1.0, 1.0).double()  # a decomposition may choose them
    root = s.sqrt() * signs
    return u * root, root[:, None] * vh
