"""Request of a command: its options and the contents of its inputs, so that a finished run can be recognised."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from rcdm_cli import __version__
from rcdm_cli.cli._options import expanded
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import sha256
from rcdm_cli.core.resources import MANIFEST, bundle_path
from rcdm_cli.core.spec import Spec

NOT_REQUESTED = frozenset({"out", "force", "as_json", "quiet", "dry_run", "shard", "max_drift"})
"""Parameters that do not change the result."""

_LISTED = 3
"""Maximum number of differences in a message."""


class Request(Spec):
    """Options and inputs of a command. Two runs with equal requests have equal results.

    Attributes:
        rcdm: version.
        command: name of the command.
        options: values of arguments and options as given, without the output.
        inputs: hash of the content of each input.
    """

    rcdm: str
    command: str
    options: dict[str, str | int | float | bool | list[str] | None]
    inputs: dict[str, str]

    def differences(self, other: "Request") -> list[str]:
        """Return a clause for each value of ``self`` that differs in ``other``."""
        clauses = []
        for name in sorted(self.options.keys() | other.options.keys()):
            old, new = self.options.get(name), other.options.get(name)
            if old != new:
                clauses.append(f"`{name}` was {_text(old)}, now {_text(new)}")
        named = self.inputs.keys() & other.inputs.keys()
        clauses += [
            f"the content of {name} has changed" for name in sorted(named) if self.inputs[name] != other.inputs[name]
        ]
        if (self.command, self.rcdm) != (other.command, other.rcdm):
            clauses.append(f"`rcdm {self.command}` {self.rcdm} wrote the results")
        return clauses


def request_of(context: typer.Context) -> Request:
    """Return the request of the running command. The inputs are read once to hash their contents."""
    options, inputs = {}, {}
    for parameter in context.command.params:
        name = str(parameter.name)
        if name in NOT_REQUESTED or name not in context.params:
            continue
        value = context.params[name]
        options[name] = [_plain(one) for one in value] if isinstance(value, list | tuple) else _plain(value)
        for text in _texts(value):
            if digest := _content(name, text, context.params.get("out"), str(context.info_name)):
                inputs[_plain(text)] = digest
    return Request(rcdm=__version__, command=str(context.info_name), options=options, inputs=inputs)


def is_finished(folder: Path, request: Request, force: bool = False) -> bool:
    """Return whether ``folder`` contains the results of ``request``; False if there are no results.

    Raises:
        InputError: ``folder`` contains the results of another request, and ``force`` is False.
    """
    from rcdm_cli.report.run import RESULTS

    path = folder / RESULTS
    if force or not path.is_file():
        return False
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        stored = values.get("request") if isinstance(values, dict) else None
    except (OSError, ValueError, RecursionError):
        stored = None
    require_same(folder, stored, request)
    return True


def is_written(path: Path, request: Request, force: bool = False) -> bool:
    """Return whether a file of representations was written for ``request``; False if there is no file.

    Raises:
        InputError: the file was written for another request, and ``force`` is False.
    """
    from rcdm_cli.encoders.embeddings import read_embeddings

    if force or not path.is_file():
        return False
    require_same(path, read_embeddings(path).origin.get("request"), request)
    return True


def require_same(place: Path, stored: object, request: Request) -> None:
    """Check that ``stored``, which was read from a file, equals ``request``.

    Raises:
        InputError: names the differences.
    """
    reason = ""
    if isinstance(stored, Mapping):
        differences = Request.parse(stored, str(place)).differences(request)
        if not differences:
            return
        reason = f" of another command: {'; '.join(differences[:_LISTED])}"
    what = f"contains results{reason}" if place.is_dir() else f"exists already{reason and ', as the result'}{reason}"
    raise InputError(f"{place} {what}. Give `force` to replace them, or another `out`.")


def _content(name: str, text: str, out: object, command: str) -> str | None:
    """Return a hash of the content of an input; None if the value is not an input."""
    path = Path(expanded(text))
    if name == "bundle":
        return _bundle_content(text, without_defaults=command == "tune")
    if name in ("encoder", "encoders"):
        # Options of a reference follow after commas.
        path = Path(expanded(text.split(",")[0]))
    if path.is_file():
        return sha256(path)
    return _folder_content(path, Path(str(out))) if path.is_dir() else None


def _bundle_content(name: str, without_defaults: bool) -> str | None:
    """Return the hash of a manifest, which contains the hashes of the weights.

    Args:
        name: name or folder of the bundle.
        without_defaults: leave out the values that `rcdm tune` writes.
    """
    import hashlib

    try:
        manifest = bundle_path(expanded(name)) / MANIFEST
        if not without_defaults:
            return sha256(manifest)
        values = json.loads(manifest.read_text(encoding="utf-8"))
        identity = {key: value for key, value in values.items() if key not in ("defaults", "measured")}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    except (InputError, OSError, ValueError, AttributeError, RecursionError):
        # The command reports the bundle when it opens the bundle, if it needs the bundle.
        return None


def _folder_content(folder: Path, out: Path) -> str:
    """Return a hash of the names and contents of all files that may be inputs, without those in ``out``."""
    from rcdm_cli.data.content import Entry, fingerprint
    from rcdm_cli.data.find import SUFFIXES, walk

    files = [file for file in walk(folder, SUFFIXES | {".tar", ".cls", ".safetensors"}) if not _inside(file, out)]
    return fingerprint(
        [Entry(str(file.relative_to(folder)), None, str(file), 0, file.stat().st_size) for file in files]
    )


def _inside(file: Path, folder: Path) -> bool:
    return folder.absolute() in file.absolute().parents


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str | Path):
        yield str(value)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def _plain(value: object) -> Any:
    """Return a value for JSON. Bytes of a file name that are not valid text are escaped."""
    is_text = isinstance(value, str | Path)
    return str(value).encode("utf-8", "backslashreplace").decode() if is_text else value


def _text(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return "not given" if value is None else str(value)
