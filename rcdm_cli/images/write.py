"""Pictures out."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rcdm_cli.errors import InputError
from rcdm_cli.files import replacing


def write_png(path: Path, picture: NDArray[np.uint8]) -> None:
    """Write uint8 (H, W, 3) as a PNG, value for value, whole or not at all; missing folders are made.

    Raises:
        InputError: ``picture`` has another type or shape.
        RcdmError: the file cannot be written.
    """
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise InputError(f"A picture must be uint8 (H, W, 3), not {picture.dtype} {picture.shape}.")
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")
