"""A training run from photos to its last checkpoint: what ``rcdm pretrain`` and ``rcdm train`` do."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import torch

from rcdm_cli.diffusion.model import Model
from rcdm_cli.diffusion.spec import Representation
from rcdm_cli.encoders.encoder import Encoder, level_index, save_encoder
from rcdm_cli.encoders.open import open_encoder
from rcdm_cli.encoders.spec import LEVELS
from rcdm_cli.errors import InputError
from rcdm_cli.files import sha256
from rcdm_cli.images.dataset import Cropped, load_cropped
from rcdm_cli.images.source import PhotoSource, open_photos
from rcdm_cli.training.denoise import DenoiserTrainer
from rcdm_cli.training.loop import CHECKPOINT, Progress, Trainer, train
from rcdm_cli.training.pretrain import LabelledPhotos, PretrainTrainer, class_indices
from rcdm_cli.training.recipe import PretrainRecipe, TrainRecipe
from rcdm_cli.training.representations import CachedRepresentations, EncoderPhotos

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
    """Crop the photos, or take the crops from ``folder``; then build what is trained.

    Args:
        recipe: of all methods.
        method: which of them.
        source: a folder of photos, a tar, or a folder of tars.
        split: first-level folder to train on; None is all.
        validation_split: first-level folder for the k-NN accuracy; None is leave-one-out on the training photos.
        folder: of the run.
        device: to train on.
        workers: processes that draw the views; 0 is this one.
        stage: opens a piece of work by its title and gives what is called with (photos done, photos).
        on_note: called with what a person should know.

    Raises:
        InputError: photos, recipe or folder do not fit.
    """
    if validation_split is not None and split is None:
        raise InputError(
            f"The validation photos of {validation_split} would be trained on too. Name the training photos: --split."
        )
    data = _labelled(open_photos(source, split), recipe, folder, None, stage, on_note)
    validation = None
    if validation_split is not None:
        validation = _labelled(open_photos(source, validation_split), recipe, folder, data.classes, stage, on_note)
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
    start: Model | None = None,
    stage: Stage = silent,
    on_note: Note = lambda _: None,
) -> DenoiserTrainer:
    """Crop the photos and compute their representations, or take both from ``folder``; then build what is trained.

    The encoders are copied into the run, so that a bundle can be made of the run alone. Arguments and errors are those
    of ``prepare_encoder``. Weights begin at those of ``start``, as ``take_over`` tells; None is at random.
    """
    if not recipe.encoders:
        raise InputError("The recipe names no encoders. Give --encoder, or encoders = [...] in the recipe.")
    photos = open_photos(source, split)
    encoders = _open_encoders(recipe)
    cropped = _crop(photos, recipe.denoiser.size, folder, stage, on_note)
    sources = []
    for encoder in encoders:
        size = encoder.spec.preprocessing.size
        own = cropped if size == recipe.denoiser.size else _crop(photos, size, folder, stage, on_note)
        copy = folder / ENCODERS / f"{encoder.spec.method}.safetensors"
        save_encoder(encoder, copy)
        sources.append(EncoderPhotos(encoder, own.photos, f"{encoder.spec.method}-{sha256(copy)[:12]}"))
    rows = tuple(
        Representation(method=spec.method, level=level, width=spec.width_at(level))
        for spec in (item.encoder.spec for item in sources)
        for level in LEVELS
        if level in spec.levels and level in recipe.levels
    )
    cache = folder / "representations"
    on_note(f"{len(cropped.photos)} photos, {len(rows)} representations, on {device}.")
    with stage("Representations") as show:
        representations = CachedRepresentations(sources, rows, cache, device, show)
    return DenoiserTrainer(recipe, cropped.photos, representations, device, photos.fingerprint(), start)


def train_denoiser(
    trainer: DenoiserTrainer,
    folder: Path,
    *,
    stop: Callable[[], bool] = lambda: False,
    on_progress: ShowProgress = lambda done, total, note="": None,
) -> Run:
    """Train what ``prepare_denoiser`` gives in the same ``folder``, or go on with it; the rest as ``train_encoder``."""
    return _train(trainer, folder, trainer.recipe.save_every, stop, on_progress)


def _train(trainer: Trainer, folder: Path, save_every: int, stop: Callable[[], bool], on_progress: ShowProgress) -> Run:
    began = train(
        trainer,
        folder,
        save_every=save_every,
        stop=stop,
        on_progress=lambda progress: on_progress(progress.step, progress.steps, _say(progress)),
    )
    return Run(folder / CHECKPOINT, trainer.steps, began)


def _say(progress: Progress) -> str:
    return f"loss {progress.values['loss']:.4f}, {progress.photos_per_second:.0f} photos/s"


def _crop(source: PhotoSource, size: int, folder: Path, stage: Stage, on_note: Note) -> Cropped:
    with stage("Photos") as show:
        cropped = load_cropped(source, size, show, folder / "photos")
    if cropped.skipped:
        key, reason = cropped.skipped[0]
        on_note(f"{len(cropped.skipped)} photos could not be read and were left out; the first, {key}: {reason}")
    return cropped


def _labelled(
    source: PhotoSource,
    recipe: PretrainRecipe,
    folder: Path,
    classes: tuple[str, ...] | None,
    stage: Stage,
    on_note: Note,
) -> LabelledPhotos:
    cropped = _crop(source, recipe.photo_size, folder, stage, on_note)
    labels, names = class_indices(cropped.labels, recipe.ignore_classes, classes)
    on_note(f"{len(cropped.photos)} photos, {int((labels >= 0).sum())} of them in {len(names)} classes.")
    return LabelledPhotos(cropped.photos, labels, names, source.fingerprint())


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
