"""Fair timing: all contenders in turns, the device's own speed measured between them."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from rcdm_cli.diffusion.spec import DenoiserSpec
from rcdm_cli.diffusion.unet import UNet


@dataclass(frozen=True)
class Times:
    """What one contender took, in seconds a run."""

    median: float
    p10: float
    p90: float
    runs: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Times":
        """Summarise single runs."""
        p10, median, p90 = np.percentile(seconds, (10, 50, 90)).tolist()
        return cls(median, p10, p90, len(seconds))


def in_turns(
    contenders: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    *,
    warm_up: bool = True,
    on_round: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Times]:
    """Run every contender once a round, so that a machine that slows down slows all of them.

    Args:
        contenders: by name; what each queues on the device is waited for.
        rounds: that count.
        device: that they run on.
        warm_up: one more round goes before and does not count.
        on_round: called with (rounds done, rounds).
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(1 - warm_up, rounds + 1):
        for name, run in contenders.items():
            began = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if turn:
                seconds[name].append(time.perf_counter() - began)
        on_round(turn, rounds)
    return {name: Times.of(values) for name, values in seconds.items()}


def matrix_product(device: torch.device, dtype: torch.dtype) -> tuple[Callable[[], Tensor], int]:
    """A product of two square matrices as a contender, and its multiply-accumulate operations.

    Its rate is what this report calls the device's peak: the most that its own library reaches on the easiest work.
    Convolutions may go beyond it on a CPU, whose matrix library does not use all of it at float32.
    """
    width = 8192 if device.type == "cuda" else 2048
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(width, width, generator=generator).to(device, dtype) for _ in range(2))
    return lambda: left @ right, width**3


def macs_of_call(spec: DenoiserSpec) -> int:
    """Multiply-accumulate operations of convolutions and matrix products in one call for one sample."""
    with torch.device("meta"):
        unet = UNet(spec).eval()
        inputs = torch.zeros(1, 3, spec.size, spec.size), torch.zeros(1), torch.zeros(1, spec.cond_width)
    return macs(lambda: unet(*inputs))


def macs(call: Callable[[], object]) -> int:
    """Multiply-accumulate operations of what ``call`` does with PyTorch, as PyTorch counts them."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops()) // 2
