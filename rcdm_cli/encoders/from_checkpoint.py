"""Encoders out of checkpoints that other projects wrote."""

from pathlib import Path

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.state_dict import load_state_dict_file
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.encoders.find_head import Head, find_head, read_head
from rcdm_cli.encoders.find_trunk import Trunk, find_trunk
from rcdm_cli.encoders.published import LAYOUTS
from rcdm_cli.encoders.reference import Reference
from rcdm_cli.encoders.spec import EncoderSpec
from rcdm_cli.encoders.trunks import build_trunk, trunk_width

OPTIONS = ("pool", "size", "scaling", "mean", "std", "trunk", "head", "activation")


def open_checkpoint(path: Path, reference: Reference) -> Encoder:
    """An encoder with the trunk and, where there is one, the head of another project's checkpoint.

    A layout in ``LAYOUTS`` brings its method's name and preprocessing. Every other checkpoint is taken to have been
    trained with ImageNet's mean and standard deviation, at the size that its architecture is known for.

    Raises:
        InputError: not a state dict, a trunk or head that cannot be read, or an option that does not fit.
    """
    reference.check("a checkpoint", OPTIONS)
    state, where = load_state_dict_file(path), str(path)
    found = find_trunk(state, where, reference.trunk, reference.pool)
    architecture = found.architecture
    if reference.size and "img_size" in architecture.options and reference.size != architecture.options["img_size"]:
        raise InputError(f"The ViT in {path} has positions for {architecture.options['img_size']} pixels; leave size.")
    trunk = build_trunk(architecture.name, architecture.options, architecture.pool, architecture.stem_padding)
    trunk.load_state_dict(architecture.tensors)
    width = trunk_width(trunk)
    head = _head(reference, found, width, where)
    layout = LAYOUTS[head.method] if head and head.method else None
    spec = EncoderSpec(
        method=reference.method or (head.method if head and head.method else reference.name()),
        trunk=architecture.name,
        trunk_options=architecture.options,
        pool=architecture.pool,
        stem_padding=architecture.stem_padding,
        width=width,
        head=head.layers if head else (),
        preprocessing=reference.preprocessing(layout.preprocessing if layout else architecture.preprocessing),
        origin=layout.origin if layout else path.name,
        licence=layout.licence if layout else "",
    )
    encoder = Encoder(spec, trunk)
    if head and encoder.head is not None:
        encoder.head.load_state_dict(head.tensors)
    return encoder


def _head(reference: Reference, trunk: Trunk, width: int, where: str) -> Head | None:
    given = reference.head
    if given is not None and Path(given).is_file():
        return read_head(load_state_dict_file(Path(given)), width, given, reference.activation)
    return find_head(trunk, width, where, given, reference.activation)
