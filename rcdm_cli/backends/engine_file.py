"""Files of compiled networks: their spec in a bundle's manifest, and the check of their bytes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from pydantic import Field

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import sha256
from rcdm_cli.core.spec import Spec


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
        kind: ``onnx``, a graph that ONNX Runtime and OpenVINO run, or ``tensorrt``, a TensorRT plan.
        network: ``loop``, the denoiser ``(x, modulations) → output``; ``full``, the denoiser ``(x, t, cond) → output``;
            or ``encoder``, images to every level.
        method: of an encoder.
        precision: of its matrix products.
        data: the file beside it that holds the weights, where they are too large for one.
        source: the SHA-256 of the weights file that it was made of.
        max_batch: the largest batch it takes; None is any.
        versions: of the packages that made it.
        target: of a plan: ``flavour``, ``compute_capability``, ``gpu`` and what else must be the same to run it.
    """

    kind: Literal["onnx", "tensorrt"]
    network: Literal["loop", "full", "encoder"]
    method: str | None = None
    precision: Precision
    data: EngineFile | None = None
    source: str
    max_batch: int | None = None
    versions: dict[str, str] = {}
    target: dict[str, str] = {}


def find_graph(
    graphs: Sequence[Graph], kind: str, network: str, precision: str, method: str | None = None
) -> Graph | None:
    """The first of ``graphs`` of this kind, network, precision and method; None if there is none."""
    wanted = (kind, network, precision, method)
    return next((g for g in graphs if (g.kind, g.network, g.precision, g.method) == wanted), None)


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
