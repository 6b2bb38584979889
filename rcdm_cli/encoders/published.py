"""Published encoders and RCDMs: addresses, licences, and the layout of the checkpoints.

Names and shapes follow facebookresearch/RCDM (``get_ssl_models.py``). All encoders are ResNet-50s. RCDM gave the
encoders images of 224 pixels in [-1, 1], although the encoders were pretrained with ImageNet's mean and standard
deviation. The published RCDMs are therefore valid only for representations of images in [-1, 1].
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from rcdm_cli.core.levels import Level
from rcdm_cli.encoders.reference import IMAGENET_MEAN, IMAGENET_STD
from rcdm_cli.encoders.spec import HeadLayer, Preprocessing

RCDM_PREPROCESSING = Preprocessing(size=224)
"""Preprocessing of all encoders of the published RCDMs."""

TRUNK = "resnet50"


@dataclass(frozen=True)
class PublishedLayout:
    """Names and head of a published checkpoint.

    Attributes:
        trunk: prefix of the trunk's names, as loaded by ``rcdm_cli.core.state_dict``.
        head: prefix of the head's names.
        layers: layers of the head up to the projector level.
        origin: address of the checkpoint.
        licence: licence of the publishing repository. The weights have no separate licence.
        preprocessing: preprocessing of the images.
    """

    trunk: str
    head: str
    layers: tuple[HeadLayer, ...]
    origin: str
    licence: str
    preprocessing: Preprocessing = RCDM_PREPROCESSING


_FILES = "https://dl.fbaipublicfiles.com"
_WIDE = HeadLayer(width=8192, norm="batch", activation="relu")
_WIDE_NO_BIAS = _WIDE.model_copy(update={"bias": False})
_LAST = HeadLayer(width=8192, bias=False)

LAYOUTS: dict[str, PublishedLayout] = {
    # The bottleneck, without L2 normalisation and last_layer (the prototypes).
    "dino": PublishedLayout(
        "backbone.",
        "head.mlp.",
        (HeadLayer(width=4096, norm="batch", activation="gelu"), HeadLayer(width=256)),
        f"{_FILES}/dino/dino_resnet50_pretrain/dino_resnet50_pretrain_full_checkpoint.pth",
        "Apache-2.0",
    ),
    "vicreg": PublishedLayout(
        "backbone.", "projector.", (_WIDE, _WIDE, _LAST), f"{_FILES}/vicreg/resnet50_fullckpt.pth", "MIT"
    ),
    "barlow": PublishedLayout(
        "trunk._feature_blocks.",
        "heads.",
        (_WIDE_NO_BIAS, _WIDE_NO_BIAS, _LAST),
        f"{_FILES}/vissl/model_zoo/barlow_twins/barlow_twins_32gpus_4node_imagenet1k_1000ep_resnet50.torch",
        "MIT",
    ),
    "simclr": PublishedLayout(
        "trunk._feature_blocks.",
        "heads.",
        (HeadLayer(width=2048, activation="relu"), HeadLayer(width=128)),
        f"{_FILES}/vissl/model_zoo/simclr_rn50_1000ep_simclr_8node_resnet_16_07_20.afe428c7/"
        "model_final_checkpoint_phase999.torch",
        "MIT",
    ),
    # AugNet (Chen et al. 2021, arXiv:2106.06250) in the package imgsim: a linear layer and a tanh.
    "augnet": PublishedLayout(
        "pre.",
        "pre.fc.",
        (HeadLayer(width=768, activation="tanh"),),
        "https://github.com/chenmingxiang110/AugNet",
        "MIT",
        Preprocessing(size=224, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    ),
}
"""Layouts by method. The supervised encoder is torchvision's ResNet-50, which needs no layout."""


_RCDM = "https://dl.fbaipublicfiles.com/rcdm"
_NONCOMMERCIAL = "CC-BY-NC 4.0"
PUBLISHED_INPUT = "224 px, RGB in [-1, 1]"
"""Input of all encoders of the published RCDMs; not ImageNet's mean and standard deviation."""


@dataclass(frozen=True)
class PublishedFile:
    """Published file.

    Attributes:
        url: address of the file.
        licence: licence of the weights.
        sha256: first characters of the hex SHA-256, as published; empty if the publisher gives no hash.
    """

    url: str
    licence: str
    sha256: str = ""

    @property
    def file(self) -> str:
        """File name, the last part of the address."""
        return PurePosixPath(self.url).name


@dataclass(frozen=True)
class PublishedMethod:
    """Published encoder of a method (ResNet-50, ImageNet) and the RCDM of each level.

    Attributes:
        encoder: file with trunk and head.
        widths: width D of the representation, by level.
        rcdm: RCDM file, by level.
    """

    encoder: PublishedFile
    widths: Mapping[Level, int]
    rcdm: Mapping[Level, PublishedFile]


def _rcdm(name: str) -> PublishedFile:
    return PublishedFile(f"{_RCDM}/rcdm_ema_{name}.pt", _NONCOMMERCIAL)


def _with_projector(method: str) -> PublishedMethod:
    layout = LAYOUTS[method]
    return PublishedMethod(
        PublishedFile(layout.origin, layout.licence),
        {"backbone": 2048, "projector": layout.layers[-1].width},
        {"backbone": _rcdm(f"{method}_trunk"), "projector": _rcdm(f"{method}_head")},
    )


PUBLISHED: dict[str, PublishedMethod] = {
    "dino": _with_projector("dino"),
    "simclr": _with_projector("simclr"),
    "vicreg": _with_projector("vicreg"),
    "barlow": _with_projector("barlow"),
    "supervised": PublishedMethod(
        # torchvision's IMAGENET1K_V1; the file name contains the first characters of its SHA-256.
        PublishedFile(
            "https://download.pytorch.org/models/resnet50-0676ba61.pth",
            "BSD-3-Clause",
            sha256="0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
        ),
        {"backbone": 2048},
        {"backbone": _rcdm("supervised")},
    ),
}
"""Published encoders and RCDMs, by method. Only torchvision publishes a hash."""


def find_rcdm(file: str) -> tuple[str, Level, PublishedFile] | None:
    """Return method, level and source of a published RCDM file by its file name, or None."""
    for method, published in PUBLISHED.items():
        for level, source in published.rcdm.items():
            if source.file == file:
                return method, level, source
    return None
