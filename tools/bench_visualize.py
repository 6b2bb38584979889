"""Time `rcdm visualize` as a whole process, and training steps.

    python tools/bench_visualize.py --bundle engines/clothing32 --data clothing96.tar --split train

Prints one JSON object: seconds and peak memory of `rcdm visualize` with 8 images × 8 samples, the fraction of the time
spent in the denoiser, and training images per second with cached and with computed representations, in interleaved
runs.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from rcdm_cli.analyses.visualize.compute import visualize
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.data.cropped import load_cropped
from rcdm_cli.data.dataset import open_dataset
from rcdm_cli.data.image_file import write_png
from rcdm_cli.diffusion.inference import Engine
from rcdm_cli.diffusion.spec import Representation
from rcdm_cli.training.denoiser import DenoiserTrainer
from rcdm_cli.training.recipe import TrainRecipe
from rcdm_cli.training.representations import (
    CachedRepresentations,
    ComputedRepresentations,
    EncoderInputs,
    Representations,
)


def whole_command(bundle: Path, images: np.ndarray, runs: int) -> dict[str, float]:
    """Return the median time and the peak memory of whole processes."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for k, image in enumerate(images):
            write_png(root / "imgs" / f"{k}.png", image)
        command = [sys.executable, "-m", "rcdm_cli", "visualize", str(root / "imgs"), "--bundle", str(bundle)]
        command += ["--method", "dino", "--level", "backbone", "--samples", "8", "--out", str(root / "out"), "--force"]
        seconds = []
        for _ in range(runs):
            start_time = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            seconds.append(time.perf_counter() - start_time)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"seconds": statistics.median(seconds), "peak_mib": peak}


class TimedEngine:
    """An engine that sums the time of its calls."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.max_batch, self.seconds = engine, engine.max_batch, 0.0

    def __call__(self, x: torch.Tensor, modulations: torch.Tensor) -> torch.Tensor:
        """Call the engine."""
        start_time = time.perf_counter()
        output = self.engine(x, modulations)
        self.seconds += time.perf_counter() - start_time
        return output

    def close(self) -> None:
        """Close the engine."""
        self.engine.close()


def denoiser_fraction(bundle: Path, images: np.ndarray) -> float:
    """Return the fraction of `visualize`, without start-up, that is spent in the denoiser."""
    opened = load_bundle(bundle, backend="auto", precision="auto")
    timed = TimedEngine(opened.engine)
    opened.engine = timed
    start_time = time.perf_counter()
    visualize(opened, images, methods="dino", level="backbone", num_samples=8)
    return timed.seconds / (time.perf_counter() - start_time)


def training_rates(bundle: Path, data: Path, split: str | None, steps: int, rounds: int) -> dict[str, float]:
    """Return training images per second with cached and with computed representations, and their ratio."""
    opened = load_bundle(bundle)
    recipe = TrainRecipe.model_validate(opened.manifest.trained["recipe"])
    source, cpu = open_dataset(data, split), torch.device("cpu")
    cropped = load_cropped(source, recipe.denoiser.size)
    projections: tuple[Representation, ...] = opened.manifest.conditioning.projections
    sources = []
    for method in opened.methods:
        encoder = opened.encoder(method)
        sources.append(EncoderInputs(encoder, load_cropped(source, encoder.spec.preprocessing.size).images, method))
    with tempfile.TemporaryDirectory() as folder:
        kinds: dict[str, Representations] = {
            "cached": CachedRepresentations(sources, projections, Path(folder), cpu),
            "computed": ComputedRepresentations(sources, projections, cpu),
        }
        trainers = {name: DenoiserTrainer(recipe, cropped.images, kind, cpu, "") for name, kind in kinds.items()}
        rates: dict[str, list[float]] = {name: [] for name in trainers}
        for turn in range(rounds + 1):
            for name, trainer in trainers.items():
                trainer.setup(turn * steps)
                start_time = time.perf_counter()
                for step in range(steps):
                    trainer.train_step(turn * steps + step)
                if turn:  # the first round warms up
                    rates[name].append(steps * recipe.optimization.batch / (time.perf_counter() - start_time))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {**medians, "ratio": medians["cached"] / medians["computed"]}


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    images = load_cropped(open_dataset(options.data, options.split), 64).images[:8]
    result = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "visualize": whole_command(options.bundle, images, options.runs),
        "denoiser_fraction": denoiser_fraction(options.bundle, images),
        "training": training_rates(options.bundle, options.data, options.split, 5, options.runs),
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
