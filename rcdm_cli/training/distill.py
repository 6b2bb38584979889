"""Distil a student from a trained model, or resume the distillation."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.outputs import output_folder
from rcdm_cli.core.resources import CHECKPOINT
from rcdm_cli.data.dataset import open_dataset
from rcdm_cli.training.distillation import StudentTrainer, Teacher
from rcdm_cli.training.distributed import is_main_process, world_size
from rcdm_cli.training.latents import autoencoder_of
from rcdm_cli.training.recipe import DistillRecipe
from rcdm_cli.training.run import TrainResult, fit_run, interruptible
from rcdm_cli.training.run_data import IMAGES, Note, OnProgress, RunImages, silent
from rcdm_cli.training.stages import stages_to
from rcdm_cli.training.warm_start import WarmStart


def distill_student(
    recipe: DistillRecipe,
    steps: int,
    teacher: Teacher,
    data: Path,
    out: Path,
    *,
    split: str | None = None,
    device: torch.device,
    workers: int = 0,
    log: Sequence[str] = (),
    stop: Callable[[], bool] = lambda: False,
    on_progress: OnProgress = silent,
    on_note: Note = lambda _: None,
) -> TrainResult:
    """Distil students with ``recipe.start`` steps, half of these steps, and so on to ``steps`` steps.

    Every process of a distributed training calls this function. The weights of each finished student are in
    ``student_path``.

    Args:
        recipe: settings.
        steps: sampling steps of the last student.
        teacher: trained model.
        data: folder of images, tar of images, or folder of tars.
        out: folder of the run.
        split: first-level folder of ``data`` to train on; by default, all images.
        device: device to train on.
        workers: number of processes that read images; 0 uses this process. The result does not depend on this number.
        log: loggers, as in ``train``.
        stop: called regularly. If it returns True, a checkpoint is written and the training is interrupted.
        on_progress: progress callback.
        on_note: called with messages for the user.

    Raises:
        InputError: an argument is invalid, ``out`` contains another run, or another process writes to ``out``.
        Interrupted: ``stop`` returned True.
        RcdmError: the loss is not finite.
    """
    stages_to(steps, recipe.start, recipe.substeps)
    batch, processes, spec = recipe.optimization.batch, world_size(), teacher.model.denoiser.spec
    if processes > batch:
        raise InputError(
            f"optimization.batch={batch} is too small for {processes} processes. Set optimization.batch={processes} or "
            f"a multiple of {processes}."
        )
    source = open_dataset(data, split, on_note)
    autoencoder = autoencoder_of(spec.space, recipe.autoencoder)
    # The other processes of a distributed training read files that the main process writes.
    with output_folder(out) if is_main_process() else nullcontext():
        reader = RunImages(
            spec.size,
            teacher.encoders,
            teacher.model.conditioning.spec.projections,
            recipe.cache,
            recipe.optimization.precision,
            out,
            device,
            interruptible(on_progress, stop),
            on_note,
            autoencoder,
            WarmStart(teacher.model, teacher.encoders, teacher.codec).statistics(autoencoder) if autoencoder else None,
        )
        training, _ = reader.read(source, None)
        trainer = StudentTrainer(recipe, steps, teacher, training, source.fingerprint(out / IMAGES), workers)
        began_at = fit_run(trainer, out, recipe.save_every, "Distillation", stop, on_progress, log)
    return TrainResult(out / CHECKPOINT, trainer.steps, began_at)
