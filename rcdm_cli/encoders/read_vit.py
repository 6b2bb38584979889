"""Architecture of ViTs from names and shapes of their tensors."""

import re
from dataclasses import replace
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.architectures import Architecture, TrunkTensors, imagenet_preprocessing
from rcdm_cli.encoders.attention_heads import attention_heads
from rcdm_cli.encoders.positions import Interpolation, resample_positions
from rcdm_cli.encoders.state import State, listed

_SIGLIP_WIDTH = 1152
_POSITION_TABLE = re.compile(r"(blocks\.\d+\.attn|rel_pos_bias)\.relative_position_bias_table")
_BLOCK = re.compile(r"blocks\.\d+\.(norm[12]|attn\.(qkv|proj|[qk]_norm)|mlp\.fc[12]|ls[12])\.[^.]+")
_EVA_ENORMOUS_WIDTH = 1792


def read_vit(tensors: TrunkTensors) -> Architecture:
    """Detect ViTs (arXiv:2010.11929) with the names of timm, DINO, DINOv2, MAE, BEiT, data2vec and CAE.

    Raises:
        InputError: the ViT takes videos, or the number of attention heads, the activation, the order of the norms or
            the kind of positions is not known.
    """
    patches = tensors.own["patch_embed.proj.weight"]
    if patches.ndim == 5:
        raise InputError(
            f"The ViT in {tensors.where} takes videos: its patches have {patches.shape[2]} frames. Networks for videos "
            "are not supported."
        )
    tensors = replace(tensors, own=unchunked(tensors.own))
    own = _timm_names(tensors.own)
    if any(map(_POSITION_TABLE.fullmatch, own)):
        return _beit(tensors, own)
    if other := [name for name in own if name.startswith("blocks.") and not _BLOCK.fullmatch(name)]:
        raise InputError(
            f"The blocks of the ViT in {tensors.where} have other layers than those of a plain ViT: {listed(other)}. "
            "Give timm's name of the model: FILE,trunk=NAME."
        )
    width, channels, patch, _ = patches.shape
    positions = own["pos_embed"].shape[1] if "pos_embed" in own else 0
    token, registers = "cls_token" in own, own.get("reg_token")
    # DINOv2 has a position embedding for the class token. In models with registers, timm adds it to the token.
    token_position = isqrt(positions) ** 2 != positions
    if not positions or isqrt(positions - token_position) ** 2 != positions - token_position:
        raise InputError(
            f"The ViT in {tensors.where} has {positions} position embeddings, which are not a square of patches with "
            "an optional class token. Give timm's name of the model: FILE,trunk=NAME."
        )
    size = isqrt(positions - token_position) * patch
    facts = {}
    if tensors.size and tensors.size // patch != size // patch:
        require_multiple(tensors.size, patch, tensors.where)
        interpolation = _interpolation(tensors.own)
        facts["positions"] = f"resampled from {size} to {tensors.size} pixels ({_INTERPOLATIONS[interpolation]})"
        own["pos_embed"] = resample_positions(own["pos_embed"], tensors.size // patch, interpolation)
    size = tensors.size or size
    if width == _EVA_ENORMOUS_WIDTH and "blocks.0.attn.q_bias" in tensors.own:
        raise InputError(
            f"The ViT in {tensors.where} has the width of EVA-02-CLIP-E, whose norms are after attention and MLP. Give "
            "FILE,trunk=eva02_enormous_patch14_clip_224."
        )
    heads, reason = attention_heads({**tensors.own, **own}, tensors.prefix, tensors.state, tensors.where, tensors.heads)
    swiglu = tensors.own.get("blocks.0.mlp.w12.weight") is not None
    options: dict[str, Any] = {
        "img_size": size,
        "patch_size": patch,
        "embed_dim": width,
        "depth": block_count(own),
        "num_heads": heads,
    }
    hidden = len(own.get("blocks.0.mlp.fc1.weight", ()))
    if swiglu or hidden != 4 * width:
        options["mlp_ratio"] = mlp_ratio(hidden, width)
    if channels != 3:
        options["in_chans"] = channels
    if "blocks.0.ls1.gamma" in own:
        options["init_values"] = 1e-5
    elif swiglu:
        options["init_values"] = None
    if "blocks.0.attn.qkv.bias" not in own:
        options["qkv_bias"] = False
    if "blocks.0.attn.q_norm.weight" in own:
        options["qk_norm"] = True
    if registers is not None:
        options |= {"reg_tokens": registers.shape[1], "no_embed_class": True}
    elif token and not token_position:
        options["no_embed_class"] = True
    if not token:
        options["class_token"] = False
    if not token and "qkv_bias" in options:
        raise InputError(
            f"The ViT in {tensors.where} has no class token and no bias of queries, keys and values. Its norms may be "
            "before or after attention and MLP. Give timm's name of the model: FILE,trunk=NAME."
        )
    if token and not token_position and registers is None and "init_values" in options:
        raise InputError(
            f"The ViT in {tensors.where} has the layout of DeiT III and of ViTs with rotary positions. Give timm's "
            "name of the model, such as FILE,trunk=deit3_base_patch16_224 or trunk=vit_base_patch16_rope_ape_224."
        )
    if width == _SIGLIP_WIDTH:
        options["act_layer"] = _siglip_activation(tensors)
    options["fc_norm"] = "norm.weight" not in own
    pool = tensors.pool or ("token" if token and not options["fc_norm"] else "avg")
    return Architecture(
        "vit_giant_patch14_dinov2" if swiglu else "vit_base_patch16_224",
        own,
        imagenet_preprocessing(size),
        options,
        pool,
        facts={"attention heads": f"{heads} ({reason})", "norm": _norm(options["fc_norm"]), **facts},
    )


def _siglip_activation(tensors: TrunkTensors) -> str:
    if tensors.activation not in ("gelu", "gelu_tanh"):
        raise InputError(
            f"The ViT in {tensors.where} has the width of SigLIP's so400m, whose activation its tensors do not define. "
            "Give FILE,activation=gelu_tanh for weights from Google, or activation=gelu."
        )
    return tensors.activation


def _beit(tensors: TrunkTensors, own: dict[str, Tensor]) -> Architecture:
    """Detect BEiT (arXiv:2106.08254) and data2vec: relative positions, whose tables define heads and input size."""
    if not tensors.has_scaling and "decoder.0.weight" not in tensors.state:  # SimMIM has ImageNet's scaling
        raise InputError(
            f"The ViT in {tensors.where} has the layout of BEiT, whose versions have different scalings. Give "
            "FILE,scaling=-1..1 for BEiT, or scaling=imagenet for BEiT v2 and data2vec."
        )
    table = next(value for name, value in own.items() if _POSITION_TABLE.fullmatch(name))
    if tensors.heads not in (None, table.shape[1]):
        raise InputError(f"The ViT in {tensors.where} has {table.shape[1]} attention heads, not heads={tensors.heads}.")
    width, _, patch, _ = own["patch_embed.proj.weight"].shape
    size = (isqrt(len(table) - 3) + 1) // 2 * patch
    fc_norm = "norm.weight" not in own
    shared = "rel_pos_bias.relative_position_bias_table" in own
    options: dict[str, Any] = {
        "img_size": size,
        "patch_size": patch,
        "embed_dim": width,
        "depth": block_count(own),
        "num_heads": table.shape[1],
        "mlp_ratio": mlp_ratio(len(own["blocks.0.mlp.fc1.weight"]), width),
        "init_values": 1e-5 if "blocks.0.gamma_1" in own else None,
        "qkv_bias": "blocks.0.attn.q_bias" in own,
        "use_abs_pos_emb": "pos_embed" in own,
        "use_rel_pos_bias": not shared,
        "use_shared_rel_pos_bias": shared,
        "use_fc_norm": fc_norm,
    }
    return Architecture(
        "beit_base_patch16_224",
        own,
        imagenet_preprocessing(size),
        options,
        tensors.pool or ("avg" if fc_norm else "token"),
        facts={
            "attention heads": f"{table.shape[1]} (from the tables of relative positions)",
            "norm": _norm(fc_norm),
        },
    )


_INTERPOLATIONS: dict[Interpolation, str] = {
    "antialias": "bicubic with antialiasing, as in timm and DINOv2 with registers",
    "offset": "bicubic, as in DINOv2",
}


def _interpolation(own: State) -> Interpolation:
    """Return the interpolation of DINOv2 without registers, which has layer scales and a mask token, or of timm."""
    without_registers = "register_tokens" not in own and "reg_token" not in own
    return "offset" if without_registers and {"mask_token", "blocks.0.ls1.gamma"} <= own.keys() else "antialias"


def require_multiple(size: int, patch: int, where: str) -> None:
    """Check that patches cover an image of another size than the size of the position embeddings.

    Raises:
        InputError: ``size`` is not a multiple of ``patch``.
    """
    if size % patch:
        raise InputError(f"The ViT in {where} has patches of {patch} pixels; {size} is not a multiple.")


def unchunked(own: State) -> dict[str, Tensor]:
    """Return the tensors with one number per block: DINOv2 and DINOv3 also write ``blocks.CHUNK.BLOCK``."""
    return {re.sub(r"^blocks\.\d+\.(\d+)\.", r"blocks.\1.", name): value for name, value in own.items()}


def _norm(fc_norm: bool) -> str:
    return "after the pooling" if fc_norm else "after the last block, before the pooling"


def block_count(own: State) -> int:
    """Return the number of blocks."""
    return len({match[1] for match in map(re.compile(r"blocks\.(\d+)\.").match, own) if match})


def mlp_ratio(hidden: int, width: int) -> float:
    """Return the ratio with which ``int(width * ratio)`` equals ``hidden``."""
    return hidden / width if int(width * (hidden / width)) == hidden else (hidden + 0.5) / width


def _timm_names(own: State) -> dict[str, Tensor]:
    """Return the tensors under timm's names. No tensor is resampled."""
    beit = any(map(_POSITION_TABLE.fullmatch, own))
    tensors = {
        name: value
        for name, value in own.items()
        if name != "mask_token" and not name.endswith("relative_position_index")
    }
    if "register_tokens" in tensors:
        position = tensors["pos_embed"]
        tensors["reg_token"] = tensors.pop("register_tokens")
        tensors["cls_token"] = tensors["cls_token"].float() + position[:, :1].float()
        tensors["pos_embed"] = position[:, 1:]
    renamed: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if not beit:
            name = re.sub(r"^(blocks\.\d+\.)gamma_([12])$", r"\1ls\2.gamma", name)
            if bias := re.match(r"(blocks\.\d+\.attn\.)q_bias$", name):
                # The keys have no bias (BEiT, CAE).
                queries, values = value, tensors[f"{bias[1]}v_bias"]
                name, value = f"{bias[1]}qkv.bias", torch.cat([queries, torch.zeros_like(queries), values])
            elif re.match(r"blocks\.\d+\.attn\.v_bias$", name):
                continue
        name = re.sub(r"^(blocks\.\d+\.mlp\.)w12\.", r"\1fc1.", name)
        renamed[re.sub(r"^(blocks\.\d+\.mlp\.)w3\.", r"\1fc2.", name)] = value
    return renamed
