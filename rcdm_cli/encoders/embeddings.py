"""Representations as a file: vectors, the images they are of, and the encoders that made them.

A ``.safetensors`` file holds

* one float32 tensor (N, D) for each method and level, named ``<method>/<level>``;
* ``paths`` and ``labels``, uint8: a JSON list of N strings as UTF-8 bytes; a label is null where an image has no class;
* metadata ``kind`` = ``embeddings`` and ``about``, a JSON object: ``format`` 1, ``encoders`` (by method its ``spec``
  and the ``sha256`` of its weights), and ``origin``, what the writer says besides.

A ``.npz`` file holds the same arrays under the same names; ``paths`` and ``labels`` are arrays of strings, a missing
label is the empty string, and ``about`` is one string. Neither needs pickle to be read.
"""

import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import atomic_write, read_metadata, read_tensors, write_tensors
from rcdm_cli.core.levels import LEVELS
from rcdm_cli.core.spec import Spec
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.encoders.spec import EncoderSpec

KIND = "embeddings"
SUFFIXES = (".safetensors", ".npz")


class EncoderIdentity(Spec):
    """Which encoder made representations: its spec, and the SHA-256 of its weights."""

    spec: EncoderSpec
    sha256: str


class _About(Spec):
    format: Literal[1] = 1
    encoders: dict[str, EncoderIdentity]
    origin: dict[str, Any] = {}


@dataclass(frozen=True)
class Embeddings:
    """Representations of N images.

    Attributes:
        representations: float32 (N, D) by method and level.
        paths: of the images, N.
        labels: their classes; None where an image has none.
        encoders: what made them, by method.
        origin: what else is known: the bundle, the data set. JSON-able.
        skipped: path and reason of images that could not be read; not kept in the file.
    """

    representations: dict[Pair, Tensor]
    paths: tuple[str, ...]
    labels: tuple[str | None, ...]
    encoders: dict[str, EncoderIdentity]
    origin: dict[str, Any] = field(default_factory=dict)
    skipped: tuple[tuple[str, str], ...] = ()

    def rows(self, index: Sequence[int]) -> "Embeddings":
        """The images ``index`` alone, in that order."""
        chosen = torch.tensor(index, dtype=torch.int64)
        return replace(
            self,
            representations={pair: h[chosen] for pair, h in self.representations.items()},
            paths=tuple(self.paths[i] for i in index),
            labels=tuple(self.labels[i] for i in index),
        )

    def split(self, name: str | None) -> "Embeddings":
        """The images in the folder ``name``, at the first level or, below a single top folder, at the second.

        That is where ``open_images`` looks for a split; the name of a tar shard is no folder of the data set.

        Raises:
            InputError: no such image.
        """
        if name is None:
            return self
        parts = ([part for part in path.split("/") if not part.lower().endswith(".tar")] for path in self.paths)
        places = ["/".join(part) for part in parts]
        first = {place.partition("/")[0] for place in places}
        top = f"{first.pop()}/" if len(first) == 1 else ""
        for above in ("", top):
            if index := [i for i, place in enumerate(places) if place.startswith(f"{above}{name}/")]:
                return self.rows(index)
        below = (place[len(top) :].partition("/") for place in places)
        known = ", ".join(sorted({folder for folder, slash, _ in below if slash})[:20]) or "none"
        raise InputError(f"The file of representations has no split {name!r}; its splits are: {known}.")


def write_embeddings(path: Path, embeddings: Embeddings) -> None:
    """Write a ``.safetensors`` or ``.npz`` file in the module's format, whole or not at all.

    Raises:
        InputError: the suffix is another one.
    """
    about = _About(encoders=embeddings.encoders, origin=embeddings.origin).model_dump_json()
    tensors = {f"{pair.method}/{pair.level}": h.float() for pair, h in embeddings.representations.items()}
    if checked_suffix(path) == ".safetensors":
        lists = {"paths": packed(embeddings.paths), "labels": packed(embeddings.labels)}
        write_tensors(path, {**tensors, **lists}, {"kind": KIND, "about": about})
        return
    arrays = {name: tensor.numpy() for name, tensor in tensors.items()}
    labels = np.array([label or "" for label in embeddings.labels], np.str_)
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays, paths=np.array(embeddings.paths, np.str_), labels=labels, about=np.array(about))  # type: ignore[arg-type]


def read_embeddings(path: Path) -> Embeddings:
    """Read what ``write_embeddings`` wrote.

    Raises:
        InputError: no such file, damaged, or not a file of representations.
    """
    if checked_suffix(path) == ".safetensors":
        metadata = read_metadata(path)
        if metadata.get("kind") != KIND:
            kind = metadata.get("kind")
            raise InputError(f"{path} holds no representations (its kind is {kind}). `rcdm embed` writes them.")
        tensors = read_tensors(path)
        text = metadata["about"]
        paths, labels = (unpacked(tensors.pop(name)) for name in ("paths", "labels"))
    else:
        arrays = _read_npz(path)
        text = str(arrays.pop("about"))
        paths = arrays.pop("paths").tolist()
        labels = [label or None for label in arrays.pop("labels").tolist()]
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    about = _About.parse_json(text, str(path))
    representations = {_pair(name, path): tensor for name, tensor in tensors.items()}
    return Embeddings(representations, tuple(paths), tuple(labels), about.encoders, about.origin)


def is_embeddings(path: Path) -> bool:
    """Whether a path that a person gave for images names a file of representations instead, by its suffix."""
    return path.suffix.lower() in SUFFIXES


def checked_suffix(path: Path) -> str:
    """The suffix that says in which of the two formats ``path`` is.

    Raises:
        InputError: it has another suffix.
    """
    if not is_embeddings(path):
        raise InputError(f"A file of representations ends in {' or '.join(SUFFIXES)}, not as {path} does.")
    return path.suffix.lower()


def packed(values: Sequence[Any]) -> Tensor:
    """A JSON list as uint8, since safetensors files hold tensors only."""
    # ASCII with escapes, so that a file name that is no valid UTF-8 comes back as it was.
    return torch.from_numpy(np.frombuffer(json.dumps(values).encode(), np.uint8).copy())


def unpacked(tensor: Tensor) -> list[Any]:
    """What ``packed`` was given."""
    values: list[Any] = json.loads(tensor.numpy().tobytes())
    return values


def _read_npz(path: Path) -> dict[str, NDArray[Any]]:
    if not path.is_file():
        raise InputError(f"{path} is not a file.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays: Mapping[str, NDArray[Any]] = dict(file)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a complete npz file ({error}).") from error
    if missing := [name for name in ("about", "paths", "labels") if name not in arrays]:
        raise InputError(f"{path} holds no representations: it lacks {', '.join(missing)}. `rcdm embed` writes them.")
    return dict(arrays)


def _pair(name: str, path: Path) -> Pair:
    method, _, level = name.rpartition("/")
    for known in LEVELS:
        if method and level == known:
            return Pair(method, known)
    raise InputError(f"{path} holds {name!r}, which is no method with one of the levels {', '.join(LEVELS)}.")
