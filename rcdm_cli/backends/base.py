"""What every backend gives: the denoiser's loop form as a function, and how it comes to be."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import torch

from rcdm_cli.backends.engine_file import Graph, Precision, find_graph
from rcdm_cli.diffusion.inference import Engine
from rcdm_cli.diffusion.spec import DenoiserSpec
from rcdm_cli.diffusion.unet import UNet

BackendName = Literal["torch", "inductor", "onnxruntime", "openvino", "tensorrt"]


@dataclass(frozen=True)
class RunContext:
    """The bundle to run and the device to run it on.

    Attributes:
        folder: of the bundle.
        device: that runs the denoiser.
        name: of the bundle.
        denoiser: architecture of the denoiser.
        weights_sha256: SHA-256 of the file with the denoiser's PyTorch weights; compiled graphs name the weights they
            were made from.
        encoder_sha256: SHA-256 of each encoder's file, by method.
        graphs: compiled networks of the bundle.
    """

    folder: Path
    device: torch.device
    name: str
    denoiser: DenoiserSpec
    weights_sha256: str
    encoder_sha256: Mapping[str, str]
    graphs: tuple[Graph, ...]

    def graph(self, kind: str, network: str, precision: str, method: str | None = None) -> Graph | None:
        """The graph of this kind, network, precision and method; None if the bundle has none."""
        return find_graph(self.graphs, kind, network, precision, method)


class Backend(Protocol):
    """A kind of engine. Modules of this folder hold one object each that has these two methods."""

    def precisions(self, place: RunContext) -> tuple[Precision, ...]:
        """What it can run at ``place``, the one to prefer first; the bundle's engines are not loaded for it.

        Raises:
            RcdmError: why it cannot run there at all, and what to do: a package is not installed, the manifest names
                no engine that it runs, the device is not one of its own, its libraries do not load.
        """
        ...

    def open(self, place: RunContext, precision: Precision, unet: Callable[[], UNet]) -> Engine:
        """Load the engine.

        Args:
            place: for which ``precisions`` named the precision.
            precision: of its matrix products.
            unet: gives the bundle's network, float32, for evaluation, on the device: for a backend that runs
                the weights themselves.

        Raises:
            RcdmError: the engine's file is missing, is another one than the manifest names, or does not load.
        """
        ...
