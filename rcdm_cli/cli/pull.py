"""``rcdm pull``: published weights, from their publishers to a bundle."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._environment import OFFLINE, cache_folder, offline
from rcdm_cli.cli._options import OUTPUT_PANEL, Cache, DryRun, Force
from rcdm_cli.cli._output import Output
from rcdm_cli.cli.import_ import OneLevel, check_free, make_bundle
from rcdm_cli.core.errors import InputError

if TYPE_CHECKING:
    from rcdm_cli.core.download import Downloaded
    from rcdm_cli.encoders.published import PublishedFile


@dataclass(frozen=True)
class Wanted:
    """A file that the bundle is made of, and whether it is here already."""

    part: str
    source: "PublishedFile"
    path: Path
    here: "Downloaded | None"
    size: int | None

    def as_json(self) -> dict[str, Any]:
        """What a person is told of it."""
        return {
            "part": self.part,
            "url": self.source.url,
            "licence": self.source.licence,
            "size": self.size,
            "here": self.here is not None,
        }


@command(
    "pull",
    panel="Models",
    examples=("rcdm pull dino", "rcdm pull vicreg --level projector --yes", "rcdm pull simclr --dry-run"),
)
def pull(
    out: Output,
    method: Annotated[
        str,
        typer.Argument(metavar="NAME", help="Method; `rcdm list methods` lists what is published.", show_default=False),
    ],
    level: OneLevel = "backbone",
    folder: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="Where the results go.",
            show_default="engines/imagenet128-NAME, and -projector for that level",
            rich_help_panel=OUTPUT_PANEL,
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Accept the licences without being asked.")] = False,
    cache: Cache = None,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Download a published encoder and the RCDM trained on it, and make a bundle of the two.

    Size, address and licence are shown before anything is downloaded; RCDM weights are CC-BY-NC, not for commercial
    use. A download that broke off goes on where it was. Nothing is downloaded where RCDM_OFFLINE=1.
    """
    from rcdm_cli.diffusion.published import Unseen

    encoder, rcdm = _sources(method, level)
    folder = folder or Path("engines") / (f"imagenet128-{method}" + ("" if level == "backbone" else f"-{level}"))
    check_free(folder, force)
    place = cache_folder(cache) / method
    wanted = [_wanted(part, source, place) for part, source in (("encoder", encoder), ("RCDM", rcdm))]
    plan = [item.as_json() for item in wanted]
    for item in wanted:
        size = "size unknown" if item.size is None else f"{item.size / 1e6:.0f} MB"
        here = " (here already)" if item.here else ""
        out.note(f"{item.part}: {size}, {item.source.licence}, {item.source.url}{here}")
    missing = [item for item in wanted if not item.here]
    if dry_run:
        out.result({"bundle": folder, "files": plan}, [item.source.url for item in missing] or [folder])
        return
    if missing and not yes:
        _ask(sorted({item.source.licence for item in missing}))
    got_encoder, got_rcdm = (item.here or _get(out, item) for item in wanted)
    manifest = make_bundle(
        out,
        got_rcdm.path,
        str(got_encoder.path),
        folder,
        method=method,
        level=level,
        given=Unseen(),
        schedule=("linear", 1000),
        origin={**_facts(got_rcdm), "encoder": _facts(got_encoder)},
    )
    out.result({"bundle": folder, "name": manifest.name, "files": plan}, [folder])


def _sources(method: str, level: str) -> tuple["PublishedFile", "PublishedFile"]:
    from rcdm_cli.core.errors import unknown_name_message
    from rcdm_cli.encoders.published import PUBLISHED

    if method not in PUBLISHED:
        raise InputError(unknown_name_message("published method", method, PUBLISHED))
    published = PUBLISHED[method]
    for known, source in published.rcdm.items():
        if known == level:
            return published.encoder, source
    raise InputError(f"There is no RCDM for {method} at {level}, only at {', '.join(published.rcdm)}.")


def _wanted(part: str, source: "PublishedFile", place: Path) -> Wanted:
    """One file; offline, one that is not here ends the command."""
    from rcdm_cli.core.download import find_download, remote_size

    path = place / source.file
    here = find_download(path, source.url, source.sha256)
    if here is None and offline():
        raise InputError(f"{source.url} is not here, and {OFFLINE} forbids to download it.")
    return Wanted(part, source, path, here, here.size if here else remote_size(source.url))


def _ask(licences: list[str]) -> None:
    accepting = f"Download, under {' and '.join(licences)}?"
    if not sys.stdin.isatty():
        raise InputError(f"{accepting} Nobody is there to answer; give --yes to accept the licences.")
    if not typer.confirm(accepting, err=True):
        raise InputError("The licences were not accepted; nothing was downloaded.")


def _get(out: Output, wanted: Wanted) -> "Downloaded":
    from rcdm_cli.core.download import download
    from rcdm_cli.core.state_dict import load_state_dict_file

    def check(path: Path) -> None:
        load_state_dict_file(path)

    with out.progress(f"{wanted.part} (MB)") as show:
        found = download(
            wanted.source.url,
            wanted.path,
            sha256=wanted.source.sha256,
            check=check,
            on_progress=lambda done, total: show(done >> 20, total >> 20),
        )
    known = "as published" if wanted.source.sha256 else "recorded, since its publisher names none"
    out.note(f"{found.path}: {found.size} bytes, SHA-256 {found.sha256} ({known})")
    return found


def _facts(found: "Downloaded") -> dict[str, object]:
    return {"url": found.url, "size": found.size, "sha256": found.sha256}
