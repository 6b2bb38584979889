"""Inception network of FID, KID and the inception score. The weights are read from a local file."""

import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import sha256
from rcdm_cli.core.state_dict import load_state_dict_file

SPLITS = 10


class Inception:
    """Inception network of the published FID (Heusel et al. 2017), implemented by torch-fidelity.

    Args:
        weights: weights ``pt_inception-2015-12-05``, as published by torch-fidelity or pytorch-fid.
        device: device of the network.

    Raises:
        InputError: torch-fidelity is not installed, or the file contains other weights.
    """

    def __init__(self, weights: Path, device: torch.device) -> None:
        if importlib.util.find_spec("torch_fidelity") is None:
            raise InputError("`inception` needs torch-fidelity, which is not installed: pip install 'rcdm[fidelity]'.")
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

        state = load_state_dict_file(weights)
        with tempfile.TemporaryDirectory() as folder:
            # torch-fidelity unpickles its file without restrictions. This copy contains tensors only.
            safe = Path(folder) / "weights.pth"
            torch.save(state, safe)
            try:
                network = FeatureExtractorInceptionV3("inception", ["2048", "logits_unbiased"], str(safe))
            except RuntimeError as error:
                raise InputError(
                    f"{weights} does not contain the weights of the FID's Inception network. Give the file"
                    " weights-inception-2015-12-05-6726825d.pth, published by torch-fidelity."
                ) from error
        self.network, self.device = network.to(device), device
        self.sha256 = sha256(weights)

    @torch.no_grad()
    def features(
        self,
        samples: NDArray[np.uint8],
        *,
        batch: int = 64,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> dict[str, Tensor]:
        """Compute Inception features and logits.

        Args:
            samples: uint8 (N, H, W, 3).
            batch: images per forward pass.
            on_progress: called with (images done, number of images) after each batch.

        Returns:
            ``features`` (N, 2048) and ``logits`` (N, 1008), on the CPU.
        """
        parts = []
        for start in range(0, len(samples), batch):
            own = torch.from_numpy(np.ascontiguousarray(samples[start : start + batch]))
            parts.append([each.cpu() for each in self.network(own.permute(0, 3, 1, 2).to(self.device))])
            on_progress(min(start + batch, len(samples)), len(samples))
        features, logits = (torch.cat(each) for each in zip(*parts, strict=True))
        return {"features": features, "logits": logits}


@dataclass(frozen=True)
class InceptionScore:
    """Mean and standard deviation of the inception score over splits (Salimans et al. 2016, arXiv:1606.03498).

    As in the published code, the standard deviation divides by the number of splits, not by the number minus 1.
    """

    mean: float
    deviation: float
    splits: int


def inception_score(logits: Tensor, seed: int = 0) -> InceptionScore:
    """Compute ``exp(E KL(p(y|x) || p(y)))`` on ``SPLITS`` random splits of the images, at most one split per image.

    Args:
        logits: (N, classes).
        seed: seed of the splits.
    """
    order = torch.randperm(len(logits), generator=torch.Generator().manual_seed(seed))
    scores = []
    for part in logits[order].double().tensor_split(min(SPLITS, len(logits))):
        p = part.softmax(dim=1)
        divergence = p * (part.log_softmax(dim=1) - p.mean(dim=0).log())
        scores.append(divergence.sum(dim=1).mean().exp())
    values = torch.stack(scores)
    return InceptionScore(float(values.mean()), float(values.std(correction=0)), len(scores))
