"""Layout of a public checkpoint: names of the tensors, weights of the original network, and its representation."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tests.encoders.layouts import shapes_of, weights

Forward = Callable[[Tensor], Tensor]
State = dict[str, Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """Content of a file, and the original networks for standardised pixels (B, 3, H, W)."""

    content: Any
    backbone: Forward | None = None
    projector: Forward | None = None


def save_with_torch(content: Any, folder: Path) -> str:
    """Write ``content`` with ``torch.save``, and return the target of the encoder reference."""
    path = folder / "checkpoint.pth"
    torch.save(content, path)
    return str(path)


@dataclass(frozen=True)
class Case:
    """Layout of a public checkpoint.

    Attributes:
        name: identifier of the test.
        project: project that writes the layout; first column of the table.
        tensors: names of the tensors, as Markdown; second column of the table.
        make: returns a small checkpoint with this layout.
        backbone: description of ``h`` at the backbone level.
        projector: description of ``h`` at the projector level; empty if the encoder has no such level.
        options: options that the reference needs, such as ``heads=12``.
        refused: words of the error without ``options``; empty if the file opens without options.
        scaling: mean and standard deviation of pixels in [0, 1], as inferred from the file.
        size: size of the input, for networks that take any size; None uses the inferred size.
        save: writes the content into a folder and returns the target.
    """

    name: str
    project: str
    tensors: str
    make: Callable[[], Checkpoint]
    backbone: str = ""
    projector: str = ""
    options: str = ""
    refused: tuple[str, ...] = ()
    scaling: tuple[tuple[float, float, float], tuple[float, float, float]] = (
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    )
    size: int | None = None
    save: Callable[[Any, Path], str] = save_with_torch


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Load random weights into ``module``, and set evaluation mode."""
    module.load_state_dict(weights(shapes_of(module), seed), assign=True)
    return module.eval().requires_grad_(False)


def prefixed(prefix: str, module: nn.Module | State) -> State:
    """Return the state dict of ``module`` with ``prefix`` before every name."""
    state = module.state_dict() if isinstance(module, nn.Module) else module
    return {f"{prefix}{name}": value for name, value in state.items()}


def then(*modules: Callable[[Tensor], Tensor]) -> Forward:
    """Return the composition of ``modules``, the first applied first."""

    def forward(x: Tensor) -> Tensor:
        for module in modules:
            x = module(x)
        return x

    return forward
