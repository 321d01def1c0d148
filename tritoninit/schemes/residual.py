"""Schemes that tame deep residual networks: zero branches, small branches, branches by depth."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from torch import nn

from tritoninit.combinators import Scaled, Stacked
from tritoninit.fans import TORCH_AXES, module_axes
from tritoninit.fills import Constant, Initializer, Normal
from tritoninit.initializers import KaimingNormal, XavierNormal, XavierUniform, Zeros
from tritoninit.kernels.lowering import integer, plain
from tritoninit.models.rules import Rule, RuleSet, SlotRule
from tritoninit.models.slots import Slot
from tritoninit.schemes.published import (
    BRANCH_END,
    CONVOLUTIONS,
    TORCH_DEFAULTS,
    UNIT_NORM,
    checked_size,
    class_named,
    each,
    embeddings,
)


def rezero(names: Iterable[str] = ("*resweight", "*rezero_weight")) -> RuleSet:
    """Zero for the scalars that branches are multiplied by: put it before other rules.

    Bachlechner et al., UAI 2021; majumderb/rezero.

    Args:
        names: globs of the scalars.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.
    """
    return RuleSet("rezero", "Bachlechner et al., UAI 2021; majumderb/rezero", each(names, Zeros()))


def skip_init(names: Iterable[str] = ("*skipinit_gain",)) -> RuleSet:
    """Zero for the scalars that branches are multiplied by: put it before other rules.

    De and Smith, NeurIPS 2020; the names are those of timm's normalizer-free networks.

    Args:
        names: globs of the scalars.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.
    """
    return RuleSet("skip_init", "De and Smith, NeurIPS 2020; timm.models.nfnet", each(names, Zeros()))


def layer_scale(value: float = 1e-5) -> RuleSet:
    """``value`` for the diagonals that branches are multiplied by: put it before other rules.

    Touvron et al., ICCV 2021 (CaiT), section 2: 0.1 up to a depth of 18, 1e-5 up to 24, 1e-6 beyond; ConvNeXt
    has 1e-6. The names are those of timm, torchvision and transformers.

    Args:
        value: any number.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.

    Raises:
        TypeError: what is given is no number.
    """
    names = ("*layer_scale*", "*.gamma_[0-9]", "*.ls[0-9].gamma", "*.lambda1", "*.lambda_[0-9]")
    fill = Constant(plain("value", value))
    rules = (*each(names, fill), Rule(class_named("LayerScale", "Block"), {"gamma": fill, "lambda1": fill}))
    return RuleSet("layer_scale", "Touvron et al., ICCV 2021 (CaiT)", rules)


_SHORTCUTS = {"downsample", "shortcut", "skip"}
_LAYERS = (nn.Linear, *CONVOLUTIONS)


def fixup(blocks: int | None = None) -> RuleSet:
    """Residual networks without normalisation: branches shrink with their number, and end in zeros.

    Of a branch of m layers the last is zero and the others are Kaiming's normal by fan_out, times
    L**(-1 / (2 m - 2)) with L blocks. The classifier, scalar biases ("bias1a") are zero, scalar "scale" one.
    Zhang, Dauphin and Ma, ICLR 2019, section 3; hongyi-zhang/Fixup. A block lies in an nn.Sequential or
    nn.ModuleList and has two convolutions or more beside its shortcut.

    Args:
        blocks: L; None counts them in the model.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.

    Raises:
        ParameterError: by the rules, where there is no block, or a negative number of them.
    """
    kaiming = KaimingNormal(mode="fan_out", nonlinearity="relu", axes=TORCH_AXES)

    def choose(slot: Slot) -> Initializer | None:
        if slot.is_buffer:
            return None
        root = slot.ancestors[0]
        if slot.local == "weight" and isinstance(slot.owner, _LAYERS):
            branch = _branch(slot.ancestors)
            if len(branch) > 1 and any(layer is slot.owner for layer in branch):
                if slot.owner is branch[-1]:
                    return Zeros()
                count = checked_size("blocks", _count_blocks(root) if blocks is None else blocks)
                return Scaled(kaiming, count ** (-1 / (2 * len(branch) - 2)))
        linears = [module for module in root.modules() if isinstance(module, nn.Linear)]
        if linears and slot.owner is linears[-1]:
            return Zeros()
        if slot.local == "weight" and isinstance(slot.owner, CONVOLUTIONS):
            return kaiming if _SHORTCUTS.intersection(slot.name.split(".")) else None
        if math.prod(slot.shape) == 1 and not isinstance(slot.owner, _LAYERS):
            return Constant(1.0) if slot.local == "scale" else Zeros() if "bias" in slot.local else None
        return None

    source = "Zhang, Dauphin and Ma, ICLR 2019; hongyi-zhang/Fixup"
    return RuleSet("fixup", source, (SlotRule(choose=choose), *TORCH_DEFAULTS))


def _branch(ancestors: Sequence[nn.Module]) -> list[nn.Module]:
    """The layers of the main path of the block that a module lies in; none if it lies in none."""
    for outer, block in reversed(list(pairwise(ancestors))):
        if isinstance(outer, (nn.Sequential, nn.ModuleList)):
            layers = _layers(block)
            if len(layers) > 1 and not isinstance(block, (nn.Sequential, nn.ModuleList)):
                return layers
    return []


def _layers(block: nn.Module) -> list[nn.Module]:
    return [
        module
        for name, module in block.named_modules()
        if isinstance(module, CONVOLUTIONS) and _SHORTCUTS.isdisjoint(name.split("."))
    ]


def _count_blocks(root: nn.Module) -> int:
    lists = [module for module in root.modules() if isinstance(module, (nn.Sequential, nn.ModuleList))]
    found = (block for each in lists for block in each.children())
    return len({id(block) for block in found if len(_branch((nn.Sequential(), block))) > 1})


# What carries values through an attention layer, and what opens a feed-forward layer, by the names of
# fairseq, torch.nn, Llama, GPT-2 and BERT.
_VALUE = re.compile(r"(^|\.)(v_proj|value|v_lin|wv|v)(_weight|\.weight)$")
_OPENING = re.compile(
    r"(^|\.)(fc1|linear1|c_fc|w1|w3|up_proj|gate_proj|gate_up_proj|wi|wi_[01]|lin1|intermediate\.dense"
    r"|dense_h_to_4h)\.weight$"
)
_ENCODER = re.compile(r"(^|\.)encoder(\.|$)")
_DECODER = re.compile(r"(^|\.)decoder(\.|$)")


def _by_branch(slot: Slot, plain_one: Initializer, branch: Initializer) -> Initializer | None:
    """``branch`` for values, outputs and feed-forward layers, ``plain_one`` for the other matrices."""
    if slot.is_buffer or len(slot.shape) != 2 or isinstance(slot.owner, (nn.Embedding, nn.EmbeddingBag)):
        return None
    if any(pattern.search(slot.name) for pattern in (_VALUE, _OPENING, BRANCH_END)):
        return branch
    axes = module_axes(slot.owner, slot.name, slot.shape)
    if axes is not None and len(axes.parts) == 3:
        return Stacked((plain_one, plain_one, branch), axes.out_axes[0])
    return plain_one


def t_fixup(encoder_depth: int, decoder_depth: int) -> RuleSet:
    """Transformers without warm-up or normalisation: Xavier's uniform, a branch's values and ends by depth.

    Those of the encoder times 0.67 N**-0.25, of the decoder times (9 M)**-0.25; embeddings are N(0, 1 /
    width) times (9 N)**-0.25 or (9 M)**-0.25. Huang et al., ICML 2020; layer6ai-labs/T-Fixup.
    What lies in a module called "decoder" is its; the encoder is everything else, unless it has no layers.

    Args:
        encoder_depth: N, or 0.
        decoder_depth: M, or 0.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.

    Raises:
        ParameterError: there is no layer.
    """
    encoder, decoder = _depths(encoder_depth, decoder_depth)

    def choose(slot: Slot) -> Initializer | None:
        of_decoder = not encoder or (decoder and _DECODER.search(slot.name) is not None)
        depth = decoder if of_decoder else encoder
        if isinstance(slot.owner, nn.Embedding) and slot.local == "weight":
            std = (9 * depth) ** -0.25 / math.sqrt(slot.shape[1])
            (rule, *_) = embeddings(Normal(std=std))
            return rule.find(slot)
        factor = (9 * depth) ** -0.25 if of_decoder else 0.67 * depth**-0.25
        return _by_branch(slot, XavierUniform(), XavierUniform(factor))

    return RuleSet(
        "t_fixup",
        "Huang et al., ICML 2020; layer6ai-labs/T-Fixup",
        (SlotRule(choose=choose), *_zero_biases(), *TORCH_DEFAULTS),
    )


def deepnorm(encoder_depth: int, decoder_depth: int) -> RuleSet:
    """Xavier's normal, with a gain of beta for values, outputs and feed-forward layers.

    Beta is (8 N)**-0.25 for an encoder alone, (8 M)**-0.25 for a decoder alone; else 0.87 (N**4 M)**(-1 / 16)
    for the encoder and (12 M)**-0.25 for the decoder. Wang et al. 2022, "DeepNet", figure 2. The residual
    streams' factors, alpha, are the model's: :func:`deepnorm_alpha`.

    Args:
        encoder_depth: N, or 0.
        decoder_depth: M, or 0.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.

    Raises:
        ParameterError: there is no layer.
    """
    encoder, decoder = _depths(encoder_depth, decoder_depth)

    def choose(slot: Slot) -> Initializer | None:
        if encoder and decoder:
            of_decoder = _DECODER.search(slot.name) is not None
            beta = (12 * decoder) ** -0.25 if of_decoder else 0.87 * (encoder**4 * decoder) ** (-1 / 16)
        else:
            beta = (8 * (encoder or decoder)) ** -0.25
        return _by_branch(slot, XavierNormal(), XavierNormal(beta))

    rules = (SlotRule(choose=choose), *_zero_biases(), *TORCH_DEFAULTS)
    return RuleSet("deepnorm", 'Wang et al. 2022, "DeepNet: Scaling Transformers to 1,000 Layers"', rules)


def deepnorm_alpha(encoder_depth: int, decoder_depth: int) -> tuple[float, float]:
    """By what the residual streams of encoder and decoder are multiplied: Wang et al. 2022, figure 2.

    Args:
        encoder_depth: its number of layers; 0 where there is none.
        decoder_depth: the same of the decoder.

    Returns:
        (of the encoder, of the decoder).

    Raises:
        ParameterError: there is no layer.
    """
    encoder, decoder = _depths(encoder_depth, decoder_depth)
    if encoder and decoder:
        return 0.81 * (encoder**4 * decoder) ** (1 / 16), (3 * decoder) ** 0.25
    return (2 * encoder) ** 0.25, (2 * decoder) ** 0.25


def _depths(encoder: int, decoder: int) -> tuple[int, int]:
    depths = integer("encoder_depth", encoder), integer("decoder_depth", decoder)
    checked_size("the sum of depths", sum(depths) if min(depths) >= 0 else -1)
    return depths


def _zero_biases() -> list[Rule]:
    bias = {"bias": Zeros()}
    packed = {"in_proj_bias": Zeros(), **bias}
    return [
        *each((nn.Linear, class_named("Conv1D")), bias),
        Rule(nn.MultiheadAttention, packed),
        Rule(class_named("Norm"), UNIT_NORM),
    ]


def depths_of(model: nn.Module) -> tuple[int, int]:
    """The number of layers of encoder and decoder, from the numbers in names; the decoder's if not told.

    Raises:
        ValueError: no name has a number.
    """
    depths = {True: 0, False: 0}  # of those in an encoder, and of others
    for name, _ in model.named_parameters():
        found = re.search(r"(?:^|\.)(\d+)(?:\.|$)", name)
        if found is not None:
            side = _ENCODER.search(name) is not None
            depths[side] = max(depths[side], int(found[1]) + 1)
    if not any(depths.values()):
        raise ValueError(f"{type(model).__name__} has no numbered layers to count")
    return depths[True], depths[False]
