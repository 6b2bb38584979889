"""Architecture of DINOv3's ViTs from names and shapes of their tensors."""

import re
from typing import Any

import torch
from torch import Tensor

from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.architectures import DEFAULT_SIZE, Architecture, TrunkTensors, imagenet_preprocessing
from rcdm_cli.encoders.read_vit import block_count, mlp_ratio, require_multiple, unchunked
from rcdm_cli.encoders.state import State

_ROPE_BASE = 100.0
_LEFT_OUT = re.compile(r"mask_token|rope_embed\.periods|local_cls_norm\..*|.*\.bias_mask")
"""Tensors of the pretraining, and constants."""


def read_dinov3(tensors: TrunkTensors) -> Architecture:
    """Detect ViTs of DINOv3 (arXiv:2508.10104), which have rotary positions and register tokens (``storage_tokens``).

    The periods of the rotary positions define the number of attention heads.

    Raises:
        InputError: the periods are missing or not those of DINOv3, or the keys have a bias.
    """
    state, where = unchunked(tensors.own), tensors.where
    width, channels, patch, _ = state["patch_embed.proj.weight"].shape
    periods = state.get("rope_embed.periods")
    if periods is None or periods.ndim != 1 or not len(periods) > 1 or width % (4 * len(periods)):
        raise InputError(
            f"The ViT in {where} has register tokens of DINOv3, but no periods of rotary positions "
            "(rope_embed.periods)."
        )
    head_width = 4 * len(periods)
    exponents = torch.arange(len(periods), dtype=torch.float64) / len(periods)
    # The periods are stored in bfloat16 in some files.
    if not torch.allclose(periods.double(), _ROPE_BASE**exponents, rtol=0.01):
        raise InputError(
            f"The periods of the rotary positions of the ViT in {where} are not those of DINOv3 (base 100)."
        )
    size = tensors.size or DEFAULT_SIZE
    require_multiple(size, patch, where)
    own = {name: value for name, value in state.items() if not _LEFT_OUT.fullmatch(name)}
    own["reg_token"] = own.pop("storage_tokens")
    gated = "blocks.0.mlp.w1.weight" in own
    biased = "blocks.0.attn.qkv.bias" in own
    options: dict[str, Any] = {
        "img_size": size,
        "patch_size": patch,
        "embed_dim": width,
        "depth": block_count(own),
        "num_heads": width // head_width,
        "mlp_ratio": mlp_ratio(len(own[f"blocks.0.mlp.{'w1' if gated else 'fc1'}.weight"]), width),
        "num_reg_tokens": own["reg_token"].shape[1],
    }
    if channels != 3:
        options["in_chans"] = channels
    name = ("vit_small_plus_patch16_dinov3" if gated else "vit_small_patch16_dinov3") + ("_qkvb" if biased else "")
    return Architecture(
        name,
        _timm_names(own, state, where),
        imagenet_preprocessing(size),
        options,
        tensors.pool or "token",
        facts={
            "attention heads": f"{width // head_width} (from the periods of the rotary positions)",
            "norm": "after the last block, before the pooling",
        },
    )


_NAMES = (
    (r"\.ls([12])\.gamma$", r".gamma_\1"),
    (r"\.mlp\.w1\.", ".mlp.fc1_g."),
    (r"\.mlp\.w2\.", ".mlp.fc1_x."),
    (r"\.mlp\.w3\.", ".mlp.fc2."),
)


def _timm_names(own: State, state: State, where: str) -> dict[str, Tensor]:
    renamed: dict[str, Tensor] = {}
    for name, value in own.items():
        if name.endswith(".attn.qkv.bias"):
            base = name.removesuffix(".qkv.bias")
            mask = state.get(f"{name}_mask")
            query, key, values = (value if mask is None else torch.where(mask == 0, 0, value)).chunk(3)
            if bool(key.any()):
                raise InputError(f"The keys of the attention in {where} have a bias, which DINOv3 does not have.")
            renamed |= {f"{base}.q_bias": query, f"{base}.v_bias": values}
            continue
        for pattern, replacement in _NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = value
    return renamed
