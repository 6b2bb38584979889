"""``rcdm info``: show the contents of a bundle, a checkpoint, an ONNX file or a recipe."""

import json
import math
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._errors import with_flags
from rcdm_cli.cli._output import Output
from rcdm_cli.core.errors import InputError, unknown_name_message
from rcdm_cli.core.resources import MANIFEST, bundles, is_explicit_path, recipes

if TYPE_CHECKING:
    from rcdm_cli.encoders.reference import Reference

CHECKPOINTS = (".pt", ".pth", ".torch", ".ckpt", ".tar", ".bin")
DEEPEST = 64
"""Maximum depth of nested values that are shown."""
FOREIGN = (*CHECKPOINTS, ".safetensors")

Target = Annotated[
    str,
    typer.Argument(
        metavar="PATH",
        help="Bundle or recipe (name or path), checkpoint (.safetensors, .pt, .pth), ONNX file, or an encoder as for "
        "--encoder: FILE,heads=12.",
    ),
]


@dataclass(frozen=True)
class Info:
    """Kind of a file, its metadata, and properties of its tensors.

    Attributes:
        kind: such as ``bundle`` or ``encoder checkpoint``.
        content: manifest, recipe or metadata as stored in the file.
        properties: properties computed from the file.
    """

    kind: str
    content: Mapping[str, Any]
    properties: Mapping[str, Any]


@command("info", panel="Information")
def info(out: Output, context: typer.Context, target: Target) -> None:
    """Show specs, parameters, levels, origin and licence of a bundle, checkpoint, ONNX file or recipe.

    Checkpoints of other programs are read as data only: a pickle that runs code is refused. Of an encoder of another
    program, everything that was inferred is shown: trunk, prefix, attention heads, pooling, scaling, head, activations,
    and the tensors that are left out. Of a recipe, the expected cost is computed: parameters, operations per step, and
    hours on an H100 at an assumed utilisation. Encoders and the autoencoder of a latent space are not counted.

    Examples:
        $ rcdm info clothing32
        $ rcdm info latent256
        $ rcdm info runs/dino/checkpoint.safetensors
        $ rcdm info my-recipe.toml --json
        $ rcdm info vit_small.pth,heads=12
    """
    if (reference := _as_encoder(target)) is not None:
        path, file_info = Path(reference.target), _read_encoder(reference.target, target)
    else:
        path = _find(target)
        file_info = _read(path)
    properties = dict(file_info.properties)
    properties |= {name: with_flags(text, context) for name, text in properties.items() if isinstance(text, str)}
    content = _json_values(file_info.content)
    values = {"path": path, "kind": file_info.kind, "content": content, "properties": properties}
    out.result(values, [f"{file_info.kind}: {path}", *_outline(properties), *_outline(content)])


def _as_encoder(target: str) -> "Reference | None":
    """Return the reference of an encoder with options or without a file, such as ``FILE,heads=12`` or ``timm:NAME``."""
    from rcdm_cli.encoders.reference import parse_reference

    if not target or Path(target).exists() or not ("," in target or ":" in target):
        return None
    return parse_reference(target)


def _read_encoder(path: str, reference: str) -> Info:
    from rcdm_cli.bundle.describe import describe_encoder, describe_foreign

    if Path(path).suffix in FOREIGN and Path(path).is_file():
        kind, properties = describe_foreign(Path(path), reference)
        return Info(kind, {}, properties)
    return Info("encoder", {}, describe_encoder(reference))


def _find(target: str) -> Path:
    path, named = Path(target), recipes() | bundles()
    if (path / MANIFEST).is_file() or (path.is_file() and path.suffix) or is_explicit_path(target):
        found = path if path.exists() else None
    else:
        found = named.get(target) or recipes().get(target.removesuffix(".toml")) or (path if path.exists() else None)
    if found:
        return found
    raise InputError(f"{unknown_name_message('bundle or recipe', target, named)} No file has this name either.")


def _read(path: Path) -> Info:
    if path.is_dir():
        manifest = path / MANIFEST
        if not manifest.is_file() and (config := path / "config.json").is_file():
            content = _parse(config, json.loads, "JSON")
            if "_class_name" not in content:  # a model of transformers
                return _read_encoder(str(path), str(path))
            from rcdm_cli.bundle.describe import describe_autoencoder

            return Info("autoencoder", content, _or_problem(lambda: describe_autoencoder(path)))
        if not manifest.is_file():
            raise InputError(f"{path} is not a bundle: it contains no {MANIFEST}.")
        content = _parse(manifest, json.loads, "JSON")
        from rcdm_cli.bundle.describe import describe_bundle

        return Info("bundle", content, _or_problem(lambda: describe_bundle(path)))
    if path.suffix == ".toml":
        from rcdm_cli.training.cost import training_cost

        content = _parse(path, tomllib.loads, "TOML")
        return Info("recipe", content, _or_problem(lambda: training_cost(content, str(path))))
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
            f"{path} is not a bundle, a recipe (.toml), a checkpoint ({', '.join(CHECKPOINTS)}, .safetensors) or an "
            "ONNX file (.onnx)."
        )
    from rcdm_cli.bundle.describe import describe_foreign

    kind, properties = describe_foreign(path, str(path))
    return Info(kind, {}, properties)


def _or_problem(describe: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return the properties, or the problem of an invalid bundle, whose manifest is shown nevertheless."""
    try:
        return describe()
    except InputError as error:
        return {"problem": str(error)}


def _parse(path: Path, parse: Callable[[str], dict[str, Any]], syntax: str) -> dict[str, Any]:
    try:
        content = parse(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not {syntax}: {error}.") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is not an object in {syntax}.")
    return content


def _decoded(text: str) -> Any:
    """Parse JSON text, such as a spec; return other text unchanged."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _json_values(value: Any, depth: int = 0) -> Any:
    """Return NaN, infinity and dates as text, which JSON has no values for."""
    if depth > DEEPEST:
        raise InputError(f"The values in the file are nested more than {DEEPEST} times.")
    if isinstance(value, Mapping):
        return {str(name): _json_values(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_json_values(inner, depth + 1) for inner in value]
    if value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return str(value)


def _outline(values: Mapping[str, Any], indent: str = "  ") -> Iterator[str]:
    """Yield one line per value and a heading per group."""
    for name, value in values.items():
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            value = {str(number): item for number, item in enumerate(value, start=1)}
        if isinstance(value, Mapping) and value:
            yield f"{indent}{name}:"
            yield from _outline(value, f"{indent}  ")
        else:
            yield f"{indent}{name}: {_as_text(value)}"


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value in ("", [], {}):
        return "none"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
