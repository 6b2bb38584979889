"""Projector heads: construction from a spec, and layers from the tensors of a state dict."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.spec import HeadLayer
from rcdm_cli.encoders.state import State, listed

_ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


def build_head(width: int, layers: Sequence[HeadLayer]) -> nn.Sequential:
    """Build a head (B, width) → (B, layers[-1].width).

    The modules form a flat sequence, so that the state dict has the names of published heads (``0.weight``,
    ``1.running_mean``, …).
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


Activation = Literal["relu", "gelu", "tanh"]


@dataclass(frozen=True)
class HeadChain:
    """Layers of a head without activations, and their tensors.

    Attributes:
        layers: layers in order.
        width: width of the input.
        follows: for each layer but the last, whether an activation follows.
        linears: weight and bias of each layer.
        norms: tensors of each layer's batch norm; empty for a layer without norm.
    """

    layers: tuple[HeadLayer, ...]
    width: int
    follows: tuple[bool, ...]
    linears: tuple[State, ...]
    norms: tuple[State, ...]

    def activated(self, activation: Activation) -> tuple[HeadLayer, ...]:
        """Return the layers with ``activation`` at the positions of activations."""
        return tuple(
            layer.model_copy(update={"activation": activation}) if follows else layer
            for layer, follows in zip(self.layers, (*self.follows, False), strict=True)
        )

    def fits(self, layers: Sequence[HeadLayer]) -> bool:
        """Return whether ``layers`` differ from these layers in activations only."""
        return self.layers == tuple(layer.model_copy(update={"activation": "none"}) for layer in layers)

    def tensors(self, layers: Sequence[HeadLayer]) -> dict[str, Tensor]:
        """Return the state dict of ``build_head`` for ``layers``, these layers with activations."""
        state: dict[str, Tensor] = {}
        position = 0
        for layer, linear, norm in zip(layers, self.linears, self.norms, strict=True):
            state |= {f"{position}.{name}": value for name, value in linear.items()}
            state |= {f"{position + 1}.{name}": value for name, value in norm.items()}
            position += 1 + bool(norm) + (layer.activation != "none")
        return state


def read_chain(group: State, what: str) -> HeadChain:
    """Read the layers of a head from its tensors.

    Modules are ordered by the numbers in their names, with a linear layer before a batch norm of the same number. In an
    ``nn.Sequential``, a missing number between two layers is an activation. Otherwise an activation follows each layer
    but the last. Modules without weights before the first layer and an order of modules without numbers are not
    assumed.

    Args:
        group: tensors of the head, without their common prefix.
        what: head and file, for errors.

    Raises:
        InputError: the tensors are not a chain of linear and batch norm layers with matching widths, or do not define
            the order of the layers.
    """
    modules: dict[str, dict[str, Tensor]] = {}
    for name, value in group.items():
        path, _, kind = name.rpartition(".")
        modules.setdefault(path, {})[kind] = value
    ordered = sorted(modules, key=lambda path: (_numbers(path), not _linear(modules[path])))
    if len(modules) > 1 and (unordered := [path for path in modules if not _numbers(path)]):
        raise InputError(f"{what} has modules without numbers, whose order is not known: {listed(unordered)}.")
    *_, number = ordered[0].split(".") if ordered else ("",)
    if number.isdigit() and int(number) > 0:
        raise InputError(
            f"{what} starts with module {number}, so a module without weights precedes its first layer. Save the head "
            "without this module if it changes nothing."
        )
    layers: list[HeadLayer] = []
    linears: list[State] = []
    norms: list[State] = []
    first: list[str] = []
    last: list[str] = []
    for path in ordered:
        tensors = modules[path]
        if _linear(tensors):
            weight = tensors["weight"]
            if layers and weight.shape[1] != layers[-1].width:
                raise InputError(
                    f"{what} is inconsistent: {path}.weight takes {weight.shape[1]} values, but the previous layer "
                    f"returns {layers[-1].width}."
                )
            layers.append(HeadLayer(width=weight.shape[0], bias="bias" in tensors))
            linears.append(tensors)
            norms.append({})
            first.append(path)
            last.append(path)
        elif layers and not norms[-1] and _batch_norm(tensors, layers[-1].width):
            layers[-1] = layers[-1].model_copy(update={"norm": "batch", "affine": "weight" in tensors})
            norms[-1] = tensors
            last[-1] = path
        else:
            names = ", ".join(f"{path}.{kind}".lstrip(".") for kind in tensors)
            raise InputError(f"{what} is not a chain of linear and batch norm layers: {names} is not recognised.")
    if not layers:
        raise InputError(f"{what} is empty.")
    follows = tuple(_activation_between(end, start) for end, start in zip(last, first[1:], strict=False))
    return HeadChain(tuple(layers), linears[0]["weight"].shape[1], follows, tuple(linears), tuple(norms))


def _numbers(path: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", path)]


def _linear(tensors: State) -> bool:
    if "weight" not in tensors or tensors.keys() - {"weight", "bias"}:
        return False
    weight = tensors["weight"]
    return (
        weight.ndim == 2 and weight.numel() > 0 and ("bias" not in tensors or tensors["bias"].shape == weight.shape[:1])
    )


def _batch_norm(tensors: State, width: int) -> bool:
    buffers, count = {"running_mean", "running_var"}, {"num_batches_tracked"}
    return tensors.keys() - count in (buffers, buffers | {"weight", "bias"}) and all(
        value.shape == (() if name in count else (width,)) for name, value in tensors.items()
    )


def _activation_between(end: str, start: str) -> bool:
    (parent, _, one), (other, _, two) = end.rpartition("."), start.rpartition(".")
    if parent == other and one.isdigit() and two.isdigit():
        return int(two) - int(one) > 1
    return True
