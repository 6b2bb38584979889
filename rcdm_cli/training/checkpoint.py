"""Where training stands, as one safetensors file: tensors by group, and the recipe in the metadata."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.optim import Optimizer

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import read_metadata, read_tensors, write_tensors

KIND = "checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """A training run at one step.

    Attributes:
        step: optimizer steps done.
        recipe: the recipe and what else must be the same to go on, as JSON-able values.
        tensors: named ``group/name``.
        description: one line for people.
    """

    step: int
    recipe: dict[str, object]
    tensors: dict[str, Tensor]
    description: str = ""

    def group(self, name: str) -> dict[str, Tensor]:
        """The tensors of one group, by their names inside it."""
        prefix = f"{name}/"
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}


def grouped(**groups: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The reverse of ``Checkpoint.group``."""
    return {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write it whole or not at all; the one before stays until then."""
    metadata = {
        "kind": KIND,
        "step": str(checkpoint.step),
        "recipe": json.dumps(checkpoint.recipe),
        "description": checkpoint.description,
    }
    write_tensors(path, checkpoint.tensors, metadata)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU.

    Raises:
        InputError: not a checkpoint.
    """
    metadata = read_metadata(path)
    if metadata.get("kind") != KIND:
        raise InputError(f"{path} is not a checkpoint of rcdm (kind {metadata.get('kind')}).")
    step, recipe, description = int(metadata["step"]), json.loads(metadata["recipe"]), metadata.get("description", "")
    return Checkpoint(step, recipe, read_tensors(path), description)


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """The optimizer's state as ``<parameter index>.<name>``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value) for index, slots in state.items() for name, value in slots.items()
    }


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """The reverse of ``optimizer_tensors``."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            # Files have one order of dimensions in memory, and parameters may have another (channels last).
            tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
