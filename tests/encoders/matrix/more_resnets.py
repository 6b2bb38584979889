"""Further layouts of ResNets: wrappers of training frameworks, small stems, and networks that are refused."""

import torch
from torch import nn

from tests.encoders.matrix.case import Case, Checkpoint, State, prefixed, then
from tests.encoders.matrix.resnets import (
    POOLED,
    linear,
    mlp,
    moco_v2,
    resnet,
    small_stem_resnet,
    torchvision,
)
from tests.encoders.matrix.vits import dino_head

STEM = ("3×3 first convolution", "padding=1", "max pooling")


def _pcl() -> Checkpoint:
    made = moco_v2()
    clusters = {"centroids": [torch.zeros(4, 12)], "density": [torch.ones(4)]}
    return Checkpoint({**made.content, "cluster_result": clusters}, made.backbone, made.projector)


def _infomin() -> Checkpoint:
    trunk, head = resnet(), mlp(16, 16, 12)
    states = [
        prefixed("module.encoder.", own) | prefixed("module.head.", own_head)
        for own, own_head in ((trunk, head), (resnet(5), mlp(16, 16, 12, seed=6)))
    ]
    content = {"model": states[0], "model_ema": states[1], "contrast": {"memory": torch.zeros(7, 12)}, "epoch": 800}
    return Checkpoint(content, trunk, then(trunk, head))


def _nnclr() -> Checkpoint:
    trunk, head = resnet(), mlp(16, 24, 12, norm=True, last_norm=True)
    state = prefixed("backbone.", nn.Sequential(*list(trunk.children())[:-1])) | prefixed(
        "projection_head.layers.", head
    )
    state |= prefixed("prediction_head.layers.", mlp(12, 24, 12, norm=True, seed=6))
    state |= {"memory_bank.bank": torch.zeros(12, 7), "memory_bank.bank_ptr": torch.zeros(1)}
    return Checkpoint({"state_dict": state}, trunk, then(trunk, head))


def _wmse() -> Checkpoint:
    trunk, head = small_stem_resnet(), mlp(16, 24, 12, norm=True)
    state = prefixed("model.", trunk) | prefixed("head.", head) | {"whitening.running_mean": torch.zeros(1, 12, 1, 1)}
    return Checkpoint(state, trunk, then(trunk, head))


def _bolts_swav() -> Checkpoint:
    trunk, head = resnet(), mlp(16, 24, 12, norm=True)
    state = prefixed("model.", trunk) | prefixed("model.projection_head.", head)
    return Checkpoint({"state_dict": state | prefixed("model.prototypes.", linear(12, 40))}, trunk, then(trunk, head))


def _detr() -> Checkpoint:
    """The batch norms of DETR are frozen and do not count batches."""
    trunk = torchvision()
    own = {name: value for name, value in trunk.state_dict().items() if not name.endswith("num_batches_tracked")}
    state = prefixed("backbone.0.body.", own) | prefixed("class_embed.", linear(32, 5))
    state |= prefixed("transformer.encoder.layers.0.linear1.", linear(32, 32)) | prefixed("input_proj.", linear(32, 8))
    return Checkpoint({"model": state}, trunk)


def _dilated() -> Checkpoint:
    state = prefixed("backbone.", torchvision())
    state |= {"classifier.4.weight": torch.zeros(21, 256, 1, 1), "classifier.4.bias": torch.zeros(21)}
    return Checkpoint({"model": state | {"aux_classifier.4.weight": torch.zeros(21, 256, 1, 1)}})


def _mmseg() -> Checkpoint:
    state = prefixed("backbone.", torchvision())
    return Checkpoint({"state_dict": state | {"decode_head.conv_seg.weight": torch.zeros(21, 512, 1, 1)}, "meta": {}})


def _three_stages() -> Checkpoint:
    state = {name: value for name, value in resnet().state_dict().items() if not name.startswith("layer4")}
    state["conv1.weight"] = torch.zeros(64, 3, 3, 3)
    return Checkpoint(state | prefixed("fc.", linear(8, 10)))


def _twice_as_wide() -> Checkpoint:
    state = torchvision().state_dict()
    wide = {
        name: torch.zeros([2 * side if side > 3 else side for side in value.shape]) for name, value in state.items()
    }
    return Checkpoint(prefixed("module.", wide | {"conv1.weight": torch.zeros(128, 3, 7, 7)}))


def _seer() -> Checkpoint:
    name = "_feature_blocks.trunk_output.block1.block1-0.f.a"
    trunk = {"_feature_blocks.stem.0.weight": torch.zeros(32, 3, 3, 3), f"{name}.0.weight": torch.zeros(8, 8, 1, 1)}
    return Checkpoint({"classy_state_dict": {"base_model": {"model": {"trunk": trunk, "heads": {}}}}})


def _volumes() -> Checkpoint:
    state = {
        name: value[:, :, None].repeat(1, 1, 3, 1, 1) if value.ndim == 4 else value
        for name, value in resnet().state_dict().items()
    }
    return Checkpoint({"state_dict": prefixed("module.", state | {"conv1.weight": torch.zeros(64, 1, 7, 7, 7)})})


def _vgg() -> Checkpoint:
    return Checkpoint({"state_dict": {"features.0.weight": torch.zeros(8, 3, 3, 3), "sobel.0.bias": torch.zeros(2)}})


def _compiled_parts() -> Checkpoint:
    trunk, head = resnet(), mlp(16, 24, 12, norm=True)
    state = prefixed("backbone._orig_mod.", trunk) | prefixed("projector._orig_mod.", head)
    return Checkpoint({"model": prefixed("module.", state)}, trunk, then(trunk, head))


def _deepspeed() -> Checkpoint:
    trunk = resnet().bfloat16()
    content = {
        "module": trunk.state_dict() | prefixed("fc.", linear(16, 10).bfloat16()),
        "buffer_names": ["bn1.running_mean"],
        "param_shapes": [{name: value.shape for name, value in trunk.named_parameters()}],
        "optimizer": None,
        "ds_config": {"bf16": {"enabled": True}},
        "ds_version": "0.16.0",
        "global_steps": 100,
    }
    return Checkpoint(content, trunk.float())


def _lightly_train() -> Checkpoint:
    state: State = {}
    for seed, branch in enumerate(("student", "teacher")):
        trunk, head = resnet(seed), dino_head(16, seed)
        state |= prefixed(f"{branch}_embedding_model.wrapped_model._model.", trunk)
        state |= prefixed(f"{branch}_projection_head.layers.", head)
        state |= {f"{branch}_projection_head.last_layer.weight_v": torch.zeros(40, 12)}
    return Checkpoint({"state_dict": state}, trunk, then(trunk, head))


CASES = [
    Case("pcl", "PCL (salesforce/PCL)", "as MoCo v2, with `cluster_result`", _pcl, POOLED, "output of `encoder_q.fc`"),
    Case(
        "infomin",
        "InfoMin, CMC v2 (HobbitLong/PyContrast)",
        "`model`, `model_ema`: `module.encoder.*`, `module.head.0`",
        _infomin,
        POOLED,
        "output of `head`",
        options="prefix=model",
        refused=("2 trunks", "prefix=model.module.encoder"),
    ),
    Case(
        "nnclr",
        "lightly, NNCLR",
        "`backbone.0`, `projection_head.*`, `prediction_head.*`, `memory_bank.bank`",
        _nnclr,
        POOLED,
        "output of `projection_head`",
    ),
    Case(
        "small_stem",
        "W-MSE (htdt/self-supervised), CIFAR",
        "`model.conv1` (3×3), `head.0`, `whitening.running_mean`",
        _wmse,
        POOLED,
        "output of `head`",
        options="padding=1",
        refused=STEM,
    ),
    Case(
        "bolts_swav",
        "SwAV (Lightning Bolts)",
        "`model.conv1`, `model.projection_head.0`, `model.prototypes`",
        _bolts_swav,
        POOLED,
        "output of `projection_head`",
    ),
    Case("detr", "DETR (facebookresearch/detr)", "`backbone.0.body.*`, `transformer.*`", _detr, POOLED),
    Case(
        "torchvision_segmentation",
        "torchvision, DeepLab and FCN",
        "`backbone.*`, `classifier.4` (convolution)",
        _dilated,
        refused=("dilated", "classifier.4.weight"),
    ),
    Case(
        "mmseg",
        "MMSegmentation",
        "`backbone.*`, `decode_head.conv_seg`",
        _mmseg,
        refused=("dilated", "decode_head.conv_seg.weight"),
    ),
    Case(
        "three_stages",
        "CIFAR ResNet-20 to 110 (akamaster, chenyaofo)",
        "`layer1` to `layer3`",
        _three_stages,
        refused=("3 stages",),
    ),
    Case(
        "twice_as_wide",
        "ResNet-50 (2×) of SwAV, VICReg and BYOL",
        "`conv1.weight` (128, 3, 7, 7)",
        _twice_as_wide,
        refused=("another shape at", "trunk=NAME"),
    ),
    Case(
        "seer",
        "SEER (VISSL), RegNet",
        "`_feature_blocks.trunk_output.*`",
        _seer,
        refused=("no recognised trunk", "trunk=NAME"),
    ),
    Case(
        "volumes", "MedicalNet, ResNet for volumes", "`conv1.weight` (64, 1, 7, 7, 7)", _volumes, refused=("volumes",)
    ),
    Case("vgg", "DeepCluster, VGG and AlexNet", "`features.0`", _vgg, refused=("no recognised trunk",)),
    Case(
        "compiled_parts",
        "`torch.compile` of backbone and projector",
        "`module.backbone._orig_mod.*`, `module.projector._orig_mod.0`",
        _compiled_parts,
        POOLED,
        "output of `projector`",
    ),
    Case("deepspeed", "DeepSpeed", "`module`: weights in bfloat16; `param_shapes`, `ds_config`", _deepspeed, POOLED),
    Case(
        "lightly_train",
        "LightlyTrain, DINO",
        "`teacher_embedding_model.wrapped_model._model.*`, `teacher_projection_head.last_layer`",
        _lightly_train,
        f"{POOLED} of the teacher",
        "bottleneck of `teacher_projection_head`",
    ),
]
