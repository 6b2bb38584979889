"""What the commands with a results folder share: no finished run is replaced, and every run says how it was made."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rcdm_cli import __version__
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import sha256
from rcdm_cli.core.resources import MANIFEST

if TYPE_CHECKING:
    from rcdm_cli.analyses.step_cache import StepCache
    from rcdm_cli.bundle.bundle import Bundle
    from rcdm_cli.diffusion.sampling import Settings


def refuse_finished(folder: Path, force: bool) -> None:
    """End the command where its folder holds a finished run.

    Raises:
        InputError: ``results.json`` is there and ``force`` was not given.
    """
    if (folder / "results.json").exists() and not force:
        raise InputError(f"{folder} holds results already. Give --force to replace them, or another --out.")


def made_with(bundle: "Bundle", seed: int, settings: "Settings") -> dict[str, Any]:
    """What stands first in the results of a run, after its kind."""
    return {
        "rcdm": __version__,
        "bundle": bundle.manifest.name,
        "manifest_sha256": sha256(bundle.folder / MANIFEST),
        "backend": bundle.selection.backend,
        "precision": bundle.selection.precision,
        "seed": seed,
        "settings": {"sampler": settings.sampler, "steps": settings.steps, "guidance": settings.guidance},
    }


def step_cache_in(folder: Path, bundle: "Bundle") -> "StepCache":
    """Where a run keeps its parts, which hold for this bundle, backend and version of the program."""
    from rcdm_cli.analyses.step_cache import StepCache

    about = {
        "rcdm": __version__,
        "manifest_sha256": sha256(bundle.folder / MANIFEST),
        "backend": bundle.selection.backend,
        "precision": bundle.selection.precision,
    }
    return StepCache(folder / "parts", about)
