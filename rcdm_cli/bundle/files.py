"""Weights of a bundle: written in half precision, read as float32."""

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from rcdm_cli.backends.graph import BundleFile, verified_path
from rcdm_cli.bundle.manifest import (
    DecoderEntry,
    EncoderEntry,
    Manifest,
    listed_files,
    read_manifest,
    replace_manifest,
    unused_name,
)
from rcdm_cli.bundle.statistics import write_statistics
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import flush, read_tensors, sha256, write_tensors
from rcdm_cli.core.resources import MANIFEST
from rcdm_cli.diffusion.autoencoder import Autoencoder, LatentCodec
from rcdm_cli.diffusion.conditioning import Model
from rcdm_cli.diffusion.spec import ConditioningSpec, DenoiserSpec, ScheduleSpec, Settings, StudentSpec
from rcdm_cli.encoders.encoder import Encoder, save_encoder
from rcdm_cli.encoders.pairs import Pair

MODEL = "denoiser.safetensors"
DECODER = "decoder.safetensors"

_BEFORE_LOOP = re.compile(r"^conditioning\.|\.time_embed\.|\.emb_layers\.")
"""Names of the weights that are used before the sampling loop."""

_STORED_AS_FLOAT32 = (".mean", ".scale")
"""Statistics that standardise ``h``. Their values have the scale of the representation, which may overflow float16."""


def refuse_existing_bundle(folder: Path, force: bool) -> None:
    """Check that a bundle may be written to ``folder``.

    Raises:
        InputError: ``folder`` contains a bundle and ``force`` is False.
    """
    if (folder / MANIFEST).exists() and not force:
        raise InputError(f"{folder} already contains a bundle. Use `force` to replace it, or choose another `out`.")


def write_bundle(
    folder: Path,
    model: Model,
    schedule: ScheduleSpec,
    encoders: Iterable[Encoder],
    *,
    about: Mapping[str, Any],
    codec: LatentCodec | None = None,
    training_h: Mapping[Pair, Tensor] = MappingProxyType({}),
    dtype: torch.dtype = torch.float16,
) -> Manifest:
    """Write a bundle.

    The manifest is written last. If writing fails, an earlier bundle in the folder is unchanged.

    Args:
        folder: folder of the bundle. Its name becomes the bundle's name.
        model: denoiser and conditioning.
        schedule: noise schedule of the denoiser.
        encoders: encoders of the model's representations.
        about: ``description``, ``origin``, ``licence`` and ``trained`` of the manifest.
        codec: autoencoder of a latent space. Its decoder is written; its encoder is not.
        training_h: representations (N, D) of training images, whose statistics are stored.
        dtype: number format of the stored weights.
    """
    entries, earlier = {}, listed_files(folder)
    for encoder in encoders:
        path = folder / unused_name(f"encoder-{encoder.spec.method}.safetensors", earlier)
        save_encoder(encoder, path, dtype)
        entries[encoder.spec.method] = EncoderEntry(file=path.name, sha256=sha256(path), spec=encoder.spec)
    manifest = Manifest(
        name=folder.resolve().name,
        schedule=schedule,
        denoiser=model.denoiser.spec,
        conditioning=model.conditioning.spec,
        model=_write_model(folder / unused_name(MODEL, earlier), model.state_dict(), dtype),
        encoders=entries,
        decoder=_write_decoder(folder, codec, earlier, dtype) if codec else None,
        statistics=write_statistics(folder, training_h) if training_h else None,
        **about,
    )
    replace_manifest(folder, manifest)
    return manifest


def write_student(
    folder: Path,
    teacher: Path,
    state: Mapping[str, Tensor],
    denoiser: DenoiserSpec,
    conditioning: ConditioningSpec,
    settings: Settings,
    student: StudentSpec,
    trained: Mapping[str, Any],
) -> Manifest:
    """Write the bundle of a student, with the encoders, the decoder and the statistics of its teacher.

    Args:
        folder: new folder. Its name becomes the bundle's name.
        teacher: folder of the teacher's bundle.
        state: weights of denoiser and conditioning.
        denoiser: architecture of the student's denoiser.
        conditioning: conditioning projections of the student.
        settings: settings of the student.
        student: origin of the student.
        trained: ``trained`` of the manifest.

    Raises:
        InputError: a file of the teacher is missing or differs from its manifest.
    """
    source = read_manifest(teacher)
    folder.mkdir(parents=True)
    optional = (entry for entry in (source.decoder, source.statistics) if entry)
    for entry in (*source.encoders.values(), *optional):
        shutil.copyfile(verified_path(teacher, entry), folder / entry.file)
        flush(folder / entry.file)
    description = f"{source.description}; student with {settings.steps} steps" if source.description else ""
    changed = {
        "name": folder.name,
        "description": description,
        "trained": dict(trained),
        "denoiser": denoiser,
        "conditioning": conditioning,
        "model": _write_model(folder / MODEL, state, torch.float16),
        "graphs": (),
        "defaults": settings,
        "student": student,
        "measured": {},
    }
    manifest = source.model_copy(update=changed)
    replace_manifest(folder, manifest)
    return manifest


def _write_model(path: Path, state: Mapping[str, Tensor], dtype: torch.dtype) -> BundleFile:
    stored = {name: value if name.endswith(_STORED_AS_FLOAT32) else value.to(dtype) for name, value in state.items()}
    write_tensors(path, stored, {"kind": "denoiser"})
    return BundleFile(file=path.name, sha256=sha256(path))


def _write_decoder(folder: Path, codec: LatentCodec, earlier: set[str], dtype: torch.dtype) -> DecoderEntry:
    spec, statistics = codec.autoencoder.spec, codec.statistics
    path = folder / unused_name(DECODER, earlier)
    state = codec.autoencoder.state_dict()
    stored = {name: value.to(dtype) for name, value in state.items() if name.startswith(("decoder.", "post_quant"))}
    metadata = {"kind": "decoder", "spec": spec.model_dump_json(), "statistics": statistics.model_dump_json()}
    write_tensors(path, stored, metadata)
    return DecoderEntry(file=path.name, sha256=sha256(path), spec=spec, statistics=statistics)


def read_decoder(folder: Path, entry: DecoderEntry, device: torch.device) -> LatentCodec:
    """Read the decoder of a latent space in float32, in evaluation mode, without the encoder of the autoencoder.

    Raises:
        InputError: the file is missing, differs from the manifest, or does not fit the architecture.
    """
    path = verified_path(folder, entry)
    with torch.device("meta"):
        autoencoder = Autoencoder(entry.spec, encoder=False)
    try:
        state = {name: _loaded(value, device) for name, value in read_tensors(path).items()}
        autoencoder.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise InputError(f"The weights in {path} do not fit the bundle's manifest: {error}") from error
    return LatentCodec(autoencoder, entry.statistics).to(device).eval().requires_grad_(False)


def read_model(folder: Path, manifest: Manifest, device: torch.device, *, before_loop: bool = False) -> Model:
    """Read the denoiser and the conditioning in float32, in evaluation mode.

    Args:
        folder: folder of the bundle.
        manifest: manifest of the bundle.
        device: device of the weights.
        before_loop: read only the weights that are used before the sampling loop: timestep embedding, modulations and
            conditioning projections. The other weights stay on the meta device.

    Raises:
        InputError: the file is missing, differs from the manifest, or does not fit the architecture.
    """
    path = verified_path(folder, manifest.model)
    # On the meta device, no memory is allocated and no random weights are drawn.
    with torch.device("meta"):
        model = Model(manifest.denoiser, manifest.conditioning)
    state = {
        name: _loaded(value, device)
        for name, value in read_tensors(path).items()
        if not before_loop or _BEFORE_LOOP.search(name)
    }
    try:
        model.load_state_dict(state, strict=not before_loop, assign=True)
    except RuntimeError as error:
        raise InputError(f"The weights in {path} do not fit the bundle's manifest: {error}") from error
    return model.eval().requires_grad_(False)


def _loaded(weight: Tensor, device: torch.device) -> Tensor:
    """Convert a stored weight to float32 on ``device``; convolution weights to channels-last layout."""
    layout = torch.channels_last if weight.ndim == 4 else torch.preserve_format
    # A single tensor that is not copied keeps the whole file memory-mapped.
    return weight.to(device, torch.float32, copy=True, memory_format=layout)
