"""Encoders out of ONNX files."""

from pathlib import Path
from typing import Any

import torch

from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.encoders.onnx_trunk import OnnxTrunk
from rcdm_cli.encoders.reference import Reference
from rcdm_cli.encoders.spec import EncoderSpec, Preprocessing

OPTIONS = ("size", "scaling", "mean", "std")


def open_onnx(path: Path, reference: Reference) -> Encoder:
    """An encoder that runs an ONNX graph: one output (B, D), or two, the backbone's first and the projector's second.

    The graph stays as it is; it works for everything that needs no gradient. How its images were scaled stands in no
    ONNX file and must be given.

    Raises:
        InputError: not such a graph, or an option is missing or does not fit.
    """
    reference.check("an ONNX file", OPTIONS)
    trunk = OnnxTrunk(path.read_bytes(), str(path))
    size = _input_size(trunk.session, reference, path)
    if reference.scaling is None and reference.mean is None:
        raise InputError(
            f"{path} does not say how its images are scaled. Give {path},scaling=imagenet, -1..1 or 0..1, "
            "or mean=R/G/B,std=R/G/B."
        )
    outputs = trunk(torch.zeros(1, 3, size, size))
    if not 1 <= len(outputs) <= 2 or any(h.ndim != 2 or len(h) != 1 for h in outputs):
        shapes = ", ".join(str(list(h.shape)) for h in outputs)
        raise InputError(
            f"{path} gives {shapes} for one image. An encoder gives [1, D] for the backbone, and may give a second "
            "[1, D] for the projector."
        )
    widths = tuple(h.shape[1] for h in outputs)
    spec = EncoderSpec(
        method=reference.name(),
        trunk="onnx",
        width=widths[0],
        onnx_widths=widths,
        preprocessing=reference.preprocessing(Preprocessing(size=size)),
        origin=path.name,
    )
    return Encoder(spec, trunk)


def _input_size(session: Any, reference: Reference, path: Path) -> int:
    entries = session.get_inputs()
    shape = entries[0].shape if len(entries) == 1 else []
    if len(shape) != 4 or (isinstance(shape[1], int) and shape[1] != 3) or entries[0].type != "tensor(float)":
        found = ", ".join(f"{entry.name} {entry.type} {entry.shape}" for entry in entries)
        raise InputError(f"{path} takes {found}. An encoder takes float32 images (B, 3, H, W) and nothing else.")
    fixed = {side for side in shape[2:] if isinstance(side, int)}
    if len(fixed) > 1 or (fixed and reference.size and reference.size not in fixed):
        given = f", not {reference.size}" if reference.size else ""
        raise InputError(f"{path} takes images of {shape[2]} x {shape[3]} pixels{given}. An encoder's are square.")
    size = reference.size or next(iter(fixed), None)
    if size is None:
        raise InputError(f"{path} takes images of any size. Say which: {path},size=224.")
    return size
