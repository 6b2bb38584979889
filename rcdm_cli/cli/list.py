"""``rcdm list``: the names that other commands take."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli.cli._cache import cache_folder
from rcdm_cli.cli._command import command
from rcdm_cli.cli._options import one_of
from rcdm_cli.cli._output import Output
from rcdm_cli.core.resources import MANIFEST, bundles, recipes

Row = dict[str, str]


def _methods() -> list[Row]:
    from rcdm_cli.encoders.methods import METHODS
    from rcdm_cli.encoders.published import PUBLISHED, PUBLISHED_INPUT

    cache = cache_folder(None)
    rows = []
    for name, method in METHODS.items():
        published = PUBLISHED[name]
        rows.append(
            {
                "name": name,
                "title": method.title,
                "levels": ", ".join(f"{level} {width}" for level, width in published.widths.items()),
                "input": PUBLISHED_INPUT,
                "licence": f"encoder {published.encoder.licence}, RCDM {published.rcdm['backbone'].licence}",
                "here": _here(name, cache / name),
                "source": published.encoder.url,
                "paper": method.paper,
            }
        )
    return rows


def _here(method: str, downloads: Path) -> str:
    """The bundles that hold the method's encoder, and which published files were downloaded."""
    from rcdm_cli.encoders.published import PUBLISHED

    published = PUBLISHED[method]
    files = {"encoder": published.encoder} | {f"RCDM {level}": source for level, source in published.rcdm.items()}
    downloaded = [part for part, source in files.items() if (downloads / source.file).is_file()]
    found = [f"bundle {name}" for name, folder in bundles().items() if method in _methods_of(folder)]
    return ", ".join(found + [f"{part} (downloaded)" for part in downloaded]) or "no"


def _methods_of(folder: Path) -> list[str]:
    try:
        return list(json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["encoders"])
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _engines() -> list[Row]:
    return [{"name": name, "path": str(folder)} for name, folder in bundles().items()]


def _recipes() -> list[Row]:
    return [{"name": name, "about": _about(file), "path": str(file)} for name, file in recipes().items()]


def _about(recipe: Path) -> str:
    try:
        values = tomllib.loads(recipe.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "not readable"
    return str(values.get("description", ""))


METHODS_KIND = "methods"
LONG = ("input", "licence", "source", "paper")
"""What `rcdm list methods` tells of a method and `rcdm list` does not."""

KINDS: dict[str, Callable[[], list[Row]]] = {METHODS_KIND: _methods, "engines": _engines, "recipes": _recipes}
ALL = "all"

Kind = Annotated[
    str,
    typer.Argument(
        metavar="WHAT",
        callback=one_of("list of", (*KINDS, ALL)),
        help=f"What to list: {', '.join(KINDS)} or {ALL}.",
    ),
]


@command("list", panel="About", examples=("rcdm list", "rcdm list engines --json"))
def list_names(out: Output, kind: Kind = ALL) -> None:
    """List the methods, engines (bundles) and recipes that can be given by name.

    Of a method: the width of its representation at each level, and its published weights: the input that they take,
    their licences, whether they are here, where they lie (`rcdm pull NAME` downloads them), and the paper.
    """
    tables = {name: rows() for name, rows in KINDS.items() if kind in (name, ALL)}
    if kind == ALL:
        lines = [line for name, rows in tables.items() for line in (f"{name}:", *(f"  {row}" for row in _table(rows)))]
    else:
        lines = _outline(tables[kind]) if kind == METHODS_KIND else _table(tables[kind])
    out.result(tables, lines)


def _table(rows: list[Row]) -> list[str]:
    """One line each; of a method what fits beside its name."""
    short = [[cell for name, cell in row.items() if name not in LONG] for row in rows]
    widths = [max(map(len, column)) for column in zip(*short, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in short]
    return [line.rstrip() for line in lines] or ["(none)"]


def _outline(rows: list[Row]) -> list[str]:
    """Everything of each, line by line: addresses are longer than a terminal is wide."""
    width = max(len(name) for row in rows for name in row)
    return [cell if name == "name" else f"  {name.ljust(width)}  {cell}" for row in rows for name, cell in row.items()]
