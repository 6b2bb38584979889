"""Files of Hugging Face checkpoints: ``config.json``, ``preprocessor_config.json`` and weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import read_tensors
from rcdm_cli.core.state_dict import load_state_dict_file
from rcdm_cli.encoders.hub import CONFIG, INDEX, PICKLED_WEIGHTS, PREPROCESSOR, PROCESSOR, WEIGHTS, HubFile, read_json
from rcdm_cli.encoders.reference import Reference
from rcdm_cli.encoders.spec import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

_RESCALE = 1 / 255

Side = Annotated[int, Field(ge=1, le=4096)]
Channel = Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)]
Activation = Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu"]


class NetworkConfig(HubFile):
    """Properties of a network that its tensors do not determine. None is the default of ``model_type``.

    Attributes:
        model_type: family of the network, such as ``dinov2``.
        num_attention_heads: number of attention heads.
        hidden_act: activation.
        layer_norm_eps: epsilon of the layer norms.
        image_size: height and width of the images in pixels.
        rope_theta: base of the rotary position embedding of DINOv3.
        layer_type: block of a ResNet.
        downsample_in_bottleneck: whether the first convolution of a bottleneck has the stride.
        downsample_in_first_stage: whether the first stage of a ResNet halves the feature map.
        vision_config: vision tower of CLIP and SigLIP.
    """

    model_type: str = Field(default="", max_length=64)
    num_attention_heads: int | None = Field(default=None, ge=1, le=256)
    hidden_act: Activation | None = None
    layer_norm_eps: float | None = Field(default=None, gt=0, le=0.1)
    image_size: Side | None = None
    rope_theta: float | None = Field(default=None, gt=0, le=1e6)
    layer_type: Literal["basic", "bottleneck"] = "bottleneck"
    downsample_in_bottleneck: bool = False
    downsample_in_first_stage: bool = False
    vision_config: "NetworkConfig | None" = None


class _Size(HubFile):
    height: Side | None = None
    width: Side | None = None
    shortest_edge: Side | None = None

    @model_validator(mode="before")
    @classmethod
    def _from_number(cls, value: Any) -> Any:
        return {"shortest_edge": value} if isinstance(value, int) else value

    @model_validator(mode="after")
    def _square(self) -> "_Size":
        if self.height != self.width or (self.height or self.shortest_edge) is None:
            raise ValueError("the images must be square")
        return self

    @property
    def side(self) -> int:
        return self.height or self.shortest_edge or 0


class ImageProcessorConfig(HubFile):
    """Preprocessing of an image processor of transformers."""

    do_rescale: bool = True
    rescale_factor: float = Field(default=_RESCALE, gt=0, le=1)
    do_normalize: bool = True
    image_mean: tuple[Channel, Channel, Channel]
    image_std: tuple[Channel, Channel, Channel]
    do_resize: bool = True
    size: _Size | None = None
    do_center_crop: bool = False
    crop_size: _Size | None = None

    @field_validator("image_mean", "image_std", mode="before")
    @classmethod
    def _for_grey_images(cls, value: Any) -> Any:
        return value * 3 if isinstance(value, list) and len(value) == 1 else value

    @model_validator(mode="after")
    def _unit_range(self) -> "ImageProcessorConfig":
        if not self.do_rescale or abs(self.rescale_factor / _RESCALE - 1) > 1e-4:
            raise ValueError("the pixel values are not rescaled to 0..1; give scaling, or mean and std")
        return self

    @property
    def side(self) -> int | None:
        """Height and width of the input in pixels, after the centre crop."""
        if self.do_center_crop and self.crop_size:
            return self.crop_size.side
        return self.size.side if self.size and self.do_resize else None


def read_config(folder: Path) -> NetworkConfig:
    """Read ``config.json``.

    Raises:
        InputError: the file is missing or invalid.
    """
    return NetworkConfig.parse(read_json(folder / CONFIG), str(folder / CONFIG))


def read_preprocessing(folder: Path, reference: Reference, default_size: int) -> Preprocessing:
    """Return the preprocessing of ``preprocessor_config.json`` with the options of ``reference``.

    Raises:
        InputError: the file is invalid; or the file is missing, and the scaling is not given.
    """
    path = folder / PREPROCESSOR
    both = folder / PROCESSOR  # written by transformers 5 for models with a tokenizer
    given = reference.scaling is not None or reference.mean is not None
    if not path.is_file() and not both.is_file():
        if not given:
            raise InputError(f"{folder} has no {PREPROCESSOR}. Give the scaling: scaling=imagenet, -1..1 or 0..1.")
        return reference.preprocessing(Preprocessing(size=default_size))
    values = read_json(path) if path.is_file() else read_json(both).get("image_processor", {})
    if given:  # the options replace the values of the file
        unused = {"do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std"}
        values = {name: value for name, value in values.items() if name not in unused}
        values |= {"image_mean": [0, 0, 0], "image_std": [1, 1, 1]}
    config = ImageProcessorConfig.parse(values, str(path))
    mean, std = (config.image_mean, config.image_std) if config.do_normalize else ((0, 0, 0), (1, 1, 1))
    own = Preprocessing.parse({"size": config.side or default_size, "mean": mean, "std": std}, str(path))
    return reference.preprocessing(own)


def read_weights(folder: Path) -> "dict[str, Tensor]":
    """Read ``model.safetensors``, its parts, or ``pytorch_model.bin`` as data.

    Raises:
        InputError: no weights are found, or a file is damaged.
    """
    if (folder / WEIGHTS).is_file():
        return read_tensors(folder / WEIGHTS)
    if (folder / INDEX).is_file():
        names = _Index.parse(read_json(folder / INDEX), str(folder / INDEX)).weight_map.values()
        return {name: tensor for file in sorted(set(names)) for name, tensor in read_tensors(folder / file).items()}
    if (folder / PICKLED_WEIGHTS).is_file():
        return load_state_dict_file(folder / PICKLED_WEIGHTS)
    raise InputError(f"{folder} has a {CONFIG}, but no {WEIGHTS}.")


class _Index(HubFile):
    """Names of the files that contain each tensor."""

    weight_map: dict[str, Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.safetensors$")]]
