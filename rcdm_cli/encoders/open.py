"""Open encoders by reference: files of rcdm, checkpoints of other projects, ONNX graphs and timm models."""

from pathlib import Path

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import read_metadata
from rcdm_cli.encoders.encoder import Encoder, load_encoder
from rcdm_cli.encoders.from_checkpoint import open_checkpoint
from rcdm_cli.encoders.from_onnx import open_onnx
from rcdm_cli.encoders.from_timm import PREFIX, open_timm
from rcdm_cli.encoders.reference import Reference, parse_reference

ENCODER_FILE = "encoder.safetensors"
"""File name of the encoder in the folder of an ``rcdm pretrain`` run."""


def open_encoder(reference: str, method: str | None = None, head: Path | None = None) -> Encoder:
    """Open an encoder for inference: float32, on the CPU, in evaluation mode.

    A reference is a target with options after commas (see ``Reference``):

    - ``FILE.safetensors`` or ``FOLDER``: an encoder that rcdm wrote, or the folder of an ``rcdm pretrain`` run;
    - ``timm:NAME`` (random weights) or ``timm:NAME,pretrained``, such as
      ``timm:vit_small_patch14_dinov2,pretrained,pool=token,size=224``;
    - ``FILE.pt``, ``FILE.pth``, ...: a checkpoint of another project. Trunk and head are recognised by names and
      shapes, or given by ``trunk=NAME`` and ``head=NAME``;
    - ``FILE.onnx,scaling=imagenet``: an ONNX graph.

    Args:
        reference: reference of the encoder.
        method: name of the encoder; overrides the reference.
        head: file with the projector head of a checkpoint; overrides the reference.

    Raises:
        InputError: the reference is wrong, or the file cannot be opened as an encoder.
        RcdmError: weights could not be downloaded, or a package is missing.
    """
    overrides = {name: value for name, value in (("method", method), ("head", head and str(head))) if value}
    parsed = parse_reference(reference)
    parsed = Reference.parse(parsed.model_dump(exclude_unset=True) | overrides, f"`encoder` {reference}")
    encoder = _open(parsed).float().eval().requires_grad_(False)
    encoder.reference = reference
    return encoder


def _open(reference: Reference) -> Encoder:
    if reference.target.startswith(PREFIX):
        return open_timm(reference)
    path = Path(reference.target)
    if path.is_dir():
        path /= ENCODER_FILE
    if not path.is_file():
        raise InputError(
            f"{path} is not a file. An encoder is a file, the folder of an `rcdm pretrain` run, or timm:NAME."
        )
    if path.suffix == ".onnx":
        return open_onnx(path, reference)
    if path.suffix == ".safetensors" and "kind" in read_metadata(path):
        return _open_own(path, reference)
    return open_checkpoint(path, reference)


def _open_own(path: Path, reference: Reference) -> Encoder:
    reference.check("an encoder that rcdm wrote, which includes its own spec", ())
    encoder = load_encoder(path)
    if reference.method:
        encoder.spec = encoder.spec.model_copy(update={"method": reference.method})
    return encoder
