"""Installation of finished graphs in a bundle: first the files, then ``parity.json``, last the manifest."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rcdm_cli.backends.graph import BundleFile, Graph, verified_path
from rcdm_cli.bundle.manifest import PARITY, Manifest, read_manifest, replace_manifest
from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.core.files import flush, sha256, write_json
from rcdm_cli.core.spec import JsonObject, Spec, Text
from rcdm_cli.exporting.parity import BOUNDS, Parity

NOT_WRITTEN = ""
"""``Graph.sha256`` of a graph that is to be written."""


@dataclass(frozen=True)
class Installation:
    """Graphs that were installed in a bundle.

    Attributes:
        manifest: manifest after the installation.
        graphs: installed graphs.
        parity: errors against PyTorch, by file name.
    """

    manifest: Manifest
    graphs: Sequence[Graph]
    parity: Mapping[str, Sequence[Parity]]


class _ParityFile(Spec):
    """Content of ``PARITY``."""

    against: Text
    bounds: JsonObject
    graphs: dict[Text, JsonObject]


def finished(graph: Graph, path: Path, data: Path | None = None, versions: Mapping[str, str] | None = None) -> Graph:
    """Return ``graph`` with the hashes of its files.

    Args:
        graph: entry of the graph, with ``NOT_WRITTEN`` as its hash.
        path: file of the graph.
        data: weights file of the graph, if present.
        versions: versions of further packages that wrote the graph.
    """
    entry = BundleFile(file=data.name, sha256=sha256(data)) if data else None
    versions = {**graph.versions, **(versions or {})}
    return graph.model_copy(update={"sha256": sha256(path), "data": entry, "versions": versions})


def current_graph(folder: Path, manifest: Manifest, wanted: Graph) -> Graph | None:
    """Return the graph of the bundle that equals ``wanted``, made from the same weights by the same versions.

    None if the bundle has no such graph or its files are damaged.
    """
    graph = manifest.graph(wanted.kind, wanted.network, wanted.precision, wanted.method)
    made_from = {"source", "max_batch", "target"}
    if graph is None or graph.model_dump(include=made_from) != wanted.model_dump(include=made_from):
        return None
    if not wanted.versions.items() <= graph.versions.items():
        return None
    try:
        verified_path(folder, graph)
    except InputError:
        return None
    return graph


def install(
    folder: Path,
    stage: Path,
    graphs: Sequence[Graph],
    parity: Mapping[str, Sequence[Parity]] = MappingProxyType({}),
    samples: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Installation:
    """Move graphs into the bundle, and replace older graphs of the same kind, network, method and precision.

    Args:
        folder: folder of the bundle.
        stage: folder with the files of ``graphs``, on the same disk.
        graphs: entries of the graphs, with hashes.
        parity: errors against PyTorch, by file name. Earlier errors of a graph that is not listed are discarded.
        samples: quality of samples, by file name; JSON-compatible values.

    Raises:
        RcdmError: the bundle's folder is not writable.
    """
    manifest = read_manifest(folder)
    if not graphs:
        return Installation(manifest, graphs, parity)
    replaced = {graph.key for graph in graphs}
    others = [graph for graph in manifest.graphs if graph.key not in replaced]
    manifest = manifest.model_copy(update={"graphs": (*others, *graphs)})
    try:
        for entry in (entry for graph in graphs for entry in graph.files):
            flush(stage / entry.file)
            (stage / entry.file).replace(folder / entry.file)
        _write_parity(folder, manifest, {graph.file for graph in graphs}, parity, samples)
        replace_manifest(folder, manifest)
    except OSError as error:
        raise RcdmError(f"Could not write to {folder}: {error.strerror or error}.") from error
    return Installation(manifest, graphs, parity)


def _write_parity(
    folder: Path,
    manifest: Manifest,
    new: set[str],
    parity: Mapping[str, Sequence[Parity]],
    samples: Mapping[str, Mapping[str, Any]],
) -> None:
    path = folder / PARITY
    earlier: dict[str, Any] = {}
    if path.is_file():
        # A damaged file is replaced.
        with suppress(InputError):
            earlier = _ParityFile.parse_json(path.read_bytes(), str(path)).graphs
    graphs = {}
    for graph in manifest.graphs:
        if graph.file in parity:
            cases = [asdict(case) for case in parity[graph.file]]
            worst = max(case.relative for case in parity[graph.file])
            graphs[graph.file] = {"sha256": graph.sha256, "worst_relative": worst, "cases": cases}
            if graph.file in samples:
                graphs[graph.file]["samples"] = dict(samples[graph.file])
        elif graph.file in earlier and graph.file not in new:
            graphs[graph.file] = earlier[graph.file]
    if graphs or earlier:
        write_json(path, {"against": "torch at fp32", "bounds": BOUNDS, "graphs": graphs})
