"""Projector heads, built from data."""

from collections.abc import Sequence

from torch import nn

from rcdm_cli.encoders.spec import HeadLayer

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


def build_head(width: int, layers: Sequence[HeadLayer]) -> nn.Sequential:
    """A head on ``width``-wide representations: (B, width) → (B, layers[-1].width).

    The modules stand in one flat sequence, so that the state dict reads like the published heads
    (``0.weight``, ``1.running_mean``, …).
    """
    modules: list[nn.Module] = []
    for layer in layers:
        modules.append(nn.Linear(width, layer.width, bias=layer.bias))
        if layer.norm == "batch":
            modules.append(nn.BatchNorm1d(layer.width, affine=layer.affine))
        if layer.activation != "none":
            modules.append(_ACTIVATIONS[layer.activation]())
        width = layer.width
    return nn.Sequential(*modules)
