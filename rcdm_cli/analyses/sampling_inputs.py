"""Representations that samples are generated from: of images, from files of ``rcdm embed``, or vectors."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.analyses.embed import as_embeddings, bundle_encoders, load_or_embed
from rcdm_cli.analyses.inputs import ImageInput, read_images
from rcdm_cli.analyses.run import SamplingRun
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.resources import EMBEDDINGS
from rcdm_cli.core.seeds import distinct_names
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.encoders.embeddings import Embeddings
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.encoders.vectors import checked_vectors, is_vectors, read_vectors

SamplingInput = ImageInput | Embeddings | Tensor | NDArray[np.floating]
"""Images, representations of ``embed``, or vectors (N, D): a file, a tensor or an array of floating-point numbers."""


@dataclass(frozen=True)
class NamedRepresentations:
    """N representations with names.

    Attributes:
        h: by pair, float32 (N, D).
        paths: N paths; inside the file for a file of representations; ``FILE[ROW]`` for vectors.
        names: N distinct names, which the noise depends on; the paths inside a file of representations; the rows of
            vectors.
        pixels: N images uint8 (H, W, 3); None if only the representation is given.
        positions: positions of the N images among all given images, including unreadable images.
        unreadable: paths of unreadable images.
        are_vectors: whether the representations are vectors that no image produced.
    """

    h: dict[Pair, Tensor]
    paths: list[str]
    names: list[str]
    pixels: list[Pixels | None]
    positions: list[int]
    unreadable: list[str]
    are_vectors: bool = False

    @property
    def given(self) -> int:
        """Number of given images, including unreadable images."""
        return len(self.positions) + len(self.unreadable)


def sampling_inputs(run: SamplingRun, inputs: SamplingInput) -> NamedRepresentations:
    """Return the representations of images or folders of images, stored representations, or vectors.

    Raises:
        InputError: no image is readable, the stored representations come from other encoders, or vectors do not fit the
            selected method and level.
    """
    if (found := _as_vectors(inputs)) is not None:
        return _vectors(run, *found)
    stored = as_embeddings(inputs)
    if stored is not None:
        stored = load_or_embed(run, bundle_encoders(run.bundle, run.pairs), stored)
        count, paths = len(stored.paths), list(stored.paths)
        h = {pair: stored.representations[pair] for pair in run.pairs}
        return NamedRepresentations(h, paths, distinct_names(paths), [None] * count, list(range(count)), [])
    manifest = run.bundle.manifest
    size = max(manifest.denoiser.size, *(encoder.spec.preprocessing.size for encoder in manifest.encoders.values()))
    read = read_images(inputs, size, run.on_note)  # type: ignore[arg-type]
    return NamedRepresentations(
        run.encode(read.pixels), read.paths, read.names, [*read.pixels], read.positions, read.unreadable
    )


def _as_vectors(inputs: Any) -> tuple[Tensor, str] | None:
    """Return vectors (N, D) and their origin; None for images and stored representations."""
    if isinstance(inputs, list | tuple) and len(inputs) == 1:
        [inputs] = inputs
    if isinstance(inputs, Tensor) or (isinstance(inputs, np.ndarray) and inputs.ndim <= 2 and inputs.dtype != np.uint8):
        return checked_vectors(inputs, "The array"), ""
    if isinstance(inputs, str | Path) and is_vectors(Path(inputs)):
        return read_vectors(Path(inputs)), str(inputs)
    for path in inputs if isinstance(inputs, list | tuple) else ():
        if isinstance(path, str | Path) and Path(path).suffix.lower() in (".npy", *EMBEDDINGS):
            raise InputError(f"{path} is a file of vectors or representations. Give one such file, without images.")
    return None


def _vectors(run: SamplingRun, h: Tensor, path: str) -> NamedRepresentations:
    where, width = path or "The array", h.shape[1]
    widths = {Pair(entry.method, entry.level): entry.width for entry in run.bundle.manifest.conditioning.projections}
    fitting = [f"{pair.method} {pair.level}" for pair, own in widths.items() if own == width]
    remedy = f"Representations with this width: {', '.join(fitting) or 'none'}."
    if len(run.pairs) > 1:
        raise InputError(
            f"{where} has vectors of width {width} of one representation. Name the representation by `methods` and"
            f" `level`. {remedy}"
        )
    [pair] = run.pairs
    if widths[pair] != width:
        raise InputError(
            f"{where} has vectors of width {width}, but {pair.method} {pair.level} has the width {widths[pair]}."
            f" {remedy}"
        )
    rows = [str(row) for row in range(len(h))]
    paths = [f"{path or 'vectors'}[{row}]" for row in rows]
    return NamedRepresentations({pair: h}, paths, rows, [None] * len(h), list(range(len(h))), [], True)
