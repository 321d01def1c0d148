"""torch.nn's own scheme, and those that papers and codebases publish for text and images."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from tritoninit.combinators import Stacked, ZeroRow
from tritoninit.fans import TORCH_AXES, fans
from tritoninit.fills import Constant, Initializer, Normal, TruncatedNormal, Uniform
from tritoninit.initializers import (
    KaimingNormal,
    KaimingUniform,
    Ones,
    VarianceScaling,
    XavierNormal,
    XavierUniform,
    Zeros,
)
from tritoninit.kernels.lowering import ParameterError, plain
from tritoninit.models.rules import ClassNamed, Initializers, OwnCode, Pattern, Rule, RuleSet, SlotRule
from tritoninit.models.slots import Slot, slots


def each(patterns: Iterable[Pattern], initializers: Initializers) -> list[Rule]:
    """The same initializers for several module classes or globs.

    Args:
        patterns: as a :class:`~tritoninit.Rule` takes them.
        initializers: likewise.

    Returns:
        One rule a pattern.
    """
    return [Rule(pattern, initializers) for pattern in patterns]


def class_named(*parts: str) -> ClassNamed:
    """A pattern: the class has one of ``parts`` in its name, for what codebases write anew (LlamaRMSNorm).

    Args:
        parts: of a class's name, as "RMSNorm".

    Returns:
        The pattern, for a :class:`~tritoninit.Rule`.
    """
    return ClassNamed(parts)


def _symmetric(bound: float) -> Uniform:
    return Uniform(-bound, bound)


def _inverse_root(size: float) -> float:
    return 1 / math.sqrt(size) if size else 0.0


def checked_size(name: str, x: float) -> float:
    """A number of layers or of features that a user gives a scheme."""
    size = plain(name, x)
    if not 0 < size < math.inf:
        raise ParameterError(f"{name} must be positive, not {x}")
    return size


def weight_of(module: nn.Module) -> Tensor:
    weight = module.weight
    if not isinstance(weight, Tensor):
        raise TypeError(f"the weight of {type(module).__name__} is a {type(weight).__name__}")
    return weight


def _by_fan_in(module: nn.Module) -> Mapping[str, Initializer]:
    """Linear and convolutions: both weight and bias end up on +-1/sqrt(fan_in)."""
    bound = _inverse_root(int(fans(weight_of(module).shape)[0]))
    return {"weight": KaimingUniform(a=math.sqrt(5), axes=TORCH_AXES), "bias": _symmetric(bound)}


def _bilinear(module: nn.Module) -> Mapping[str, Initializer]:
    uniform = _symmetric(_inverse_root(weight_of(module).shape[1]))
    return {"weight": uniform, "bias": uniform}


def _embedding(weight: Initializer, module: Any) -> Mapping[str, Initializer]:
    padding = module.padding_idx
    return {"weight": weight if padding is None else ZeroRow(weight, padding)}


def embeddings(weight: Initializer) -> list[Rule]:
    """``weight`` for embeddings, except for the vector of the padding index, which is zero."""
    return each((nn.Embedding, nn.EmbeddingBag), partial(_embedding, weight))


def _recurrent(module: Any) -> Mapping[str, Initializer]:
    uniform = _symmetric(_inverse_root(module.hidden_size))
    return {name: uniform for name, _ in module.named_parameters(recurse=False)}


def _prelu(module: Any) -> Mapping[str, Initializer]:
    return {"weight": Constant(module.init)}


def _matrices(module: nn.Module) -> Mapping[str, Initializer]:
    parameters = module.named_parameters(recurse=False)
    return {name: XavierUniform(axes=TORCH_AXES) for name, parameter in parameters if parameter.dim() > 1}


def attention_weights(weight: Initializer) -> dict[str, Initializer]:
    """What MultiheadAttention itself holds; its ``out_proj`` is a Linear."""
    weights = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
    return {**dict.fromkeys(weights, weight), "in_proj_bias": Zeros()}


_ONES, _ZEROS = Ones(), Zeros()  # one each: what it is for a shape is asked once an object
UNIT_NORM: Mapping[str, Initializer] = {
    "weight": _ONES,
    "bias": _ZEROS,
    "running_mean": _ZEROS,
    "running_var": _ONES,
    "num_batches_tracked": _ZEROS,
}
_TORCH_ATTENTION = {
    **attention_weights(XavierUniform(axes=TORCH_AXES)),
    "bias_k": XavierNormal(axes=TORCH_AXES),
    "bias_v": XavierNormal(axes=TORCH_AXES),
}
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_NORMS = (
    *_BATCH_NORMS,
    *(nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.LayerNorm, nn.GroupNorm, nn.RMSNorm),
)

# The model's own code, for any parameter that it sets. It is the last of TORCH_DEFAULTS, even where rules are
# added to them; without it: [rule for rule in TORCH_DEFAULTS if rule not in OWN_CODE].
OWN_CODE = RuleSet(
    "own-code",
    "reset_parameters of the module that has the parameter, else _init_weights of the nearest around it",
    (Rule("*", OwnCode()),),
)

TORCH_DEFAULTS = RuleSet(
    "torch",
    "the reset_parameters methods of PyTorch 2.13, torch/nn/modules; for what those do not know, OWN_CODE",
    (
        Rule("*", _matrices, within=nn.Transformer),  # which draws its layers' matrices a second time
        Rule(NonDynamicallyQuantizableLinear, {"bias": Zeros()}, within=nn.MultiheadAttention),  # out_proj
        *each((nn.Linear, *CONVOLUTIONS), _by_fan_in),
        Rule(nn.Bilinear, _bilinear),
        *embeddings(Normal()),
        *each(_NORMS, UNIT_NORM),
        Rule(nn.PReLU, _prelu),
        *each((nn.RNNBase, nn.RNNCellBase), _recurrent),
        Rule(nn.MultiheadAttention, _TORCH_ATTENTION),
        Rule("*", OwnCode(last=True)),
    ),
)


# What adds to the residual stream: the end of an attention or a feed-forward branch, by the names of GPT-2;
# Llama in transformers, of Meta and of OLMo-core; torch.nn; timm; GPT-NeoX; BERT.
BRANCH_END = re.compile(
    r"(^|\.)(c_proj|o_proj|down_proj|wo|w2|w_out|out_proj|linear2|attn\.proj|fc2"
    r"|attention\.dense|dense_4h_to_h|output\.dense)(\.weight)?$"
)
# The factor of a gated feed-forward layer that is not activated.
_GATED = re.compile(r"(^|\.)(w3|up_proj)\.weight$")
# The two factors in one weight, the activated one first; experts have a dimension before that.
_GATE_AND_FACTOR = re.compile(r"(^|\.)gate_up_proj(\.weight)?$")
_HEAD = re.compile(r"(^|\.)(lm_head|output|embed_out)\.weight$")


def _transformer(weight: Initializer) -> tuple[Rule, ...]:
    """``weight`` for matrices and embeddings, zero biases, unit norms: what the schemes for text share."""
    linear: Mapping[str, Initializer] = {"weight": weight, "bias": Zeros()}
    return (
        *each((nn.Linear, class_named("Conv1D")), linear),
        *embeddings(weight),
        Rule(nn.MultiheadAttention, attention_weights(weight)),
        Rule(class_named("Experts"), {"gate_up_proj": weight, "down_proj": weight}),
        Rule(class_named("Router"), {"weight": weight}),
        Rule(class_named("Norm"), UNIT_NORM),
    )


def _cut_normal(std: float, cut: float | None) -> Normal | TruncatedNormal:
    """N(0, std**2), cut at +-``cut`` standard deviations unless that is None."""
    if cut is None:
        return Normal(std=std)
    cut = plain("cut", cut)
    return TruncatedNormal(0.0, std, -cut * std, cut * std)


def gpt2(depth: int) -> RuleSet:
    """N(0, 0.02**2), and 0.02 / sqrt(2 depth) where a block adds to the residual stream; zero biases.

    Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3, scales the
    residual layers. The numbers are those of transformers, ``GPT2PreTrainedModel._init_weights``, which
    retrainings follow. OpenAI's code (openai/gpt-2, src/model.py) draws positions with 0.01, scales nothing.

    Args:
        depth: the number of layers.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.

    Raises:
        ParameterError: a size that is not positive.
    """
    residual = 0.02 / math.sqrt(2 * checked_size("depth", depth))
    return RuleSet(
        "gpt2",
        "Radford et al. 2019, section 2.3; Hugging Face transformers, GPT2PreTrainedModel._init_weights",
        (
            Rule("*.c_proj.weight", Normal(std=residual)),
            *_transformer(Normal(std=0.02)),
        ),
    )


def llama(cut: float | None = 3.0) -> RuleSet:
    """N(0, 0.02**2) cut at +-``cut`` standard deviations, for every matrix and embedding; unit norms.

    Meta published no scheme with Llama's weights, only ``initializer_range`` 0.02 in their configurations.
    With ``cut`` 3 it is what OLMo trains Llama's shapes from (allenai/OLMo-core, ``InitMethod.normal``); with
    None, uncut, what transformers draws (``LlamaPreTrainedModel``).

    Args:
        cut: in standard deviations; None for no cut.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.

    Raises:
        TypeError: what is given is no number.
    """
    source = (
        "initializer_range of Meta's config.json; Hugging Face transformers, LlamaPreTrainedModel"
        if cut is None
        else "initializer_range of Meta's config.json; allenai/OLMo-core, InitMethod.normal"
    )
    return RuleSet("llama", source, _transformer(_cut_normal(0.02, cut)))


def small_init(width: int) -> RuleSet:
    """N(0, 2 / (5 width)): Xavier's for a layer from ``width`` to 4 ``width``, for every matrix.

    Nguyen and Salazar, "Transformers without Tears", IWSLT 2019 ("SmallInit"); EleutherAI/gpt-neox,
    megatron/model/init_functions.py, ``small_init_init_method``.

    Args:
        width: of the residual stream, in elements.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.

    Raises:
        ParameterError: a size that is not positive.
    """
    return RuleSet(
        "small_init",
        "Nguyen and Salazar, IWSLT 2019; EleutherAI/gpt-neox, small_init_init_method",
        _transformer(Normal(std=math.sqrt(2 / (5 * checked_size("width", width))))),
    )


def wang_init(width: int, depth: int) -> RuleSet:
    """N(0, std**2) with std 2 / (depth sqrt(width)) where a branch ends; :func:`small_init` elsewhere.

    EleutherAI/gpt-neox, megatron/model/init_functions.py, ``wang_init_method``. GPT-NeoX-20B was trained from
    the pair: Black et al., "GPT-NeoX-20B", 2022.

    Args:
        width: of the residual stream, in elements.
        depth: the number of layers.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.

    Raises:
        ParameterError: a size that is not positive.
    """
    ends = Normal(std=2 / (checked_size("depth", depth) * math.sqrt(checked_size("width", width))))
    return RuleSet(
        "wang_init",
        "Black et al. 2022 (GPT-NeoX-20B); EleutherAI/gpt-neox, wang_init_method",
        (where(BRANCH_END, lambda slot: ends), *small_init(width)),
    )


def where(pattern: re.Pattern[str], choose: Callable[[Slot], Initializer]) -> SlotRule:
    """A rule for parameters one of whose names, tied ones included, the pattern is found in."""

    def chosen(slot: Slot) -> Initializer | None:
        matches = not slot.is_buffer and any(map(pattern.search, slot.names))
        return choose(slot) if matches else None

    return SlotRule(choose=chosen)


def layer_index(name: str) -> int:
    """The number of the layer that a qualified name lies in: 3 for "model.layers.3.mlp.w2.weight".

    Args:
        name: with dots between its parts.

    Returns:
        The first of its parts that is a number.

    Raises:
        ValueError: it has no number.
    """
    found = re.search(r"(?:^|\.)(\d+)(?:\.|$)", name)
    if found is None:
        raise ValueError(f"no layer's number in {name!r}")
    return int(found[1])


def depth_scaled(cut: float = 3.0) -> RuleSet:
    """Normals cut at +-``cut`` standard deviations, smaller the deeper the layer that they end.

    Layer l (from 0, read from the name) draws the ends of its branches, and the gated factor of its
    feed-forward layer (w3, up_proj, the second half of gate_up_proj), with std 0.02 / sqrt(2 (l + 1)), other
    matrices with 0.02, embeddings from N(0, 1), and the head, or an embedding that is tied to it, with
    width**-0.5, cut at three.

    pytorch/torchtitan, torchtitan/models/llama3, ``init_weights`` with ``depth_init``; allenai/OLMo-core,
    ``InitMethod.llama_depth``; after Zhang, Titov and Sennrich, EMNLP 2019. OLMo-core cuts everything at
    three. torchtitan leaves torch's absolute bounds of +-2, which nothing reaches: ``cut=100``.

    Args:
        cut: in standard deviations; positive.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.

    Raises:
        TypeError: what is given is no number.
    """

    def end(slot: Slot) -> Initializer:
        return _cut_normal(0.02 / math.sqrt(2 * (layer_index(slot.name) + 1)), cut)

    def gate_and_factor(slot: Slot) -> Initializer:
        depth = layer_index(slot.name) + 1
        return Stacked((_cut_normal(0.02, cut), _cut_normal(0.02 / math.sqrt(2 * depth), cut)), axis=-2)

    def head(slot: Slot) -> Initializer:
        return _cut_normal(_inverse_root(slot.shape[1]), 3.0)

    return RuleSet(
        "depth_scaled",
        "pytorch/torchtitan, llama3 init_weights; allenai/OLMo-core, InitMethod.llama_depth",
        (
            where(_HEAD, head),
            *(where(names, end) for names in (BRANCH_END, _GATED)),
            where(_GATE_AND_FACTOR, gate_and_factor),
            *embeddings(Normal()),
            *_transformer(_cut_normal(0.02, cut)),
        ),
    )


def bert() -> RuleSet:
    """N(0, 0.02**2) for matrices and embeddings, zeros for biases and the padding token, unit norms.

    Hugging Face transformers, ``BertPreTrainedModel._init_weights``. Google's code (google-research/bert,
    modeling.py, ``create_initializer``) cuts the normal at two standard deviations.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.
    """
    return RuleSet(
        "bert",
        "Devlin et al., NAACL 2019; Hugging Face transformers, BertPreTrainedModel._init_weights",
        (*_transformer(Normal(std=0.02)), Rule("*.bias", Zeros())),  # that of the head for masked words
    )


def t5(width: int, head_width: int) -> RuleSet:
    """N(0, 1 / fan_in) for matrices, without a scaled softmax: queries have 1 / (width head_width).

    Embeddings and an untied head have N(0, 1), the relative positions' biases N(0, 1 / width). Raffel et al.,
    JMLR 2020; Mesh TensorFlow's, as in Hugging Face transformers, ``T5PreTrainedModel._init_weights`` with an
    ``initializer_factor`` of 1.

    Args:
        width: of the residual stream, in elements.
        head_width: of one head's queries.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.

    Raises:
        ParameterError: a size that is not positive.
    """
    linear: Mapping[str, Initializer] = {"weight": VarianceScaling(1.0, "fan_in", "normal"), "bias": Zeros()}
    return RuleSet(
        "t5",
        "Raffel et al., JMLR 2020; Hugging Face transformers, T5PreTrainedModel._init_weights",
        (
            Rule(
                "*.q.weight", VarianceScaling(1 / checked_size("head_width", head_width), "fan_in", "normal")
            ),
            Rule("*relative_attention_bias.weight", Normal(std=_inverse_root(checked_size("width", width)))),
            *each(("*lm_head.weight", "*classifier.weight"), Normal()),
            Rule(nn.Linear, linear),
            # transformers zeroes no padding here: T5's embedding has none.
            Rule(nn.Embedding, {"weight": Normal()}),
            Rule(class_named("Norm"), UNIT_NORM),
        ),
    )


def resnet(zero_residual: bool = True) -> RuleSet:
    """Kaiming normal for convolutions, by fan_out; a residual block's last BatchNorm starts as zero.

    So each block starts as the identity: Goyal et al. 2017, "Accurate, Large Minibatch SGD", section 5.1. The
    convolutions are those of He et al., ICCV 2015, equation 14, as torchvision.models.resnet draws them, by
    fans of the shape alone where convolutions are grouped. Linear layers are torch.nn's.

    Args:
        zero_residual: False is torchvision's default, where that last BatchNorm starts as one.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.
    """
    kaiming = KaimingNormal(mode="fan_out", nonlinearity="relu", axes=TORCH_AXES)
    last = [SlotRule(choose=_zero_last_norm)] if zero_residual else []
    return RuleSet(
        "resnet",
        "He et al., ICCV 2015 (Kaiming normal, fan_out)"
        + (", Goyal et al. 2017 (zero residual)" if zero_residual else "")
        + "; torchvision.models.resnet50",
        (*last, *each((nn.Conv1d, nn.Conv2d, nn.Conv3d), {"weight": kaiming}), *TORCH_DEFAULTS),
    )


_SHORTCUTS = {"downsample", "shortcut", "skip"}


def _zero_last_norm(slot: Slot) -> Initializer | None:
    """Zeros for the weight of the BatchNorm that ends the main path of a block in a list of blocks."""
    if slot.local != "weight" or not isinstance(slot.owner, _BATCH_NORMS):
        return None
    for i, block in reversed(list(enumerate(slot.ancestors))):
        norms = _norms(block) if block._modules else ()
        if len(norms) > 1:
            listed = any(isinstance(m, (nn.Sequential, nn.ModuleList)) for m in slot.ancestors[:i])
            return _ZEROS if listed and norms[-1] is slot.owner else None
    return None


def _norms(block: nn.Module) -> list[nn.Module]:
    """The BatchNorms of a block, but those of shortcuts, in the order of ``named_modules``."""
    found: list[nn.Module] = []
    seen: set[int] = set()
    pending: list[tuple[nn.Module, bool]] = [(block, False)]
    while pending:
        module, aside = pending.pop()
        if id(module) in seen:
            continue
        seen.add(id(module))
        if not aside and isinstance(module, _BATCH_NORMS):
            found.append(module)
        children = reversed(module._modules.items())
        pending += [(each, aside or name in _SHORTCUTS) for name, each in children if each is not None]
    return found


_POSITIONS = ("*pos_embed", "*pos_embedding", "*position_embeddings")
_TOKENS = ("*cls_token", "*class_token", "*reg_token", "*register_tokens")


def vit_timm() -> RuleSet:
    """N(0, 0.02**2) for matrices and positions, 1e-6 for the class token; patches as torch.nn draws them.

    huggingface/pytorch-image-models, timm/models/vision_transformer.py, ``init_weights_vit_timm``. Its
    ``trunc_normal_`` cuts at +-2, which is 100 standard deviations.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.
    """
    normal = TruncatedNormal(std=0.02)
    linear: Mapping[str, Initializer] = {"weight": normal, "bias": Zeros()}
    return RuleSet(
        "vit-timm",
        "huggingface/pytorch-image-models, init_weights_vit_timm",
        (
            *each(_POSITIONS, normal),
            *each(_TOKENS, Normal(std=1e-6)),
            Rule(nn.Linear, linear),
            Rule(nn.MultiheadAttention, attention_weights(normal)),
            *TORCH_DEFAULTS,
        ),
    )


def vit_jax() -> RuleSet:
    """Xavier uniform for matrices, N(0, 1e-12) for the MLPs' biases, a zero head, LeCun normal patches.

    Dosovitskiy et al., ICLR 2021, in Flax (google-research/vision_transformer); these are the numbers of
    huggingface/pytorch-image-models, ``init_weights_vit_jax``, which takes a fused qkv for one matrix.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.
    """
    xavier = XavierUniform(axes=TORCH_AXES)
    linear: Mapping[str, Initializer] = {"weight": xavier, "bias": Zeros()}
    patches: Mapping[str, Initializer] = {"weight": VarianceScaling(axes=TORCH_AXES), "bias": Zeros()}
    return RuleSet(
        "vit-jax",
        "Dosovitskiy et al., ICLR 2021; huggingface/pytorch-image-models, init_weights_vit_jax",
        (
            *each(_POSITIONS, TruncatedNormal(std=0.02)),
            *each(_TOKENS, Normal(std=1e-6)),
            *each(("head*.weight", "head*.bias", "classifier.*"), Zeros()),
            Rule(_in_mlp, {"bias": Normal(std=1e-6)}),
            Rule(nn.Linear, linear),
            Rule(nn.MultiheadAttention, attention_weights(xavier)),
            Rule(nn.Conv2d, patches),
            *TORCH_DEFAULTS,
        ),
    )


_MLP = re.compile(r"mlp|(^|\.)(intermediate|(?<!attention\.)output)\.dense")


def _in_mlp(name: str, module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) and _MLP.search(name) is not None


def vit_torchvision() -> RuleSet:
    """Xavier uniform and N(0, 1e-12) biases for MLPs, N(0, 1 / fan_in) for patches, zeros for the head.

    Dosovitskiy et al., ICLR 2021, as torchvision.models.vision_transformer has it; attention is torch.nn's.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.
    """
    mlp: Mapping[str, Initializer] = {"weight": XavierUniform(), "bias": Normal(std=1e-6)}
    return RuleSet(
        "vit-torchvision",
        "Dosovitskiy et al., ICLR 2021; torchvision.models.vit_b_16",
        (
            Rule(nn.Conv2d, _patches),
            Rule("*class_token", Zeros()),
            Rule("*pos_embedding", Normal(std=0.02)),
            Rule(_in_mlp, mlp),
            Rule("heads.head.*", Zeros()),
            *TORCH_DEFAULTS,
        ),
    )


def _patches(module: nn.Module) -> Mapping[str, Initializer]:
    fan_in, _ = fans(weight_of(module).shape)
    return {"weight": TruncatedNormal(std=math.sqrt(1 / fan_in)), "bias": Zeros()}


def vit_transformers() -> RuleSet:
    """N(0, 0.02**2) for everything that is random, positions and the class token included.

    Hugging Face transformers, ``ViTPreTrainedModel._init_weights``. Its ``trunc_normal_`` cuts at +-2, which
    is 100 standard deviations.

    Returns:
        The rules, for :func:`~tritoninit.initialize_`.
    """
    linear: Mapping[str, Initializer] = {"weight": Normal(std=0.02), "bias": Zeros()}
    return RuleSet(
        "vit-transformers",
        "Hugging Face transformers, ViTPreTrainedModel._init_weights",
        (
            *each(("*position_embeddings", "*cls_token"), TruncatedNormal(std=0.02)),
            Rule("*mask_token", Zeros()),
            *each((nn.Linear, *CONVOLUTIONS), linear),
            Rule(class_named("Norm"), UNIT_NORM),
        ),
    )


def model_depth(model: nn.Module) -> int:
    """The number of layers, from the highest number in the names of the parameters.

    Args:
        model: on any device.

    Returns:
        One more than the highest.

    Raises:
        ValueError: no name has a number.
    """
    numbers = [layer_index(slot.name) for slot in slots(model) if re.search(r"(^|\.)\d+(\.|$)", slot.name)]
    if not numbers:
        raise ValueError(f"{type(model).__name__} has no numbered layers to count")
    return max(numbers) + 1


def model_width(model: nn.Module) -> int:
    """The size of the residual stream, from the first embedding.

    Args:
        model: on any device.

    Returns:
        The embedding's second dimension.

    Raises:
        ValueError: there is none.
    """
    sizes = [m.embedding_dim for m in model.modules() if isinstance(m, nn.Embedding)]
    if not sizes:
        raise ValueError(f"{type(model).__name__} has no embedding to tell its width by")
    return sizes[0]


def t5_for(model: nn.Module) -> RuleSet:
    """T5's rules for a model of its shape.

    Raises:
        ValueError: it has no queries "q" or no relative positions to tell the heads by.
    """
    modules = dict(model.named_modules())
    heads = [m for name, m in modules.items() if name.endswith("relative_attention_bias")]
    queries = [m for name, m in modules.items() if name.endswith(".q")]
    if not heads or not queries:
        raise ValueError(f"{type(model).__name__} has no T5 attention to tell the size of its heads by")
    return t5(model_width(model), weight_of(queries[0]).shape[0] // weight_of(heads[0]).shape[1])
