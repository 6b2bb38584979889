"""Recipes: TOML files that hold everything needed to train a model again."""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.spec import Spec
from rcdm_cli.diffusion.spec import DenoiserSpec, ScheduleSpec
from rcdm_cli.encoders.methods import METHODS
from rcdm_cli.encoders.spec import HeadLayer, Preprocessing

Precision = Literal["auto", "fp32", "bf16"]
Beta = Annotated[float, Field(ge=0, lt=1)]


class DataOrigin(Spec):
    """Where the images come from; copied into what is trained on them."""

    origin: str = ""
    licence: str = ""
    prepare: str = ""


class Optimization(Spec):
    """AdamW with linear warm-up, a constant rate, and a cosine decay over the last part.

    Attributes:
        batch: images a step.
        accumulate: a denoiser's batch is computed in so many equal parts, to fit memory.
        lr: the constant learning rate.
        weight_decay: AdamW's decoupled weight decay.
        betas: AdamW's momentum terms.
        warmup: share of all steps over which the rate rises from 0.
        decay: share of all steps at the end over which it falls to 0.
        clip: gradient norm above which gradients are scaled down; 0 is off.
        precision: of the matrix products; ``auto`` is bf16 where the hardware has it.
        seed: of weights, order, augmentation and noise.
    """

    batch: int = Field(ge=1)
    accumulate: int = Field(default=1, ge=1)
    lr: float = Field(gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    warmup: float = Field(default=0.0, ge=0, le=1)
    decay: float = Field(default=0.0, ge=0, le=1)
    clip: float = Field(default=0.0, ge=0)
    precision: Precision = "auto"
    seed: int = Field(default=0, ge=0, lt=2**64)


class Trunk(Spec):
    """The trunk that every method of a pretraining recipe shares."""

    name: str
    options: dict[str, Any] = {}
    pool: str | None = None


class MethodOptions(Spec):
    """What differs between methods.

    ``transform`` and ``loss`` are keyword arguments of lightly's transform and loss of that method;
    ``prototypes`` and ``momentum`` are DINO's. ``lr`` and ``preprocessing`` take the place of the recipe's.
    """

    epochs: int = Field(ge=1)
    head: tuple[HeadLayer, ...] = ()
    transform: dict[str, Any] = {}
    loss: dict[str, Any] = {}
    lr: float | None = Field(default=None, gt=0)
    preprocessing: Preprocessing | None = None
    prototypes: int = Field(default=4096, ge=2)
    momentum: float = Field(default=0.996, ge=0, lt=1)


class PretrainRecipe(Spec):
    """How encoders are pretrained on a folder of images.

    Attributes:
        image_size: images are centre-cropped to this many pixels before the views are drawn from them;
            above ``preprocessing.size``, so that random crops lose no detail.
        ignore_classes: class folders whose images carry no label (they still train what needs none).
        knn_every: epochs between two k-NN accuracies, where the images have classes.
    """

    kind: Literal["pretrain"]
    description: str = ""
    data: DataOrigin = DataOrigin()
    image_size: int = Field(ge=16)
    ignore_classes: tuple[str, ...] = ()
    knn_every: int = Field(default=10, ge=1)
    trunk: Trunk
    preprocessing: Preprocessing
    optimization: Optimization
    methods: dict[str, MethodOptions]

    def method(self, name: str) -> MethodOptions:
        """The options of one method.

        Raises:
            InputError: the recipe, or the program, has no such method.
        """
        if name not in METHODS:
            raise InputError(f"--method {name} cannot be pretrained. Methods: {', '.join(METHODS)}.")
        if name not in self.methods:
            raise InputError(f"The recipe has no section [methods.{name}]; it has: {', '.join(self.methods)}.")
        return self.methods[name]


class RandomChanges(Spec):
    """Random changes to the images of a denoiser's training, each of which happens with the same probability.

    The representation is that of the changed image, and the denoiser is told what was changed and by how much. In
    sampling it is told of no change, so that its images look like the images as they are: "non-leaky augmentation"
    (Karras et al. 2022, arXiv:2206.00364, appendix F.2).

    Attributes:
        image_size: images are centre-cropped to this many pixels before they are changed.
        probability: of each change; 0 is off.
        crop: side of the smallest random crop as a share of the image's.
        brightness: largest change of the factor 1 that all values are multiplied by.
        contrast: likewise, of differences from the mean grey.
        saturation: likewise, of each pixel's differences from its grey.
        hue: largest turn as a share of the colour circle.
    """

    image_size: int = Field(ge=16)
    probability: float = Field(ge=0, le=1)
    crop: float = Field(default=1.0, gt=0, le=1)
    brightness: float = Field(default=0.0, ge=0, le=1)
    contrast: float = Field(default=0.0, ge=0, le=1)
    saturation: float = Field(default=0.0, ge=0, le=1)
    hue: float = Field(default=0.0, ge=0, le=0.5)

    def side(self, zoom: float) -> int:
        """Pixels along each side of a crop, for ``zoom`` from 0, the whole image, to 1, the smallest crop."""
        return round(self.image_size * (1 - (1 - self.crop) * zoom))


class TrainRecipe(Spec):
    """How a denoiser is trained on the representations of one or several encoders.

    Attributes:
        encoders: encoder files, or folders of ``rcdm pretrain`` runs.
        levels: which levels of each encoder are used, where it has them.
        steps: optimizer steps.
        ema: the average of the weights after many steps; it warms up as ``min(ema, (1 + n) / (10 + n))``.
        drop: share of the images whose representation is dropped, for classifier-free guidance
            (Ho and Salimans 2022, arXiv:2207.12598).
        augmentation: random changes to the images; without it they are mirrored only.
        compile: whether ``torch.compile`` compiles the denoiser.
        save_every: steps between two checkpoints.
        sample_every: steps between two grids of samples.
    """

    kind: Literal["train"]
    description: str = ""
    data: DataOrigin = DataOrigin()
    encoders: tuple[str, ...] = ()
    levels: tuple[Literal["backbone", "projector"], ...] = Field(("backbone", "projector"), min_length=1)
    denoiser: DenoiserSpec
    schedule: ScheduleSpec
    optimization: Optimization
    steps: int = Field(ge=1)
    ema: float = Field(default=0.9999, ge=0, lt=1)
    uncond_prob: float = Field(default=0.0, ge=0, le=1)
    augmentation: RandomChanges | None = None
    compile: bool = False
    save_every: int = Field(default=1000, ge=1)
    sample_every: int = Field(default=2000, ge=1)


Kind = TypeVar("Kind", PretrainRecipe, TrainRecipe)
KINDS: dict[str, type[PretrainRecipe] | type[TrainRecipe]] = {"pretrain": PretrainRecipe, "train": TrainRecipe}


def read_recipe(
    path: Path, kind: type[Kind], overrides: Iterable[str] = (), replaced: Mapping[str, Any] | None = None
) -> Kind:
    """Read a recipe file of one kind.

    Args:
        path: the TOML file.
        kind: what the recipe must be.
        overrides: ``key=value`` with dotted keys and TOML values, applied in order.
        replaced: values that options of a command put in place of the recipe's.

    Raises:
        InputError: no such file, not TOML, another kind, or a key that does not validate.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"Cannot read the recipe {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}.") from error
    for override in overrides:
        _apply(values, override)
    found = values.get("kind")
    if KINDS.get(str(found)) is not kind:
        wanted = next(name for name, known in KINDS.items() if known is kind)
        raise InputError(f"{path} is a recipe of kind {found!r}, and `rcdm {wanted}` needs kind = {wanted!r}.")
    return kind.parse(values | dict(replaced or {}), str(path))


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise InputError(f"--set {override}: expected key=value, such as optimization.lr=3e-4.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *parents, last = key.strip().split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise InputError(f"--set {override}: {parent} is a value, not a section.")
    values[last] = value
