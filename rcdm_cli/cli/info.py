"""``rcdm info``: what is in a bundle, a checkpoint, an ONNX file or a recipe."""

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._output import Output
from rcdm_cli.core.errors import InputError, unknown_name_message
from rcdm_cli.core.resources import MANIFEST, bundles, recipes

CHECKPOINTS = (".pt", ".pth", ".torch", ".ckpt", ".tar", ".bin")

Target = Annotated[
    str,
    typer.Argument(
        metavar="PATH",
        help="A bundle or recipe (its name or its path), a checkpoint (.safetensors, .pt, .pth), or an ONNX file.",
        show_default=False,
    ),
]


@dataclass(frozen=True)
class Info:
    """What a thing is, what it says of itself, and what was found by looking at it."""

    what: str
    content: Mapping[str, Any]
    facts: Mapping[str, Any]


@command(
    "info",
    panel="About",
    examples=("rcdm info clothing32", "rcdm info runs/dino/checkpoint.safetensors", "rcdm info my-recipe.toml --json"),
)
def info(out: Output, target: Target) -> None:
    """Show what a bundle, checkpoint, ONNX file or recipe is: its specs, parameters, levels, origin and licence.

    Checkpoints of other programs are read as data only: a pickle that asks to run something is refused.
    """
    path = _find(target)
    found = _read(path)
    values = {"path": path, "what": found.what, "content": found.content, "facts": found.facts}
    out.result(values, [f"{found.what}: {path}", *_outline(found.facts), *_outline(found.content)])


def _find(target: str) -> Path:
    if (path := Path(target)).exists():
        return path
    known = recipes() | bundles()
    if found := known.get(target) or recipes().get(target.removesuffix(".toml")):
        return found
    raise InputError(f"{unknown_name_message('bundle or recipe', target, known)} No file is called that either.")


def _read(path: Path) -> Info:
    if path.is_dir():
        manifest = path / MANIFEST
        if not manifest.is_file():
            raise InputError(f"{path} is not a bundle: it contains no {MANIFEST}.")
        content = _parse(manifest, json.loads, "JSON")
        from rcdm_cli.bundle.describe import describe_bundle

        return Info("bundle", content, _or_why_not(lambda: describe_bundle(path)))
    if path.suffix == ".toml":
        return Info("recipe", _parse(path, tomllib.loads, "TOML"), {})
    if path.suffix == ".onnx":
        from rcdm_cli.bundle.describe import describe_onnx

        return Info("ONNX file", {}, describe_onnx(path))
    if path.suffix == ".safetensors":
        from rcdm_cli.bundle.describe import describe_safetensors
        from rcdm_cli.core.files import read_metadata

        metadata = {name: _decoded(text) for name, text in read_metadata(path).items()}
        if "kind" in metadata:
            return Info("checkpoint", metadata, describe_safetensors(path))
    elif path.suffix not in CHECKPOINTS:
        raise InputError(
            f"{path} is neither a bundle nor a recipe (.toml) nor a checkpoint ({', '.join(CHECKPOINTS)}, "
            ".safetensors) nor an ONNX file."
        )
    from rcdm_cli.bundle.describe import describe_foreign

    what, facts = describe_foreign(path)
    return Info(what, {}, facts)


def _or_why_not(look: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """A bundle that is not in order can be shown all the same; what is wrong stands among the facts."""
    try:
        return look()
    except InputError as error:
        return {"not in order": str(error)}


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
        if isinstance(value, Mapping) and value:
            yield f"{indent}{name}:"
            yield from _outline(value, f"{indent}  ")
        else:
            yield f"{indent}{name}: {_in_words(value)}"


def _in_words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value in ("", [], {}):
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
