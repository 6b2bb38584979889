"""``rcdm pull``: download published weights and make a bundle."""

import sys
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._environment import OFFLINE, cache_folder, offline
from rcdm_cli.cli._options import LEVEL_HELP, OUTPUT_FOLDER, OUTPUT_PANEL, Cache, DryRun, Force, choice_option, option
from rcdm_cli.cli._output import Output
from rcdm_cli.cli.import_ import architecture
from rcdm_cli.core.errors import InputError, unknown_name_message

if TYPE_CHECKING:
    from rcdm_cli.core.download import Downloaded
    from rcdm_cli.encoders.published import PublishedFile


@dataclass(frozen=True)
class RequiredFile:
    """A published file and its download, if the file is in the cache."""

    part: str
    source: "PublishedFile"
    path: Path
    download: "Downloaded | None"
    size: int | None

    def as_json(self) -> dict[str, Any]:
        """Return the part, address, licence and size as JSON-able values."""
        return {
            "part": self.part,
            "url": self.source.url,
            "licence": self.source.licence,
            "size": self.size,
            "downloaded": self.download is not None,
        }


PUBLISHED_LEVELS = ("backbone", "projector")


@command("pull", panel="Models")
def pull(
    out: Output,
    method: Annotated[str, typer.Argument(metavar="NAME")],
    level: Annotated[str, choice_option("--level", PUBLISHED_LEVELS, LEVEL_HELP)] = "backbone",
    folder: Annotated[
        Path | None,
        option(
            "PATH",
            flags=("--out", "-o"),
            panel=OUTPUT_PANEL,
            show_default="engines/imagenet128-NAME, or engines/imagenet128-NAME-projector",
        ),
        OUTPUT_FOLDER,
    ] = None,
    yes: Annotated[bool, option(flags=("--yes", "-y"))] = False,
    cache: Cache = None,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Download a published encoder and the RCDM trained on it, and make a bundle from both.

    Size, address and licence are shown before the download. The licence of the RCDM weights is CC-BY-NC, which excludes
    commercial use. Interrupted downloads are resumed. With RCDM_OFFLINE=1, nothing is downloaded.

    Args:
        method: Method with published weights (see `rcdm list methods`).
        folder: Folder of the bundle.
        yes: Accept the licences without a prompt.

    Examples:
        $ rcdm pull dino
        $ rcdm pull vicreg --level projector --yes
        $ rcdm pull simclr --dry-run
    """
    from rcdm_cli.bundle.files import refuse_existing_bundle
    from rcdm_cli.bundle.import_published import import_published
    from rcdm_cli.core.outputs import output_folder
    from rcdm_cli.diffusion.published import UNetOptions
    from rcdm_cli.diffusion.spec import ScheduleSpec

    encoder, rcdm = _sources(method, level)
    folder = folder or Path("engines") / (f"imagenet128-{method}" + ("" if level == "backbone" else f"-{level}"))
    with nullcontext() if dry_run else output_folder(folder):
        refuse_existing_bundle(folder, force)
    cached = cache_folder(cache) / method
    files = [_find(part, source, cached) for part, source in (("encoder", encoder), ("RCDM", rcdm))]
    plan = [item.as_json() for item in files]
    for item in files:
        size = "size unknown" if item.size is None else f"{item.size / 1e6:.0f} MB"
        status = " (already downloaded)" if item.download else ""
        out.note(f"{item.part}: {size}, {item.source.licence}, {item.source.url}{status}")
    missing = [item for item in files if not item.download]
    if dry_run:
        out.result({"bundle": folder, "files": plan}, [item.source.url for item in missing] or [folder])
        return
    if missing and not yes:
        _confirm(sorted({item.source.licence for item in missing}))
    encoder_file, rcdm_file = (item.download or _download(out, item) for item in files)
    manifest = import_published(
        rcdm_file.path,
        str(encoder_file.path),
        folder,
        method=method,
        level=level,
        options=UNetOptions(),
        schedule=ScheduleSpec(kind="linear"),
        origin={**_origin(rcdm_file), "encoder": _origin(encoder_file)},
        force=force,
        on_note=out.note,
    )
    out.note(architecture(manifest))
    out.result({"bundle": folder, "name": manifest.name, "files": plan}, [folder])


def _sources(method: str, level: str) -> tuple["PublishedFile", "PublishedFile"]:
    from rcdm_cli.encoders.published import PUBLISHED

    if method not in PUBLISHED:
        raise InputError(unknown_name_message("published method", method, PUBLISHED))
    published = PUBLISHED[method]
    if level not in published.rcdm:
        raise InputError(f"No RCDM is published for {method} at {level}, only at {', '.join(published.rcdm)}.")
    return published.encoder, published.rcdm[level]


def _find(part: str, source: "PublishedFile", folder: Path) -> RequiredFile:
    """Look for a file in the cache.

    Raises:
        InputError: the file is not in the cache and downloads are disabled.
    """
    from rcdm_cli.core.download import find_download, remote_size

    path = folder / source.file
    found = find_download(path, source.url, source.sha256)
    if found is None and offline():
        raise InputError(f"{source.url} was not downloaded before, and {OFFLINE} disables downloads.")
    return RequiredFile(part, source, path, found, found.size if found else remote_size(source.url))


def _confirm(licences: list[str]) -> None:
    question = f"Download under {' and '.join(licences)}?"
    if not sys.stdin.isatty():
        raise InputError(f"{question} stdin is not a terminal; use --yes to accept the licences.")
    if not typer.confirm(question, err=True):
        raise InputError("The licences were not accepted. Nothing was downloaded.")


def _download(out: Output, file: RequiredFile) -> "Downloaded":
    from rcdm_cli.core.download import download
    from rcdm_cli.core.state_dict import load_state_dict_file

    with out.progress(f"{file.part} (MB)") as show:
        found = download(
            file.source.url,
            file.path,
            sha256=file.source.sha256,
            check=load_state_dict_file,
            on_progress=lambda done, total: show(done >> 20, total >> 20),
        )
    status = "as published" if file.source.sha256 else "recorded; the publisher gives no hash"
    out.note(f"{found.path}: {found.size} bytes, SHA-256 {found.sha256} ({status})")
    return found


def _origin(file: "Downloaded") -> dict[str, object]:
    return {"url": file.url, "size": file.size, "sha256": file.sha256}
