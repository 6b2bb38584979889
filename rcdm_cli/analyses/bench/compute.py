"""Times of denoiser calls and of complete sampling, compared with the device's matrix multiplication rate."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rcdm_cli import __version__
from rcdm_cli.analyses.bench.timing import Times, matrix_product, time_in_turns
from rcdm_cli.backends.select import BACKENDS
from rcdm_cli.bundle.arguments import require_name
from rcdm_cli.bundle.bundle import Bundle, load_bundle
from rcdm_cli.bundle.manifest import read_manifest, run_context
from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.core.files import sha256
from rcdm_cli.core.precision import has_bf16
from rcdm_cli.core.resources import MANIFEST
from rcdm_cli.diffusion.flops import count_macs, count_macs_of_call
from rcdm_cli.diffusion.inference import DTYPES
from rcdm_cli.diffusion.noise import initial_noise, sample_seed
from rcdm_cli.diffusion.spec import Settings

OnProgress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Timing:
    """Times of one contender at one batch size.

    Attributes:
        backend: name of the contender.
        precision: number format of the matrix products.
        batch: batch size.
        times: times of one call, or of sampling one batch.
        calls: network calls in one run: 1, or the sampling steps (twice with guidance).
        relative_error: relative L2 error of one call against PyTorch at float32; None for sampling.
        peak_fraction: multiply-accumulates per second, divided by the rate of a matrix product at the same precision,
            measured in the same rounds; None for sampling, and for precisions that the device emulates.
    """

    backend: str
    precision: str
    batch: int
    times: Times
    calls: int
    relative_error: float | None = None
    peak_fraction: float | None = None

    def as_json(self) -> dict[str, Any]:
        """Return all values and derived values as JSON-compatible values."""
        values = asdict(self)
        times = values.pop("times")
        return {**values, **times, "samples_per_second": self.batch / self.times.median_seconds}


@dataclass(frozen=True)
class BenchResult:
    """All timings.

    Attributes:
        bundle: the timed bundle in float32 on PyTorch.
        settings: sampling settings of the backends.
        macs: multiply-accumulates of one call for one sample, by implementation; and of the decoder of a latent space,
            which runs once per sample.
        peaks: multiply-accumulates per second of a matrix product, by precision; the maximum over batch sizes.
        calls: timings of single denoiser calls.
        samples: timings of complete sampling.
    """

    bundle: Bundle
    settings: Settings
    macs: dict[str, int]
    peaks: dict[str, float]
    calls: list[Timing]
    samples: list[Timing]

    def as_json(self) -> dict[str, Any]:
        """Return all values as JSON-compatible values."""
        return {
            "kind": "bench",
            "rcdm": __version__,
            "bundle": self.bundle.manifest.name,
            "manifest_sha256": sha256(self.bundle.folder / MANIFEST),
            "machine": {"device": device_name(self.bundle.device), "threads": torch.get_num_threads()},
            "torch": torch.__version__,
            "settings": self.settings.model_dump(),
            "macs_per_call_and_sample": self.macs,
            "peak_macs_per_second": self.peaks,
            "calls": [timing.as_json() for timing in self.calls],
            "samples": [timing.as_json() for timing in self.samples],
        }


class Inputs(NamedTuple):
    """Inputs of one batch.

    Attributes:
        x: noise (B, C, H, W) from ``seeds``.
        t: timesteps (B,).
        h: representations (B, D).
        cond: conditioning vectors (B, W) of ``h``.
        modulations: modulations (B, M) of ``t`` and ``cond``.
        seeds: B seeds.
    """

    x: Tensor
    t: Tensor
    h: Tensor
    cond: Tensor
    modulations: Tensor
    seeds: list[int]


def _inputs(bundle: Bundle, batch: int) -> Inputs:
    """Return the middle timestep, and random inputs with the statistics of the training set at projection 0."""
    seeds = [sample_seed(0, str(image), 0) for image in range(batch)]
    x = initial_noise(seeds, bundle.manifest.denoiser.input_shape).to(bundle.device)
    t = torch.full((batch,), bundle.manifest.schedule.timesteps // 2, device=bundle.device)
    h = bundle.model.conditioning.random_h(0, batch, torch.Generator().manual_seed(0))
    cond = bundle.model.conditioning(h, 0)
    return Inputs(x, t, h, cond, bundle.model.denoiser.modulations(t, cond), seeds)


class Contender(NamedTuple):
    """An implementation of the denoiser.

    Attributes:
        backend: name in the results.
        precision: number format of the matrix products.
        sampling_calls: network calls in one run of ``sample``.
        call: calls the network once.
        sample: generates one sample per row of the inputs.
    """

    backend: str
    precision: str
    sampling_calls: int
    call: Callable[[Inputs], Tensor]
    sample: Callable[[Inputs], object]

    @property
    def name(self) -> str:
        """Backend and precision."""
        return f"{self.backend} at {self.precision}"


def _contender(bundle: Bundle, settings: Settings) -> Contender:
    return Contender(
        bundle.selection.backend,
        bundle.selection.precision,
        bundle.calls(settings),
        lambda inputs: bundle.engine(inputs.x, inputs.modulations),
        lambda inputs: bundle.sample_cond(inputs.cond.cpu(), inputs.seeds, settings, len(inputs.x)),
    )


def device_name(device: torch.device) -> str:
    """Return the name of a GPU, ``MPS``, or the instruction set of the CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "mps":
        return "MPS"
    return f"CPU, {torch.backends.cpu.get_cpu_capability()}"


def open_contenders(
    folder: Path,
    device: torch.device,
    backends: Sequence[str],
    precisions: Sequence[str],
    on_note: Callable[[str], None] = lambda note: None,
) -> Iterator[Bundle]:
    """Open a bundle once per backend and precision.

    Args:
        folder: folder of the bundle.
        device: device of the denoiser.
        backends: names of backends. ``auto`` selects all backends; unavailable backends are left out with a note.
        precisions: precisions. ``auto`` selects all precisions of a backend.
        on_note: called with a sentence for the user.

    Raises:
        RcdmError: A named backend cannot run the bundle.
        InputError: A backend is unknown, or no backend has any of the precisions.
    """
    for name in backends:
        require_name("backend", name, ("auto", *BACKENDS))
    context = run_context(folder, read_manifest(folder), device)
    found = False
    for name in BACKENDS if "auto" in backends else backends:
        try:
            available = BACKENDS[name].precisions(context)
        except RcdmError as error:
            if "auto" not in backends:
                raise
            on_note(f"{name} is left out: {error}")
            continue
        for precision in available:
            if "auto" in precisions or precision in precisions:
                found = True
                yield load_bundle(folder, device, backend=name, precision=precision, on_note=on_note)
    if not found:
        raise InputError(f"None of the backends has the `precision` {' or '.join(precisions)} here.")


@torch.no_grad()
def bench(
    bundles: Sequence[Bundle],
    batches: Sequence[int],
    settings: Settings,
    *,
    rounds: int,
    sample_rounds: int,
    baseline: Contender | None = None,
    skip_large_batches: bool = False,
    on_progress: OnProgress = lambda done, total, note: None,
) -> BenchResult:
    """Time several backends of one bundle in interleaved runs.

    All contenders use the same weights, noise and representations, without TF32. A call of a backend takes precomputed
    modulations, as in the sampling loop; sampling includes computing them.

    Args:
        bundles: the same bundle on the same device, opened once per backend and precision.
        batches: batch sizes, timed one after another.
        settings: sampling settings of the backends. The baseline uses its own sampler.
        rounds: rounds of single calls.
        sample_rounds: rounds of sampling.
        baseline: another implementation with the same weights at conditioning projection 0.
        skip_large_batches: whether to leave out backends that do not support a batch size, with a note, instead of
            raising an error.
        on_progress: called with (finished rounds, total rounds, note).

    Raises:
        InputError: A batch size is too large for a backend, or for all backends. Raised before any timing.
    """
    fitting = [_fitting(bundles, batch, skip_large_batches) for batch in batches]
    reference = load_bundle(bundles[0].folder, bundles[0].device)
    result = BenchResult(reference, settings, {"rcdm": count_macs_of_call(reference.manifest.denoiser)}, {}, [], [])
    if reference.decoder is not None:
        latents = torch.zeros(1, *reference.manifest.denoiser.input_shape, device=reference.device)
        result.macs["decoder"] = count_macs(partial(reference.decoder, latents))
    if baseline is not None:
        result.macs[baseline.backend] = count_macs(partial(baseline.call, _inputs(reference, 1)))
    total = len(batches) * (rounds + sample_rounds)
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
        for index, (batch, own) in enumerate(zip(batches, fitting, strict=True)):
            before = index * (rounds + sample_rounds)
            contenders = [_contender(bundle, settings) for bundle in own] + ([baseline] if baseline else [])
            inputs = _inputs(reference, batch)
            for bundle in own:
                _ = bundle.decoder  # loaded before the timing
            report = _offset(on_progress, before, total, f"calls, batch {batch}")
            _time_calls(result, contenders, inputs, rounds, report)
            report = _offset(on_progress, before + rounds, total, f"samples, batch {batch}")
            runs = {contender.name: partial(contender.sample, inputs) for contender in contenders}
            times = time_in_turns(runs, sample_rounds, reference.device, warm_up=False, on_round=report)
            for contender in contenders:
                sampled = times[contender.name], contender.sampling_calls
                result.samples.append(Timing(contender.backend, contender.precision, batch, *sampled))
    return result


def _fitting(bundles: Sequence[Bundle], batch: int, skip: bool) -> list[Bundle]:
    """Return the bundles whose backend supports the batch size."""
    fitting = []
    for bundle in bundles:
        largest = bundle.engine.max_batch
        if largest is None or batch <= largest:
            fitting.append(bundle)
            continue
        reason = (
            f"{bundle.selection.backend} at {bundle.selection.precision} supports batches up to {largest}. `rcdm "
            "export` with `trt` and a larger `max_batch` builds another plan."
        )
        if not skip:
            raise InputError(reason)
        bundle.on_note(f"Left out at batch {batch}: {reason}")
    if not fitting:
        raise InputError(f"No backend supports a batch of {batch} here. Choose a smaller `batch`.")
    return fitting


def _time_calls(
    result: BenchResult,
    contenders: Sequence[Contender],
    inputs: Inputs,
    rounds: int,
    on_round: Callable[[int, int], None],
) -> None:
    device, batch = result.bundle.device, len(inputs.x)
    calls = {contender.name: partial(contender.call, inputs) for contender in contenders}
    expected = result.bundle.model.denoiser.denoise_with(inputs.x, inputs.modulations)
    errors = {name: float((call() - expected).norm() / expected.norm()) for name, call in calls.items()}

    precisions = {contender.precision for contender in contenders}
    # PyTorch emulates other precisions a hundred times slower, and has no 8-bit matrix product.
    native = {"fp32"} | ({"bf16"} if has_bf16(device) else set()) | ({"fp16"} if device.type != "cpu" else set())
    products = {name: matrix_product(device, DTYPES[name]) for name in sorted(precisions & native)}
    runs: dict[str, Callable[[], object]] = {**calls, **{name: run for name, (run, _) in products.items()}}
    times = time_in_turns(runs, rounds, device, on_round=on_round)
    rates = {name: macs / times[name].median_seconds for name, (_, macs) in products.items()}
    for name, rate in rates.items():
        result.peaks[name] = max(rate, result.peaks.get(name, 0.0))

    for backend, precision, name in ((each.backend, each.precision, each.name) for each in contenders):
        macs = result.macs.get(backend, result.macs["rcdm"]) * batch
        fraction = macs / times[name].median_seconds / rates[precision] if precision in rates else None
        result.calls.append(Timing(backend, precision, batch, times[name], 1, errors[name], fraction))


def _offset(on_progress: OnProgress, before: int, total: int, note: str) -> Callable[[int, int], None]:
    """Report progress of one part as progress of the whole."""
    return lambda done, _: on_progress(before + done, total, note)
