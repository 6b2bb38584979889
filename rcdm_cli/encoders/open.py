"""One way in for encoders: files of this program, checkpoints of others, timm models and ONNX files."""

from pathlib import Path

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import read_metadata
from rcdm_cli.encoders.encoder import Encoder, load_encoder
from rcdm_cli.encoders.from_checkpoint import open_checkpoint
from rcdm_cli.encoders.from_onnx import open_onnx
from rcdm_cli.encoders.from_timm import PREFIX, open_timm
from rcdm_cli.encoders.reference import Reference, parse_reference

ENCODER_FILE = "encoder.safetensors"
"""The encoder in the folder of an ``rcdm pretrain`` run."""


def open_encoder(reference: str, method: str | None = None, head: Path | None = None) -> Encoder:
    """Open the encoder that ``reference`` names, for use: float32, on the CPU, in evaluation mode.

    A reference is one of these, with options after commas (``Reference`` has them all):

    - the file of an encoder that rcdm wrote, or the folder of an ``rcdm pretrain`` run;
    - ``timm:NAME`` (random weights) or ``timm:NAME,pretrained``, such as
      ``timm:vit_small_patch14_dinov2,pretrained,pool=token,size=224``;
    - a checkpoint of another project, ``.pt``, ``.pth``, ``.safetensors`` or any other name: its trunk and head are
      recognised by names and shapes, ``trunk=NAME`` and ``head=NAME`` help out;
    - ``FILE.onnx,scaling=imagenet``.

    Args:
        reference: as above.
        method: the encoder's name; in place of the reference's own.
        head: a file with the head of a checkpoint that holds none; in place of the reference's ``head``.

    Raises:
        InputError: it cannot be opened as an encoder.
        RcdmError: weights could not be downloaded, or a package is missing.
    """
    given = {name: value for name, value in (("method", method), ("head", head and str(head))) if value}
    parsed = parse_reference(reference)
    parsed = Reference.parse(parsed.model_dump(exclude_unset=True) | given, f"--encoder {reference}")
    return _open(parsed).float().eval().requires_grad_(False)


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
        return _own(path, reference)
    return open_checkpoint(path, reference)


def _own(path: Path, reference: Reference) -> Encoder:
    reference.check("an encoder that rcdm wrote, which brings its own spec", ())
    encoder = load_encoder(path)
    if reference.method:
        encoder.spec = encoder.spec.model_copy(update={"method": reference.method})
    return encoder
