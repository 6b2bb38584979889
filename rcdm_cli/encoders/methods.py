"""Training methods with their papers and levels."""

from dataclasses import dataclass

from rcdm_cli.core.levels import LEVELS, Level


@dataclass(frozen=True)
class Method:
    """Training method of an encoder.

    Attributes:
        title: name in the paper.
        paper: authors, year and arXiv number.
        levels: available levels.
        projector: output at the projector level.
    """

    title: str
    paper: str
    levels: tuple[Level, ...]
    projector: str


METHODS: dict[str, Method] = {
    "dino": Method(
        "DINO",
        "Caron et al. 2021, arXiv:2104.14294",
        LEVELS,
        "the head's bottleneck, before normalisation and prototypes",
    ),
    "simclr": Method("SimCLR", "Chen et al. 2020, arXiv:2002.05709", LEVELS, "the input of the NT-Xent loss"),
    "vicreg": Method("VICReg", "Bardes et al. 2021, arXiv:2105.04906", LEVELS, "the expander's output"),
    "barlow": Method("Barlow Twins", "Zbontar et al. 2021, arXiv:2103.03230", LEVELS, "the input of the loss"),
    "supervised": Method("supervised", "cross-entropy on class labels", ("backbone",), "none"),
}
