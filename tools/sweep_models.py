"""The models that tools/sweep.py initialises: of each package some, as small as what it offers allows."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

Build = Callable[[], nn.Module]
Models = Iterator[tuple[str, Build]]

MOST_PARAMETERS = 50_000_000


class TooLargeError(Exception):
    """A model is too large to be tried."""


class Smallest:
    """Builds a model in the first of several ways that works and is small enough."""

    def __init__(self, ways: Iterable[Build]) -> None:
        self._ways = list(ways)
        self._chosen: Build | None = None

    def __call__(self) -> nn.Module:
        if self._chosen is None:
            self._chosen = self._choose()
        return self._chosen()

    def _choose(self) -> Build:
        """The first way that works on the meta device, where size costs nothing; else, that works."""
        errors: list[Exception] = []
        directly: list[Build] = []
        for way in self._ways:
            error = _error(way, "meta")
            if error is None:
                return way
            errors.append(error)
            if not isinstance(error, TooLargeError):
                directly.append(way)
        for way in directly:
            error = _error(way, "cpu")
            if error is None:
                return way
            errors.append(error)
        raise errors[-1]


def _error(build: Build, device: str) -> Exception | None:
    """Why a model cannot be built there, or is too large."""
    try:
        with torch.device(device):
            check_size(build())
    except Exception as error:  # noqa: BLE001 - a package's own
        return error
    return None


def check_size(model: nn.Module) -> None:
    count = sum(p.numel() for p in model.parameters())
    if count > MOST_PARAMETERS:
        raise TooLargeError(f"{count:,} parameters")


# What makes a model small, by the names of arguments: the first pattern that is found counts.
_FEW = {
    r"vocab_size$|num_embeddings$": 128,
    r"num_(hidden_|encoder_|decoder_)?layers$|^(encoder|decoder|n)_layers?$|depth$|num_single_layers$": 2,
    r"(num|n)_(local_|routed_)?experts$": 4,
}
_NARROW = {
    **_FEW,
    r"key_value_heads$": 2,
    r"heads$|^n_head$": 4,
    r"^(attention_)?head_dim$": 8,
    r"intermediate_size$|ffn_dim$|ff_dim$|^d_ff$|ffn_size$": 64,
    r"hidden_size$|^d_model$|^n_embd$|embed(ding)?_(dim|size)$|^dim$|^width$|projection_dim$": 32,
    r"max_position_embeddings$": 64,
}


def small(given: Mapping[str, Any], numbers: Mapping[str, int]) -> dict[str, Any]:
    """Of arguments with these values, those that are to be smaller."""
    changed: dict[str, Any] = {}
    for name, value in given.items():
        if type(value) is not int:
            continue
        for pattern, number in numbers.items():
            if re.search(pattern, name) and value > number:
                changed[name] = number
                break
    return changed


def transformers() -> Models:
    _declare_torchvision()
    from transformers import CONFIG_MAPPING, AutoModel
    from transformers import LlamaForCausalLM as _  # noqa: F401 - what most models import, imported once
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    for kind in sorted(MODEL_MAPPING_NAMES):
        build = partial(_from_config, AutoModel, CONFIG_MAPPING, kind)
        yield kind, Smallest(partial(build, numbers) for numbers in (_NARROW, _FEW, {}))


def _from_config(auto: Any, configs: Any, kind: str, numbers: Mapping[str, int]) -> nn.Module:
    model: nn.Module = auto.from_config(_small_config(configs[kind](), numbers))
    return model


def _small_config(config: Any, numbers: Mapping[str, int]) -> Any:
    changed = small(vars(config), numbers)
    for name, value in vars(config).items():
        if hasattr(value, "to_dict") and hasattr(value, "model_type"):
            changed[name] = _small_config(value, numbers)
        elif name.endswith("_token_id") and type(value) is int and value >= 128 and numbers:
            changed[name] = len(changed) % 100
    return type(config)(**changed)


def timm() -> Models:
    _declare_torchvision()
    import timm as package

    for module in package.list_modules():
        names = package.list_models(module=module)[:20]
        yield f"{module}", Smallest(partial(package.create_model, name) for name in names)


def torchvision() -> Models:
    _declare_torchvision()
    from torchvision import models

    by_module: dict[str, list[str]] = {}
    for name in models.list_models():
        by_module.setdefault(models.get_model_builder(name).__module__, []).append(name)
    for names in by_module.values():
        yield names[0], Smallest(partial(_torchvision_model, models.get_model, name) for name in names)


def _torchvision_model(get_model: Callable[..., nn.Module], name: str) -> nn.Module:
    try:
        return get_model(name, weights=None, weights_backbone=None)
    except (TypeError, ValueError):
        return get_model(name, weights=None)


def _declare_torchvision() -> None:
    """Have torchvision import where it was built for another torch: its models need none of its operators."""
    try:
        import torchvision as package  # noqa: F401
    except ModuleNotFoundError:
        return  # those that need it say so
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        _LIBRARIES.append(library)
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


_LIBRARIES: list[Any] = []  # they declare as long as they live


def segmentation_models() -> Models:
    _declare_torchvision()
    import segmentation_models_pytorch as package

    kinds = (
        *("Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "PAN", "DeepLabV3", "DeepLabV3Plus"),
        *("UPerNet", "Segformer"),
    )
    for kind in kinds:
        yield kind, partial(getattr(package, kind), "resnet18", encoder_weights=None)
    encoders = ("mobilenet_v2", "efficientnet-b0", "mit_b0", "timm-regnetx_002", "vgg11_bn", "densenet121")
    for encoder in encoders:
        yield f"FPN {encoder}", partial(package.FPN, encoder, encoder_weights=None)


def open_clip() -> Models:
    _declare_torchvision()
    import open_clip as package

    names = ("RN50", "ViT-B-32", "ViT-B-16-plus", "ViT-S-16-alt", "ViT-M-32-alt", "coca_ViT-B-32")
    for name in names:
        yield name, partial(_clip, package.model, package.get_model_config(name))


def _clip(package: Any, config: Mapping[str, Any]) -> nn.Module:
    vision = {**config["vision_cfg"], "width": 64, "head_width": 32, "image_size": 64}
    vision["layers"] = [1, 1, 1, 1] if isinstance(vision.get("layers"), list) else 2
    text = {**config["text_cfg"], "width": 64, "heads": 2, "layers": 2, "vocab_size": 300}
    kind = package.CustomTextCLIP if config.get("custom_text") else package.CLIP
    model: nn.Module = kind(64, vision, text)
    return model


def x_transformers() -> Models:
    import x_transformers as package

    def language(layers: Any, wrapper: Mapping[str, Any] | None = None, **options: Any) -> Build:
        return lambda: package.TransformerWrapper(
            num_tokens=64,
            max_seq_len=32,
            attn_layers=layers(dim=32, depth=2, heads=2, **options),
            **(wrapper or {}),
        )

    yield "decoder", language(package.Decoder)
    yield "encoder", language(package.Encoder)
    yield "memory tokens", language(package.Encoder, wrapper={"num_memory_tokens": 4})
    yield "tied", language(package.Decoder, wrapper={"tie_embedding": True})
    options = (
        *("rotary_pos_emb", "alibi_pos_bias", "rel_pos_bias", "use_rmsnorm", "use_scalenorm", "ff_glu"),
        *("macaron", "gate_residual", "resi_dual", "ff_swish", "attn_gate_values", "attn_qk_norm"),
        *("dynamic_pos_bias", "attn_talking_heads", "scale_residual", "sandwich_norm", "use_simple_rmsnorm"),
    )
    for option in options:
        yield option, language(package.Decoder, **{option: True})
    yield "memory keys", language(package.Decoder, attn_num_mem_kv=4)
    yield "cross-attention", language(package.Decoder, cross_attend=True)
    yield (
        "vision",
        lambda: package.ViTransformerWrapper(
            image_size=16, patch_size=4, num_classes=5, attn_layers=package.Encoder(dim=32, depth=2, heads=2)
        ),
    )
    yield (
        "continuous",
        lambda: package.ContinuousTransformerWrapper(
            dim_in=8, dim_out=8, max_seq_len=32, attn_layers=package.Encoder(dim=32, depth=2, heads=2)
        ),
    )
    yield (
        "encoder and decoder",
        lambda: package.XTransformer(
            dim=32,
            **{f"{side}_{k}": v for side in ("enc", "dec") for k, v in _SIDES.items()},
        ),
    )


_SIDES = {"num_tokens": 64, "depth": 2, "heads": 2, "max_seq_len": 32}

# What torch_geometric's layers need, by name.
_GRAPH_ARGUMENTS: dict[str, Any] = {
    **dict.fromkeys(("in_channels", "out_channels", "hidden_channels", "channels", "emb_dim", "in_node"), 8),
    **dict.fromkeys(("num_layers", "K", "heads", "dim", "num_heads", "num_timesteps"), 2),
    **dict.fromkeys(("kernel_size", "num_relations"), 3),
    **dict.fromkeys(("edge_dim", "edge_channels"), 4),
    **dict.fromkeys(("num_nodes", "num_embeddings", "embedding_dim"), 9),
}


def torch_geometric() -> Models:
    from torch_geometric.nn import conv, models, norm

    for module in (conv, models, norm):
        for name in module.__all__:
            kind = getattr(module, name)
            if isinstance(kind, type) and issubclass(kind, nn.Module):
                arguments = _graph_arguments(kind)
                if arguments is not None:
                    yield name, partial(kind, **arguments)


def _graph_arguments(kind: type[nn.Module]) -> dict[str, Any] | None:
    needed = [
        p.name
        for p in inspect.signature(kind).parameters.values()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
    ]
    return {n: _GRAPH_ARGUMENTS[n] for n in needed} if set(needed) <= _GRAPH_ARGUMENTS.keys() else None


def diffusers() -> Models:
    _declare_torchvision()
    import diffusers as package

    kinds = [getattr(package, name) for name in dir(package) if "Model" in name or "Autoencoder" in name]
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, package.ModelMixin) and kind is not package.ModelMixin:
            defaults = {p.name: p.default for p in inspect.signature(kind).parameters.values()}
            yield (
                kind.__name__,
                Smallest(
                    partial(kind, **{**small(defaults, numbers), **channels})
                    for numbers in (_NARROW, _FEW, {})
                    for channels in (_few_channels(defaults), {})
                ),
            )


def _few_channels(defaults: Mapping[str, Any]) -> dict[str, Any]:
    value = defaults.get("block_out_channels")
    return {"block_out_channels": (32,) * len(value)} if isinstance(value, (tuple, list)) else {}


def peft() -> Models:
    _declare_torchvision()
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    for kind, config in sorted(PEFT_TYPE_TO_CONFIG_MAPPING.items()):
        yield (
            str(kind).removeprefix("PeftType."),
            Smallest(
                partial(_adapted, config, options)
                for options in ({"target_modules": ["q_proj", "v_proj"]}, {"num_virtual_tokens": 4}, {})
            ),
        )
    for option in ("use_dora", "use_rslora"):
        options = {"target_modules": ["q_proj"], option: True}
        yield f"LORA {option}", partial(_adapted, PEFT_TYPE_TO_CONFIG_MAPPING["LORA"], options)


def _adapted(config: Any, options: Mapping[str, Any]) -> nn.Module:
    from peft import get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    base = LlamaForCausalLM(LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=4))
    return get_peft_model(base, config(task_type="CAUSAL_LM", **options))  # type: ignore[no-any-return]


# By the name in the package index.
PACKAGES: dict[str, Callable[[], Models]] = {
    "transformers": transformers,
    "timm": timm,
    "torchvision": torchvision,
    "diffusers": diffusers,
    "torch_geometric": torch_geometric,
    "x-transformers": x_transformers,
    "peft": peft,
    "segmentation_models_pytorch": segmentation_models,
    "open_clip_torch": open_clip,
}
