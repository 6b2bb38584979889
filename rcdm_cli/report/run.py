"""Results of one run: written as JSON and as a page, and read back."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from rcdm_cli.core.errors import InputError, unknown_name_message
from rcdm_cli.core.files import exchange, sha256, write_json
from rcdm_cli.core.outputs import LOCK, output_folder
from rcdm_cli.report.elements import Section
from rcdm_cli.report.page import write_page
from rcdm_cli.report.schema import RunResults

RESULTS, PAGE = "results.json", "report.html"

LARGEST_RESULTS = 2**28
"""Maximum size of ``results.json`` in bytes."""

LONGEST_KIND = 100
"""Maximum length of an unknown kind in an error message."""

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


@contextmanager
def replacing_run(folder: Path) -> Iterator[Path]:
    """Yield the folder to write a new run to, which replaces the finished run in ``folder`` in one step.

    The new run is written beside ``folder``, and at the end both folders are exchanged, so that the finished run is
    complete until then. If the new run is interrupted, its folder stays for the next call. Files that are not part of a
    run stay in ``folder``. If the folders cannot be exchanged (``folder`` is a mount point or the current directory, or
    the system has no such operation), the new run is written inside ``folder`` and moved at the end, file by file.

    The caller holds the lock of ``folder``.
    """
    folder = folder.resolve()
    stage = _stage(folder)
    with output_folder(stage):
        yield stage
        stage.chmod(folder.stat().st_mode)
        if stage.parent != folder and exchange(stage, folder):
            remove_replaced(folder)
        else:
            _discard(folder, None)
            # ``results.json`` is the last file.
            for path in sorted(stage.iterdir(), key=lambda path: path.name == RESULTS):
                if path.name != LOCK:
                    _merge(path, folder / path.name)
            shutil.rmtree(stage)


def remove_replaced(folder: Path) -> None:
    """Remove the run that ``replacing_run`` has replaced, after a kill too. An unfinished new run stays.

    The caller holds the lock of ``folder``.
    """
    folder = folder.resolve()
    stage = _stage(folder)
    if (stage / RESULTS).is_file():
        _discard(stage, folder)


def _stage(folder: Path) -> Path:
    beside = not folder.is_mount() and os.access(folder.parent, os.W_OK) and not Path.cwd().is_relative_to(folder)
    return folder.with_name(f".{folder.name}.new") if beside else folder / ".new"


def _discard(folder: Path, keep_in: Path | None) -> None:
    """Remove a finished run, ``results.json`` last. Other files are moved to ``keep_in``, or stay if it is None."""
    _remove_stale(folder, {})
    (folder / PAGE).unlink(missing_ok=True)
    if keep_in is not None:
        for path in folder.iterdir():
            if path.name not in (RESULTS, LOCK):
                _merge(path, keep_in / path.name, replace=False)
    (folder / RESULTS).unlink(missing_ok=True)
    if keep_in is not None:
        shutil.rmtree(folder)


def _merge(source: Path, target: Path, replace: bool = True) -> None:
    """Move a file or folder to ``target``. Existing files are replaced, or left if ``replace`` is False."""
    if not os.path.lexists(target):
        source.rename(target)
    elif source.is_dir() and target.is_dir() and not source.is_symlink():
        for path in source.iterdir():
            _merge(path, target / path.name, replace)
    elif replace:
        source.replace(target)


def _remove_stale(folder: Path, new: Mapping[str, str]) -> None:
    """Remove the files of the earlier run in ``folder`` that are unchanged and not part of the new run."""
    try:
        before = json.loads((folder / RESULTS).read_text(encoding="utf-8"))["files"].items()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    root = folder.resolve()
    for name, digest in before:
        if "\0" in name:
            continue
        path = (root / name).resolve()
        if name in new or not path.is_relative_to(root) or not path.is_file() or sha256(path) != digest:
            continue
        path.unlink()
        for above in path.parents:
            if above == root or any(above.iterdir()):
                break
            above.rmdir()


def read_results(folder: Path, models: Mapping[str, type[RunResults]]) -> dict[str, Any]:
    """Read and validate the results of a finished run.

    Args:
        folder: Folder of the run.
        models: Model of the results by ``kind``.

    Raises:
        InputError: ``results.json`` is missing, damaged or of an unknown kind.
    """
    path = folder / RESULTS
    if not path.is_file():
        raise InputError(
            f"{folder} contains no {RESULTS}. Give the output folder of a command such as `rcdm visualize`."
        )
    try:
        if path.stat().st_size > LARGEST_RESULTS:
            raise InputError(f"{path} has more than {LARGEST_RESULTS} bytes. Run the command that wrote it again.")
        values = json.loads(path.read_text(encoding="utf-8"))
        # Lone surrogates come from file names that are not UTF-8.
        text = re.sub("[\ud800-\udfff]", "\N{REPLACEMENT CHARACTER}", json.dumps(values, ensure_ascii=False))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}). Run the command that wrote it again.") from error
    if not isinstance(values, dict) or "kind" not in values:
        raise InputError(f"{path} has no `kind`. Run the command that wrote it again.")
    if (kind := str(values["kind"])) not in models:
        raise InputError(f"{path}: {unknown_name_message('kind of results', kind[:LONGEST_KIND], models)}")
    # Absent keys stay absent.
    return models[kind].parse_json(text, str(path)).model_dump(mode="json", by_alias=True, exclude_unset=True)


def with_settings(section: Section, results: Mapping[str, Any]) -> Section:
    """Return ``section`` with the settings from ``results``."""
    top = {name: results[name] for name in _PROVENANCE if name in results}
    settings = {**top, **results.get("settings", {})}
    return replace(section, settings=tuple((name, _text(value)) for name, value in settings.items()))


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(str(entry) for entry in value) or "none"
    return "none" if value is None else str(value)
