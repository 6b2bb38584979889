"""Parts of a long analysis that are kept, so that the same command goes on where it was interrupted."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rcdm_cli.errors import InputError
from rcdm_cli.files import read_metadata, read_tensors, write_tensors


def hash_of(*tensors: Tensor) -> str:
    """SHA-256 of the tensors' types, shapes and values, in order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        array = tensor.detach().cpu().contiguous().numpy()
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


class Kept:
    """Results of expensive steps, in a folder, each under the hash of all that it depends on.

    Args:
        folder: where parts lie; None keeps nothing.
        about: what every part depends on: the bundle's hash, the photos' hash, the seed, the settings. JSON-able.
    """

    def __init__(self, folder: Path | None, about: Mapping[str, Any]) -> None:
        self.folder, self.about = folder, dict(about)

    def once(self, key: Mapping[str, Any], make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
        """The tensors that ``make`` gives, read from the folder where an earlier run has left them.

        Args:
            key: what this part depends on besides ``about``. JSON-able.
            make: computes it.
        """
        if self.folder is None:
            return dict(make())
        text = json.dumps({**self.about, "part": dict(key)}, sort_keys=True)
        path = self.folder / _name(text)
        if path.exists() and read_metadata(path).get("part") == text:
            return read_tensors(path)
        made = {name: tensor.contiguous() for name, tensor in make().items()}
        write_tensors(path, made, {"part": text})
        return made

    def discard(self) -> None:
        """Remove every part, once the results are there; what lies beside the parts stays, and so does the folder then.

        Parts that another command line left there unfinished are removed too.
        """
        if self.folder is None or not self.folder.is_dir():
            return
        for path in self.folder.glob("*.safetensors"):
            if _is_part(path):
                path.unlink()
        if not any(self.folder.iterdir()):
            self.folder.rmdir()


def _name(text: str) -> str:
    return f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"


def _is_part(path: Path) -> bool:
    """Whether ``Kept`` wrote the file: then its name is the hash of what its metadata say."""
    try:
        return path.name == _name(read_metadata(path).get("part", ""))
    except InputError:
        return False
