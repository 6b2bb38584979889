"""``rcdm list``: the names that other commands take."""

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._options import one_of
from rcdm_cli.cli._output import Output
from rcdm_cli.resources import bundles, recipes

Row = dict[str, str]


def _methods() -> list[Row]:
    from rcdm_cli.encoders.methods import METHODS

    return [
        {"name": name, "title": method.title, "levels": ", ".join(method.levels), "paper": method.paper}
        for name, method in METHODS.items()
    ]


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


KINDS: dict[str, Callable[[], list[Row]]] = {"methods": _methods, "engines": _engines, "recipes": _recipes}
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
    """List the methods, engines (bundles) and recipes that can be given by name."""
    tables = {name: rows() for name, rows in KINDS.items() if kind in (name, ALL)}
    out.result(tables, [line for name, rows in tables.items() for line in _table(name, rows, titled=kind == ALL)])


def _table(name: str, rows: list[Row], *, titled: bool) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*(row.values() for row in rows), strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row.values(), widths, strict=True)) for row in rows]
    lines = [line.rstrip() for line in lines] or ["(none)"]
    return [f"{name}:", *(f"  {line}" for line in lines)] if titled else lines
