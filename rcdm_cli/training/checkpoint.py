"""Checkpoints: one safetensors file with tensors by group, and the recipe in its metadata."""

import json
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Optimizer

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import read_metadata, read_tensors, write_tensors
from rcdm_cli.core.spec import JsonObject, Spec, Text

KIND = "checkpoint"


@dataclass(frozen=True)
class Checkpoint:
    """State of a training run at one step.

    Attributes:
        step: number of optimizer steps done.
        resume_key: recipe and data that a resumed run must match, as JSON-able values.
        tensors: state by name, ``group/name``.
        description: one line for the user.
    """

    step: int
    resume_key: dict[str, object]
    tensors: dict[str, Tensor]
    description: str = ""

    def group(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of one group by their names inside the group."""
        prefix = f"{name}/"
        return {key.removeprefix(prefix): value for key, value in self.tensors.items() if key.startswith(prefix)}


class _Metadata(Spec):
    kind: str
    step: int = Field(ge=0, le=10**12)
    resume_key: JsonObject
    description: Text = ""


def grouped(**groups: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors of all groups by their names in a checkpoint, ``group/name``."""
    return {f"{group}/{name}": tensor for group, tensors in groups.items() for name, tensor in tensors.items()}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically. The previous file is replaced when the new file is complete."""
    metadata = {
        "kind": KIND,
        "step": str(checkpoint.step),
        "resume_key": json.dumps(checkpoint.resume_key),
        "description": checkpoint.description,
    }
    write_tensors(path, checkpoint.tensors, metadata)


class CheckpointWriter:
    """Writer of checkpoints in a background thread.

    ``save`` returns when the tensors have been copied to memory, so that training continues while the file is written.
    The previous file is replaced when the new file is complete. The context manager waits for the last file.

    Args:
        path: file of the checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pool = ThreadPoolExecutor(1)
        self._written: Future[None] | None = None

    def save(self, checkpoint: Checkpoint) -> None:
        """Copy the tensors to memory and start to write the file, after the previous file is complete.

        Raises:
            RcdmError: the previous file could not be written.
        """
        self.wait()
        self._written = self._pool.submit(save_checkpoint, self.path, replace(checkpoint, tensors=_copied(checkpoint)))

    def wait(self) -> None:
        """Wait until the file is complete.

        Raises:
            RcdmError: the file could not be written.
        """
        if self._written is not None:
            self._written.result()
            self._written = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for the last file. After an error, the error of the file is not raised."""
        self._pool.shutdown()
        if kind is None:
            self.wait()


def _copied(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return copies in memory. Copies from a CUDA device run together, through pinned memory."""
    copies = {}
    for name, tensor in checkpoint.tensors.items():
        copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
        copies[name] = copy.copy_(tensor.detach(), non_blocking=True)
    for device in {tensor.device for tensor in checkpoint.tensors.values() if tensor.is_cuda}:
        torch.cuda.synchronize(device)
    return copies


def load_checkpoint(path: Path) -> Checkpoint:
    """Load a checkpoint onto the CPU.

    Raises:
        InputError: the file is not a checkpoint.
    """
    metadata = read_metadata(path)
    if metadata.get("kind") != KIND:
        raise InputError(f"{path} is not a checkpoint of rcdm (kind {metadata.get('kind')}).")
    try:
        values = {**metadata, "resume_key": json.loads(metadata.get("resume_key", ""))}
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is a checkpoint without a valid resume_key ({error!r}).") from error
    found = _Metadata.parse(values, str(path))
    return Checkpoint(found.step, found.resume_key, read_tensors(path), found.description)


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the optimizer's state as ``<parameter index>.<name>``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{index}.{name}": torch.as_tensor(value) for index, slots in state.items() for name, value in slots.items()
    }


def restore_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the state that ``optimizer_tensors`` returned."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        index, _, name = key.partition(".")
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            # Files store contiguous tensors. The state needs the memory format of its parameter (channels last).
            tensor = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)
        state.setdefault(int(index), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
