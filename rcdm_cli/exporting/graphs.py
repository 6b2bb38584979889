"""ONNX graphs of a bundle's encoders, of its denoiser at fp32, fp16 and bf16, and of its decoder at fp32 and bf16."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from rcdm_cli import __version__
from rcdm_cli.backends.base import require_package
from rcdm_cli.backends.graph import Graph, NetworkName, Precision
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.bundle.files import read_decoder
from rcdm_cli.bundle.manifest import Manifest
from rcdm_cli.core.files import temporary_folder
from rcdm_cli.diffusion.inference import LoopForm, at_precision
from rcdm_cli.exporting.install import NOT_WRITTEN, Installation, finished, install
from rcdm_cli.exporting.onnx import export_graph
from rcdm_cli.exporting.parity import Parity, check_bounds, measure_parity


def denoiser_graph(manifest: Manifest, precision: Precision) -> Graph:
    """Return the entry of the denoiser's ONNX graph before the graph is written."""
    return _entry("denoiser", precision, manifest.model.sha256)


def wanted_graphs(
    manifest: Manifest, precisions: Sequence[Precision], decoder_precisions: Sequence[Precision] = ("fp32",)
) -> list[Graph]:
    """Return entries for each encoder at fp32, for the decoder, if any, and for the denoiser.

    Encoders that are already ONNX graphs are left out.

    Args:
        manifest: manifest of the bundle.
        precisions: precisions of the denoiser.
        decoder_precisions: precisions of the decoder of a latent space, fp32 and bf16.

    Raises:
        RcdmError: the exporter is not installed.
    """
    require_package("onnxscript", "onnxscript, which writes ONNX graphs,", "export")
    encoders = [
        _entry("encoder", "fp32", entry.sha256, method)
        for method, entry in manifest.encoders.items()
        if not entry.spec.onnx_widths
    ]
    decoders = [
        _entry("decoder", precision, manifest.decoder.sha256) for precision in decoder_precisions if manifest.decoder
    ]
    return [*encoders, *decoders, *(denoiser_graph(manifest, precision) for precision in precisions)]


def _entry(network: NetworkName, precision: Precision, source: str, method: str | None = None) -> Graph:
    return Graph(
        file=f"{network}-{method}.{precision}.onnx" if method else f"{network}.{precision}.onnx",
        sha256=NOT_WRITTEN,
        kind="onnx",
        network=network,
        method=method,
        precision=precision,
        source=source,
        versions={"rcdm": __version__},
    )


def write_graphs(
    bundle: Bundle,
    graphs: Sequence[Graph],
    *,
    check: bool = True,
    on_progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> Installation:
    """Write ONNX graphs and install them. If a graph fails, no graph is installed.

    Args:
        bundle: bundle on the CPU.
        graphs: entries from ``wanted_graphs``.
        check: whether to compare each graph with PyTorch in float32.
        on_progress: called with (finished graphs, total graphs, next file).

    Raises:
        CheckFailed: the error of a graph exceeds ``parity.BOUNDS``.
        RcdmError: A package that writes or runs graphs is not installed.
    """
    written: list[Graph] = []
    parity: dict[str, list[Parity]] = {}
    with temporary_folder(bundle.folder, "export") as stage:
        for done, graph in enumerate(graphs):
            on_progress(done, len(graphs), graph.file)
            written.append(_write(bundle, graph, stage))
            if check:
                parity[graph.file] = measure_parity(bundle, written[-1], stage)
                check_bounds(parity[graph.file])
        on_progress(len(graphs), len(graphs), "")
        return install(bundle.folder, stage, written, parity)


def _write(bundle: Bundle, graph: Graph, stage: Path) -> Graph:
    import onnx

    path = stage / graph.file
    # A batch of 2: the exporter treats a batch of 1 as a constant.
    if graph.network == "encoder":
        encoder = bundle.encoder(graph.method)
        size = encoder.spec.preprocessing.size
        data = export_graph(encoder, {"images": torch.zeros(2, 3, size, size)}, list(encoder.spec.levels), path)
    elif graph.network == "decoder":
        assert bundle.manifest.decoder is not None, "`wanted_graphs` found a decoder"
        codec = read_decoder(bundle.folder, bundle.manifest.decoder, bundle.device)
        x = torch.zeros(2, *bundle.manifest.denoiser.input_shape)
        data = export_graph(codec.at_precision(graph.precision), {"x": x}, ["images"], path)
    else:
        unet = bundle.model.denoiser
        x = torch.zeros(2, *unet.spec.input_shape)
        inputs = {"x": x, "modulations": torch.zeros(2, unet.modulation_width)}
        data = export_graph(LoopForm(at_precision(unet, graph.precision)), inputs, ["output"], path)
    return finished(graph, path, data, {"torch": torch.__version__, "onnx": onnx.__version__})
