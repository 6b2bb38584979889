"""Small images and archives for the tests of this package."""

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def image(value: int, height: int = 12, width: int = 16) -> NDArray[np.uint8]:
    """An image of one colour, which a crop does not change."""
    return np.full((height, width, 3), (value, 255 - value, 7), np.uint8)


def png(value: int) -> bytes:
    """Return ``image(value)`` as PNG bytes."""
    out = io.BytesIO()
    Image.fromarray(image(value)).save(out, "PNG")
    return out.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes]) -> Path:
    """Write a tar with ``members`` in the given order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def write_folder(root: Path, members: Mapping[str, bytes]) -> Path:
    """Write ``members`` as files in a folder."""
    for name, content in members.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root
