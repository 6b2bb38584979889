"""An ONNX graph on the CPU as a function of tensors, for any batch: what runs beside the loop, once."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from rcdm_cli.backends.base import RunContext
from rcdm_cli.backends.engine_file import checked
from rcdm_cli.backends.graph_file import needs_package
from rcdm_cli.backends.openvino import core

Run = Callable[..., Sequence[Tensor]]
"""float32 tensors to float32 tensors, in the graph's order."""


def any_batch(backend: str, path: Path) -> Run:
    """The graph in ``path`` on ``backend``: ``onnx`` or ``openvino``.

    Raises:
        RcdmError: its package is not installed.
    """
    return _openvino(path) if backend == "openvino" else _onnxruntime(path)


def encoder_graph(place: RunContext, backend: str, method: str) -> Run | None:
    """The bundle's encoder of ``method`` as a graph on the backend that runs the denoiser; None where it has none.

    It spares the import of timm, which takes longer than a sampling loop of a small network.

    Raises:
        InputError: the graph's file is missing or another one than the manifest names.
    """
    graph = place.graph("onnx", "encoder", "fp32", method)
    runs_graphs = backend in ("onnxruntime", "openvino") and place.device.type == "cpu"
    if not runs_graphs or graph is None or graph.source != place.encoder_sha256[method]:
        return None
    if graph.data:
        checked(place.folder, graph.data)
    return any_batch(backend, checked(place.folder, graph))


def _onnxruntime(path: Path) -> Run:
    needs_package("onnxruntime", "ONNX Runtime, which checks this graph,", "cpu")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]

    def run(*inputs: Tensor) -> Sequence[Tensor]:
        given = {name: value.contiguous().numpy() for name, value in zip(names, inputs, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, given)]

    return run


def _openvino(path: Path) -> Run:
    needs_package("openvino", "OpenVINO, which checks this graph,", "cpu")
    properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    model = core().compile_model(path, "CPU", properties)

    def run(*inputs: Tensor) -> Sequence[Tensor]:
        outputs = model([value.contiguous().numpy() for value in inputs])
        return [torch.from_numpy(outputs[index].copy()) for index in range(len(outputs))]

    return run
