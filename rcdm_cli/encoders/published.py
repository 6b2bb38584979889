"""The published encoders that the published RCDM was trained on, as rules: where names stand, and their heads.

Names and shapes are those that facebookresearch/RCDM reads (``get_ssl_models.py``). All are ResNet-50s on images of
224 pixels in [-1, 1], although they were pretrained with ImageNet's mean and standard deviation: a published RCDM
knows representations of the former only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from rcdm_cli.core.levels import Level
from rcdm_cli.encoders.reference import IMAGENET_MEAN, IMAGENET_STD
from rcdm_cli.encoders.spec import HeadLayer, Preprocessing

RCDM_PREPROCESSING = Preprocessing(size=224)
"""Of every encoder of the published RCDM, the supervised one too."""

TRUNK = "resnet50"


@dataclass(frozen=True)
class Layout:
    """Where a published checkpoint keeps trunk and head, as ``rcdm_cli.core.state_dict`` gives its names.

    Attributes:
        trunk: prefix of the trunk's names.
        head: prefix of the head's names.
        layers: of the head, up to the output that is the projector level.
        origin: where it is published.
        licence: in the repository that publishes it, which says nothing else of the weights.
        preprocessing: of its images.
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

LAYOUTS: dict[str, Layout] = {
    # The bottleneck; last_layer, the prototypes after its L2 normalisation, is left out.
    "dino": Layout(
        "backbone.",
        "head.mlp.",
        (HeadLayer(width=4096, norm="batch", activation="gelu"), HeadLayer(width=256)),
        f"{_FILES}/dino/dino_resnet50_pretrain/dino_resnet50_pretrain_full_checkpoint.pth",
        "Apache-2.0",
    ),
    "vicreg": Layout("backbone.", "projector.", (_WIDE, _WIDE, _LAST), f"{_FILES}/vicreg/resnet50_fullckpt.pth", "MIT"),
    "barlow": Layout(
        "trunk._feature_blocks.",
        "heads.",
        (_WIDE_NO_BIAS, _WIDE_NO_BIAS, _LAST),
        f"{_FILES}/vissl/model_zoo/barlow_twins/barlow_twins_32gpus_4node_imagenet1k_1000ep_resnet50.torch",
        "MIT",
    ),
    "simclr": Layout(
        "trunk._feature_blocks.",
        "heads.",
        (HeadLayer(width=2048, activation="relu"), HeadLayer(width=128)),
        f"{_FILES}/vissl/model_zoo/simclr_rn50_1000ep_simclr_8node_resnet_16_07_20.afe428c7/"
        "model_final_checkpoint_phase999.torch",
        "MIT",
    ),
    # AugNet (Chen et al. 2021, arXiv:2106.06250) as its package imgsim carries it: one linear layer and a tanh.
    "augnet": Layout(
        "pre.",
        "pre.fc.",
        (HeadLayer(width=768, activation="tanh"),),
        "https://github.com/chenmingxiang110/AugNet",
        "MIT",
        Preprocessing(size=224, mean=IMAGENET_MEAN, std=IMAGENET_STD),
    ),
}
"""By method. The supervised one is torchvision's ResNet-50, which has no head and no layout of its own."""


_RCDM = "https://dl.fbaipublicfiles.com/rcdm"
_NONCOMMERCIAL = "CC-BY-NC 4.0"
PUBLISHED_INPUT = "224 px, RGB in [-1, 1]"
"""What the published RCDM gave every encoder; not ImageNet's mean and standard deviation."""


@dataclass(frozen=True)
class Source:
    """One published file.

    Attributes:
        url: its address.
        licence: of the weights.
        sha256: how the hex SHA-256 of its bytes begins, where its publisher says so.
    """

    url: str
    licence: str
    sha256: str = ""

    @property
    def file(self) -> str:
        """The last part of the address."""
        return PurePosixPath(self.url).name


@dataclass(frozen=True)
class Published:
    """A method's published encoder (ResNet-50, ImageNet) and the RCDM of each of its levels.

    Attributes:
        encoder: trunk, and head where the method has one.
        widths: D of the representation by level.
        rcdm: by level.
    """

    encoder: Source
    widths: Mapping[Level, int]
    rcdm: Mapping[Level, Source]


def _rcdm(name: str) -> Source:
    return Source(f"{_RCDM}/rcdm_ema_{name}.pt", _NONCOMMERCIAL)


def _with_projector(method: str) -> Published:
    layout = LAYOUTS[method]
    return Published(
        Source(layout.origin, layout.licence),
        {"backbone": 2048, "projector": layout.layers[-1].width},
        {"backbone": _rcdm(f"{method}_trunk"), "projector": _rcdm(f"{method}_head")},
    )


PUBLISHED: dict[str, Published] = {
    "dino": _with_projector("dino"),
    "simclr": _with_projector("simclr"),
    "vicreg": _with_projector("vicreg"),
    "barlow": _with_projector("barlow"),
    "supervised": Published(
        # torchvision's IMAGENET1K_V1; the name ends in the beginning of its SHA-256.
        Source(
            "https://download.pytorch.org/models/resnet50-0676ba61.pth",
            "BSD-3-Clause",
            sha256="0676ba61b6795bbe1773cffd859882e5e297624d384b6993f7c9e683e722fb8a",
        ),
        {"backbone": 2048},
        {"backbone": _rcdm("supervised")},
    ),
}
"""By method. Of the hashes only torchvision's is published."""


def find_rcdm(file: str) -> tuple[str, Level, Source] | None:
    """The method, the level and the source of a published RCDM file, by its name; None if there is none."""
    for method, published in PUBLISHED.items():
        for level, source in published.rcdm.items():
            if source.file == file:
                return method, level, source
    return None
