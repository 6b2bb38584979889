"""Trunks: any timm model without its classifier."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import timm
from torch import nn

from rcdm_cli.errors import InputError


def build_trunk(name: str, options: Mapping[str, Any], pool: str | None) -> nn.Module:
    """A timm model that maps (B, 3, H, W) to pooled features (B, width); random weights.

    Raises:
        InputError: timm has no such model, or refuses the options.
    """
    if not timm.is_model(name):
        near = get_close_matches(name, timm.list_models(), n=3)
        hint = f" Near names: {', '.join(near)}." if near else ""
        raise InputError(f"trunk = {name!r} is not a timm model.{hint} timm.list_models() lists all.")
    pooling: dict[str, Any] = {} if pool is None else {"global_pool": pool}
    try:
        return timm.create_model(name, pretrained=False, num_classes=0, **pooling, **options)
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        raise InputError(f"timm cannot build the trunk {name!r} with {dict(options) | pooling}: {error}") from error


def trunk_width(trunk: nn.Module) -> int:
    """Width of the pooled output; some timm models widen it after the last block (``head_hidden_size``)."""
    return int(getattr(trunk, "head_hidden_size", None) or trunk.num_features)  # type: ignore[arg-type]
