"""How fast a bundle is: calls of the denoiser and whole samples, against what the device can do."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor

from rcdm_cli.analyses.bench.timing import Times, in_turns, macs, macs_of_call, matrix_product
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.precision import has_bf16
from rcdm_cli.diffusion.conditioning import ConditioningProjection
from rcdm_cli.diffusion.noise import initial_noise, sample_seed
from rcdm_cli.diffusion.sampling import Settings
from tools.published_rcdm import PublishedRcdm

PUBLISHED = "published"

_PRODUCTS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

OnProgress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Timed:
    """One runner at one batch.

    Attributes:
        backend: its name, or ``published``.
        precision: of its matrix products.
        batch: samples at a time.
        times: of one call, or of one batch of whole samples.
        calls: of the network in one run: 1, or the steps (twice with guidance).
        relative_error: of one call, against PyTorch at float32: L2 norm of the difference over that of the output.
        share_of_peak: multiply-accumulates a second over those of a matrix product in the same precision, measured in
            the same rounds; None where the device has no such product, as a CPU in fp16 and in 8 bits.
        speedup: the published implementation's median over this one's; None where it was not timed.
    """

    backend: str
    precision: str
    batch: int
    times: Times
    calls: int
    relative_error: float | None
    share_of_peak: float | None
    speedup: float | None

    def as_json(self) -> dict[str, Any]:
        """The same as JSON-able values, with what is read most often."""
        values = asdict(self)
        times = values.pop("times")
        values |= {f"{name}_seconds": times[name] for name in ("median", "p10", "p90")} | {"runs": times["runs"]}
        values["samples_per_second"] = self.batch / self.times.median
        return values


@dataclass(frozen=True)
class Bench:
    """What was timed.

    Attributes:
        macs: multiply-accumulates of one call for one sample, by implementation.
        peaks: multiply-accumulates a second of a matrix product, by precision: the most of all rounds.
        calls: one call of the denoiser each.
        samples: whole samples each.
    """

    macs: dict[str, int]
    peaks: dict[str, float]
    calls: list[Timed]
    samples: list[Timed]

    def as_json(self) -> dict[str, Any]:
        """Every number."""
        return {
            "macs_per_call_and_sample": self.macs,
            "peak_macs_per_second": self.peaks,
            "calls": [one.as_json() for one in self.calls],
            "samples": [one.as_json() for one in self.samples],
        }


@torch.no_grad()
def bench(
    bundles: Sequence[Bundle],
    batches: Sequence[int],
    settings: Settings,
    *,
    rounds: int,
    sample_rounds: int,
    published: PublishedRcdm | None = None,
    leave_out: bool = False,
    on_progress: OnProgress = lambda done, total, note: None,
) -> Bench:
    """Time runners of one bundle in turns.

    A call of ours is the loop form: what depends on timestep and representation only is computed before a loop, once,
    and counts in whole samples. All run on the same weights, noise and representations, without TF32.

    Args:
        bundles: the same bundle on the same device, opened with one backend and precision each.
        batches: samples at a time, one after another.
        settings: of whole samples of ours; the published sampler takes its own steps.
        rounds: of single calls.
        sample_rounds: of whole samples.
        published: the published implementation with the same weights, on conditioning projection 0.
        leave_out: of a batch, runners that do not take so many samples; their ``on_note`` is told.
        on_progress: called with (rounds done, rounds, what is timed).

    Raises:
        InputError: a batch is too large for a runner that is not left out, or for all of them; nothing was timed yet.
    """
    fitting = [_fitting(bundles, batch, leave_out) for batch in batches]
    device = bundles[0].device
    spec = bundles[0].manifest.denoiser
    counted = {"rcdm": macs_of_call(spec)}
    if published is not None:
        x, h = torch.zeros(1, 3, spec.size, spec.size, device=device), _representations(bundles[0], 1)
        counted[PUBLISHED] = macs(lambda: published.call(x, torch.zeros(1, device=device), h))
    found = Bench(counted, {}, [], [])
    total = len(batches) * (rounds + sample_rounds)
    with torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False):
        for index, (batch, runners) in enumerate(zip(batches, fitting, strict=True)):
            before = index * (rounds + sample_rounds)
            show = _part(on_progress, before, total, f"calls, batch {batch}")
            _time_calls(found, runners, batch, rounds, published, show)
            show = _part(on_progress, before + rounds, total, f"samples, batch {batch}")
            _time_samples(found, runners, batch, sample_rounds, settings, published, show)
    return found


def _fitting(bundles: Sequence[Bundle], batch: int, leave_out: bool) -> list[Bundle]:
    """Those that take ``batch`` samples at a time."""
    fitting = []
    for bundle in bundles:
        most = bundle.engine.max_batch
        if most is None or batch <= most:
            fitting.append(bundle)
            continue
        reason = f"{_name(bundle)} takes batches up to {most}: `rcdm export BUNDLE --trt --max-batch` builds more."
        if not leave_out:
            raise InputError(reason)
        bundle.on_note(f"Left out at batch {batch}: {reason}")
    if not fitting:
        raise InputError(f"Nothing that can run here takes a batch of {batch}. Give smaller ones.")
    return fitting


def _time_calls(
    found: Bench,
    bundles: Sequence[Bundle],
    batch: int,
    rounds: int,
    published: PublishedRcdm | None,
    on_round: Callable[[int, int], None],
) -> None:
    first, device = bundles[0], bundles[0].device
    x, h = _noise(first, batch), _representations(first, batch)
    cond = first.model.conditioning(h, 0)
    t = torch.full((batch,), first.manifest.schedule.timesteps // 2, device=device)
    exact = first.model.denoiser(x, t, cond)
    modulations = first.model.denoiser.modulations(t, cond)

    calls: dict[str, Callable[[], Tensor]] = {}
    for bundle in bundles:
        calls[_name(bundle)] = _call(bundle, x, modulations)
    if published is not None:
        calls[PUBLISHED] = lambda: published.call(x, t, h)
    errors = {name: float((call() - exact).norm() / exact.norm()) for name, call in calls.items()}

    precisions = {bundle.choice.precision for bundle in bundles} | ({"fp32"} if published is not None else set())
    # Elsewhere PyTorch emulates them, a hundred times slower than what is to be measured. It has none in 8 bits.
    native = {"fp32"} | ({"bf16"} if has_bf16(device) else set()) | ({"fp16"} if device.type == "cuda" else set())
    products = {one: matrix_product(device, _PRODUCTS[one]) for one in sorted(precisions & native)}
    contenders: dict[str, Callable[[], object]] = {**calls, **{one: run for one, (run, _) in products.items()}}
    times = in_turns(contenders, rounds, device, on_round=on_round)
    rates = {one: work / times[one].median for one, (_, work) in products.items()}
    for one, rate in rates.items():
        found.peaks[one] = max(rate, found.peaks.get(one, 0.0))

    for name, backend, precision in _runners(bundles, published):
        work = found.macs[PUBLISHED if name == PUBLISHED else "rcdm"] * batch
        share = work / times[name].median / rates[precision] if precision in rates else None
        speedup = times[PUBLISHED].median / times[name].median if published is not None else None
        found.calls.append(Timed(backend, precision, batch, times[name], 1, errors[name], share, speedup))


def _time_samples(
    found: Bench,
    bundles: Sequence[Bundle],
    batch: int,
    rounds: int,
    settings: Settings,
    published: PublishedRcdm | None,
    on_round: Callable[[int, int], None],
) -> None:
    first = bundles[0]
    h = _representations(first, batch)
    cond = first.model.conditioning(h, 0).cpu()
    seeds = [sample_seed(0, image, 0) for image in range(batch)]
    contenders: dict[str, Callable[[], object]] = {}
    for bundle in bundles:
        contenders[_name(bundle)] = _sampling(bundle, cond, seeds, settings, batch)
    if published is not None:
        noise = _noise(first, batch)
        contenders[PUBLISHED] = lambda: published.sample(h, noise)
    times = in_turns(contenders, rounds, first.device, warm_up=False, on_round=on_round)
    ours = settings.steps * (1 if settings.guidance == 1 else 2)
    for name, backend, precision in _runners(bundles, published):
        calls = published.steps if published is not None and name == PUBLISHED else ours
        speedup = times[PUBLISHED].median / times[name].median if published is not None else None
        found.samples.append(Timed(backend, precision, batch, times[name], calls, None, None, speedup))


def _part(on_progress: OnProgress, before: int, total: int, note: str) -> Callable[[int, int], None]:
    """Progress of one part, as progress of the whole."""
    return lambda done, _: on_progress(before + done, total, note)


def _runners(bundles: Sequence[Bundle], published: PublishedRcdm | None) -> list[tuple[str, str, str]]:
    """Name, backend and precision of each."""
    ours = [(_name(bundle), bundle.choice.backend, str(bundle.choice.precision)) for bundle in bundles]
    return ours if published is None else [*ours, (PUBLISHED, PUBLISHED, "fp32")]


def _name(bundle: Bundle) -> str:
    return f"{bundle.choice.backend} at {bundle.choice.precision}"


def _call(bundle: Bundle, x: Tensor, modulations: Tensor) -> Callable[[], Tensor]:
    return lambda: bundle.engine(x, modulations)


def _sampling(
    bundle: Bundle, cond: Tensor, seeds: Sequence[int], settings: Settings, batch: int
) -> Callable[[], object]:
    return lambda: bundle.sample_cond(cond, seeds, settings, batch)


def _noise(bundle: Bundle, batch: int) -> Tensor:
    seeds = [sample_seed(0, image, 0) for image in range(batch)]
    return initial_noise(seeds, (3, bundle.size, bundle.size)).to(bundle.device)


def _representations(bundle: Bundle, batch: int) -> Tensor:
    """Random h (batch, D) for conditioning projection 0, as wide-spread as those it was trained on."""
    projection = cast(ConditioningProjection, bundle.model.conditioning.projections[0])
    drawn = torch.randn(batch, projection.in_features, generator=torch.Generator().manual_seed(0))
    return drawn.to(bundle.device) * projection.scale + projection.mean
