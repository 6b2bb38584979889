"""Compare an ONNX graph with PyTorch, on every backend that is installed and runs it on the CPU."""

from pathlib import Path

import torch

from rcdm_cli.errors import RcdmError
from rcdm_cli.runtime.backends.any_batch import any_batch
from rcdm_cli.runtime.backends.choose import BACKENDS
from rcdm_cli.runtime.backends.engine import Place
from rcdm_cli.runtime.bundle import Bundle
from rcdm_cli.runtime.manifest import Graph
from rcdm_cli.runtime.parity import Parity, denoiser_parity, encoder_parity, loop_form

RUNNERS = ("onnx", "openvino")


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
        return encoder_parity(any_batch("onnx", folder / graph.file), bundle.encoder(graph.method), "onnx")
    # ONNX Runtime has no bfloat16 convolution for CPUs.
    runner = "openvino" if graph.precision == "bf16" else "onnx"
    run = any_batch(runner, folder / graph.file)
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
