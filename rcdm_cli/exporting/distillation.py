"""Distillation: train students of a bundle, compare them with the bundle, and install those that pass."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from rcdm_cli.bundle.bundle import Bundle, load_bundle
from rcdm_cli.bundle.files import read_decoder, write_student
from rcdm_cli.bundle.manifest import read_manifest, replace_manifest
from rcdm_cli.core.errors import CheckFailed, InputError
from rcdm_cli.core.files import read_tensors, temporary_folder, write_json
from rcdm_cli.core.outputs import output_folder
from rcdm_cli.core.resources import MANIFEST
from rcdm_cli.data.cropped import load_cropped
from rcdm_cli.data.dataset import open_dataset
from rcdm_cli.data.image_file import Pixels
from rcdm_cli.diffusion.spec import Settings, StudentSpec
from rcdm_cli.exporting.quality import SampleComparison, compare_samples
from rcdm_cli.training.distill import distill_student
from rcdm_cli.training.distillation import Teacher, student_path, student_spec
from rcdm_cli.training.distributed import is_main_process
from rcdm_cli.training.loggers import require_loggers
from rcdm_cli.training.recipe import DistillRecipe, read_recipe
from rcdm_cli.training.run import TrainResult
from rcdm_cli.training.run_data import Note, OnProgress, check_splits, silent
from rcdm_cli.training.stages import stages_to

COMPARED_IMAGES = 100
"""Largest number of images in the comparison of a student with its teacher."""

COMPARED_SAMPLES = 4
"""Samples per image and representation in the comparison."""

COMPARISONS = "students.json"


@dataclass(frozen=True)
class DistillResult:
    """Result of ``distill``.

    Attributes:
        training: checkpoint and steps of the training.
        bundles: folders of the installed students, by sampling steps.
        comparisons: comparisons of all students with the teacher, by sampling steps.
    """

    training: TrainResult
    bundles: Mapping[int, Path] = field(default_factory=dict)
    comparisons: Mapping[int, SampleComparison] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return all values as JSON-compatible values."""
        return {
            "checkpoint": str(self.training.checkpoint),
            "steps": self.training.steps,
            "began_at": self.training.began_at,
            "students": {
                str(steps): {"bundle": str(self.bundles[steps]) if steps in self.bundles else None, **found.as_json()}
                for steps, found in self.comparisons.items()
            },
        }


def distill(
    bundle: Bundle | str | Path,
    data: Path | str,
    out: Path | str,
    *,
    steps: int = 4,
    recipe: DistillRecipe | Path | str = "distill",
    guidance: float | None = None,
    split: str | None = None,
    validation_split: str | None = None,
    limit: int = COMPARED_IMAGES,
    num_samples: int = COMPARED_SAMPLES,
    overrides: Sequence[str] = (),
    device: torch.device | str = "cpu",
    workers: int = 0,
    log: Sequence[str] = (),
    stop: Callable[[], bool] = lambda: False,
    on_progress: OnProgress = silent,
    on_note: Note = lambda _: None,
) -> DistillResult:
    """Distil students of a bundle that sample in a few steps without guidance, or resume the distillation in ``out``.

    The first student has ``start`` steps of the recipe, each later student half the steps of the previous student.
    Every student is compared with the bundle at its default settings, on the same images and noise. The students within
    the limits of ``exporting.quality`` are installed as bundles ``NAME-4steps`` in ``out``.

    Args:
        bundle: teacher: bundle, or its name or folder.
        data: folder of images, tar of images, or folder of tars.
        out: folder of the run and of the students.
        steps: sampling steps of the last student: ``start``, or a halving of ``start``.
        recipe: name of a recipe, TOML file, or recipe object.
        guidance: guidance scale that the students learn; by default, the bundle's. With a range in the recipe, the
            students' default.
        split: first-level folder of ``data`` to train on; by default, all images.
        validation_split: first-level folder of ``data`` for the comparison; by default, training images.
        limit: maximum number of images of the comparison, spread evenly, at least 2.
        num_samples: samples per image and representation of the comparison, at least 2.
        overrides: changes of the recipe, ``key=value`` with dotted keys and TOML values.
        device: device to train on.
        workers: number of processes that read images; 0 uses this process. The result does not depend on this number.
        log: loggers that record the values of ``log.jsonl``: ``"tensorboard"`` and ``"wandb"``. The environment
            variables of W&B apply, such as ``WANDB_MODE=offline``.
        stop: called regularly. If it returns True, a checkpoint is written and the training is interrupted.
        on_progress: progress callback.
        on_note: called with messages for the user.

    Raises:
        InputError: an argument is invalid, ``out`` contains another run, or another process writes to ``out``.
        CheckFailed: the student with ``steps`` steps is outside the limits.
        Interrupted: ``stop`` returned True.
        RcdmError: the loss is not finite.
    """
    require_loggers(log)
    settings, out, device = read_recipe(recipe, DistillRecipe, overrides), Path(out), torch.device(device)
    folder = bundle.folder if isinstance(bundle, Bundle) else bundle
    teacher = load_bundle(folder, device, on_note=on_note)
    manifest = teacher.manifest
    if manifest.student:
        raise InputError(
            f"{manifest.name} is a student. Distil its teacher {manifest.student.teacher} to fewer `steps`."
        )
    check_splits(split, validation_split)
    stages = stages_to(steps, settings.start, settings.substeps)
    target = teacher.settings(guidance=guidance)
    if settings.guidance and target.guidance not in settings.guidance:
        raise InputError(
            f"`guidance` {target.guidance:g} is not in the range of the recipe, {settings.guidance.low:g} to "
            f"{settings.guidance.high:g}. Set `guidance` to a scale in this range, which becomes the students' default."
        )
    if min(limit, num_samples) < 2:
        raise InputError("The comparison needs `limit` and `num_samples` of at least 2.")
    result = distill_student(
        settings,
        steps,
        Teacher(
            teacher.model,
            manifest.model.sha256,
            manifest.schedule,
            target.guidance,
            [teacher.encoder(method) for method in teacher.methods],
            read_decoder(teacher.folder, manifest.decoder, device) if manifest.decoder else None,
        ),
        Path(data),
        out,
        split=split,
        device=device,
        workers=workers,
        log=log,
        stop=stop,
        on_progress=on_progress,
        on_note=on_note,
    )
    if not is_main_process():
        return DistillResult(result)
    about = {
        "recipe": settings.model_dump(mode="json"),
        "steps": result.steps,
        "images_seen": result.steps * settings.optimization.batch,
    }
    images = _images(teacher, Path(data), validation_split or split, limit)
    with output_folder(out), temporary_folder(out, "students") as stage:
        students = {}
        for count in (each.steps for each in stages):
            students[count] = stage / f"{manifest.name}-{count}steps"
            origin = StudentSpec(
                teacher=manifest.name,
                teacher_sha256=manifest.model.sha256,
                guidance=None if settings.guidance else target.guidance,
            )
            scale = target.guidance if settings.guidance else 1.0
            defaults = Settings(sampler="ddim_angle", steps=count, guidance=scale)
            conditioning = manifest.conditioning.model_copy(update={"guidance": settings.guidance})
            weights = read_tensors(student_path(out, count))
            spec = student_spec(manifest.denoiser)
            write_student(students[count], teacher.folder, weights, spec, conditioning, defaults, origin, about)
        comparisons = _compare(teacher, target, students, images, num_samples, on_progress)
        write_json(out / COMPARISONS, {str(count): found.as_json() for count, found in comparisons.items()})
        bundles = {
            count: _installed(students[count], out, found) for count, found in comparisons.items() if found.accepted
        }
    for count, found in comparisons.items():
        on_note(f"{found} {f'Installed: {bundles[count]}.' if count in bundles else 'This student is not installed.'}")
    if not (last := comparisons[steps]).accepted:
        raise CheckFailed(
            f"The student with `steps` {steps} is rejected. {last.limits} More steps per student in the recipe, with "
            "another `out` folder, can bring its samples closer to the samples of the teacher."
        )
    return DistillResult(result, bundles, comparisons)


def _images(teacher: Bundle, data: Path, split: str | None, limit: int) -> dict[str, Pixels]:
    size = max(entry.spec.preprocessing.size for entry in teacher.manifest.encoders.values())
    cropped = load_cropped(open_dataset(data, split).spread(limit), size)
    if len(cropped.images) < 2:
        raise InputError(f"The comparison needs two images or more. {data} has {len(cropped.images)}.")
    return dict(zip(cropped.keys, cropped.images, strict=True))


def _compare(
    teacher: Bundle,
    settings: Settings,
    students: Mapping[int, Path],
    images: Mapping[str, Pixels],
    num_samples: int,
    on_progress: OnProgress,
) -> dict[int, SampleComparison]:
    """Compare the samples of all students with the samples of the teacher."""
    opened = {
        f"{steps} step{'s' if steps > 1 else ''}": load_bundle(folder, teacher.device)
        for steps, folder in students.items()
    }
    found = compare_samples(
        teacher,
        ("the teacher", teacher.loop(settings)),
        {name: student.loop(student.settings()) for name, student in opened.items()},
        images,
        num_samples=num_samples,
        on_progress=lambda done, total, note: on_progress("Comparison", done, total, note),
    )
    return dict(zip(students, found.values(), strict=True))


def _installed(student: Path, out: Path, comparison: SampleComparison) -> Path:
    """Move the bundle of a student to ``out``, unless ``out`` contains the student with its graphs."""
    folder, manifest = out / student.name, read_manifest(student)
    if (folder / MANIFEST).is_file() and read_manifest(folder).model.sha256 == manifest.model.sha256:
        return folder
    replace_manifest(student, manifest.model_copy(update={"measured": comparison.as_json()}))
    shutil.rmtree(folder, ignore_errors=True)
    student.rename(folder)
    return folder
