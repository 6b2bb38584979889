"""Encoders out of timm's table of models."""

import inspect
from pathlib import Path, PurePosixPath
from typing import Any

import timm
import torch
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError
from torch import nn

from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.encoders.architectures import timm_preprocessing
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.encoders.reference import Reference
from rcdm_cli.encoders.spec import EncoderSpec
from rcdm_cli.encoders.trunks import build_trunk, timm_config, trunk_width

PREFIX = "timm:"
OPTIONS = ("pretrained", "pool", "size", "scaling", "mean", "std")


def open_timm(reference: Reference) -> Encoder:
    """An encoder with a timm model as its trunk and without a head.

    Size, mean and standard deviation are those of timm's table. Without ``pretrained`` the weights are random, and the
    same each time: what an untrained network knows.

    Raises:
        InputError: no such model, weights or option; or the weights are not here and downloading is forbidden.
        RcdmError: the weights could not be downloaded.
    """
    reference.check("a timm model", OPTIONS)
    name = reference.target.removeprefix(PREFIX)
    config = timm_config(name)
    if reference.pretrained and not config.has_weights:
        known = ", ".join(timm.list_pretrained(name.partition(".")[0])) or "none"
        raise InputError(f"timm has no weights for {name!r}; of that trunk it has: {known}.")
    options = _options(name, reference)
    trunk = _build(name, options, reference)
    spec = EncoderSpec(
        method=reference.name(),
        trunk=name,
        trunk_options=options,
        pool=reference.pool,
        width=trunk_width(trunk),
        preprocessing=reference.preprocessing(timm_preprocessing(name)),
        origin=f"timm {name}" if reference.pretrained else f"timm {name}, random weights",
        licence=(config.license or "") if reference.pretrained else "",
    )
    return Encoder(spec, trunk)


def _options(name: str, reference: Reference) -> dict[str, Any]:
    """What the model must be told so that its weights fit another size or another pooling."""
    options: dict[str, Any] = {}
    if reference.size and timm_config(name).fixed_input_size:
        options["img_size"] = reference.size
    if reference.pool:
        with torch.device("meta"):
            own = build_trunk(name, {}, None)
        # timm moves a ViT's last norm behind an average pooling, but weights have it where they were trained.
        if "fc_norm" in inspect.signature(type(own).__init__).parameters:
            options["fc_norm"] = not isinstance(own.fc_norm, nn.Identity)
    return options


def _build(name: str, options: dict[str, Any], reference: Reference) -> nn.Module:
    if not reference.pretrained:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return build_trunk(name, options, reference.pool)
    _check_allowed(name)
    try:
        return build_trunk(name, options, reference.pool, pretrained=True)
    except InputError:
        raise
    except Exception as error:  # huggingface_hub, requests and urllib each have errors of their own
        if constants.HF_HUB_OFFLINE and isinstance(error, LocalEntryNotFoundError):
            raise _forbidden(name) from error
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RcdmError(f"The weights of timm's {name!r} could not be downloaded: {reason}") from error


def _check_allowed(name: str) -> None:
    """A few weights are not on the hub but at an address of their own, where its setting does not reach."""
    config = timm_config(name)
    if constants.HF_HUB_OFFLINE and not config.hf_hub_id:
        file = PurePosixPath(str(config.url)).name
        if not Path(torch.hub.get_dir(), "checkpoints", file).is_file():
            raise _forbidden(name)


def _forbidden(name: str) -> InputError:
    return InputError(
        f"The weights of timm's {name!r} are not here, and RCDM_OFFLINE (or HF_HUB_OFFLINE) forbids to download them."
    )
