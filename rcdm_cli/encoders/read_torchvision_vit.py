"""Architecture of torchvision's ViTs from names and shapes of their tensors."""

import re
from dataclasses import replace

from rcdm_cli.encoders.architectures import Architecture, TrunkTensors
from rcdm_cli.encoders.read_vit import read_vit

_NAMES = (
    (r"class_token", "cls_token"),
    (r"conv_proj\.(.*)", r"patch_embed.proj.\1"),
    (r"encoder\.pos_embedding", "pos_embed"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.ln_([12])\.(.*)", r"blocks.\1.norm\2.\3"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.in_proj_(.*)", r"blocks.\1.attn.qkv.\2"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.self_attention\.out_proj\.(.*)", r"blocks.\1.attn.proj.\2"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:0|linear_1)\.(.*)", r"blocks.\1.mlp.fc1.\2"),
    (r"encoder\.layers\.encoder_layer_(\d+)\.mlp\.(?:3|linear_2)\.(.*)", r"blocks.\1.mlp.fc2.\2"),
    (r"encoder\.ln\.(.*)", r"norm.\1"),
)


def read_torchvision_vit(tensors: TrunkTensors) -> Architecture:
    """Detect ViTs of torchvision. ``h`` is the class token after the last norm, the input of the classifier.

    Raises:
        InputError: see ``read_vit``.
    """
    renamed = {}
    for name, value in tensors.own.items():
        for pattern, replacement in _NAMES:
            if match := re.fullmatch(pattern, name):
                name = match.expand(replacement)
                break
        renamed[name] = value
    return read_vit(replace(tensors, own=renamed))
