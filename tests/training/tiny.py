"""Small images, encoders and recipes for tests of training."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from rcdm_cli.encoders.encoder import Encoder
from rcdm_cli.encoders.spec import EncoderSpec, HeadLayer, Preprocessing

TRUNK_OPTIONS = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
WIDTH = 16
HEAD = (HeadLayer(width=24, norm="batch", activation="relu"), HeadLayer(width=12, bias=False))

TRAIN = """
kind = "train"
steps = 10
ema = 0.9
uncond_prob = 0.3
save_every = 1
sample_every = 1000

[denoiser]
size = 32
channels = 32
channel_mult = [1, 1]
num_res_blocks = 1
attention = []

[schedule]
timesteps = 100

[optimization]
batch = 6
lr = 1e-3
warmup = 0.2
decay = 0.5
clip = 1.0
precision = "fp32"
"""

AUGMENTATION = """
[augmentation]
image_size = 48
probability = 0.5
crop = 0.67
brightness = 0.3
contrast = 0.2
saturation = 0.4
hue = 0.5
"""

PRETRAIN = """
kind = "pretrain"
image_size = 40
ignore_classes = ["other"]
knn_every = 1

[trunk]
name = "resnet18"
options = { layers = [1, 1, 1, 1], channels = [8, 8, 16, 16] }

[preprocessing]
size = 32

[optimization]
batch = 4
lr = 1e-3
warmup = 0.5
precision = "fp32"

[methods.dino]
epochs = 1
prototypes = 16
transform = { n_local_views = 2, local_crop_size = 16, gaussian_blur = [0.0, 0.0, 0.0] }
head = [{ width = 24, norm = "batch", activation = "gelu" }, { width = 12 }]

[methods.simclr]
epochs = 1
transform = { gaussian_blur = 0.0 }
head = [{ width = 24, activation = "relu" }, { width = 12 }]

[methods.vicreg]
epochs = 1
transform = { gaussian_blur = 0.0 }
head = [{ width = 24, norm = "batch", activation = "relu" }, { width = 12, bias = false }]

[methods.barlow]
epochs = 1
transform = { gaussian_blur = 0.0 }
head = [{ width = 24, norm = "batch", activation = "relu" }, { width = 12, bias = false }]

[methods.supervised]
epochs = 1
transform = { gaussian_blur = 0.0 }
loss = { label_smoothing = 0.1 }
"""


def random_images(count: int, size: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def write_images(folder: Path, classes: dict[str, int], size: int = 40) -> Path:
    for seed, (name, count) in enumerate(classes.items()):
        (folder / name).mkdir(parents=True)
        for index, image in enumerate(random_images(count, size, seed)):
            Image.fromarray(image).save(folder / name / f"{index}.png")
    return folder


def encoder_spec(method: str = "simclr", *, head: bool = True, size: int = 32) -> EncoderSpec:
    return EncoderSpec(
        method=method,
        trunk="resnet18",
        trunk_options=TRUNK_OPTIONS,
        width=WIDTH,
        head=HEAD if head else (),
        preprocessing=Preprocessing(size=size, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)),
    )


def tiny_encoder(method: str = "simclr", *, head: bool = True, size: int = 32, seed: int = 0) -> Encoder:
    """Encoder in evaluation mode with random weights and batch norm statistics of random images."""
    torch.manual_seed(seed)
    encoder = Encoder(encoder_spec(method, head=head, size=size)).train()
    with torch.no_grad():
        for _ in range(3):
            encoder(torch.rand(8, 3, size, size) * 2 - 1)
    return encoder.eval().requires_grad_(False)


def equal_tensors(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    """Return whether names, dtypes and values are equal."""
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype and torch.equal(first[name], second[name]) for name in first
    )
