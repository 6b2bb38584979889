"""``rcdm bench``: how fast a bundle is on this machine."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rcdm_cli import __version__
from rcdm_cli.cli._command import command
from rcdm_cli.cli._device import choose_device
from rcdm_cli.cli._options import (
    BACKENDS,
    MACHINE_PANEL,
    PRECISIONS,
    Device,
    Guidance,
    Sampler,
    Steps,
    comma_separated_names,
    comma_separated_numbers,
)
from rcdm_cli.cli._output import Output
from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.core.resources import DEMO_BUNDLE, MANIFEST, bundle_path

if TYPE_CHECKING:
    import torch

    from rcdm_cli.bundle.bundle import Bundle


@command(
    "bench",
    panel="Models",
    examples=(
        "rcdm bench clothing32",
        "rcdm bench clothing32 --backend torch,openvino --precision fp32 --batch 1,8 --against ../RCDM",
    ),
)
def bench(
    out: Output,
    bundle_name: Annotated[
        str, typer.Argument(metavar="BUNDLE", help="Bundle to time: its name or its folder.")
    ] = DEMO_BUNDLE,
    backend: Annotated[
        str,
        typer.Option(
            "--backend",
            metavar="NAME[,NAME]",
            callback=comma_separated_names("backend", BACKENDS),
            help=f"Backends to time, among {', '.join(BACKENDS[1:])}; auto is all that can run here.",
            rich_help_panel=MACHINE_PANEL,
        ),
    ] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            metavar="NAME[,NAME]",
            callback=comma_separated_names("precision", PRECISIONS),
            help=f"Precisions to time, among {', '.join(PRECISIONS[1:])}; auto is all that a backend has.",
            rich_help_panel=MACHINE_PANEL,
        ),
    ] = "auto",
    batch: Annotated[
        str,
        typer.Option(
            "--batch",
            metavar="N[,N]",
            callback=comma_separated_numbers("batch", int, 1),
            help="Samples at a time.",
            rich_help_panel=MACHINE_PANEL,
        ),
    ] = "1,8",
    device: Device = "auto",
    sampler: Sampler = None,
    steps: Steps = None,
    guidance: Guidance = None,
    rounds: Annotated[
        int, typer.Option("--rounds", min=1, help="Rounds of single calls; each runs every backend once.")
    ] = 20,
    sample_rounds: Annotated[int, typer.Option("--sample-rounds", min=1, help="Rounds of whole samples.")] = 3,
    against: Annotated[
        Path | None,
        typer.Option(
            "--against",
            metavar="PATH",
            help="A checkout of github.com/facebookresearch/RCDM, to time the published implementation with the same"
            " weights.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Time calls of the denoiser and whole samples: every backend, precision and batch in turns.

    With the share of what a plain matrix product reaches in the same run, and the error against PyTorch at float32. The
    published implementation samples with its own sampler in the 100 steps of its README.
    """
    import torch

    from rcdm_cli.analyses.bench.compute import bench as measure
    from rcdm_cli.bundle.bundle import load_bundle
    from rcdm_cli.core.files import sha256
    from tools.published_rcdm import PublishedRcdm

    place = choose_device(device)
    folder = bundle_path(bundle_name)
    bundles = list(_runners(out, folder, place, backend.split(","), precision.split(",")))
    if not bundles:
        raise InputError(f"Nothing to time: no backend that was asked for has --precision {precision} here.")
    plain = load_bundle(folder, place)
    published = None
    if against is not None:
        published = PublishedRcdm(against, plain.model, 0, plain.manifest.schedule, place)
    settings = plain.settings(sampler, steps, guidance)
    with out.progress("Timing") as show:
        found = measure(
            bundles,
            [int(one) for one in batch.split(",")],
            settings,
            rounds=rounds,
            sample_rounds=sample_rounds,
            published=published,
            leave_out="auto" in backend.split(","),
            on_progress=show,
        )
    values = {
        "kind": "bench",
        "rcdm": __version__,
        "bundle": plain.manifest.name,
        "manifest_sha256": sha256(folder / MANIFEST),
        "machine": _machine(place),
        "torch": torch.__version__,
        "settings": {"sampler": settings.sampler, "steps": settings.steps, "guidance": settings.guidance},
        **found.as_json(),
    }
    out.result(values, _table(values))


def _runners(
    out: Output, folder: Path, place: "torch.device", backends: list[str], precisions: list[str]
) -> Iterator["Bundle"]:
    """The bundle once for each backend and precision to time; a backend that was named must be able to run."""
    from rcdm_cli.backends.select import BACKENDS as KNOWN
    from rcdm_cli.bundle.bundle import load_bundle
    from rcdm_cli.bundle.manifest import read_manifest, run_context

    everything = "auto" in backends
    where = run_context(folder, read_manifest(folder), place)
    for name in KNOWN if everything else backends:
        try:
            has = KNOWN[name].precisions(where)
        except RcdmError as error:
            if not everything:
                raise
            out.note(f"{name} is left out: {error}")
            continue
        for one in has if "auto" in precisions else [known for known in has if known in precisions]:
            yield load_bundle(folder, place, backend=name, precision=one, on_note=out.warn)


def _machine(place: "torch.device") -> dict[str, Any]:
    import torch

    if place.type == "cuda":
        return {"device": torch.cuda.get_device_name(place), "threads": torch.get_num_threads()}
    return {"device": f"CPU, {torch.backends.cpu.get_cpu_capability()}", "threads": torch.get_num_threads()}


def _table(values: Mapping[str, Any]) -> Iterator[str]:
    settings = values["settings"]
    yield f"{values['machine']['device']}, {values['machine']['threads']} threads, PyTorch {values['torch']}"
    work = ", ".join(f"{name} {count / 1e9:.2f}" for name, count in values["macs_per_call_and_sample"].items())
    peaks = ", ".join(f"{name} {2 * rate / 1e12:.2f}" for name, rate in values["peak_macs_per_second"].items())
    yield f"GMAC of a call for one sample: {work}; TFLOP/s of a matrix product: {peaks}"
    yield ""
    yield f"{'one call':<20}{'batch':>6}{'ms':>12}{'p10–p90':>22}{'of peak':>9}{'error':>9}{'× published':>13}"
    for one in values["calls"]:
        yield (
            f"{_runner(one)}{_ms(one)}{_percent(one['share_of_peak']):>9}{one['relative_error']:>9.0e}"
            f"{_times(one['speedup']):>13}"
        )
    yield ""
    ours = f"{settings['sampler']}, {settings['steps']} steps, guidance {settings['guidance']:g}"
    yield f"Whole samples, ours with {ours}:"
    yield f"{'':<20}{'batch':>6}{'ms':>12}{'p10–p90':>22}{'calls':>9}{'a second':>9}{'× published':>13}"
    for one in values["samples"]:
        yield (
            f"{_runner(one)}{_ms(one)}{one['calls']:>9}{one['samples_per_second']:>9.3g}{_times(one['speedup']):>13}"
        )


def _runner(one: Mapping[str, Any]) -> str:
    return f"{one['backend'] + ' ' + one['precision']:<20}{one['batch']:>6}"


def _ms(one: Mapping[str, Any]) -> str:
    spread = f"{1000 * one['p10_seconds']:.2f}–{1000 * one['p90_seconds']:.2f}"
    return f"{1000 * one['median_seconds']:>12.2f}{spread:>22}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def _times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}"
