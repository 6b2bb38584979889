"""``rcdm import``: a bundle of a published RCDM checkpoint."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rcdm_cli.cli._command import command
from rcdm_cli.cli._environment import cache_folder
from rcdm_cli.cli._options import ENCODER_HELP, LEVEL_HELP, METHOD_HELP, OUTPUT_PANEL, Cache, Force, one_of
from rcdm_cli.cli._output import Output
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.levels import LEVELS, Level
from rcdm_cli.core.resources import MANIFEST

if TYPE_CHECKING:
    from rcdm_cli.bundle.manifest import Manifest
    from rcdm_cli.diffusion.published import Unseen

SCHEDULES = ("linear", "cosine")
UNSEEN_PANEL = "What shapes do not tell (known for the published RCDM)"

OneLevel = Annotated[
    str,
    typer.Option(
        "--level",
        metavar="|".join(LEVELS),
        callback=one_of("level", LEVELS),
        help=LEVEL_HELP,
    ),
]


@command(
    "import",
    panel="Models",
    examples=(
        "rcdm import rcdm_ema_dino_trunk.pt --method dino --level backbone -o engines/imagenet128-dino "
        "--encoder dino_resnet50_pretrain_full_checkpoint.pth",
        "rcdm import mine.pt --method mine --encoder mine.safetensors --size 64 --heads 4 -o engines/mine64",
    ),
)
def import_checkpoint(
    out: Output,
    checkpoint: Annotated[
        Path, typer.Argument(metavar="CHECKPOINT", help="State dict: .pt, .pth or .safetensors.", show_default=False)
    ],
    method: Annotated[str, typer.Option("--method", metavar="NAME", help=METHOD_HELP, show_default=False)],
    folder: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="PATH",
            help="Where the results go.",
            show_default=False,
            rich_help_panel=OUTPUT_PANEL,
        ),
    ],
    level: OneLevel = "backbone",
    encoder: Annotated[
        str | None,
        typer.Option(
            "--encoder",
            metavar="REF",
            help=f"Encoder in place of the one that `rcdm pull` downloaded: {ENCODER_HELP}.",
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option("--size", min=1, help="Size of the samples in pixels.", rich_help_panel=UNSEEN_PANEL),
    ] = None,
    heads: Annotated[
        int | None, typer.Option("--heads", min=1, help="Attention heads.", rich_help_panel=UNSEEN_PANEL)
    ] = None,
    head_channels: Annotated[
        int | None,
        typer.Option(
            "--head-channels",
            min=1,
            help="Channels per attention head, in place of --heads.",
            rich_help_panel=UNSEEN_PANEL,
        ),
    ] = None,
    split_qkv_first: Annotated[
        bool,
        typer.Option(
            "--split-qkv-first",
            help="Attention's channels are queries, keys, values, each of all heads (published: "
            "use_new_attention_order).",
            rich_help_panel=UNSEEN_PANEL,
        ),
    ] = False,
    schedule: Annotated[
        str,
        typer.Option(
            "--schedule",
            metavar="|".join(SCHEDULES),
            callback=one_of("schedule", SCHEDULES),
            help="Noise schedule.",
            rich_help_panel=UNSEEN_PANEL,
        ),
    ] = "linear",
    timesteps: Annotated[
        int, typer.Option("--timesteps", min=1, help="Noise levels of the schedule.", rich_help_panel=UNSEEN_PANEL)
    ] = 1000,
    cache: Cache = None,
    force: Force = False,
) -> None:
    """Make a bundle of a published RCDM checkpoint (github.com/facebookresearch/RCDM) and its encoder.

    The architecture is read off the tensors, and weights are stored in half precision. Files are read as data only: a
    pickle that asks to run something is refused.
    """
    from rcdm_cli.core.files import sha256
    from rcdm_cli.diffusion.published import Unseen

    check_free(folder, force)
    started = time.monotonic()
    manifest = make_bundle(
        out,
        checkpoint,
        encoder or pulled_encoder(method, cache_folder(cache)),
        folder,
        method=method,
        level=level,
        given=Unseen(size, heads, head_channels, split_qkv_first),
        schedule=(schedule, timesteps),
        origin={"file": checkpoint.name, "sha256": sha256(checkpoint) if checkpoint.is_file() else ""},
    )
    out.note(f"Imported in {time.monotonic() - started:.0f} s.")
    values = {"bundle": folder, "name": manifest.name, "denoiser": manifest.denoiser.model_dump(mode="json")}
    out.result(values, [folder])


def check_free(folder: Path, force: bool) -> None:
    """Raise ``InputError`` where a bundle is in the way, unless it may be replaced."""
    if (folder / MANIFEST).exists() and not force:
        raise InputError(f"{folder} holds a bundle already. Give --force to replace it, or another --out.")


def pulled_encoder(method: str, cache: Path) -> str:
    """The encoder that ``rcdm pull`` downloaded for ``method``.

    Raises:
        InputError: it did not.
    """
    from rcdm_cli.encoders.published import PUBLISHED

    known = PUBLISHED.get(method)
    if known and (path := cache / method / known.encoder.file).is_file():
        return str(path)
    advice = f", or download it with `rcdm pull {method}`" if known else ""
    raise InputError(f"No encoder for {method} is here. Name it with --encoder{advice}.")


def make_bundle(
    out: Output,
    checkpoint: Path,
    encoder: str,
    folder: Path,
    *,
    method: str,
    level: str,
    given: "Unseen",
    schedule: tuple[str, int],
    origin: dict[str, object],
) -> "Manifest":
    """Read a checkpoint and its encoder and write the bundle; ``origin`` stands in its manifest.

    Raises:
        InputError: a file cannot be read or does not fit.
    """
    from typing import cast

    from rcdm_cli.bundle.import_published import import_published
    from rcdm_cli.core.state_dict import load_state_dict_file
    from rcdm_cli.diffusion.spec import ScheduleSpec
    from rcdm_cli.encoders.open import open_encoder
    from rcdm_cli.encoders.published import find_rcdm

    kind, timesteps = schedule
    state = load_state_dict_file(checkpoint)
    known = find_rcdm(checkpoint.name)
    if known and known[:2] != (method, level):
        raise InputError(
            f"{checkpoint.name} was published for {known[0]} at {known[1]}, not for {method} at {level}. Give "
            f"--method {known[0]} --level {known[1]}, or the file another name if it is another one."
        )
    about = {
        "description": f"RCDM for {method} at {level}, imported from {checkpoint.name}",
        "origin": f"ImageNet; weights from {known[2].url}" if known else "",
        "licence": f"{known[2].licence} (the weights)" if known else "",
        "trained": {"imported": origin},
    }
    manifest = import_published(
        folder,
        state,
        open_encoder(encoder, method),
        level=cast(Level, level),
        given=given,
        schedule=ScheduleSpec.parse({"kind": kind, "timesteps": timesteps}, "--schedule"),
        about=about,
    )
    spec = manifest.denoiser
    out.note(
        f"{spec.size} px, {spec.channels} channels × {','.join(map(str, spec.channel_mult))}, "
        f"{spec.num_res_blocks} blocks, "
        f"attention at {','.join(map(str, spec.attention))} px, {method} at {level} with "
        f"{manifest.conditioning.projections[0].width} numbers."
    )
    return manifest
