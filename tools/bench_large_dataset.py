"""Cache a large synthetic dataset of tar shards, and train on it, with the memory of the processes.

    python -m tools.bench_large_dataset --images 1000000 --steps 1000 --work /data/large

Writes shards of JPEG images of 64 pixels (about 4 kB each) and the caches of a run (13 kB per image) to WORK. Images
repeat after 4,096, with another comment each, so that their contents differ. The encoder and the denoiser are very
small, so that the time is the time of the data. An interrupted measurement continues with the same command. WORK is
removed at the end unless --keep is given.

Prints one JSON object: seconds, images per second and peaks of memory of each stage, and the curve of the memory. The
memory is the proportional set size of this process and its children, in GiB: anonymous memory, which belongs to the
processes, and pages of files, which the operating system can drop and read again.
"""

import argparse
import io
import json
import os
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
    "denoiser": {
        "size": 64,
        "space": {"kind": "patches", "factor": 4},
        "channels": 32,
        "channel_mult": [1, 1],
        "num_res_blocks": 1,
        "attention": [],
    },
    "schedule": {"timesteps": 1000},
    "optimization": {"batch": 16, "lr": 1e-4, "precision": "fp32"},
    "cache": "float16",
}


def write_shards(folder: Path, count: int) -> None:
    """Write tar shards of ``count`` JPEG images with 64 pixels. Shards that exist are not written again."""
    folder.mkdir(parents=True, exist_ok=True)
    draw, images = np.random.default_rng(0), []
    for _ in range(DISTINCT):
        coarse = Image.fromarray(draw.integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 64), Image.Resampling.BICUBIC)
        file = io.BytesIO()
        coarse.save(file, "JPEG", quality=90)
        images.append(file.getvalue())
    for first in range(0, count, SHARD):
        path = folder / f"{first // SHARD:05d}.tar"
        if path.exists():
            continue
        partial = folder.parent / "shard.partial"
        with tarfile.open(partial, "w") as shard:
            for number in range(first, min(first + SHARD, count)):
                image, comment = images[number % DISTINCT], str(number).encode()
                # A comment segment follows the start of the image.
                size = (len(comment) + 2).to_bytes(2, "big")
                content = image[:2] + b"\xff\xfe" + size + comment + image[2:]
                member = tarfile.TarInfo(f"{number:08d}.jpg")
                member.size = len(content)
                shard.addfile(member, io.BytesIO(content))
        partial.rename(path)


def process_memory(process: int) -> tuple[float, float]:
    """Return anonymous memory and pages of files of a process and its children in GiB, shared pages divided."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
        children = Path(f"/proc/{process}/task").glob("*/children")
        names = [int(name) for file in children for name in file.read_text().split()]
    except OSError:  # the process has ended
        return 0.0, 0.0
    values = {line.split(":")[0]: int(line.split()[1]) / 2**20 for line in lines}
    parts = [(values["Pss_Anon"], values["Pss_File"] + values["Pss_Shmem"]), *map(process_memory, names)]
    return sum(anonymous for anonymous, _ in parts), sum(files for _, files in parts)


class Measurement:
    """Stage, progress and memory of a run, once per second, in a file of JSON lines that later parts extend."""

    def __init__(self, path: Path, period: float = 1.0) -> None:
        self.path, self._period, self._stop = path, period, threading.Event()
        self._stage, self._done, self._count = "Start", 0, 0
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def on_progress(self, stage: str, done: int, total: int, note: str = "") -> None:
        """Count the items of a stage. A stage may begin again with other images."""
        if self._stage != stage:
            self._write()
            self._stage, self._count = stage, 0
        else:
            self._count += max(done - self._done, 0)
        self._done = done

    def _write(self) -> None:
        anonymous, files = process_memory(os.getpid())
        line = {"part": os.getpid(), "time": time.time(), "stage": self._stage, "count": self._count}
        with self.path.open("a") as file:
            print(json.dumps({**line, "anonymous": anonymous, "files": files}), file=file)

    def _run(self) -> None:
        while not self._stop.wait(self._period):
            self._write()

    def close(self, points: int = 20) -> dict[str, Any]:
        """Return seconds, rate and peaks of every stage, and at most ``points`` points of the curve of the memory."""
        self._stop.set()
        self._thread.join()
        self._write()
        lines = [json.loads(line) for line in self.path.read_text().splitlines()]
        curve: list[list[Any]] = []
        stages: dict[str, dict[str, float]] = {}
        seconds = 0.0
        for before, line in zip([None, *lines[:-1]], lines, strict=True):
            stage = stages.setdefault(line["stage"], {"seconds": 0, "items": 0, "peak_anonymous": 0, "peak_total": 0})
            # The time between two parts of an interrupted measurement does not count.
            if before is not None and before["part"] == line["part"]:
                seconds += line["time"] - before["time"]
                stages[before["stage"]]["seconds"] += line["time"] - before["time"]
                stage["items"] += line["count"] - (before["count"] if before["stage"] == line["stage"] else 0)
            stage["peak_anonymous"] = max(stage["peak_anonymous"], line["anonymous"])
            stage["peak_total"] = max(stage["peak_total"], line["anonymous"] + line["files"])
            memory = (round(line[name], 2) for name in ("anonymous", "files"))
            curve.append([round(seconds, 1), line["stage"], *memory])
        for stage in stages.values():
            stage["per_second"] = stage["items"] / max(stage["seconds"], 1e-9)
        every = -(-len(curve) // points)
        return {
            "seconds": round(seconds, 1),
            "stages": {name: {key: round(value, 2) for key, value in stage.items()} for name, stage in stages.items()},
            "curve": [
                [value if isinstance(value, str) else round(value, 2) for value in row] for row in curve[::every]
            ],
        }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--work", type=Path, required=True, help="folder, removed at the end")
    parser.add_argument("--keep", action="store_true", help="keep the folder")
    options = parser.parse_args()
    write_shards(options.work / "shards", options.images)
    torch.manual_seed(0)
    trunk_options = {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}
    spec = EncoderSpec(
        method="tiny", trunk="resnet18", trunk_options=trunk_options, width=8, preprocessing=Preprocessing(size=16)
    )
    encoder = Encoder(spec).eval().requires_grad_(False)
    recipe = TrainRecipe.parse({**RECIPE, "steps": options.steps, "save_every": 200}, "the recipe")
    measurement = Measurement(options.work / "measurement.jsonl")
    train(
        recipe,
        options.work / "shards",
        options.work / "run",
        encoders=[encoder],
        workers=options.workers,
        on_progress=measurement.on_progress,
    )
    files = sum(file.stat().st_size for file in options.work.rglob("*") if file.is_file())
    result = {"images": options.images, "disk_gb": round(files / 1e9, 2), **measurement.close()}
    if not options.keep:
        shutil.rmtree(options.work)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
