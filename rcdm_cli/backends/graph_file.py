"""The ONNX graph of a bundle's denoiser, which more than one backend runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch

from rcdm_cli.backends.base import RunContext
from rcdm_cli.backends.engine_file import EIGHT_BIT, Precision, checked
from rcdm_cli.core.errors import InputError, RcdmError

CACHE = 2**19
"""Bytes of one feature map that a request may have: half of what a core keeps close by on today's CPUs."""


def needs_package(module: str, title: str, extra: str) -> None:
    """Look for a package without importing it.

    Raises:
        RcdmError: it is not installed.
    """
    if find_spec(module) is None:
        raise RcdmError(f"{title} is not installed: `pip install 'rcdm[{extra}]'`.")


def exported(place: RunContext, order: Sequence[Precision]) -> tuple[Precision, ...]:
    """Those of the precisions ``order`` at which the bundle holds an ONNX graph of the loop form, in that order.

    Raises:
        InputError: there is none.
    """
    found = tuple(precision for precision in order if place.graph("onnx", "loop", precision))
    if not found:
        raise InputError(f"{place.folder} holds no ONNX graph that it runs: `rcdm export {place.folder}` writes them.")
    return found


def graph_file(place: RunContext, precision: Precision) -> Path:
    """The file of the loop form at ``precision``, once its bytes are those that the manifest names.

    Raises:
        InputError: the bundle holds none, or the file or that of its weights is missing or is another one.
    """
    graph = place.graph("onnx", "loop", precision)
    if graph is None:
        raise InputError(
            f"{place.folder} holds no {precision} ONNX graph: {how_to_write(place.folder, precision)} writes it."
        )
    if graph.source != place.weights_sha256:
        raise InputError(
            f"{graph.file} was made of other weights: {how_to_write(place.folder, precision)} writes it anew."
        )
    if graph.data:
        checked(place.folder, graph.data)
    return checked(place.folder, graph)


def how_to_write(folder: Path, precision: str) -> str:
    """The command that writes the graph at ``precision``."""
    calibration = " --calibration IMAGES" if precision in EIGHT_BIT else ""
    return f"`rcdm export {folder} --precision {precision}{calibration}`"


@dataclass(frozen=True)
class Streams:
    """How a CPU runs a batch: in requests of a few samples, two of them side by side.

    Per sample, a request of one is slow where the network is small, for its many operations on little data; a large
    one is slow where its features no longer fit into the cache of a core.

    Attributes:
        threads: for a request that runs alone.
        count: requests that run side by side.
        together: samples in a request, where there are several.
    """

    threads: int
    count: int
    together: int

    def requests(self, batch: int) -> list[tuple[int, int]]:
        """(start, samples) of each request: whole ones, then single samples."""
        whole = batch - batch % self.together
        return [
            *((start, self.together) for start in range(0, whole, self.together)),
            *((start, 1) for start in range(whole, batch)),
        ]


def streams(place: RunContext) -> Streams:
    """For the bundle's denoiser and the threads that torch may use."""
    spec = place.denoiser
    features = 4 * spec.size**2 * spec.channels * spec.channel_mult[0]
    threads = torch.get_num_threads()
    return Streams(threads, min(2, threads), max(1, min(8, CACHE // features)))
