"""Results of one run: written as JSON and as a page, and read back."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from rcdm_cli.core.errors import InputError, unknown_name_message
from rcdm_cli.core.files import sha256, write_json
from rcdm_cli.report.elements import Section
from rcdm_cli.report.page import write_page

RESULTS, PAGE = "results.json", "report.html"

_PROVENANCE = ("rcdm", "bundle", "encoder", "manifest_sha256", "seed")


def write_run(
    folder: Path,
    results: Mapping[str, Any],
    section: Callable[[Mapping[str, Any]], Section],
    files: Iterable[str] = (),
) -> dict[str, Any]:
    """Write ``results.json`` and ``report.html`` into a folder that contains the images already.

    ``results.json`` is written last: a folder with this file is a finished run. Files of an earlier run in the same
    folder are removed.

    Args:
        folder: Folder of the run, created if missing.
        results: JSON-able results. ``kind`` is the name of the analysis.
        section: Function that builds the section of the page from the results.
        files: Image files that the run has written, relative to ``folder``, with ``/``.

    Returns:
        Content of ``results.json``: ``results`` and the SHA-256 of each file.
    """
    hashes = {name: sha256(folder / name) for name in files}
    whole = {**results, **({"files": hashes} if hashes else {})}
    title = " · ".join(("rcdm " + str(whole["kind"]), *([f"bundle {whole['bundle']}"] if "bundle" in whole else [])))
    write_page(folder / PAGE, title, [(folder, with_settings(section(whole), whole))])
    _remove_stale(folder, hashes)
    write_json(folder / RESULTS, whole)
    return whole


def output_files(folder: Path, results: Mapping[str, Any]) -> list[Path]:
    """Return the files of a run for the user, without the single images of image grids."""
    names = [name for name in results.get("files", {}) if "/" not in name]
    return [folder / name for name in (*names, RESULTS, PAGE)]


def remove_finished(folder: Path) -> None:
    """Remove a finished run before a new run writes into the same folder.

    Without this step, an interrupted new run would leave new images under the results of the old run.
    """
    _remove_stale(folder, {})
    for name in (PAGE, RESULTS):
        (folder / name).unlink(missing_ok=True)


def _remove_stale(folder: Path, new: Mapping[str, str]) -> None:
    """Remove the files of the earlier run in ``folder`` that are unchanged and not part of the new run."""
    try:
        before = json.loads((folder / RESULTS).read_text(encoding="utf-8"))["files"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return
    root = folder.resolve()
    for name, digest in before:
        path = (root / name).resolve()
        if name in new or not path.is_relative_to(root) or not path.is_file() or sha256(path) != digest:
            continue
        path.unlink()
        for above in path.parents:
            if above == root or any(above.iterdir()):
                break
            above.rmdir()


def read_results(folder: Path, kinds: Collection[str]) -> dict[str, Any]:
    """Read the results of a finished run.

    Args:
        folder: Folder of the run.
        kinds: Accepted values of ``kind``.

    Raises:
        InputError: ``results.json`` is missing, damaged or of an unknown kind.
    """
    path = folder / RESULTS
    if not path.is_file():
        raise InputError(
            f"{folder} contains no {RESULTS}. Give the output folder of a command such as `rcdm visualize`."
        )
    try:
        results = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}). Run the command that wrote it again.") from error
    if not isinstance(results, dict) or "kind" not in results:
        raise InputError(f"{path} has no `kind`. Run the command that wrote it again.")
    if (kind := str(results["kind"])) not in kinds:
        raise InputError(f"{path}: {unknown_name_message('kind of results', kind, kinds)}")
    return results


def with_settings(section: Section, results: Mapping[str, Any]) -> Section:
    """Return ``section`` with the settings from ``results``."""
    top = {name: results[name] for name in _PROVENANCE if name in results}
    settings = {**top, **results.get("settings", {})}
    return replace(section, settings=tuple((name, _text(value)) for name, value in settings.items()))


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(entry) for entry in value) or "none"
    return "none" if value is None else str(value)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
