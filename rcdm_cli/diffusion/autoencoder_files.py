"""Autoencoders in files: weights and configuration of diffusers, and files of rcdm."""

import json
import re
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor

from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.core.files import read_metadata, read_tensors, write_json, write_tensors
from rcdm_cli.core.spec import explain
from rcdm_cli.core.state_dict import load_state_dict_file
from rcdm_cli.diffusion.autoencoder import Autoencoder
from rcdm_cli.diffusion.autoencoder_spec import AutoencoderSpec, KLSpec, TinySpec, parse_config

KIND = "autoencoder"
CONFIG = "config.json"
WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
"""File names of diffusers, in order of preference."""

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(/[\w.-]+)?")
_RENAMED = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Names of attention layers before diffusers 0.17. The files of stabilityai/sd-vae-ft-mse have these names."""


def open_autoencoder(reference: str) -> Autoencoder:
    """Open an autoencoder for inference: float32, on the CPU, in evaluation mode.

    Nothing in the files is executed. The network is built by rcdm from the configuration.

    Args:
        reference: folder of diffusers (``config.json`` and ``diffusion_pytorch_model.safetensors``), a file of weights
            beside its ``config.json``, an autoencoder file of a training run, or an id on the Hugging Face hub such as
            ``stabilityai/sd-vae-ft-mse``, optionally with a sub-folder: ``stabilityai/sdxl-turbo/vae``.

    Raises:
        InputError: the files do not exist, or are not an ``AutoencoderKL`` or ``AutoencoderTiny``.
        RcdmError: the download failed.
    """
    path = Path(reference).expanduser()
    if not path.exists() and _HUB_ID.fullmatch(reference):
        return _from_diffusers(_download(reference, CONFIG), _download(reference, WEIGHTS[0]))
    if path.is_dir():
        weights = next((path / name for name in WEIGHTS if (path / name).is_file()), path / WEIGHTS[0])
        return _from_diffusers(path / CONFIG, weights)
    if not path.is_file():
        raise InputError(
            f"The autoencoder {reference} is not a file, a folder or an id on the Hugging Face hub (OWNER/NAME)."
        )
    if path.suffix == ".safetensors" and read_metadata(path).get("kind") == KIND:
        return load_autoencoder(path)
    return _from_diffusers(path.parent / CONFIG, path)


def save_autoencoder(autoencoder: Autoencoder, path: Path) -> None:
    """Write weights and spec to one safetensors file."""
    spec = autoencoder.spec.model_dump_json()
    write_tensors(path, autoencoder.state_dict(), {"kind": KIND, "spec": spec})


def load_autoencoder(path: Path) -> Autoencoder:
    """Load a file of ``save_autoencoder`` for inference; see ``open_autoencoder``.

    Raises:
        InputError: the file is not such a file, or its tensors do not fit its spec.
    """
    metadata = read_metadata(path)
    if metadata.get("kind") != KIND:
        raise InputError(f"{path} is not an autoencoder file of rcdm (kind {metadata.get('kind')}).")
    try:
        spec = TypeAdapter(AutoencoderSpec).validate_json(metadata.get("spec", ""))
    except ValidationError as error:
        raise InputError(f"{path}: {explain(error)}") from None
    return _with_weights(spec, read_tensors(path), path)


def save_for_diffusers(autoencoder: Autoencoder, folder: Path, scale: float) -> None:
    """Write ``config.json`` and weights, for ``AutoencoderKL.from_pretrained(folder)`` of diffusers.

    The configuration, which contains ``scale``, is removed before the weights are replaced, and written last. A killed
    process never leaves weights with the scale of other weights.

    Args:
        autoencoder: an ``AutoencoderKL``.
        folder: folder of the files.
        scale: factor that maps the latents to unit variance.
    """
    assert isinstance(autoencoder.spec, KLSpec), "rcdm trains an AutoencoderKL"
    (folder / CONFIG).unlink(missing_ok=True)
    write_tensors(folder / WEIGHTS[0], autoencoder.state_dict(), {"format": "pt"})
    write_json(folder / CONFIG, autoencoder.spec.config(scale))


def _from_diffusers(config: Path, weights: Path) -> Autoencoder:
    try:
        values: Any = json.loads(config.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{config.parent} has no autoencoder of diffusers: cannot read {CONFIG}.") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{config} is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise InputError(f"{config} is not a configuration of diffusers.")
    state = load_state_dict_file(weights)
    for old, new in _RENAMED.items():
        state = {name.replace(old, new) if ".attentions." in name else name: value for name, value in state.items()}
    return _with_weights(parse_config(values, str(config)), state, weights)


def _with_weights(spec: KLSpec | TinySpec, state: dict[str, Tensor], path: Path) -> Autoencoder:
    # On the meta device, no memory is allocated for an architecture that does not fit the file.
    with torch.device("meta"):
        autoencoder = Autoencoder(spec)
    try:
        autoencoder.load_state_dict({name: value.float() for name, value in state.items()}, assign=True)
    except RuntimeError as error:
        raise InputError(f"The weights in {path} do not fit the configuration: {error}") from error
    return autoencoder.to(memory_format=torch.channels_last).eval().requires_grad_(False)


def _download(reference: str, file: str) -> Path:
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    owner, name, *subfolder = reference.split("/")
    try:
        return Path(hf_hub_download(f"{owner}/{name}", "/".join([*subfolder, file])))
    except Exception as error:  # huggingface_hub and its HTTP client have different error classes
        if constants.HF_HUB_OFFLINE and isinstance(error, LocalEntryNotFoundError):
            raise InputError(
                f"The autoencoder {reference} is not in the cache, and RCDM_OFFLINE or HF_HUB_OFFLINE disables "
                "downloads."
            ) from error
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RcdmError(f"{file} of the autoencoder {reference} could not be downloaded: {reason}") from error
