"""ONNX graphs of a bundle, and the engine that the backends ONNX Runtime and OpenVINO share on CPUs."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from rcdm_cli.backends.base import RunContext
from rcdm_cli.backends.graph import EIGHT_BIT, Graph, Precision, verified_path
from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.onnx_graph import external_tensors, parse_graph

CACHE_BYTES = 2**19
"""Largest feature map of one request in bytes: half of the L2 cache of a core on current CPUs."""

PARALLEL_REQUESTS = 2

GraphFunction = Callable[..., Sequence[Tensor]]
"""Maps float32 tensors to float32 tensors, in the order of the graph's inputs and outputs."""


def available_precisions(context: RunContext, order: Sequence[Precision]) -> tuple[Precision, ...]:
    """Return the precisions of ``order`` at which the bundle has an ONNX graph of the denoiser.

    Raises:
        InputError: the bundle has no such graph.
    """
    available = tuple(precision for precision in order if context.graph("onnx", "denoiser", precision))
    if not available:
        raise InputError(
            f"{context.folder} contains no ONNX graph for this backend. `rcdm export {context.folder}` writes ONNX "
            "graphs."
        )
    return available


def graph_path(context: RunContext, network: str, precision: Precision) -> Path:
    """Return the verified path of the ONNX graph of the denoiser or of the decoder.

    Raises:
        InputError: the bundle has no such graph of its weights, or a file is missing or differs from the manifest.
    """
    graph = context.graph("onnx", network, precision)
    if graph is None:
        raise InputError(
            f"{context.folder} contains no {precision} ONNX graph of the {network} with its present weights. "
            f"{how_to_export(context.folder, precision)} writes the graph."
        )
    return onnx_path(context.folder, graph)


def onnx_path(folder: Path, graph: Graph) -> Path:
    """Return the verified path of an ONNX graph whose weights are in the files that the manifest lists.

    Libraries read the weights of an ONNX graph from any file that the graph names.

    Raises:
        InputError: a file is missing or differs from the manifest, or the graph names another file.
    """
    path = verified_path(folder, graph)
    own = graph.data.file if graph.data else None
    for tensor in external_tensors(parse_graph(path.read_bytes(), str(path))):
        # Strings that are not UTF-8 are bytes.
        for location in {str(entry.value) for entry in tensor.external_data if entry.key == "location"} or {""}:
            if location != own:
                raise InputError(
                    f"{path} reads weights from {location[:100]!r}, which the manifest of the bundle does not list. "
                    "The graph is refused."
                )
    return path


def how_to_export(folder: Path, precision: str) -> str:
    """Return the command that writes the denoiser's graph at ``precision``."""
    calibration = " and `calibration`" if precision in EIGHT_BIT else ""
    return f"`rcdm export {folder}` with `precision` {precision}{calibration}"


class CpuEngine:
    """The denoiser on a CPU. A batch is split into requests of a few samples, which run in parallel; see ``Engine``.

    Args:
        context: the bundle whose graph is loaded.
        load: ``load(batch, parallel)`` returns the graph for a fixed batch size. Up to ``parallel`` threads call the
            function at a time.
    """

    max_batch: int | None = None

    def __init__(self, context: RunContext, load: Callable[[int, int], GraphFunction]) -> None:
        spec = context.denoiser
        feature_map_bytes = 4 * spec.feature_sizes[0] ** 2 * spec.channels * spec.channel_mult[0]
        self._request_batch = max(1, min(8, CACHE_BYTES // feature_map_bytes))
        self._load = cache(load)
        self._pool = ThreadPoolExecutor(PARALLEL_REQUESTS)

    def __call__(self, x: Tensor, modulations: Tensor) -> Tensor:
        """See ``Engine``."""
        sizes = request_sizes(len(x), self._request_batch)
        parallel = min(PARALLEL_REQUESTS, torch.get_num_threads(), len(sizes))
        # Graphs are loaded before the threads use them, so that each graph is loaded once.
        functions = {size: self._load(size, parallel) for size in set(sizes)}
        requests = zip(x.split(sizes), modulations.split(sizes), strict=True)
        outputs = self._pool.map(lambda request: functions[len(request[0])](*request)[0], requests)
        return torch.cat(list(outputs))

    def close(self) -> None:
        """See ``Engine``."""
        self._pool.shutdown()
        self._load.cache_clear()


def request_sizes(batch: int, request_batch: int) -> list[int]:
    """Return the number of samples of each request. The remainder of a batch runs as single samples.

    Small requests waste time on the overhead of many operations. In large requests, feature maps exceed the cache of a
    core.
    """
    return [request_batch] * (batch // request_batch) + [1] * (batch % request_batch)
