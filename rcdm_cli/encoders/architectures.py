"""Architectures of trunks, and tensors under timm's names."""

import inspect
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from importlib import import_module
from io import StringIO
from typing import Any

import torch
from torch import Tensor, nn

from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.reference import IMAGENET_MEAN, IMAGENET_STD
from rcdm_cli.encoders.spec import Preprocessing
from rcdm_cli.encoders.state import State, listed
from rcdm_cli.encoders.trunks import build_trunk, timm_config

DEFAULT_SIZE = 224


@dataclass(frozen=True)
class TrunkTensors:
    """Tensors from which the architecture of a trunk is inferred, and the options of the user.

    Attributes:
        own: tensors of the trunk, without ``prefix``. Other tensors below the prefix are included.
        prefix: prefix of the trunk's names.
        state: all tensors of the checkpoint.
        where: file, for errors.
        pool: timm's ``global_pool``; None uses the class token of a ViT if present, else the average.
        heads: number of attention heads; None infers the number.
        activation: activation given by the user.
        padding: padding of a ResNet's stem for small images; None infers the padding.
        has_scaling: whether the file or the user defines the scaling of images.
        size: height and width of the images in pixels; None uses the size of the position embeddings or the default.
    """

    own: State
    prefix: str
    state: State
    where: str
    pool: str | None = None
    heads: int | None = None
    activation: str | None = None
    padding: int | None = None
    has_scaling: bool = False
    size: int | None = None


@dataclass(frozen=True)
class Architecture:
    """Configuration of a timm trunk, and tensors under timm's names, which may include other tensors.

    Attributes:
        name: timm's name of the trunk.
        tensors: tensors under timm's names.
        preprocessing: preprocessing of the images.
        options: keyword arguments of ``timm.create_model``.
        pool: timm's ``global_pool``; None uses the model's default.
        stem_padding: padding of a ResNet's stem for small images; None keeps the stem of the trunk.
        norm_eps: epsilon of all layer norms; None keeps the epsilon of the trunk.
        facts: properties that tensors do not define, with the reason why a value was chosen.
        scaling: reason of the scaling in ``preprocessing``.
    """

    name: str
    tensors: State
    preprocessing: Preprocessing
    options: dict[str, Any] = field(default_factory=dict)
    pool: str | None = None
    stem_padding: int | None = None
    norm_eps: float | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    scaling: str = "default"

    def expected(self) -> dict[str, list[int]]:
        """Return the shape of every tensor of the trunk, by name."""
        with torch.device("meta"):
            trunk = build_trunk(self.name, self.options, self.pool, self.stem_padding)
        return {name: list(value.shape) for name, value in trunk.state_dict().items()}


TrunkReader = Callable[[TrunkTensors], Architecture]


def imagenet_preprocessing(size: int = DEFAULT_SIZE) -> Preprocessing:
    """Return the default preprocessing of checkpoints: ImageNet's mean and standard deviation."""
    return Preprocessing(size=size, mean=IMAGENET_MEAN, std=IMAGENET_STD)


def named_architecture(name: str, tensors: TrunkTensors) -> Architecture:
    """Return the architecture with a name of timm. Names of other projects are converted by timm.

    The configuration of a timm model describes timm's weights, so only a fixed input size is taken from it.

    Raises:
        InputError: timm's conversion changes the values of tensors or drops tensors that the output depends on.
    """
    config = timm_config(name)
    options = input_options(name, tensors.size, tensors.pool)
    if tensors.heads:
        options["num_heads"] = tensors.heads
    converted = _convert(tensors, name, options) if tensors.own else {}
    size = options.get("img_size", config.input_size[-1] if config.fixed_input_size else DEFAULT_SIZE)
    return Architecture(name, converted, imagenet_preprocessing(size), options, tensors.pool)


def input_options(name: str, size: int | None, pool: str | None) -> dict[str, Any]:
    """Return the options with which the weights of a timm model fit another size or pooling."""
    options: dict[str, Any] = {}
    if size and timm_config(name).fixed_input_size:
        options["img_size"] = size
    if pool:
        with torch.device("meta"):
            trunk = build_trunk(name, {}, None)
        # For average pooling, timm moves the last norm of a ViT behind the pooling; the weights have the trained order.
        for option in {"fc_norm", "use_fc_norm"} & inspect.signature(type(trunk).__init__).parameters.keys():
            options[option] = not isinstance(trunk.fc_norm, nn.Identity)
    return options


def _convert(tensors: TrunkTensors, name: str, options: Mapping[str, Any]) -> dict[str, Tensor]:
    own = tensors.own
    converted = convert_names(own, name, options, tensors.pool)
    # Positions and patches of another size are resampled, and a layer before the classifier is dropped.
    expected = {"pos_embed"} if tensors.size else set()
    changed = [
        name for name in converted.keys() & own.keys() - expected if own[name].numel() != converted[name].numel()
    ]
    dropped = [name for name in own if name not in converted and "pre_logits" in name]
    if changed or dropped:
        raise InputError(
            f"The trunk in {tensors.where} has "
            + (f"another size at {listed(changed)}" if changed else f"a layer that timm drops: {listed(dropped)}")
            + ". Give the timm model of exactly this size with trunk=NAME."
        )
    return converted


def convert_names(own: State, name: str, options: Mapping[str, Any], pool: str | None) -> dict[str, Tensor]:
    """Convert names and shapes of other projects with timm's converter of the model, if present.

    The converters of some models resample the position embeddings to the size in ``options``, antialiased.
    """
    with torch.device("meta"):
        trunk = build_trunk(name, options, pool)
    convert = getattr(import_module(type(trunk).__module__), "checkpoint_filter_fn", None)
    if convert is None:
        return dict(own)
    with redirect_stdout(StringIO()):  # timm's converter of DINOv3 prints the names of missing parameters
        converted: dict[str, Tensor] = convert(dict(own), trunk)
    return converted


def with_facts(architecture: Architecture, **facts: str) -> Architecture:
    """Return the architecture with additional facts, whose names have spaces instead of underscores."""
    return replace(
        architecture,
        facts={**architecture.facts, **{name.replace("_", " "): value for name, value in facts.items()}},
    )
