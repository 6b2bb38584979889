"""Small stand-ins for published files: the weights of the golden U-Net and an encoder that matches them."""

from pathlib import Path

import torch

from rcdm_cli.encoders.encoder import Encoder, save_encoder
from rcdm_cli.encoders.spec import EncoderSpec, HeadLayer, Preprocessing
from tests.diffusion.golden import tensors

WIDTH = 48
OPTIONS_NOT_IN_SHAPES = ("--size", "16", "--heads", "2")


def rcdm_state() -> dict[str, torch.Tensor]:
    """Return a state dict with the published names: 16 pixels, 2 heads, representations of width 48."""
    return {key.removeprefix("state/"): value for key, value in tensors("unet_a").items() if key.startswith("state/")}


def encoder_file(path: Path, width: int = WIDTH) -> Encoder:
    """Write an encoder with ImageNet preprocessing, width ``width`` at the backbone and 12 at the projector."""
    torch.manual_seed(0)
    spec = EncoderSpec(
        method="mine",
        trunk="resnet18",
        trunk_options={"layers": (1, 1, 1, 1), "channels": (8, 8, 8, width)},
        width=width,
        head=(HeadLayer(width=12),),
        preprocessing=Preprocessing(size=32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)),
    )
    encoder = Encoder(spec).eval()
    save_encoder(encoder, path)
    return encoder
