"""Mean and standard deviation of images in the buffers of a checkpoint, such as ``normalize.mean``."""

from dataclasses import dataclass

from torch import Tensor

from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.reference import Triple
from rcdm_cli.encoders.state import State

_NAMES = {"mean": "std", "mu": "sigma", "pixel_mean": "pixel_std", "image_mean": "image_std", "_mean": "_std"}


@dataclass(frozen=True)
class StoredScaling:
    """Mean and standard deviation of pixel values in [0, 1], and the names of their tensors."""

    mean: Triple
    std: Triple
    names: tuple[str, ...]


def stored_scaling(state: State, prefix: str, where: str) -> StoredScaling | None:
    """Return mean and standard deviation that a network subtracts and divides by before its trunk, or None.

    Values for pixels in [0, 255] are divided by 255. Buffers of networks beside the trunk are not used.

    Args:
        state: tensors of the checkpoint.
        prefix: prefix of the trunk's names.
        where: file, for errors.

    Raises:
        InputError: the values are no statistics of pixels, or several differ.
    """
    found: list[StoredScaling] = []
    for name, value in state.items():
        module, _, kind = name.rpartition(".")
        partner = f"{module}.{_NAMES.get(kind, '')}".lstrip(".")
        above = module.rpartition(".")[0]
        if kind in _NAMES and partner in state and prefix.startswith(f"{above}." if above else ""):
            mean, std = _three(value), _three(state[partner])
            if mean and std:
                scale = 255 if max(*mean, *std) > 1 else 1
                mean, std = (tuple(each / scale for each in three) for three in (mean, std))  # type: ignore[assignment]
                found.append(StoredScaling(mean, std, (name, partner)))
    if not found:
        return None
    first = found[0]
    if any((each.mean, each.std) != (first.mean, first.std) for each in found) or not (
        all(0 <= each <= 1 for each in first.mean) and all(0 < each <= 1 for each in first.std)
    ):
        raise InputError(
            f"{where} contains {first.names[0]}, which does not define the scaling of images. Give the scaling: "
            "FILE,scaling=imagenet, -1..1 or 0..1, or mean=R/G/B,std=R/G/B."
        )
    return StoredScaling(first.mean, first.std, tuple(name for each in found for name in each.names))


def _three(value: Tensor) -> Triple | None:
    if value.numel() != 3 or max(value.shape, default=0) != 3 or not value.is_floating_point():
        return None
    one, two, three = value.flatten().double().tolist()
    return one, two, three
