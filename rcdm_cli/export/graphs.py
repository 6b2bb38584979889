"""ONNX graphs of a bundle: written, compared with PyTorch, and only then put into it."""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from rcdm_cli import __version__
from rcdm_cli.backends.engine_file import EngineFile, Graph, Precision, checked
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.bundle.manifest import Manifest
from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.core.files import sha256
from rcdm_cli.diffusion.inference import FullForm, LoopForm, at_precision
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.export.install import install
from rcdm_cli.export.onnx import export_graph, needs_exporter
from rcdm_cli.export.parity import Parity, check_graph, hold

OnProgress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Exported:
    """What came of an export.

    Attributes:
        manifest: as it stands in the bundle now.
        built: files that were written.
        kept: files that were up to date.
        parity: of those that were written; empty without a check.
    """

    manifest: Manifest
    built: list[str]
    kept: list[str]
    parity: list[Parity]


def export_onnx(
    folder: Path,
    precisions: Sequence[Precision] = ("fp32",),
    *,
    check: bool = True,
    force: bool = False,
    on_progress: OnProgress = lambda done, total, note: None,
) -> Exported:
    """Write a bundle's ONNX graphs into it: each encoder at float32, and both forms of the denoiser.

    An encoder that came as an ONNX graph is one already, and gets no other.
    ``quantization.export_quantized`` writes int8 and fp8.

    They take the bundle's place for graphs once all are written and have passed; until then it stays as it was.

    Args:
        folder: of the bundle.
        precisions: of the denoiser.
        check: compare each graph with PyTorch at float32.
        force: also write those that are up to date.
        on_progress: called with (graphs done, graphs, what comes next).

    Raises:
        CheckFailed: a graph is further from PyTorch than ``parity.BOUNDS`` allow.
        RcdmError: what writes or checks graphs is not installed.
    """
    needs_exporter()
    bundle = Bundle(folder, torch.device("cpu"))
    wanted = [*_encoders(bundle.manifest), *_denoisers(bundle.manifest, precisions)]
    current = [] if force else [graph for graph in wanted if is_current(folder, bundle.manifest, graph)]
    missing = [graph for graph in wanted if graph not in current]
    written: dict[str, Graph] = {}
    parity: dict[str, list[Parity]] = {}
    with staging(folder) as stage:
        for done, graph in enumerate(missing):
            on_progress(done, len(missing), graph.file)
            written[graph.file] = _write(bundle, graph, stage)
            if check:
                parity[graph.file] = check_graph(bundle, written[graph.file], stage)
                hold(parity[graph.file])
        on_progress(len(missing), len(missing), "")
        manifest = install(folder, stage, list(written.values()), parity)
    kept = [graph.file for graph in current]
    return Exported(manifest, list(written), kept, [case for cases in parity.values() for case in cases])


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A folder inside the bundle for files that are not finished; it is gone afterwards.

    Raises:
        RcdmError: the bundle's folder cannot be written.
    """
    try:
        stage = Path(tempfile.mkdtemp(prefix=".export-", dir=folder))
    except OSError as error:
        raise RcdmError(f"Could not write into {folder}: {error.strerror or error}. Copy the bundle first.") from error
    try:
        yield stage
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _encoders(manifest: Manifest) -> list[Graph]:
    return [
        Graph(
            file=f"encoder-{method}.fp32.onnx",
            sha256="",
            kind="onnx",
            network="encoder",
            method=method,
            precision="fp32",
            source=entry.sha256,
        )
        for method, entry in manifest.encoders.items()
        if not entry.spec.onnx_widths
    ]


def _denoisers(manifest: Manifest, precisions: Sequence[Precision]) -> list[Graph]:
    return [
        Graph(
            file=f"denoiser-{network}.{precision}.onnx",
            sha256="",
            kind="onnx",
            network=network,
            precision=precision,
            source=manifest.model.sha256,
        )
        for precision in precisions
        for network in ("loop", "full")
    ]


def is_current(folder: Path, manifest: Manifest, wanted: Graph) -> bool:
    """Whether the bundle has the graph, of the same weights, by this version of the program, and its files whole."""
    found = manifest.graph("onnx", wanted.network, wanted.precision, wanted.method)
    if found is None or found.source != wanted.source or found.versions.get("rcdm") != __version__:
        return False
    try:
        for entry in (found, found.data):
            if entry:
                checked(folder, entry)
    except InputError:
        return False
    return True


def _write(bundle: Bundle, graph: Graph, stage: Path) -> Graph:
    """Write the file of ``graph`` into ``stage``; returns it with hashes and versions."""
    path = stage / graph.file
    if graph.network == "encoder":
        encoder = bundle.encoder(graph.method)
        data = _write_encoder(encoder, path)
    else:
        unet = bundle.model.denoiser
        # Two of each: a batch of 1 would be taken for a constant.
        inputs = {"x": torch.zeros(2, 3, unet.spec.size, unet.spec.size)}
        mine = at_precision(unet, graph.precision)
        if graph.network == "loop":
            inputs["modulations"] = torch.zeros(2, unet.modulation_width)
            data = export_graph(LoopForm(mine), inputs, ["output"], path)
        else:
            inputs |= {"t": torch.zeros(2), "cond": torch.zeros(2, unet.spec.cond_width)}
            data = export_graph(FullForm(mine), inputs, ["output"], path)
    return finished(graph, path, data, {"torch": torch.__version__})


def finished(graph: Graph, path: Path, data: Path | None, versions: dict[str, str]) -> Graph:
    """``graph`` with the hashes of its files and the versions of what wrote it."""
    import onnx

    entry = EngineFile(file=data.name, sha256=sha256(data)) if data else None
    versions = {"rcdm": __version__, **versions, "onnx": onnx.__version__}
    return graph.model_copy(update={"sha256": sha256(path), "data": entry, "versions": versions})


def _write_encoder(encoder: Encoder, path: Path) -> Path | None:
    size = encoder.spec.preprocessing.size
    images = torch.zeros(2, 3, size, size)
    return export_graph(encoder, {"images": images}, cast(list[str], list(encoder.spec.levels)), path)
