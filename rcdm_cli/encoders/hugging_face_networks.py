"""Networks of transformers as timm trunks: names of tensors, and options of the architecture."""

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.architectures import Architecture
from rcdm_cli.encoders.hub import CONFIG
from rcdm_cli.encoders.hugging_face_files import NetworkConfig
from rcdm_cli.encoders.positions import resample_positions
from rcdm_cli.encoders.spec import Preprocessing
from rcdm_cli.encoders.state import State, left_out_groups

Names = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]
"""Patterns of names, and names of timm or functions of the match. The first pattern that matches is used."""


@dataclass(frozen=True)
class Family:
    """Networks of one ``model_type``.

    Attributes:
        stem: name of the tensor of the first convolution, which determines the prefix of the network.
        names: names of timm by pattern.
        left_out: pattern of names inside the prefix that are not part of the encoder.
        build: returns the network for the renamed tensors.
        heads: default of ``num_attention_heads``.
        activation: default of ``hidden_act``.
        eps: default of ``layer_norm_eps``.
    """

    stem: str
    names: Names
    left_out: str
    build: "Callable[[Family, dict[str, Tensor], NetworkConfig, Preprocessing, str | None], Architecture]"
    heads: int = 12
    activation: str = "gelu"
    eps: float = 1e-6


PROJECTION = "visual_projection.weight"
"""Projection of CLIP to the space that text and images share."""

_ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh"}


def is_from_transformers(state: State) -> bool:
    """Return whether the tensors have the names of a supported network of transformers."""
    return any(name == stem or name.endswith(f".{stem}") for name in state for stem in _STEMS)


def convert(
    state: State, config: NetworkConfig, preprocessing: Preprocessing, pool: str | None, where: str
) -> Architecture:
    """Convert a network of transformers.

    Args:
        state: tensors of the file.
        config: configuration beside the file.
        preprocessing: preprocessing of the images. Position embeddings are resampled to its size.
        pool: ``token``, ``avg`` or ``max``; None uses the pooling of transformers without a dense layer.
        where: file, for errors.

    Raises:
        InputError: the network is not supported, or the tensors are not those of the network.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        supported = ", ".join(name for name in FAMILIES if not name.endswith("_vision_model"))
        raise InputError(f"{where} is a {config.model_type!r}, which is not supported. Supported: {supported}.")
    prefixes = [name.removesuffix(family.stem) for name in state if name.endswith(family.stem)]
    prefixes = [prefix for prefix in prefixes if not prefix or prefix.endswith(".")]
    if len(prefixes) != 1:
        raise InputError(f"{where} has {len(prefixes)} tensors {family.stem!r}, but a {config.model_type} has one.")
    own = {name.removeprefix(prefixes[0]): value for name, value in state.items() if name.startswith(prefixes[0])}
    renamed: dict[str, Tensor] = {}
    unknown = []
    used = set()
    for name, value in own.items():
        for pattern, replacement in family.names:
            if match := re.fullmatch(pattern, name):
                renamed[match.expand(replacement) if isinstance(replacement, str) else replacement(match)] = value
                used.add(prefixes[0] + name)
                break
        else:
            if not re.match(family.left_out, name):
                unknown.append(name)
    if unknown:
        raise InputError(f"{where} has tensors that a {config.model_type} does not have: {', '.join(unknown[:3])}.")
    vision = config.vision_config or config
    patch = 1 if config.model_type == "resnet" else max([*own[family.stem].shape[-1:], 1])
    # The size may be no multiple, as in SigLIP so400m: the convolution ignores the last pixels.
    if preprocessing.size % patch and preprocessing.size != vision.image_size:
        raise InputError(f"{where} has patches of {patch} pixels, and {preprocessing.size} pixels are not a multiple.")
    try:
        architecture = family.build(family, renamed, vision, preprocessing, pool)
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise InputError(f"{where} lacks tensors of a {config.model_type}, or has other shapes ({error}).") from error
    facts = {"network": f"{config.model_type} of transformers", **architecture.facts}
    if "num_heads" in architecture.options:
        facts["attention heads"] = f"{architecture.options['num_heads']} ({CONFIG})"
    left_out = [name for name in state if name not in used and name != PROJECTION]
    groups = left_out_groups(left_out, prefixes[0])
    facts["left out"] = "; ".join(f"{group} ({count} tensors)" for group, count in groups.items()) or "nothing"
    return replace(architecture, facts=facts)


def _vit(
    family: Family, tensors: dict[str, Tensor], config: NetworkConfig, preprocessing: Preprocessing, pool: str | None
) -> Architecture:
    width, channels, patch, _ = tensors["patch_embed.proj.weight"].shape
    if "cls_token" in tensors:
        tensors["cls_token"] = tensors["cls_token"].reshape(1, 1, width).float()
    positions = tensors["pos_embed"].reshape(1, -1, width).float()
    registers = tensors.get("reg_token")
    grid, facts = preprocessing.size // patch, {}
    if grid != (trained := isqrt(positions.shape[1])):
        facts["positions"] = f"resampled from {trained} × {trained} to {grid} × {grid} patches, as in transformers"
        positions = resample_positions(positions, grid, "plain" if registers is None else "antialias")
    if registers is not None:  # timm adds the position of the class token to the token
        tensors["cls_token"] = tensors["cls_token"] + positions[:, :1]
        positions = positions[:, 1:]
    tensors["pos_embed"] = positions
    if "attn_pool.in_proj_weight" in tensors:
        for kind in ("weight", "bias"):
            merged = tensors.pop(f"attn_pool.in_proj_{kind}")
            tensors[f"attn_pool.q.{kind}"], tensors[f"attn_pool.kv.{kind}"] = merged[:width], merged[width:]
    own_pool = "map" if "attn_pool.latent" in tensors else "token" if "cls_token" in tensors else "avg"
    if pool and pool != own_pool:
        tensors = {name: value for name, value in tensors.items() if not name.startswith("attn_pool.")}
    packed = len(tensors["blocks.0.mlp.fc1.weight"]) != tensors["blocks.0.mlp.fc2.weight"].shape[1]
    options = _common_options(family, tensors, config, preprocessing) | {
        "qkv_bias": "blocks.0.attn.q.bias" in tensors,
        "class_token": "cls_token" in tensors,
        "no_embed_class": "cls_token" not in tensors or registers is not None,
        "reg_tokens": 0 if registers is None else registers.shape[1],
        "pre_norm": "norm_pre.weight" in tensors,
        "fc_norm": False,
        "in_chans": channels,
    }
    if packed:  # SwiGLU of DINOv2 ViT-g
        del options["act_layer"]
    if "blocks.0.ls1.gamma" in tensors:
        options["init_values"] = 1e-5
    _merge_qkv(tensors)
    name = "vit_giant_patch14_dinov2" if packed else "vit_base_patch16_224"
    eps = config.layer_norm_eps or family.eps
    return Architecture(name, tensors, preprocessing, options, pool or own_pool, norm_eps=eps, facts=facts)


def _common_options(
    family: Family, tensors: State, config: NetworkConfig, preprocessing: Preprocessing, hidden: str = "fc1"
) -> dict[str, Any]:
    width, _, patch, _ = tensors["patch_embed.proj.weight"].shape
    blocks = {match[1] for name in tensors if (match := re.match(r"blocks\.(\d+)\.", name))}
    inner = len(tensors[f"blocks.0.mlp.{hidden}.weight"])
    activation = config.hidden_act or family.activation
    return {
        "img_size": preprocessing.size,
        "patch_size": patch,
        "embed_dim": width,
        "depth": len(blocks),
        "num_heads": config.num_attention_heads or family.heads,
        # timm truncates the product of width and ratio.
        "mlp_ratio": inner / width if int(inner / width * width) == inner else (inner + 0.5) / width,
        "act_layer": _ACTIVATIONS.get(activation, activation),
    }


def _merge_qkv(tensors: dict[str, Tensor]) -> None:
    """Concatenate the weights, and if present the biases, of query, key and value."""
    for name in [name for name in tensors if re.search(r"\.attn\.q\.(weight|bias)$", name)]:
        base, _, kind = name.rpartition(".q.")
        tensors[f"{base}.qkv.{kind}"] = torch.cat([tensors.pop(f"{base}.{part}.{kind}") for part in "qkv"])


def _dinov3(
    family: Family, tensors: dict[str, Tensor], config: NetworkConfig, preprocessing: Preprocessing, pool: str | None
) -> Architecture:
    gated = "blocks.0.mlp.fc1_g.weight" in tensors
    if gated:
        tensors = {name.replace(".mlp.fc1.", ".mlp.fc1_x."): value for name, value in tensors.items()}
    biased = "blocks.0.attn.q.bias" in tensors
    registers = tensors["reg_token"].shape[1] if "reg_token" in tensors else 0
    if not registers:
        tensors.pop("reg_token", None)
    options = _common_options(family, tensors, config, preprocessing, "fc1_g" if gated else "fc1") | {
        "num_reg_tokens": registers,
        "qkv_bias": biased,
        "rope_temperature": config.rope_theta or 100.0,
        "in_chans": tensors["patch_embed.proj.weight"].shape[1],
    }
    if (activation := options.pop("act_layer")) != ("silu" if gated else "gelu"):
        raise ValueError(f"activation {activation}")
    for name in [name for name in tensors if re.search(r"\.attn\.[qv]\.bias$", name)]:
        tensors[re.sub(r"\.([qv])\.bias$", r".\1_bias", name)] = tensors.pop(name)
    _merge_qkv(tensors)
    name = ("vit_small_plus_patch16_dinov3" if gated else "vit_small_patch16_dinov3") + ("_qkvb" if biased else "")
    eps = config.layer_norm_eps or family.eps
    return Architecture(name, tensors, preprocessing, options, pool or "token", norm_eps=eps)


def _resnet(
    family: Family, tensors: dict[str, Tensor], config: NetworkConfig, preprocessing: Preprocessing, pool: str | None
) -> Architecture:
    if config.downsample_in_bottleneck or config.downsample_in_first_stage:
        raise ValueError("downsample_in_bottleneck or downsample_in_first_stage is set")
    if (config.hidden_act or "relu") != "relu":
        raise ValueError(f"activation {config.hidden_act}")
    deep = config.layer_type == "bottleneck"
    last = "conv3" if deep else "conv2"
    stages = {match[1] for name in tensors if (match := re.match(r"layer(\d+)\.", name))}
    widths = [len(tensors[f"layer{stage}.0.{last}.weight"]) for stage in range(1, len(stages) + 1)]
    options = {
        "layers": tuple(
            len({match[1] for name in tensors if (match := re.match(rf"layer{stage}\.(\d+)\.", name))})
            for stage in range(1, len(stages) + 1)
        ),
        "channels": tuple(width // 4 if deep else width for width in widths),
        "in_chans": tensors["conv1.weight"].shape[1],
    }
    return Architecture("resnet50" if deep else "resnet18", tensors, preprocessing, options, pool or "avg")


_BERT: Names = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.position_embeddings", "pos_embed"),
    (r"embeddings\.patch_embeddings\.projection\.(.*)", r"patch_embed.proj.\1"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(q)uery\.(.*)", r"blocks.\1.attn.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(k)ey\.(.*)", r"blocks.\1.attn.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.attention\.(v)alue\.(.*)", r"blocks.\1.attn.\2.\3"),
    (r"encoder\.layer\.(\d+)\.attention\.output\.dense\.(.*)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layer\.(\d+)\.(?:layernorm_before|norm1)\.(.*)", r"blocks.\1.norm1.\2"),
    (r"encoder\.layer\.(\d+)\.(?:layernorm_after|norm2)\.(.*)", r"blocks.\1.norm2.\2"),
    (r"encoder\.layer\.(\d+)\.(?:intermediate\.dense|mlp\.fc1|mlp\.weights_in)\.(.*)", r"blocks.\1.mlp.fc1.\2"),
    (r"encoder\.layer\.(\d+)\.(?:output\.dense|mlp\.fc2|mlp\.weights_out)\.(.*)", r"blocks.\1.mlp.fc2.\2"),
    (r"encoder\.layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.ls\2.gamma"),
    (r"layernorm\.(.*)", r"norm.\1"),
)
_CLIP: Names = (
    (r"embeddings\.class_embedding", "cls_token"),
    (r"embeddings\.position_embedding\.weight", "pos_embed"),
    (r"embeddings\.patch_embedding\.(.*)", r"patch_embed.proj.\1"),
    (r"encoder\.layers\.(\d+)\.self_attn\.([qkv])_proj\.(.*)", r"blocks.\1.attn.\2.\3"),
    (r"encoder\.layers\.(\d+)\.self_attn\.out_proj\.(.*)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layers\.(\d+)\.layer_norm([12])\.(.*)", r"blocks.\1.norm\2.\3"),
    (r"encoder\.layers\.(\d+)\.mlp\.(fc[12])\.(.*)", r"blocks.\1.mlp.\2.\3"),
    (r"pre_layrnorm\.(.*)", r"norm_pre.\1"),
    (r"post_layernorm\.(.*)", r"norm.\1"),
    (r"head\.probe", "attn_pool.latent"),
    (r"head\.attention\.(in_proj_(?:weight|bias))", r"attn_pool.\1"),
    (r"head\.attention\.out_proj\.(.*)", r"attn_pool.proj.\1"),
    (r"head\.layernorm\.(.*)", r"attn_pool.norm.\1"),
    (r"head\.mlp\.(.*)", r"attn_pool.mlp.\1"),
)
_DINOV3: Names = (
    (r"embeddings\.cls_token", "cls_token"),
    (r"embeddings\.register_tokens", "reg_token"),
    (r"embeddings\.patch_embeddings\.(.*)", r"patch_embed.proj.\1"),
    (r"layer\.(\d+)\.attention\.([qkv])_proj\.(.*)", r"blocks.\1.attn.\2.\3"),
    (r"layer\.(\d+)\.attention\.o_proj\.(.*)", r"blocks.\1.attn.proj.\2"),
    (r"layer\.(\d+)\.layer_scale([12])\.lambda1", r"blocks.\1.gamma_\2"),
    (r"layer\.(\d+)\.norm([12])\.(.*)", r"blocks.\1.norm\2.\3"),
    (r"layer\.(\d+)\.mlp\.up_proj\.(.*)", r"blocks.\1.mlp.fc1.\2"),
    (r"layer\.(\d+)\.mlp\.gate_proj\.(.*)", r"blocks.\1.mlp.fc1_g.\2"),
    (r"layer\.(\d+)\.mlp\.down_proj\.(.*)", r"blocks.\1.mlp.fc2.\2"),
    (r"norm\.(.*)", r"norm.\1"),
)
_SHORT = {"convolution": "conv", "normalization": "bn"}
_RESNET: Names = (
    (r"embedder\.embedder\.convolution\.(.*)", r"conv1.\1"),
    (r"embedder\.embedder\.normalization\.(.*)", r"bn1.\1"),
    (
        r"encoder\.stages\.(\d+)\.layers\.(\d+)\.layer\.(\d+)\.(convolution|normalization)\.(.*)",
        lambda match: f"layer{int(match[1]) + 1}.{match[2]}.{_SHORT[match[4]]}{int(match[3]) + 1}.{match[5]}",
    ),
    (
        r"encoder\.stages\.(\d+)\.layers\.(\d+)\.shortcut\.(convolution|normalization)\.(.*)",
        lambda match: f"layer{int(match[1]) + 1}.{match[2]}.downsample.{int(match[3][0] == 'n')}.{match[4]}",
    ),
)
_LEFT_OUT = r"embeddings\.(mask_token|position_ids)$|pooler\.|classifier\."
_BERT_STEM = "embeddings.patch_embeddings.projection.weight"
_CLIP_STEM = "embeddings.patch_embedding.weight"

FAMILIES = {
    "dinov2": Family(_BERT_STEM, _BERT, _LEFT_OUT, _vit),
    "dinov2_with_registers": Family(_BERT_STEM, _BERT, _LEFT_OUT, _vit),
    "dinov3_vit": Family("embeddings.patch_embeddings.weight", _DINOV3, _LEFT_OUT, _dinov3, heads=6, eps=1e-5),
    "vit": Family(_BERT_STEM, _BERT, _LEFT_OUT, _vit, eps=1e-12),
    "vit_mae": Family(_BERT_STEM, _BERT, _LEFT_OUT, _vit, eps=1e-12),
    "resnet": Family("embedder.embedder.convolution.weight", _RESNET, _LEFT_OUT, _resnet),
    **dict.fromkeys(
        ("clip", "clip_vision_model"), Family(_CLIP_STEM, _CLIP, _LEFT_OUT, _vit, activation="quick_gelu", eps=1e-5)
    ),
    **dict.fromkeys(
        ("siglip", "siglip_vision_model"), Family(_CLIP_STEM, _CLIP, _LEFT_OUT, _vit, activation="gelu_pytorch_tanh")
    ),
}
"""Supported networks by ``model_type`` of ``config.json``."""

_STEMS = {family.stem for family in FAMILIES.values()}
