"""What describes a diffusion model: its schedule, its denoiser and its conditioning."""

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.levels import Level
from rcdm_cli.core.spec import Spec

NORM_GROUPS = 32
"""Groups of every group norm; each feature map's width is a multiple of it."""


class ScheduleSpec(Spec):
    """How fast noise takes an image over.

    Attributes:
        kind: ``linear`` betas (Ho et al. 2020, arXiv:2006.11239) or the ``cosine`` cumulative product (Nichol and
            Dhariwal 2021, arXiv:2102.09672, equation 17).
        timesteps: T, the number of noise levels the denoiser is trained on.
    """

    kind: Literal["linear", "cosine"] = "linear"
    timesteps: PositiveInt = 1000

    @model_validator(mode="after")
    def _last_beta_is_below_one(self) -> Self:
        if self.kind == "linear" and self.timesteps <= 20:
            raise ValueError(
                f"linear needs more than 20 timesteps, since its last beta is 20 / timesteps; given {self.timesteps}"
            )
        return self


class DenoiserSpec(Spec):
    """The U-Net of Dhariwal and Nichol (2021, arXiv:2105.05233, section 3), as RCDM uses it.

    Attributes:
        size: height and width of the images in pixels.
        channels: width of the first feature map, a multiple of 32.
        channel_mult: width of each resolution as a multiple of ``channels``; each halves the size of the one before.
        blocks: residual blocks per resolution on the way down (one more on the way up).
        attention: sizes in pixels of the feature maps that are followed by self-attention; the smallest resolution
            always has one block of it in the middle.
        heads: attention heads, unless ``head_channels`` gives their width.
        head_channels: channels per attention head; takes the place of ``heads``.
        scale_shift_norm: the modulation scales and shifts after the second norm of a block; without it, it is added before.
        resblock_updown: residual blocks change the resolution; without it, a strided convolution and an upsampling
            one do.
        learned_variance: three more output channels that place the variance between its two bounds
            (arXiv:2102.09672, equation 15).
        split_qkv_first: the channels of attention are [query, key, value][head]; without it, [head][query, key, value].
            A matter of how published weights are laid out only.
        prediction: what the network says: the noise, as published, or v (arXiv:2202.00512), from which the noise
            follows; v trains a small network in less time.
        dropout: probability of dropping a feature in training.
    """

    size: PositiveInt
    channels: PositiveInt = Field(multiple_of=NORM_GROUPS)
    channel_mult: tuple[PositiveInt, ...] = Field(min_length=1)
    num_res_blocks: PositiveInt
    attention: tuple[PositiveInt, ...]
    heads: PositiveInt = 4
    head_channels: PositiveInt | None = None
    scale_shift_norm: bool = True
    resblock_updown: bool = True
    learned_variance: bool = False
    split_qkv_first: bool = False
    prediction: Literal["eps", "v"] = "eps"
    dropout: float = Field(0.0, ge=0.0, lt=1.0)

    @property
    def feature_sizes(self) -> tuple[int, ...]:
        """Height and width in pixels of the feature maps, largest first; one for each multiplier."""
        return tuple(self.size >> depth for depth in range(len(self.channel_mult)))

    @property
    def cond_width(self) -> int:
        """Width of the timestep embedding, to which ``cond`` is added."""
        return 4 * self.channels

    @property
    def out_channels(self) -> int:
        """3 for eps, 6 with the variance."""
        return 6 if self.learned_variance else 3

    def heads_at(self, width: int) -> int:
        """Attention heads of a feature map that is ``width`` channels wide."""
        return width // self.head_channels if self.head_channels else self.heads

    @model_validator(mode="after")
    def _sizes_fit(self) -> Self:
        if self.prediction == "v" and self.learned_variance:
            raise ValueError("learned_variance needs prediction = 'eps': its loss is defined on the noise")
        halvings = len(self.channel_mult) - 1
        if self.size % 2**halvings:
            raise ValueError(
                f"size must be a multiple of {2**halvings} to be halved {halvings} times; given {self.size}"
            )
        if strangers := sorted(set(self.attention) - set(self.feature_sizes)):
            raise ValueError(f"attention must be among the feature map sizes {self.feature_sizes}; given {strangers}")
        with_attention = {
            self.channels * multiplier
            for size, multiplier in zip(self.feature_sizes, self.channel_mult, strict=True)
            if size in self.attention or size == self.feature_sizes[-1]
        }
        divisor = self.head_channels or self.heads
        if uneven := sorted(width for width in with_attention if width % divisor):
            raise ValueError(f"attention widths {uneven} cannot be divided by {divisor} (head_channels or heads)")
        return self


class Representation(Spec):
    """One kind of ``h`` that a denoiser is conditioned on.

    Attributes:
        method: what trained the encoder, such as ``dino``.
        level: where ``h`` is taken.
        width: D, the length of ``h``.
    """

    method: str
    level: Level
    width: PositiveInt


class ConditioningSpec(Spec):
    """The representations that one denoiser serves, a projection each, and the width they are mapped to.

    Attributes:
        projections: one for each (method, level).
        width: the denoiser's ``cond_width``.
    """

    projections: tuple[Representation, ...] = Field(min_length=1)
    width: PositiveInt

    @model_validator(mode="after")
    def _projections_differ(self) -> Self:
        names = [(projection.method, projection.level) for projection in self.projections]
        if len(set(names)) < len(names):
            raise ValueError(f"each (method, level) may stand once; given {names}")
        return self

    def projection(self, method: str, level: str) -> int:
        """Which projection serves (``method``, ``level``).

        Raises:
            InputError: none does.
        """
        for index, candidate in enumerate(self.projections):
            if (candidate.method, candidate.level) == (method, level):
                return index
        known = ", ".join(f"{projection.method} at {projection.level}" for projection in self.projections)
        raise InputError(f"This model has no {method} at {level}: choose among {known}.")
