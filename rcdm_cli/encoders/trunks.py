"""Trunks: any timm model without its classifier."""

from collections.abc import Mapping
from difflib import get_close_matches
from glob import escape
from typing import TYPE_CHECKING, Any

from torch import nn

from rcdm_cli.core.errors import InputError

# timm is imported where it is used: it takes seconds, and a bundle with exported encoders needs none of it.
if TYPE_CHECKING:
    from timm.models import PretrainedCfg


def build_trunk(
    name: str,
    options: Mapping[str, Any],
    pool: str | None,
    stem_padding: int | None = None,
    *,
    pretrained: bool = False,
) -> nn.Module:
    """A timm model that maps (B, 3, H, W) to pooled features (B, width).

    Args:
        name: of the model, with or without the tag of its weights.
        options: for ``timm.create_model``.
        pool: timm's ``global_pool``; None is the model's own.
        stem_padding: as in ``EncoderSpec``.
        pretrained: with the weights that timm knows for it, downloaded where they are not in its cache; else random.

    Raises:
        InputError: timm has no such model, or refuses the options.
    """
    import timm

    timm_config(name)
    pooling: dict[str, Any] = {} if pool is None else {"global_pool": pool}
    try:
        trunk = timm.create_model(name, pretrained=pretrained, num_classes=0, **pooling, **options)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise InputError(f"timm cannot build the trunk {name!r} with {dict(options) | pooling}: {error}") from error
    if stem_padding is not None:
        _use_small_stem(trunk, stem_padding)
    return trunk


def timm_config(name: str) -> "PretrainedCfg":
    """What timm's table says of a model: input, weights, licence.

    Raises:
        InputError: timm has no such model, or no such weights of it.
    """
    import timm

    if not timm.is_model(name):
        near = get_close_matches(name.lower(), timm.list_models(), n=3) or timm.list_models(f"*{escape(name)}*")[:5]
        hint = f" Near names: {', '.join(near)}." if near and name else ""
        raise InputError(f"{name!r} is not a timm model.{hint} timm.list_models() lists all.")
    try:
        return timm.models.get_pretrained_cfg(name) or timm.models.PretrainedCfg()
    except RuntimeError as error:
        known = ", ".join(timm.list_pretrained(name.partition(".")[0])) or "none"
        raise InputError(f"timm has no weights {name!r} of that trunk; it has: {known}.") from error


def _use_small_stem(trunk: nn.Module, padding: int) -> None:
    import timm

    if not (isinstance(trunk, timm.models.resnet.ResNet) and isinstance(trunk.conv1, nn.Conv2d)):
        raise InputError(f"stem_padding is for plain ResNets, and the trunk is a {type(trunk).__name__}.")
    channels = trunk.conv1.out_channels
    trunk.register_module("conv1", nn.Conv2d(3, channels, 3, stride=1, padding=padding, bias=False))
    trunk.register_module("maxpool", nn.Identity())


def trunk_width(trunk: nn.Module) -> int:
    """Width of the pooled output; some timm models widen it after the last block (``head_hidden_size``)."""
    return int(getattr(trunk, "head_hidden_size", None) or trunk.num_features)  # type: ignore[arg-type]
