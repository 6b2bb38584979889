"""How good a bundle's samples are: faithful to h, diverse at fixed h, like images, and not copies of them."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rcdm_cli.analyses.evaluate.results import Evaluated, Evaluation, Images, Shown
from rcdm_cli.analyses.evaluate.space import Space
from rcdm_cli.analyses.step_cache import StepCache, cached_representations, cached_samples
from rcdm_cli.bundle.bundle import Bundle
from rcdm_cli.core.errors import InputError
from rcdm_cli.data.crop import center_crop
from rcdm_cli.diffusion.noise import sample_seed
from rcdm_cli.diffusion.sampling import Settings
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.metrics.directions import directions
from rcdm_cli.metrics.distances import distances
from rcdm_cli.metrics.diversity import diversity
from rcdm_cli.metrics.inception import Inception
from rcdm_cli.metrics.intervals import Bootstrap, Interval
from rcdm_cli.metrics.nearest import Memorised, knn_predict, memorised, nearest_image, quantiles
from rcdm_cli.metrics.ranks import faithfulness

Pixels = NDArray[np.uint8]
SHOWN = 3
"""Samples nearest to a training image that are shown, for each (method, level)."""


def evaluate(
    bundle: Bundle,
    cache: StepCache,
    images: Images,
    pairs: Sequence[Pair],
    *,
    space: Pair,
    bank: Images | None = None,
    inception: Inception | None = None,
    num_samples: int,
    settings: Settings,
    seed: int = 0,
    batch: int = 64,
    on_progress: Callable[[int, int, str], None] = lambda done, total, note: None,
) -> Evaluation:
    """Sample ``samples`` samples of every image at every pair, and measure them.

    Distances, diversity and nearest training images are measured in one space for all pairs, and against images at the
    samples' own size: what more pixels show is not the samples' fault.

    Args:
        bundle: encoders and denoiser.
        cache: where representations and samples stay until the work is done.
        images: those asked about, at least 2.
        pairs: what is measured.
        space: the method and level whose representations distances are measured in.
        bank: the training images, with the classes that vote in the k-NN accuracy.
        inception: for FID, KID and inception score.
        samples: samples of each image.
        settings: sampler, steps, guidance.
        seed: start of all randomness.
        batch: samples made at a time.
        on_progress: called with (samples done, samples, the pair in words).

    Raises:
        InputError: fewer than 2 images on a side.
    """
    for name, given in (("DATA", images), ("the bank", bank)):
        if given and len(given.pixels) < 2:
            raise InputError(f"A distance needs at least 2 images on each side; {name} has {len(given.pixels)}.")
    count, total = len(images.pixels), len(images.pixels) * num_samples * len(pairs)
    bootstrap = Bootstrap(count, seed)
    seeds = [sample_seed(seed, image, k) for image in range(count) for k in range(num_samples)]
    known = cached_representations(bundle, cache, list(images.pixels), pairs)
    votes = _votes(bundle, cache, images, bank, pairs, known, seed)
    small = at_size(images.pixels, bundle.size)
    small_bank = at_size(bank.pixels, bundle.size) if bank else small[:0]
    in_space = Space(bundle, cache, space, inception)
    real = in_space.of(small)
    real_bank = in_space.of(small_bank) if bank else None
    evaluated = []
    for number, pair in enumerate(pairs):

        def show(done: int, _: int, before: int = number * len(seeds), note: str = " ".join(pair)) -> None:
            on_progress(before + done, total, note)

        cond = bundle.condition(known[pair], method=pair.method, level=pair.level).repeat_interleave(num_samples, dim=0)
        made = cached_samples(bundle, cache, cond, seeds, settings, batch=batch, on_progress=show)
        found = cached_representations(bundle, cache, list(made), [pair])[pair].reshape(count, num_samples, -1)
        features = in_space.of(made, every=num_samples)
        near = (
            memorised(features.own.unflatten(0, (count, num_samples)), real.own, real_bank.own) if real_bank else None
        )
        made = made.reshape(count, num_samples, *made.shape[1:])
        evaluated.append(
            Evaluated(
                pair,
                faithfulness(found, known[pair], bootstrap),
                directions(found, known[pair]),
                votes.get(pair),
                diversity(made, features.own.unflatten(0, (count, num_samples))) if num_samples > 1 else None,
                distances(features.own[::num_samples], real.own),
                features.against(real),
                near,
                _shown(near, small, made, small_bank) if near else (),
            )
        )
    # As many training images as images, spread evenly: set sizes change these numbers.
    some = np.linspace(0, len(small_bank) - 1, min(count, len(small_bank))).round().astype(int)
    like = in_space.of(small_bank[some]) if bank else None
    return Evaluation(
        images.names,
        bank.names if bank else (),
        num_samples,
        space,
        tuple(evaluated),
        distances(like.own, real.own) if like else None,
        len(some),
        like.against(real) if like else None,
        quantiles(nearest_image(real.own, real_bank.own)[0]) if real_bank else [],
        bootstrap,
    )


def at_size(pixels: Pixels, size: int) -> Pixels:
    """Images uint8 (N, H, W, 3), each centre-cropped to (size, size)."""
    return np.stack([center_crop(image, size) for image in pixels])


def _votes(
    bundle: Bundle,
    cache: StepCache,
    images: Images,
    bank: Images | None,
    pairs: Sequence[Pair],
    known: dict[Pair, Tensor],
    seed: int,
) -> dict[Pair, Interval]:
    """k-NN accuracy of each pair on the images that have a class; empty where no class is known."""
    asked = images.classes >= 0
    if bank is None or not asked.any() or not (bank.classes >= 0).any():
        return {}
    voting = bank.classes >= 0
    bootstrap = Bootstrap(int(asked.sum()), seed)
    banks = cached_representations(bundle, cache, list(bank.pixels[voting.numpy()]), pairs)
    accuracies = {}
    for pair in pairs:
        predicted = knn_predict(known[pair][asked], banks[pair], bank.classes[voting])
        accuracies[pair] = bootstrap.mean((predicted == images.classes[asked]).double())
    return accuracies


def _shown(near: Memorised, images: Pixels, made: Pixels, bank: Pixels) -> tuple[Shown, ...]:
    return tuple(
        Shown(images[i], made[i, k], bank[near.index[i, k]], float(near.similarity[i, k]))
        for i, k in near.most_similar(SHOWN)
    )
