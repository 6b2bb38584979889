"""What stands in a bundle's manifest.json: specs, files with their hashes, defaults, origin."""

from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field

from rcdm_cli.backends.base import RunContext
from rcdm_cli.backends.engine_file import EngineFile, Graph, find_graph
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.resources import MANIFEST
from rcdm_cli.core.spec import Spec
from rcdm_cli.diffusion.spec import ConditioningSpec, DenoiserSpec, ScheduleSpec
from rcdm_cli.encoders.spec import EncoderSpec


class EncoderEntry(EngineFile):
    """An encoder of the bundle."""

    spec: EncoderSpec


class Defaults(Spec):
    """How samples are sampled unless a person says otherwise; ``guidance`` 1 is none."""

    sampler: Literal["ddpm", "ddim", "dpmpp"] = "dpmpp"
    steps: int = Field(default=20, ge=1)
    guidance: float = Field(default=1.0, ge=0)


class Manifest(Spec):
    """A finished model: one denoiser, its conditioning, and the encoders it is conditioned on.

    Attributes:
        format: version of this file's layout.
        name: of the bundle.
        description: one line for people.
        origin: of the images it was trained on.
        licence: of those images.
        trained: the recipe, the steps and the images seen.
        model: file with the weights of denoiser and conditioning.
        encoders: by method.
        graphs: what `rcdm export` compiled; none in a bundle that holds weights only.
        defaults: of sampling.
        measured: why the defaults are those, as `rcdm tune` measured it; empty where it was not run.
    """

    format: Literal[1] = 1
    name: str
    description: str = ""
    origin: str = ""
    licence: str = ""
    trained: dict[str, Any] = {}
    schedule: ScheduleSpec
    denoiser: DenoiserSpec
    conditioning: ConditioningSpec
    model: EngineFile
    encoders: dict[str, EncoderEntry]
    graphs: tuple[Graph, ...] = ()
    defaults: Defaults = Defaults()
    measured: dict[str, Any] = {}

    def graph(self, kind: str, network: str, precision: str, method: str | None = None) -> Graph | None:
        """The graph of these, if there is one."""
        return find_graph(self.graphs, kind, network, precision, method)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a bundle folder.

    Raises:
        InputError: it is missing, or does not validate.
    """
    path = folder / MANIFEST
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder} is not a bundle: cannot read {MANIFEST} ({error.strerror}).") from error
    return Manifest.parse_json(text, str(path))


def run_context(folder: Path, manifest: Manifest, device: torch.device) -> RunContext:
    """What backends need to know of a bundle to run its denoiser on ``device``."""
    return RunContext(
        folder=folder,
        device=device,
        name=manifest.name,
        denoiser=manifest.denoiser,
        weights_sha256=manifest.model.sha256,
        encoder_sha256={method: entry.sha256 for method, entry in manifest.encoders.items()},
        graphs=manifest.graphs,
    )
