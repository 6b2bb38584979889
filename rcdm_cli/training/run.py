"""Train a denoiser or an autoencoder, pretrain an encoder, and read the result of a training."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from rcdm_cli.core.errors import InputError, Interrupted
from rcdm_cli.core.files import sha256
from rcdm_cli.core.outputs import output_folder
from rcdm_cli.core.resources import CHECKPOINT
from rcdm_cli.core.spec import JsonObject, Spec, Text
from rcdm_cli.data.array_file import open_array
from rcdm_cli.diffusion.autoencoder import LatentCodec
from rcdm_cli.diffusion.autoencoder_files import load_autoencoder
from rcdm_cli.diffusion.autoencoder_spec import LatentStatistics
from rcdm_cli.diffusion.conditioning import Model
from rcdm_cli.diffusion.spec import ConditioningSpec, Representation
from rcdm_cli.encoders.encoder import Encoder, load_encoder
from rcdm_cli.encoders.open import ENCODER_FILE
from rcdm_cli.encoders.pairs import Pair
from rcdm_cli.training.checkpoint import Checkpoint, load_checkpoint
from rcdm_cli.training.distributed import is_main_process
from rcdm_cli.training.latents import AUTOENCODER
from rcdm_cli.training.loggers import require_loggers
from rcdm_cli.training.loop import Progress, Trainer, fit
from rcdm_cli.training.prepare import (
    prepare_autoencoder,
    prepare_denoiser,
    prepare_encoder,
)
from rcdm_cli.training.recipe import AutoencoderRecipe, PretrainRecipe, TrainRecipe, read_recipe
from rcdm_cli.training.representations import CacheType, cache_path
from rcdm_cli.training.run_data import ENCODERS, Note, OnProgress, silent
from rcdm_cli.training.warm_start import WarmStart


@dataclass(frozen=True)
class TrainResult:
    """Result of ``train``, ``train_autoencoder`` and ``pretrain``.

    Attributes:
        checkpoint: last checkpoint.
        steps: number of steps of the run.
        began_at: step at which this call began; above 0 for a resumed run.
        encoder: pretrained encoder, for ``pretrain``.
    """

    checkpoint: Path
    steps: int
    began_at: int
    encoder: Path | None = None


@dataclass(frozen=True)
class TrainedRun:
    """Result of a training, as read from the run's folder.

    Attributes:
        model: denoiser and conditioning with EMA weights.
        encoders: encoders that the denoiser was trained with.
        recipe: settings of the training.
        steps: number of steps done.
        codec: autoencoder and statistics of a latent space.
    """

    model: Model
    encoders: list[Encoder]
    recipe: TrainRecipe
    steps: int
    codec: LatentCodec | None = None


def train(
    recipe: TrainRecipe | Path | str,
    data: Path | str,
    out: Path | str,
    *,
    split: str | None = None,
    validation_split: str | None = None,
    encoders: Sequence[str | Encoder] = (),
    init: WarmStart | Path | str | None = None,
    overrides: Sequence[str] = (),
    device: torch.device | str = "cpu",
    workers: int = 0,
    log: Sequence[str] = (),
    stop: Callable[[], bool] = lambda: False,
    on_progress: OnProgress = silent,
    on_note: Note = lambda _: None,
) -> TrainResult:
    """Train a denoiser on the representations of images, or resume the training in ``out``.

    Args:
        recipe: name of a recipe, TOML file, or recipe object.
        data: folder of images, tar of images, or folder of tars.
        out: folder of the run.
        split: first-level folder of ``data`` to train on; by default, all images.
        validation_split: first-level folder of ``data`` for the validation loss.
        encoders: encoders, or references of encoders (see ``open_encoder``); by default, the encoders of the recipe.
        init: initial weights, or the folder of a run with the initial weights; by default, random weights.
        overrides: changes of the recipe, ``key=value`` with dotted keys and TOML values.
        device: device to train on.
        workers: number of processes that read and augment images; 0 uses this process. The result does not depend on
            this number.
        log: loggers that record the values of ``log.jsonl``: ``"tensorboard"`` and ``"wandb"``. The environment
            variables of W&B apply, such as ``WANDB_MODE=offline``.
        stop: called regularly. If it returns True, a checkpoint is written and the training is interrupted.
        on_progress: progress callback.
        on_note: called with messages for the user.

    Returns:
        The last checkpoint and the number of steps.

    Raises:
        InputError: an argument is invalid, ``out`` contains another run, or another process writes to ``out``.
        Interrupted: ``stop`` returned True.
        RcdmError: the loss is not finite.
    """
    require_loggers(log)
    settings = read_recipe(recipe, TrainRecipe, overrides)
    if init is not None and not isinstance(init, WarmStart):
        run = read_run(Path(init))
        init = WarmStart(run.model, run.encoders, run.codec)
    out = Path(out)
    # The other processes of a distributed training read files that the main process writes.
    with output_folder(out) if is_main_process() else nullcontext():
        trainer = prepare_denoiser(
            settings,
            Path(data),
            out,
            split=split,
            validation_split=validation_split,
            encoders=encoders,
            init=init,
            device=torch.device(device),
            workers=workers,
            on_progress=interruptible(on_progress, stop),
            on_note=on_note,
        )
        began_at = fit_run(trainer, out, settings.save_every, "Training", stop, on_progress, log)
    return TrainResult(out / CHECKPOINT, trainer.steps, began_at)


def pretrain(
    recipe: PretrainRecipe | Path | str,
    method: str,
    data: Path | str,
    out: Path | str,
    *,
    split: str | None = None,
    validation_split: str | None = None,
    overrides: Sequence[str] = (),
    device: torch.device | str = "cpu",
    workers: int = 0,
    log: Sequence[str] = (),
    stop: Callable[[], bool] = lambda: False,
    on_progress: OnProgress = silent,
    on_note: Note = lambda _: None,
) -> TrainResult:
    """Pretrain an encoder on images, or resume the pretraining in ``out``.

    Args:
        recipe: name of a recipe, TOML file, or recipe object.
        method: pretraining method, such as ``dino``.
        data: folder of images, tar of images, or folder of tars.
        out: folder of the run.
        split: first-level folder of ``data`` to train on; by default, all images.
        validation_split: first-level folder of ``data`` for the k-NN accuracy; by default, the accuracy is computed
            leave-one-out on the training images.
        overrides: changes of the recipe, ``key=value`` with dotted keys and TOML values.
        device: device to train on.
        workers: number of processes that compute views; 0 computes them in this process.
        log: loggers that record the values of ``log.jsonl``: ``"tensorboard"`` and ``"wandb"``. The environment
            variables of W&B apply, such as ``WANDB_MODE=offline``.
        stop: called regularly. If it returns True, a checkpoint is written and the training is interrupted.
        on_progress: progress callback.
        on_note: called with messages for the user.

    Returns:
        The encoder, the last checkpoint and the number of steps.

    Raises:
        InputError: an argument is invalid, ``out`` contains another run, or another process writes to ``out``.
        Interrupted: ``stop`` returned True.
        RcdmError: lightly is not installed, or the loss is not finite.
    """
    require_loggers(log)
    settings, out = read_recipe(recipe, PretrainRecipe, overrides), Path(out)
    with output_folder(out) if is_main_process() else nullcontext():
        trainer = prepare_encoder(
            settings,
            method,
            Path(data),
            out,
            split=split,
            validation_split=validation_split,
            device=torch.device(device),
            workers=workers,
            on_progress=interruptible(on_progress, stop),
            on_note=on_note,
        )
        began_at = fit_run(trainer, out, trainer.per_epoch, "Pretraining", stop, on_progress, log)
    return TrainResult(out / CHECKPOINT, trainer.steps, began_at, out / ENCODER_FILE)


def train_autoencoder(
    recipe: AutoencoderRecipe | Path | str,
    data: Path | str,
    out: Path | str,
    *,
    split: str | None = None,
    validation_split: str | None = None,
    overrides: Sequence[str] = (),
    device: torch.device | str = "cpu",
    workers: int = 0,
    log: Sequence[str] = (),
    stop: Callable[[], bool] = lambda: False,
    on_progress: OnProgress = silent,
    on_note: Note = lambda _: None,
) -> TrainResult:
    """Train an ``AutoencoderKL`` on images, or resume the training in ``out``.

    The folder of the run contains ``config.json`` and ``diffusion_pytorch_model.safetensors``, which diffusers opens.

    Args:
        recipe: name of a recipe, TOML file, or recipe object.
        data: folder of images, tar of images, or folder of tars.
        out: folder of the run.
        split: first-level folder of ``data`` to train on; by default, all images.
        validation_split: first-level folder of ``data`` for the error of reconstructions; by default, training images.
        overrides: changes of the recipe, ``key=value`` with dotted keys and TOML values.
        device: device to train on.
        workers: number of processes that crop images; 0 crops them in this process.
        log: loggers that record the values of ``log.jsonl``: ``"tensorboard"`` and ``"wandb"``. The environment
            variables of W&B apply, such as ``WANDB_MODE=offline``.
        stop: called regularly. If it returns True, a checkpoint is written and the training is interrupted.
        on_progress: progress callback.
        on_note: called with messages for the user.

    Returns:
        The last checkpoint and the number of steps.

    Raises:
        InputError: an argument is invalid, ``out`` contains another run, or another process writes to ``out``.
        Interrupted: ``stop`` returned True.
        RcdmError: the loss is not finite.
    """
    require_loggers(log)
    settings, out = read_recipe(recipe, AutoencoderRecipe, overrides), Path(out)
    with output_folder(out) if is_main_process() else nullcontext():
        trainer = prepare_autoencoder(
            settings,
            Path(data),
            out,
            split=split,
            validation_split=validation_split,
            device=torch.device(device),
            workers=workers,
            on_progress=interruptible(on_progress, stop),
            on_note=on_note,
        )
        began_at = fit_run(trainer, out, settings.save_every, "Training", stop, on_progress, log)
    return TrainResult(out / CHECKPOINT, trainer.steps, began_at)


def is_run(folder: Path) -> bool:
    """Return whether ``folder`` contains the checkpoint of a training."""
    return (folder / CHECKPOINT).is_file()


class _TrainKey(Spec):
    """``DenoiserTrainer.resume_key`` in a checkpoint."""

    recipe: JsonObject
    conditioning: Text
    projections: tuple[Representation, ...]
    images: Text
    latents: LatentStatistics | None = None
    init: Text = ""


def _load_train_checkpoint(path: Path) -> tuple[Checkpoint, _TrainKey]:
    checkpoint = load_checkpoint(path)
    recipe = checkpoint.resume_key.get("recipe")
    if not isinstance(recipe, dict) or recipe.get("kind") != "train":
        raise InputError(f"{path} is not a checkpoint of an `rcdm train` run.")
    return checkpoint, _TrainKey.parse(checkpoint.resume_key, str(path))


def read_run(folder: Path) -> TrainedRun:
    """Read the folder of an ``rcdm train`` run, finished or not.

    Raises:
        InputError: the folder does not contain such a run.
    """
    path = folder / CHECKPOINT
    if not is_run(folder):
        raise InputError(f"{folder} is not the folder of an `rcdm train` run: it does not contain {CHECKPOINT}.")
    checkpoint, key = _load_train_checkpoint(path)
    values: dict[str, Any] = {"steps": checkpoint.step, "description": checkpoint.description}
    recipe = TrainRecipe.parse({**key.recipe, **values}, str(path))
    values = {"width": recipe.denoiser.cond_width, "null": recipe.objective.null}
    projections = ConditioningSpec.parse({"projections": key.projections, **values}, str(path))
    # On the meta device, no memory is allocated for an architecture that does not fit the file.
    with torch.device("meta"):
        model = Model(recipe.denoiser, projections)
    try:
        model.load_state_dict({name: value.float() for name, value in checkpoint.group("ema").items()}, assign=True)
    except RuntimeError as error:
        raise InputError(f"The weights in {path} do not match its recipe: {error}") from error
    methods = dict.fromkeys(projection.method for projection in projections.projections)
    encoders = [load_encoder(folder / ENCODERS / f"{method}.safetensors") for method in methods]
    codec = None
    if recipe.denoiser.space.kind == "latents":
        if key.latents is None:
            raise InputError(f"{path} has no statistics of its latents.")
        codec = LatentCodec(load_autoencoder(folder / AUTOENCODER), key.latents)
    return TrainedRun(model.eval(), encoders, recipe, checkpoint.step, codec)


def cached_representations(folder: Path, on_note: Note) -> dict[Pair, Tensor]:
    """Return the representations of the training images from the cache of a run, at most 16,384 per (method, level).

    Representations without a cache file are left out and reported in a note.
    """
    _, key = _load_train_checkpoint(folder / CHECKPOINT)
    images = key.images[:12]
    found, missing = {}, []
    for projection in key.projections:
        pair = Pair(projection.method, projection.level)
        weights = sha256(folder / ENCODERS / f"{pair.method}.safetensors")[:12]
        for dtype in get_args(CacheType):
            name = f"{pair.method}-{weights}-{images}"
            path = cache_path(folder / "representations", name, pair.level, dtype)
            if path.is_file():
                array = open_array(path)
                index = np.linspace(0, len(array) - 1, min(len(array), 16384)).astype(np.int64)
                found[pair] = torch.from_numpy(array[index, 0]).float()
        if pair not in found:
            missing.append(f"{pair.method} at {pair.level} level")
    if missing:
        on_note(
            f"{folder} has no cached representations of the training images for {', '.join(missing)}. At these levels,"
            " images far from the training images will not be reported. To restore the cache, run the training command"
            " again."
        )
    return found


def fit_run(
    trainer: Trainer,
    out: Path,
    save_every: int,
    stage: str,
    stop: Callable[[], bool],
    on_progress: OnProgress,
    log: Sequence[str] = (),
) -> int:
    """Train to the last step, as in ``fit``, and report loss and speed. Returns the step that the call began at."""

    def show(progress: Progress) -> None:
        note = f"loss {progress.values['loss']:.4f}, {progress.images_per_second:.0f} images/s"
        on_progress(stage, progress.step, progress.steps, note)

    return fit(trainer, out, save_every=save_every, loggers=log, stop=stop, on_progress=show)


def interruptible(on_progress: OnProgress, stop: Callable[[], bool]) -> OnProgress:
    """Return a progress callback that also interrupts the preparation if ``stop`` returns True."""

    def show(stage: str, done: int, total: int, note: str = "") -> None:
        on_progress(stage, done, total, note)
        if stop():
            raise Interrupted(f"Stopped at {done} of {total} ({stage}). Run the same command again to resume.")

    return show
