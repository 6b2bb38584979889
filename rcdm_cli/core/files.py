"""Files that are whole or not there: atomic writes, hashes, and safetensors with a spec in the metadata."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcdm_cli.core.errors import InputError, RcdmError

if TYPE_CHECKING:
    from torch import Tensor


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Give a temporary path beside ``path``; on success it takes ``path``'s place, else it is removed.

    The temporary file has ``path``'s suffix, since some writers choose the format by it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise RcdmError(f"Could not write {path}: {error.strerror or error}.") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise RcdmError(f"Could not write {path}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted-as-given keys, whole or not at all; NaN is refused, since JSON has none."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # Bytes of a file name that are no UTF-8 stand in Python's text as lone surrogates; JSON has an escape for them.
    write_text(path, text.encode("utf-8", "backslashreplace").decode("utf-8"))


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_write(path) as temporary:
        try:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, dict(metadata))
        except SafetensorError as error:
            # A full disk comes as this, not as an OSError.
            raise RcdmError(f"Could not write {path}: {error}.") from error


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, without reading its tensors.

    Raises:
        InputError: no such file, or not a safetensors file.
    """
    from safetensors import safe_open

    with _readable(path), safe_open(path, "pt") as file:
        return file.metadata() or {}


def read_tensors(path: Path) -> dict[str, "Tensor"]:
    """All tensors of a safetensors file, on the CPU, in the types they are stored in.

    Raises:
        InputError: no such file, or not a safetensors file.
    """
    from safetensors.torch import load_file

    with _readable(path):
        return load_file(path)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    if not path.is_file():
        raise InputError(f"{path} is not a file.")
    try:
        yield
    except SafetensorError as error:
        raise InputError(f"{path} is not a whole safetensors file ({error}).") from error
