"""Files of a bundle and its compiled networks, as the manifest lists them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import sha256
from rcdm_cli.core.spec import Spec, Text

Precision = Literal["fp32", "fp16", "bf16", "int8", "fp8"]

NetworkName = Literal["denoiser", "encoder", "decoder"]

EIGHT_BIT: tuple[Precision, ...] = ("int8", "fp8")
"""Precisions that need calibration; fp8 is E4M3."""


class BundleFile(Spec):
    """A file of a bundle: its name inside the folder and its SHA-256."""

    file: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=255)
    sha256: str = Field(max_length=64)


class Graph(BundleFile):
    """A compiled network of a bundle.

    Attributes:
        kind: ``onnx`` for an ONNX graph (ONNX Runtime, OpenVINO), ``tensorrt`` for a TensorRT plan.
        network: ``denoiser``, ``(x, modulations) → output``; ``encoder``, images → representations at every level; or
            ``decoder``, normalised latents → images.
        method: method of the encoder; None for other networks.
        precision: number format of the matrix products.
        data: second file with the weights, if the weights are too large for one file.
        source: SHA-256 of the weights file that the graph was exported from.
        max_batch: largest batch size; None if unlimited.
        versions: versions of the packages that wrote the graph.
        target: for a plan, the TensorRT package, its version and the GPUs that run the plan (``PlanTarget``).
    """

    kind: Literal["onnx", "tensorrt"]
    network: NetworkName
    method: Text | None = None
    precision: Precision
    data: BundleFile | None = None
    source: str
    max_batch: int | None = Field(default=None, ge=1, le=2**20)
    versions: dict[Text, Text] = {}
    target: dict[Text, Text] = {}

    @property
    def key(self) -> tuple[str, str, str | None, str]:
        """Identity within a bundle: kind, network, method and precision."""
        return self.kind, self.network, self.method, self.precision

    @property
    def files(self) -> tuple[BundleFile, ...]:
        """The graph's file and, if present, its weights file."""
        return (self, self.data) if self.data else (self,)


def find_graph(
    graphs: Iterable[Graph], kind: str, network: str, precision: str, method: str | None = None
) -> Graph | None:
    """Return the graph with these properties, or None."""
    return next((graph for graph in graphs if graph.key == (kind, network, method, precision)), None)


def verified_path(folder: Path, entry: BundleFile) -> Path:
    """Return the path of a bundle's file after comparing its SHA-256 with the manifest.

    For a ``Graph`` with a weights file, both files are verified and the graph's path is returned.

    Raises:
        InputError: A file is missing or its SHA-256 differs.
    """
    for each in entry.files if isinstance(entry, Graph) else (entry,):
        path = folder / each.file
        if not path.is_file():
            raise InputError(f"{folder} lacks {each.file}, which its manifest lists. Copy the whole folder again.")
        if sha256(path) != each.sha256:
            raise InputError(f"{path} is not the file that the bundle's manifest lists: its SHA-256 differs.")
    return folder / entry.file
