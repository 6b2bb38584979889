"""A training run from images to its last checkpoint: what ``rcdm pretrain`` and ``rcdm train`` do."""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import sha256
from rcdm_cli.core.levels import LEVELS
from rcdm_cli.data.cropped import CroppedImages, load_cropped
from rcdm_cli.data.dataset import ImageDataset, open_dataset
from rcdm_cli.diffusion.spec import Representation
from rcdm_cli.encoders.encoder import Encoder, holds_encoder, level_index, save_encoder
from rcdm_cli.encoders.open import open_encoder
from rcdm_cli.training.augmentation import RandomViews
from rcdm_cli.training.denoiser import DenoiserTrainer
from rcdm_cli.training.distributed import Share
from rcdm_cli.training.loop import CHECKPOINT, Progress, Trainer, train
from rcdm_cli.training.objectives import needs_lightly
from rcdm_cli.training.pretraining import LabelledImages, PretrainTrainer, class_indices
from rcdm_cli.training.recipe import PretrainRecipe, TrainRecipe
from rcdm_cli.training.representations import CachedRepresentations, EncoderInputs
from rcdm_cli.training.validation import EvalSet
from rcdm_cli.training.warm_start import WarmStart

Note = Callable[[str], None]


class ShowProgress(Protocol):
    """Called with what is done, what there is to do, and what to say beside it."""

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """``done`` of ``total`` are done."""


Stage = Callable[[str], AbstractContextManager[ShowProgress]]


def silent(title: str) -> AbstractContextManager[ShowProgress]:
    """A stage that shows nothing."""
    return nullcontext(lambda done, total, note="": None)


ENCODERS = "encoders"


@dataclass(frozen=True)
class Run:
    """A finished run: its last checkpoint, how many steps it has, and at which step this part of it began."""

    checkpoint: Path
    steps: int
    began_at: int

    def as_json(self) -> dict[str, object]:
        """The same as JSON-able values."""
        return asdict(self)


def prepare_encoder(
    recipe: PretrainRecipe,
    method: str,
    source: Path,
    split: str | None,
    validation_split: str | None,
    folder: Path,
    device: torch.device,
    *,
    workers: int = 0,
    stage: Stage = silent,
    on_note: Note = lambda _: None,
) -> PretrainTrainer:
    """Crop the images, or take the crops from ``folder``; then build what is trained.

    Args:
        recipe: of all methods.
        method: which of them.
        source: a folder of images, a tar, or a folder of tars.
        split: first-level folder to train on; None is all.
        validation_split: first-level folder for the k-NN accuracy; None is leave-one-out on the training images.
        folder: of the run.
        device: to train on.
        workers: processes that draw the views; 0 is this one.
        stage: opens a piece of work by its title and gives what is called with (images done, images).
        on_note: called with what a person should know.

    Raises:
        InputError: images, recipe or folder do not fit.
        RcdmError: lightly is not installed.
    """
    needs_lightly()
    if recipe.optimization.accumulate > 1:
        raise InputError(
            f"optimization.accumulate={recipe.optimization.accumulate} is for denoisers: an encoder is trained on "
            "whole batches, since losses compare their images. Leave it out; a smaller optimization.batch saves memory."
        )
    _must_be_apart(split, validation_split)
    data = _labelled(open_dataset(source, split), recipe, folder, None, stage, on_note)
    validation = None
    if validation_split is not None:
        validation = _labelled(open_dataset(source, validation_split), recipe, folder, data.classes, stage, on_note)
        if len(data.classes) > 1 and not (validation.labels >= 0).any():
            raise InputError(
                f"No image of --validation-split {validation_split} is of a class that is trained on "
                f"({', '.join(data.classes)}). Give another split, or leave it out."
            )
    return PretrainTrainer(recipe, method, data, device, workers, validation)


def train_encoder(
    trainer: PretrainTrainer,
    folder: Path,
    *,
    stop: Callable[[], bool] = lambda: False,
    on_progress: ShowProgress = lambda done, total, note="": None,
) -> Run:
    """Train what ``prepare_encoder`` gives in the same ``folder``, or go on with it.

    Args:
        trainer: what is trained.
        folder: of the run.
        stop: asked after each step.
        on_progress: called with (steps done, steps, what to say).

    Raises:
        InputError: the folder holds another run.
        Interrupted: ``stop`` said so.
    """
    return _train(trainer, folder, max(trainer.per_epoch, 1), stop, on_progress)


def prepare_denoiser(
    recipe: TrainRecipe,
    source: Path,
    split: str | None,
    folder: Path,
    device: torch.device,
    *,
    validation_split: str | None = None,
    start: WarmStart | None = None,
    share: Share | None = None,
    stage: Stage = silent,
    on_note: Note = lambda _: None,
) -> DenoiserTrainer:
    """Crop the images and compute their representations, or take both from ``folder``; then build what is trained.

    The encoders are copied into the run, so that a bundle can be made of the run alone. Arguments and errors are those
    of ``prepare_encoder``; images of ``validation_split`` are for a loss of their own. Weights begin at those of
    ``start``, and projections of the conditioning too where its encoder is the same; None is at random. Of several processes,
    each calls this with its ``share``.
    """
    share = share or Share()
    if not recipe.encoders:
        raise InputError("The recipe names no encoders. Give --encoder, or encoders = [...] in the recipe.")
    if share.size > recipe.optimization.batch:
        raise InputError(
            f"A batch of {recipe.optimization.batch} images is too small for {share.size} processes. "
            f"Give --set optimization.batch={share.size}, or a multiple of it."
        )
    _must_be_apart(split, validation_split)
    images = open_dataset(source, split)
    others = None if validation_split is None else open_dataset(source, validation_split)
    encoders = _open_encoders(recipe)
    plan = recipe.augmentation if recipe.augmentation and recipe.augmentation.probability else None
    largest = max(recipe.denoiser.size, *(encoder.spec.preprocessing.size for encoder in encoders))
    if plan and plan.side(1) < largest:
        raise InputError(
            f"Random crops of {plan.side(1)} pixels would be enlarged, since a network sees {largest}. Give "
            f"augmentation.image_size={math.ceil(largest / plan.crop)}, or a larger augmentation.crop."
        )
    with share.first_alone():
        for encoder in encoders:
            _keep(encoder, folder)
        held = _hold(images, recipe, encoders, folder, device, stage, on_note)
        projections = held.representations.projections
        names = ", ".join(f"{projection.method} at {projection.level}" for projection in projections)
        on_note(f"{len(held.images)} images, on {device}; conditioned on {names}.")
        validation = None if others is None else _hold(others, recipe, encoders, folder, device, stage, on_note)
        large = _crop(images, plan.image_size, folder, stage, on_note).images if plan else None
    views = RandomViews(plan, large, encoders, projections, device) if plan and large is not None else None
    known = [encoder.spec.method for encoder in encoders if start and start.was_trained_with(encoder)]
    if start and (strangers := [encoder.spec.method for encoder in encoders if encoder.spec.method not in known]):
        on_note(f"Beginning without what was learned of other encoders; new here: {', '.join(strangers)}.")
    return DenoiserTrainer(
        recipe,
        held.images,
        held.representations,
        device,
        images.fingerprint(),
        start.model if start else None,
        known,
        views,
        validation,
        share,
    )


def _keep(encoder: Encoder, folder: Path) -> None:
    """Copy an encoder into the run, where it is not there yet.

    Raises:
        InputError: the run has a checkpoint, and it was trained on another encoder of that name or on none.
    """
    path = folder / ENCODERS / f"{encoder.spec.method}.safetensors"
    # Caches go by the hash of this file, and the same encoder written again has other bytes.
    if path.exists() and holds_encoder(path, encoder):
        return
    if (folder / CHECKPOINT).exists():
        raise InputError(
            f"The run in {folder} was trained on another encoder: {path} does not hold the {encoder.spec.method!r} "
            "that is given. Give another --out, or delete that folder."
        )
    save_encoder(encoder, path)


def _hold(
    images: ImageDataset,
    recipe: TrainRecipe,
    encoders: Sequence[Encoder],
    folder: Path,
    device: torch.device,
    stage: Stage,
    on_note: Note,
) -> EvalSet:
    """Images at the denoiser's size, and their representations, both kept in ``folder``."""
    cropped = _crop(images, recipe.denoiser.size, folder, stage, on_note)
    sources = []
    for encoder in encoders:
        spec = encoder.spec
        size = spec.preprocessing.size
        own = cropped if size == recipe.denoiser.size else _crop(images, size, folder, stage, on_note)
        weights = sha256(folder / ENCODERS / f"{spec.method}.safetensors")[:12]
        sources.append(EncoderInputs(encoder, own.images, f"{spec.method}-{weights}-{images.fingerprint()[:12]}"))
    projections = tuple(
        Representation(method=spec.method, level=level, width=spec.width_at(level))
        for spec in (encoder.spec for encoder in encoders)
        for level in LEVELS
        if level in spec.levels and level in recipe.levels
    )
    with stage("Representations") as show:
        representations = CachedRepresentations(sources, projections, folder / "representations", device, show)
    return EvalSet(cropped.images, representations)


def train_denoiser(
    trainer: DenoiserTrainer,
    folder: Path,
    *,
    stop: Callable[[], bool] = lambda: False,
    on_progress: ShowProgress = lambda done, total, note="": None,
) -> Run:
    """Train what ``prepare_denoiser`` gives in the same ``folder``, or go on with it; the rest as ``train_encoder``."""
    return _train(trainer, folder, trainer.recipe.save_every, stop, on_progress, trainer.share)


def _train(
    trainer: Trainer,
    folder: Path,
    save_every: int,
    stop: Callable[[], bool],
    on_progress: ShowProgress,
    share: Share | None = None,
) -> Run:
    began = train(
        trainer,
        folder,
        save_every=save_every,
        stop=stop,
        on_progress=lambda progress: on_progress(progress.step, progress.steps, _say(progress)),
        share=share,
    )
    return Run(folder / CHECKPOINT, trainer.steps, began)


def _say(progress: Progress) -> str:
    return f"loss {progress.values['loss']:.4f}, {progress.images_per_second:.0f} images/s"


def _must_be_apart(split: str | None, validation_split: str | None) -> None:
    if validation_split is not None and split is None:
        raise InputError(
            f"The validation images of {validation_split} would be trained on too. Name the training images: --split."
        )
    if validation_split is not None and validation_split == split:
        raise InputError(
            f"--split and --validation-split are both {split}: validate on images that are not trained on."
        )


def _crop(source: ImageDataset, size: int, folder: Path, stage: Stage, on_note: Note) -> CroppedImages:
    with stage("Images") as show:
        cropped = load_cropped(source, size, show, folder / "images")
    if cropped.skipped:
        key, reason = cropped.skipped[0]
        on_note(f"{len(cropped.skipped)} images could not be read and were left out; the first, {key}: {reason}")
    return cropped


def _labelled(
    source: ImageDataset,
    recipe: PretrainRecipe,
    folder: Path,
    classes: tuple[str, ...] | None,
    stage: Stage,
    on_note: Note,
) -> LabelledImages:
    cropped = _crop(source, recipe.image_size, folder, stage, on_note)
    labels, names = class_indices(cropped.labels, recipe.ignore_classes, classes)
    on_note(f"{len(cropped.images)} images, {int((labels >= 0).sum())} of them in {len(names)} classes.")
    return LabelledImages(cropped.images, labels, names, source.fingerprint())


def _open_encoders(recipe: TrainRecipe) -> list[Encoder]:
    """The recipe's encoders, which differ in their methods' names and have a level that is trained on.

    Raises:
        InputError: one cannot be opened, two are of one name, or one has none of the levels.
    """
    opened: dict[str, Encoder] = {}
    for given in recipe.encoders:
        encoder = open_encoder(given)
        method = encoder.spec.method
        if method in opened:
            raise InputError(f"Two encoders are called {method!r}. Rename one: --encoder {given},method=NAME.")
        if not set(encoder.spec.levels) & set(recipe.levels):
            level_index(encoder.spec, recipe.levels[0])
        opened[method] = encoder
    return list(opened.values())
