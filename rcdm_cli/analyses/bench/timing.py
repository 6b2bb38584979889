"""Interleaved timing of several functions."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Times:
    """Percentiles of the times of one contender."""

    median_seconds: float
    p10_seconds: float
    p90_seconds: float
    runs: int

    @classmethod
    def from_runs(cls, seconds: Sequence[float]) -> "Times":
        """Compute percentiles of single runs."""
        p10, median, p90 = np.percentile(seconds, (10, 50, 90)).tolist()
        return cls(median, p10, p90, len(seconds))


def time_in_turns(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    *,
    warm_up: bool = True,
    on_round: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Times]:
    """Run every contender once per round, so that a slower machine affects all contenders.

    Args:
        contenders: functions by name. Timing includes synchronising the device.
        rounds: number of timed rounds.
        device: device that the functions use.
        warm_up: whether to run one round before the timed rounds.
        on_round: called with (finished rounds, total rounds).
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(1 - warm_up, rounds + 1):
        for name, run in contenders.items():
            start = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            elif device.type == "mps":
                torch.mps.synchronize()
            if number:
                seconds[name].append(time.perf_counter() - start)
        on_round(number, rounds)
    return {name: Times.from_runs(values) for name, values in seconds.items()}


def matrix_product(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], Tensor], int]:
    """Return a product of two square matrices as a contender, and its number of multiply-accumulates.

    The rate of this product is reported as the peak of the device. On a CPU, convolutions can exceed the rate, because
    the matrix library does not use the full CPU at float32.
    """
    width = 8192 if device.type == "cuda" else 2048
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(width, width, generator=generator).to(device, dtype) for _ in range(2))
    return lambda: left @ right, width**3
