"""Where published weights lie, under which licence, and what they are.

Addresses are those that facebookresearch/RCDM (get_ssl_models.py, get_rcdm_models.py) reads; what the encoders' files
hold stands in ``published.LAYOUTS``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath

from rcdm_cli.encoders.published import LAYOUTS
from rcdm_cli.encoders.spec import Level

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
