"""What the denoiser sees while it samples, which is what graphs in 8 bits take their ranges from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.diffusion.inference import Engine
from rcdm_cli.diffusion.noise import sample_seed
from rcdm_cli.diffusion.sampling import Loop, Settings

Pixels = NDArray[np.uint8]

NUM_IMAGES = 32
STEPS = 25
"""More than samples mostly take, so that the timesteps between theirs are seen too."""


@dataclass(frozen=True)
class Calibration:
    """Inputs of the denoiser's loop form, in the order in which it was called.

    Attributes:
        x: noisy samples, float32 (N, 3, size, size).
        modulations: float32 (N, M).
    """

    x: Tensor
    modulations: Tensor

    def __len__(self) -> int:
        return len(self.x)


@torch.no_grad()
def calibrate(
    bundle: Bundle,
    images: Sequence[Pixels],
    *,
    steps: int = STEPS,
    batch: int = 16,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Calibration:
    """Sample a sample of each image, from noise to the last step, and keep every input of the denoiser.

    Image i is sampled for representation i of the bundle, and so on in turns; where there are fewer images than
    representations, they are used again. The sampler and the guidance are the bundle's own: with guidance, the denoiser
    is called without a representation at each timestep too.

    Args:
        bundle: on the CPU.
        images: uint8 (H, W, 3) each, 1 or more.
        steps: of the sampler, spread over all timesteps.
        batch: samples made at a time.
        on_progress: called with (samples done, samples).
    """
    projections = bundle.manifest.conditioning.projections
    conds = []
    for index in range(max(len(images), len(projections))):
        projection = projections[index % len(projections)]
        h = bundle.encode([images[index % len(images)]], method=projection.method, level=projection.level)
        conds.append(bundle.condition(h, method=projection.method, level=projection.level))
    cond = torch.cat(conds)
    watched, own = _Watched(bundle.engine), bundle.settings()
    # A network may have fewer timesteps.
    settings = Settings(own.sampler, min(steps, len(bundle.schedule)), own.guidance)
    loop = Loop(watched, bundle.outside.denoiser, bundle.schedule, settings, bundle.device)
    for start in range(0, len(cond), batch):
        part = cond[start : start + batch]
        loop.samples(part, [sample_seed(0, start + index, 0) for index in range(len(part))])
        on_progress(start + len(part), len(cond))
    x, modulations = (torch.cat(parts) for parts in zip(*watched.seen, strict=True))
    return Calibration(x, modulations)


class _Watched:
    """An engine that remembers what it was given."""

    def __init__(self, engine: Engine) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []
        self.max_batch = engine.max_batch
        self._engine = engine

    def __call__(self, x: Tensor, modulations: Tensor) -> Tensor:
        """See ``Engine``."""
        self.seen.append((x.contiguous().clone(), modulations.clone()))
        return self._engine(x, modulations)

    def close(self) -> None:
        """See ``Engine``."""
        self._engine.close()
