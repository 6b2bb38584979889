"""Outputs of an encoder's layers, pooled to representations."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

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
    """
    if not layer.axes:
        return output.clone()
    if layer.pool == "token":
        return output[:, 0].clone()
    values = output[:, layer.prefix_tokens :] if layer.prefix_tokens else output
    return values.amax(layer.axes) if layer.pool == "max" else values.mean(layer.axes)
