"""Manifest of a bundle (``manifest.json``): specs, files with hashes, sampling defaults, origin."""

from collections.abc import Collection
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import Field, model_validator

from rcdm_cli.backends.base import RunContext
from rcdm_cli.backends.graph import BundleFile, Graph, find_graph
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import write_json
from rcdm_cli.core.resources import MANIFEST
from rcdm_cli.core.spec import FolderName, JsonObject, Spec, Text
from rcdm_cli.diffusion.autoencoder_spec import AutoencoderSpec, LatentStatistics
from rcdm_cli.diffusion.spec import ConditioningSpec, DenoiserSpec, ScheduleSpec, Settings, StudentSpec
from rcdm_cli.encoders.spec import EncoderSpec

PARITY = "parity.json"
"""File in a bundle with the errors of the graphs against PyTorch."""


class EncoderEntry(BundleFile):
    """File and spec of an encoder."""

    spec: EncoderSpec


class DecoderEntry(BundleFile):
    """File and spec of the decoder of an autoencoder, and the statistics that normalise its latents."""

    spec: AutoencoderSpec
    statistics: LatentStatistics


class Manifest(Spec):
    """Manifest of a trained model: a denoiser, conditioning projections, and the encoders of the representations.

    Attributes:
        format: version of the manifest's layout.
        name: name of the bundle.
        description: one line for the user.
        origin: origin of the images that the bundle was trained on.
        licence: licence of the images.
        trained: recipe, number of training steps, and number of images seen in training.
        schedule: noise schedule.
        denoiser: architecture of the denoiser.
        conditioning: representations and the width of the conditioning vector.
        model: weights of denoiser and conditioning.
        encoders: encoders by method.
        decoder: decoder of the latent space; None for pixels and patches.
        statistics: statistics of the representations of the training images; None in older bundles.
        graphs: compiled networks that `rcdm export` wrote.
        defaults: default sampling parameters. A student has no others.
        student: origin of a distilled denoiser; None for a denoiser that was trained on images.
        measured: measurements of `rcdm tune` or `rcdm distill` that led to the defaults; empty by default.
    """

    format: Literal[1] = 1
    name: FolderName
    description: Text = ""
    origin: Text = ""
    licence: Text = ""
    trained: JsonObject = {}
    schedule: ScheduleSpec
    denoiser: DenoiserSpec
    conditioning: ConditioningSpec
    model: BundleFile
    encoders: dict[str, EncoderEntry] = Field(min_length=1, max_length=256)
    decoder: DecoderEntry | None = None
    statistics: BundleFile | None = None
    graphs: tuple[Graph, ...] = Field(default=(), max_length=4096)
    defaults: Settings = Settings()
    student: StudentSpec | None = None
    measured: JsonObject = {}

    @model_validator(mode="after")
    def _encoders_have_the_levels(self) -> "Manifest":
        for projection in self.conditioning.projections:
            entry = self.encoders.get(projection.method)
            width = entry.spec.widths.get(projection.level) if entry else None
            if width != projection.width:
                reason = "no encoder has this level" if width is None else f"the encoder returns the width {width}"
                raise ValueError(
                    f"conditioning on {projection.method} at {projection.level} with width {projection.width}: {reason}"
                )
        return self

    @property
    def files(self) -> tuple[BundleFile, ...]:
        """All files that the manifest lists."""
        graphs = (file for graph in self.graphs for file in graph.files)
        optional = (entry for entry in (self.decoder, self.statistics) if entry)
        return (self.model, *self.encoders.values(), *optional, *graphs)

    @model_validator(mode="after")
    def _parts_agree(self) -> Self:
        if self.defaults.steps > self.schedule.timesteps:
            raise ValueError(f"the default of {self.defaults.steps} steps exceeds {self.schedule.timesteps} timesteps")
        if self.conditioning.width != self.denoiser.cond_width:
            raise ValueError(
                f"the conditioning has the width {self.conditioning.width}, not {self.denoiser.cond_width}"
            )
        for method, entry in self.encoders.items():
            if entry.spec.method != method:
                raise ValueError(f"the encoder of {method} has the spec of {entry.spec.method}")
        return self

    @model_validator(mode="after")
    def _decoder_fits_the_space(self) -> Self:
        space = self.denoiser.space
        if self.decoder is None:
            if space.kind == "latents":
                raise ValueError("a denoiser of latents needs a decoder")
        elif self.decoder.spec.space != space or len(self.decoder.statistics.mean) != space.channels:
            raise ValueError(f"the decoder does not fit the space of the denoiser, {space!r}")
        return self

    @model_validator(mode="after")
    def _student_needs_no_guidance(self) -> Self:
        scales = self.conditioning.guidance
        if self.student and self.defaults.sampler != "ddim_angle":
            raise ValueError("a student samples with ddim_angle")
        if self.student and (self.defaults.guidance not in scales if scales else self.defaults.guidance != 1):
            raise ValueError("the guidance of a student is 1, or a scale that the student has learned")
        if bool(scales) != bool(self.student and self.student.guidance is None):
            raise ValueError("conditioning.guidance and student.guidance exclude each other")
        if self.student and self.denoiser.prediction != "v":
            raise ValueError("a student predicts v")
        return self

    def graph(self, kind: str, network: str, precision: str, method: str | None = None) -> Graph | None:
        """Return the graph with these properties, or None."""
        return find_graph(self.graphs, kind, network, precision, method)


def read_manifest(folder: Path) -> Manifest:
    """Read the manifest of a bundle's folder.

    Raises:
        InputError: the manifest is missing or invalid.
    """
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{folder} is not a bundle: cannot read {MANIFEST} ({error.strerror}).") from error
    return Manifest.parse_json(text, str(path))


def listed_files(folder: Path) -> set[str]:
    """Return the names of the files of the bundle in ``folder``; none without a valid manifest."""
    try:
        return {entry.file for entry in read_manifest(folder).files}
    except InputError:
        return set()


def unused_name(name: str, listed: Collection[str]) -> str:
    """Return ``name``, or another name if the manifest lists a file with this name.

    A listed file is never overwritten. An interrupted export then leaves the earlier bundle complete.
    """
    stem, dot, suffix = name.partition(".")
    return f"{stem}-2{dot}{suffix}" if name in listed else name


def replace_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a bundle, and then remove the files that only the earlier manifest lists.

    All files of ``manifest`` must exist.
    """
    earlier = listed_files(folder)
    write_json(folder / MANIFEST, manifest.model_dump(mode="json"))
    for name in earlier - {entry.file for entry in manifest.files}:
        (folder / name).unlink(missing_ok=True)
    if not manifest.graphs:
        (folder / PARITY).unlink(missing_ok=True)


def run_context(folder: Path, manifest: Manifest, device: torch.device) -> RunContext:
    """Return the input of the backends for the bundle's denoiser on ``device``."""
    weights: dict[tuple[str, str | None], str] = {("denoiser", None): manifest.model.sha256}
    weights |= {("encoder", method): entry.sha256 for method, entry in manifest.encoders.items()}
    if manifest.decoder:
        weights["decoder", None] = manifest.decoder.sha256
    return RunContext(
        folder=folder,
        device=device,
        name=manifest.name,
        denoiser=manifest.denoiser,
        weights=weights,
        graphs=manifest.graphs,
    )
