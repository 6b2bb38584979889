"""Encoders with timm models as trunks."""

from pathlib import Path, PurePosixPath
from typing import Any

import timm
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from pydantic import Field
from torch import nn

from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.encoders.architectures import Architecture, convert_names, input_options
from rcdm_cli.encoders.build import build_encoder, check_channels, require_tensors
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.encoders.hub import CONFIG, HubFile, read_json
from rcdm_cli.encoders.hugging_face_files import read_weights
from rcdm_cli.encoders.inferred import configured_lines
from rcdm_cli.encoders.reference import Reference
from rcdm_cli.encoders.spec import EncoderSpec, Preprocessing
from rcdm_cli.encoders.trunk_options import TRUNK_NAME_PATTERN, TrunkOptions, TrunkPool
from rcdm_cli.encoders.trunks import build_trunk, timm_config, trunk_width

PREFIX = "timm:"
OPTIONS = ("pretrained", "pool", "size", "channels", "scaling", "mean", "std")


def open_timm(reference: Reference) -> Encoder:
    """Open a timm model as the trunk of an encoder without projector head.

    Size, mean and standard deviation are the defaults of timm's configuration; the crop ratio is not used. Without
    ``pretrained``, the weights are random with a fixed seed.

    Raises:
        InputError: the model, weights or option does not exist; or the weights are not in the cache and downloads are
            disabled.
        RcdmError: the weights could not be downloaded.
    """
    reference.check("a timm model", OPTIONS)
    name = reference.target.removeprefix(PREFIX)
    config = timm_config(name)
    if reference.pretrained and not config.has_weights:
        available = ", ".join(timm.list_pretrained(name.partition(".")[0])) or "none"
        raise InputError(f"timm has no weights for {name!r}. Available weights of this model: {available}.")
    options = input_options(name, reference.size, reference.pool)
    if reference.channels and reference.channels != 3:
        options["in_chans"] = reference.channels
    preprocessing = reference.preprocessing(Preprocessing(size=config.input_size[-1], mean=config.mean, std=config.std))
    check_channels(reference.channels or 3, preprocessing, reference.target)
    trunk = _build(name, options, reference)
    spec = EncoderSpec(
        method=reference.name(),
        trunk=name,
        trunk_options=options,
        pool=reference.pool,
        width=trunk_width(trunk),
        preprocessing=preprocessing,
        origin=f"timm {name}" if reference.pretrained else f"timm {name}, random weights",
        licence=(config.license or "") if reference.pretrained else "",
    )
    return Encoder(spec, trunk)


class _PretrainedConfig(HubFile):
    input_size: tuple[int, int, int]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    license: str | None = Field(default=None, max_length=200)


class TimmConfig(HubFile):
    """``config.json`` of a timm model on the Hugging Face hub."""

    architecture: str = Field(pattern=TRUNK_NAME_PATTERN)
    global_pool: TrunkPool | None = None
    model_args: TrunkOptions = {}
    pretrained_cfg: _PretrainedConfig


def open_timm_folder(folder: Path, reference: Reference, origin: str) -> Encoder:
    """Open a folder with ``config.json`` and weights of timm.

    Raises:
        InputError: a file is missing or damaged, the tensors do not fit the model, or an option does not fit.
    """
    reference.check("a timm model of the Hugging Face hub", OPTIONS)
    config = TimmConfig.parse(read_json(folder / CONFIG), str(folder / CONFIG))
    name, trained = config.architecture, config.pretrained_cfg
    options = dict(config.model_args) | input_options(name, reference.size, reference.pool)
    pool = reference.pool or config.global_pool
    if timm_config(name).fixed_input_size:
        options.setdefault("img_size", trained.input_size[-1])
    preprocessing = Preprocessing.parse(
        {"size": trained.input_size[-1], "mean": trained.mean, "std": trained.std}, str(folder / CONFIG)
    )
    tensors = convert_names(read_weights(folder), name, options, pool)
    names = timm_config(name).classifier or ()
    classifiers = tuple(f"{module}." for module in ((names,) if isinstance(names, str) else names))
    tensors = {name: value for name, value in tensors.items() if not name.startswith(classifiers)}
    architecture = Architecture(name, tensors, reference.preprocessing(preprocessing), options, pool)
    require_tensors(architecture, origin)
    encoder = build_encoder(architecture, reference.name(), origin, licence=trained.license or "")
    encoder.inferred = configured_lines(encoder.trunk, encoder.spec, reference, CONFIG)
    return encoder


def _build(name: str, options: dict[str, Any], reference: Reference) -> nn.Module:
    if not reference.pretrained:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build_trunk(name, options, reference.pool)
    _check_offline(name)
    try:
        return build_trunk(name, options, reference.pool, pretrained=True)
    except InputError:
        raise
    except Exception as error:  # huggingface_hub, requests and urllib have different error classes
        if constants.HF_HUB_OFFLINE and isinstance(error, LocalEntryNotFoundError):
            raise _offline_error(name) from error
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RcdmError(f"The weights of timm's {name!r} could not be downloaded: {reason}") from error


def _check_offline(name: str) -> None:
    """Check the offline setting for weights that are not on the Hugging Face hub."""
    config = timm_config(name)
    if constants.HF_HUB_OFFLINE and not config.hf_hub_id:
        file = PurePosixPath(str(config.url)).name
        if not Path(torch.hub.get_dir(), "checkpoints", file).is_file():
            raise _offline_error(name)


def _offline_error(name: str) -> InputError:
    return InputError(
        f"The weights of timm's {name!r} are not in the cache, and RCDM_OFFLINE or HF_HUB_OFFLINE disables downloads."
    )
