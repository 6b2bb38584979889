"""Cache a large synthetic dataset of tar shards, and train on it, with the memory of the process.

    python -m tools.bench_large_dataset --images 1000000 --steps 1000 --work /data/large

Writes shards of JPEG images of 64 pixels (about 3 kB each) and the caches of a run (13 kB per image) to WORK, and
removes both at the end unless --keep is given. Images repeat after 4,096, with another comment each, so that their
contents differ. The encoder and the denoiser are very small, so that the time is the time of the data.

Prints one JSON object: seconds and images per second of each stage, and the curve of the resident memory: anonymous
memory, and pages of files, which the operating system can reuse.
"""

import argparse
import io
import json
import shutil
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.encoders.spec import EncoderSpec, Preprocessing
from rcdm_cli.training.recipe import TrainRecipe
from rcdm_cli.training.run import train

SHARD = 10000
DISTINCT = 4096
RECIPE = {
    "kind": "train",
    "levels": ["backbone"],
    "denoiser": {"size": 64, "channels": 32, "channel_mult": [1, 1, 1, 1], "num_res_blocks": 1, "attention": []},
    "schedule": {"timesteps": 1000},
    "optimization": {"batch": 16, "lr": 1e-4, "precision": "fp32"},
    "cache": "float16",
}


def write_shards(folder: Path, count: int) -> None:
    """Write tar shards of ``count`` JPEG images with 64 pixels."""
    folder.mkdir(parents=True)
    draw, images = np.random.default_rng(0), []
    for _ in range(DISTINCT):
        coarse = Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        coarse.save(file, "JPEG", quality=90)
        images.append(file.getvalue())
    for first in range(0, count, SHARD):
        with tarfile.open(folder / f"{first // SHARD:05d}.tar", "w") as shard:
            for number in range(first, min(first + SHARD, count)):
                image, comment = images[number % DISTINCT], str(number).encode()
                # A comment segment follows the start of the image.
                size = (len(comment) + 2).to_bytes(2, "big")
                content = image[:2] + b"\xff\xfe" + size + comment + image[2:]
                member = tarfile.TarInfo(f"{number:08d}.jpg")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))


class MemoryCurve:
    """Samples of the resident memory of this process, once per second."""

    def __init__(self, period: float = 1.0) -> None:
        self.points: list[tuple[float, float, float]] = []
        self._start, self._period, self._stop = time.perf_counter(), period, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
            anonymous, files = (int(status[name].split()[0]) / 2**20 for name in ("RssAnon", "RssFile"))
            self.points.append((time.perf_counter() - self._start, anonymous, files))

    def close(self, points: int = 20) -> dict[str, Any]:
        """Return peaks in GiB, and at most ``points`` points of the curve: seconds, anonymous GiB, file GiB."""
        self._stop.set()
        self._thread.join()
        every = max(len(self.points) // points, 1)
        return {
            "peak_resident_gib": round(max(anonymous + files for _, anonymous, files in self.points), 2),
            "peak_anonymous_gib": round(max(anonymous for _, anonymous, _ in self.points), 2),
            "curve": [[round(value, 2) for value in point] for point in self.points[::every]],
        }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--work", type=Path, required=True, help="new folder")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    options = parser.parse_args()
    started: dict[str, float] = {}
    ended: dict[str, tuple[float, int]] = {}

    def on_progress(stage: str, done: int, total: int, note: str = "") -> None:
        now = time.perf_counter()
        started.setdefault(stage, now)
        ended[stage] = now, done

    try:
        start_time = time.perf_counter()
        write_shards(options.work / "shards", options.images)
        writing = time.perf_counter() - start_time
        torch.manual_seed(0)
        trunk_options = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
        preprocessing = Preprocessing(size=16)
        spec = EncoderSpec(
            method="tiny", trunk="resnet18", trunk_options=trunk_options, width=8, preprocessing=preprocessing
        )
        encoder = Encoder(spec).eval().requires_grad_(False)
        recipe = TrainRecipe.parse({**RECIPE, "steps": options.steps, "save_every": 10**6}, "the recipe")
        memory = MemoryCurve()
        start_time = time.perf_counter()
        train(
            recipe,
            options.work / "shards",
            options.work / "run",
            encoders=[encoder],
            workers=options.workers,
            on_progress=on_progress,
        )
        seconds = time.perf_counter() - start_time
        stages = {
            stage: {
                "seconds": round(end - started[stage], 1),
                "per_second": round(done / max(end - started[stage], 1e-9), 1),
            }
            for stage, (end, done) in ended.items()
        }
        files = sum(file.stat().st_size for file in options.work.rglob("*") if file.is_file())
        result = {
            "images": options.images,
            "disk_gb": round(files / 1e9, 2),
            "writing_seconds": round(writing, 1),
            "seconds": round(seconds, 1),
            "stages": stages,
            "memory": memory.close(),
        }
    finally:
        if not options.keep:
            shutil.rmtree(options.work, ignore_errors=True)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
