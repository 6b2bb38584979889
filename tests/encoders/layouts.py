"""State dicts with the names and shapes of published checkpoints, and random values of a suitable scale."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import resnet50


def shapes_of(module: nn.Module) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in module.state_dict().items()}


def resnet50_shapes() -> dict[str, list[int]]:
    with torch.device("meta"):
        return {name: shape for name, shape in shapes_of(resnet50()).items() if not name.startswith("fc.")}


def linear(name: str, out: int, inputs: int, *, bias: bool = True) -> dict[str, list[int]]:
    return {f"{name}.weight": [out, inputs], **({f"{name}.bias": [out]} if bias else {})}


def batch_norm(name: str, width: int) -> dict[str, list[int]]:
    values = {f"{name}.{entry}": [width] for entry in ("weight", "bias", "running_mean", "running_var")}
    return values | {f"{name}.num_batches_tracked": []}


def _dino() -> dict[str, list[int]]:
    return {
        **{f"module.backbone.{name}": shape for name, shape in resnet50_shapes().items()},
        **linear("module.head.mlp.0", 4096, 2048),
        **batch_norm("module.head.mlp.1", 4096),
        **linear("module.head.mlp.3", 256, 4096),
        "module.head.last_layer.weight": [60000, 256],
    }


def _vicreg() -> dict[str, list[int]]:
    return {
        **{f"module.backbone.{name}": shape for name, shape in resnet50_shapes().items()},
        **linear("module.projector.0", 8192, 2048),
        **batch_norm("module.projector.1", 8192),
        **linear("module.projector.3", 8192, 8192),
        **batch_norm("module.projector.4", 8192),
        **linear("module.projector.6", 8192, 8192, bias=False),
    }


def _vissl(heads: dict[str, list[int]]) -> dict[str, list[int]]:
    trunk = {f"trunk/_feature_blocks.{name}": shape for name, shape in resnet50_shapes().items()}
    return {**trunk, **{f"heads/{name}": shape for name, shape in heads.items()}}


def _barlow() -> dict[str, list[int]]:
    return _vissl(
        {
            **linear("0.clf.0", 8192, 2048, bias=False),
            **batch_norm("0.clf.1", 8192),
            **linear("1.clf.0", 8192, 8192, bias=False),
            **batch_norm("1.clf.1", 8192),
            **linear("2.clf.0", 8192, 8192, bias=False),
        }
    )


def _simclr() -> dict[str, list[int]]:
    return _vissl({**linear("0.clf.0", 2048, 2048), **linear("1.clf.0", 128, 2048)})


PUBLISHED = {"dino": _dino, "vicreg": _vicreg, "barlow": _barlow, "simclr": _simclr}
"""Names and shapes by method. For VISSL, a slash separates the state dict from the name."""


def weights(shapes: dict[str, list[int]], seed: int = 0) -> dict[str, Tensor]:
    """Return random tensors with which activations keep their scale."""
    draw = torch.Generator().manual_seed(seed)
    return {name: _tensor(name, shape, draw) for name, shape in shapes.items()}


def _tensor(name: str, shape: list[int], draw: torch.Generator) -> Tensor:
    if not shape:
        return torch.tensor(1)
    if len(shape) > 1:
        return torch.randn(shape, generator=draw).mul_(math.sqrt(2 / math.prod(shape[1:])))
    if name.endswith(("running_var", "weight")):
        return torch.rand(shape, generator=draw) * 0.8 + 0.4
    return torch.randn(shape, generator=draw) * 0.2


def checkpoint(method: str, state: dict[str, Tensor]) -> dict[str, object]:
    """Return the nested content of the published file."""
    if method == "dino":
        student = {"module.head.last_layer.weight": torch.zeros(2, 2)}
        return {"student": student, "teacher": state, "optimizer": {"state": {}}, "epoch": 800}
    if method == "vicreg":
        return {"model": state, "epoch": 1000}
    parts: dict[str, dict[str, Tensor]] = {"trunk": {}, "heads": {}}
    for name, value in state.items():
        part, _, rest = name.partition("/")
        parts[part][rest] = value
    return {"classy_state_dict": {"base_model": {"model": parts, "meters": {}}}, "phase_idx": 999}


@torch.no_grad()
def reference_trunk(state: dict[str, Tensor], prefix: str, x: Tensor) -> Tensor:
    """Compute the pooled output of torchvision's ResNet-50."""
    with torch.device("meta"):
        trunk = resnet50()
    trunk.fc = nn.Identity()
    own = {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}
    trunk.load_state_dict(own, assign=True)
    return trunk.eval()(x)


@torch.no_grad()
def reference_head(method: str, state: dict[str, Tensor], h: Tensor) -> Tensor:
    """Compute the published head of ``method``."""

    def full(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state.get(f"{name}.bias"))

    def norm(name: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (
            state[f"{name}.{entry}"] for entry in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    if method == "dino":
        mlp = "module.head.mlp"
        return full(f"{mlp}.3", F.gelu(norm(f"{mlp}.1", full(f"{mlp}.0", h))))
    if method == "vicreg":
        head = "module.projector"
        h = norm(f"{head}.1", full(f"{head}.0", h)).relu()
        return full(f"{head}.6", norm(f"{head}.4", full(f"{head}.3", h)).relu())
    if method == "barlow":
        h = norm("heads/0.clf.1", full("heads/0.clf.0", h)).relu()
        return full("heads/2.clf.0", norm("heads/1.clf.1", full("heads/1.clf.0", h)).relu())
    return full("heads/1.clf.0", full("heads/0.clf.0", h).relu())
