"""Interface of backends: ``Backend``, implemented by every backend, and ``RunContext``, its input."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import torch

from rcdm_cli.backends.graph import Graph, Precision, find_graph
from rcdm_cli.core.errors import RcdmError
from rcdm_cli.diffusion.autoencoder import LatentCodec
from rcdm_cli.diffusion.inference import Engine
from rcdm_cli.diffusion.space import Codec
from rcdm_cli.diffusion.spec import DenoiserSpec
from rcdm_cli.diffusion.unet import UNet


@dataclass(frozen=True)
class RunContext:
    """A bundle and the device that runs its denoiser.

    Attributes:
        folder: folder of the bundle.
        device: device that runs the denoiser.
        name: name of the bundle.
        denoiser: architecture of the denoiser.
        weights: SHA-256 of the weights files, by (network, method); ``method`` is None except for encoders.
        graphs: compiled networks of the bundle.
    """

    folder: Path
    device: torch.device
    name: str
    denoiser: DenoiserSpec
    weights: Mapping[tuple[str, str | None], str]
    graphs: tuple[Graph, ...]

    def graph(self, kind: str, network: str, precision: str, method: str | None = None) -> Graph | None:
        """Return the graph with these properties that was made from the weights of the bundle, or None."""
        graph = find_graph(self.graphs, kind, network, precision, method)
        return graph if graph and graph.source == self.weights.get((network, method)) else None


class Backend(Protocol):
    """Interface to a library that runs the denoiser. ``select.BACKENDS`` contains one instance per backend."""

    def precisions(self, context: RunContext) -> tuple[Precision, ...]:
        """Return the precisions available for ``context``, in order of preference. No network is loaded.

        Raises:
            RcdmError: the backend cannot run ``context``: a package is not installed, the bundle has no suitable
                graph, the device is not supported, or a library does not load.
        """
        ...

    def open(self, context: RunContext, precision: Precision, unet: Callable[[], UNet]) -> Engine:
        """Load the denoiser.

        Args:
            context: context for which ``precisions`` returned ``precision``.
            precision: number format of the matrix products.
            unet: returns the bundle's network in float32, in evaluation mode, on the device. Called only by backends
                that run the weights themselves.

        Raises:
            RcdmError: the graph's file is missing, differs from the manifest, or does not load.
        """
        ...

    def open_decoder(self, context: RunContext, precision: Precision, codec: Callable[[], LatentCodec]) -> Codec:
        """Load the decoder of a latent space.

        A decoder runs in float32, or in bfloat16 where a backend offers bfloat16. The decoder of Stable Diffusion
        overflows in float16.

        Args:
            context: context for which ``precisions`` returned ``precision``.
            precision: number format of the denoiser.
            codec: returns the bundle's decoder in float32 on the device. Called only by backends that run the weights
                themselves.

        Raises:
            RcdmError: see ``open``.
        """
        ...


def require_package(module: str, title: str, extra: str) -> None:
    """Check that a package is installed, without importing it.

    Raises:
        RcdmError: the package is not installed.
    """
    if find_spec(module) is None:
        raise RcdmError(f"{title} is not installed: `pip install 'rcdm[{extra}]'`.")
