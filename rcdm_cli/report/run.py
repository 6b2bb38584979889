"""The results of one run: written as JSON and as a page, and read again."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from rcdm_cli.core.errors import InputError, unknown_name_message
from rcdm_cli.core.files import sha256, write_json
from rcdm_cli.report.elements import Section, Sentence
from rcdm_cli.report.page import write_page

RESULTS, PAGE = "results.json", "report.html"

_PROVENANCE = ("rcdm", "bundle", "encoder", "manifest_sha256", "seed")


def write_run(
    folder: Path,
    results: Mapping[str, Any],
    section: Callable[[Mapping[str, Any]], Section],
    files: Iterable[str] = (),
) -> dict[str, Any]:
    """Write ``results.json`` and ``report.html`` into ``folder``, where the figures that they name already lie.

    The JSON is written last: a folder that has one is a finished run. Files of an earlier run that this one does not
    have are removed, so that no old figure stands beside new numbers.

    Args:
        folder: of the run; made where it is missing.
        results: JSON-able; ``kind`` names what made them.
        section: builds the page's section from the results.
        files: what else was written there, relative to ``folder`` with ``/``.

    Returns:
        what stands in the JSON: ``results`` and, where there are any, ``files`` with the SHA-256 of each.
    """
    hashes = {name: sha256(folder / name) for name in files}
    whole = {**results, **({"files": hashes} if hashes else {})}
    title = " – ".join(str(whole[key]) for key in ("bundle", "kind") if key in whole)
    write_page(folder / PAGE, title, [(folder, with_provenance(section(whole), whole))])
    _remove_stale(folder, hashes)
    write_json(folder / RESULTS, whole)
    return whole


def begin_anew(folder: Path) -> None:
    """Take away a finished run before another writes over its figures, which if interrupted must not pass for it."""
    _remove_stale(folder, {})
    for name in (PAGE, RESULTS):
        (folder / name).unlink(missing_ok=True)


def _remove_stale(folder: Path, new: Mapping[str, str]) -> None:
    """Remove what the earlier run in ``folder`` says that it wrote, where its bytes are still those."""
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
    """The results of a finished run.

    Args:
        folder: of the run.
        kinds: of results that are accepted.

    Raises:
        InputError: no ``results.json`` there, or one that is damaged or of an unknown kind.
    """
    path = folder / RESULTS
    if not path.is_file():
        raise InputError(
            f"{folder} holds no {RESULTS}. Give the folder that a command such as visualize wrote as --out."
        )
    try:
        results = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}). Run the command that wrote it again.") from error
    if not isinstance(results, dict) or "kind" not in results:
        raise InputError(f"{path} does not say which kind of results it holds. Run the command that wrote it again.")
    if (kind := str(results["kind"])) not in kinds:
        raise InputError(f"{path}: {unknown_name_message('kind of results', kind, kinds)}")
    return results


def with_provenance(section: Section, results: Mapping[str, Any]) -> Section:
    """``section`` with a last sentence that says how ``results`` were made."""
    top = {name: results[name] for name in _PROVENANCE if name in results}
    settings = {**top, **results.get("settings", {})}
    said = ", ".join(f"{name} {_shown(value)}" for name, value in settings.items())
    made = Sentence(f"How it was made: {said}. Every number above also stands in {RESULTS}.")
    return replace(section, elements=(*section.elements, made))


def _shown(value: object) -> str:
    """A setting as text; none and an empty list are said to be none."""
    if isinstance(value, list):
        return " and ".join(str(one) for one in value) or "none"
    return "none" if value is None else str(value)


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")
