"""Measure whether samples tell the truth, for encoders of `tools/make_calibration_encoders.py`.

    python -m tools.measure_calibration runs/calibration-bundle clothing96.tar --split val --out runs/calibration.json

For each encoder, samples are generated for the images, and every quantity is computed of the samples:

- *spread*: standard deviation of a quantity over the samples of one image, divided by the standard deviation over
  images. 0 is fixed, and 1 is as free as the images. The quantity that the samples are conditioned on must be fixed.
- *expected*: the same ratio over images with equal conditioning quantity, which a truthful instrument shows. The part
  that a linear regression on the conditioning quantity does not explain is an upper bound.
- *invariance* of the encoders under hue, brightness, mirror image and shift: 1 - d / D, with d the squared distance
  before and after, and D the squared distance of two images. 1 is invariant.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli import load_bundle
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.files import write_json
from rcdm_cli.data.cropped import load_cropped
from rcdm_cli.data.dataset import open_dataset
from tools.make_calibration_encoders import LUMA

Pixels = NDArray[np.uint8]

BRIGHTNESS = 0.6
"""Factor of the pixel values."""
HUE = 0.5
"""Rotation as a fraction of the colour circle."""


def rotate_hue(images: Pixels, turn: float) -> Pixels:
    """Rotate the colours of images (B, H, W, 3) around the grey axis, and restore the luma.

    Values beyond the range are clipped, which changes the luma of saturated colours.
    """
    angle = 2 * np.pi * turn
    axis = np.ones(3) / np.sqrt(3)
    cross = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    rotation = np.eye(3) * np.cos(angle) + np.sin(angle) * cross + (1 - np.cos(angle)) * np.outer(axis, axis)
    rotated = images @ rotation.T
    rotated += ((images - rotated) @ np.array(LUMA))[..., None]
    result: Pixels = np.clip(np.rint(rotated), 0, 255).astype(np.uint8)
    return result


CHANGES: dict[str, Callable[[Pixels], Pixels]] = {
    "hue": lambda images: rotate_hue(images, HUE),
    "brightness": lambda images: np.rint(images * BRIGHTNESS).astype(np.uint8),
    "mirror": lambda images: np.ascontiguousarray(images[:, :, ::-1]),
    "shift": lambda images: np.roll(images, images.shape[2] // 4, axis=2),
}


def spread_fraction(samples: Tensor, images: Tensor) -> float:
    """Return the standard deviation of samples (N, K, D), K at least 2, relative to that of images (N, D)."""
    within = samples.double().var(dim=1).sum(dim=1).mean()
    return float((within / images.double().var(dim=0).sum()).sqrt())


def explained_fraction(given: Tensor, wanted: Tensor) -> float:
    """Return the fraction of the variance of ``wanted`` (N, E) that a ridge regression on ``given`` (N, D) explains.

    The regression is fitted on one half of the images and measured on the other half, and vice versa, with the best of
    several penalties.
    """
    return max(0.0, *(_explained(given.double(), wanted.double(), ridge) for ridge in (1e-4, 1e-2, 0.1, 1.0)))


def _explained(given: Tensor, wanted: Tensor, ridge: float) -> float:
    unexplained = 0.0
    halves = [torch.arange(start, len(given), 2) for start in (0, 1)]
    for fit, test in (halves, halves[::-1]):
        mean, std = given[fit].mean(dim=0), given[fit].std(dim=0).clamp(min=1e-9)
        x, y, centre = (given[fit] - mean) / std, wanted[fit], wanted[fit].mean(dim=0)
        penalty = ridge * len(fit) * torch.eye(x.shape[1], dtype=torch.float64)
        weights = torch.linalg.solve(x.T @ x + penalty, x.T @ (y - centre))
        unexplained += float((wanted[test] - centre - (given[test] - mean) / std @ weights).square().sum())
    return 1 - unexplained / float((wanted - wanted.mean(dim=0)).square().sum())


def invariance(before: Tensor, after: Tensor) -> float:
    """Return 1 - d / D for representations (N, D) before and after a change, see the description of the script."""
    changed = (after.double() - before.double()).square().sum(dim=1).mean()
    return float(1 - changed / (2 * before.double().var(dim=0).sum()))


def measure(
    bundle: Bundle, images: Pixels, training: Pixels, samples: int, batch: int, names: list[str]
) -> dict[str, Any]:
    """Measure all encoders of a bundle.

    Args:
        bundle: bundle whose encoders are the calibration encoders.
        images: images to sample, uint8 (N, S, S, 3).
        training: images for the regressions.
        samples: samples per image and encoder.
        batch: samples generated at a time.
        names: names of ``images``.
    """
    quantities = {method: bundle.encode(list(images), method=method) for method in bundle.methods}
    fitted = {method: bundle.encode(list(training), method=method) for method in bundle.methods}
    spread, expected = {}, {}
    for method in bundle.methods:
        generated = bundle.sample(quantities[method], method=method, num_samples=samples, names=names, batch=batch)
        flat = list(generated.reshape(-1, *generated.shape[2:]))
        own = {each: bundle.encode(flat, method=each).reshape(len(images), samples, -1) for each in bundle.methods}
        spread[method] = {each: spread_fraction(values, quantities[each]) for each, values in own.items()}
        expected[method] = {
            each: float(np.sqrt(1 - explained_fraction(fitted[method], fitted[each]))) for each in bundle.methods
        }
    changed = {
        name: {m: bundle.encode(list(change(images)), method=m) for m in bundle.methods}
        for name, change in CHANGES.items()
    }
    invariances = {
        method: {name: invariance(quantities[method], changed[name][method]) for name in CHANGES}
        for method in bundle.methods
    }
    return {
        "images": len(images),
        "samples": samples,
        "spread": spread,
        "expected": expected,
        "invariance": invariances,
    }


def table(values: dict[str, dict[str, float]], other: dict[str, dict[str, float]] | None = None) -> str:
    """Return a Markdown table, one row per encoder; ``other`` is shown in brackets."""
    columns = list(next(iter(values.values())))
    lines = [["", *columns], ["---"] * (len(columns) + 1)]
    for row, entries in values.items():
        cells = [f"{entries[name]:.2f}" + (f" ({other[row][name]:.2f})" if other else "") for name in columns]
        lines.append([row, *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> None:
    """Measure a bundle, write all numbers and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", help="name or folder of the bundle")
    parser.add_argument("data", type=Path, help="dataset")
    parser.add_argument("--split", default="val", help="sub-folder of the images to sample")
    parser.add_argument("--training-split", default="train", help="sub-folder of the images for the regressions")
    parser.add_argument("--limit", type=int, default=64, help="number of images to sample")
    parser.add_argument("--samples", type=int, default=8, help="samples per image and encoder")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--out", type=Path, required=True, help="JSON file of all numbers")
    options = parser.parse_args()
    bundle = load_bundle(options.bundle, backend="auto", precision="auto")
    images = load_cropped(open_dataset(options.data, options.split).spread(options.limit), bundle.size)
    training = load_cropped(open_dataset(options.data, options.training_split).spread(2000), bundle.size)
    values = measure(bundle, images.images, training.images, options.samples, options.batch, list(images.keys))
    write_json(options.out, values)
    print("Spread over samples (in brackets: upper bound of the spread of images with equal conditioning):\n")
    print(table(values["spread"], values["expected"]))
    print("Invariance of the encoders:\n")
    print(table(values["invariance"]))
    print(json.dumps({"numbers": str(options.out)}))


if __name__ == "__main__":
    main()
