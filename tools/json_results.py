"""Models of what the commands that are no analyses print with ``--json``."""

from typing import Any, Literal

from pydantic import Field

from rcdm_cli.core.levels import Level
from rcdm_cli.core.spec import JsonObject, Spec, Text
from rcdm_cli.diffusion.spec import DenoiserSpec, Settings


class WidthAt(Spec):
    """Width of the representation at one (method, level)."""

    method: Text
    level: Level
    width: int


class EmbedOutput(Spec):
    """Output of ``rcdm embed``."""

    file: Text
    rcdm: Text
    bundle: Text = ""
    encoder: Text = ""
    manifest_sha256: Text = ""
    request: JsonObject = {}
    images: int
    unreadable: list[Any]
    representations: list[WidthAt]


class ReportedSection(Spec):
    """Section of a page."""

    kind: Text
    run: Text
    title: Text


class ReportOutput(Spec):
    """Output of ``rcdm report``."""

    page: Text
    title: Text
    sections: list[ReportedSection]


class TrainOutput(Spec):
    """Output of ``rcdm train`` and ``rcdm autoencoder``."""

    checkpoint: Text
    steps: int
    began_at: int


class PretrainOutput(TrainOutput):
    """Output of ``rcdm pretrain``."""

    encoder: Text


class DistillOutput(TrainOutput):
    """Output of ``rcdm distill``: bundle and measurements of the students, by number of steps."""

    students: dict[str, dict[str, Any]]


class ExportOutput(Spec):
    """Output of ``rcdm export``. ``name`` and ``steps`` are present for a run; int8 and fp8 if they were written."""

    bundle: Text
    name: Text = ""
    steps: int = 0
    written: list[Text]
    up_to_date: list[Text]
    worst_relative_error: float | None
    int8: dict[str, Any] = {}
    fp8: dict[str, Any] = {}


class ImportOutput(Spec):
    """Output of ``rcdm import``."""

    bundle: Text
    name: Text
    denoiser: DenoiserSpec


class PulledFile(Spec):
    """Published file."""

    part: Text
    url: Text
    licence: Text
    size: int | None
    downloaded: bool


class PullOutput(Spec):
    """Output of ``rcdm pull``. ``name`` is absent with ``--dry-run``."""

    bundle: Text
    name: Text = ""
    files: list[PulledFile]


class InfoOutput(Spec):
    """Output of ``rcdm info``. Numbers that JSON does not have (NaN, infinity) are texts."""

    path: Text
    kind: Text
    content: dict[str, Any]
    properties: dict[str, Any]


class ListOutput(Spec):
    """Output of ``rcdm list``: the rows of each table."""

    methods: list[dict[str, Text]] = []
    bundles: list[dict[str, Text]] = []
    recipes: list[dict[str, Text]] = []


class CheckOutput(Spec):
    """One check of ``rcdm doctor``."""

    name: Text
    status: Literal["ok", "absent", "failed"]
    detail: Text


class DoctorOutput(Spec):
    """Output of ``rcdm doctor``."""

    ok: bool
    checks: list[CheckOutput]


class Machine(Spec):
    """Device and number of threads."""

    device: Text
    threads: int


class TimingOutput(Spec):
    """Timing of one backend, precision and batch size."""

    backend: Text
    precision: Text
    batch: int
    calls: int
    relative_error: float | None
    peak_fraction: float | None
    median_seconds: float
    p10_seconds: float
    p90_seconds: float
    runs: int
    samples_per_second: float


class BenchOutput(Spec):
    """Output of ``rcdm bench``."""

    kind: Literal["bench"]
    rcdm: Text
    bundle: Text
    manifest_sha256: Text
    machine: Machine
    torch: Text
    settings: Settings
    macs_per_call_and_sample: dict[str, int]
    peak_macs_per_second: dict[str, float]
    calls: list[TimingOutput]
    samples: list[TimingOutput] = Field(default=[])


OUTPUTS: dict[str, type[Spec]] = {
    "embed": EmbedOutput,
    "report": ReportOutput,
    "train": TrainOutput,
    "autoencoder": TrainOutput,
    "pretrain": PretrainOutput,
    "distill": DistillOutput,
    "export": ExportOutput,
    "import": ImportOutput,
    "pull": PullOutput,
    "info": InfoOutput,
    "list": ListOutput,
    "doctor": DoctorOutput,
    "bench": BenchOutput,
}
"""Model of the output of each command that is no analysis."""
