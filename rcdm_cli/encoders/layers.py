"""Outputs of an encoder's layers, pooled to representations."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.spec import LayerSpec


@contextmanager
def pooled_outputs(modules: Mapping[LayerSpec, nn.Module]) -> Iterator[dict[str, Tensor]]:
    """Collect the pooled outputs (B, D) of modules during a forward pass, by name of the layer.

    Args:
        modules: module of each layer.
    """
    found: dict[str, Tensor] = {}

    def store(layer: LayerSpec, module: nn.Module, inputs: Any, output: Tensor) -> None:
        found[layer.name] = pool(layer, output)

    hooks = [module.register_forward_hook(partial(store, layer)) for layer, module in modules.items()]
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def pool(layer: LayerSpec, output: Tensor) -> Tensor:
    """Pool the output of a layer to (B, D). The result shares no memory with the output.

    A later layer may change the output in place, such as a ReLU with ``inplace=True``.

    Raises:
        InputError: the output does not have the axes and the width of the layer.
    """
    axes, pooled = layer.axes, [output.shape[axis] for axis in layer.axes if axis < output.ndim]
    widths = [size for axis, size in enumerate(output.shape) if axis and axis not in axes]
    if widths != [layer.width] or len(pooled) < len(axes) or min(pooled, default=1) <= layer.prefix_tokens * bool(axes):
        raise InputError(
            f"The layer {layer.name!r} returns {tuple(output.shape)}, which does not fit the spec of the encoder: width"
            f" {layer.width}, pooled axes {axes}, {layer.prefix_tokens} prefix tokens."
        )
    if not axes:
        return output.clone()
    if layer.pool == "token":
        return output.select(axes[0], 0).clone()
    values = output.narrow(axes[0], layer.prefix_tokens, output.shape[axes[0]] - layer.prefix_tokens)
    return values.amax(axes) if layer.pool == "max" else values.mean(axes)
