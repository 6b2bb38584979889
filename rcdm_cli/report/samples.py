"""Sampled pictures as files, one by one, written while the next batch is sampled."""

import re
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rcdm_cli.analysis.pairs import Pair
from rcdm_cli.images.write import write_png


class SampleFiles:
    """``samples/<photo>/<method>-<level>-<k>.png`` of a run; a context manager that ends with all of them written.

    Args:
        folder: of the run.
        names: of the photos.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self._stems = [f"{i:03d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', Path(n).stem)[:60]}" for i, n in enumerate(names)]
        # One: encoding takes less than sampling, and more would take cores from it.
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._written: list[Future[None]] = []

    def name(self, photo: int, pair: Pair, k: int) -> str:
        """Of picture ``k`` of a photo, relative to the run's folder."""
        return f"samples/{self._stems[photo]}/{pair.method}-{pair.level}-{k:02d}.png"

    def add(self, photo: int, pair: Pair, k: int, picture: NDArray[np.uint8]) -> None:
        """Write uint8 (S, S, 3) in the background; what goes wrong is raised at the end."""
        self._written.append(self._writer.submit(write_png, self.folder / self.name(photo, pair, k), picture))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._writer.shutdown(wait=True)
        if error is None:
            for written in self._written:
                written.result()
