"""``rcdm bench``: measure the speed of a bundle on this machine."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._device import choose_device
from rcdm_cli.cli._options import (
    BACKENDS,
    BUNDLE,
    MACHINE_PANEL,
    PRECISIONS,
    Device,
    Guidance,
    Sampler,
    Steps,
    names_option,
    numbers_option,
    option,
)
from rcdm_cli.cli._output import Output, text_table
from rcdm_cli.core.resources import DEMO_BUNDLE, bundle_path


@command("bench", panel="Models")
def bench(
    out: Output,
    bundle_name: Annotated[str, typer.Argument(metavar="BUNDLE"), BUNDLE] = DEMO_BUNDLE,
    backend: Annotated[
        str,
        names_option(
            "--backend",
            BACKENDS,
            f"Backends to time: {', '.join(BACKENDS[1:])}; auto times all available backends.",
            panel=MACHINE_PANEL,
        ),
    ] = "auto",
    precision: Annotated[
        str,
        names_option(
            "--precision",
            PRECISIONS,
            f"Precisions to time: {', '.join(PRECISIONS[1:])}; auto times all precisions of a backend.",
            panel=MACHINE_PANEL,
        ),
    ] = "auto",
    batch: Annotated[str, numbers_option("--batch", int, 1, panel=MACHINE_PANEL)] = "1,8",
    device: Device = "auto",
    sampler: Sampler = None,
    steps: Steps = None,
    guidance: Guidance = None,
    rounds: Annotated[int, option(min=1)] = 20,
    sample_rounds: Annotated[int, option(min=1)] = 3,
) -> None:
    """Time denoiser calls and complete sampling for several backends, precisions and batch sizes.

    The runs of all backends and precisions are interleaved, because the speed of a machine varies. The result includes
    the multiply-accumulates per second of a call as a fraction of the rate of a matrix product, and the relative error
    of a call against PyTorch at float32.

    Args:
        bundle_name: Bundle to time: its name or its folder.
        batch: Batch sizes to time.
        rounds: Rounds of single calls; each round runs every backend once.
        sample_rounds: Rounds of complete sampling.

    Examples:
        $ rcdm bench clothing32
        $ rcdm bench clothing32 --backend torch,openvino --precision fp32 --batch 1,8
    """
    from rcdm_cli.analyses.bench.compute import bench as run_bench
    from rcdm_cli.analyses.bench.compute import open_contenders

    backends = backend.split(",")
    bundles = list(
        open_contenders(bundle_path(bundle_name), choose_device(device), backends, precision.split(","), out.note)
    )
    with out.progress("Timing") as show:
        result = run_bench(
            bundles,
            [int(size) for size in batch.split(",")],
            bundles[0].settings(sampler, steps, guidance),
            rounds=rounds,
            sample_rounds=sample_rounds,
            skip_large_batches="auto" in backends,
            on_progress=show,
        )
    values = result.as_json()
    out.result(values, _table(values))


def _table(values: Mapping[str, Any]) -> Iterator[str]:
    settings = values["settings"]
    yield f"{values['machine']['device']}, {values['machine']['threads']} threads, PyTorch {values['torch']}"
    macs = values["macs_per_call_and_sample"]["rcdm"] / 1e9
    peaks = ", ".join(f"{name} {2 * rate / 1e12:.2f}" for name, rate in values["peak_macs_per_second"].items())
    decoder = values["macs_per_call_and_sample"].get("decoder")
    decoding = f", of the decoder {decoder / 1e9:.2f}" if decoder else ""
    yield f"GMAC of a call for one sample: {macs:.2f}{decoding}; TFLOP/s of a matrix product: {peaks}"
    yield ""
    head = ("one call", "batch", "ms", "p10–p90", "of peak", "error")
    calls = [
        (*_timing(entry), _percent(entry["peak_fraction"]), f"{entry['relative_error']:.0e}")
        for entry in values["calls"]
    ]
    yield from text_table([head, *calls], text_columns=1)
    yield ""
    yield f"Sampling with {settings['sampler']}, {settings['steps']} steps, guidance {settings['guidance']:g}:"
    head = ("", "batch", "ms", "p10–p90", "calls", "per s")
    samples = [
        (*_timing(entry), str(entry["calls"]), f"{entry['samples_per_second']:.3g}") for entry in values["samples"]
    ]
    yield from text_table([head, *samples], text_columns=1)


def _timing(timing: Mapping[str, Any]) -> tuple[str, str, str, str]:
    median, p10, p90 = (1000 * timing[f"{key}_seconds"] for key in ("median", "p10", "p90"))
    return (
        f"{timing['backend']} {timing['precision']}",
        str(timing["batch"]),
        f"{median:.2f}",
        f"{p10:.2f}–{p90:.2f}",
    )


def _percent(fraction: float | None) -> str:
    return "–" if fraction is None else f"{100 * fraction:.0f} %"
