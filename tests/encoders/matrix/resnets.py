"""Layouts of ResNets."""

from itertools import pairwise

import timm
from torch import nn

from tests.encoders.matrix.case import Case, Checkpoint, prefixed, randomised, then

POOLED = "average of the last feature map"


def resnet(seed: int = 0, layers: tuple[int, ...] = (1, 1, 1, 1)) -> nn.Module:
    """ResNet of width 16 with the names of torchvision."""
    return randomised(timm.create_model("resnet18", num_classes=0, layers=layers, channels=(8, 8, 8, 16)), seed)


def mlp(*widths: int, norm: bool = False, last_norm: bool = False, bias: bool = True, seed: int = 1) -> nn.Sequential:
    """Linear layers with batch norm and ReLU between them."""
    modules: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        last = index == len(widths) - 2
        modules.append(nn.Linear(inputs, outputs, bias=bias))
        if last_norm if last else norm:
            modules.append(nn.BatchNorm1d(outputs, affine=not last))
        if not last:
            modules.append(nn.ReLU())
    return randomised(nn.Sequential(*modules), seed)


def moco_v2() -> Checkpoint:
    query, key = resnet(), resnet(5)
    head, key_head = mlp(16, 16, 12), mlp(16, 16, 12, seed=6)
    state = prefixed("module.encoder_q.", query) | prefixed("module.encoder_q.fc.", head)
    state |= prefixed("module.encoder_k.", key) | prefixed("module.encoder_k.fc.", key_head)
    return Checkpoint({"state_dict": state, "arch": "resnet50"}, query, then(query, head))


CASES = [
    Case(
        "moco_v2",
        "MoCo v2 (facebookresearch/moco)",
        "`module.encoder_q.*`, `module.encoder_q.fc.0`, `.2`, `module.encoder_k.*`",
        moco_v2,
        POOLED,
        "output of `encoder_q.fc`",
        size=32,
    ),
]
