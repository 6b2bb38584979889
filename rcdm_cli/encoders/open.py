"""Open encoders by reference: files of rcdm, checkpoints, ONNX graphs, timm and Hugging Face models."""

from collections.abc import Iterable
from pathlib import Path

from pydantic import ValidationError

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import read_metadata
from rcdm_cli.core.spec import explain
from rcdm_cli.encoders.encoder import Encoder, load_encoder
from rcdm_cli.encoders.find_layers import with_layers
from rcdm_cli.encoders.from_checkpoint import open_checkpoint
from rcdm_cli.encoders.from_hugging_face import open_transformers
from rcdm_cli.encoders.from_onnx import open_onnx
from rcdm_cli.encoders.from_timm import PREFIX, open_timm, open_timm_folder
from rcdm_cli.encoders.from_torchvision import PREFIX as TORCHVISION_PREFIX
from rcdm_cli.encoders.from_torchvision import open_torchvision
from rcdm_cli.encoders.hub import CONFIG, PICKLED_WEIGHTS, WEIGHTS, download, read_json
from rcdm_cli.encoders.reference import NOT_A_FILE, Reference, parse_reference

HUB_PREFIX = "hf:"
TIMM_HUB_PREFIX = "timm:hf-hub:"

ENCODER_FILE = "encoder.safetensors"
"""File name of the encoder in the folder of an ``rcdm pretrain`` run."""


def open_encoder(
    reference: str, method: str | None = None, head: Path | None = None, levels: Iterable[str] = ()
) -> Encoder:
    """Open an encoder for inference: float32, on the CPU, in evaluation mode.

    A reference is a target with options after commas (see ``Reference``):

    - ``FILE.safetensors`` or ``FOLDER``: an encoder that rcdm wrote, or the folder of an ``rcdm pretrain`` run;
    - ``timm:NAME`` (random weights) or ``timm:NAME,pretrained``, such as
      ``timm:vit_small_patch14_dinov2,pretrained,pool=token,size=224``;
    - ``torchvision:NAME`` (random weights), ``torchvision:NAME,pretrained`` or ``torchvision:NAME,weights=WEIGHTS``;
    - ``timm:hf-hub:OWNER/NAME`` or ``hf:OWNER/NAME``: a timm model or a model of transformers of the Hugging Face hub,
      or a folder in the layout of the hub;
    - ``FILE.pt``, ``FILE.pth``, ...: a checkpoint of another project. Trunk and head are recognised by names and
      shapes, or given by ``trunk=NAME`` and ``head=NAME``;
    - ``FILE.onnx,scaling=imagenet``: an ONNX graph.

    Args:
        reference: reference of the encoder.
        method: name of the encoder; overrides the reference.
        head: file with the projector head of a checkpoint; overrides the reference.
        levels: layers that become levels besides backbone and projector, by module path, such as ``layer3``.

    Raises:
        InputError: the reference is wrong, the file cannot be opened as an encoder, or the encoder lacks a layer.
        RcdmError: weights could not be downloaded, or a package is missing.
    """
    overrides = {name: value for name, value in (("method", method), ("head", head and str(head))) if value}
    parsed = parse_reference(reference)
    parsed = Reference.parse(parsed.model_dump(exclude_unset=True) | overrides, f"`encoder` {reference}")
    try:
        encoder = _open(parsed).float().eval().requires_grad_(False)
    except ValidationError as error:  # sizes and widths of the file exceed the bounds of a spec
        raise InputError(f"{parsed.target}: {explain(error)}") from None
    encoder.reference = reference
    return with_layers([encoder], [*levels, *parsed.layer_names()])[0]


def _open(reference: Reference) -> Encoder:
    if reference.target.startswith(TIMM_HUB_PREFIX):
        return _open_hub_folder(download(reference.target.removeprefix(TIMM_HUB_PREFIX)), reference, reference.target)
    if reference.target.startswith(PREFIX):
        return open_timm(reference)
    if reference.target.startswith(HUB_PREFIX):
        return _open_hub_folder(download(reference.target.removeprefix(HUB_PREFIX)), reference, reference.target)
    if reference.target.startswith(TORCHVISION_PREFIX):
        return open_torchvision(reference)
    path = Path(reference.target)
    if (path / CONFIG).is_file():
        return _open_hub_folder(path, reference, path.name)
    if path.is_dir():
        path /= ENCODER_FILE
    if not path.is_file():
        raise InputError(f"{path} {NOT_A_FILE}")
    if path.suffix == ".onnx":
        return open_onnx(path, reference)
    if path.suffix == ".safetensors" and "kind" in read_metadata(path):
        return _open_own(path, reference)
    if path.name in (WEIGHTS, PICKLED_WEIGHTS) and (path.parent / CONFIG).is_file() and _is_timm(path.parent):
        return open_timm_folder(path.parent, reference, path.parent.name)
    return open_checkpoint(path, reference)


def _open_hub_folder(folder: Path, reference: Reference, origin: str) -> Encoder:
    """Open a folder in the layout of the Hugging Face hub: a network of transformers or a timm model."""
    if _is_timm(folder):
        return open_timm_folder(folder, reference, origin)
    return open_transformers(folder, reference, origin)


def _is_timm(folder: Path) -> bool:
    return "architecture" in read_json(folder / CONFIG)


def _open_own(path: Path, reference: Reference) -> Encoder:
    reference.check("an encoder that rcdm wrote, which includes its own spec", ())
    encoder = load_encoder(path)
    if reference.method:
        encoder.spec = encoder.spec.model_copy(update={"method": reference.method})
    return encoder
