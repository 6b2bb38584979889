"""Shared parts of all analyses: keyword arguments, bundle and sampling settings, cache and run folder."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from rcdm_cli import __version__
from rcdm_cli.analyses.shards import recording_shard
from rcdm_cli.analyses.step_cache import PARTS, StepCache, encode_pairs, tensors_hash
from rcdm_cli.bundle.arguments import require_integer
from rcdm_cli.bundle.bundle import Bundle, load_bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import sha256
from rcdm_cli.core.outputs import output_folder
from rcdm_cli.core.resources import MANIFEST
from rcdm_cli.core.shard import Shard
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.diffusion.spec import Settings
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.report.run import RESULTS, remove_replaced, replacing_run

OnProgress = Callable[[str, int, int], None]
"""Progress callback: name of the stage, items done, number of items."""

OnNote = Callable[[str], None]
"""Callback for warnings, such as an unreadable image: one sentence."""


class StepArguments(TypedDict, total=False):
    """Keyword arguments of the steps of an analysis.

    Attributes:
        seed: seed of all random numbers (noise, random starts, resamples), at least 0. The noise of a sample also
            depends on the name of the image, see ``sample_seed``. Default: 0.
        batch: maximum number of images or samples per batch, at least 1. Does not change the results. Default: 32.
        on_progress: called with (stage, items done, items). Default: no call.
        on_note: called with a sentence for each unreadable image, and about images that are left out. Default: no call.
    """

    seed: int
    batch: int
    on_progress: OnProgress
    on_note: OnNote


class RunArguments(StepArguments, total=False):
    """Keyword arguments that every analysis function accepts, in addition to ``StepArguments``.

    Attributes:
        out: run folder, for ``results.json``, images and ``report.html``. Default: None, which writes no files.
        force: whether to replace a finished run in ``out``, which stays complete until the new run is. Default: False.
        cache: cache of expensive steps. Default: a folder in ``out`` that is deleted at the end of the run.
        request: JSON-able description of the call for ``results.json``, such as the command line of ``rcdm``. Default:
            None.
        shard: steps to compute in this run. The run then ends with ``ShardFinished``, and ``out`` contains the computed
            steps. Default: None, which computes all steps.
        shards: folders of finished shards, whose steps are not computed again. Default: none.
    """

    out: str | Path | None
    force: bool
    cache: StepCache | None
    request: Mapping[str, Any] | None
    shard: Shard | None
    shards: Sequence[Path]


class AnalysisArguments(RunArguments, total=False):
    """Keyword arguments of every analysis of samples, in addition to ``RunArguments``.

    Attributes:
        methods: one or several methods of the bundle. Default: None, which selects all methods.
        level: one or several levels of the bundle, or ``both`` for backbone and projector. Default: None, which selects
            all levels.
        sampler: ``ddpm``, ``ddim`` or ``dpmpp``. Default: None, which selects the sampler of the bundle.
        steps: number of sampling steps, at least 1. Default: None, which selects the number of the bundle.
        guidance: scale of classifier-free guidance, at least 0; 1 disables guidance. Default: None, which selects the
            scale of the bundle.
    """

    methods: Sequence[str] | str | None
    level: str | Sequence[str] | None
    sampler: str | None
    steps: int | None
    guidance: float | None


def no_progress(stage: str, done: int, total: int) -> None:
    """Ignore progress."""


def no_note(note: str) -> None:
    """Ignore a warning."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One call of an analysis function: the checked ``RunArguments``.

    Attributes:
        seed: seed of all random numbers.
        batch: maximum number of images or samples per batch.
        out: folder to write to, which becomes the run folder; None if the run writes no files.
        cache: cache of expensive steps.
        request: description of the call; None if the caller gave none.
        on_progress: called with (stage, items done, items).
        on_note: called with a sentence for each unreadable image.
    """

    seed: int = 0
    batch: int = 32
    out: Path | None = None
    cache: StepCache = field(default_factory=StepCache)
    request: Mapping[str, Any] | None = None
    on_progress: OnProgress = no_progress
    on_note: OnNote = no_note

    @property
    def requested(self) -> dict[str, Any]:
        """Entry ``request`` of ``results.json``; empty without a request."""
        return {} if self.request is None else {"request": dict(self.request)}


@dataclass(frozen=True, kw_only=True)
class SamplingRun(Run):
    """One call of an analysis function that samples.

    Attributes:
        bundle: bundle with encoders and denoiser.
        pairs: (method, level) pairs.
        settings: sampler, steps and guidance scale.
    """

    bundle: Bundle
    pairs: list[Pair]
    settings: Settings

    def provenance(self) -> dict[str, Any]:
        """Return the first entries of ``results.json``: versions, hashes and settings."""
        return {**self.requested, **_identity(self.bundle), "seed": self.seed, "settings": self.settings.model_dump()}

    def encode(self, images: Sequence[Pixels]) -> dict[Pair, Tensor]:
        """Return the representations of images uint8 (H, W, 3): float32 (N, D) by pair. See ``encode_pairs``."""
        return encode_pairs(self.bundle, images, self.pairs, batch=self.batch, cache=self.cache)

    def encode_samples(self, pair: Pair, samples: Pixels) -> Tensor:
        """Return the representations (..., D) of samples uint8 (..., S, S, 3) at one (method, level)."""
        flat = list(samples.reshape(-1, *samples.shape[-3:]))
        h = self.bundle.encode(flat, method=pair.method, level=pair.level, batch=self.batch)
        return h.reshape(*samples.shape[:-3], -1)

    def sample(
        self,
        h: Mapping[Pair, Tensor],
        seeds: Sequence[Sequence[int]],
        *,
        on_progress: Callable[[int, int], None] | None = None,
        on_samples: Callable[[int, Pixels], None] = lambda start, samples: None,
    ) -> dict[Pair, Pixels]:
        """Generate K samples of each of N representations, from the same noise at every (method, level).

        Each batch is cached, so that an interrupted run loses at most one batch.

        Args:
            h: (N, D), by pair.
            seeds: N lists of K seeds.
            on_progress: called with (samples done, samples). By default, the progress of the stage ``Sampling``.
            on_samples: called with each batch of samples in the order (pair, N, K): index of the first sample, uint8
                (B, S, S, 3).

        Returns:
            uint8 (N, K, S, S, 3), by pair.

        Raises:
            ShardFinished: the run is a shard, and its batches are computed.
        """
        num_samples, show = len(seeds[0]), on_progress or partial(self.on_progress, "Sampling")
        cond = torch.cat([self.bundle.condition(one, method=pair.method, level=pair.level) for pair, one in h.items()])
        cond = cond.repeat_interleave(num_samples, dim=0)
        flat_seeds = list(chain.from_iterable(seeds)) * len(h)
        parts = []
        for start in range(0, len(flat_seeds), self.batch):
            rows, batch_seeds = cond[start : start + self.batch], flat_seeds[start : start + self.batch]

            def sample(rows: Tensor = rows, batch_seeds: list[int] = batch_seeds) -> dict[str, Tensor]:
                samples = self.bundle.sample_cond(rows, batch_seeds, self.settings, len(batch_seeds))
                return {"samples": torch.from_numpy(samples)}

            key = {
                "step": "samples",
                "cond": tensors_hash(rows),
                "seeds": batch_seeds,
                "settings": self.settings.model_dump(),
            }
            part = self.cache.compute_divided(key, sample)
            if part is None:
                continue
            parts.append(part["samples"].numpy())
            on_samples(start, parts[-1])
            show(start + len(batch_seeds), len(flat_seeds))
        self.cache.require_all()
        flat = np.concatenate(parts)
        return dict(zip(h, flat.reshape(len(h), len(seeds), num_samples, *flat.shape[1:]), strict=True))


@contextmanager
def open_run(
    about: dict[str, Any],
    *,
    out: str | Path | None = None,
    force: bool = False,
    cache: StepCache | None = None,
    request: Mapping[str, Any] | None = None,
    shard: Shard | None = None,
    shards: Sequence[Path] = (),
    **options: Unpack[StepArguments],
) -> Iterator[Run]:
    """Check ``RunArguments`` and open the cache. At the end of the run, the default cache is deleted.

    Args:
        about: JSON-able description of the inputs that all cached steps depend on.
        out: run folder.
        force: whether to replace a finished run.
        cache: cache of the caller, which is not deleted.
        request: description of the call.
        shard: steps to compute.
        shards: folders of finished shards.
        **options: see ``StepArguments``.

    Raises:
        InputError: a value is out of range, ``out`` contains a finished run and ``force`` is False, ``out`` cannot be
            written, or another process writes to ``out``.
        ShardFinished: the steps of ``shard`` are computed.
    """
    run = Run(out=None if out is None else Path(out), request=request, **options)
    require_at_least(0, seed=run.seed)
    require_at_least(1, batch=run.batch)
    with ExitStack() as stack:
        if run.out:
            stack.enter_context(output_folder(run.out))
            remove_leftovers(run.out)
            if (run.out / RESULTS).exists():
                if not force or shard:
                    raise InputError(f"{out} contains results. Give `force` to replace them, or another `out`.")
                run = replace(run, out=stack.enter_context(replacing_run(run.out)))
        own_cache = None
        if run.out and cache is None:
            own_cache = StepCache(run.out / PARTS, about, shard, [folder / PARTS for folder in shards])
            stack.enter_context(recording_shard(run.out, shard, request))
        yield replace(run, cache=cache or own_cache or run.cache)
        if own_cache:
            own_cache.discard()


def remove_leftovers(out: Path) -> None:
    """Remove what a killed process left of finished runs: cached parts, and the run that was replaced.

    The caller holds the lock of ``out``.
    """
    remove_replaced(out)
    if (out / RESULTS).exists():
        StepCache(out / PARTS).discard()


@contextmanager
def open_sampling_run(
    bundle: Bundle | str | Path,
    *,
    methods: Sequence[str] | str | None = None,
    level: str | Sequence[str] | None = None,
    sampler: str | None = None,
    steps: int | None = None,
    guidance: float | None = None,
    **options: Unpack[RunArguments],
) -> Iterator[SamplingRun]:
    """Open the bundle, check ``AnalysisArguments`` and open the cache.

    Args:
        bundle: bundle, or its name or folder.
        methods: methods of the bundle, as in ``AnalysisArguments``.
        level: levels of the encoders, as in ``AnalysisArguments``.
        sampler: sampler.
        steps: number of sampling steps.
        guidance: guidance scale.
        **options: see ``RunArguments``.

    Raises:
        InputError: a value is out of range, or ``out`` contains a finished run and ``force`` is False.
    """
    bundle = as_bundle(bundle)
    pairs = chosen_pairs(bundle, methods, level)
    settings = bundle.settings(sampler, steps, guidance)
    with open_run(_identity(bundle), **options) as run:
        yield SamplingRun(**vars(run), bundle=bundle, pairs=pairs, settings=settings)


def as_bundle(bundle: Bundle | str | Path) -> Bundle:
    """Return ``bundle``; load the bundle from a name or a folder for the CPU."""
    return bundle if isinstance(bundle, Bundle) else load_bundle(bundle)


def chosen_pairs(bundle: Bundle, methods: Sequence[str] | str | None, level: str | Sequence[str] | None) -> list[Pair]:
    """Return the (method, level) pairs of ``methods`` (None selects all methods) and ``level``.

    Raises:
        InputError: the bundle has no such method or level.
    """
    return bundle.pairs([methods] if isinstance(methods, str) else methods, level)


def require_at_least(least: int, **values: int | None) -> None:
    """Check that every value is None or an integer of at least ``least``.

    Raises:
        InputError: a value is invalid. The message names the parameter.
    """
    for name, value in values.items():
        if value is not None:
            require_integer(name, value, least)


def _identity(bundle: Bundle) -> dict[str, Any]:
    return {
        "rcdm": __version__,
        "bundle": bundle.manifest.name,
        "manifest_sha256": sha256(bundle.folder / MANIFEST),
        "backend": bundle.selection.backend,
        "precision": bundle.selection.precision,
    }
