"""Architecture of the image tower of CLIP with the names of OpenAI, OpenCLIP and timm."""

import re
from dataclasses import replace

from torch import Tensor

from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.architectures import Architecture, TrunkTensors, with_facts
from rcdm_cli.encoders.read_vit import read_vit

_NAMES = (
    (r"^conv1\.", "patch_embed.proj."),
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"\.ls_([12])\.", r".ls\1."),
)


def read_clip(tensors: TrunkTensors) -> Architecture:
    """Detect the ViT of CLIP (arXiv:2103.00020) with the names of OpenAI or timm, and a norm before the first block.

    ``h`` is the class token after the last norm. ``head`` is the projection.

    Raises:
        InputError: the activation is not given: OpenAI's weights need QuickGELU, and OpenCLIP's own weights GELU; or
            the network is a Perception Encoder.
    """
    pooling = "attn_pool." if "norm_pre.weight" in tensors.own else "attn_pool.probe"
    if any(name.startswith(pooling) for name in tensors.own):
        raise InputError(
            f"The CLIP in {tensors.where} has the attention pooling of the Perception Encoder, whose rotary positions "
            "have no tensors. Give timm's name of the model, such as FILE,trunk=vit_pe_core_base_patch16_224."
        )
    if tensors.activation not in ("gelu", "quick_gelu"):
        raise InputError(
            f"The CLIP in {tensors.where} has an activation that its tensors do not define. Give "
            "FILE,activation=quick_gelu for weights from OpenAI, or activation=gelu for OpenCLIP's own weights."
        )
    renamed = dict(_renamed(name, value) for name, value in tensors.own.items())
    architecture = read_vit(replace(tensors, own=renamed))
    options = {**architecture.options, "act_layer": tensors.activation}
    return with_facts(
        replace(architecture, name="vit_base_patch16_clip_224", options=options),
        activation=f"{tensors.activation} (given)",
    )


def _renamed(name: str, value: Tensor) -> tuple[str, Tensor]:
    if name == "proj":
        return "head.weight", value.T
    new = name
    for old, timm in _NAMES:
        new = re.sub(old, timm, new)
    lacks_axes = {"class_embedding": (1, 1, -1), "positional_embedding": (1, *value.shape)}
    return new, value.reshape(lacks_axes[name]) if name in lacks_axes else value
