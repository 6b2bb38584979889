"""A bundle small enough for a test, with random weights, and the graphs of a bundle."""

from pathlib import Path

import torch

from rcdm_cli.backends.engine_file import EIGHT_BIT
from rcdm_cli.bundle.write import write_bundle
from rcdm_cli.diffusion.conditioning import Model
from rcdm_cli.diffusion.spec import ConditioningSpec, DenoiserSpec, Representation, ScheduleSpec
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.encoders.spec import EncoderSpec, HeadLayer, Preprocessing
from rcdm_cli.export.graphs import export_onnx
from rcdm_cli.export.quantization.export import export_quantized
from tests.training.tiny import random_images

TRUNK = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 16)}


def tiny_bundle(folder: Path) -> Path:
    """Methods dino (both levels) and supervised (backbone); samples of 16 pixels."""
    torch.manual_seed(0)
    preprocessing = Preprocessing(size=32)
    dino = EncoderSpec(
        method="dino",
        trunk="resnet18",
        trunk_options=TRUNK,
        width=16,
        head=(HeadLayer(width=24, norm="batch", activation="gelu"), HeadLayer(width=12)),
        preprocessing=preprocessing,
    )
    supervised = EncoderSpec(
        method="supervised", trunk="resnet18", trunk_options=TRUNK, width=16, preprocessing=preprocessing
    )
    denoiser = DenoiserSpec(size=16, channels=32, channel_mult=(1, 1), num_res_blocks=1, attention=())
    projections = (
        Representation(method="dino", level="backbone", width=16),
        Representation(method="dino", level="projector", width=12),
        Representation(method="supervised", level="backbone", width=16),
    )
    model = Model(denoiser, ConditioningSpec(projections=projections, width=denoiser.cond_width))
    # Zero-initialised layers would make every sample independent of h.
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    encoders = [Encoder(dino).eval(), Encoder(supervised).eval()]
    write_bundle(folder, model.eval(), ScheduleSpec(), encoders, about={"description": "tiny"})
    return folder


def put_graphs(folder: Path, *precisions: str) -> Path:
    """Export without a look at what the graphs compute; for those in 8 bits, fp32 must be there."""
    narrow = [one for one in precisions if one in EIGHT_BIT]
    if wide := [one for one in precisions if one not in EIGHT_BIT]:
        export_onnx(folder, wide, check=False)
    if narrow:
        images = list(random_images(1, 40))
        export_quantized(folder, narrow, images, lambda bundle, engines: {one: {} for one in engines})
    return folder
