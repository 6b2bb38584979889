"""Stages of progressive distillation (Salimans and Ho 2022, arXiv:2202.00512): steps, timesteps and targets."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.schedule import Schedule, spacing

PredictX0 = Callable[[Tensor, Tensor], Tensor]
"""``(x_t (B, C, H, W), t (B,)) → x0 (B, C, H, W)``."""


class Stage(NamedTuple):
    """One stage: a step of the student equals several DDIM steps of its teacher.

    Attributes:
        steps: steps of the student.
        substeps: steps of the teacher per step of the student.
    """

    steps: int
    substeps: int


def stages_to(steps: int, start: int, substeps: int) -> tuple[Stage, ...]:
    """Return the stages from ``start`` steps to ``steps`` steps, each with half the steps of the previous stage.

    Args:
        steps: steps of the last student.
        start: steps of the first student, whose teacher is the trained model.
        substeps: steps of the trained model per step of the first student.

    Raises:
        InputError: ``start`` cannot be halved to ``steps``.
    """
    counts = [start]
    while counts[-1] % 2 == 0:
        counts.append(counts[-1] // 2)
    if steps not in counts:
        raise InputError(
            f"`steps` must be one of {', '.join(map(str, counts))}, the halvings of start={start} in the recipe; given "
            f"{steps}."
        )
    return tuple(Stage(count, 2 if number else substeps) for number, count in enumerate(counts) if count >= steps)


class StageTimesteps:
    """Timesteps of one stage, which samplers with the spacing ``angle`` visit.

    The teacher visits ``steps * substeps`` timesteps. Step i of the student, from 0 at the lowest noise, starts at the
    ``substeps * (i + 1)``-th of these timesteps and ends at the ``substeps * i``-th, or at x0.

    Args:
        schedule: noise schedule.
        stage: stage.
        device: device of the training.

    Raises:
        InputError: the schedule has too few timesteps.
    """

    def __init__(self, schedule: Schedule, stage: Stage, device: torch.device | str = "cpu") -> None:
        steps, substeps = stage
        fine = spacing("angle", schedule, min(steps * substeps, len(schedule)))[::-1]
        if fine[substeps - 1 :: substeps] != spacing("angle", schedule, steps)[::-1]:
            raise InputError(
                f"A schedule with {len(schedule)} timesteps is too short for {steps * substeps} steps of a teacher. "
                "Reduce start or substeps in the recipe."
            )
        self.stage = stage
        index = np.array(fine)
        # The entry 0 is x0.
        self._t = torch.tensor([0, *fine], device=device)
        self._signal, self._noise = (
            torch.tensor([clean, *values[index]], dtype=torch.float32, device=device)
            for clean, values in ((1.0, schedule.signal), (0.0, schedule.noise))
        )

    def timesteps(self, index: Tensor) -> Tensor:
        """Return the timesteps (B,) at which the student's steps ``index`` (B,) start."""
        return self._t[self.stage.substeps * (index + 1)]

    def add_noise(self, x0: Tensor, index: Tensor, noise: Tensor) -> Tensor:
        """Return x_t (B, C, H, W) at the start of the student's steps ``index`` (B,)."""
        signal, std = self._at(self.stage.substeps * (index + 1))
        return signal * x0 + std * noise

    @torch.no_grad()
    def target(self, teacher: PredictX0, x_t: Tensor, index: Tensor) -> Tensor:
        """Return the velocity (B, C, H, W) with which one DDIM step equals the steps of the teacher from ``x_t``.

        One DDIM step from z at noise level (a, s) to (a', s') with a constant x0 gives (s' / s) z + (a' - a s' / s) x0.
        The teacher's result is solved for x0 (arXiv:2202.00512, appendix G), which is a weighted mean of the x0 of the
        teacher's steps.

        Args:
            teacher: prediction of x0, clipped if the samplers clip.
            x_t: inputs (B, C, H, W) from ``add_noise``.
            index: steps of the student, (B,).
        """
        position, x = self.stage.substeps * (index + 1), x_t
        signal, std = self._at(position)
        a, s = signal, std
        for substep in range(1, self.stage.substeps + 1):
            x0 = teacher(x, self._t[position - substep + 1])
            eps = (x - a * x0) / s
            a, s = self._at(position - substep)
            x = a * x0 + s * eps
        ratio = s / std
        x0 = (x - ratio * x_t) / (a - ratio * signal)
        return (signal * x_t - x0) / std

    def _at(self, position: Tensor) -> tuple[Tensor, Tensor]:
        return self._signal[position].view(-1, 1, 1, 1), self._noise[position].view(-1, 1, 1, 1)
