"""The published RCDM implementation, imported from a checkout, with the weights of a bundle."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.diffusion.conditioning import ConditioningProjection, Model
from rcdm_cli.diffusion.spec import DenoiserSpec, ScheduleSpec

PACKAGE = "guided_diffusion_rcdm"
README_STEPS = 100
"""Sampling steps in the published README (``--timestep_respacing``)."""


class PublishedRcdm:
    """The published U-Net and its sampler in float32; timed by `bench_published`.

    Args:
        checkout: folder of a checkout of github.com/facebookresearch/RCDM.
        model: model whose weights are used.
        projection: index of the conditioning projection. The published RCDM has one projection, into whose weights the
            standardisation of ``h`` is folded.
        schedule: noise schedule of the model.
        device: device of the U-Net.
        steps: sampling steps; each step is one call of the U-Net.

    Raises:
        InputError: ``checkout`` is not a checkout of the repository.
        RcdmError: the published code cannot be imported, for example because a package is missing.
    """

    name = "published"

    def __init__(
        self,
        checkout: Path,
        model: Model,
        projection: int,
        schedule: ScheduleSpec,
        device: torch.device,
        steps: int = README_STEPS,
    ) -> None:
        self.steps = steps
        script_util = _import(checkout)
        representation = model.conditioning.spec.projections[projection]
        options = published_options(model.denoiser.spec, schedule, representation.width, steps)
        unet, self._diffusion = script_util.create_model_and_diffusion(**options)
        unet.load_state_dict(published_state(model, projection))
        self.unet: nn.Module = unet.to(device).eval().requires_grad_(False)

    def call(self, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
        """Call the U-Net: x (B, 3, size, size), t (B,), h (B, D)."""
        output: Tensor = self.unet(x, t, feat=h)
        return output

    def sample(self, h: Tensor, noise: Tensor) -> Tensor:
        """Sample with ``p_sample_loop``: h (B, D) and noise (B, 3, size, size) to x0 with the shape of ``noise``."""
        x0: Tensor = self._diffusion.p_sample_loop(
            self.unet, tuple(noise.shape), noise=noise, clip_denoised=True, model_kwargs={"feat": h}
        )
        return x0

    def training_losses(self, x: Tensor, t: Tensor, h: Tensor) -> Tensor:
        """Return the published training loss (B,) of images x (B, 3, size, size) at steps t (B,) for h (B, D)."""
        losses: Tensor = self._diffusion.training_losses(self.unet, x, t, model_kwargs={"feat": h})["loss"]
        return losses


def published_options(spec: DenoiserSpec, schedule: ScheduleSpec, width: int, steps: int) -> dict[str, Any]:
    """Return the arguments of the published ``create_model_and_diffusion``; ``width`` is the width of h."""
    return {
        "image_size": spec.size,
        "class_cond": False,
        "learn_sigma": spec.learned_variance,
        "num_channels": spec.channels,
        "num_res_blocks": spec.num_res_blocks,
        "channel_mult": ",".join(map(str, spec.channel_mult)),
        "num_heads": spec.heads,
        "num_head_channels": spec.head_channels or -1,
        "num_heads_upsample": -1,
        # At least one size is required. A feature map of twice the sample size does not exist.
        "attention_resolutions": ",".join(map(str, spec.attention or (2 * spec.size,))),
        "dropout": 0.0,
        "diffusion_steps": schedule.timesteps,
        "noise_schedule": schedule.kind,
        "timestep_respacing": str(steps),
        "use_kl": False,
        "predict_xstart": False,
        "rescale_timesteps": False,
        "rescale_learned_sigmas": False,
        "use_checkpoint": False,
        "use_scale_shift_norm": spec.scale_shift_norm,
        "resblock_updown": spec.resblock_updown,
        "use_fp16": False,
        "use_new_attention_order": spec.split_qkv_first,
        "feat_cond": True,
        "G_shared": True,
        "ssl_dim": width,
    }


def published_state(model: Model, projection: int) -> dict[str, Tensor]:
    """Return the state dict of the published U-Net that is equivalent to ``model`` with one projection."""
    linear = model.conditioning.projections[projection]
    assert isinstance(linear, ConditioningProjection)
    weight = linear.weight / linear.scale
    state = {
        **model.denoiser.state_dict(),
        "ssl_emb.weight": weight,
        "ssl_emb.bias": linear.bias - weight @ linear.mean,
    }
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in state.items()}


def _import(checkout: Path) -> Any:
    if not (checkout / PACKAGE / "script_util.py").is_file():
        raise InputError(
            f"{checkout} is not a checkout of github.com/facebookresearch/RCDM: {PACKAGE}/script_util.py is missing."
        )
    if not hasattr(torch._C, "has_mkldnn"):
        # The published code imports this name without using it. Current versions of PyTorch have removed it.
        torch._C.has_mkldnn = True  # type: ignore[attr-defined]
    if "blobfile" not in sys.modules and find_spec("blobfile") is None:
        # The published code reads files in cloud storage with this package. No file is read here.
        sys.modules["blobfile"] = ModuleType("blobfile")
    with _first_on_path(checkout):
        try:
            return import_module(f"{PACKAGE}.script_util")
        except ModuleNotFoundError as error:
            raise RcdmError(
                f"The code in {checkout} needs {error.name}, which is not installed: `pip install {error.name}`."
            ) from error


@contextmanager
def _first_on_path(folder: Path) -> Iterator[None]:
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
