"""``rcdm embed``: representations as a file."""

from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli import __version__
from rcdm_cli.cli._command import command
from rcdm_cli.cli._device import choose_device
from rcdm_cli.cli._encoders import ask_encoders
from rcdm_cli.cli._images import image_dataset, raise_skipped
from rcdm_cli.cli._options import (
    OUTPUT_PANEL,
    Batch,
    BundleName,
    Device,
    EncoderReference,
    Force,
    Level,
    Methods,
    Split,
)
from rcdm_cli.cli._output import Output
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.resources import DEMO_BUNDLE


@command(
    "embed",
    panel="Questions",
    examples=(
        "rcdm embed imgs -o imgs.safetensors",
        "rcdm embed images.tar --split val --method dino,vicreg --level backbone -o val.npz",
    ),
)
def embed(
    out: Output,
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGES|DATA...",
            help="Images and folders of images, or one data set: a folder with class folders, a tar, a folder of tars.",
            show_default=False,
        ),
    ],
    file: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="File to write; it ends in .safetensors or .npz.",
            show_default=False,
            rich_help_panel=OUTPUT_PANEL,
        ),
    ],
    split: Split = None,
    method: Methods = None,
    level: Level = "both",
    bundle_name: BundleName = DEMO_BUNDLE,
    encoder: EncoderReference = None,
    batch: Batch = 64,
    device: Device = "auto",
    force: Force = False,
) -> None:
    """Write the representations of images to a file, with their paths, classes and the encoders' specs.

    A tensor of (images, D) for each method and level, named METHOD/LEVEL. The same command goes on where it was
    interrupted. `rcdm probe`, `rcdm fgsm --probe` and `rcdm manipulate --neighbours` take the file
    in place of a data set, and `rcdm interpolate` in place of images.
    """
    from dataclasses import replace

    from rcdm_cli.analyses.embed import embed as represent
    from rcdm_cli.analyses.step_cache import StepCache
    from rcdm_cli.encoders.embeddings import embeddings_suffix, write_embeddings

    embeddings_suffix(file)
    if file.exists() and not force:
        raise InputError(f"{file} exists already. Give --force to replace it, or another --out.")
    asked = ask_encoders(bundle_name, encoder, method, level, choose_device(device))
    cache = StepCache(file.with_name(f"{file.name}.parts"), {"rcdm": __version__})
    source = image_dataset(images, split)
    with out.progress("Representations") as show:
        found = represent(
            asked.encoders,
            asked.pairs,
            source,
            asked.device,
            batch=batch,
            cache=cache,
            on_progress=show,
        )
    for _, reason in found.skipped:
        out.warn(reason)
    write_embeddings(file, replace(found, origin={"rcdm": __version__, **asked.origin}))
    cache.discard()
    values = {
        "file": file,
        "rcdm": __version__,
        **asked.origin,
        "images": len(found.paths),
        "unreadable": [path for path, _ in found.skipped],
        "representations": [
            {"method": pair.method, "level": pair.level, "width": h.shape[1]}
            for pair, h in found.representations.items()
        ],
    }
    out.result(values, [file])
    raise_skipped(len(found.skipped), len(source), "images")
