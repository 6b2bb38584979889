"""Atomic writes, hashes, JSON and safetensors files."""

import ctypes
import hashlib
import json
import os
import re
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcdm_cli.core.errors import InputError, RcdmError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


_TEMPORARY = re.compile(r"\.(?P<stem>.+)\.rcdm-[a-z0-9_]{8}(?P<suffix>\.[^.]*)?", re.DOTALL)
"""Name of a temporary file of ``atomic_write`` or a folder of ``temporary_folder``."""

_TYPES = {
    "uint64": "U64", "int64": "I64", "float64": "F64", "float32": "F32", "uint32": "U32", "int32": "I32",
    "bfloat16": "BF16", "float16": "F16", "uint16": "U16", "int16": "I16", "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2", "int8": "I8", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
"""Types of safetensors files by their names in PyTorch, in the order of their tensors in a file."""

_BUFFER = 2**20
"""Bytes that are collected before small tensors are written."""

_MAX_COMPRESSION, _ALWAYS_READ = 20, 2**26
"""Limit of the size of compressed arrays: a multiple of the size of the file, and a number of bytes."""

_EXCHANGE, _HERE = 2, -100
"""Flag ``RENAME_EXCHANGE`` and directory ``AT_FDCWD`` of the system call renameat2 of Linux."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder, which replaces ``path`` on success and is removed on failure.

    The temporary file has the suffix of ``path``, from which some writers infer the format. If the process is killed,
    the temporary file stays until ``remove_temporary``.

    Raises:
        RcdmError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.stem}.rcdm-", suffix=path.suffix, dir=path.parent)
    except OSError as error:
        raise RcdmError(f"Could not write {path}: {error.strerror or error}.") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        flush(temporary)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        raise RcdmError(f"Could not write {path}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def temporary_folder(parent: Path, name: str) -> Iterator[Path]:
    """Yield a new folder in ``parent``, on the same disk, which is removed at the end.

    If the process is killed, the folder stays until ``remove_temporary``.

    Raises:
        RcdmError: ``parent`` is not writable.
    """
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{name}.rcdm-", dir=parent))
    except OSError as error:
        raise RcdmError(f"Could not write to {parent}: {error.strerror or error}.") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def flush(path: Path) -> None:
    """Write the content of a file to the disk.

    A rename may reach the disk before the content of the renamed file. After a power failure, the file would be empty.
    """
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def remove_temporary(folder: Path, target: str | None = None) -> None:
    """Remove the temporary files and folders in ``folder`` that killed processes left.

    The caller holds the lock of the output, so that no other process uses the files.

    Args:
        folder: folder of the temporary files.
        target: name of the file that was to be written; None selects all files.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = _TEMPORARY.fullmatch(entry.name)
            if not found or target not in (None, found["stem"] + (found["suffix"] or "")):
                continue
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                os.unlink(entry.path)


def exchange(first: Path, second: Path) -> bool:
    """Exchange two folders in one atomic step.

    Returns:
        Whether the folders were exchanged. Only Linux and some file systems can do so.
    """
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    return rename is not None and rename(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE) == 0


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically, with keys in the given order. NaN and infinity raise ``ValueError``."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # File names that are not UTF-8 contain lone surrogates, which JSON can escape.
    write_text(path, text.encode("utf-8", "backslashreplace").decode("utf-8"))


def read_json_lines(path: Path) -> list[Any]:
    """Return the values of a file with one JSON value per line; none if the file does not exist.

    A killed process can leave a partial line, which is left out.
    """
    values = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else ():
        with suppress(ValueError, RecursionError):
            values.append(json.loads(line))
    return values


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, "Tensor"], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically. Equal tensors and metadata give equal bytes.

    ``safetensors.torch.save_file`` is not used, because the function writes metadata in random order, and a temporary
    file of its own, which a killed process leaves under a name that ``remove_temporary`` does not recognise.
    """
    types = {name: str(tensor.dtype).removeprefix("torch.") for name, tensor in tensors.items()}
    order = list(_TYPES)
    names = sorted(tensors, key=lambda name: (order.index(types[name]), name))
    header: dict[str, Any] = {"__metadata__": dict(sorted(metadata.items()))}
    end = 0
    for name in names:
        begin, end = end, end + tensors[name].numel() * tensors[name].element_size()
        shape = list(tensors[name].shape)
        header[name] = {"dtype": _TYPES[types[name]], "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as temporary, temporary.open("wb", _BUFFER) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            file.write(_bytes_of(tensors[name]))


def _bytes_of(tensor: "Tensor") -> memoryview:
    import torch

    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def read_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file without reading the tensors.

    Raises:
        InputError: the file does not exist or is not a complete safetensors file.
    """
    from safetensors import safe_open

    with _readable(path), safe_open(path, "pt") as file:
        return file.metadata() or {}


def read_tensors(path: Path) -> dict[str, "Tensor"]:
    """Return all tensors of a safetensors file, on the CPU, in their stored types.

    Raises:
        InputError: the file does not exist or is not a complete safetensors file.
    """
    from safetensors.torch import load_file

    with _readable(path):
        return load_file(path)


def read_arrays(path: Path) -> "dict[str, NDArray[Any]]":
    """Return the arrays of a ``.npz`` file by name, or the memory-mapped array of a ``.npy`` file as ``array``.

    Python objects are refused, and arrays that are compressed to a small fraction of their size.

    Raises:
        InputError: the file does not exist or is not a complete NumPy file without Python objects.
    """
    import numpy as np

    if not path.is_file():
        raise InputError(f"{path} is not a file.")
    try:
        if path.suffix.lower() == ".npy":
            # A header whose shape exceeds the file is an error of the memory map.
            return {"array": np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))}
        _refuse_compressed(path)
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            return dict(found) if isinstance(found, np.lib.npyio.NpzFile) else {"array": found}
    except InputError:
        raise
    except Exception as error:  # damaged headers raise errors of zipfile, zlib, tokenize and others
        kind = path.suffix.lower().removeprefix(".")
        if re.search("object|pickle", str(error)):
            raise InputError(
                f"{path} is not a complete {kind} file, or contains Python objects, which are not read."
            ) from error
        raise InputError(f"{path} is not a complete {kind} file ({error}).") from error


def _refuse_compressed(path: Path) -> None:
    """Refuse a zip that claims many times its own size."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            claimed, size = sum(member.file_size for member in archive.infolist()), path.stat().st_size
        if claimed > _MAX_COMPRESSION * size + _ALWAYS_READ:
            raise InputError(f"{path} has {size} bytes and claims {claimed} bytes of arrays. The file is refused.")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    if not path.is_file():
        raise InputError(f"{path} is not a file.")
    try:
        yield
    # PyTorch refuses shapes and types of damaged headers with further errors.
    except (SafetensorError, OSError, ValueError, LookupError, TypeError, RuntimeError, MemoryError) as error:
        raise InputError(f"{path} is not a complete safetensors file ({error}).") from error
