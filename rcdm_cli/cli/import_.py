"""``rcdm import``: make a bundle from a published RCDM checkpoint."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._environment import cache_folder
from rcdm_cli.cli._options import (
    ENCODER_HELP,
    EXISTING,
    LEVEL_HELP,
    METHOD_HELP,
    OUTPUT_FOLDER,
    OUTPUT_PANEL,
    Cache,
    Force,
    choice_option,
    option,
)
from rcdm_cli.cli._output import Output
from rcdm_cli.core.errors import InputError

if TYPE_CHECKING:
    from rcdm_cli.bundle.manifest import Manifest

SCHEDULES = ("linear", "cosine")
UNSEEN_PANEL = "Architecture parameters that cannot be inferred (not needed for published RCDMs)"


@command("import", panel="Models")
def import_checkpoint(
    out: Output,
    checkpoint: Annotated[Path, typer.Argument(metavar="CHECKPOINT"), EXISTING],
    method: Annotated[str, option("NAME", METHOD_HELP)],
    folder: Annotated[Path, option("PATH", flags=("--out", "-o"), panel=OUTPUT_PANEL), OUTPUT_FOLDER],
    level: Annotated[str, option("backbone|projector|LAYER", LEVEL_HELP)] = "backbone",
    encoder: Annotated[
        str | None,
        option("REF", f"Encoder to use instead of the encoder that `rcdm pull` downloaded: {ENCODER_HELP}."),
    ] = None,
    size: Annotated[int | None, option(panel=UNSEEN_PANEL, min=1)] = None,
    heads: Annotated[int | None, option(panel=UNSEEN_PANEL, min=1)] = None,
    head_channels: Annotated[int | None, option(panel=UNSEEN_PANEL, min=1)] = None,
    split_qkv_first: Annotated[bool, option(panel=UNSEEN_PANEL)] = False,
    schedule: Annotated[str, choice_option("--schedule", SCHEDULES, panel=UNSEEN_PANEL)] = "linear",
    timesteps: Annotated[int, option(panel=UNSEEN_PANEL, min=1)] = 1000,
    cache: Cache = None,
    force: Force = False,
) -> None:
    """Make a bundle from a published RCDM checkpoint (github.com/facebookresearch/RCDM) and its encoder.

    The architecture is inferred from the shapes of the weights. The bundle stores weights in half precision. Files are
    read as data only: a pickle that runs code is refused.

    Args:
        checkpoint: State dict: .pt, .pth or .safetensors.
        folder: Folder of the bundle.
        size: Size of the samples in pixels.
        heads: Attention heads.
        head_channels: Channels per attention head; replaces --heads.
        split_qkv_first: Order of attention channels: queries, keys and values, each with all heads (published:
            use_new_attention_order).
        schedule: Noise schedule.
        timesteps: Timesteps of the noise schedule.

    Examples:
        $ rcdm import rcdm_ema_dino_trunk.pt --method dino --level backbone -o engines/imagenet128-dino --encoder
            dino_resnet50_pretrain_full_checkpoint.pth
        $ rcdm import mine.pt --method mine --encoder mine.safetensors --size 64 --heads 4 -o engines/mine64
    """
    from rcdm_cli.bundle.import_published import import_published
    from rcdm_cli.core.files import sha256
    from rcdm_cli.diffusion.published import UNetOptions
    from rcdm_cli.diffusion.spec import ScheduleSpec

    start = time.monotonic()
    manifest = import_published(
        checkpoint,
        encoder or pulled_encoder(method, cache_folder(cache)),
        folder,
        method=method,
        level=level,
        options=UNetOptions(size, heads, head_channels, split_qkv_first),
        schedule=ScheduleSpec.parse({"kind": schedule, "timesteps": timesteps}, "`schedule`"),
        origin={"file": checkpoint.name, "sha256": sha256(checkpoint) if checkpoint.is_file() else ""},
        force=force,
        on_note=out.note,
    )
    out.note(architecture(manifest))
    out.note(f"Imported in {time.monotonic() - start:.0f} s.")
    values = {"bundle": folder, "name": manifest.name, "denoiser": manifest.denoiser.model_dump(mode="json")}
    out.result(values, [folder])


def pulled_encoder(method: str, cache: Path) -> str:
    """Return the path of the encoder that ``rcdm pull`` downloaded for ``method``.

    Raises:
        InputError: the encoder was not downloaded.
    """
    from rcdm_cli.encoders.published import PUBLISHED

    published = PUBLISHED.get(method)
    if published and (path := cache / method / published.encoder.file).is_file():
        return str(path)
    hint = f", or download it with `rcdm pull {method}`" if published else ""
    raise InputError(f"The encoder of {method} was not downloaded. Name an encoder with --encoder{hint}.")


def architecture(manifest: "Manifest") -> str:
    """Return a sentence on the denoiser and the representation of an imported bundle."""
    spec, projection = manifest.denoiser, manifest.conditioning.projections[0]
    return (
        f"{spec.size} px, {spec.channels} channels × {','.join(map(str, spec.channel_mult))}, "
        f"{spec.num_res_blocks} residual blocks, attention at {','.join(map(str, spec.attention))} px, "
        f"{projection.method} at {projection.level} with width {projection.width}."
    )
