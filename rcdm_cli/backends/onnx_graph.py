"""ONNX graphs of a bundle, for the backends ONNX Runtime and OpenVINO."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rcdm_cli.backends.base import RunContext
from rcdm_cli.backends.graph import EIGHT_BIT, Precision, verified_path
from rcdm_cli.core.errors import InputError

CACHE_BYTES = 2**19
"""Largest feature map of one request in bytes: half of the L2 cache of a core on current CPUs."""

GraphFunction = Callable[..., Sequence[Tensor]]
"""Maps float32 tensors to float32 tensors, in the order of the graph's inputs and outputs."""


def available_precisions(context: RunContext, order: Sequence[Precision]) -> tuple[Precision, ...]:
    """Return the precisions of ``order`` at which the bundle has an ONNX graph of the denoiser.

    Raises:
        InputError: the bundle has no such graph.
    """
    found = tuple(precision for precision in order if context.graph("onnx", "denoiser", precision))
    if not found:
        raise InputError(
            f"{context.folder} contains no ONNX graph for this backend. `rcdm export {context.folder}` writes ONNX "
            "graphs."
        )
    return found


def denoiser_path(context: RunContext, precision: Precision) -> Path:
    """Return the verified path of the denoiser's ONNX graph.

    Raises:
        InputError: the bundle has no such graph, the graph was exported from other weights, or a file is missing or
            differs from the manifest.
    """
    graph = context.graph("onnx", "denoiser", precision)
    if graph is None:
        raise InputError(
            f"{context.folder} contains no {precision} ONNX graph. {how_to_export(context.folder, precision)} writes "
            "the graph."
        )
    if graph.source != context.weights_sha256:
        raise InputError(
            f"{graph.file} was exported from other weights. {how_to_export(context.folder, precision)} replaces it."
        )
    return verified_path(context.folder, graph)


def encoder_path(context: RunContext, method: str) -> Path | None:
    """Return the verified path of an encoder's ONNX graph, or None if the bundle has no graph of these weights.

    Raises:
        InputError: A file is missing or differs from the manifest.
    """
    graph = context.graph("onnx", "encoder", "fp32", method)
    if graph is None or graph.source != context.encoder_sha256[method]:
        return None
    return verified_path(context.folder, graph)


def how_to_export(folder: Path, precision: str) -> str:
    """Return the command that writes the denoiser's graph at ``precision``."""
    calibration = " and `calibration`" if precision in EIGHT_BIT else ""
    return f"`rcdm export {folder}` with `precision` {precision}{calibration}"


@dataclass(frozen=True)
class Streams:
    """Split of a batch into requests of a few samples that a CPU runs in parallel.

    Small requests waste time on the overhead of many operations. In large requests, feature maps exceed the cache of a
    core.

    Attributes:
        threads: number of threads if a single request runs.
        count: number of requests that run in parallel.
        request_batch: samples per request.
    """

    threads: int
    count: int
    request_batch: int

    def requests(self, batch: int) -> list[tuple[int, int]]:
        """Return (first sample, number of samples) of each request. The remainder runs as single samples."""
        whole = batch - batch % self.request_batch
        return [
            *((start, self.request_batch) for start in range(0, whole, self.request_batch)),
            *((start, 1) for start in range(whole, batch)),
        ]


def streams(context: RunContext) -> Streams:
    """Return the split for the bundle's denoiser and PyTorch's number of threads."""
    spec = context.denoiser
    feature_map_bytes = 4 * spec.size**2 * spec.channels * spec.channel_mult[0]
    threads = torch.get_num_threads()
    return Streams(threads, min(2, threads), max(1, min(8, CACHE_BYTES // feature_map_bytes)))
