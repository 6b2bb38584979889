"""Compare an ONNX graph with PyTorch, on every backend that is installed and runs it on the CPU."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from rcdm_cli.errors import RcdmError
from rcdm_cli.runtime.backends.choose import BACKENDS
from rcdm_cli.runtime.backends.engine import Place
from rcdm_cli.runtime.backends.graph_file import needs_package
from rcdm_cli.runtime.bundle import Bundle
from rcdm_cli.runtime.manifest import Graph
from rcdm_cli.runtime.parity import Parity, denoiser_parity, encoder_parity, loop_form

RUNNERS = ("onnx", "openvino")

Run = Callable[..., Sequence[Tensor]]
"""A graph as a function of tensors, for any batch."""


def check_graph(bundle: Bundle, graph: Graph, folder: Path) -> list[Parity]:
    """Errors of ``graph``, whose files lie in ``folder``, against ``bundle`` (PyTorch at float32).

    Raises:
        RcdmError: nothing that is installed runs it.
    """
    if graph.network == "loop":
        found = _loop(bundle, graph, folder)
        if not found:
            raise RcdmError(
                f"Nothing that is installed runs {graph.file}, so that it cannot be compared with PyTorch: "
                "`pip install 'rcdm[cpu]'`, or give --no-check."
            )
        return found
    if graph.network == "encoder":
        return encoder_parity(_onnxruntime(folder / graph.file), bundle.encoder(graph.method), "onnx")
    # ONNX Runtime has no bfloat16 convolution for CPUs.
    runner, load = ("openvino", _openvino) if graph.precision == "bf16" else ("onnx", _onnxruntime)
    run = load(folder / graph.file)
    return denoiser_parity(
        lambda x, t, cond: run(x, t.float(), cond)[0],
        bundle.model,
        bundle.schedule,
        ("full", runner, graph.precision),
    )


def _loop(bundle: Bundle, graph: Graph, folder: Path) -> list[Parity]:
    place = Place(folder, bundle.manifest.model_copy(update={"graphs": (graph,)}), torch.device("cpu"))
    found = []
    for name in RUNNERS:
        backend = BACKENDS[name]
        try:
            backend.precisions(place)
        except RcdmError:
            continue
        engine = backend.open(place, graph.precision, lambda: bundle.model.denoiser)
        run = loop_form(engine, bundle.model)
        found += denoiser_parity(run, bundle.model, bundle.schedule, ("loop", name, graph.precision))
        engine.close()
    return found


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
    import openvino

    properties = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": torch.get_num_threads()}
    model = openvino.Core().compile_model(path, "CPU", properties)

    def run(*inputs: Tensor) -> Sequence[Tensor]:
        outputs = model([value.contiguous().numpy() for value in inputs])
        return [torch.from_numpy(outputs[index].copy()) for index in range(len(outputs))]

    return run
