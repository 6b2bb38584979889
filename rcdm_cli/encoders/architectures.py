"""Detection of trunk architectures from the names and shapes of a state dict, with tensors under timm's names."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from rcdm_cli.encoders.reference import IMAGENET_MEAN, IMAGENET_STD
from rcdm_cli.encoders.spec import Preprocessing
from rcdm_cli.encoders.trunks import build_trunk, timm_config

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Architecture:
    """Configuration of a timm trunk, and tensors under timm's names, which may include other tensors."""

    name: str
    tensors: State
    preprocessing: Preprocessing
    options: dict[str, Any] = field(default_factory=dict)
    pool: str | None = None
    stem_padding: int | None = None

    def expected(self) -> dict[str, list[int]]:
        """Return the shape of every tensor of the trunk, by name."""
        with torch.device("meta"):
            trunk = build_trunk(self.name, self.options, self.pool, self.stem_padding)
        return {name: list(value.shape) for name, value in trunk.state_dict().items()}


def timm_preprocessing(name: str) -> Preprocessing:
    """Return size, mean and standard deviation of a timm model. timm's crop ratio is not used."""
    config = timm_config(name)
    return Preprocessing(size=config.input_size[-1], mean=config.mean, std=config.std)


def named_architecture(name: str, own: State, pool: str | None) -> Architecture:
    """Build the architecture of a timm name, with names of other projects converted by timm."""
    with torch.device("meta"):
        tensors = _convert(own, build_trunk(name, {}, pool)) if own else {}
    return Architecture(name, tensors, timm_preprocessing(name), pool=pool)


def _convert(own: State, trunk: nn.Module) -> dict[str, Tensor]:
    """Convert names and shapes of other projects with timm's converter of the model, if present."""
    convert = getattr(import_module(type(trunk).__module__), "checkpoint_filter_fn", None)
    return convert(dict(own), trunk) if convert else dict(own)


def resnet(own: State, pool: str | None) -> Architecture:
    """Detect ResNets (arXiv:1512.03385), wide ResNets and ResNeXts with the names of torchvision and timm."""
    blocks = [_count(own, rf"layer{stage}\.(\d+)\.") for stage in range(1, 5)]
    deep = "layer1.0.conv3.weight" in own
    planes = tuple(
        len(own[f"layer{stage}.0.conv{3 if deep else 2}.weight"]) // (4 if deep else 1)
        for stage in range(1, 5)
        if f"layer{stage}.0.conv{3 if deep else 2}.weight" in own
    )
    name, depths = ("resnet50", [3, 4, 6, 3]) if deep else ("resnet18", [2, 2, 2, 2])
    for other, layers in (("resnet34", [3, 4, 6, 3]), ("resnet101", [3, 4, 23, 3]), ("resnet152", [3, 8, 36, 3])):
        if blocks == layers and (other == "resnet34") is not deep:
            name, depths = other, layers
    options: dict[str, Any] = {} if blocks == depths else {"layers": blocks}
    if planes != (64, 128, 256, 512):
        options["channels"] = planes
    if deep and "layer1.0.conv2.weight" in own:
        width, each = own["layer1.0.conv2.weight"].shape[:2]
        groups = width // each
        if (groups, base := width * 64 // (planes[0] * groups)) != (1, 64):
            options |= {"cardinality": groups, "base_width": base}
    stem = own.get("conv1.weight")
    small = stem is not None and stem.shape[-1] == 3
    preprocessing = Preprocessing(size=32 if small else 224, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    return Architecture(name, own, preprocessing, options, pool, 1 if small else None)


def sequential_resnet(own: State, pool: str | None) -> Architecture:
    """Detect a ResNet without classifier as ``nn.Sequential(*children)``, as in lightly's examples."""
    indices = sorted({int(index) for name in own if (index := name.partition(".")[0]).isdigit()})
    names = dict(zip(map(str, indices), ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4"), strict=False))
    renamed = {}
    for name, value in own.items():
        index, _, rest = name.partition(".")
        renamed[f"{names.get(index, index)}.{rest}"] = value
    return resnet(renamed, pool)


def vit(own: State, pool: str | None) -> Architecture:
    """Detect ViTs (arXiv:2010.11929) with the names of timm, DINO, DINOv2 and MAE; 64 channels a head, 80 in ViT-H."""
    width, _, patch, _ = own["patch_embed.proj.weight"].shape
    positions = own["pos_embed"].shape[1] if "pos_embed" in own else 0
    registers = own.get("register_tokens", own.get("reg_token"))
    token = "cls_token" in own
    # DINOv2 has a position embedding for the class token. In models with registers, timm adds it to the token.
    token_position = isqrt(positions) ** 2 != positions
    size = isqrt(positions - token_position) * patch
    hidden = own.get("blocks.0.mlp.fc1.weight", own.get("blocks.0.mlp.w12.weight"))
    options: dict[str, Any] = {
        "img_size": size,
        "patch_size": patch,
        "embed_dim": width,
        "depth": _count(own, r"blocks\.(\d+)\."),
        "num_heads": 16 if width == 1280 else max(width // 64, 1),
    }
    if hidden is not None and len(hidden) != 4 * width:
        options["mlp_ratio"] = len(hidden) / width
    if "blocks.0.ls1.gamma" in own:
        options["init_values"] = 1e-5
    if "blocks.0.attn.qkv.bias" not in own:
        options["qkv_bias"] = False
    if registers is not None:
        options |= {"reg_tokens": registers.shape[1], "no_embed_class": True}
    elif token and not token_position:
        options["no_embed_class"] = True
    if not token:
        options["class_token"] = False
    options["fc_norm"] = "norm.weight" not in own
    pool = pool or ("token" if token and not options["fc_norm"] else "avg")
    name = "vit_base_patch16_224"
    with torch.device("meta"):
        tensors = _convert(own, build_trunk(name, options, pool))
    tensors.pop("mask_token", None)
    return Architecture(name, tensors, Preprocessing(size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD), options, pool)


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


def efficientnet_lite(own: State, pool: str | None) -> Architecture:
    """Detect EfficientNet-Lite 0 to 4 with the names of PyTorch ports of TensorFlow (``_blocks.3._expand_conv``)."""
    count = _count(own, r"_blocks\.(\d+)\.")
    for version in range(5):
        name = f"tf_efficientnet_lite{version}"
        with torch.device("meta"):
            stages = [len(stage) for stage in build_trunk(name, {}, pool).blocks]  # type: ignore[union-attr]
        if sum(stages) == count:
            break
    block_names = [f"blocks.{stage}.{index}" for stage, depth in enumerate(stages) for index in range(depth)]
    tensors = {_lite_name(old, own, block_names): value for old, value in own.items()}
    return Architecture(name, tensors, timm_preprocessing(name), pool=pool)


def _lite_name(name: str, own: State, block_names: list[str]) -> str:
    if block := re.match(r"_blocks\.(\d+)\.([^.]+)\.(.*)", name):
        number, module, rest = int(block[1]), block[2], block[3]
        modules = _EXPANDED if f"_blocks.{number}._expand_conv.weight" in own else _PLAIN
        return f"{block_names[number] if number < len(block_names) else number}.{modules.get(module, module)}.{rest}"
    for old, new in _LITE:
        if re.match(old, name):
            return re.sub(f"^{old}", new, name)
    return name


def _count(own: State, pattern: str) -> int:
    return len({match[1] for match in map(re.compile(pattern).match, own) if match})


TrunkReader = Callable[[State, str | None], Architecture]

FAMILIES: dict[str, TrunkReader] = {
    r"layer1\.0\.conv1\.weight": resnet,
    r"\d+\.0\.conv1\.weight": sequential_resnet,
    r"patch_embed\.proj\.weight": vit,
    r"_conv_stem\.weight": efficientnet_lite,
}
"""Detection function of each family, by the pattern of a characteristic tensor name."""
