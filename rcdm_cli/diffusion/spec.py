"""Specs of a diffusion model: noise schedule, space, denoiser and conditioning."""

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveInt, model_validator

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.levels import Level
from rcdm_cli.core.spec import FolderName, Method, Spec

NORM_GROUPS = 32
"""Number of groups of all group norms. The width of each feature map is a multiple of this number."""


Prediction = Literal["eps", "v"]


class ScheduleSpec(Spec):
    """Noise schedule.

    Attributes:
        kind: ``linear`` betas (Ho et al. 2020, arXiv:2006.11239) or the ``cosine`` cumulative product (Nichol and
            Dhariwal 2021, arXiv:2102.09672, equation 17).
        timesteps: number of timesteps T that the denoiser is trained with.
    """

    kind: Literal["linear", "cosine"] = "linear"
    timesteps: int = Field(1000, ge=1, le=100_000)

    @model_validator(mode="after")
    def _last_beta_is_below_one(self) -> Self:
        if self.kind == "linear" and self.timesteps <= 20:
            raise ValueError(
                f"linear needs more than 20 timesteps, because its last beta is 20 / timesteps; given {self.timesteps}"
            )
        return self


class PixelSpace(Spec):
    """Pixel space: RGB values in [-1, 1]."""

    kind: Literal["pixels"] = "pixels"

    @property
    def factor(self) -> int:
        """Side of the image in pixels per side of the denoiser's input."""
        return 1

    @property
    def channels(self) -> int:
        """Channels of the denoiser's input."""
        return 3


class PatchSpace(Spec):
    """Patch space: the pixels of each square of ``factor`` x ``factor`` pixels are the channels of one position.

    The map (``pixel_unshuffle``) is a permutation of the values and therefore an orthonormal change of basis: white
    noise stays white, the loss is the same sum, and x0 can be clipped to [-1, 1] as in pixel space. A rotation inside
    each patch, such as a DCT, would not change what the first convolution can compute, and would not allow clipping.
    """

    kind: Literal["patches"]
    factor: Literal[2, 4]

    @property
    def channels(self) -> int:
        """Channels of the denoiser's input."""
        return 3 * self.factor**2


class LatentSpace(Spec):
    """Latent space of an autoencoder (Rombach et al. 2022, arXiv:2112.10752), normalised per channel.

    Attributes:
        factor: side of the image in pixels per side of the latents.
        channels: channels of the latents.
    """

    kind: Literal["latents"]
    factor: Literal[2, 4, 8, 16, 32]
    channels: int = Field(ge=1, le=128)


Space = Annotated[PixelSpace | PatchSpace | LatentSpace, Field(discriminator="kind")]
"""Space of the denoiser's input."""


class DenoiserSpec(Spec):
    """The U-Net of Dhariwal and Nichol (2021, arXiv:2105.05233, section 3), as RCDM uses it.

    Attributes:
        size: height and width of the images in pixels.
        space: space of the input and the output. The input has the size ``size / space.factor``.
        channels: width of the first feature map, a multiple of 32.
        channel_mult: width of each resolution as a multiple of ``channels``. Each resolution has half the size of the
            previous one.
        num_res_blocks: residual blocks per resolution in the encoder path; the decoder path has one more.
        attention: sizes of the feature maps with self-attention. The middle block always has self-attention.
        heads: number of attention heads, unless ``head_channels`` is set.
        head_channels: channels per attention head; replaces ``heads``.
        scale_shift_norm: whether the modulation scales and shifts the second norm of a block. If False, the modulation
            is added before that norm.
        resblock_updown: whether residual blocks change the resolution. If False, strided convolutions and upsampling
            layers do.
        learned_variance: whether the output has a second set of channels, which interpolate between the bounds of the
            variance (arXiv:2102.09672, equation 15).
        split_qkv_first: whether attention channels are ordered [query, key, value][head] instead of [head][query, key,
            value]. Only the layout of published weights depends on this value.
        prediction: output of the network: the noise, as published, or the velocity v (arXiv:2202.00512), with which a
            small network trains faster.
        dropout: dropout probability in training.
    """

    size: int = Field(ge=1, le=2048)
    space: Space = PixelSpace()
    channels: int = Field(ge=1, le=4096, multiple_of=NORM_GROUPS)
    channel_mult: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(min_length=1, max_length=10)
    num_res_blocks: int = Field(ge=1, le=32)
    attention: tuple[PositiveInt, ...] = Field(max_length=10)
    heads: int = Field(4, ge=1, le=4096)
    head_channels: int | None = Field(None, ge=1, le=4096)
    scale_shift_norm: bool = True
    resblock_updown: bool = True
    learned_variance: bool = False
    split_qkv_first: bool = False
    prediction: Prediction = "eps"
    dropout: float = Field(0.0, ge=0.0, lt=1.0)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Shape of one input, (C, H, W)."""
        side = self.size // self.space.factor
        return self.space.channels, side, side

    @property
    def feature_sizes(self) -> tuple[int, ...]:
        """Height and width of the feature maps, one per resolution, largest first."""
        return tuple(self.size // self.space.factor >> depth for depth in range(len(self.channel_mult)))

    @property
    def cond_width(self) -> int:
        """Width of the timestep embedding and of ``cond``, which is added to the embedding."""
        return 4 * self.channels

    @property
    def out_channels(self) -> int:
        """Number of output channels: the channels of the space, twice with learned variance."""
        return self.space.channels * (2 if self.learned_variance else 1)

    def heads_at(self, width: int) -> int:
        """Return the number of attention heads for a feature map with ``width`` channels."""
        return width // self.head_channels if self.head_channels else self.heads

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.prediction == "v" and self.learned_variance:
            raise ValueError("learned_variance needs prediction = 'eps', because its loss is defined on the noise")
        if self.space.kind == "latents" and self.learned_variance:
            raise ValueError("learned_variance needs pixels or patches, because its loss counts 8-bit values")
        halvings = len(self.channel_mult) - 1
        if self.size % (multiple := self.space.factor * 2**halvings):
            reduced = "" if self.space.factor == 1 else f"reduced {self.space.factor} times and "
            raise ValueError(
                f"size must be a multiple of {multiple} to be {reduced}halved {halvings} times; given {self.size}"
            )
        if invalid := sorted(set(self.attention) - set(self.feature_sizes)):
            raise ValueError(f"attention must be among the feature map sizes {self.feature_sizes}; given {invalid}")
        with_attention = {
            self.channels * multiplier
            for size, multiplier in zip(self.feature_sizes, self.channel_mult, strict=True)
            if size in self.attention or size == self.feature_sizes[-1]
        }
        divisor = self.head_channels or self.heads
        if uneven := sorted(width for width in with_attention if width % divisor):
            raise ValueError(f"attention widths {uneven} cannot be divided by {divisor} (head_channels or heads)")
        return self


NullCond = Literal["zeros", "learned"]


class Settings(Spec):
    """Sampling settings.

    Attributes:
        sampler: name of the sampler. ``ddim_angle`` is DDIM with the timesteps of students.
        steps: number of sampling steps.
        guidance: scale of classifier-free guidance; 1 disables guidance.
    """

    sampler: Literal["ddpm", "ddim", "ddim_angle", "dpmpp"] = "dpmpp"
    steps: int = Field(20, ge=1, le=10_000)
    guidance: float = Field(1.0, ge=0.0, allow_inf_nan=False)


class GuidanceRange(Spec):
    """Range of guidance scales.

    Attributes:
        low: smallest scale.
        high: largest scale.
    """

    low: float = Field(ge=0.0, allow_inf_nan=False)
    high: float = Field(le=100.0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _is_not_empty(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low must be below high; given {self.low:g} and {self.high:g}")
        return self

    def __contains__(self, scale: float) -> bool:
        """Return whether ``scale`` is in the range."""
        return self.low <= scale <= self.high


class StudentSpec(Spec):
    """Origin of a denoiser that was distilled from a teacher to sample in fewer steps.

    A student predicts the result of several steps of its teacher. The predictions hold for the sampler and the number
    of steps of its training only.

    Attributes:
        teacher: name of the teacher's bundle.
        teacher_sha256: hash of the teacher's weights.
        guidance: guidance scale of the teacher's samples. The student has learned guided samples and calls the network
            once per step. None for a student that receives the scale as an input.
    """

    teacher: FolderName
    teacher_sha256: str = Field(max_length=64)
    guidance: float | None = Field(ge=0.0, allow_inf_nan=False)


class Representation(Spec):
    """Representation that a denoiser is conditioned on.

    Attributes:
        method: method of the encoder, such as ``dino``.
        level: level of the encoder.
        width: dimension D of ``h``.
    """

    method: Method
    level: Level
    width: int = Field(ge=1, le=2**20)


class ConditioningSpec(Spec):
    """Conditioning projections of a denoiser.

    Attributes:
        projections: input representation of each projection, one per (method, level).
        width: output width of the projections, ``cond_width`` of the denoiser.
        null: unconditional conditioning vector: ``zeros``, or a ``learned`` vector.
        guidance: smallest and largest guidance scale of a student that receives the scale as an input.
    """

    projections: tuple[Representation, ...] = Field(min_length=1, max_length=4096)
    width: int = Field(ge=1, le=2**20)
    null: NullCond = "zeros"
    guidance: GuidanceRange | None = None

    @model_validator(mode="after")
    def _projections_differ(self) -> Self:
        names = [(projection.method, projection.level) for projection in self.projections]
        if len(set(names)) < len(names):
            raise ValueError(f"each (method, level) may occur once; given {names}")
        return self

    def projection(self, method: str, level: str) -> int:
        """Return the index of the projection of (``method``, ``level``).

        Raises:
            InputError: the projection does not exist.
        """
        for index, candidate in enumerate(self.projections):
            if (candidate.method, candidate.level) == (method, level):
                return index
        available = ", ".join(f"{projection.method} at {projection.level}" for projection in self.projections)
        raise InputError(f"This model has no {method} at {level}: choose among {available}.")
