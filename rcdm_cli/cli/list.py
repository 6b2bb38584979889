"""``rcdm list``: the names that other commands accept."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli.cli import _completion
from rcdm_cli.cli._command import command
from rcdm_cli.cli._environment import cache_folder
from rcdm_cli.cli._options import one_of
from rcdm_cli.cli._output import Output, text_table
from rcdm_cli.core.resources import bundles, recipes

ListRow = dict[str, str]


def _methods() -> list[ListRow]:
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
                "available": _available(name, cache / name),
                "source": published.encoder.url,
                "paper": method.paper,
            }
        )
    return rows


def _available(method: str, downloads: Path) -> str:
    """Name the bundles with an encoder of the method, and the published files that were downloaded."""
    from rcdm_cli.encoders.published import PUBLISHED

    published = PUBLISHED[method]
    files = {"encoder": published.encoder} | {f"RCDM {level}": source for level, source in published.rcdm.items()}
    downloaded = [part for part, source in files.items() if (downloads / source.file).is_file()]
    found = [f"bundle {name}" for name, folder in bundles().items() if method in _completion.methods_of(folder)]
    return ", ".join(found + [f"{part} (downloaded)" for part in downloaded]) or "no"


def _bundles() -> list[ListRow]:
    return [{"name": name, "path": str(folder)} for name, folder in bundles().items()]


def _recipes() -> list[ListRow]:
    return [{"name": name, "about": _about(file), "path": str(file)} for name, file in recipes().items()]


def _about(recipe: Path) -> str:
    try:
        values = tomllib.loads(recipe.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return "not readable"
    return str(values.get("description", ""))


METHODS_KIND = "methods"
LONG = ("input", "licence", "source", "paper")
"""Columns of `rcdm list methods` that `rcdm list` omits."""

KINDS: dict[str, Callable[[], list[ListRow]]] = {METHODS_KIND: _methods, "bundles": _bundles, "recipes": _recipes}
ALL = "all"

Kind = Annotated[
    str,
    typer.Argument(
        metavar="KIND",
        callback=one_of("list of", (*KINDS, ALL)),
        help=f"What to list: {', '.join(KINDS)} or {ALL}.",
        autocompletion=_completion.one_of((*KINDS, ALL)),
    ),
]


@command("list", panel="Information")
def list_names(out: Output, kind: Kind = ALL) -> None:
    """List the names of methods, bundles and recipes.

    `rcdm list methods` shows for each method the width of the representation at each level, and the published weights:
    input, licences, address, paper, and availability on this machine. `rcdm pull NAME` downloads them.

    Examples:
        $ rcdm list
        $ rcdm list bundles --json
    """
    tables = {name: rows() for name, rows in KINDS.items() if kind in (name, ALL)}
    if kind == ALL:
        lines = [line for name, rows in tables.items() for line in (f"{name}:", *(f"  {row}" for row in _table(rows)))]
    else:
        lines = _outline(tables[kind]) if kind == METHODS_KIND else _table(tables[kind])
    out.result(tables, lines)


def _table(rows: list[ListRow]) -> list[str]:
    """Format one line per row, without the long columns."""
    short = [[cell for name, cell in row.items() if name not in LONG] for row in rows]
    return text_table(short, text_columns=len(short[0])) if short else ["(none)"]


def _outline(rows: list[ListRow]) -> list[str]:
    """Format one line per cell, because addresses are wider than a terminal."""
    width = max(len(name) for row in rows for name in row)
    return [cell if name == "name" else f"  {name.ljust(width)}  {cell}" for row in rows for name, cell in row.items()]
