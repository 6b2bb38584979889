"""A head read off its tensors: linear and batch norm layers in order; activations are what shapes cannot tell."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from rcdm_cli.core.errors import InputError
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


State = Mapping[str, Tensor]
Activation = Literal["relu", "gelu", "tanh"]


@dataclass(frozen=True)
class Chain:
    """A head's layers, without activations, and its tensors under the names of ``build_head``, less the positions.

    Attributes:
        layers: in order.
        width: of the input.
        follows: for each layer but the last, whether an activation stands after it.
        linears: weight and bias of each layer.
        norms: tensors of each layer's batch norm.
    """

    layers: tuple[HeadLayer, ...]
    width: int
    follows: tuple[bool, ...]
    linears: tuple[State, ...]
    norms: tuple[State, ...]

    def activated(self, activation: Activation) -> tuple[HeadLayer, ...]:
        """The layers with ``activation`` wherever one stands."""
        return tuple(
            layer.model_copy(update={"activation": activation}) if follows else layer
            for layer, follows in zip(self.layers, (*self.follows, False), strict=True)
        )

    def fits(self, layers: Sequence[HeadLayer]) -> bool:
        """Whether ``layers`` differ from these in activations only."""
        return self.layers == tuple(layer.model_copy(update={"activation": "none"}) for layer in layers)

    def tensors(self, layers: Sequence[HeadLayer]) -> dict[str, Tensor]:
        """The state dict of ``build_head`` for ``layers``, which are these with activations."""
        state: dict[str, Tensor] = {}
        place = 0
        for layer, linear, norm in zip(layers, self.linears, self.norms, strict=True):
            state |= {f"{place}.{name}": value for name, value in linear.items()}
            state |= {f"{place + 1}.{name}": value for name, value in norm.items()}
            place += 1 + bool(norm) + (layer.activation != "none")
        return state


def read_chain(group: State, what: str) -> Chain:
    """Read a head.

    Modules stand in the order of the numbers in their names, a linear before a batch norm of the same number. In one
    ``nn.Sequential`` a number left out between two layers is an activation; otherwise one stands after each layer but
    the last.

    Args:
        group: the head's tensors, without the prefix that they share.
        what: the head and its file, for errors.

    Raises:
        InputError: it is no chain of linear and batch norm layers that fit together.
    """
    modules: dict[str, dict[str, Tensor]] = {}
    for name, value in group.items():
        path, _, kind = name.rpartition(".")
        modules.setdefault(path, {})[kind] = value
    # Sorting is stable: modules without numbers stay in the file's order.
    ordered = sorted(modules, key=lambda path: ([int(n) for n in re.findall(r"\d+", path)], not _linear(modules[path])))
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
                    f"{what} does not fit together: {path}.weight takes {weight.shape[1]} values, but the layer before "
                    f"it gives {layers[-1].width}."
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
            raise InputError(f"{what} is not a chain of linear and batch norm layers: what {names} is cannot be told.")
    if not layers:
        raise InputError(f"{what} is empty.")
    follows = tuple(_activation_between(end, start) for end, start in zip(last, first[1:], strict=False))
    return Chain(tuple(layers), linears[0]["weight"].shape[1], follows, tuple(linears), tuple(norms))


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
