"""Parts of a long analysis that are kept, so that the same command goes on where it was interrupted."""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rcdm_cli.files import read_metadata, read_tensors, write_tensors


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
        path = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"
        if path.exists() and read_metadata(path).get("part") == text:
            return read_tensors(path)
        made = {name: tensor.contiguous() for name, tensor in make().items()}
        write_tensors(path, made, {"part": text})
        return made
