"""Arrays in ``.npy`` files: written row by row, resumed after an interruption, and memory-mapped."""

import io
import mmap
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from rcdm_cli.core.errors import RcdmError

Array = npt.NDArray[Any]


def open_array(path: Path) -> Array:
    """Memory-map the array of a ``.npy`` file, read-only."""
    array: Array = np.load(path, mmap_mode="r")
    return array


class ArrayWriter:
    """Writer of an array (N, ...) to a ``.npy`` file. Rows are appended in order, and N is known at the end only.

    Rows go to a hidden file beside ``path``. A later writer for the same ``path`` continues after the last complete row
    of that file, so ``path`` must name the contents. ``finish`` renames the hidden file to ``path``. One process at a
    time may write.

    Args:
        path: file, with the suffix ``.npy``.
        row_shape: shape of a row.
        dtype: type of the array.

    Attributes:
        rows: number of rows written so far, by earlier writers too.
    """

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: npt.DTypeLike) -> None:
        self.path, self.row_shape, self.dtype = path, row_shape, np.dtype(dtype)
        self.partial = partial_path(path)
        row_bytes = int(np.prod(row_shape, dtype=np.int64)) * self.dtype.itemsize
        header = self._header(0)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            existing = self.partial.stat().st_size if self.partial.exists() else 0
            self.rows = max(existing - len(header), 0) // row_bytes
            self._file = self.partial.open("rb+" if existing else "wb+", buffering=0)
            self._file.write(header)
            self._file.truncate(len(header) + self.rows * row_bytes)
            self._file.seek(0, os.SEEK_END)
        except OSError as error:
            raise RcdmError(f"Could not write {path}: {error.strerror or error}.") from error

    def append(self, rows: Array) -> None:
        """Write ``rows`` (B, ...), converted to the type of the array.

        Raises:
            RcdmError: the file cannot be written.
        """
        if rows.shape[1:] != self.row_shape:
            raise ValueError(f"rows of {self.path} have the shape {self.row_shape}, not {rows.shape[1:]}")
        data = np.ascontiguousarray(rows, self.dtype).reshape(-1).view(np.uint8).data
        try:
            while data:
                data = data[self._file.write(data) or 0 :]
        except OSError as error:
            raise RcdmError(f"Could not write {self.path}: {error.strerror or error}.") from error
        self.rows += len(rows)

    def finish(self) -> Array:
        """Complete the file, and return the memory-mapped array (``rows``, ...).

        Raises:
            RcdmError: the file cannot be written.
        """
        try:
            self._file.seek(0)
            # numpy pads the header, so that the length does not depend on the number of rows.
            self._file.write(self._header(self.rows))
            os.fsync(self._file.fileno())
            self._file.close()
            self.partial.replace(self.path)
        except OSError as error:
            raise RcdmError(f"Could not write {self.path}: {error.strerror or error}.") from error
        return open_array(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the hidden file, which a later writer continues."""
        self._file.close()

    def _header(self, rows: int) -> bytes:
        header = io.BytesIO()
        description = np.lib.format.dtype_to_descr(self.dtype)
        np.lib.format.write_array_header_1_0(
            header, {"descr": description, "fortran_order": False, "shape": (rows, *self.row_shape)}
        )
        return header.getvalue()


def partial_path(path: Path) -> Path:
    """Return the hidden file that contains the first rows of ``path`` until the array is complete."""
    return path.with_name(f".{path.name}.partial")


RELEASE = 1 << 28
"""Bytes of a memory-mapped array that are read before its pages are released."""


class Rows:
    """Rows of an array, read by index.

    A memory-mapped array is pickled as the name of its file, so that worker processes map the file themselves. Pages
    that were read are released from time to time, so that an array may be larger than the memory.

    Args:
        array: array (N, ...), in memory or memory-mapped as a whole.
    """

    def __init__(self, array: Array) -> None:
        self.array = array
        self._read = 0

    def __len__(self) -> int:
        """Return N."""
        return len(self.array)

    def take(self, index: npt.NDArray[np.int64]) -> Array:
        """Return a copy of the rows ``index`` (B,), in this order.

        The operating system is asked for all rows of a memory-mapped array before the first row is read, so that a disk
        reads them in parallel.
        """
        array = self.array
        mapped = getattr(array, "_mmap", None)
        if mapped is None or not hasattr(mapped, "madvise") or not array.flags.c_contiguous:
            return array[index]
        row_bytes = array.nbytes // max(len(array), 1)
        offset = int(getattr(array, "offset", 0)) % mmap.ALLOCATIONGRANULARITY
        for row in index.tolist():
            start = offset + row * row_bytes
            aligned = start - start % mmap.PAGESIZE
            mapped.madvise(mmap.MADV_WILLNEED, aligned, start + row_bytes - aligned)
        rows: Array = array[index]
        self._read += rows.nbytes
        if self._read > RELEASE:
            # The pages remain in the cache of the operating system, which reuses the memory when necessary.
            mapped.madvise(mmap.MADV_DONTNEED)
            self._read = 0
        return rows

    def __getstate__(self) -> dict[str, Any]:
        array = self.array
        if not isinstance(array, np.memmap):
            return {"array": array}
        return {"mapped": (str(array.filename), array.dtype, array.offset, array.shape)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        if mapped := state.get("mapped"):
            file, dtype, offset, shape = mapped
            self.array = np.memmap(file, dtype, "r", offset, shape)
        else:
            self.array = state["array"]
        self._read = 0
