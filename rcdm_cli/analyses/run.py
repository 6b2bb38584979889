"""Steps that all analyses share: the bundle, the sampling settings, the cache and the run folder."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rcdm_cli import __version__
from rcdm_cli.analyses.step_cache import StepCache
from rcdm_cli.bundle.arguments import require_integer
from rcdm_cli.bundle.bundle import Bundle, load_bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import sha256
from rcdm_cli.core.resources import MANIFEST
from rcdm_cli.diffusion.sampling import Settings
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.report.run import RESULTS

OnProgress = Callable[[str, int, int], None]
"""Progress callback: name of the stage, items done, number of items."""

OnNote = Callable[[str], None]
"""Callback for warnings, such as an unreadable image: one sentence."""


def no_progress(stage: str, done: int, total: int) -> None:
    """Ignore progress."""


def no_note(note: str) -> None:
    """Ignore a warning."""


def as_bundle(bundle: Bundle | str | Path) -> Bundle:
    """Return ``bundle``; load the bundle from a name or a folder for the CPU."""
    return bundle if isinstance(bundle, Bundle) else load_bundle(bundle)


def chosen_pairs(bundle: Bundle, methods: Sequence[str] | str | None, level: str) -> list[Pair]:
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


def provenance(bundle: Bundle, seed: int, settings: Settings) -> dict[str, Any]:
    """Return the first entries of ``results.json``: versions, hashes and settings of a run."""
    return {
        **_identity(bundle),
        "seed": seed,
        "settings": {"sampler": settings.sampler, "steps": settings.steps, "guidance": settings.guidance},
    }


@contextmanager
def run_cache(
    about: Bundle | dict[str, Any], out: str | Path | None, force: bool, cache: StepCache | None
) -> Iterator[StepCache]:
    """Provide the cache of a run: ``cache``, else ``parts`` in ``out``, which is deleted at the end of the run.

    Args:
        about: bundle of the run, or a JSON-able description of the inputs that all steps depend on.
        out: run folder; None if the run writes no files.
        force: whether to replace a finished run in ``out``.
        cache: cache given by the caller. The caller deletes this cache.

    Raises:
        InputError: ``out`` contains a finished run, and ``force`` is False.
    """
    if out is not None and (Path(out) / RESULTS).exists() and not force:
        raise InputError(f"{out} contains results. Give `force` to replace them, or another `out`.")
    if cache is not None or out is None:
        yield cache or StepCache()
        return
    own = StepCache(Path(out) / "parts", _identity(about) if isinstance(about, Bundle) else about)
    yield own
    own.discard()


def _identity(bundle: Bundle) -> dict[str, Any]:
    return {
        "rcdm": __version__,
        "bundle": bundle.manifest.name,
        "manifest_sha256": sha256(bundle.folder / MANIFEST),
        "backend": bundle.selection.backend,
        "precision": bundle.selection.precision,
    }
