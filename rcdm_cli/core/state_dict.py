"""Safe loading of state dicts that other programs wrote.

A ``.pt`` file is a pickle, and a pickle can call any function. This loader builds only tensors and plain containers. A
few harmless classes that training scripts save with the weights become empty placeholders.
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

STATE_DICT_KEYS = (
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
"""Keys of nested state dicts in checkpoints, in order of priority. Nested keys are opened repeatedly."""

WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.")
"""Prefixes of DistributedDataParallel, torch.compile and Lightning, removed if all names have the prefix."""

_INNER_WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Modules of torch.compile, FSDP and activation checkpointing inside a network, removed from all names."""

_PLACEHOLDERS = (
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
    # OmegaConf in checkpoints of Lightning and Hydra
    "typing.Any",
    *(f"builtins.{name}" for name in ("bool", "bytes", "dict", "float", "int", "list", "str", "tuple")),
    *(f"omegaconf.{name}" for name in ("dictconfig.DictConfig", "listconfig.ListConfig")),
    *(f"omegaconf.base.{name}" for name in ("ContainerMetadata", "Metadata", "Node", "UnionNode")),
    *(
        f"omegaconf.nodes.{name}Node"
        for name in ("Any", "Boolean", "Bytes", "Enum", "Float", "Integer", "InterpolationResult", "Path", "String")
    ),
)
"""Classes and functions that are replaced by an empty object."""

_ATTRIBUTE_DICTS = (
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "collections.defaultdict",
)
"""Subclasses of dict that are loaded as dict."""


class _PlainDict(dict[Any, Any]):
    """Empty dict that ignores its arguments, such as the function of a ``defaultdict``."""

    def __init__(self, *args: object) -> None:
        super().__init__()


_TRAINING_STATE = re.compile(r"optim|^opt$|scheduler|scaler|^amp$|^callbacks$|^loops$")
"""Keys of training state, which contains no weights of networks."""

_LONGEST_NAME = 300
"""Maximum length of a tensor's name, which error messages quote."""


class _Placeholder:
    """Empty object that ignores its arguments and state."""

    def __new__(cls, *args: object) -> "_Placeholder":
        return super().__new__(cls)

    def __init__(self, *args: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def load_state_dict_file(path: Path, every: bool = False) -> "dict[str, Tensor]":
    """Load the state dict of a ``.safetensors`` file or a ``torch.save`` file, on the CPU.

    Nothing in the file is executed or unpacked. Tensors of a zip-format file are memory-mapped. Nested state dicts
    under ``STATE_DICT_KEYS`` are opened. Several state dicts side by side (such as ``trunk`` and ``heads``) are merged,
    with names joined by a dot. Values that are not tensors are left out. ``WRAPPER_PREFIXES`` and modules of wrappers
    inside the network are removed.

    Args:
        path: file.
        every: merge all state dicts of the file except the optimizer's, instead of the first of ``STATE_DICT_KEYS``.

    Raises:
        InputError: the file does not exist, is incomplete, contains no state dict, asks to call or build other objects,
            or its tensors claim more bytes than the file has.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file.")
    tensors = read_tensors(path) if path.suffix == ".safetensors" else _read_pickled(path, every)
    if not all(len(name) <= _LONGEST_NAME and name.isprintable() for name in tensors):
        raise InputError(
            f"{path} has tensor names of more than {_LONGEST_NAME} characters or with unprintable characters."
        )
    return _without_prefixes(tensors)


def _read_pickled(path: Path, every: bool) -> "dict[str, Tensor]":
    try:
        zipped = zipfile.is_zipfile(path)
        tar = not zipped and tarfile.is_tarfile(path)
        size = path.stat().st_size
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from error
    except zipfile.BadZipFile as error:
        raise InputError(f"{path} is not a complete torch.save file ({error}).") from error
    if tar:
        raise InputError(f"{path} is a tar, not a state dict. Unpack the tar and give the file inside.")
    if zipped:
        _check_members(path, size)
    content = _load(path, zipped)
    found = (_every_state_dict(content) if every else {}) or _find_state_dict(content, path)
    return _plain_tensors(found, path, size)


def _check_members(path: Path, size: int) -> None:
    """Check that a zip has the layout of ``torch.save``: uncompressed members in one folder."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
    # zipfile raises NotImplementedError for zip versions above 6.3.
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise InputError(f"{path} is not a complete torch.save file ({error}).") from error
    for member in members:
        name = PurePosixPath(member.filename.replace("\\", "/"))
        if name.is_absolute() or ".." in name.parts:
            raise InputError(
                f"{path} contains a member with a path outside the archive ({member.filename!r}). The file is refused."
            )
    if any(member.compress_type != zipfile.ZIP_STORED for member in members) or (
        sum(max(member.file_size, member.compress_size) for member in members) > size
    ):
        raise InputError(
            f"{path} is a zip whose members are compressed or claim more bytes than the file has, unlike files of "
            "torch.save. The file is refused."
        )
    names = {PurePosixPath(member.filename).name for member in members}
    if "constants.pkl" in names:
        raise InputError(f"{path} is a TorchScript program, not a state dict. Save and give its state_dict().")
    if "data.pkl" not in names:
        raise InputError(f"{path} is a zip without data.pkl, so torch.save did not write the file.")


def _load(path: Path, zipped: bool) -> Any:
    from torch import load
    from torch.serialization import safe_globals

    allowed: list[Any] = [(_Placeholder, name) for name in _PLACEHOLDERS] + [
        (_PlainDict, name) for name in _ATTRIBUTE_DICTS
    ]
    try:
        with safe_globals(allowed):
            return load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # damaged pickles raise errors of any type
        raise InputError(_load_error(path, error)) from error


def _load_error(path: Path, error: Exception) -> str:
    if isinstance(error, MemoryError):
        return f"{path} claims more memory than is available. The file is damaged, or too large for this machine."
    if requested := re.search(r"GLOBAL ([\w.<>]{1,200})", str(error)):
        return (
            f"{path} asks to call or build {requested[1]!r}, which is not part of a state dict. Nothing was executed. "
            "If you trust the file, save only its state_dict(), preferably as .safetensors."
        )
    return f"{path} is not a complete torch.save file. Copy or download the file again."


def _find_state_dict(content: Any, path: Path) -> "dict[str, Tensor]":
    """Return the tensors by name from a possibly nested checkpoint."""
    for _ in STATE_DICT_KEYS:  # bounded, since a checkpoint can contain itself
        if isinstance(content, Mapping):
            content = next((content[key] for key in STATE_DICT_KEYS if isinstance(content.get(key), Mapping)), content)
    if isinstance(content, Mapping):
        if found := _tensors(content):
            return found
        parts = {str(key): _tensors(part) for key, part in content.items() if isinstance(part, Mapping)}
        if found := {f"{key}.{name}": tensor for key, part in parts.items() for name, tensor in part.items()}:
            return found
    raise InputError(
        f"{path} contains no state dict: no named tensors at the top level or under {', '.join(STATE_DICT_KEYS)}."
    )


def _every_state_dict(content: Any) -> "dict[str, Tensor]":
    """Return the tensors of all nested state dicts, with the keys that are not common to all tensors before the names.

    The state of optimizers, learning rate schedules and gradient scalers is left out.
    """
    found: dict[tuple[str, ...], dict[str, Tensor]] = {}
    pending: list[tuple[tuple[str, ...], Any]] = [((), content)]
    while pending:
        keys, values = pending.pop(0)
        if isinstance(values, Mapping) and len(keys) <= len(STATE_DICT_KEYS):  # a checkpoint can contain itself
            if tensors := _tensors(values):
                found[keys] = tensors
            pending += [
                ((*keys, key), value)
                for key, value in values.items()
                if isinstance(key, str) and not _TRAINING_STATE.search(key)
            ]
    levels = list(zip(*found, strict=False))
    common = next((depth for depth, keys in enumerate(levels) if len(set(keys)) > 1), len(levels))
    return {
        ".".join((*keys[common:], name)): tensor for keys, tensors in found.items() for name, tensor in tensors.items()
    }


def _tensors(values: Mapping[Any, Any]) -> "dict[str, Tensor]":
    from torch import Tensor

    return {name: tensor for name, tensor in values.items() if isinstance(name, str) and isinstance(tensor, Tensor)}


def _plain_tensors(state: "Mapping[str, Tensor]", path: Path, size: int) -> "dict[str, Tensor]":
    """Return plain tensors and check that their total size fits the file. Shared weights count once."""
    import torch

    # A pickle can set attributes on a tensor that shadow methods. Detached tensors have no such attributes.
    plain = {name: torch.Tensor.detach(tensor) for name, tensor in state.items()}
    for name, tensor in plain.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_nested:
            raise InputError(
                f"The tensor {name!r} in {path} is not a dense CPU tensor. Save the tensor as a dense CPU tensor."
            )
    parts = {(tensor.data_ptr(), tensor.shape): tensor for tensor in plain.values()}
    claimed = sum(tensor.numel() * tensor.element_size() for tensor in parts.values())
    if claimed > 2 * size:
        raise InputError(f"The tensors in {path} claim {claimed} bytes, but the file has {size}. The file is refused.")
    return plain


def _without_prefixes(state: "dict[str, Tensor]") -> "dict[str, Tensor]":
    unwrapped = {_INNER_WRAPPERS.sub("", name): tensor for name, tensor in state.items()}
    # A file may contain a network with and without a wrapper.
    state = unwrapped if len(unwrapped) == len(state) else state
    while prefix := next(
        (each for each in WRAPPER_PREFIXES if state and all(name.startswith(each) for name in state)), ""
    ):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state
