"""Files of samples, which are written in the background while the next batch is sampled."""

import re
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

from rcdm_cli.data.image_file import Pixels, write_png
from rcdm_cli.encoders.pairs import Pair

_OWN = re.compile(r"samples/\d{3,}-[A-Za-z0-9_-]*/(?:image|.+-(?:\d{2,}|std))\.png")


class SampleFiles:
    """Context manager that writes ``samples/<image>/<method>-<level>-<k>.png`` of a run.

    On successful exit, all files are written, and samples that an interrupted run has left are removed.

    Args:
        folder: Folder of the run.
        names: File names of the images.
    """

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder = folder
        self._stems = [f"{i:03d}-{re.sub(r'[^A-Za-z0-9_-]+', '_', Path(n).stem)[:60]}" for i, n in enumerate(names)]
        # One thread: encoding PNGs is faster than sampling, and more threads would slow down the sampler.
        self._writer = ThreadPoolExecutor(max_workers=1)
        self._written: dict[str, Future[None]] = {}

    def image_name(self, image: int) -> str:
        """Return the file of the cropped input image, relative to the folder of the run."""
        return f"samples/{self._stems[image]}/image.png"

    def name(self, image: int, pair: Pair, k: int | None) -> str:
        """Return the file of sample ``k`` of an image, or of the standard-deviation map if ``k`` is None."""
        return f"samples/{self._stems[image]}/{pair.method}-{pair.level}-{'std' if k is None else f'{k:02d}'}.png"

    def add(self, image: int, pair: Pair, k: int, sample: Pixels) -> None:
        """Write a sample, uint8 (S, S, 3), in the background. Errors are raised on exit."""
        name = self.name(image, pair, k)
        self._written[name] = self._writer.submit(write_png, self.folder / name, sample)

    def __enter__(self) -> Self:
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
