"""Layouts of ResNets."""

from itertools import pairwise

import timm
import torch
from timm.models.resnet import ResNet
from torch import nn
from torchvision.models import resnet as torchvision_resnet

from tests.encoders.matrix.case import Case, Checkpoint, State, prefixed, randomised, then

CIFAR = ((0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616))
POOLED = "average of the last feature map"


def resnet(seed: int = 0, layers: tuple[int, ...] = (1, 1, 1, 1)) -> ResNet:
    """ResNet of width 16 with the names of torchvision."""
    return randomised(timm.create_model("resnet18", num_classes=0, layers=layers, channels=(8, 8, 8, 16)), seed)


def small_stem_resnet(padding: int = 1) -> ResNet:
    """ResNet for small images: 3×3 convolution of stride 1 without max pooling."""
    made = timm.create_model("resnet18", num_classes=0, layers=(1, 1, 1, 1), channels=(8, 8, 8, 16))
    made.conv1, made.maxpool = nn.Conv2d(3, 64, 3, 1, padding, bias=False), nn.Identity()
    return randomised(made)


def torchvision(block: type[nn.Module] = torchvision_resnet.BasicBlock, **options: int) -> nn.Module:
    """Original ResNet of torchvision with one block per stage, without classifier."""
    made = torchvision_resnet.ResNet(block, [1, 1, 1, 1], **options)
    made.fc = nn.Identity()
    return randomised(made)


def mlp(
    *widths: int, norm: bool = False, last_norm: bool = False, bias: bool = True, last_bias: bool = True, seed: int = 1
) -> nn.Sequential:
    """Linear layers with ReLU and optional batch norm between them; the last batch norm has no weights."""
    modules: list[nn.Module] = []
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        last = index == len(widths) - 2
        modules.append(nn.Linear(inputs, outputs, bias=last_bias if last else bias))
        if last_norm if last else norm:
            modules.append(nn.BatchNorm1d(outputs, affine=not last))
        if not last:
            modules.append(nn.ReLU())
    return randomised(nn.Sequential(*modules), seed)


def renamed(state: State, *names: tuple[str, str]) -> State:
    """Replace the start of names, such as ``0.`` by ``fc0.``."""
    result = {}
    for name, value in state.items():
        old, new = next(((old, new) for old, new in names if name.startswith(old)), ("", ""))
        result[new + name.removeprefix(old)] = value
    return result


def linear(inputs: int, outputs: int, seed: int = 3) -> nn.Linear:
    return randomised(nn.Linear(inputs, outputs), seed)


# Supervised


def _supervised() -> Checkpoint:
    trunk = torchvision()
    return Checkpoint(trunk.state_dict() | prefixed("fc.", linear(512, 10)), trunk)


def _wide() -> Checkpoint:
    trunk = torchvision(torchvision_resnet.Bottleneck, width_per_group=128)
    return Checkpoint(trunk.state_dict() | prefixed("fc.", linear(2048, 10)), trunk)


def _resnext() -> Checkpoint:
    trunk = torchvision(torchvision_resnet.Bottleneck, groups=32, width_per_group=4)
    return Checkpoint({"model": prefixed("module.", trunk), "optimizer": {}, "epoch": 3}, trunk)


def _wrapped(content_prefix: str, key: str | None = None, **others: object):
    def make() -> Checkpoint:
        trunk = resnet()
        state = prefixed(content_prefix, trunk.state_dict() | prefixed("fc.", linear(16, 10)))
        return Checkpoint({key: state, **others} if key else state, trunk)

    return make


def _timm_ema() -> Checkpoint:
    trunk, averaged = resnet(), resnet(5)
    content = {
        "epoch": 3,
        "arch": "resnet18",
        "state_dict": trunk.state_dict(),
        "state_dict_ema": averaged.state_dict(),
    }
    return Checkpoint(content, averaged)


def _normalised(mean: str, std: str, scale: float):
    """The network standardises its own input, with the statistics of CIFAR-10."""

    def make() -> Checkpoint:
        trunk = resnet()
        state = prefixed("model.", trunk.state_dict() | prefixed("fc.", linear(16, 10)))
        for name, values in zip((mean, std), CIFAR, strict=True):
            state[name] = torch.tensor(values).view(1, 3, 1, 1) * scale
        return Checkpoint({"state_dict": state}, trunk)

    return make


def _deep_stem() -> Checkpoint:
    return Checkpoint(timm.create_model("resnet18d", num_classes=0).state_dict())


def _mmpretrain_classifier() -> Checkpoint:
    trunk = resnet()
    state = prefixed("backbone.", trunk) | prefixed("head.fc.", linear(16, 10))
    return Checkpoint({"meta": {"epoch": 1}, "state_dict": state}, trunk)


# Contrastive methods


def _moco(head: nn.Module, key_head: nn.Module, projector: bool):
    query, key = resnet(), resnet(5)
    state = prefixed("module.encoder_q.", query) | prefixed("module.encoder_q.fc.", head)
    state |= prefixed("module.encoder_k.", key) | prefixed("module.encoder_k.fc.", key_head)
    state |= {"module.queue": torch.zeros(12, 7), "module.queue_ptr": torch.zeros(1)}
    return Checkpoint({"state_dict": state, "arch": "resnet50"}, query, then(query, head) if projector else None)


def moco_v2() -> Checkpoint:
    return _moco(mlp(16, 16, 12), mlp(16, 16, 12, seed=6), True)


def _moco_v1() -> Checkpoint:
    return _moco(linear(16, 12), linear(16, 12, 6), False)


def _moco_v3() -> Checkpoint:
    def head(seed: int) -> nn.Module:
        return mlp(16, 24, 12, norm=True, last_norm=True, bias=False, last_bias=False, seed=seed)

    base, momentum, projector = resnet(), resnet(5), head(1)
    state = prefixed("module.base_encoder.", base) | prefixed("module.base_encoder.fc.", projector)
    state |= prefixed("module.momentum_encoder.", momentum) | prefixed("module.momentum_encoder.fc.", head(6))
    state |= prefixed("module.predictor.", mlp(12, 24, 12, norm=True, bias=False, last_bias=False, seed=8))
    return Checkpoint({"state_dict": state, "arch": "resnet50"}, base, then(base, projector))


def _moco_cifar() -> Checkpoint:
    """The demonstration of MoCo on CIFAR builds ``nn.Sequential`` without max pooling."""
    trunk = small_stem_resnet()
    children = [module for name, module in trunk.named_children() if name not in ("maxpool", "global_pool", "fc")]
    net = nn.Sequential(*children, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), linear(16, 12))
    assert {name.partition(".")[0] for name in net.state_dict()} == {"0", "1", "3", "4", "5", "6", "9"}
    state = prefixed("encoder_q.net.", net) | prefixed("encoder_k.net.", net)
    return Checkpoint({"state_dict": state, "epoch": 9}, net[:-1])


def _simclr_sthalles() -> Checkpoint:
    trunk, head = resnet(), mlp(16, 16, 12)
    state = prefixed("backbone.", trunk) | prefixed("backbone.fc.", head)
    return Checkpoint({"epoch": 9, "arch": "resnet18", "state_dict": state, "optimizer": {}}, trunk, then(trunk, head))


def _simclr_spijkervet() -> Checkpoint:
    trunk, head = resnet(), mlp(16, 16, 12, bias=False, last_bias=False)
    return Checkpoint(prefixed("encoder.", trunk) | prefixed("projector.", head), trunk, then(trunk, head))


def _simclr_leftthomas() -> Checkpoint:
    trunk, head = small_stem_resnet(), mlp(16, 24, 12, norm=True, bias=False)
    children = [module for name, module in trunk.named_children() if name not in ("maxpool", "global_pool", "fc")]
    state = prefixed("f.", nn.Sequential(*children)) | prefixed("g.", head)
    return Checkpoint(state, trunk, then(trunk, head))


def _sequential_without_relu() -> Checkpoint:
    """lightly's ``ResNetGenerator`` has no modules for ReLU and max pooling."""
    trunk = small_stem_resnet()
    children = [module for name, module in trunk.named_children() if name.startswith(("conv", "bn", "layer"))]
    return Checkpoint(prefixed("backbone.", nn.Sequential(*children)))


def _sequential_small(pooled: bool):
    """``maxpool`` is replaced by an identity, or not: both have the same names."""

    def make() -> Checkpoint:
        trunk = small_stem_resnet()
        if pooled:
            trunk.maxpool = nn.MaxPool2d(3, 2, 1)
        return Checkpoint(prefixed("backbone.", nn.Sequential(*list(trunk.children())[:-1])), trunk)

    return make


def _sequential() -> nn.Sequential:
    return nn.Sequential(*list(resnet().children())[:-1])


def _lightly_simclr() -> Checkpoint:
    backbone, head = _sequential(), mlp(16, 16, 12, norm=True, last_norm=False, bias=False, last_bias=False)
    state = prefixed("backbone.", backbone) | prefixed("projection_head.layers.", head)
    return Checkpoint({"state_dict": state, "pytorch-lightning_version": "2.5"}, resnet(), then(resnet(), head))


def _lightly_byol() -> Checkpoint:
    backbone, momentum = _sequential(), nn.Sequential(*list(resnet(5).children())[:-1])
    head = mlp(16, 24, 12, norm=True, bias=False)
    state = prefixed("backbone.", backbone) | prefixed("projection_head.layers.", head)
    state |= prefixed("prediction_head.layers.", mlp(12, 24, 12, norm=True, bias=False, seed=8))
    state |= prefixed("backbone_momentum.", momentum)
    state |= prefixed("projection_head_momentum.layers.", mlp(16, 24, 12, norm=True, bias=False, seed=9))
    return Checkpoint({"state_dict": state}, resnet(), then(resnet(), head))


def _dino_head(seed: int) -> nn.Sequential:
    layers = [nn.Linear(16, 24, bias=False), nn.BatchNorm1d(24), nn.GELU(), nn.Linear(24, 12)]
    return randomised(nn.Sequential(*layers), seed)


def _lightly_dino() -> Checkpoint:
    student, teacher, head = resnet(5), resnet(), _dino_head(1)
    state = prefixed("student_backbone.", student) | prefixed("student_head.layers.", _dino_head(7))
    state |= prefixed("teacher_backbone.", teacher) | prefixed("teacher_head.layers.", head)
    for branch in ("student", "teacher"):
        state |= {f"{branch}_head.last_layer.weight_{part}": torch.zeros(40, 1) for part in "gv"}
    return Checkpoint({"state_dict": state | {"criterion.center": torch.zeros(1, 40)}}, teacher, then(teacher, head))


def _solo(method: str, trunk: ResNet | None = None):
    def make() -> Checkpoint:
        backbone, head = trunk or resnet(), mlp(16, 16, 12)
        state = prefixed("backbone.", backbone) | prefixed("classifier.", linear(16, 10)) | prefixed("projector.", head)
        if method == "byol":
            state |= prefixed("momentum_backbone.", resnet(5)) | prefixed(
                "momentum_projector.", mlp(16, 16, 12, seed=6)
            )
            state |= prefixed("predictor.", mlp(12, 16, 12, seed=8)) | prefixed(
                "momentum_classifier.", linear(16, 10, 9)
            )
        if method == "swav":
            state |= {"prototypes.weight": torch.zeros(30, 12)}
        content = {"state_dict": state, "hyper_parameters": {"method": method}, "epoch": 3}
        return Checkpoint(content, backbone, then(backbone, head))

    return make


def _vissl_swav() -> Checkpoint:
    trunk, head = resnet(), mlp(16, 16, 12, norm=True)
    heads = prefixed("0.projection_head.", head) | {"0.prototypes0.weight": torch.zeros(30, 12)}
    parts = {"trunk": prefixed("_feature_blocks.", trunk), "heads": heads}
    content = {"classy_state_dict": {"base_model": {"model": parts, "meters": {}}}, "phase_idx": 9}
    return Checkpoint(content, trunk, then(trunk, head))


def _vissl_simclr() -> Checkpoint:
    trunk, head = resnet(), mlp(16, 16, 12)
    heads = renamed(head.state_dict(), ("0.", "0.clf.0."), ("2.", "1.clf.0."))
    parts = {"trunk": prefixed("_feature_blocks.", trunk), "heads": heads}
    return Checkpoint({"classy_state_dict": {"base_model": {"model": parts}}}, trunk, then(trunk, head))


def _swav() -> Checkpoint:
    trunk, head = resnet(), mlp(16, 16, 12, norm=True)
    state = prefixed("module.", trunk) | prefixed("module.projection_head.", head)
    state |= {"module.prototypes.weight": torch.zeros(30, 12)}
    return Checkpoint({"state_dict": state, "epoch": 3}, trunk, then(trunk, head))


def _densecl() -> Checkpoint:
    """OpenSelfSup: ``encoder_q`` is ``nn.Sequential(backbone, neck)``, and ``backbone`` is the same module."""
    trunk, head = resnet(), mlp(16, 16, 12)
    dense = {f"1.mlp2.{index}.weight": torch.zeros(16, 16, 1, 1) for index in (0, 2)}
    query = prefixed("0.", trunk) | prefixed("1.mlp.", head) | dense
    key = prefixed("0.", resnet(5)) | prefixed("1.mlp.", mlp(16, 16, 12, seed=6)) | dense
    state = prefixed("encoder_q.", query) | prefixed("encoder_k.", key) | prefixed("backbone.", trunk)
    state |= {"queue": torch.zeros(12, 7), "queue2": torch.zeros(12, 7)}
    return Checkpoint({"state_dict": state, "meta": {}}, trunk, then(trunk, head))


def _pixpro() -> Checkpoint:
    trunk, key = resnet(), resnet(5)
    conv = {"linear1.weight": torch.zeros(24, 16, 1, 1), "linear2.weight": torch.zeros(12, 24, 1, 1)}
    conv |= prefixed("bn1.", randomised(nn.BatchNorm2d(24)))
    state = prefixed("module.encoder.", trunk) | prefixed("module.projector.", conv)
    state |= prefixed("module.encoder_k.", key) | prefixed("module.projector_k.", conv)
    return Checkpoint({"model": state, "opt": None, "optimizer": {}}, trunk)


# Methods without negatives


NONLINEAR_NECK = (("0.", "fc0."), ("1.", "bn0."), ("3.", "fc1."), ("4.", "bn1."), ("6.", "fc2."), ("7.", "bn2."))
"""Names of mmselfsup's ``NonLinearNeck`` for the modules of ``mlp``."""


def _openselfsup_byol() -> Checkpoint:
    trunk, target, head = resnet(), resnet(5), mlp(16, 24, 12, norm=True)
    neck = renamed(head.state_dict(), *NONLINEAR_NECK)
    state = prefixed("online_net.0.", trunk) | prefixed("online_net.1.", neck)
    state |= prefixed("target_net.0.", target) | prefixed("target_net.1.", neck)
    state |= prefixed("backbone.", trunk) | prefixed("neck.", neck)
    state |= prefixed("head.predictor.", renamed(mlp(12, 24, 12, norm=True).state_dict(), *NONLINEAR_NECK))
    return Checkpoint({"state_dict": state, "meta": {}}, trunk, then(trunk, head))


def _mmselfsup_byol() -> Checkpoint:
    trunk, target, head = resnet(), resnet(5), mlp(16, 24, 12, norm=True)
    neck = renamed(head.state_dict(), *NONLINEAR_NECK)
    state = prefixed("backbone.", trunk) | prefixed("neck.", neck)
    state |= prefixed("target_net.module.0.", target) | prefixed("target_net.module.1.", neck)
    state |= prefixed("head.predictor.", renamed(mlp(12, 24, 12, norm=True).state_dict(), *NONLINEAR_NECK))
    return Checkpoint({"state_dict": state, "meta": {}}, trunk, then(trunk, head))


def _mmselfsup_simsiam() -> Checkpoint:
    trunk = resnet()
    head = mlp(16, 24, 24, 16, norm=True, last_norm=True, bias=False, last_bias=False)
    state = prefixed("backbone.", trunk) | prefixed("neck.", renamed(head.state_dict(), *NONLINEAR_NECK))
    state |= prefixed("head.predictor.", renamed(mlp(16, 8, 16, norm=True).state_dict(), *NONLINEAR_NECK))
    return Checkpoint({"state_dict": state, "meta": {}}, trunk, then(trunk, head))


def _mmselfsup_moco() -> Checkpoint:
    trunk, head = resnet(), mlp(16, 16, 12)
    state = prefixed("backbone.", trunk) | prefixed("neck.mlp.", head)
    state |= prefixed("encoder_k.module.0.", resnet(5)) | prefixed("encoder_k.module.1.mlp.", mlp(16, 16, 12, seed=6))
    return Checkpoint({"state_dict": state | {"queue": torch.zeros(12, 7)}, "meta": {}}, trunk, then(trunk, head))


def _mmselfsup_swav() -> Checkpoint:
    trunk, head = resnet(), mlp(16, 16, 12, norm=True)
    state = prefixed("backbone.", trunk) | prefixed("neck.projection_neck.", head)
    state |= {"head.loss_module.prototypes.weight": torch.zeros(30, 12)}
    return Checkpoint({"state_dict": state, "meta": {}}, trunk, then(trunk, head))


def _simsiam() -> Checkpoint:
    trunk = resnet()
    head = mlp(16, 16, 16, 16, norm=True, last_norm=True, bias=False)
    state = prefixed("module.encoder.", trunk) | prefixed("module.encoder.fc.", head)
    state |= prefixed("module.predictor.", mlp(16, 8, 16, norm=True, bias=False, seed=8))
    return Checkpoint({"state_dict": state, "arch": "resnet50"}, trunk, then(trunk, head))


def _byol_lucidrains() -> Checkpoint:
    """byol-pytorch: ``net`` and ``online_encoder.net`` are the same module."""
    trunk, head = resnet(), mlp(16, 24, 12, norm=True)
    net = trunk.state_dict() | prefixed("fc.", linear(16, 10))
    target = resnet(5).state_dict() | prefixed("fc.", linear(16, 10, 9))
    state = prefixed("net.", net) | prefixed("online_encoder.net.", net)
    state |= prefixed("online_encoder.projector.", head) | prefixed("online_predictor.", mlp(12, 24, 12, norm=True))
    state |= prefixed("target_encoder.net.", target) | prefixed("target_encoder.projector.", mlp(16, 24, 12, norm=True))
    return Checkpoint(state, trunk, then(trunk, head))


def _byol_bolts() -> Checkpoint:
    trunk, head = resnet(), mlp(16, 24, 12, norm=True, last_bias=False)
    state = prefixed("online_network.encoder.", trunk) | prefixed("online_network.projector.model.", head)
    state |= prefixed("online_network.predictor.model.", mlp(12, 24, 12, norm=True, last_bias=False))
    state |= prefixed("target_network.encoder.", resnet(5))
    state |= prefixed("target_network.projector.model.", mlp(16, 24, 12, norm=True, last_bias=False, seed=6))
    return Checkpoint({"state_dict": state, "hyper_parameters": {}}, trunk, then(trunk, head))


def _simclr_bolts() -> Checkpoint:
    trunk, head = resnet(), mlp(16, 16, 12, norm=True, last_bias=False)
    state = prefixed("encoder.", trunk) | prefixed("projection.model.", head)
    return Checkpoint({"state_dict": state, "hyper_parameters": {}}, trunk, then(trunk, head))


def _vicreg() -> Checkpoint:
    trunk, head = resnet(), mlp(16, 24, 24, 24, norm=True, last_bias=False)
    state = prefixed("module.backbone.", trunk) | prefixed("module.projector.", head)
    return Checkpoint({"epoch": 9, "model": state, "optimizer": {}}, trunk, then(trunk, head))


def _vicregl() -> Checkpoint:
    trunk, head = resnet(), mlp(16, 24, 24, 24, norm=True, last_bias=False)
    state = prefixed("module.backbone.", trunk) | prefixed("module.projector.", head)
    state |= prefixed("module.maps_projector.", mlp(16, 8, 8, norm=True, last_bias=False))
    state |= prefixed("module.classifier.", linear(16, 10))
    return Checkpoint({"epoch": 9, "model": state}, trunk, then(trunk, head))


def _barlow() -> Checkpoint:
    trunk, head = resnet(), mlp(16, 24, 24, 24, norm=True, bias=False, last_bias=False)
    state = prefixed("module.backbone.", trunk) | prefixed("module.projector.", head)
    state |= prefixed("module.bn.", nn.BatchNorm1d(24, affine=False))
    return Checkpoint({"epoch": 9, "model": state, "optimizer": {}}, trunk, then(trunk, head))


def _paws() -> Checkpoint:
    """PAWS names its layers as MSN does, but with batch norm and ReLU."""
    trunk, head = resnet(), mlp(16, 16, 16, 12, norm=True)
    names = (("0.", "fc1."), ("1.", "bn1."), ("3.", "fc2."), ("4.", "bn2."), ("6.", "fc3."))
    state = prefixed("module.", trunk) | prefixed("module.fc.", renamed(head.state_dict(), *names))
    return Checkpoint({"encoder": state, "opt": {}, "epoch": 9}, trunk)


def _norm_in_projector() -> Checkpoint:
    trunk = resnet()
    head = nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.ReLU(), nn.Linear(16, 12))
    return Checkpoint(prefixed("backbone.", trunk) | prefixed("projector.", head), trunk)


def _distillation() -> Checkpoint:
    return Checkpoint(prefixed("student.", resnet()) | prefixed("teacher.", resnet(5)))


def _clip_resnet() -> Checkpoint:
    """The stem has three convolutions, and an attention layer pools the positions."""
    state = prefixed("visual.", resnet()) | {"visual.attnpool.positional_embedding": torch.zeros(50, 512)}
    for number in (2, 3):
        state[f"visual.conv{number}.weight"] = torch.zeros(8, 8, 3, 3)
        state |= prefixed(f"visual.bn{number}.", randomised(nn.BatchNorm2d(8)))
    return Checkpoint(state | {"logit_scale": torch.tensor(1.0)})


CASES = [
    Case("torchvision", "torchvision, supervised", "`conv1`, `layer1.0.conv1`, `fc`", _supervised, POOLED, size=32),
    Case("torchvision_wide", "torchvision, wide ResNet", "as above", _wide, POOLED, size=32),
    Case("torchvision_resnext", "torchvision's scripts, ResNeXt", "`model`: `module.*`", _resnext, POOLED, size=32),
    Case("data_parallel", "`DataParallel`", "`module.*`, `module.fc`", _wrapped("module."), POOLED, size=32),
    Case("compiled", "`torch.compile`", "`model`: `_orig_mod.*`", _wrapped("_orig_mod.", "model"), POOLED, size=32),
    Case(
        "lightning",
        "PyTorch Lightning",
        "`state_dict`: `model.*`, `model.fc`",
        _wrapped("model.", "state_dict", hyper_parameters={"lr": 0.1}),
        POOLED,
        size=32,
    ),
    Case(
        "timm_ema",
        "timm's training script with EMA",
        "`state_dict`, `state_dict_ema`",
        _timm_ema,
        POOLED,
        options="prefix=state_dict_ema",
        refused=("prefix=state_dict ", "prefix=state_dict_ema"),
        size=32,
    ),
    Case(
        "normalised",
        "network with its own normalisation",
        "`model.*`, `normalize.mean`, `normalize.std`",
        _normalised("normalize.mean", "normalize.std", 1),
        f"{POOLED}; scaling of the file",
        scaling=CIFAR,
        size=32,
    ),
    Case(
        "normalised_255",
        "network with its own normalisation of 8-bit values",
        "`model.*`, `pixel_mean`, `pixel_std`",
        _normalised("pixel_mean", "pixel_std", 255),
        f"{POOLED}; scaling of the file",
        scaling=CIFAR,
        size=32,
    ),
    Case("deep_stem", "timm, ResNet-D", "`conv1.0`, `conv1.3`, `layer1.0.conv1`", _deep_stem, refused=("trunk=NAME",)),
    Case("mmpretrain", "MMPretrain, supervised", "`backbone.*`, `head.fc`", _mmpretrain_classifier, POOLED, size=32),
    Case(
        "moco_v1",
        "MoCo v1 (facebookresearch/moco)",
        "`encoder_q.*`, `encoder_q.fc` (one layer), `encoder_k.*`",
        _moco_v1,
        POOLED,
        size=32,
    ),
    Case(
        "moco_v2",
        "MoCo v2 (facebookresearch/moco)",
        "`encoder_q.*`, `encoder_q.fc.0`, `encoder_k.*`",
        moco_v2,
        POOLED,
        "output of `encoder_q.fc`",
        size=32,
    ),
    Case(
        "moco_v3",
        "MoCo v3 (facebookresearch/moco-v3), ResNet",
        "`base_encoder.*`, `base_encoder.fc.0`, `momentum_encoder.*`, `predictor.0`",
        _moco_v3,
        POOLED,
        "output of `base_encoder.fc`",
        size=32,
    ),
    Case(
        "moco_cifar",
        "MoCo's CIFAR demonstration",
        "`encoder_q.net.0`, `encoder_q.net.3.0.conv1`, `encoder_q.net.9`",
        _moco_cifar,
        POOLED,
    ),
    Case(
        "simclr_sthalles",
        "SimCLR (sthalles/SimCLR)",
        "`backbone.*`, `backbone.fc.0`",
        _simclr_sthalles,
        POOLED,
        "output of `backbone.fc`",
        size=32,
    ),
    Case(
        "simclr_spijkervet",
        "SimCLR (spijkervet/SimCLR)",
        "`encoder.*`, `projector.0`",
        _simclr_spijkervet,
        POOLED,
        "output of `projector`",
        size=32,
    ),
    Case(
        "simclr_leftthomas",
        "SimCLR (leftthomas/SimCLR), CIFAR",
        "`f.0`, `f.3.0.conv1`, `g.0`",
        _simclr_leftthomas,
        POOLED,
        "output of `g`",
        options="head=g",
    ),
    Case(
        "lightly_generator",
        "lightly, `ResNetGenerator` in `nn.Sequential`",
        "`backbone.0`, `backbone.1`, `backbone.2.0.conv1`",
        _sequential_without_relu,
        refused=("ReLU", "none is assumed"),
    ),
    Case(
        "sequential_small",
        "`nn.Sequential(*children)` for small images",
        "`backbone.0` (3×3), `backbone.4.0.conv1`",
        _sequential_small(False),
        POOLED,
        options="padding=1",
        refused=("max pooling or nothing", "padding=1"),
    ),
    Case(
        "sequential_small_pooled",
        "as above, with max pooling",
        "`backbone.0` (3×3), `backbone.4.0.conv1`",
        _sequential_small(True),
        refused=("max pooling or nothing", "padding=1"),
    ),
    Case(
        "lightly_simclr",
        "lightly, SimCLR",
        "`backbone.0`, `backbone.4.0.conv1`, `projection_head.layers.0`",
        _lightly_simclr,
        POOLED,
        "output of `projection_head`",
        size=32,
    ),
    Case(
        "lightly_byol",
        "lightly, BYOL",
        "`backbone.*`, `projection_head.*`, `prediction_head.*`, `backbone_momentum.*`",
        _lightly_byol,
        POOLED,
        "output of `projection_head`",
        size=32,
    ),
    Case(
        "lightly_dino",
        "lightly, DINO",
        "`student_backbone.*`, `teacher_backbone.*`, `teacher_head.layers.0`, `teacher_head.last_layer`",
        _lightly_dino,
        f"{POOLED} of the teacher",
        "bottleneck of `teacher_head`",
        size=32,
    ),
    *(
        Case(
            f"solo_{method}",
            f"solo-learn, {title}",
            f"`backbone.*`, `projector.0`, `classifier`{more}",
            _solo(method),
            POOLED,
            "output of `projector`",
            size=32,
        )
        for method, title, more in (
            ("simclr", "SimCLR", ""),
            ("byol", "BYOL", ", `momentum_backbone.*`, `predictor.0`"),
            ("swav", "SwAV", ", `prototypes`"),
        )
    ),
    Case(
        "solo_cifar",
        "solo-learn, CIFAR",
        "`backbone.conv1` (3×3), `projector.0`, `classifier`",
        _solo("simclr", small_stem_resnet(padding=2)),
        POOLED,
        "output of `projector`",
    ),
    Case(
        "vissl_simclr",
        "VISSL, SimCLR",
        "`trunk`: `_feature_blocks.*`; `heads`: `0.clf.0`, `1.clf.0`",
        _vissl_simclr,
        POOLED,
        "output of `heads`",
        size=32,
    ),
    Case(
        "vissl_swav",
        "VISSL, SwAV",
        "`trunk`: `_feature_blocks.*`; `heads`: `0.projection_head.0`, `0.prototypes0`",
        _vissl_swav,
        POOLED,
        "output of `projection_head`",
        size=32,
    ),
    Case(
        "swav",
        "SwAV, DeepCluster v2 (facebookresearch/swav)",
        "`module.*`, `module.projection_head.0`, `module.prototypes`",
        _swav,
        POOLED,
        "output of `projection_head`",
        size=32,
    ),
    Case(
        "densecl",
        "DenseCL (OpenSelfSup)",
        "`encoder_q.0.*`, `encoder_q.1.mlp.0`, `encoder_q.1.mlp2.0`, `backbone.*`",
        _densecl,
        POOLED,
        "output of `encoder_q.1.mlp`",
        size=32,
    ),
    Case(
        "pixpro",
        "PixPro (zdaxie/PixPro)",
        "`encoder.*`, `projector.linear1` (convolutions), `encoder_k.*`",
        _pixpro,
        POOLED,
        size=32,
    ),
    Case(
        "openselfsup_byol",
        "BYOL (OpenSelfSup)",
        "`online_net.0.*`, `online_net.1.fc0`, `target_net.0.*`, `backbone.*`, `head.predictor.fc0`",
        _openselfsup_byol,
        POOLED,
        "output of `online_net.1`",
        size=32,
    ),
    Case(
        "mmselfsup_byol",
        "BYOL (MMSelfSup, MMPretrain)",
        "`backbone.*`, `neck.fc0`, `neck.bn0`, `target_net.module.0.*`, `head.predictor.fc0`",
        _mmselfsup_byol,
        POOLED,
        "output of `neck`",
        size=32,
    ),
    Case(
        "mmselfsup_simsiam",
        "SimSiam (MMSelfSup, MMPretrain)",
        "`backbone.*`, `neck.fc0`, `neck.bn0`, `head.predictor.fc0`",
        _mmselfsup_simsiam,
        POOLED,
        "output of `neck`",
        size=32,
    ),
    Case(
        "mmselfsup_moco",
        "MoCo v2 (MMSelfSup, MMPretrain)",
        "`backbone.*`, `neck.mlp.0`, `encoder_k.module.0.*`",
        _mmselfsup_moco,
        POOLED,
        "output of `neck`",
        size=32,
    ),
    Case(
        "mmselfsup_swav",
        "SwAV (MMSelfSup, MMPretrain)",
        "`backbone.*`, `neck.projection_neck.0`, `head.loss_module.prototypes`",
        _mmselfsup_swav,
        POOLED,
        "output of `neck`",
        size=32,
    ),
    Case(
        "simsiam",
        "SimSiam (facebookresearch/simsiam)",
        "`module.encoder.*`, `module.encoder.fc.0`, `module.predictor.0`",
        _simsiam,
        POOLED,
        "output of `encoder.fc`",
        size=32,
    ),
    Case(
        "byol_lucidrains",
        "BYOL (lucidrains/byol-pytorch)",
        "`net.*`, `online_encoder.net.*`, `online_encoder.projector.0`, `target_encoder.net.*`",
        _byol_lucidrains,
        POOLED,
        "output of `online_encoder.projector`",
        size=32,
    ),
    Case(
        "byol_bolts",
        "BYOL (Lightning Bolts)",
        "`online_network.encoder.*`, `online_network.projector.model.0`, `target_network.encoder.*`",
        _byol_bolts,
        POOLED,
        "output of `online_network.projector`",
        size=32,
    ),
    Case(
        "simclr_bolts",
        "SimCLR (Lightning Bolts)",
        "`encoder.*`, `projection.model.0`",
        _simclr_bolts,
        POOLED,
        "output of `projection`",
        size=32,
    ),
    Case(
        "vicreg",
        "VICReg (facebookresearch/vicreg)",
        "`model`: `module.backbone.*`, `module.projector.0`",
        _vicreg,
        POOLED,
        "output of `projector`",
        size=32,
    ),
    Case(
        "vicregl",
        "VICRegL (facebookresearch/VICRegL)",
        "`module.backbone.*`, `module.projector.0`, `module.maps_projector.0`",
        _vicregl,
        POOLED,
        "output of `projector`",
        size=32,
    ),
    Case(
        "barlow",
        "Barlow Twins (facebookresearch/barlowtwins)",
        "`module.backbone.*`, `module.projector.0`, `module.bn`",
        _barlow,
        POOLED,
        "output of `projector`",
        size=32,
    ),
    Case("paws", "PAWS (facebookresearch/suncet)", "`encoder`: `module.*`, `module.fc.fc1`", _paws, POOLED, size=32),
    Case(
        "norm_in_projector",
        "projector with `LayerNorm`",
        "`backbone.*`, `projector.0`, `projector.1` (`LayerNorm`)",
        _norm_in_projector,
        POOLED,
        size=32,
    ),
    Case(
        "distillation",
        "teacher and student without prototypes",
        "`student.*`, `teacher.*`",
        _distillation,
        refused=("2 trunks", "prefix=student or prefix=teacher"),
    ),
    Case(
        "clip_resnet",
        "CLIP (openai/CLIP), ResNet",
        "`visual.conv1`, `visual.conv3`, `visual.layer1.0.conv1`, `visual.attnpool`",
        _clip_resnet,
        refused=("additional modules", "attnpool", "trunk=NAME"),
    ),
]
