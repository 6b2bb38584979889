"""A tiny bundle with random weights, and exported graphs for it."""

from pathlib import Path

import torch

from rcdm_cli.backends.graph import EIGHT_BIT, Precision
from rcdm_cli.bundle.bundle import load_bundle
from rcdm_cli.bundle.files import write_bundle
from rcdm_cli.bundle.manifest import read_manifest
from rcdm_cli.core.files import temporary_folder
from rcdm_cli.diffusion.autoencoder import Autoencoder, LatentCodec
from rcdm_cli.diffusion.autoencoder_spec import KLSpec, LatentStatistics
from rcdm_cli.diffusion.conditioning import Model
from rcdm_cli.diffusion.spec import ConditioningSpec, DenoiserSpec, PatchSpace, PixelSpace, Representation, ScheduleSpec
from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.encoders.spec import EncoderSpec, HeadLayer, Preprocessing
from rcdm_cli.exporting.graphs import wanted_graphs, write_graphs
from rcdm_cli.exporting.install import Installation, install
from rcdm_cli.exporting.quantization.calibration import calibrate
from rcdm_cli.exporting.quantization.graphs import quantize_graphs, wanted_quantized
from rcdm_cli.exporting.tensorrt.plans import prepare_plan, wanted_plan, write_plan
from tests.training.tiny import random_images

TRUNK = {"layers": (1, 1, 1, 1), "channels": (8, 8, 8, 16)}


TINY_AUTOENCODER = KLSpec(block_out_channels=(8, 8), latent_channels=3, norm_num_groups=4)


def tiny_codec() -> LatentCodec:
    """Autoencoder with random weights and latents of half the size."""
    torch.manual_seed(1)
    statistics = LatentStatistics(mean=(0.1, -0.2, 0.3), std=(0.5, 1.0, 2.0))
    return LatentCodec(Autoencoder(TINY_AUTOENCODER), statistics).eval().requires_grad_(False)


def tiny_bundle(folder: Path, space: str = "pixels") -> Path:
    """Write a bundle with the methods dino (both levels) and supervised (backbone) and samples of 16 pixels."""
    spaces = {"pixels": PixelSpace(), "patches": PatchSpace(kind="patches", factor=2)}
    codec = tiny_codec() if space == "latents" else None
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
    denoiser = DenoiserSpec(
        size=16,
        space=codec.autoencoder.spec.space if codec else spaces[space],
        channels=32,
        channel_mult=(1, 1),
        num_res_blocks=1,
        attention=(),
    )
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
    write_bundle(folder, model.eval(), ScheduleSpec(), encoders, about={"description": "tiny"}, codec=codec)
    return folder


def put_graphs(folder: Path, *precisions: str) -> Path:
    """Export without checks. 8-bit graphs need the fp32 graph."""
    bundle = load_bundle(folder)
    eight_bit = [precision for precision in precisions if precision in EIGHT_BIT]
    if wide := [precision for precision in precisions if precision not in EIGHT_BIT]:
        write_graphs(bundle, wanted_graphs(bundle.manifest, wide), check=False)
    if eight_bit:
        bundle = load_bundle(folder, backend="auto")
        graphs = wanted_quantized(bundle.manifest, eight_bit)
        with temporary_folder(folder, "export") as stage:
            written, parity = quantize_graphs(bundle, graphs, calibrate(bundle, {"0": random_images(1, 40)[0]}), stage)
            install(folder, stage, written, parity)
    return folder


def build_plan_for(folder: Path, precision: Precision, max_batch: int, device: torch.device) -> Installation:
    """Build the TensorRT plan of an exported graph and install it."""
    manifest = read_manifest(folder)
    tensorrt, target = prepare_plan(device, precision)
    wanted = wanted_plan(folder, manifest, precision, max_batch, tensorrt, target)
    return write_plan(folder, manifest, wanted, device)
