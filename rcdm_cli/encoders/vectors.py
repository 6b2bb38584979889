"""Vectors (N, D) that no image produced: predictions of other models, averages and edited representations."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import read_arrays, read_metadata, read_tensors

Array = NDArray[Any]

LISTED = 5
"""Maximum number of rows or arrays in an error."""


def is_vectors(path: Path) -> bool:
    """Return whether ``path`` is a ``.npy`` file, or a ``.npz`` or ``.safetensors`` file that rcdm did not write.

    Raises:
        InputError: a safetensors file is damaged.
    """
    suffix = path.suffix.lower()
    if suffix == ".npz" and path.is_file():
        try:
            with zipfile.ZipFile(path) as file:
                return not {"about.npy", "paths.npy", "labels.npy"} & set(file.namelist())
        # zipfile raises NotImplementedError for zip versions above 6.3.
        except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
            return False  # The reader of the file describes the error.
    if suffix == ".safetensors" and path.is_file():
        return "kind" not in read_metadata(path)
    return suffix == ".npy"


def read_vectors(path: Path) -> Tensor:
    """Read vectors, float32 (N, D), from a file with one array.

    Raises:
        InputError: the file is damaged, contains several arrays, or its array is refused by ``checked_vectors``.
    """
    arrays: dict[str, Any] = read_tensors(path) if path.suffix.lower() == ".safetensors" else read_arrays(path)
    if len(arrays) != 1:
        names = ", ".join(list(arrays)[:LISTED]) or "none"
        raise InputError(f"{path} has {len(arrays)} arrays ({names}). A file of vectors has one array (N, D).")
    return checked_vectors(next(iter(arrays.values())), str(path))


def checked_vectors(values: Array | Tensor, where: str) -> Tensor:
    """Convert floating-point vectors (N, D) to float32.

    Args:
        values: array or tensor.
        where: origin of the vectors, for errors.

    Raises:
        InputError: the type or the shape is wrong, or a value is not finite as float32.
    """
    if not (values.is_floating_point() if isinstance(values, Tensor) else values.dtype.kind == "f"):
        raise InputError(f"{where}: vectors are floating-point numbers, not of the type {values.dtype}.")
    if values.ndim != 2:
        raise InputError(f"{where}: vectors have the shape (N, D), one vector per row, not {tuple(values.shape)}.")
    if 0 in values.shape:
        raise InputError(f"{where} contains no vector: its shape is {tuple(values.shape)}.")
    if isinstance(values, Tensor):
        found = values.detach().cpu().float()
    else:
        with np.errstate(over="ignore"):
            found = torch.from_numpy(np.array(values, np.float32))
    if wrong := (~found.isfinite()).any(dim=1).nonzero().flatten().tolist():
        more = f" and {len(wrong) - LISTED} more" if len(wrong) > LISTED else ""
        rows = f"row{'s' if len(wrong) > 1 else ''} {', '.join(map(str, wrong[:LISTED]))}{more}"
        raise InputError(f"{where}: values are NaN, infinite or too large for float32 in {rows}.")
    return found
