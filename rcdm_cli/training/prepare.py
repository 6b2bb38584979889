"""Build trainers: open images and encoders, compute crops and representations, and cache both in the run's folder."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch

from rcdm_cli.core.errors import InputError
from rcdm_cli.data.cropped import load_cropped
from rcdm_cli.data.dataset import ImageDataset, open_dataset
from rcdm_cli.diffusion.spec import Representation
from rcdm_cli.encoders.encoder import Encoder, level_index
from rcdm_cli.encoders.find_layers import with_layers
from rcdm_cli.encoders.inferred import inferred_lines
from rcdm_cli.encoders.open import open_encoder
from rcdm_cli.encoders.reference import parse_reference
from rcdm_cli.training.augmentation import Augmenter
from rcdm_cli.training.autoencoder import EVALUATION_IMAGES, AutoencoderImages, AutoencoderTrainer
from rcdm_cli.training.denoiser import DenoiserTrainer
from rcdm_cli.training.distributed import main_process_first, world_size
from rcdm_cli.training.latents import autoencoder_of
from rcdm_cli.training.objectives import require_lightly
from rcdm_cli.training.pretraining import LabelledImages, PretrainTrainer, class_indices
from rcdm_cli.training.recipe import AutoencoderRecipe, PretrainRecipe, TrainRecipe
from rcdm_cli.training.run_data import IMAGES, Note, OnProgress, RunImages, check_splits, crop, silent
from rcdm_cli.training.warm_start import WarmStart


def prepare_encoder(
    recipe: PretrainRecipe,
    method: str,
    data: Path,
    out: Path,
    *,
    split: str | None = None,
    validation_split: str | None = None,
    device: torch.device,
    workers: int = 0,
    on_progress: OnProgress = silent,
    on_note: Note = lambda _: None,
) -> PretrainTrainer:
    """Build the trainer of ``pretrain``, which documents the arguments.

    Raises:
        InputError: images, recipe and method do not fit together.
        RcdmError: lightly is not installed.
    """
    require_lightly()
    if recipe.optimization.accumulate > 1:
        raise InputError(
            f"optimization.accumulate={recipe.optimization.accumulate} is supported for denoisers only, because the "
            "losses of encoders compare the images of a batch. Reduce optimization.batch to save memory."
        )
    if recipe.optimization.batch < 2:
        raise InputError(
            "optimization.batch=1 is too small to train an encoder, because losses and batch norms compare the images "
            "of a batch. Set optimization.batch to at least 2."
        )
    if recipe.optimization.batch % world_size():
        raise InputError(
            f"optimization.batch={recipe.optimization.batch} cannot be divided by {world_size()} processes, which the "
            "losses of encoders need. Set optimization.batch to a multiple of the number of processes."
        )
    check_splits(split, validation_split)
    with main_process_first():
        training = _labelled(open_dataset(data, split, on_note), recipe, out, None, on_progress, on_note)
        validation = None
        if validation_split is not None:
            source = open_dataset(data, validation_split, on_note)
            validation = _labelled(source, recipe, out, training.classes, on_progress, on_note)
    if validation is not None and len(training.classes) > 1 and not (validation.labels >= 0).any():
        raise InputError(
            f"No image of `validation_split` {validation_split} belongs to a class of the training images "
            f"({', '.join(training.classes)}). Choose another split, or omit `validation_split`."
        )
    return PretrainTrainer(recipe, method, training, device, workers, validation)


def prepare_autoencoder(
    recipe: AutoencoderRecipe,
    data: Path,
    out: Path,
    *,
    split: str | None = None,
    validation_split: str | None = None,
    device: torch.device,
    workers: int = 0,
    on_progress: OnProgress = silent,
    on_note: Note = lambda _: None,
) -> AutoencoderTrainer:
    """Build the trainer of ``train_autoencoder``, which documents the arguments.

    Raises:
        InputError: images and recipe do not fit together, or the encoder of the perceptual loss cannot be used.
    """
    check_splits(split, validation_split)
    source = open_dataset(data, split, on_note)
    evaluation = source if validation_split is None else open_dataset(data, validation_split, on_note)
    perceptual = _open_encoder(recipe.perceptual.encoder, on_note) if recipe.perceptual else None
    with main_process_first():
        training = crop(source, recipe.image_size, out, on_progress, on_note).images
        spread = evaluation.spread(EVALUATION_IMAGES)
        images = load_cropped(spread, recipe.size).images
    on_note(f"{len(training)} images, on {device}.")
    fingerprint = source.fingerprint(out / IMAGES)
    return AutoencoderTrainer(recipe, AutoencoderImages(training, images, fingerprint), device, perceptual, workers)


def prepare_denoiser(
    recipe: TrainRecipe,
    data: Path,
    out: Path,
    *,
    split: str | None = None,
    validation_split: str | None = None,
    encoders: Sequence[str | Encoder] = (),
    init: WarmStart | None = None,
    device: torch.device,
    workers: int = 0,
    on_progress: OnProgress = silent,
    on_note: Note = lambda _: None,
) -> DenoiserTrainer:
    """Build the trainer of ``train``, which documents the arguments.

    The encoders and the autoencoder are copied into the run's folder, so that the folder is sufficient to export a
    bundle. Every process of a distributed training calls this function.

    Raises:
        InputError: images, recipe, encoders and folder do not fit together.
    """
    batch = recipe.optimization.batch
    if world_size() > batch:
        raise InputError(
            f"optimization.batch={batch} is too small for {world_size()} processes. Set optimization.batch="
            f"{world_size()} or a multiple of {world_size()}."
        )
    check_splits(split, validation_split)
    source = open_dataset(data, split, on_note)
    validation_source = None if validation_split is None else open_dataset(data, validation_split, on_note)
    opened, projections = _open_encoders(encoders or recipe.encoders, recipe, on_note)
    autoencoder = autoencoder_of(recipe.denoiser.space, recipe.autoencoder)
    config = recipe.augmentation if recipe.augmentation and recipe.augmentation.probability else None
    largest = max(recipe.denoiser.size, *(encoder.spec.preprocessing.size for encoder in opened))
    if config and config.side(1) < largest:
        raise InputError(
            f"Random crops of {config.side(1)} pixels are smaller than the input size of {largest} pixels. Set "
            f"augmentation.image_size={math.ceil(largest / config.crop)}, or a larger augmentation.crop."
        )
    reader = RunImages(
        recipe.denoiser.size,
        opened,
        projections,
        recipe.cache,
        recipe.optimization.precision,
        out,
        device,
        on_progress,
        on_note,
        autoencoder,
        init.statistics(autoencoder) if init and autoencoder else None,
    )
    training, validation = reader.read(source, validation_source)
    augmenter = None
    if config:
        with main_process_first():
            images = crop(source, config.image_size, out, on_progress, on_note).images
        augmenter = Augmenter(config, images)
    methods = [encoder.spec.method for encoder in opened]
    init_methods = [e.spec.method for e in opened if init and init.was_trained_with(e)]
    if init and (new := [method for method in methods if method not in init_methods]):
        on_note(f"Conditioning projections of new encoders start from random weights: {', '.join(new)}.")
    return DenoiserTrainer(
        recipe,
        training.images,
        training.representations,
        device,
        source.fingerprint(out / IMAGES),
        latents=training.latents,
        init=init.model if init else None,
        init_methods=init_methods,
        augmenter=augmenter,
        encoders=opened if augmenter else (),
        workers=workers,
        validation=validation,
        names=training.names,
    )


def _open_encoder(reference: str, on_note: Note) -> Encoder:
    """Open an encoder. Everything that was inferred from a file of another project is reported with ``on_note``."""
    encoder = open_encoder(reference)
    for line in inferred_lines(encoder.inferred, encoder.spec.method):
        on_note(line)
    return encoder


def _open_encoders(
    references: Sequence[str | Encoder], recipe: TrainRecipe, on_note: Note
) -> tuple[list[Encoder], tuple[Representation, ...]]:
    """Open encoders with different method names, and return them with the representations to train on.

    The representations of an encoder are those of the recipe's levels that the encoder has, and those of the layers
    that its reference names.

    Raises:
        InputError: there is no encoder, an encoder cannot be opened, a name occurs twice, or the levels are missing.
    """
    if not references:
        raise InputError("The recipe names no encoders. Set `encoders`, or encoders = [...] in the recipe.")
    opened: dict[str, Encoder] = {}
    wanted: dict[str, set[str]] = {}
    for reference in references:
        encoder = reference if isinstance(reference, Encoder) else _open_encoder(reference, on_note)
        method = encoder.spec.method
        if method in opened:
            raise InputError(f"Two `encoders` are named {method!r}. Rename one of them with REFERENCE,method=NAME.")
        opened[method] = encoder
        layers = [] if isinstance(reference, Encoder) else parse_reference(reference).layer_names()
        wanted[method] = {*recipe.levels, *layers}
    found = with_layers(list(opened.values()), recipe.levels)
    projections = []
    for spec in (encoder.spec for encoder in found):
        own = [level for level in spec.levels if level in wanted[spec.method]]
        if not own:
            level_index(spec, recipe.levels[0])
        projections += [Representation(method=spec.method, level=level, width=spec.width_at(level)) for level in own]
    return found, tuple(projections)


def _labelled(
    source: ImageDataset,
    recipe: PretrainRecipe,
    out: Path,
    classes: tuple[str, ...] | None,
    on_progress: OnProgress,
    on_note: Note,
) -> LabelledImages:
    cropped = crop(source, recipe.image_size, out, on_progress, on_note)
    labels, names = class_indices(cropped.labels, recipe.ignore_classes, classes)
    on_note(f"{len(cropped.images)} images, {int((labels >= 0).sum())} of them in {len(names)} classes.")
    if classes and (unknown := int((labels < 0).sum())):
        on_note(
            f"{unknown} of the {len(labels)} validation images are left out of the k-NN accuracy, because they have no"
            " class or a class without training images."
        )
    return LabelledImages(cropped.images, labels, names, source.fingerprint(out / IMAGES))
