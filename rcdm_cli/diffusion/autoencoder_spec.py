"""Specs of autoencoders: the architectures ``AutoencoderKL`` and ``AutoencoderTiny`` of diffusers."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.spec import Spec
from rcdm_cli.diffusion.spec import LatentSpace

Width = Annotated[int, Field(ge=1, le=4096)]
Statistic = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]

_NO_EFFECT = (
    "sample_size",
    "scaling_factor",
    "shift_factor",
    "latents_mean",
    "latents_std",
    "force_upcast",
    "latent_magnitude",
    "latent_shift",
    "block_out_channels",
)
"""Keys of a configuration that do not change the networks. The statistics of the training images replace scaling and
shift."""


class KLSpec(Spec):
    """Architecture ``AutoencoderKL`` of diffusers (Rombach et al. 2022, arXiv:2112.10752), for RGB images.

    The names and defaults equal the names and defaults of diffusers.

    Attributes:
        block_out_channels: width of each resolution, the image's resolution first. Each resolution has half the size of
            the previous one.
        layers_per_block: residual blocks per resolution of the encoder; the decoder has one more.
        latent_channels: channels of the latents.
        norm_num_groups: groups of all group norms.
        use_quant_conv: whether a 1x1 convolution follows the encoder.
        use_post_quant_conv: whether a 1x1 convolution precedes the decoder.
        mid_block_add_attention: whether the middle blocks have self-attention.
    """

    kind: Literal["AutoencoderKL"] = "AutoencoderKL"
    block_out_channels: tuple[Width, ...] = Field((64,), min_length=2, max_length=6)
    layers_per_block: int = Field(1, ge=1, le=8)
    latent_channels: int = Field(4, ge=1, le=128)
    norm_num_groups: int = Field(32, ge=1, le=4096)
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True

    @property
    def space(self) -> LatentSpace:
        """Space of the latents."""
        factor = 2 ** (len(self.block_out_channels) - 1)
        return LatentSpace.model_validate({"kind": "latents", "factor": factor, "channels": self.latent_channels})

    @model_validator(mode="after")
    def _groups_divide_widths(self) -> Self:
        if uneven := [width for width in self.block_out_channels if width % self.norm_num_groups]:
            raise ValueError(f"block_out_channels {uneven} cannot be divided by norm_num_groups {self.norm_num_groups}")
        return self

    def config(self, scale: float) -> dict[str, Any]:
        """Return the configuration for diffusers; ``scale`` maps the latents to unit variance."""
        stages = len(self.block_out_channels)
        return {
            "_class_name": self.kind,
            **self.model_dump(mode="json", exclude={"kind"}),
            "in_channels": 3,
            "out_channels": 3,
            "act_fn": "silu",
            "down_block_types": ["DownEncoderBlock2D"] * stages,
            "up_block_types": ["UpDecoderBlock2D"] * stages,
            "scaling_factor": scale,
        }


class TinySpec(Spec):
    """Architecture ``AutoencoderTiny`` of diffusers (TAESD, github.com/madebyollin/taesd), for RGB images.

    The names and defaults equal the names and defaults of diffusers.

    Attributes:
        encoder_block_out_channels: width of each resolution of the encoder, the image's resolution first.
        decoder_block_out_channels: width of each resolution of the decoder, the resolution of the latents first.
        num_encoder_blocks: residual blocks of each resolution of the encoder.
        num_decoder_blocks: residual blocks of each resolution of the decoder.
        latent_channels: channels of the latents.
    """

    kind: Literal["AutoencoderTiny"] = "AutoencoderTiny"
    encoder_block_out_channels: tuple[Width, ...] = Field((64, 64, 64, 64), min_length=2, max_length=6)
    decoder_block_out_channels: tuple[Width, ...] = Field((64, 64, 64, 64), min_length=2, max_length=6)
    num_encoder_blocks: tuple[Annotated[int, Field(ge=0, le=16)], ...] = (1, 3, 3, 3)
    num_decoder_blocks: tuple[Annotated[int, Field(ge=0, le=16)], ...] = (3, 3, 3, 1)
    latent_channels: int = Field(4, ge=1, le=128)

    @property
    def space(self) -> LatentSpace:
        """Space of the latents."""
        factor = 2 ** (len(self.encoder_block_out_channels) - 1)
        return LatentSpace.model_validate({"kind": "latents", "factor": factor, "channels": self.latent_channels})

    @model_validator(mode="after")
    def _resolutions_agree(self) -> Self:
        lengths = {
            len(values)
            for values in (
                self.encoder_block_out_channels,
                self.decoder_block_out_channels,
                self.num_encoder_blocks,
                self.num_decoder_blocks,
            )
        }
        if len(lengths) > 1:
            raise ValueError("encoder and decoder must have equally many resolutions, with one number of blocks each")
        for widths in (self.encoder_block_out_channels, self.decoder_block_out_channels):
            # Only then does the state dict of diffusers have a convolution between any two resolutions.
            if len(set(widths)) > 1:
                raise ValueError(f"all resolutions must have the same width; given {widths}")
        return self


AutoencoderSpec = Annotated[KLSpec | TinySpec, Field(discriminator="kind")]


class LatentStatistics(Spec):
    """Mean and standard deviation of each channel of the latents of the training images."""

    mean: tuple[Statistic, ...]
    std: tuple[Annotated[float, Field(allow_inf_nan=False, gt=0, le=1e6)], ...]

    @model_validator(mode="after")
    def _equally_many(self) -> Self:
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean and std must have one value per channel; given {len(self.mean)}, {len(self.std)}")
        return self


_FIXED: dict[str, dict[str, set[Any]]] = {
    "AutoencoderKL": {
        "in_channels": {3},
        "out_channels": {3},
        "act_fn": {"silu", "swish"},
        "down_block_types": {"DownEncoderBlock2D"},
        "up_block_types": {"UpDecoderBlock2D"},
    },
    "AutoencoderTiny": {
        "in_channels": {3},
        "out_channels": {3},
        "act_fn": {"relu"},
        "upsample_fn": {"nearest"},
        "upsampling_scaling_factor": {2},
    },
}
"""Keys of configurations with a single supported value, or a list of this value."""


def parse_config(config: Mapping[str, Any], where: str) -> KLSpec | TinySpec:
    """Convert a configuration of diffusers (``config.json``) to a spec.

    Args:
        config: content of the file.
        where: name of the file, for error messages.

    Raises:
        InputError: the class is neither ``AutoencoderKL`` nor ``AutoencoderTiny``, or a value is not supported.
    """
    kind = str(config.get("_class_name"))
    if kind not in _FIXED:
        raise InputError(f"{where} is a configuration of {kind[:100]!r}, not of AutoencoderKL or AutoencoderTiny.")
    fixed = _FIXED[kind]
    for name in fixed.keys() & config.keys():
        values = config[name] if isinstance(config[name], list | tuple) else [config[name]]
        if not all(isinstance(value, str | int) and value in fixed[name] for value in values):
            raise InputError(f"{where}: {name} = {config[name]!r} is not supported, only {sorted(fixed[name])}.")
    no_effect = set(_NO_EFFECT) - ({"block_out_channels"} if kind == "AutoencoderKL" else set())
    values = {
        name: value
        for name, value in config.items()
        if name not in fixed and name not in no_effect and not name.startswith("_")
    }
    spec: type[KLSpec] | type[TinySpec] = KLSpec if kind == "AutoencoderKL" else TinySpec
    return spec.parse(values, where)
