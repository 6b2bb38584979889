"""Options that several commands share. Each option has one name, one meaning and one help text.

A command uses the type and sets its own default: ``steps: Steps = 20``. The environment variable ``RCDM_STEPS``
replaces the default, for batch jobs.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from rcdm_cli.cli import _completion
from rcdm_cli.cli._environment import CACHE
from rcdm_cli.core.errors import InputError, unknown_name_message
from rcdm_cli.core.outputs import require_output_file, require_output_folder
from rcdm_cli.core.resources import DEMO_BUNDLE, bundle_path, recipe_path

BACKENDS = ("auto", "torch", "inductor", "onnxruntime", "openvino", "tensorrt")
PRECISIONS = ("auto", "fp32", "bf16", "fp16", "int8", "fp8")
SAMPLERS = ("ddpm", "ddim", "ddim_angle", "dpmpp")

SAMPLING_PANEL = "Sampling"
MACHINE_PANEL = "Device and speed"
OUTPUT_PANEL = "Output"


def one_of(what: str, choices: Sequence[str]) -> Callable[[str | None], str | None]:
    """Return a check for one value. A wrong value ends with exit code 2 and the nearest valid value."""

    def check(value: str | None) -> str | None:
        if value is not None and value not in choices:
            raise typer.BadParameter(unknown_name_message(what, value, choices))
        return value

    return check


def comma_separated_names(what: str, choices: Sequence[str]) -> Callable[[str], str]:
    """Return a check for comma-separated names: each must be one of ``choices``."""

    def check(value: str) -> str:
        names = _split(value)
        for name in names:
            if name not in choices:
                raise typer.BadParameter(unknown_name_message(what, name, choices))
        return ",".join(names)

    return check


def comma_separated_numbers(what: str, kind: type[int] | type[float], least: float) -> Callable[[str], str]:
    """Return a check for comma-separated numbers: each must be finite and at least ``least``."""

    def check(value: str) -> str:
        numbers = _split(value)
        for number in numbers:
            try:
                valid = least <= kind(number) < float("inf")
            except ValueError:
                valid = False
            if not valid:
                raise typer.BadParameter(f"{what} {number!r} is not a number of at least {least:g}.")
        return ",".join(numbers)

    return check


def option(
    metavar: str | None = None,
    text: str | None = None,
    *,
    flags: Sequence[str] = (),
    panel: str | None = None,
    **settings: Any,
) -> Any:
    """Return an option.

    Without ``flags``, the flag follows from the name of the parameter. Without ``text``, the help is the entry of the
    parameter in ``Args`` of the command's docstring.
    """
    return typer.Option(*flags, metavar=metavar, help=text, rich_help_panel=panel, **settings)


def choice_option(
    flag: str, choices: Sequence[str], text: str | None = None, *, panel: str | None = None, envvar: str | None = None
) -> Any:
    """Return an option with one value of ``choices``, which the shell completes."""
    check, complete = one_of(flag.removeprefix("--"), choices), _completion.one_of(choices)
    settings = {"callback": check, "autocompletion": complete, "envvar": envvar}
    return option("|".join(choices), text, flags=(flag,), panel=panel, **settings)


def names_option(flag: str, choices: Sequence[str], text: str | None = None, *, panel: str) -> Any:
    """Return an option with comma-separated names of ``choices``."""
    check = comma_separated_names(flag.removeprefix("--"), choices)
    return option("NAME[,NAME]", text, flags=(flag,), panel=panel, callback=check)


def numbers_option(flag: str, kind: type[int] | type[float], least: float, *, panel: str) -> Any:
    """Return an option with comma-separated numbers of at least ``least``."""
    check = comma_separated_numbers(flag.removeprefix("--"), kind, least)
    return option("N[,N]" if kind is int else "X[,X]", flags=(flag,), panel=panel, callback=check)


def limit_option(least: int) -> Any:
    """Return the option ``--limit``, a number of images of at least ``least``. The default is no limit."""
    return option("N", "Maximum number of images, spread evenly over DATA.", min=least, show_default="all")


def _names(values: list[str] | None) -> list[str] | None:
    """``--method dino,simclr --method vicreg`` → the three names without duplicates, in the order given."""
    if not values:
        return None
    names = _split(",".join(values))
    if not all(names):
        raise typer.BadParameter(f"{','.join(values)!r} contains an empty name.")
    return names


def _split(value: str) -> list[str]:
    """Split at commas and remove duplicates, in the order given."""
    return list(dict.fromkeys(part.strip() for part in value.split(",")))


def _device(value: str) -> str:
    kind, _, index = value.partition(":")
    if value not in ("auto", "cpu", "cuda", "mps") and not (kind == "cuda" and index.isdecimal()):
        raise typer.BadParameter(unknown_name_message("device", value, ("auto", "cpu", "cuda", "cuda:N", "mps")))
    return value


def _shard(value: str | None) -> str | None:
    if value is not None:
        index, slash, count = value.partition("/")
        if not (slash and index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise typer.BadParameter(f"{value!r} is not I/N with I from 0 to N - 1, such as 0/4.")
    return value


def expanded(value: Any) -> Any:
    """Replace a leading ``~/`` of paths by the home folder, which the shell does not do in ``--out=~/runs``."""
    if isinstance(value, list):
        return [expanded(one) for one in value]
    if isinstance(value, str | Path) and (str(value) == "~" or str(value).startswith("~/")):
        return type(value)(os.path.expanduser(value))
    return value


@dataclass(frozen=True)
class ParameterCheck:
    """Check in the annotation of a parameter. The check runs before the command imports PyTorch.

    Attributes:
        check: function that raises ``InputError`` for a wrong value.
    """

    check: Callable[[Any], object]

    def __call__(self, value: Any) -> None:
        """Check one or several values."""
        for one in value if isinstance(value, list) else [value] if value is not None else []:
            self.check(one)


def _require_existing(path: Path) -> None:
    if not path.exists():
        raise InputError(f"{path} does not exist.")


def _require_bundle(name: str) -> None:
    # The default bundle may be missing where `--encoder` replaces the bundle.
    if name != DEMO_BUNDLE:
        bundle_path(name)


def _require_encoder(reference: str) -> None:
    from rcdm_cli.encoders.reference import require_encoder_file

    require_encoder_file(reference)


def _require_logger(name: str) -> None:
    from rcdm_cli.training.loggers import require_loggers

    require_loggers([name])


BUNDLE = ParameterCheck(_require_bundle)
ENCODER = ParameterCheck(_require_encoder)
EXISTING = ParameterCheck(_require_existing)
OUTPUT_FOLDER = ParameterCheck(require_output_folder)
OUTPUT_FILE = ParameterCheck(require_output_file)

Images = Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Image files, or folders of images."), EXISTING]
Source = Annotated[
    Path,
    typer.Argument(
        metavar="DATA",
        help="Dataset: a folder of images (sub-folders are classes), a tar file, or a folder of tar files.",
    ),
    EXISTING,
]
Split = Annotated[str | None, option("NAME", "Sub-folder of DATA to use. Default: all of DATA.")]
RecipeName = Annotated[
    str,
    option(
        "NAME|FILE",
        "Recipe: its name (see `rcdm list recipes`) or a TOML file.",
        envvar="RCDM_RECIPE",
        autocompletion=_completion.recipe,
    ),
    ParameterCheck(recipe_path),
]
Set = Annotated[list[str] | None, option("KEY=VALUE", "Change a value of the recipe. Repeatable.", flags=("--set",))]
METHOD_HELP = "Method, such as dino (see `rcdm list methods`)."
Method = Annotated[str, option("NAME", METHOD_HELP, envvar="RCDM_METHOD", autocompletion=_completion.methods)]
Methods = Annotated[
    list[str] | None,
    option(
        "NAME[,NAME]",
        METHOD_HELP,
        flags=("--method",),
        envvar="RCDM_METHOD",
        callback=_names,
        show_default="all in the bundle",
        autocompletion=_completion.methods,
    ),
]
LEVEL_HELP = "Level of the encoder that the representation is taken from; LAYER is listed by `rcdm info`."
Level = Annotated[
    list[str] | None,
    option(
        "backbone|projector|both|LAYER[,LAYER]",
        LEVEL_HELP,
        envvar="RCDM_LEVEL",
        callback=_names,
        show_default="all in the bundle",
        autocompletion=_completion.levels,
    ),
]
UncheckedBundleName = Annotated[
    str,
    option(
        "NAME",
        "Bundle: its name (see `rcdm list bundles`) or its folder.",
        flags=("--bundle",),
        envvar="RCDM_BUNDLE",
        autocompletion=_completion.bundle,
    ),
]
"""Bundle of `rcdm doctor`, which reports a missing bundle as a failed check."""
BundleName = Annotated[UncheckedBundleName, BUNDLE]
ENCODER_HELP = (
    "an encoder file, the folder of an `rcdm pretrain` run, timm:NAME[,pretrained], torchvision:NAME[,pretrained],"
    " hf:OWNER/NAME, a .pt, .pth or .safetensors checkpoint of another project, or FILE.onnx; options follow after"
    " commas (docs/ENCODERS.md)"
)
EncoderReference = Annotated[
    str | None, option("REF", f"Encoder to use instead of the bundle's encoders: {ENCODER_HELP}."), ENCODER
]
IgnoredClasses = Annotated[
    list[str] | None,
    option("NAME", "Class folder whose images are treated as unlabelled. Repeatable.", flags=("--ignore-class",)),
]

Sampler = Annotated[
    str | None,
    choice_option(
        "--sampler", SAMPLERS, "Diffusion sampler. Default: the bundle's.", panel=SAMPLING_PANEL, envvar="RCDM_SAMPLER"
    ),
]
STEPS_HELP = "Number of sampling steps. More steps are slower and more accurate. Default: the bundle's."
Steps = Annotated[int | None, option("N", STEPS_HELP, min=1, panel=SAMPLING_PANEL, envvar="RCDM_STEPS")]
Samples = Annotated[
    int,
    option(
        "N", "Samples per representation.", flags=("--samples",), min=1, panel=SAMPLING_PANEL, envvar="RCDM_SAMPLES"
    ),
]
GUIDANCE_HELP = "Classifier-free guidance scale; 1 is no guidance. Default: the bundle's."
Guidance = Annotated[
    float | None, option("SCALE", GUIDANCE_HELP, min=0, max=100, panel=SAMPLING_PANEL, envvar="RCDM_GUIDANCE")
]
SEED_HELP = "Random seed. The same seed gives the same noise on every machine."
Seed = Annotated[int, option("N", SEED_HELP, min=0, panel=SAMPLING_PANEL, envvar="RCDM_SEED")]

BACKEND_HELP = "Backend that runs the denoiser; auto is the fastest installed backend that the bundle has graphs for."
Backend = Annotated[str, choice_option("--backend", BACKENDS, BACKEND_HELP, panel=MACHINE_PANEL, envvar="RCDM_BACKEND")]
Device = Annotated[
    str,
    option(
        "auto|cpu|cuda|cuda:N|mps",
        "Device to run on; auto is the first CUDA device if available, else MPS if available, else the CPU.",
        envvar="RCDM_DEVICE",
        callback=_device,
        panel=MACHINE_PANEL,
        autocompletion=_completion.one_of(("auto", "cpu", "cuda", "mps")),
    ),
]
PRECISION_HELP = "Number format of the denoiser's matrix products; auto is the fastest on the device."
Precision = Annotated[
    str, choice_option("--precision", PRECISIONS, PRECISION_HELP, panel=MACHINE_PANEL, envvar="RCDM_PRECISION")
]
Batch = Annotated[int, option("N", "Batch size.", min=1, panel=MACHINE_PANEL, envvar="RCDM_BATCH")]
CACHE_HELP = f"Folder of downloaded weights. Default: {CACHE}, else ~/.cache/rcdm."
Cache = Annotated[Path | None, option("PATH", CACHE_HELP, panel=MACHINE_PANEL)]

SHARD_HELP = (
    "Compute part I of N, from 0, of the expensive steps, for job arrays. `rcdm merge` joins the folders of all parts."
)
ShardText = Annotated[str | None, option("I/N", SHARD_HELP, panel=OUTPUT_PANEL, envvar="RCDM_SHARD", callback=_shard)]
Out = Annotated[Path, option("PATH", "Folder for the results.", panel=OUTPUT_PANEL, envvar="RCDM_OUT"), OUTPUT_FOLDER]
LOG_HELP = (
    "Logger that also records the values of log.jsonl: tensorboard writes OUT/tensorboard; wandb writes OUT/wandb for"
    " `wandb sync`, or uploads if WANDB_MODE is online. Repeatable."
)
Log = Annotated[
    list[str] | None,
    option(
        "tensorboard|wandb",
        LOG_HELP,
        flags=("--log",),
        panel=OUTPUT_PANEL,
        autocompletion=_completion.one_of(("tensorboard", "wandb")),
    ),
    ParameterCheck(_require_logger),
]
Force = Annotated[bool, option(text="Replace existing results.", panel=OUTPUT_PANEL)]
DRY_RUN_HELP = "Check the arguments and print the plan without downloading."
DryRun = Annotated[bool, option(text=DRY_RUN_HELP, panel=OUTPUT_PANEL)]
COST_HELP = "Check the arguments and print the expected cost: images, samples, network calls, disk and memory."
CostOnly = Annotated[bool, option(text=COST_HELP, flags=("--dry-run",), panel=OUTPUT_PANEL)]


# Groups of options. A command whose parameter has the type of a group has all options of the group, in this order. The
# default value of the parameter sets the defaults of the options: ``run: RunOptions = RunOptions(out=Path("probe"))``.


@dataclass(frozen=True, kw_only=True)
class SelectionOptions:
    """Options of the bundle, the methods and the level."""

    methods: Methods = None
    level: Level = None
    bundle: BundleName = DEMO_BUNDLE


@dataclass(frozen=True, kw_only=True)
class SamplingOptions:
    """Options of the samples and the sampler."""

    num_samples: Samples
    sampler: Sampler = None
    steps: Steps = None
    guidance: Guidance = None
    seed: Seed = 0
    batch: Batch = 32


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Options of the device, the backend and the precision of the denoiser."""

    device: Device = "auto"
    backend: Backend = "auto"
    precision: Precision = "auto"


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of the run folder."""

    out: Out
    force: Force = False


@dataclass(frozen=True, kw_only=True)
class AnalysisOptions(RunOptions, EngineOptions, SamplingOptions, SelectionOptions):
    """Options of every analysis of samples. The help lists the options of the last base class first."""


@dataclass(frozen=True, kw_only=True)
class ShardedOptions(AnalysisOptions):
    """Options of analyses whose expensive steps can be divided."""

    shard: ShardText = None
    dry_run: CostOnly = False
