"""Write a bundle: weights in half precision, hashes, manifest last."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rcdm_cli.backends.engine_file import EngineFile
from rcdm_cli.bundle.manifest import Defaults, EncoderEntry, Manifest
from rcdm_cli.core.files import sha256, write_json, write_tensors
from rcdm_cli.core.resources import MANIFEST
from rcdm_cli.diffusion.conditioning import Model
from rcdm_cli.diffusion.spec import ScheduleSpec
from rcdm_cli.encoders.encoder import Encoder, save_encoder

MODEL = "denoiser.safetensors"


def write_bundle(
    folder: Path,
    model: Model,
    schedule: ScheduleSpec,
    encoders: Iterable[Encoder],
    *,
    about: Mapping[str, Any],
    dtype: torch.dtype = torch.float16,
) -> Manifest:
    """Write a bundle into ``folder``.

    The manifest comes last: until then an older bundle there keeps its own, and its hashes tell that files changed.

    Args:
        folder: of the bundle; its name is the bundle's.
        model: denoiser and conditioning.
        schedule: that they were trained with.
        encoders: whose representations they take.
        about: ``description``, ``origin``, ``licence`` and ``trained`` of the manifest.
        dtype: of the stored weights; they are computed with in float32.
    """
    entries = {}
    for encoder in encoders:
        path = folder / f"encoder-{encoder.spec.method}.safetensors"
        save_encoder(encoder, path, dtype)
        entries[encoder.spec.method] = EncoderEntry(file=path.name, sha256=sha256(path), spec=encoder.spec)
    path = folder / MODEL
    write_tensors(path, _stored(model.state_dict(), dtype), {"kind": "denoiser"})
    manifest = Manifest(
        name=folder.name,
        schedule=schedule,
        denoiser=model.denoiser.spec,
        conditioning=model.conditioning.spec,
        model=EngineFile(file=MODEL, sha256=sha256(path)),
        encoders=entries,
        defaults=Defaults(),
        **about,
    )
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    return manifest


def _stored(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    # What standardises h stays float32: its values have the scale of the representation, which half may not hold.
    exact = (".mean", ".scale")
    return {name: value if name.endswith(exact) else value.to(dtype) for name, value in state.items()}
