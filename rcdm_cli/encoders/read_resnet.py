"""Architecture of ResNets from names and shapes of their tensors."""

import re
from dataclasses import replace
from typing import Any

from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.architectures import Architecture, TrunkTensors, imagenet_preprocessing
from rcdm_cli.encoders.state import State

SMALL_STEM_SIZE = 32
_STAGES = ("layer1", "layer2", "layer3", "layer4")


_DENSE = re.compile(r"((aux_)?classifier|(decode|auxiliary)_head)\.")
"""Convolutional heads of segmentation networks, of torchvision and MMSegmentation."""


def read_resnet(tensors: TrunkTensors, stem_is_known: bool = False) -> Architecture:
    """Detect ResNets (arXiv:1512.03385), wide ResNets and ResNeXts with the names of torchvision and timm.

    Args:
        tensors: tensors of the checkpoint.
        stem_is_known: whether the file proves that no max pooling follows a 3×3 convolution.

    Raises:
        InputError: the ResNet takes volumes, has another number of stages, may be dilated, or has a stem whose padding
            and max pooling are not known.
    """
    _check_layout(tensors)
    # kuangliu/pytorch-cifar, SupContrast and others name the projection of the input of a block "shortcut".
    own = {
        re.sub(r"^(layer\d\.\d+)\.shortcut\.", r"\1.downsample.", name): value for name, value in tensors.own.items()
    }
    blocks = [_count(own, rf"{stage}\.(\d+)\.") for stage in _STAGES]
    deep = "layer1.0.conv3.weight" in own
    last = f"conv{3 if deep else 2}.weight"
    planes = tuple(
        len(own[f"{stage}.0.{last}"]) // (4 if deep else 1) for stage in _STAGES if f"{stage}.0.{last}" in own
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
    if stem is not None and stem.shape[1] != 3:
        options["in_chans"] = stem.shape[1]
    padding = None
    if stem is not None and stem.shape[-1] == 3:
        padding = _small_stem_padding(tensors, stem_is_known or any(".shortcut." in name for name in tensors.own))
    size = {} if padding is None else {"size": SMALL_STEM_SIZE}
    facts: dict[str, str] = {}
    if padding is not None:
        reason = "convention" if tensors.padding is None else "given"
        facts["stem"] = f"3×3, stride 1, padding {padding} ({reason}), no max pooling (convention)"
    return Architecture(name, own, imagenet_preprocessing(**size), options, tensors.pool, padding, facts=facts)


def _check_layout(tensors: TrunkTensors) -> None:
    if any(value.ndim == 5 for value in tensors.own.values()):
        raise InputError(
            f"The ResNet in {tensors.where} has convolutions for volumes or videos. Networks for images are supported."
        )
    stages = [stage for stage in _STAGES if any(name.startswith(f"{stage}.") for name in tensors.own)]
    if len(stages) != len(_STAGES):
        raise InputError(
            f"The ResNet in {tensors.where} has {len(stages)} stages. ResNets with {len(_STAGES)} stages are supported."
        )
    parent = "".join(f"{part}." for part in tensors.prefix.split(".")[:-2])
    for name, value in tensors.state.items():
        if name.startswith(parent) and _DENSE.match(name.removeprefix(parent)) and value.ndim == 4:
            raise InputError(
                f"The ResNet in {tensors.where} belongs to a segmentation network ({name} is a convolution). The last "
                "stages of such ResNets are usually dilated, which tensors do not define. This ResNet is not supported."
            )


def _small_stem_padding(tensors: TrunkTensors, is_known: bool) -> int:
    """Return the given padding, or 2 for solo-learn, whose files have a classifier beside the trunk, else 1.

    Raises:
        InputError: the padding is not given, and the file does not prove that there is no max pooling.
    """
    if tensors.padding is not None:
        return tensors.padding
    parent, _, module = tensors.prefix.rstrip(".").rpartition(".")
    if module in ("backbone", "encoder") and f"{parent}.classifier.weight".lstrip(".") in tensors.state:
        return 2
    if not is_known:
        raise InputError(
            f"The ResNet in {tensors.where} has a 3×3 first convolution. Tensors define neither its stride and padding "
            "nor whether max pooling follows. Give FILE,padding=1 for stride 1 without max pooling. Other stems of "
            "this size are not supported."
        )
    return 1


def read_sequential_resnet(tensors: TrunkTensors) -> Architecture:
    """Detect a ResNet as ``nn.Sequential(*children)``: convolution, batch norm, ReLU, max pooling and four stages.

    Modules without weights are missing in the file, so the numbers of the modules must prove that they exist.

    Raises:
        InputError: the numbers leave no place for the ReLU, or do not prove the max pooling.
    """
    indices = sorted({int(index) for name in tensors.own if (index := name.partition(".")[0]).isdigit()})
    _check_numbers(indices, tensors)
    names = dict(zip(map(str, indices), ("conv1", "bn1", *_STAGES), strict=False))
    renamed = {}
    for name, value in tensors.own.items():
        index, _, rest = name.partition(".")
        renamed[f"{names.get(index, index)}.{rest}"] = value
    # With two modules without weights, see below.
    architecture = read_resnet(replace(tensors, own=renamed), stem_is_known=True)
    if indices[2] == 4 and architecture.stem_padding is not None and tensors.padding is None:
        raise InputError(
            f"The ResNet in {tensors.where} has a 3×3 stem and two modules without weights before its first stage: a "
            "ReLU, and max pooling or nothing. Give FILE,padding=1 for a stem of stride 1 without max pooling."
        )
    if indices[2] == 3 and architecture.stem_padding is None:
        raise InputError(
            f"The ResNet in {tensors.where} has one module without weights between its batch norm and its first stage, "
            "so the ReLU or the max pooling is missing. This ResNet is not supported."
        )
    return architecture


def _check_numbers(indices: list[int], tensors: TrunkTensors) -> None:
    first = indices[2] if len(indices) > 2 else 0
    if indices[:2] != [0, 1] or indices[2:6] != list(range(first, first + 4)) or not 3 <= first <= 4:
        numbers = ", ".join(map(str, indices))
        raise InputError(
            f"The modules {numbers} of the nn.Sequential in {tensors.where} are not those of a ResNet: 0 and 1 for "
            "convolution and batch norm, ReLU and max pooling without weights, and 4 to 7 for the stages. Modules "
            "without weights are not in the file, and none is assumed."
        )


def _count(own: State, pattern: str) -> int:
    return len({match[1] for match in map(re.compile(pattern).match, own) if match})
