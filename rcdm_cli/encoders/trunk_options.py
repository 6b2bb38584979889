"""Architecture options of timm trunks that recipes, manifests and encoder files may contain.

``timm.create_model`` also takes arguments that download or unpickle files, such as ``checkpoint_path`` and
``pretrained_cfg``. A specification may come from an untrusted file. Therefore only the options below are accepted.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

Count = Annotated[int, Field(ge=1, le=256)]
Width = Annotated[int, Field(ge=1, le=16384)]
Rate = Annotated[float, Field(ge=0, lt=1)]
Counts = Annotated[tuple[Count, ...], Field(min_length=1, max_length=8)]
Widths = Annotated[tuple[Width, ...], Field(min_length=1, max_length=8)]
Positive = Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)]

TRUNK_NAME_PATTERN = r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?$"
"""Pattern of timm's model names with an optional tag of weights; excludes addresses and paths."""

TrunkPool = Literal["avg", "max", "avgmax", "catavgmax", "token", "map"]
"""Values of timm's ``global_pool`` with an output (B, D)."""


class TrunkOptions(TypedDict, total=False):
    """Keyword arguments of ``timm.create_model`` that define an architecture."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    # All trunks
    in_chans: Annotated[int, Field(ge=1, le=1024)]
    img_size: Annotated[int, Field(ge=16, le=2048)]
    drop_rate: Rate
    drop_path_rate: Rate
    act_layer: Literal["relu", "gelu", "gelu_tanh", "quick_gelu", "silu"]
    # ResNets
    layers: Counts
    channels: Widths
    cardinality: Width
    base_width: Width
    stem_width: Width
    stem_type: Literal["", "deep", "deep_tiered"]
    replace_stem_pool: bool
    avg_down: bool
    block_reduce_first: Count
    output_stride: Literal[8, 16, 32]
    # Transformers and ConvNeXts
    patch_size: Annotated[int, Field(ge=1, le=256)]
    embed_dim: Width | Widths
    depth: Count
    depths: Counts
    dims: Widths
    num_heads: Count | Counts
    window_size: Count
    mlp_ratio: Annotated[float, Field(gt=0, le=64)]
    qkv_bias: bool
    qk_norm: bool
    proj_bias: bool
    init_values: Annotated[float, Field(ge=0, le=1)] | None
    class_token: bool
    pos_embed: Literal["", "none", "learn"]
    no_embed_class: bool
    reg_tokens: Annotated[int, Field(ge=0, le=256)]
    num_reg_tokens: Annotated[int, Field(ge=0, le=256)]
    pre_norm: bool
    final_norm: bool
    fc_norm: bool
    use_fc_norm: bool
    pool_include_prefix: bool
    dynamic_img_size: bool
    attn_drop_rate: Rate
    proj_drop_rate: Rate
    pos_drop_rate: Rate
    swiglu_mlp: bool
    use_abs_pos_emb: bool
    use_rel_pos_bias: bool
    use_shared_rel_pos_bias: bool
    use_rot_pos_emb: bool
    rope_temperature: Positive


def block_count(options: Mapping[str, Any]) -> int:
    """Return the number of blocks that the options request; 0 for the default of the trunk."""
    return int(options.get("depth", 0)) + sum(sum(options.get(name, ())) for name in ("layers", "depths"))
