"""Warm start: initialise a training with the weights of another model."""

import hashlib
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.autoencoder import Autoencoder, LatentCodec
from rcdm_cli.diffusion.autoencoder_spec import LatentStatistics
from rcdm_cli.diffusion.conditioning import Model
from rcdm_cli.diffusion.spec import DenoiserSpec, PatchSpace, PixelSpace
from rcdm_cli.encoders.encoder import Encoder


class WarmStart(NamedTuple):
    """Initial weights of a training.

    Attributes:
        model: model to copy weights from.
        encoders: encoders that ``model`` was trained with.
        codec: autoencoder of the latent space of ``model``; the encoder of the autoencoder is not needed.
    """

    model: Model
    encoders: Sequence[Encoder]
    codec: LatentCodec | None = None

    def was_trained_with(self, encoder: Encoder) -> bool:
        """Return whether ``encoder`` is among ``encoders``, whose layers are not compared.

        Weights are compared in fp16, as bundles store them.
        """
        return any(_equal(encoder, other) for other in self.encoders)

    def statistics(self, autoencoder: Autoencoder) -> LatentStatistics | None:
        """Return the statistics of the latents that ``model`` was trained with; None without a latent space.

        Raises:
            InputError: ``model`` was trained with the latents of another autoencoder.
        """
        if self.codec is None:
            return None
        theirs, ours = self.codec.autoencoder.decoder.state_dict(), autoencoder.decoder.state_dict()
        if autoencoder.spec != self.codec.autoencoder.spec or not all(
            torch.equal(theirs[name].cpu().half(), ours[name].cpu().half()) for name in ours
        ):
            raise InputError(
                "The initial weights were trained with the latents of another autoencoder. Set `autoencoder` in the "
                "recipe to that autoencoder."
            )
        return self.codec.statistics


def _equal(first: Encoder, second: Encoder) -> bool:
    if first.spec.model_copy(update={"layers": ()}) != second.spec.model_copy(update={"layers": ()}):
        return False
    states = first.state_dict(), second.state_dict()
    return all(torch.equal(states[0][name].cpu().half(), states[1][name].cpu().half()) for name in states[0])


@torch.no_grad()
def init_from(model: Model, source: Model, methods: Collection[str]) -> str:
    """Copy the denoiser and matching conditioning projections of ``source`` into ``model``.

    The image size may differ, because no weight depends on it. A denoiser of patches can be initialised with a denoiser
    of pixels: it then denoises the average of each patch, as the denoiser of pixels does. Projections match if method,
    level and width are equal. Their statistics are copied too. Other projections retain their random weights.

    Args:
        model: model to initialise.
        source: model with the weights.
        methods: methods whose encoders ``source`` was trained with. A projection for another encoder would be worse
            than a random projection.

    Returns:
        SHA-256 of the copied weights, which is part of the run's resume key.

    Raises:
        InputError: the denoisers differ in more than image size, dropout, and patches instead of pixels.
    """
    weights = source.denoiser.state_dict()
    expected, given = _architecture(model.denoiser.spec), _architecture(source.denoiser.spec)
    space = model.denoiser.spec.space
    if isinstance(space, PatchSpace) and isinstance(source.denoiser.spec.space, PixelSpace):
        weights = _in_patches(weights, space.factor)
        del expected["space"]
    if different := [f"{name} = {given[name]}" for name in expected if expected[name] != given[name]]:
        raise InputError(
            f"The initial weights belong to another denoiser, with {', '.join(different)}. Set these values in the "
            "recipe."
        )
    model.denoiser.load_state_dict(weights)
    copied: list[torch.nn.Module] = [model.denoiser]
    ours, theirs = (
        dict(zip(each.conditioning.spec.projections, each.conditioning.projections, strict=True))
        for each in (model, source)
    )
    for representation, projection in ours.items():
        if representation in theirs and representation.method in methods:
            projection.load_state_dict(theirs[representation].state_dict())
            copied.append(projection)
    if model.conditioning.spec.null == source.conditioning.spec.null == "learned":
        model.conditioning.null.copy_(source.conditioning.null)
    digest = hashlib.sha256()
    for module in copied:
        for tensor in module.state_dict().values():
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _in_patches(weights: dict[str, Tensor], factor: int) -> dict[str, Tensor]:
    """Return weights for patches: the input is the average of a patch, and the pixels of an output patch are equal."""
    copies = factor**2
    first, last, bias = "input_blocks.0.0.weight", "out.2.weight", "out.2.bias"
    return {
        **weights,
        first: weights[first].repeat_interleave(copies, dim=1) / copies,
        last: weights[last].repeat_interleave(copies, dim=0),
        bias: weights[bias].repeat_interleave(copies, dim=0),
    }


def _architecture(spec: DenoiserSpec) -> dict[str, object]:
    """Return the values that weights depend on. Attention is given by depth instead of feature map size."""
    values = spec.model_dump(exclude={"size", "dropout"})
    return {**values, "attention": sorted(spec.feature_sizes[0] // size for size in spec.attention)}
