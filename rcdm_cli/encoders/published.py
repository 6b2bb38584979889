"""The published encoders that the published RCDM was trained on, as rules: where names stand, and their heads.

Names and shapes are those that facebookresearch/RCDM reads (``get_ssl_models.py``). All are ResNet-50s on photos of
224 pixels in [-1, 1], although they were pretrained with ImageNet's mean and standard deviation: a published RCDM
knows representations of the former only.
"""

from dataclasses import dataclass

from rcdm_cli.encoders.reference import IMAGENET_MEAN, IMAGENET_STD
from rcdm_cli.encoders.spec import HeadLayer, Preprocessing

RCDM_PREPROCESSING = Preprocessing(size=224)
"""Of every encoder of the published RCDM, the supervised one too."""

TRUNK = "resnet50"


@dataclass(frozen=True)
class Layout:
    """Where a published checkpoint keeps trunk and head, as ``rcdm_cli.foreign`` gives its names.

    Attributes:
        trunk: prefix of the trunk's names.
        head: prefix of the head's names.
        layers: of the head, up to the output that is the projector level.
        origin: where it is published.
        licence: in the repository that publishes it, which says nothing else of the weights.
        preprocessing: of its photos.
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
