"""Calibration data of 8-bit graphs: inputs of the denoiser during sampling."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from rcdm_cli.backends.graph import Precision
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.data.cropped import load_cropped
from rcdm_cli.data.dataset import open_dataset
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.diffusion.noise import sample_seed

CALIBRATION_IMAGES = 32

CHECK_IMAGES = 100
"""Images for the comparison of samples, one sample each at every representation."""

MIN_CHECK_IMAGES = 50
"""With fewer images, the result of the comparison is mostly noise."""

STEPS = 25
"""Sampling steps of the calibration: more than usual, to cover more timesteps."""


@dataclass(frozen=True)
class CalibrationImages:
    """Images for 8-bit graphs, uint8 (H, W, 3) each.

    Attributes:
        calibration: images for the calibration, by name.
        check: other images, for the comparison of samples, by name.
        skipped: images that could not be read, with the reason.
    """

    calibration: dict[str, Pixels]
    check: dict[str, Pixels]
    skipped: list[tuple[str, str]]


def read_calibration_images(
    path: Path | None, split: str | None, precisions: Sequence[Precision], size: int
) -> CalibrationImages:
    """Read images and split them, evenly spread, into calibration images and others.

    Args:
        path: folder or tar of images.
        split: sub-folder of ``path``.
        precisions: precisions of the graphs, for error messages.
        size: height and width of the centre crops.

    Raises:
        InputError: ``path`` is None, does not exist, or has too few images.
    """
    precision = " and ".join(precisions)
    if path is None:
        raise InputError(f"The precision {precision} needs images: set `calibration` to a folder or a tar of images.")
    source = open_dataset(path, split).spread(CALIBRATION_IMAGES + CHECK_IMAGES)
    needed = CALIBRATION_IMAGES + MIN_CHECK_IMAGES
    if len(source) < needed:
        raise InputError(
            f"{path} has {len(source)} images; {precision} needs {needed} or more: {CALIBRATION_IMAGES} for "
            "calibration, the others to check the quality of samples."
        )
    cropped = load_cropped(source, size)
    images = list(zip(cropped.keys, cropped.images, strict=True))
    chosen = {index * len(images) // CALIBRATION_IMAGES for index in range(CALIBRATION_IMAGES)}
    return CalibrationImages(
        {key: image for index, (key, image) in enumerate(images) if index in chosen},
        {key: image for index, (key, image) in enumerate(images) if index not in chosen},
        list(cropped.skipped),
    )


@torch.no_grad()
def calibrate(
    bundle: Bundle,
    images: Mapping[str, Pixels],
    *,
    steps: int = STEPS,
    batch: int = 16,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> TensorDataset:
    """Generate one sample per image and record every input of the denoiser.

    Image i is sampled at representation i of the bundle, modulo the number of representations. If there are fewer
    images than representations, images are repeated. Sampler and guidance are the bundle's defaults; with guidance,
    the denoiser is also called without a representation at each timestep.

    Args:
        bundle: bundle on the CPU.
        images: images by name, uint8 (H, W, 3) each, at least 1.
        steps: sampling steps over all timesteps. A student is sampled with its own steps.
        batch: samples generated at a time.
        on_progress: called with (finished samples, total samples).

    Returns:
        Noisy samples, float32 (N, 3, size, size), and modulations, float32 (N, M), in the order of the calls.
    """
    projections = bundle.manifest.conditioning.projections
    conds, names = [], []
    for index, (name, image) in zip(range(max(len(images), len(projections))), cycle(images.items()), strict=False):
        projection = projections[index % len(projections)]
        names.append(name)
        h = bundle.encode([image], method=projection.method, level=projection.level)
        conds.append(bundle.condition(h, method=projection.method, level=projection.level))
    cond = torch.cat(conds)
    inputs: list[tuple[Tensor, Tensor]] = []

    def recorded(x: Tensor, modulations: Tensor) -> Tensor:
        inputs.append((x.contiguous().clone(), modulations.clone()))
        return bundle.engine(x, modulations)

    count = None if bundle.manifest.student else min(steps, len(bundle.schedule))
    loop = bundle.loop(bundle.settings(steps=count), recorded)
    for start in range(0, len(cond), batch):
        part = cond[start : start + batch]
        loop.samples(part, [sample_seed(0, names[start + index], 0) for index in range(len(part))])
        on_progress(start + len(part), len(cond))
    return TensorDataset(*(torch.cat(parts) for parts in zip(*inputs, strict=True)))
