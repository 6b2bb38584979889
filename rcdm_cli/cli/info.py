"""``rcdm info``: what is in a bundle, a checkpoint or a recipe."""

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from rcdm_cli.choices import no_such
from rcdm_cli.cli._command import command
from rcdm_cli.cli._output import Output
from rcdm_cli.errors import InputError
from rcdm_cli.resources import MANIFEST, bundles, recipes

Target = Annotated[
    str,
    typer.Argument(
        metavar="PATH",
        help="A bundle or recipe (its name or its path), or a .safetensors file.",
        show_default=False,
    ),
]


@command(
    "info",
    panel="About",
    examples=("rcdm info clothing32", "rcdm info runs/dino/checkpoint.safetensors", "rcdm info my-recipe.toml --json"),
)
def info(out: Output, target: Target) -> None:
    """Show what a bundle, checkpoint or recipe says of itself: its specs, origin and licence."""
    path = _find(target)
    what, content = _read(path)
    values = {"path": path, "what": what, "content": content}
    out.result(values, [f"{what}: {path}", *_outline(content)])


def _find(target: str) -> Path:
    if (path := Path(target)).exists():
        return path
    known = recipes() | bundles()
    if found := known.get(target):
        return found
    raise InputError(f"{no_such('bundle or recipe', target, known)} No file is called that either.")


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    if path.is_dir():
        manifest = path / MANIFEST
        if not manifest.is_file():
            raise InputError(f"{path} is not a bundle: it holds no {MANIFEST}.")
        return "bundle", _parse(manifest, json.loads, "JSON")
    if path.suffix == ".toml":
        return "recipe", _parse(path, tomllib.loads, "TOML")
    if path.suffix == ".safetensors":
        from rcdm_cli.files import read_metadata

        return "checkpoint", {name: _decoded(text) for name, text in read_metadata(path).items()}
    raise InputError(f"{path} is neither a bundle nor a recipe (.toml) nor a checkpoint (.safetensors).")


def _parse(path: Path, parse: Callable[[str], dict[str, Any]], syntax: str) -> dict[str, Any]:
    try:
        return parse(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not {syntax}: {error}.") from error


def _decoded(text: str) -> Any:
    """Specs travel as JSON text; whatever else stands beside them is shown as it is."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _outline(values: Mapping[str, Any], indent: str = "  ") -> Iterator[str]:
    """One line per value, a heading per group."""
    for name, value in values.items():
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            value = {str(number): item for number, item in enumerate(value, start=1)}
        if isinstance(value, Mapping):
            yield f"{indent}{name}:"
            yield from _outline(value, f"{indent}  ")
        elif isinstance(value, list):
            yield f"{indent}{name}: {', '.join(map(str, value))}"
        else:
            yield f"{indent}{name}: {value}"
