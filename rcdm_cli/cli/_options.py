"""The options that commands share: one name, one meaning and one help text each.

A command names the type and gives its own default: ``steps: Steps = 20``.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from rcdm_cli.core.choices import no_such

LEVEL_CHOICES = ("backbone", "projector", "both")
BACKENDS = ("auto", "torch", "inductor", "onnxruntime", "openvino", "tensorrt")
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8", "fp8")
SAMPLERS = ("ddpm", "ddim", "dpmpp")

SAMPLING_PANEL = "Sampling"
MACHINE_PANEL = "Where it runs"
OUTPUT_PANEL = "Output"


def one_of(what: str, choices: Sequence[str]) -> Callable[[str | None], str | None]:
    """A check for one value: a wrong name is wrong use (exit code 2) and is answered with the nearest right one."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in choices:
            raise typer.BadParameter(no_such(what, value, choices))
        return value

    return check


def _names(values: list[str] | None) -> list[str] | None:
    """``--method dino,simclr --method vicreg`` → the three names, each once, in the order given."""
    if not values:
        return None
    names = [name.strip() for value in values for name in value.split(",")]
    if not all(names):
        raise typer.BadParameter(f"{','.join(values)!r} holds an empty name.")
    return list(dict.fromkeys(names))


def _device(value: str) -> str:
    kind, _, index = value.partition(":")
    if value not in ("auto", "cpu", "cuda") and not (kind == "cuda" and index.isdecimal()):
        raise typer.BadParameter(no_such("device", value, ("auto", "cpu", "cuda", "cuda:N")))
    return value


Images = Annotated[
    list[Path],
    typer.Argument(metavar="IMAGES...", help="Images, or folders that are searched for images.", show_default=False),
]
Source = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="A folder of images (sub-folders are classes), a tar of them, or a folder of tars.",
        show_default=False,
    ),
]
Split = Annotated[
    str | None,
    typer.Option(
        "--split", metavar="NAME", help="Sub-folder of DATA to use; all of it by default.", show_default=False
    ),
]
RecipeName = Annotated[
    str,
    typer.Option(
        "--recipe",
        metavar="NAME|FILE",
        help="Recipe: its name (see `rcdm list recipes`) or a TOML file.",
        show_default=False,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change a value of the recipe; may be repeated.", show_default=False
    ),
]
METHOD_HELP = "Method, such as dino; `rcdm list methods` lists them."
Method = Annotated[str, typer.Option("--method", metavar="NAME", help=METHOD_HELP, show_default=False)]
Methods = Annotated[
    list[str] | None,
    typer.Option(
        "--method",
        metavar="NAME[,NAME]",
        callback=_names,
        help=METHOD_HELP,
        show_default="all in the bundle",
    ),
]
Level = Annotated[
    str,
    typer.Option(
        "--level",
        metavar="|".join(LEVEL_CHOICES),
        callback=one_of("level", LEVEL_CHOICES),
        help="Where the representation is taken.",
    ),
]
BundleName = Annotated[
    str,
    typer.Option("--bundle", metavar="BUNDLE", help="Bundle to use: its name (see `rcdm list engines`) or its folder."),
]
ENCODER_HELP = (
    "an encoder file or the folder of an `rcdm pretrain` run, timm:NAME[,pretrained], another project's .pt, .pth or "
    ".safetensors, or FILE.onnx; options follow after commas (docs/ENCODERS.md)"
)
EncoderReference = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        metavar="REF",
        help=f"Encoder in place of a bundle's: {ENCODER_HELP}.",
        show_default=False,
    ),
]
IgnoredClasses = Annotated[
    list[str] | None,
    typer.Option(
        "--ignore-class",
        metavar="NAME",
        help="Class folder whose images count as without a class; may be repeated.",
        show_default=False,
    ),
]

Sampler = Annotated[
    str | None,
    typer.Option(
        "--sampler",
        metavar="|".join(SAMPLERS),
        callback=one_of("sampler", SAMPLERS),
        help="How samples are sampled. Default: the bundle's.",
        show_default=False,
        rich_help_panel=SAMPLING_PANEL,
    ),
]
Steps = Annotated[
    int | None,
    typer.Option(
        "--steps",
        min=1,
        help="Sampling steps: more is slower and finer. Default: the bundle's.",
        show_default=False,
        rich_help_panel=SAMPLING_PANEL,
    ),
]
Samples = Annotated[
    int,
    typer.Option("--samples", min=1, help="Samples per representation.", rich_help_panel=SAMPLING_PANEL),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        "--guidance",
        min=0,
        max=100,
        help="Strength of classifier-free guidance; 1 is none. Default: the bundle's.",
        show_default=False,
        rich_help_panel=SAMPLING_PANEL,
    ),
]
Seed = Annotated[
    int,
    typer.Option(
        "--seed",
        min=0,
        help="Start of all randomness: the same seed gives the same noise on every machine.",
        rich_help_panel=SAMPLING_PANEL,
    ),
]

Backend = Annotated[
    str,
    typer.Option(
        "--backend",
        metavar="|".join(BACKENDS),
        callback=one_of("backend", BACKENDS),
        help="What runs the denoiser; auto is the fastest that is installed and that the bundle has graphs for.",
        rich_help_panel=MACHINE_PANEL,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        "--device",
        metavar="auto|cpu|cuda|cuda:N",
        callback=_device,
        help="Device to run on; auto is the first CUDA device if there is one, else the CPU.",
        rich_help_panel=MACHINE_PANEL,
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        "--precision",
        metavar="|".join(PRECISIONS),
        callback=one_of("precision", PRECISIONS),
        help="Number format of the denoiser's matrix products; auto is what is fastest on the device.",
        rich_help_panel=MACHINE_PANEL,
    ),
]
Batch = Annotated[
    int,
    typer.Option("--batch", min=1, help="Images or samples worked on at a time.", rich_help_panel=MACHINE_PANEL),
]

Out = Annotated[
    Path,
    typer.Option("--out", metavar="PATH", help="Where the results go.", rich_help_panel=OUTPUT_PANEL),
]
Force = Annotated[
    bool,
    typer.Option("--force", help="Replace results that are there already.", rich_help_panel=OUTPUT_PANEL),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="Check everything and say what would be done; do nothing.", rich_help_panel=OUTPUT_PANEL
    ),
]
