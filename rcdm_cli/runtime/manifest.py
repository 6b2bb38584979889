"""What stands in a bundle's manifest.json: specs, files with their hashes, defaults, origin."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from rcdm_cli.diffusion.spec import ConditionerSpec, DenoiserSpec, ScheduleSpec
from rcdm_cli.encoders.spec import EncoderSpec
from rcdm_cli.errors import InputError
from rcdm_cli.files import sha256
from rcdm_cli.resources import MANIFEST
from rcdm_cli.spec import Spec


class EngineFile(Spec):
    """One file of a bundle, by its name inside the folder, and the SHA-256 of its bytes."""

    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    sha256: str


class EncoderEntry(EngineFile):
    """An encoder of the bundle."""

    spec: EncoderSpec


class Defaults(Spec):
    """How pictures are sampled unless a person says otherwise; ``guidance`` 1 is none."""

    sampler: Literal["ddpm", "ddim", "dpmpp"] = "dpmpp"
    steps: int = Field(default=20, ge=1)
    guidance: float = Field(default=1.0, ge=0)


class Manifest(Spec):
    """A finished model: one denoiser, its conditioner, and the encoders it is conditioned on.

    Attributes:
        format: version of this file's layout.
        name: of the bundle.
        description: one line for people.
        origin: of the photos it was trained on.
        licence: of those photos.
        trained: the recipe, the steps and the photos seen.
        model: file with the weights of denoiser and conditioner.
        encoders: by method.
        defaults: of sampling.
    """

    format: Literal[1] = 1
    name: str
    description: str = ""
    origin: str = ""
    licence: str = ""
    trained: dict[str, Any] = {}
    schedule: ScheduleSpec
    denoiser: DenoiserSpec
    conditioner: ConditionerSpec
    model: EngineFile
    encoders: dict[str, EncoderEntry]
    defaults: Defaults = Defaults()


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle folder.

    Raises:
        InputError: it is missing, or does not validate.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder} is not a bundle: cannot read {MANIFEST} ({error.strerror}).") from error
    return Manifest.parse_json(text, str(path))


def checked(folder: Path, entry: EngineFile) -> Path:
    """The path of a bundle's file, once its bytes are those that the manifest names.

    Raises:
        InputError: the file is missing, or is another one.
    """
    path = folder / entry.file
    if not path.is_file():
        raise InputError(f"{folder} lacks {entry.file}, which its manifest names. Copy the whole folder again.")
    if sha256(path) != entry.sha256:
        raise InputError(f"{path} is not the file that the bundle's manifest names (its SHA-256 differs).")
    return path
