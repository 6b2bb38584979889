"""Number of attention heads of a ViT, which the shapes of its tensors do not define."""

import re
from collections.abc import Collection

from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.state import State, words_of

_COMMON = {768: 12, 1024: 16, 1152: 16, 1280: 16, 1408: 16, 1664: 16}
"""Widths with the same number of heads in all public ViTs: ViT-B, L, so400m, H, g and bigG."""

_AMBIGUOUS = {
    192: "3 (DeiT, timm) or 12 (solo-learn's MoCo v3 and MAE)",
    384: "6 (DINO, DeiT, timm) or 12 (MoCo v3, solo-learn's MoCo v3 and MAE)",
}
"""Number of heads of public ViTs that differ at the same width."""

_DINO_HEAD = re.compile(r"(^|[._])(head|dino_head)\.last_layer\.")
_MSN_HEAD = re.compile(r"(^|\.)fc\.fc3\.weight$")


def attention_heads(own: State, prefix: str, names: Collection[str], where: str, given: int | None) -> tuple[int, str]:
    """Return the number of attention heads of a ViT and the reason.

    The number is ``given``, or defined by the tensors, or known from the public layout with these names and this width.

    Args:
        own: tensors of the trunk, with the names of timm or DINOv2.
        prefix: prefix of the trunk's names.
        names: all names of the checkpoint.
        where: file, for errors.
        given: number of heads given by the user.

    Raises:
        InputError: ``given`` does not divide the width, or several numbers fit.
    """
    width = own["patch_embed.proj.weight"].shape[0]
    if given is not None:
        if width % given:
            raise InputError(f"The {width} channels of the ViT in {where} cannot be divided among heads={given}.")
        return given, "given"
    norm = own.get("blocks.0.attn.q_norm.weight")
    if norm is not None and norm.ndim == 1 and len(norm) and width % len(norm) == 0 and len(norm) < width:
        return width // len(norm), "from the norm of the queries"
    if found := _by_layout(own, width, prefix, names):
        return found
    hidden = own.get("blocks.0.mlp.fc1.weight")
    if width in _COMMON and not (width == 768 and hidden is not None and len(hidden) == 3 * width):
        return _COMMON[width], f"of all public ViTs of width {width}"
    fits = _AMBIGUOUS.get(width)
    raise InputError(
        f"The {width} channels of the ViT in {where} "
        + (f"have {fits} attention heads in public models." if fits else "fit several numbers of attention heads.")
        + " Give the number: FILE,heads=N."
    )


def _by_layout(own: State, width: int, prefix: str, names: Collection[str]) -> tuple[int, str] | None:
    if words_of(prefix) >= {"base", "encoder"} or words_of(prefix) >= {"momentum", "encoder"}:
        return (12, "of MoCo v3") if width in (384, 768) else None
    if width not in (192, 384, 768, 1024, 1536):
        return None
    token = own.get("mask_token")
    if token is not None and token.shape == (1, width) and "blocks.0.ls1.gamma" in own:
        return width // 64, "of DINOv2"
    # solo-learn writes the same names for ViTs with other numbers of heads, but has a momentum network.
    if any(map(_DINO_HEAD.search, names)) and not any("momentum" in words_of(name) for name in names):
        return width // 64, "of DINO"
    if "target_encoder" in prefix.split(".") and any(map(_MSN_HEAD.search, names)):
        return width // 64, "of MSN"
    return None
