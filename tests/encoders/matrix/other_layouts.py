"""Layouts whose names or sizes are converted: torchvision's ViTs, DINOv2, DINOv3, CIFAR ResNets, grey images."""

import re
from typing import Any

import pytest
import timm
import torch
import torchvision
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torch.nn import functional as F

from tests.encoders.matrix.case import Case, Checkpoint, State, prefixed, randomised, then
from tests.encoders.matrix.vits import AVERAGE, TOKEN, drawn, vit

HALF = (0.5, 0.5, 0.5)


# torchvision


def torchvision_vit() -> Checkpoint:
    model = torchvision.models.VisionTransformer(32, 8, 2, 12, 768, 64, num_classes=5)
    model = drawn(model)
    state = model.state_dict()
    model.heads = nn.Identity()
    return Checkpoint(state, model)


# DINOv2


def dinov2(size: int, registers: int = 0, chunks: bool = False, width: int = 384) -> Checkpoint:
    """ViT of DINOv2 with positions for 48 pixels, applied to images of ``size`` pixels."""
    options = {"reg_tokens": registers, "no_embed_class": bool(registers)}
    trunk = vit(width, width // 64, img_size=48, patch_size=8, init_values=1.0, **options)
    state = dict(trunk.state_dict())
    grid = size // 8
    if registers:
        state["register_tokens"] = state.pop("reg_token")
        position = torch.randn(1, 1, width)
        state["cls_token"] = state["cls_token"] - position
        state["pos_embed"] = torch.cat([position, state["pos_embed"]], dim=1)
    patches = state["pos_embed"][:, 1:].reshape(1, 6, 6, width).permute(0, 3, 1, 2)
    # facebookresearch/dinov2, DinoVisionTransformer.interpolate_pos_encoding
    if size == 48:
        resized = patches
    elif registers:  # interpolate_antialias=True, interpolate_offset=0.0
        resized = F.interpolate(patches, size=(grid, grid), mode="bicubic", antialias=True)
    else:  # interpolate_antialias=False, interpolate_offset=0.1
        factor = float(grid + 0.1) / 6
        resized = F.interpolate(patches, scale_factor=(factor, factor), mode="bicubic", antialias=False)
    flat = resized.permute(0, 2, 3, 1).reshape(1, grid * grid, width)
    original = vit(width, width // 64, img_size=size, patch_size=8, init_values=1.0, **options)
    own = dict(trunk.state_dict())
    own["pos_embed"] = flat if registers else torch.cat([own["pos_embed"][:, :1], flat], dim=1)
    original.load_state_dict(own)
    state["mask_token"] = torch.zeros(1, width)
    if chunks:
        state = {re.sub(r"^blocks\.(\d+)\.", r"blocks.0.\1.", name): value for name, value in state.items()}
    return Checkpoint(state, original.eval())


def timm_vit_at_another_size() -> Checkpoint:
    trunk, original = (vit(768, 12, img_size=size, patch_size=8) for size in (48, 64))
    state = trunk.state_dict()
    positions = resample_abs_pos_embed(state["pos_embed"], [8, 8], num_prefix_tokens=1)
    original.load_state_dict({**state, "pos_embed": positions})
    return Checkpoint(state, original)


# DINOv3, with the implementation of transformers as the original


def dinov3(gated: bool = False, masked: bool = True, pool: str = "token") -> Checkpoint:
    transformers = pytest.importorskip("transformers")
    settings = {"use_gated_mlp": True, "hidden_act": "silu"} if gated else {}
    config = transformers.DINOv3ViTConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=96,
        image_size=32,
        patch_size=8,
        num_register_tokens=3,
        **settings,
    )
    model = drawn(transformers.DINOv3ViTModel(config))
    state: State = {}
    # transformers 5 has the prefix "model.".
    weights = {name.removeprefix("model."): value for name, value in model.state_dict().items()}
    for name, value in weights.items():
        for old, new in DINOV3_NAMES:
            name = re.sub(old, new, name)
        if not re.search(r"\.[qkv]_proj\.", name) and "inv_freq" not in name:
            state[name] = value[0] if name == "mask_token" else value
    for block in range(2):
        names = [f"layer.{block}.attention.{part}_proj" for part in "qkv"]
        state[f"blocks.{block}.attn.qkv.weight"] = torch.cat([weights[f"{name}.weight"] for name in names])
        query, values = (weights[f"{name}.bias"] for name in (names[0], names[2]))
        # facebookresearch/dinov3, LinearKMaskedBias
        key = torch.randn(64) if masked else torch.zeros(64)
        state[f"blocks.{block}.attn.qkv.bias"] = torch.cat([query, key, values])
        if masked:
            mask = torch.ones(192)
            mask[64:128] = 0
            state[f"blocks.{block}.attn.qkv.bias_mask"] = mask
    state["rope_embed.periods"] = 100 ** (torch.arange(8) / 8)

    def forward(pixels: Tensor) -> Tensor:
        hidden = model(pixel_values=pixels).last_hidden_state
        return hidden[:, 0] if pool == "token" else hidden[:, 4:].mean(1)

    return Checkpoint(state, forward)


DINOV3_NAMES = (
    (r"^embeddings\.register_tokens", "storage_tokens"),
    (r"^embeddings\.patch_embeddings", "patch_embed.proj"),
    (r"^embeddings\.", ""),
    (r"^layer\.", "blocks."),
    (r"attention\.o_proj", "attn.proj"),
    (r"layer_scale([12])\.lambda1", r"ls\1.gamma"),
    (r"mlp\.gate_proj", "mlp.w1"),
    (r"mlp\.up_proj", "mlp.fc1"),
    (r"mlp\.down_proj", "mlp.fc2"),
)


def dinov3_gated() -> Checkpoint:
    checkpoint = dinov3(gated=True)
    names = {".mlp.fc1.": ".mlp.w2.", ".mlp.fc2.": ".mlp.w3."}
    state = {}
    for name, value in checkpoint.content.items():
        for old, new in names.items():
            name = name.replace(old, new)
        state[name] = value
    return Checkpoint(state, checkpoint.backbone)


# CIFAR ResNets: kuangliu/pytorch-cifar, models/resnet.py


class CifarBlock(nn.Module):
    def __init__(self, inputs: int, planes: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.deep = expansion > 1
        if self.deep:
            self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
            self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
            self.conv3 = nn.Conv2d(planes, expansion * planes, 1, bias=False)
            self.bn3 = nn.BatchNorm2d(expansion * planes)
        else:
            self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn1, self.bn2 = nn.BatchNorm2d(planes), nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != expansion * planes:
            projection = nn.Conv2d(inputs, expansion * planes, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(expansion * planes))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.deep:
            out = self.bn3(self.conv3(F.relu(out)))
        return F.relu(out + self.shortcut(x))


class CifarResNet(nn.Module):
    def __init__(self, expansion: int, channels: int = 3, classes: int = 10, pool: Any = None) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64)
        inputs = 64
        for stage, planes in enumerate((64, 32, 16, 24), start=1):
            block = CifarBlock(inputs, planes, 1 if stage == 1 else 2, expansion)
            setattr(self, f"layer{stage}", nn.Sequential(block))
            inputs = planes * expansion
        self.linear = nn.Linear(inputs, classes)

    def features(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        return F.avg_pool2d(x, 4).flatten(1)


def kuangliu(expansion: int, prefix: str = "module.", **options: Any) -> Checkpoint:
    model = randomised(CifarResNet(expansion, **options))
    return Checkpoint({"net": prefixed(prefix, model), "acc": 95.1, "epoch": 190}, model.features)


def supcon() -> Checkpoint:
    """SupContrast: ``encoder.*`` and a head with a hidden layer."""
    model = randomised(CifarResNet(4))
    head = randomised(nn.Sequential(nn.Linear(96, 96), nn.ReLU(inplace=True), nn.Linear(96, 16)), 1)
    encoder = {name: value for name, value in model.state_dict().items() if not name.startswith("linear.")}
    state = prefixed("encoder.", encoder) | prefixed("head.", head)
    return Checkpoint({"opt": None, "model": state, "epoch": 1000}, model.features, then(model.features, head))


def preact() -> Checkpoint:
    """Pre-activation ResNet of kuangliu: the projection has no batch norm."""
    state = randomised(CifarResNet(1)).state_dict()
    return Checkpoint({"net": {name: value for name, value in state.items() if ".shortcut.1." not in name}})


# Number of channels


def grey_resnet() -> Checkpoint:
    model = randomised(timm.create_model("resnet18", num_classes=0, in_chans=1, layers=(1, 1, 1, 1), channels=(8,) * 4))
    return Checkpoint(model.state_dict(), then(luma, model))


def grey_vit() -> Checkpoint:
    model = vit(768, 12, in_chans=1)
    return Checkpoint(model.state_dict(), then(luma, model))


def multispectral() -> Checkpoint:
    model = randomised(
        timm.create_model("resnet18", num_classes=0, in_chans=13, layers=(1, 1, 1, 1), channels=(8,) * 4)
    )
    return Checkpoint(model.state_dict())


def luma(pixels: Tensor) -> Tensor:
    """Combine the channels of pixels with one mean and standard deviation, as in Pillow's mode L."""
    red, green, blue = pixels.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]


# A named trunk with another pooling or size


def named_average() -> Checkpoint:
    model = drawn(timm.create_model("test_vit", num_classes=0))
    return Checkpoint(model.state_dict(), lambda pixels: model.forward_features(pixels)[:, 1:].mean(1))


def named_size() -> Checkpoint:
    model, other = (drawn(timm.create_model("test_vit", num_classes=0, img_size=size)) for size in (160, 64))
    other.load_state_dict(timm.models.vision_transformer.checkpoint_filter_fn(model.state_dict(), other))
    return Checkpoint(model.state_dict(), other)


GREY = ("grey images", "scaling=0..1")
DINOV2_NAMES = "`blocks.0.ls1.gamma`, `mask_token`"

CASES = [
    Case(
        "torchvision_vit",
        "torchvision's ViTs",
        "`conv_proj`, `encoder.layers.encoder_layer_0.*`",
        torchvision_vit,
        TOKEN,
    ),
    Case(
        "dinov2_other_size",
        "DINOv2 at another size",
        DINOV2_NAMES,
        lambda: dinov2(32),
        f"{TOKEN}; positions resampled as in DINOv2",
        size=32,
    ),
    Case(
        "dinov2_larger",
        "DINOv2 at a larger size",
        DINOV2_NAMES,
        lambda: dinov2(80),
        f"{TOKEN}; positions resampled as in DINOv2",
        size=80,
    ),
    Case(
        "dinov2_registers_other_size",
        "DINOv2 with registers at another size",
        f"{DINOV2_NAMES}, `register_tokens`",
        lambda: dinov2(32, registers=4),
        f"{TOKEN}; positions resampled as in DINOv2",
        size=32,
    ),
    Case(
        "dinov2_chunks",
        "DINOv2, training checkpoint",
        "`blocks.0.0.*` (chunks of blocks)",
        lambda: dinov2(48, chunks=True),
        TOKEN,
    ),
    Case(
        "timm_vit_other_size",
        "ViT of timm at another size",
        "names of timm",
        timm_vit_at_another_size,
        f"{TOKEN}; positions resampled as in timm",
        size=64,
    ),
    Case(
        "dinov3",
        "DINOv3 (facebookresearch/dinov3)",
        "`storage_tokens`, `rope_embed.periods`, `blocks.0.attn.qkv.bias_mask`",
        dinov3,
        TOKEN,
        size=32,
    ),
    Case(
        "dinov3_without_mask",
        "DINOv3 with zeros as bias of the keys",
        "`storage_tokens`, `rope_embed.periods`",
        lambda: dinov3(masked=False),
        TOKEN,
        size=32,
    ),
    Case(
        "dinov3_gated",
        "DINOv3 ViT-S+, ViT-H+ and ViT-7B with SwiGLU",
        "`blocks.0.mlp.w1`, `w2`, `w3`",
        dinov3_gated,
        TOKEN,
        size=48,
    ),
    Case(
        "dinov3_average",
        "DINOv3, average of the patches",
        "`storage_tokens`",
        lambda: dinov3(pool="avg"),
        AVERAGE,
        options="pool=avg",
        size=32,
    ),
    Case(
        "kuangliu_basic",
        "CIFAR ResNet-18 (kuangliu/pytorch-cifar)",
        "`module.layer2.0.shortcut.0`, `.1`, `linear`",
        lambda: kuangliu(1),
        "average of the last feature map",
        size=32,
    ),
    Case(
        "kuangliu_bottleneck",
        "CIFAR ResNet-50 (kuangliu/pytorch-cifar)",
        "`layer1.0.shortcut.0`, `.1`, `linear`",
        lambda: kuangliu(4, ""),
        "average of the last feature map",
        size=32,
    ),
    Case(
        "supcon",
        "SupContrast (HobbitLong/SupContrast)",
        "`encoder.layer1.0.shortcut.0`, `head.0`, `head.2`",
        supcon,
        "average of the last feature map",
        "output of `head`",
        size=32,
    ),
    Case(
        "kuangliu_preact",
        "pre-activation ResNet (kuangliu/pytorch-cifar)",
        "`layer2.0.shortcut.0` without `.1`",
        preact,
        refused=("lacks layer2.0.downsample.1",),
        size=32,
    ),
    Case(
        "grey_resnet",
        "ResNet for grey images",
        "`conv1.weight` (64, 1, 7, 7)",
        grey_resnet,
        "average of the last feature map",
        options="scaling=-1..1",
        refused=GREY,
        scaling=(HALF, HALF),
        size=32,
    ),
    Case(
        "grey_vit",
        "ViT for grey images",
        "`patch_embed.proj.weight` (D, 1, P, P)",
        grey_vit,
        TOKEN,
        options="mean=0.13,std=0.31,channels=1",
        refused=GREY,
        scaling=((0.13,) * 3, (0.31,) * 3),
    ),
    Case(
        "multispectral",
        "ResNet for 13 channels",
        "`conv1.weight` (64, 13, 7, 7)",
        multispectral,
        refused=("13 channels", "multispectral"),
        size=32,
    ),
    Case(
        "named_average",
        "timm model with `trunk=` and `pool=`",
        "names of timm",
        named_average,
        AVERAGE,
        options="trunk=test_vit,pool=avg",
        refused=("heads",),
    ),
    Case(
        "named_size",
        "timm model with `trunk=` at another size",
        "names of timm",
        named_size,
        f"{TOKEN}; positions resampled as in timm",
        options="trunk=test_vit,pool=token",
        refused=("heads",),
        size=64,
    ),
]
