"""Time the parts of a training step, and the loader of training images.

    python -m tools.bench_training --recipe clothing32 --steps 20
    python -m tools.bench_training --device cuda --published PATH_TO_A_CHECKOUT_OF_facebookresearch/RCDM
    python -m tools.bench_training --only loader --images 200000

Images and representations are random, and the weights are new. Prints one JSON object:

- `step`: time of a step and images per second. The denoiser is not compiled.
- `compiled`: the same with `torch.compile`, where a training compiles by default. Compilation can take minutes.
- `parts`: milliseconds of a step by part (waiting for data, forward, backward, exchange of gradients, optimizer, EMA,
  log), from the ranges and operations of the profiler, not compiled.
- `peak`: measured TFLOP/s of large matrix products, and the fraction that the training reaches.
- `published`: images per second of the published network and objective (PyTorch at float32, AdamW, EMA) at the same
  batch.
- `loader`: images per second from a cold memory map with a network that costs nothing, for the loader of `rcdm train`
  and for a gather and a conversion in the main process, in interleaved rounds; and images per second of CPU time of
  the loader without workers, which other programs on the machine affect less.
"""

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from rcdm_cli.data.array_file import ArrayWriter, open_array
from rcdm_cli.data.loader import load_batches
from rcdm_cli.data.tensor import to_tensor
from rcdm_cli.diffusion.spec import Representation
from rcdm_cli.training.batches import batch_indices
from rcdm_cli.training.denoiser import DenoiserTrainer
from rcdm_cli.training.loop import fit
from rcdm_cli.training.optimizer import can_compile
from rcdm_cli.training.recipe import Optimization, TrainRecipe, read_recipe
from rcdm_cli.training.step_data import StepData
from tools.published_rcdm import PublishedRcdm

PARTS = ("data", "forward", "backward", "optimizer", "ema", "log")
WIDTH = 512


class RandomRepresentations:
    """Random representations of images and their mirror images."""

    def __init__(self, count: int) -> None:
        self.projections: tuple[Representation, ...] = (Representation(method="random", level="backbone", width=WIDTH),)
        self.h = np.random.default_rng(0).standard_normal((2 * count, WIDTH)).astype(np.float32)

    def take(self, projection: int, index: torch.Tensor, flip: torch.Tensor) -> torch.Tensor:
        """Return ``h`` (B, WIDTH)."""
        return torch.from_numpy(self.h[(2 * index + flip).numpy()])

    def statistics(self, projection: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and covariance of a standard normal distribution."""
        return torch.zeros(WIDTH, dtype=torch.float64), torch.eye(WIDTH, dtype=torch.float64)


def make_trainer(recipe: TrainRecipe, images: int, device: torch.device, workers: int) -> DenoiserTrainer:
    """Return a trainer with random images and representations.

    Raises:
        SystemExit: the denoiser works in latents, whose autoencoder this tool does not open.
    """
    if recipe.denoiser.space.kind == "latents":
        raise SystemExit("The recipe has a latent space, which this tool does not time.")
    size = recipe.denoiser.size
    pixels = np.random.default_rng(1).integers(0, 256, (images, size, size, 3), np.uint8)
    return DenoiserTrainer(recipe, pixels, RandomRepresentations(images), device, "random", workers=workers)


def measured_peak(device: torch.device) -> float:
    """Return TFLOP/s of bf16 matrix products on a GPU, or of float32 matrix products on a CPU."""
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (512, torch.float32)
    first, second = torch.randn(2, size, size, device=device, dtype=dtype)
    best = 0.0
    for _ in range(5):
        _synchronise(device)
        start_time = time.perf_counter()
        for _ in range(4):
            first @ second
        _synchronise(device)
        best = max(best, 4 * 2 * size**3 / (time.perf_counter() - start_time))
    return best / 1e12


def step_tflop(trainer: DenoiserTrainer) -> float:
    """Return 10^12 floating-point operations of a step per image: forward, and twice as many in backward."""
    spec, device = trainer.recipe.denoiser, trainer.device
    x, t, cond = torch.zeros(1, *spec.input_shape), torch.zeros(1), torch.zeros(1, spec.cond_width)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        trainer.ema_model.denoiser(x.to(device), t.to(device), cond.to(device))
    return 3 * float(counter.get_total_flops()) / 1e12


def _quiet(trainer: DenoiserTrainer) -> DenoiserTrainer:
    """Remove evaluation and checkpoints, which are not part of a step."""
    trainer.on_step_end = lambda step, folder: {}  # type: ignore[method-assign]
    trainer.tensors = dict  # type: ignore[method-assign]
    return trainer


def time_step(recipe: TrainRecipe, images: int, device: torch.device, workers: int) -> dict[str, Any]:
    """Return the time of a step, images per second, and the fraction of the measured peak. The first steps warm up."""
    trainer = _quiet(make_trainer(recipe, images, device, workers))
    warm_up, steps = 3, recipe.steps

    def run(first: int, last: int) -> float:
        trainer.steps = last
        trainer.setup(first)
        start_time = time.perf_counter()
        for step in range(first, last):
            trainer.train_step(step)
        _synchronise(device)
        return time.perf_counter() - start_time

    start_time = time.perf_counter()
    run(0, warm_up)
    warm_up_seconds = time.perf_counter() - start_time
    seconds = run(warm_up, warm_up + steps)
    memory = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    rate = steps * recipe.optimization.batch / seconds
    tflops, peak = rate * step_tflop(trainer), measured_peak(device)
    return {
        "batch": recipe.optimization.batch,
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "warm_up_seconds": round(warm_up_seconds, 1),
        "step_milliseconds": round(1000 * seconds / steps, 3),
        "images_per_second": round(rate, 1),
        "peak": {"tflops": round(tflops, 3), "measured_peak": round(peak, 2), "fraction": round(tflops / peak, 3)},
        "memory_gib": memory and round(memory, 2),
    }


def step_parts(recipe: TrainRecipe, images: int, device: torch.device, workers: int) -> dict[str, float]:
    """Return milliseconds of a step by part, from the profiler, whose events of a large network need minutes to read.

    At most two steps are profiled on a GPU.
    """
    trainer = _quiet(make_trainer(recipe, images, device, workers))
    steps = min(recipe.steps, 2) if device.type == "cuda" else recipe.steps
    trainer.steps = steps
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with tempfile.TemporaryDirectory() as folder:
        trainer.setup(0)
        trainer.train_step(0)
        with profile(activities=activities) as found:
            fit(trainer, Path(folder), save_every=10**9, log_every=max(steps // 2, 1), show_every=10**9)
            _synchronise(device)
    spent = {event.key: _total(event, device) / 1000 / steps for event in found.key_averages()}
    parts = {name: spent.get(f"train: {name}", 0.0) for name in PARTS}
    parts["gradient sync"] = sum(value for name, value in spent.items() if "all_reduce" in name or "AllReduce" in name)
    return {name: round(value, 3) for name, value in parts.items()}


def _total(event: Any, device: torch.device) -> float:
    """Return the time of an event in microseconds. The ranges of a GPU contain the time of their kernels."""
    return float(event.device_time_total if device.type == "cuda" else event.cpu_time_total)


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def time_published(recipe: TrainRecipe, checkout: Path, device: torch.device) -> dict[str, Any]:
    """Return images per second of the published network, objective, AdamW and EMA, as in the published loop."""
    plain = recipe.model_copy(update={"compile": False})
    trainer = make_trainer(plain, 16, torch.device("cpu"), 0)
    baseline = PublishedRcdm(checkout, trainer.ema_model, 0, recipe.schedule, device)
    unet = baseline.unet.requires_grad_(True).train()
    average = [parameter.detach().clone() for parameter in unet.parameters()]
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, weight_decay=0.0, foreach=False)
    batch, size = recipe.optimization.batch, recipe.denoiser.size
    x, h = torch.rand(batch, 3, size, size) * 2 - 1, torch.randn(batch, WIDTH)

    def step() -> None:
        t = torch.randint(0, baseline.steps, (batch,), device=device)
        losses = baseline.training_losses(x.to(device), t, h.to(device))
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
        with torch.no_grad():
            for target, source in zip(average, unet.parameters(), strict=True):
                target.mul_(0.9999).add_(source, alpha=1 - 0.9999)
        losses.mean().item()

    for _ in range(3):
        step()
    _synchronise(device)
    start_time = time.perf_counter()
    for _ in range(recipe.steps):
        step()
    _synchronise(device)
    seconds = time.perf_counter() - start_time
    return {"batch": batch, "images_per_second": round(recipe.steps * batch / seconds, 1)}


def time_loader(count: int, size: int, batch: int, steps: int, rounds: int, workers: int) -> dict[str, Any]:
    """Return images per second of the loader and of a gather in the main process, from cold memory maps."""
    rates: dict[str, list[float]] = {"loader": [], "main process": []}
    cpu_rates: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        draw = np.random.default_rng(0)
        with ArrayWriter(path, (size, size, 3), np.uint8) as writer:
            while writer.rows < count:
                rows = min(4096, count - writer.rows)
                writer.append(draw.integers(0, 256, (rows, size, size, 3), np.uint8))
            writer.finish()
        representations = RandomRepresentations(count)
        for _ in range(rounds):
            for name, batches in (("loader", _loader), ("main process", _main_process)):
                _forget(path)
                stream = batches(open_array(path), representations, batch, workers)
                next(stream)
                start_time = time.perf_counter()
                for _ in islice(stream, steps):
                    pass
                rates[name].append(steps * batch / (time.perf_counter() - start_time))
            _forget(path)
            stream = _loader(open_array(path), representations, batch, 0)
            start_time = time.process_time()
            for _ in islice(stream, steps):
                pass
            cpu_rates.append(steps * batch / (time.process_time() - start_time))
    medians = {name: statistics.median(values) for name, values in rates.items()}
    return {
        **{f"{name}, images per second": round(value) for name, value in medians.items()},
        "loader, images per second of CPU time": round(statistics.median(cpu_rates)),
        "ratio": round(medians["loader"] / medians["main process"], 2),
        "images": count,
        "size": size,
        "batch": batch,
        "workers": workers,
    }


Batches = Callable[[np.ndarray, RandomRepresentations, int, int], Iterator[Any]]


def _loader(images: np.ndarray, representations: RandomRepresentations, batch: int, workers: int) -> Iterator[Any]:
    data = StepData(Optimization(batch=batch, lr=1.0), images, representations)
    return load_batches(data, range(10**6), torch.device("cpu"), workers)


def _main_process(
    images: np.ndarray, representations: RandomRepresentations, batch: int, workers: int
) -> Iterator[Any]:
    """Gather, flip and convert images to float32 without workers."""
    for step in range(10**6):
        index = batch_indices(step, len(images), batch, 0)
        flip = torch.rand(batch) < 0.5
        originals = images[index.numpy()]
        flipped = np.where(flip.numpy()[:, None, None, None], originals[:, :, ::-1], originals)
        yield to_tensor(flipped), representations.take(0, index, flip)


def _forget(path: Path) -> None:
    """Remove the pages of a file from the cache of the operating system."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="clothing32")
    parser.add_argument("--set", action="append", default=[], help="change of the recipe, key=value; repeatable")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--images", type=int, default=20000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--published", type=Path)
    parser.add_argument("--only", choices=("step", "loader"))
    options = parser.parse_args()
    device = torch.device(options.device)
    recipe = read_recipe(options.recipe, TrainRecipe, [*options.set, f"steps={options.steps}"])
    result: dict[str, Any] = {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": options.device}
    # A call that is ended at a time limit prints the results so far.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        if options.only != "loader":
            compiled = recipe.compile if recipe.compile is not None else can_compile(device)
            steps = {"step": recipe.model_copy(update={"compile": False})}
            steps |= {"compiled": recipe.model_copy(update={"compile": True})} if compiled else {}
            for name, variant in steps.items():
                result[name] = time_step(variant, 256, device, options.workers)
                if options.published and "published" not in result:
                    result["published"] = time_published(recipe, options.published, device)
                if options.published:
                    speedup = result[name]["images_per_second"] / result["published"]["images_per_second"]
                    result[name]["speedup"] = round(speedup, 2)
            result["parts"] = step_parts(steps["step"], 256, device, options.workers)
        if options.only != "step":
            result["loader"] = time_loader(options.images, 64, 256, 40, options.rounds, options.workers)
    finally:
        print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
