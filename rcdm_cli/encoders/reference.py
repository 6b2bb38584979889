"""What names an encoder on a command line: ``timm:resnet50,pretrained`` or ``dino.pth,size=96,scaling=-1..1``."""

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.spec import Spec
from rcdm_cli.encoders.spec import METHOD_PATTERN, Preprocessing

Triple = tuple[float, float, float]

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)

SCALINGS: dict[str, tuple[Triple, Triple]] = {
    "imagenet": (IMAGENET_MEAN, IMAGENET_STD),
    "-1..1": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "0..1": ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
}
"""Mean and standard deviation of pixel values in [0, 1], by what the trunk's input becomes."""

_PARTS = re.compile(r"(?P<target>.+?)(?P<options>(?:,(?:pretrained|[a-z]+=[^,]*))*)")


class Reference(Spec):
    """A reference taken apart: what is opened, and the options after it.

    Attributes:
        target: ``timm:NAME``, or the path of a file or folder.
        pretrained: with timm's weights; without, a timm model has random ones.
        method: the encoder's name.
        pool: what a timm trunk makes one vector of: ``avg`` and ``max`` of all places, or the class ``token``.
        size: height and width of the input in pixels.
        scaling: of the input; ``mean`` and ``std`` (``R/G/B``, of pixel values in [0, 1]) stand for any other.
        trunk: timm's name of a checkpoint's trunk, where names and shapes do not tell.
        head: a checkpoint's head: its name inside the checkpoint, or a file of its own.
        activation: between the layers of that head.
    """

    target: str
    pretrained: bool = False
    method: str | None = Field(default=None, pattern=METHOD_PATTERN)
    pool: Literal["avg", "max", "token"] | None = None
    size: int | None = Field(default=None, ge=16, le=2048)
    scaling: Literal["imagenet", "-1..1", "0..1"] | None = None
    mean: Triple | None = None
    std: Triple | None = None
    trunk: str | None = None
    head: str | None = None
    activation: Literal["relu", "gelu", "tanh"] | None = None

    @field_validator("mean", "std", mode="before")
    @classmethod
    def _three(cls, value: Any) -> Any:
        return tuple(value.split("/")) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_scaling(self) -> "Reference":
        if (self.mean is None) != (self.std is None):
            raise ValueError("mean and std stand together")
        if self.mean is not None and self.scaling is not None:
            raise ValueError("scaling, or mean and std, not both")
        return self

    def check(self, what: str, allowed: Collection[str]) -> None:
        """Raise ``InputError`` where an option is given that ``what`` does not have; ``method`` is for all."""
        known = {"target", "method", *allowed}
        if strangers := [name for name in type(self).model_fields if name in self.model_fields_set - known]:
            choices = f"; it takes {', '.join(sorted(known - {'target'}))}"
            raise InputError(f"--encoder {self.target}: {', '.join(strangers)} is not an option of {what}{choices}.")

    def name(self) -> str:
        """The encoder's name: ``method``, else made of the target."""
        if self.method:
            return self.method
        stem = self.target.removeprefix("timm:") if self.target.startswith("timm:") else Path(self.target).stem
        return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).lstrip("._-") or "encoder"

    def preprocessing(self, own: Preprocessing) -> Preprocessing:
        """``own`` with what the options put in its place."""
        mean, std = own.mean, own.std
        if self.scaling is not None:
            mean, std = SCALINGS[self.scaling]
        elif self.mean is not None and self.std is not None:
            mean, std = self.mean, self.std
        values = {"size": self.size or own.size, "mean": mean, "std": std}
        return Preprocessing.parse(values, f"--encoder {self.target}")


def parse_reference(text: str) -> Reference:
    """Take a reference apart.

    Raises:
        InputError: an option is unknown, stands twice, or has a value that it cannot have.
    """
    found = _PARTS.fullmatch(text)
    if not found:
        raise InputError("An encoder's reference is empty. Give a file, or timm:NAME.")
    target = found["target"]
    if target.startswith("timm:") and "," in target:  # a path may have commas, a model's name has none
        wrong = target.split(",")[1]
        raise InputError(f"--encoder {text}: {wrong!r} is no option; options are `pretrained` and NAME=VALUE.")
    values: dict[str, Any] = {}
    for option in found["options"].split(",")[1:]:
        name, _, value = option.partition("=")
        if name in values or name == "target":
            raise InputError(f"--encoder {text}: {name} " + ("stands twice." if name in values else "is no option."))
        values[name] = value if "=" in option else True
    return Reference.parse({"target": target, **values}, f"--encoder {text}")
