"""Encoders with models of torchvision, which run as timm trunks."""

from pathlib import Path, PurePosixPath
from typing import Any

import torch
from huggingface_hub import constants

from rcdm_cli.core.errors import InputError, RcdmError, unknown_name_message
from rcdm_cli.encoders.build import build_encoder
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.encoders.find_trunk import find_trunk
from rcdm_cli.encoders.inferred import configured_lines
from rcdm_cli.encoders.reference import Reference
from rcdm_cli.encoders.spec import Preprocessing

PREFIX = "torchvision:"
OPTIONS = ("pretrained", "weights", "pool", "size", "scaling", "mean", "std")

_FAMILIES = ("resnet", "resnext", "wide_resnet", "vit_")


def open_torchvision(reference: Reference) -> Encoder:
    """Open a ResNet or ViT of torchvision, such as ``torchvision:resnet50,weights=IMAGENET1K_V2``.

    Without ``weights`` or ``pretrained``, which selects torchvision's default weights, the weights are random with a
    fixed seed. ``h`` is the input of the classifier.

    Raises:
        InputError: the model, weights or option does not exist; or the weights are not in the cache and downloads are
            disabled.
        RcdmError: the weights could not be downloaded.
    """
    from torchvision import models

    reference.check("a torchvision model", OPTIONS)
    name = reference.target.removeprefix(PREFIX)
    names = [each for each in models.list_models(module=models) if each.startswith(_FAMILIES)]
    if name not in names:
        raise InputError(unknown_name_message("torchvision model", name, names))
    state, preprocessing, origin = _read(name, reference)
    architecture = find_trunk(state, reference.target, reference).architecture
    encoder = build_encoder(
        architecture,
        reference.name(),
        origin,
        licence="BSD-3-Clause" if reference.weights or reference.pretrained else "",
        preprocessing=reference.preprocessing(preprocessing or architecture.preprocessing),
    )
    encoder.inferred = configured_lines(encoder.trunk, encoder.spec, reference, "torchvision")
    return encoder


def _read(name: str, reference: Reference) -> tuple[dict[str, torch.Tensor], Preprocessing | None, str]:
    """Return the tensors, the preprocessing of the weights, and the origin."""
    from torchvision import models

    if not (reference.weights or reference.pretrained):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return models.get_model(name).state_dict(), None, f"torchvision {name}, random weights"
    available = models.get_model_weights(name)
    wanted = "DEFAULT" if reference.weights is None else reference.weights
    if wanted not in available.__members__:
        raise InputError(unknown_name_message(f"weights of torchvision's {name}", wanted, available.__members__))
    weights = available[wanted]
    if constants.HF_HUB_OFFLINE:
        file = Path(torch.hub.get_dir(), "checkpoints", PurePosixPath(weights.url).name)
        if not file.is_file():
            raise InputError(
                f"The weights {weights} are not in the cache, and RCDM_OFFLINE or HF_HUB_OFFLINE disables downloads."
            )
    try:
        state: dict[str, Any] = weights.get_state_dict(check_hash=True, weights_only=True, map_location="cpu")
    except Exception as error:  # urllib, the operating system and torch have different error classes
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RcdmError(f"The weights {weights} could not be downloaded: {reason}") from error
    transform = weights.transforms()
    size = transform.crop_size[0]
    preprocessing = Preprocessing(size=size, mean=tuple(transform.mean), std=tuple(transform.std))
    return state, preprocessing, f"torchvision {weights}"
