"""Encoders with checkpoints of Hugging Face transformers, which run as timm trunks."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.build import build_encoder, require_tensors
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.encoders.hub import CONFIG, PREPROCESSOR
from rcdm_cli.encoders.hugging_face_files import read_config, read_preprocessing, read_weights
from rcdm_cli.encoders.hugging_face_networks import PROJECTION, convert
from rcdm_cli.encoders.inferred import configured_lines
from rcdm_cli.encoders.reference import Reference
from rcdm_cli.encoders.spec import HeadLayer

OPTIONS = ("pool", "size", "scaling", "mean", "std")


def open_transformers(folder: Path, reference: Reference, origin: str) -> Encoder:
    """Open a folder with ``config.json`` and weights of transformers.

    Raises:
        InputError: a file is missing or damaged, the network is not supported, or an option does not fit.
    """
    reference.check("a Hugging Face checkpoint", OPTIONS)
    return _open(folder, read_weights(folder), reference, origin)


def open_transformers_file(path: Path, state: Mapping[str, Tensor], reference: Reference) -> Encoder:
    """Open weights of transformers with the ``config.json`` beside them.

    Raises:
        InputError: ``config.json`` is missing, the network is not supported, or an option does not fit.
    """
    reference.check("a Hugging Face checkpoint", OPTIONS)
    if not (path.parent / CONFIG).is_file():
        raise InputError(
            f"{path} has tensors of a Hugging Face model, whose attention heads and activations are defined in "
            f"{CONFIG}. Copy {CONFIG} and {PREPROCESSOR} of the model beside the file."
        )
    return _open(path.parent, state, reference, path.name)


def _open(folder: Path, state: Mapping[str, Tensor], reference: Reference, origin: str) -> Encoder:
    config, where = read_config(folder), str(folder)
    size = (config.vision_config or config).image_size or 224
    preprocessing = read_preprocessing(folder, reference, size)
    architecture = convert(state, config, preprocessing, reference.pool, where)
    require_tensors(architecture, where)
    projection = state.get(PROJECTION)
    encoder = build_encoder(
        architecture,
        reference.name(),
        origin,
        layers=() if projection is None else (HeadLayer(width=len(projection), bias=False),),
        head=None if projection is None else {"0.weight": projection},
    )
    lines = configured_lines(encoder.trunk, encoder.spec, reference, PREPROCESSOR)
    encoder.inferred = {**lines, **architecture.facts}
    return encoder
