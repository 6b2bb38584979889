"""Sampled samples as files, one by one, written while the next batch is sampled."""

import re
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from rcdm_cli.data.image_file import write_png
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.report.run import begin_anew

_OWN = re.compile(r"samples/\d{3,}-[A-Za-z0-9_-]*/.+-(backbone|projector)-\d{2,}\.png")


class SampleFiles:
    """``samples/<image>/<method>-<level>-<k>.png`` of a run; a context manager that ends with all of them written.

    A finished run in the folder is taken away when it begins, and when it ends, so are samples of this kind that an
    interrupted run of other images has left.

    Args:
        folder: of the run.
        names: of the images.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self._stems = [f"{i:03d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', Path(n).stem)[:60]}" for i, n in enumerate(names)]
        # One: encoding takes less than sampling, and more would take cores from it.
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._written: dict[str, Future[None]] = {}

    def name(self, image: int, pair: Pair, k: int) -> str:
        """Of sample ``k`` of an image, relative to the run's folder."""
        return f"samples/{self._stems[image]}/{pair.method}-{pair.level}-{k:02d}.png"

    def add(self, image: int, pair: Pair, k: int, sample: NDArray[np.uint8]) -> None:
        """Write uint8 (S, S, 3) in the background; what goes wrong is raised at the end."""
        name = self.name(image, pair, k)
        self._written[name] = self._writer.submit(write_png, self.folder / name, sample)

    def __enter__(self) -> Self:
        begin_anew(self.folder)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._writer.shutdown(wait=True)
        if error is None:
            for written in self._written.values():
                written.result()
            self._remove_others()

    def _remove_others(self) -> None:
        for path in self.folder.glob("samples/*/*.png"):
            name = path.relative_to(self.folder).as_posix()
            if name not in self._written and _OWN.fullmatch(name):
                path.unlink()
                if not any(path.parent.iterdir()):
                    path.parent.rmdir()
