"""Put finished graphs into a bundle: files, then what was measured of them, the manifest last."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rcdm_cli.backends.engine_file import Graph
from rcdm_cli.bundle.manifest import Manifest, read_manifest
from rcdm_cli.core.errors import RcdmError
from rcdm_cli.core.files import write_json
from rcdm_cli.core.resources import MANIFEST
from rcdm_cli.export.parity import BOUNDS, Parity

PARITY = "parity.json"


def install(
    folder: Path,
    stage: Path,
    graphs: Sequence[Graph],
    parity: Mapping[str, Sequence[Parity]],
    samples: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> Manifest:
    """Move ``graphs`` from ``stage``, a folder on the same disk, into the bundle, in the place of older ones.

    Args:
        folder: of the bundle.
        stage: holds the files of ``graphs``.
        graphs: with their hashes.
        parity: by file; one that was not checked has none, and loses what was measured of an older file.
        samples: by file, what was measured of samples that were made with it; JSON-able.

    Returns:
        The bundle's manifest as it is now.
    """
    # Read here and not before: an export takes minutes, and another may have ended meanwhile.
    manifest = read_manifest(folder)
    if not graphs:
        return manifest
    replaced = {_key(graph) for graph in graphs}
    kept = [graph for graph in manifest.graphs if _key(graph) not in replaced]
    manifest = manifest.model_copy(update={"graphs": (*kept, *graphs)})
    try:
        for entry in _files(graphs):
            (stage / entry).replace(folder / entry)
        written = _measured(folder, manifest, {graph.file for graph in graphs}, parity, samples)
        write_json(folder / PARITY, written)
        write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    except OSError as error:
        raise RcdmError(f"Could not write into {folder}: {error.strerror or error}.") from error
    return manifest


def _measured(
    folder: Path,
    manifest: Manifest,
    new: set[str],
    parity: Mapping[str, Sequence[Parity]],
    samples: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    known = {}
    if (folder / PARITY).is_file():
        known = json.loads((folder / PARITY).read_text(encoding="utf-8"))["graphs"]
    graphs = {}
    for graph in manifest.graphs:
        if graph.file in parity:
            cases = [one.as_json() for one in parity[graph.file]]
            worst = max(one.relative for one in parity[graph.file])
            graphs[graph.file] = {"sha256": graph.sha256, "worst_relative": worst, "cases": cases}
            if graph.file in samples:
                graphs[graph.file]["samples"] = dict(samples[graph.file])
        elif graph.file in known and graph.file not in new:
            graphs[graph.file] = known[graph.file]
    return {"against": "torch at fp32", "bounds": BOUNDS, "graphs": graphs}


def _key(graph: Graph) -> tuple[str, str, str | None, str]:
    return graph.kind, graph.network, graph.method, graph.precision


def _files(graphs: Sequence[Graph]) -> list[str]:
    return [entry.file for graph in graphs for entry in (graph, graph.data) if entry]
