"""Import of a published RCDM checkpoint and its encoder as a bundle."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rcdm_cli.bundle.files import refuse_existing_bundle, write_bundle
from rcdm_cli.bundle.manifest import Manifest
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.levels import Level
from rcdm_cli.core.outputs import output_folder
from rcdm_cli.core.state_dict import load_state_dict_file
from rcdm_cli.diffusion.published import UNetOptions, published_model
from rcdm_cli.diffusion.spec import ScheduleSpec
from rcdm_cli.encoders.encoder import Encoder, level_index
from rcdm_cli.encoders.find_layers import with_layers
from rcdm_cli.encoders.inferred import inferred_lines
from rcdm_cli.encoders.open import open_encoder
from rcdm_cli.encoders.published import find_rcdm
from rcdm_cli.encoders.spec import Preprocessing


def import_published(
    checkpoint: Path,
    encoder: str,
    out: Path,
    *,
    method: str,
    level: Level,
    options: UNetOptions,
    schedule: ScheduleSpec,
    origin: Mapping[str, Any],
    force: bool = False,
    on_note: Callable[[str], None] = lambda _: None,
) -> Manifest:
    """Write a bundle from a published state dict and the encoder that the denoiser was trained on.

    RCDM was trained on images in [-1, 1] (get_ssl_models.py of facebookresearch/RCDM). The encoder in the bundle uses
    this scaling instead of the scaling of its own training. The image size of the encoder does not change.

    Args:
        checkpoint: state dict with the published names.
        encoder: reference of the encoder, as for ``open_encoder``.
        out: folder of the bundle. Its name becomes the bundle's name.
        method: method of the encoder.
        level: level of the representations.
        options: parameters that cannot be inferred from the shapes of the weights.
        schedule: noise schedule of the checkpoint.
        origin: source of the files, stored in the manifest.
        force: whether to replace an existing bundle.
        on_note: called with everything that was inferred from an encoder of another project.

    Raises:
        InputError: A file cannot be read, the architecture is not supported, or encoder, level and checkpoint do not
            fit.
    """
    with output_folder(out):
        refuse_existing_bundle(out, force)
        state = load_state_dict_file(checkpoint)
        published = find_rcdm(checkpoint.name)
        if published and published[:2] != (method, level):
            raise InputError(
                f"{checkpoint.name} was published for {published[0]} at {published[1]}, not for {method} at {level}. "
                f"Set `method` to {published[0]} and `level` to {published[1]}, or rename the file if it has other "
                "weights."
            )
        opened = open_encoder(encoder, method)
        for line in inferred_lines(opened.inferred, method):
            on_note(line)
        [trunk] = with_layers([opened], [level])
        level_index(trunk.spec, level)
        model = published_model(state, method, level, options)
        width = model.conditioning.spec.projections[0].width
        if trunk.spec.width_at(level) != width:
            raise InputError(
                f"The checkpoint expects representations of width {width}, but {method} has width "
                f"{trunk.spec.width_at(level)} at {level}. The checkpoint was trained on another level or encoder."
            )
        _use_published_scaling(trunk)
        about = {
            "description": f"RCDM for {method} at {level}, imported from {checkpoint.name}",
            "origin": f"ImageNet; weights from {published[2].url}" if published else "",
            "licence": f"{published[2].licence} (the weights)" if published else "",
            "trained": {"imported": dict(origin)},
        }
        return write_bundle(out, model, schedule, [trunk], about=about)


def _use_published_scaling(encoder: Encoder) -> None:
    preprocessing = Preprocessing(size=encoder.spec.preprocessing.size)
    encoder.spec = encoder.spec.model_copy(update={"preprocessing": preprocessing})
    encoder.mean.fill_(preprocessing.mean[0])
    encoder.std.fill_(preprocessing.std[0])
