"""Files of representations with the paths and labels of the images and the identity of the encoders.

A ``.safetensors`` file contains

* one float32 tensor (N, D) for each method and level, named ``<method>/<level>``;
* ``paths`` and ``labels``, uint8: a JSON list of N strings as UTF-8 bytes; the label of an image without class is null;
* metadata ``kind`` = ``embeddings`` and ``about``, a JSON object: ``format`` 1, ``encoders`` (by method, ``spec`` and
  ``sha256`` of the weights), and ``origin``, further information of the writer.

A ``.npz`` file contains the same arrays under the same names; ``paths`` and ``labels`` are arrays of strings, a missing
label is the empty string, and ``about`` is a string. Neither format needs pickle.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import atomic_write, read_arrays, read_metadata, read_tensors, write_tensors
from rcdm_cli.core.levels import LEVEL_PATTERN, MAX_LENGTH
from rcdm_cli.core.resources import EMBEDDINGS
from rcdm_cli.core.spec import METHOD_PATTERN, JsonObject, Spec, Text
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.encoders.spec import EncoderSpec

KIND = "embeddings"

LONGEST_TEXT = 4096
"""Maximum length of a path or a label."""


class EncoderIdentity(Spec):
    """Spec of an encoder and SHA-256 of its weights."""

    spec: EncoderSpec
    sha256: Text


class _About(Spec):
    format: Literal[1] = 1
    encoders: dict[str, EncoderIdentity] = Field(max_length=256)
    origin: JsonObject = {}


@dataclass(frozen=True)
class Embeddings:
    """Representations of N images.

    Attributes:
        representations: float32 (N, D) by method and level.
        paths: paths of the N images.
        labels: classes of the N images; None for an image without class.
        encoders: identity of the encoders, by method.
        origin: further information such as the bundle and the dataset, JSON-able.
        skipped: path and reason of unreadable images; not written to the file.
    """

    representations: dict[Pair, Tensor]
    paths: tuple[str, ...]
    labels: tuple[str | None, ...]
    encoders: dict[str, EncoderIdentity]
    origin: dict[str, Any] = field(default_factory=dict)
    skipped: tuple[tuple[str, str], ...] = ()

    def rows(self, index: Sequence[int]) -> "Embeddings":
        """Return the images ``index``, in that order."""
        chosen = torch.tensor(index, dtype=torch.int64)
        return replace(
            self,
            representations={pair: h[chosen] for pair, h in self.representations.items()},
            paths=tuple(self.paths[i] for i in index),
            labels=tuple(self.labels[i] for i in index),
        )

    def split(self, name: str | None) -> "Embeddings":
        """Return the images of the split ``name``, found in the same way as by ``open_dataset``.

        Names of tar shards do not count as folders of the dataset. A label that is the name of the split is replaced
        by the next folder.

        Raises:
            InputError: no image belongs to the split.
        """
        if name is None:
            return self
        parts = ([part for part in path.split("/") if not part.lower().endswith(".tar")] for path in self.paths)
        folders = ["/".join(part) for part in parts]
        first = {path.partition("/")[0] for path in folders}
        top = f"{first.pop()}/" if len(first) == 1 else ""
        for parent in ("", top):
            if index := [i for i, path in enumerate(folders) if path.startswith(f"{parent}{name}/")]:
                chosen, depth = self.rows(index), f"{parent}{name}".count("/") + 1
                inner = [folders[i].split("/")[depth:-1] for i in index]
                labels = [
                    label if label != name else rest[0] if rest else None
                    for label, rest in zip(chosen.labels, inner, strict=True)
                ]
                return replace(chosen, labels=tuple(labels))
        below = (path[len(top) :].partition("/") for path in folders)
        splits = ", ".join(sorted({folder for folder, slash, _ in below if slash})[:20]) or "none"
        raise InputError(f"The file of representations has no split {name!r}; its splits are: {splits}.")


def write_embeddings(path: Path, embeddings: Embeddings) -> None:
    """Write a ``.safetensors`` or ``.npz`` file atomically.

    Raises:
        InputError: the path has another suffix.
    """
    about = _About(encoders=embeddings.encoders, origin=embeddings.origin).model_dump_json()
    tensors = {f"{pair.method}/{pair.level}": h.float() for pair, h in embeddings.representations.items()}
    if embeddings_suffix(path) == ".safetensors":
        lists = {"paths": json_to_tensor(embeddings.paths), "labels": json_to_tensor(embeddings.labels)}
        write_tensors(path, {**tensors, **lists}, {"kind": KIND, "about": about})
        return
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    labels = np.array([label or "" for label in embeddings.labels], np.str_)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays, paths=np.array(embeddings.paths, np.str_), labels=labels, about=np.array(about))  # type: ignore[arg-type]


def read_embeddings(path: Path) -> Embeddings:
    """Read a file of ``write_embeddings``.

    Raises:
        InputError: the file does not exist, is damaged, or is not a file of representations.
    """
    if embeddings_suffix(path) == ".safetensors":
        metadata = read_metadata(path)
        if metadata.get("kind") != KIND:
            kind = metadata.get("kind")
            raise InputError(f"{path} is not a file of representations (kind {kind}). `rcdm embed` writes such files.")
        tensors = read_tensors(path)
        text = metadata.get("about", "")
        paths, labels = (_texts(tensors.pop(name, None), f"{path}: {name}") for name in ("paths", "labels"))
    else:
        arrays = _read_npz(path)
        text = str(arrays.pop("about"))
        paths, labels = (arrays.pop(name).tolist() for name in ("paths", "labels"))
        labels = [label or None for label in labels] if isinstance(labels, list) else labels
        try:
            tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        except TypeError as error:
            raise InputError(f"{path} has arrays that are not numbers ({error}).") from error
    about = _About.parse_json(text, str(path))
    if not (_are_texts(paths, str) and _are_texts(labels, str | None)):
        raise InputError(f"{path}: paths and labels must be lists of texts of at most {LONGEST_TEXT} characters.")
    if not tensors or len(paths) != len(labels):
        raise InputError(f"{path} has {len(tensors)} representations, {len(paths)} paths and {len(labels)} labels.")
    representations = {_pair(name, path): tensor for name, tensor in tensors.items()}
    for pair, h in representations.items():
        if pair.method not in about.encoders:
            raise InputError(f"{path} has representations of {pair.method}, but not the encoder.")
        width = about.encoders[pair.method].spec.widths.get(pair.level)
        if not h.is_floating_point() or h.ndim != 2 or len(h) != len(paths) or h.shape[1] != (width or h.shape[1]):
            raise InputError(
                f"{path}: {pair.method} {pair.level} is {h.dtype} {tuple(h.shape)}, not floating-point numbers of the"
                f" shape ({len(paths)}, {width or 'D'})."
            )
        if not h.isfinite().all():
            raise InputError(f"{path}: {pair.method} {pair.level} contains NaN or infinity.")
    representations = {pair: h.float() for pair, h in representations.items()}
    return Embeddings(representations, tuple(paths), tuple(labels), about.encoders, about.origin)


def _are_texts(values: Any, kind: Any) -> bool:
    return isinstance(values, list) and all(
        isinstance(value, kind) and len(value or "") <= LONGEST_TEXT for value in values
    )


def _texts(tensor: Tensor | None, where: str) -> Any:
    try:
        return None if tensor is None else tensor_to_json(tensor)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{where} is not a list of texts ({error}).") from error


def is_embeddings(path: Path) -> bool:
    """Return whether ``path`` has the suffix of a file of representations."""
    return path.suffix.lower() in EMBEDDINGS


def embeddings_suffix(path: Path) -> str:
    """Return the suffix of a file of representations, which determines its format.

    Raises:
        InputError: the path has another suffix.
    """
    if not is_embeddings(path):
        raise InputError(f"A file of representations ends in {' or '.join(EMBEDDINGS)}; given {path}.")
    return path.suffix.lower()


def json_to_tensor(values: Sequence[Any]) -> Tensor:
    """Convert a JSON list to a uint8 tensor, since safetensors files contain tensors only."""
    # JSON escapes non-ASCII characters, so that file names that are not valid UTF-8 are preserved.
    return torch.from_numpy(np.frombuffer(json.dumps(values).encode(), np.uint8).copy())


def tensor_to_json(tensor: Tensor) -> list[Any]:
    """Convert a tensor of ``json_to_tensor`` back to the list."""
    values: list[Any] = json.loads(tensor.numpy().tobytes())
    return values


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    arrays = read_arrays(path)
    if missing := [name for name in ("about", "paths", "labels") if name not in arrays]:
        raise InputError(
            f"{path} is not a file of representations: {', '.join(missing)} missing. `rcdm embed` writes such files."
        )
    return arrays


def _pair(name: str, path: Path) -> Pair:
    method, _, level = name.rpartition("/")
    if re.fullmatch(METHOD_PATTERN, method) and re.fullmatch(LEVEL_PATTERN, level) and len(level) <= MAX_LENGTH:
        return Pair(method, level)
    raise InputError(f"{path} contains {name!r}. Representations are named METHOD/LEVEL, such as dino/layer3.")
