"""Encoders from architectures and the tensors of other projects."""

from collections.abc import Mapping

from torch import Tensor

from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.architectures import Architecture
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.encoders.spec import EncoderSpec, HeadLayer, Preprocessing, multispectral
from rcdm_cli.encoders.state import listed
from rcdm_cli.encoders.trunks import build_trunk, trunk_width


def require_tensors(architecture: Architecture, where: str) -> None:
    """Compare names and shapes of the tensors with the architecture, before memory is allocated for the trunk.

    Raises:
        InputError: lists the tensors that differ.
    """
    tensors, expected = architecture.tensors, architecture.expected()
    lacking = [name for name in expected if name not in tensors and not name.endswith("num_batches_tracked")]
    wrong = [name for name, shape in expected.items() if name in tensors and list(tensors[name].shape) != shape]
    other = [name for name in tensors if name not in expected]
    clauses = [
        f"{what} {listed(names)}"
        for what, names in (("lacks", lacking), ("has another shape at", wrong), ("has unexpected tensors:", other))
        if names
    ]
    if clauses:
        raise InputError(f"{where} does not fit timm's {architecture.name!r}: it {' and '.join(clauses)}.")


def check_channels(channels: int, preprocessing: Preprocessing, where: str) -> None:
    """Check that images can be converted to the channels of an encoder.

    Raises:
        InputError: the encoder takes multispectral images; or the encoder takes grey images, and the scaling has
            several values.
    """
    if channels not in (1, 3):
        raise InputError(f"{where} cannot be used: {multispectral(channels)}.")
    if channels == 1 and len({*preprocessing.mean}) > 1:
        raise InputError(
            f"{where} takes grey images (1 channel), whose scaling is not known. Give the scaling: scaling=0..1, "
            "scaling=-1..1, or mean=M,std=S."
        )


def build_encoder(
    architecture: Architecture,
    method: str,
    origin: str,
    *,
    licence: str = "",
    preprocessing: Preprocessing | None = None,
    layers: tuple[HeadLayer, ...] = (),
    head: Mapping[str, Tensor] | None = None,
) -> Encoder:
    """Build an encoder with the tensors of an architecture.

    The tensors must be exactly the tensors of the architecture, see ``require_tensors``.

    Args:
        architecture: trunk.
        method: name of the encoder.
        origin: origin of the weights.
        licence: licence of the weights.
        preprocessing: preprocessing of the images; None uses the preprocessing of the architecture.
        layers: layers of the head.
        head: tensors of the head.
    """
    channels = architecture.options.get("in_chans", 3)
    preprocessing = preprocessing or architecture.preprocessing
    check_channels(channels, preprocessing, origin)
    trunk = build_trunk(
        architecture.name,
        architecture.options,
        architecture.pool,
        architecture.stem_padding,
        norm_eps=architecture.norm_eps,
    )
    trunk.load_state_dict(architecture.tensors)
    values = {
        "method": method,
        "trunk": architecture.name,
        "trunk_options": architecture.options,
        "pool": architecture.pool,
        "stem_padding": architecture.stem_padding,
        "norm_eps": architecture.norm_eps,
        "width": trunk_width(trunk),
        "head": layers,
        "preprocessing": preprocessing,
        "origin": origin,
        "licence": licence,
    }
    spec = EncoderSpec.parse(values, origin)
    encoder = Encoder(spec, trunk)
    if encoder.head is not None and head is not None:
        encoder.head.load_state_dict(head)
    return encoder
