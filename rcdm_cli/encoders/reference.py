"""References of encoders, such as ``timm:resnet50,pretrained`` or ``dino.pth,size=96,scaling=-1..1``."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.spec import Method, Spec
from rcdm_cli.encoders.spec import Preprocessing

Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)

CLIP_MEAN: Triple = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD: Triple = (0.26862954, 0.26130258, 0.27577711)

SCALINGS: dict[str, tuple[Triple, Triple]] = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "-1..1": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "0..1": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
    "clip": (CLIP_MEAN, CLIP_STD),
}
"""Mean and standard deviation of pixel values in [0, 1], by name of the scaling."""

PREFIXES = ("timm:", "hf:", "torchvision:")
"""Prefixes of targets that are not files."""

NOT_A_FILE = (
    "is not a file. An encoder is a file, the folder of an `rcdm pretrain` run or of a Hugging Face model, timm:NAME, "
    "torchvision:NAME or hf:OWNER/NAME."
)
"""Error for a target that does not exist."""

_UNSPECIFIC = ("model", "pytorch_model")
"""File names of Hugging Face weights. The name of their folder names the encoder."""

_PARTS = re.compile(r"(?P<target>.+?)(?P<options>(?:,(?:pretrained|[a-z]+=[^,]*))*)")


class Reference(Spec):
    """Target and options of an encoder reference.

    Attributes:
        target: ``timm:NAME``, or the path of a file or folder.
        pretrained: use pretrained weights of timm or torchvision instead of random weights.
        weights: name of torchvision's weights, such as ``IMAGENET1K_V2``.
        method: name of the encoder.
        pool: pooling: ``avg`` or ``max`` over all positions, or the class ``token`` (alias ``cls``).
        size: height and width of the input in pixels.
        scaling: scaling of the input.
        channels: number of channels of the input: 3, or 1 for grey images.
        mean: mean of pixel values in [0, 1] (``R/G/B``, or one value), instead of ``scaling``.
        std: standard deviation of pixel values in [0, 1] (``R/G/B``, or one value), instead of ``scaling``.
        trunk: timm's name of a checkpoint's trunk, if the trunk is not recognised.
        prefix: prefix of the names of a checkpoint's trunk, if the checkpoint has several trunks.
        heads: number of attention heads of a ViT, if the number is not known.
        padding: padding of the first convolution of a ResNet for small images.
        ignore: modules of a checkpoint that its trunk does not use, with slashes between them.
        head: name of the projector head inside the checkpoint, or a separate file, or ``none``.
        activation: activation between the layers of the head, or in the MLPs of CLIP and SigLIP.
        axis: axis of the positions in an ONNX output (B, N, D) or (B, D, N).
        output: name of an ONNX output, or two names with a slash between them: backbone and projector.
        layers: layers that become levels besides backbone and projector, by module path, with slashes between them.
    """

    target: str
    pretrained: bool = False
    weights: str | None = None
    method: Method | None = None
    pool: Literal["avg", "max", "token"] | None = None
    size: int | None = Field(default=None, ge=16, le=2048)
    scaling: Literal["imagenet", "-1..1", "0..1", "clip"] | None = None
    channels: int | None = Field(default=None, ge=1, le=1024)
    mean: Triple | None = None
    std: Triple | None = None
    trunk: str | None = None
    prefix: str | None = None
    heads: int | None = Field(default=None, ge=1, le=256)
    padding: int | None = Field(default=None, ge=0, le=16)
    ignore: str | None = None
    head: str | None = None
    axis: int | None = Field(default=None, ge=1, le=2)
    output: str | None = None
    activation: Literal["relu", "gelu", "tanh", "quick_gelu", "gelu_tanh"] | None = None
    layers: str | None = None

    @field_validator("target", "head")
    @classmethod
    def _expand_home(cls, value: str | None) -> str | None:
        return str(Path(value).expanduser()) if value and value.startswith("~/") else value

    @field_validator("pool", mode="before")
    @classmethod
    def _class_token(cls, value: Any) -> Any:
        return "token" if value == "cls" else value

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _three(cls, value: Any) -> Any:
        if isinstance(value, str):
            values = value.split("/")
            return tuple(values * 3 if len(values) == 1 else values)
        return value

    @model_validator(mode="after")
    def _one_scaling(self) -> "Reference":
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std must be given together")
        if self.mean is not None and self.scaling is not None:
            raise ValueError("give scaling, or mean and std, but not both")
        return self

    def check(self, what: str, allowed: Collection[str]) -> None:
        """Check that no option except ``allowed``, ``method`` and ``layers`` is given; ``what`` names the target."""
        accepted = {"target", "method", "layers", *allowed}
        if wrong := [name for name in type(self).model_fields if name in self.model_fields_set - accepted]:
            raise InputError(
                f"`encoder` {self.target}: {', '.join(wrong)} is not an option of {what}."
                f" Options: {', '.join(sorted(accepted - {'target'}))}."
            )

    def layer_names(self) -> list[str]:
        """Return the names in ``layers``."""
        return [name for name in (self.layers or "").split("/") if name]

    def name(self) -> str:
        """Return the name of the encoder: ``method``, else a name derived from the target."""
        if self.method:
            return self.method
        path = Path(self.target)
        if self.target.startswith(PREFIXES):
            stem = self.target.partition("@")[0].replace("/", ":").split(":")[-1]
        else:
            stem = path.parent.name if path.stem in _UNSPECIFIC and path.parent.name else path.stem
        return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-") or "encoder"

    def preprocessing(self, own: Preprocessing) -> Preprocessing:
        """Return ``own`` with the values of the options."""
        mean, std = own.mean, own.std
        if self.scaling is not None:
            mean, std = SCALINGS[self.scaling]
        elif self.mean is not None and self.std is not None:
            mean, std = self.mean, self.std
        values = {"size": self.size or own.size, "mean": mean, "std": std}
        return Preprocessing.parse(values, f"`encoder` {self.target}")


def require_encoder_file(text: str) -> None:
    """Check the syntax of a reference, and that its file exists. Nothing is opened.

    Raises:
        InputError: an option is wrong, or the target does not exist.
    """
    target = parse_reference(text).target
    if not target.startswith(PREFIXES) and not Path(target).exists():
        raise InputError(f"{target} {NOT_A_FILE}")


def parse_reference(text: str) -> Reference:
    """Parse a reference.

    Raises:
        InputError: an option is unknown, repeated, or has a wrong value.
    """
    found = _PARTS.fullmatch(text)
    if not found:
        raise InputError("The reference of the encoder is empty. Give a file, or timm:NAME.")
    target = found["target"]
    if target.startswith(PREFIXES) and "," in target:  # paths may contain commas; names of models do not
        wrong = target.split(",")[1]
        raise InputError(f"`encoder` {text}: {wrong!r} is not an option. Options are `pretrained` and NAME=VALUE.")
    values: dict[str, Any] = {}
    for option in found["options"].split(",")[1:]:
        name, _, value = option.partition("=")
        if name in values or name == "target":
            raise InputError(f"`encoder` {text}: {name} " + ("is repeated." if name in values else "is not an option."))
        values[name] = value if "=" in option else True
    return Reference.parse({"target": target, **values}, f"`encoder` {text}")
