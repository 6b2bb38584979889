"""Architecture of EfficientNet-Lites from names of their tensors."""

import re

import torch

from rcdm_cli.encoders.architectures import Architecture, TrunkTensors
from rcdm_cli.encoders.spec import Preprocessing
from rcdm_cli.encoders.state import State
from rcdm_cli.encoders.trunks import build_trunk

_SIZES = (224, 240, 260, 280, 300)
"""Input sizes of the versions 0 to 4 in TensorFlow."""

_LITE = (
    (r"_conv_stem\.", "conv_stem."),
    (r"_bn0\.", "bn1."),
    (r"_conv_head\.", "conv_head."),
    (r"_bn1\.", "bn2."),
    (r"_fc\.", "classifier."),
)
_EXPANDED = {"_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2"}
_EXPANDED |= {"_project_conv": "conv_pwl", "_bn2": "bn3"}
_PLAIN = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}


def read_efficientnet_lite(tensors: TrunkTensors) -> Architecture:
    """Detect EfficientNet-Lite 0 to 4 with the names of PyTorch ports of TensorFlow (``_blocks.3._expand_conv``)."""
    own = tensors.own
    count = len({match[1] for match in map(re.compile(r"_blocks\.(\d+)\.").match, own) if match})
    for version in range(5):
        name = f"tf_efficientnet_lite{version}"
        with torch.device("meta"):
            stages = [len(stage) for stage in build_trunk(name, {}, tensors.pool).blocks]  # type: ignore[union-attr]
        if sum(stages) == count:
            break
    block_names = [f"blocks.{stage}.{index}" for stage, depth in enumerate(stages) for index in range(depth)]
    renamed = {_lite_name(old, own, block_names): value for old, value in own.items()}
    return Architecture(
        name, renamed, Preprocessing(size=_SIZES[version]), pool=tensors.pool, scaling="of the weights from TensorFlow"
    )


def _lite_name(name: str, own: State, block_names: list[str]) -> str:
    if block := re.match(r"_blocks\.(\d+)\.([^.]+)\.(.*)", name):
        number, module, rest = int(block[1]), block[2], block[3]
        modules = _EXPANDED if f"_blocks.{number}._expand_conv.weight" in own else _PLAIN
        return f"{block_names[number] if number < len(block_names) else number}.{modules.get(module, module)}.{rest}"
    for old, new in _LITE:
        if re.match(old, name):
            return re.sub(f"^{old}", new, name)
    return name
