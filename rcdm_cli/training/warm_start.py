"""Begin a training at the weights of another model instead of at random ones."""

import hashlib
from collections.abc import Collection, Sequence
from typing import NamedTuple

import torch

from rcdm_cli.core.errors import InputError
from rcdm_cli.diffusion.conditioning import Model
from rcdm_cli.diffusion.spec import DenoiserSpec
from rcdm_cli.encoders.encoder import Encoder


class WarmStart(NamedTuple):
    """What a training begins at: a model, and the encoders that it was trained with."""

    model: Model
    encoders: Sequence[Encoder]

    def was_trained_with(self, encoder: Encoder) -> bool:
        """Whether ``encoder`` is one of them; weights are compared in half precision, as bundles store them."""
        return any(_same(encoder, own) for own in self.encoders)


def _same(first: Encoder, second: Encoder) -> bool:
    if first.spec != second.spec:
        return False
    states = first.state_dict(), second.state_dict()
    return all(torch.equal(states[0][name].cpu().half(), states[1][name].cpu().half()) for name in states[0])


@torch.no_grad()
def init_from(model: Model, start: Model, methods: Collection[str]) -> str:
    """Copy the denoiser of ``start`` into ``model``, and the conditioning's projections of ``methods`` that both have.

    The image size may differ, since no weight depends on it. Rows are the same where method, level and width are;
    they bring the statistics that they standardise with. Other projections keep their random weights.

    Args:
        model: is given the weights.
        start: has them.
        methods: whose encoders are those that ``start`` was trained with: a projection for another encoder would begin worse
            than at random.

    Returns:
        SHA-256 over what was copied, which belongs to the identity of the run.

    Raises:
        InputError: the two denoisers differ in more than size and drop-out.
    """
    wanted, given = (_architecture(one.denoiser.spec) for one in (model, start))
    if different := [f"{name} = {given[name]}" for name in wanted if wanted[name] != given[name]]:
        raise InputError(
            f"The weights to start from belong to another denoiser, with {', '.join(different)}. "
            "Set this in the recipe."
        )
    model.denoiser.load_state_dict(start.denoiser.state_dict())
    taken: list[torch.nn.Module] = [model.denoiser]
    own, others = (
        dict(zip(one.conditioning.spec.projections, one.conditioning.projections, strict=True))
        for one in (model, start)
    )
    for projection, layer in own.items():
        if projection in others and projection.method in methods:
            layer.load_state_dict(others[projection].state_dict())
            taken.append(layer)
    digest = hashlib.sha256()
    for module in taken:
        for tensor in module.state_dict().values():
            digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def _architecture(spec: DenoiserSpec) -> dict[str, object]:
    """What weights depend on; attention is given by how often the image is halved before it."""
    values = spec.model_dump(exclude={"size", "dropout"})
    return {**values, "attention": sorted(spec.size // size for size in spec.attention)}
