"""State dicts that other programs wrote: read as data, whatever the file holds.

A ``.pt`` file is a pickle, and a pickle can name any function to be called. Here only tensors and plain containers are
built; a few harmless classes that training scripts leave beside the weights become empty stand-ins.
"""

import re
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import read_tensors

if TYPE_CHECKING:
    from torch import Tensor

NESTS = (
    "state_dict",  # Lightning, solo-learn, MoCo, timm
    "model_state_dict",
    "classy_state_dict",  # VISSL: classy_state_dict → base_model → model → {trunk, heads}
    "base_model",
    "teacher",  # DINO, before the student
    "model",  # VICReg, torchvision's scripts
    "module",
    "network",
    "net",
)
"""Under which key a checkpoint keeps its weights; the first that is there is opened, again and again."""

PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DistributedDataParallel, torch.compile and Lightning put before names; taken off where all names have it."""

_STAND_INS = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    "numpy.dtype",
    "numpy.ndarray",
    "numpy.core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",
    "numpy._core.multiarray._reconstruct",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
)
"""Classes and functions that are never called: an empty object takes their place."""

_ATTRIBUTE_DICTS = (
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
)
"""Subclasses of dict that are read as dict."""


_LONGEST_NAME = 300  # names stand in messages


class _StandIn:
    """Takes the place of an object that is of no use here; keeps nothing of what it is given."""

    def __new__(cls, *args: object) -> "_StandIn":
        return super().__new__(cls)

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def load_state_dict_file(path: Path) -> "dict[str, Tensor]":
    """The state dict in a ``.safetensors`` file or in a file of ``torch.save``, on the CPU.

    Nothing in the file is executed and nothing is unpacked. Tensors of a zip-format file are mapped, not read: memory
    is taken when they are used. ``NESTS`` are opened; a checkpoint of several state dicts and nothing else (such as
    ``trunk`` and ``heads``) gives their names joined by a dot; what is not a tensor is left out; ``PREFIXES`` are taken
    off.

    Raises:
        InputError: no such file; not whole; not a state dict; it asks to call or build what is none of ours; or its
            tensors claim more bytes than it has.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file.")
    tensors = read_tensors(path) if path.suffix == ".safetensors" else _read_pickled(path)
    if not all(len(name) <= _LONGEST_NAME and name.isprintable() for name in tensors):
        raise InputError(f"{path} has tensors with names of more than {_LONGEST_NAME} or of unprintable characters.")
    return _without_prefixes(tensors)


def _read_pickled(path: Path) -> "dict[str, Tensor]":
    try:
        zipped = zipfile.is_zipfile(path)
        tar = not zipped and tarfile.is_tarfile(path)
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    if tar:
        raise InputError(f"{path} is a tar, not a state dict, and nothing is unpacked here. Give the file inside it.")
    if zipped:
        _check_members(path, size)
    return _checked(_state(_load(path, zipped), path), path, size)


def _check_members(path: Path, size: int) -> None:
    """``torch.save`` stores its members as they are, in one folder: what differs is another kind of zip."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    # zipfile answers an archive of a zip version above 6.3 with NotImplementedError.
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path} is not a whole file of torch.save ({error}).") from error
    for member in members:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts:
            raise InputError(f"{path} holds a member that leads out of it ({member.filename!r}); it is not opened.")
    if any(member.compress_type != zipfile.ZIP_STORED for member in members) or (
        sum(max(member.file_size, member.compress_size) for member in members) > size
    ):
        raise InputError(
            f"{path} is a zip whose members are compressed or claim more bytes than it has; torch.save writes neither. "
            "It is not opened."
        )
    names = {PurePosixPath(member.filename).name for member in members}
    if "constants.pkl" in names:
        raise InputError(f"{path} is a TorchScript program, not a state dict. Save its state_dict() and give that.")
    if "data.pkl" not in names:
        raise InputError(f"{path} is a zip, but not a file of torch.save: it holds no data.pkl.")


def _load(path: Path, zipped: bool) -> Any:
    from torch import load
    from torch.serialization import safe_globals

    allowed: list[Any] = [(_StandIn, name) for name in _STAND_INS] + [(dict, name) for name in _ATTRIBUTE_DICTS]
    try:
        with safe_globals(allowed):
            return load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # damaged pickles end in errors of every kind
        raise InputError(_why(path, error)) from error


def _why(path: Path, error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"{path} claims more memory than there is. Its sizes are wrong, or this machine is too small for it."
    if asked := re.search(r"GLOBAL ([\w.<>]{1,200})", str(error)):
        return (
            f"{path} asks to run or build {asked[1]!r}, which is none of the parts of a state dict; nothing was run. "
            "Where you trust it, save its state_dict() alone, best as .safetensors."
        )
    return f"{path} is not a whole file of torch.save (or not one at all). Copy or download it again."


def _state(content: Any, path: Path) -> "dict[str, Tensor]":
    """The tensors by name, out of whatever nest they lie in."""
    here = content
    for _ in NESTS:  # as deep as can be; a nest that holds itself ends too
        if isinstance(here, Mapping):
            here = next((here[key] for key in NESTS if isinstance(here.get(key), Mapping)), here)
    if isinstance(here, Mapping):
        if found := _tensors(here):
            return found
        parts = {str(key): _tensors(part) for key, part in here.items() if isinstance(part, Mapping)}
        if found := {f"{key}.{name}": tensor for key, part in parts.items() for name, tensor in part.items()}:
            return found
    raise InputError(f"{path} holds no state dict: no tensors by name, at its top or under {', '.join(NESTS)}.")


def _tensors(values: Mapping[Any, Any]) -> "dict[str, Tensor]":
    from torch import Tensor

    return {name: tensor for name, tensor in values.items() if isinstance(name, str) and isinstance(tensor, Tensor)}


def _checked(state: "Mapping[str, Tensor]", path: Path, size: int) -> "dict[str, Tensor]":
    """Plain tensors, which together take no more than the file can hold (shared weights stand in it once)."""
    import torch

    # A pickle may hang attributes on a tensor, under the names of its methods too; what this gives has none.
    plain = {name: torch.Tensor.detach(tensor) for name, tensor in state.items()}
    for name, tensor in plain.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_nested:
            raise InputError(f"The tensor {name!r} in {path} is not a dense one on the CPU; save it as that.")
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in plain.values())
    if claimed > 2 * size:
        raise InputError(f"The tensors in {path} claim {claimed} bytes, but the file has {size}. It is not opened.")
    return plain


def _without_prefixes(state: "dict[str, Tensor]") -> "dict[str, Tensor]":
    while prefix := next((each for each in PREFIXES if state and all(name.startswith(each) for name in state)), ""):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state
