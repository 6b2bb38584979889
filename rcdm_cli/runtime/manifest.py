"""What stands in a bundle's manifest.json: specs, files with their hashes, defaults, origin."""

from pathlib import Path
from typing import Any, Literal, get_args

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


Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]

EightBit = Literal["int8", "fp8"]
"""Precisions that need a calibration; fp8 is E4M3."""

EIGHT_BIT: tuple[EightBit, ...] = get_args(EightBit)


class Graph(EngineFile):
    """A compiled network of the bundle.

    Attributes:
        kind: ``onnx``, a graph that ONNX Runtime and OpenVINO run, or ``trt``, a TensorRT plan.
        network: ``loop``, the denoiser ``(x, modulations) → output``; ``full``, the denoiser ``(x, t, cond) → output``;
            or ``encoder``, photos to every level.
        method: of an encoder.
        precision: of its matrix products.
        data: the file beside it that holds the weights, where they are too large for one.
        source: the SHA-256 of the weights file that it was made of.
        max_batch: the largest batch it takes; None is any.
        versions: of the packages that made it.
        target: of a plan: ``flavour``, ``compute_capability``, ``gpu`` and what else must be the same to run it.
    """

    kind: Literal["onnx", "trt"]
    network: Literal["loop", "full", "encoder"]
    method: str | None = None
    precision: Precision
    data: EngineFile | None = None
    source: str
    max_batch: int | None = None
    versions: dict[str, str] = {}
    target: dict[str, str] = {}


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
        graphs: what `rcdm export` compiled; none in a bundle that holds weights only.
        defaults: of sampling.
        measured: why the defaults are those, as `rcdm tune` measured it; empty where it was not run.
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
    graphs: tuple[Graph, ...] = ()
    defaults: Defaults = Defaults()
    measured: dict[str, Any] = {}

    def graph(self, kind: str, network: str, precision: str, method: str | None = None) -> Graph | None:
        """The graph of these, if there is one."""
        wanted = (kind, network, precision, method)
        return next((g for g in self.graphs if (g.kind, g.network, g.precision, g.method) == wanted), None)


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
