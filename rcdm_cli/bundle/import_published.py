"""A bundle made of a published RCDM checkpoint and the encoder that it was trained on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from rcdm_cli.bundle.manifest import Manifest
from rcdm_cli.bundle.write import write_bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.levels import Level
from rcdm_cli.diffusion.published import Unseen, published_model
from rcdm_cli.diffusion.spec import ScheduleSpec
from rcdm_cli.encoders.encoder import Encoder, level_index
from rcdm_cli.encoders.spec import Preprocessing


def import_published(
    folder: Path,
    state: Mapping[str, Tensor],
    encoder: Encoder,
    *,
    level: Level,
    given: Unseen,
    schedule: ScheduleSpec,
    about: Mapping[str, Any],
) -> Manifest:
    """Write a bundle of a published state dict.

    RCDM was trained on images in [-1, 1], whatever its encoder was trained on (get_ssl_models.py of
    facebookresearch/RCDM): the encoder in the bundle keeps its size and takes that scaling.

    Args:
        folder: of the bundle; its name is the bundle's.
        state: with the published names.
        encoder: whose representations the checkpoint was trained on; its preprocessing is changed in place.
        level: of those representations.
        given: what shapes do not tell.
        schedule: that the checkpoint was trained with.
        about: ``description``, ``origin``, ``licence`` and ``trained`` of the manifest.

    Raises:
        InputError: as ``published_model``; or the encoder lacks the level, or its representation has another width.
    """
    spec = encoder.spec
    level_index(spec, level)
    model = published_model(state, spec.method, level, given)
    wanted = model.conditioning.spec.projections[0].width
    if spec.width_at(level) != wanted:
        raise InputError(
            f"The checkpoint takes a representation of {wanted} numbers, but {spec.method} gives "
            f"{spec.width_at(level)} at {level}. It was trained on another level or another encoder."
        )
    preprocessing = Preprocessing(size=spec.preprocessing.size)
    encoder.spec = spec.model_copy(update={"preprocessing": preprocessing})
    encoder.mean.fill_(preprocessing.mean[0])
    encoder.std.fill_(preprocessing.std[0])
    return write_bundle(folder, model, schedule, [encoder], about=about)
