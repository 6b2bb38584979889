"""Recipes: TOML files with all settings that are needed to repeat a training."""

import tomllib
from collections.abc import Iterable
from math import cos, pi
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import Field, model_validator

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.levels import LEVELS, Level
from rcdm_cli.core.resources import recipe_path
from rcdm_cli.core.spec import Spec
from rcdm_cli.diffusion.autoencoder_spec import KLSpec
from rcdm_cli.diffusion.spec import DenoiserSpec, GuidanceRange, NullCond, ScheduleSpec
from rcdm_cli.encoders.methods import METHODS
from rcdm_cli.encoders.spec import HeadLayer, Preprocessing
from rcdm_cli.encoders.trunk_options import TRUNK_NAME_PATTERN, TrunkOptions, TrunkPool

TrainPrecision = Literal["auto", "fp32", "bf16"]
Beta = Annotated[float, Field(ge=0, lt=1)]


class DataOrigin(Spec):
    """Origin, licence and preparation of the training images. The values are copied into the trained model."""

    origin: str = ""
    licence: str = ""
    prepare: str = ""


class Optimization(Spec):
    """AdamW with a linear warm-up, a constant learning rate and a cosine decay.

    Attributes:
        batch: images per step.
        accumulate: number of parts that a denoiser's batch is computed in, to save memory.
        lr: peak learning rate.
        weight_decay: decoupled weight decay of AdamW.
        betas: momentum coefficients of AdamW.
        warmup: fraction of the steps over which the learning rate rises from 0.
        decay: fraction of the steps, at the end, over which the learning rate falls to 0.
        clip: maximum gradient norm; 0 disables clipping.
        precision: number format of matrix products; ``auto`` is bf16 on hardware with bf16 support. Weights, gradients
            and the optimizer's state are float32.
        gradient_compression: number format in which processes exchange gradients. ``bf16`` halves the transfers.
        seed: seed of weights, image order, augmentation and noise.
    """

    batch: int = Field(ge=1)
    accumulate: int = Field(default=1, ge=1)
    lr: float = Field(gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[Beta, Beta] = (0.9, 0.999)
    warmup: float = Field(default=0.0, ge=0, le=1)
    decay: float = Field(default=0.0, ge=0, le=1)
    clip: float = Field(default=0.0, ge=0)
    precision: TrainPrecision = "auto"
    gradient_compression: Literal["none", "bf16"] = "none"
    seed: int = Field(default=0, ge=0, lt=2**64)

    def learning_rate(self, step: int, steps: int, lr: float | None = None) -> float:
        """Return the learning rate of step ``step`` (from 0) of ``steps``; ``lr`` replaces the peak rate."""
        warmup, decay, remaining = self.warmup * steps, self.decay * steps, steps - step
        rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
        fall = 0.5 * (1 - cos(pi * remaining / decay)) if remaining < decay else 1.0
        return (lr or self.lr) * rise * fall


class Objective(Spec):
    """Distribution of timesteps, weight of the loss, and input without a representation, of a denoiser's training.

    Attributes:
        timesteps: ``uniform``: independent and uniform, as in DDPM (Ho et al. 2020, arXiv:2006.11239, algorithm 1).
            ``stratified``: uniform, with one timestep in each of B equal intervals, which reduces the variance of the
            loss (Kingma et al. 2021, arXiv:2107.00630, appendix I.1). ``logit_normal``: T * sigmoid(n) with n ~
            N(``logit_mean``, ``logit_std``²), which prefers intermediate timesteps (Esser et al. 2024,
            arXiv:2403.03206, equation 19), stratified too.
        logit_mean: mean of n. A positive value prefers noisy timesteps.
        logit_std: standard deviation of n.
        weight: ``none``, or ``min_snr``: min-SNR-gamma (Hang et al. 2023, arXiv:2303.09556).
        min_snr_gamma: largest signal-to-noise ratio of the weight.
        null: conditioning vector of an image without a representation: ``zeros``, or a ``learned`` vector (Ho and
            Salimans 2022, arXiv:2207.12598).
    """

    timesteps: Literal["stratified", "uniform", "logit_normal"] = "stratified"
    logit_mean: float = 0.0
    logit_std: float = Field(default=1.0, gt=0)
    weight: Literal["none", "min_snr"] = "none"
    min_snr_gamma: float = Field(default=5.0, gt=0)
    null: NullCond = "zeros"


class TrunkConfig(Spec):
    """Trunk of all methods of a pretraining recipe: a timm architecture and its options."""

    name: str = Field(pattern=TRUNK_NAME_PATTERN)
    options: TrunkOptions = {}
    pool: TrunkPool | None = None


class MethodOptions(Spec):
    """Settings of one pretraining method.

    Attributes:
        epochs: passes over the images.
        head: layers of the projector.
        transform: keyword arguments of lightly's transform of the method.
        loss: keyword arguments of lightly's loss of the method.
        lr: peak learning rate; replaces the learning rate of the recipe.
        preprocessing: preprocessing of this method; replaces the preprocessing of the recipe.
        prototypes: number of prototypes of DINO.
        momentum: initial momentum of DINO's teacher.
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
    """Settings for pretraining encoders on images.

    Attributes:
        kind: kind of the recipe.
        description: one line for the user.
        data: origin of the images.
        image_size: side in pixels of the centre crops from which views are drawn. A value above ``preprocessing.size``
            preserves detail in random crops.
        ignore_classes: class folders whose images have no label.
        knn_every: epochs between k-NN evaluations.
        trunk: network of all methods.
        preprocessing: input size and normalisation of the encoders.
        optimization: optimizer settings.
        methods: settings by method.
    """

    kind: Literal["pretrain"]
    description: str = ""
    data: DataOrigin = DataOrigin()
    image_size: int = Field(ge=16)
    ignore_classes: tuple[str, ...] = ()
    knn_every: int = Field(default=10, ge=1)
    trunk: TrunkConfig
    preprocessing: Preprocessing
    optimization: Optimization
    methods: dict[str, MethodOptions]

    def method(self, name: str) -> MethodOptions:
        """Return the settings of one method.

        Raises:
            InputError: the method does not exist or is not in the recipe.
        """
        if name not in METHODS:
            raise InputError(f"`method` {name} cannot be pretrained. Methods: {', '.join(METHODS)}.")
        if name not in self.methods:
            raise InputError(f"The recipe has no section [methods.{name}]. Its methods: {', '.join(self.methods)}.")
        return self.methods[name]


class AugmentationConfig(Spec):
    """Random augmentation of the training images of a denoiser.

    Each augmentation is applied with the same probability. The denoiser is conditioned on the augmentation parameters,
    which are zero in sampling, so that augmentations do not leak into samples ("non-leaky augmentation", Karras et al.
    2022, arXiv:2206.00364, appendix F.2). The representation is computed from the augmented image.

    Attributes:
        image_size: side in pixels of the centre crops that are augmented.
        probability: probability of each augmentation; 0 disables augmentation.
        crop: side of the smallest random crop as a fraction of the image.
        brightness: maximum change of the brightness factor 1.
        contrast: maximum change of the contrast factor 1.
        saturation: maximum change of the saturation factor 1.
        hue: maximum hue rotation as a fraction of the colour circle.
    """

    image_size: int = Field(ge=16)
    probability: float = Field(ge=0, le=1)
    crop: float = Field(default=1.0, gt=0, le=1)
    brightness: float = Field(default=0.0, ge=0, le=1)
    contrast: float = Field(default=0.0, ge=0, le=1)
    saturation: float = Field(default=0.0, ge=0, le=1)
    hue: float = Field(default=0.0, ge=0, le=0.5)

    def side(self, zoom: float) -> int:
        """Return the side of a crop in pixels, for ``zoom`` from 0 (whole image) to 1 (smallest crop)."""
        return round(self.image_size * (1 - (1 - self.crop) * zoom))


class TrainRecipe(Spec):
    """Settings for training a denoiser on the representations of encoders.

    Attributes:
        kind: kind of the recipe.
        description: one line for the user.
        data: origin of the images.
        encoders: references of encoders, see ``open_encoder``.
        levels: levels of the encoders to condition on: ``backbone``, ``projector``, and layers by module path, for
            example ``layer3``. An encoder may have a part of these levels only.
        denoiser: architecture of the U-Net, and the space of its input.
        autoencoder: reference of the autoencoder of a latent space, see ``open_autoencoder``.
        schedule: noise schedule.
        optimization: optimizer settings.
        steps: number of optimizer steps.
        ema: decay of the exponential moving average (EMA) of the weights. Step n uses ``min(ema, (1 + n) / (10 + n))``.
        uncond_prob: probability of training an image without its representation, for classifier-free guidance
            (Ho and Salimans 2022, arXiv:2207.12598).
        augmentation: random augmentation; by default, images are flipped horizontally only.
        objective: timesteps, weight of the loss, and input without a representation.
        compile: whether ``torch.compile`` compiles the denoiser; by default, on CUDA devices with Triton.
        cache: type of cached representations. ``float16`` needs half of the disk space.
        save_every: steps between checkpoints.
        sample_every: steps between sample grids.
    """

    kind: Literal["train"]
    description: str = ""
    data: DataOrigin = DataOrigin()
    encoders: tuple[str, ...] = ()
    levels: tuple[Level, ...] = Field(LEVELS, min_length=1)
    denoiser: DenoiserSpec
    autoencoder: str = ""
    schedule: ScheduleSpec
    optimization: Optimization
    steps: int = Field(ge=1)
    ema: float = Field(default=0.9999, ge=0, lt=1)
    uncond_prob: float = Field(default=0.0, ge=0, le=1)
    augmentation: AugmentationConfig | None = None
    objective: Objective = Objective()
    compile: bool | None = None
    cache: Literal["float32", "float16"] = "float32"
    save_every: int = Field(default=1000, ge=1)
    sample_every: int = Field(default=2000, ge=1)


class PerceptualLoss(Spec):
    """Distance of the features of an encoder between an image and its reconstruction.

    Features are normalised to length 1 over the channels at each position, as in LPIPS (Zhang et al. 2018,
    arXiv:1801.03924, equation 1), without its learned weights.

    Attributes:
        encoder: reference of the encoder, see ``open_encoder``; not an ONNX graph, which has no gradient.
        layers: layers by module path, for example ``layer1``; by default, all stages of a timm trunk.
        weight: weight of the distance, relative to the mean absolute error of values in [-1, 1].
    """

    encoder: str
    layers: tuple[str, ...] = ()
    weight: float = Field(default=1.0, gt=0)


class AutoencoderRecipe(Spec):
    """Settings for training an ``AutoencoderKL`` on images.

    Attributes:
        kind: kind of the recipe.
        description: one line for the user.
        data: origin of the images.
        size: height and width of the training images in pixels.
        image_size: side in pixels of the centre crops. Random squares with a side from ``size`` to ``image_size`` are
            resized to ``size``.
        autoencoder: architecture.
        perceptual: perceptual loss; None trains with the absolute error and the KL divergence only.
        kl_weight: weight of the KL divergence of the latents from the standard normal distribution, in nats per value
            of the image (Rombach et al. 2022, arXiv:2112.10752, section 3.1).
        optimization: optimizer settings.
        steps: number of optimizer steps.
        ema: decay of the exponential moving average (EMA) of the weights. Step n uses ``min(ema, (1 + n) / (10 + n))``.
        save_every: steps between checkpoints.
        sample_every: steps between grids of reconstructions.
    """

    kind: Literal["autoencoder"]
    description: str = ""
    data: DataOrigin = DataOrigin()
    size: int = Field(ge=8, le=2048)
    image_size: int = Field(ge=8, le=4096)
    autoencoder: KLSpec
    perceptual: PerceptualLoss | None = None
    kl_weight: float = Field(default=1e-6, ge=0)
    optimization: Optimization
    steps: int = Field(ge=1)
    ema: float = Field(default=0.999, ge=0, lt=1)
    save_every: int = Field(default=1000, ge=1)
    sample_every: int = Field(default=2000, ge=1)

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.image_size < self.size:
            raise ValueError(f"image_size must be at least size, {self.size}; given {self.image_size}")
        if self.size % (factor := self.autoencoder.space.factor):
            raise ValueError(f"size must be a multiple of {factor}, the factor of the latents; given {self.size}")
        return self


class DistillRecipe(Spec):
    """Settings for distilling a student, which samples in a few steps, from a trained model.

    Attributes:
        kind: kind of the recipe.
        description: one line for the user.
        start: sampling steps of the first student. Each later student has half the steps of the previous student.
        substeps: DDIM steps of the trained model, with guidance, per step of the first student.
        guidance: range of guidance scales that the students receive as an input (Meng et al. 2023, arXiv:2210.03142);
            by default, students learn a single scale and have no such input.
        autoencoder: reference of the autoencoder of a latent space, see ``open_autoencoder``.
        optimization: optimizer settings. Warm-up and decay are fractions of the steps of each student.
        steps: number of optimizer steps per student.
        ema: decay of the exponential moving average (EMA) of the weights. Step n of a student uses
            ``min(ema, (1 + n) / (10 + n))``.
        compile: whether ``torch.compile`` compiles the student; by default, on CUDA devices with Triton.
        cache: type of cached representations. ``float16`` needs half of the disk space.
        save_every: steps between checkpoints.
    """

    kind: Literal["distill"]
    description: str = ""
    start: int = Field(default=16, ge=1, le=256)
    substeps: int = Field(default=2, ge=1, le=64)
    guidance: GuidanceRange | None = None
    autoencoder: str = ""
    optimization: Optimization
    steps: int = Field(ge=1)
    ema: float = Field(default=0.999, ge=0, lt=1)
    compile: bool | None = None
    cache: Literal["float32", "float16"] = "float32"
    save_every: int = Field(default=500, ge=1)


Recipe = TypeVar("Recipe", PretrainRecipe, TrainRecipe, AutoencoderRecipe, DistillRecipe)
KINDS: dict[str, type[PretrainRecipe] | type[TrainRecipe] | type[AutoencoderRecipe] | type[DistillRecipe]] = {
    "pretrain": PretrainRecipe,
    "autoencoder": AutoencoderRecipe,
    "train": TrainRecipe,
    "distill": DistillRecipe,
}


def read_recipe(recipe: Recipe | Path | str, kind: type[Recipe], overrides: Iterable[str] = ()) -> Recipe:
    """Read and validate a recipe.

    Args:
        recipe: name of a recipe, TOML file, or recipe object.
        kind: required type of the recipe.
        overrides: ``key=value`` with dotted keys and TOML values, applied in order.

    Raises:
        InputError: the recipe does not exist, is not TOML, is of another kind or has an invalid key.
    """
    if isinstance(recipe, PretrainRecipe | TrainRecipe | AutoencoderRecipe | DistillRecipe):
        where, values = "the recipe", recipe.model_dump(mode="json", exclude_unset=True)
    else:
        path = recipe_path(recipe)
        where, values = str(path), _read_toml(path)
    for override in overrides:
        _apply(values, override)
    found = values.get("kind")
    if KINDS.get(str(found)) is not kind:
        expected = next(name for name, other in KINDS.items() if other is kind)
        raise InputError(f"{where} is a recipe of kind {found!r}, but `rcdm {expected}` needs kind = {expected!r}.")
    return kind.parse(values, where)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"Cannot read the recipe {path}: {error.strerror}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not TOML: {error}.") from error


def _apply(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise InputError(f"`overrides` {override!r} must be key=value, such as optimization.lr=3e-4.")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    *parents, last = key.strip().split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise InputError(f"`overrides` {override!r}: {parent} is a value, not a section.")
    values[last] = value
