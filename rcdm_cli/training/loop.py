"""Training loop: steps, log, checkpoints, resume and stop on request."""

import json
import math
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor
from torch.profiler import record_function

from rcdm_cli.core.errors import InputError, Interrupted, RcdmError
from rcdm_cli.core.files import read_json_lines, write_text
from rcdm_cli.core.resources import CHECKPOINT
from rcdm_cli.training.checkpoint import Checkpoint, CheckpointWriter, load_checkpoint
from rcdm_cli.training.distributed import any_process, is_main_process
from rcdm_cli.training.loggers import LOGGERS, RecordValues

LOG = "log.jsonl"


class Trainer(Protocol):
    """Interface of a trainer for ``fit``. ``train_step`` must depend only on ``tensors`` and the step number."""

    steps: int
    images_per_step: int
    description: str

    def setup(self, step: int) -> None:
        """Prepare training from step ``step``. Called once, before the first ``train_step``."""

    def train_step(self, step: int) -> dict[str, float | Tensor]:
        """Do one optimizer step, and return values to log, including ``loss``.

        Values on a device are read at steps that are logged or shown only. The loss is the same in all processes.
        """

    def tensors(self) -> dict[str, Tensor]:
        """Return the complete training state."""

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore the state of a checkpoint."""

    def resume_key(self) -> dict[str, object]:
        """Return the recipe and data that a resumed run must match, as JSON-able values."""

    def on_step_end(self, step: int, folder: Path) -> dict[str, float]:
        """Do periodic work after ``step`` steps, and return values to log. Called in the main process only."""


@dataclass(frozen=True)
class Progress:
    """Progress of a training: steps done, total steps, mean logged values, and speed."""

    step: int
    steps: int
    values: dict[str, float]
    images_per_second: float


def fit(
    trainer: Trainer,
    folder: Path,
    *,
    save_every: int,
    log_every: int = 50,
    show_every: float = 1.0,
    loggers: Sequence[str] = (),
    stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> int:
    """Train to the last step, from the checkpoint in ``folder`` if one exists.

    With several processes, the main process writes the files. All processes stop if ``stop`` is true in one of them.
    Checkpoints are written in the background: the training waits for the copy of the state to memory only.

    Args:
        trainer: training to run.
        folder: folder of the run.
        save_every: steps between checkpoints.
        log_every: steps between lines of the log.
        show_every: seconds between calls of ``on_progress``.
        loggers: names of ``LOGGERS`` that record the values of the log.
        stop: called after each step. If it returns True, a checkpoint is written and the training is interrupted.
        on_progress: progress callback.

    Returns:
        The step that the training began at.

    Raises:
        InputError: the checkpoint is from another recipe or other images.
        Interrupted: ``stop`` returned True.
        RcdmError: the loss is not finite. The loss is checked before each line of the log and each checkpoint, so that
            no checkpoint contains diverged weights.
    """
    path = folder / CHECKPOINT
    first = _resume(trainer, path)
    trainer.setup(first)
    means = _Means()
    with CheckpointWriter(path) as writer, ExitStack() as opened:
        log = None
        if is_main_process():
            others = [opened.enter_context(LOGGERS[name](folder)) for name in dict.fromkeys(loggers)]
            log = _Log(folder / LOG, first, others)
        started = last_shown = time.perf_counter()
        for step in range(first, trainer.steps):
            means.add(trainer.train_step(step))
            done = step + 1
            stopping = any_process(stop())
            saving = stopping or done % save_every == 0 or done == trainer.steps
            logging = done % log_every == 0 or done == trainer.steps
            if saving or logging:
                _check_finite(means.read()["loss"], done, folder)
            rate = means.count * trainer.images_per_step / (time.perf_counter() - started)
            paused = time.perf_counter()
            if paused - last_shown >= show_every or done == trainer.steps:
                on_progress(Progress(done, trainer.steps, means.read(), rate))
                last_shown = paused
            if logging:
                if log:
                    log.write({"step": done, **means.read(), "images_per_second": round(rate, 2)})
                means, started = _Means(), time.perf_counter()
            if log and (evaluated := trainer.on_step_end(done, folder)):
                log.write({"step": done, **evaluated})
            if saving and is_main_process():
                writer.save(Checkpoint(done, trainer.resume_key(), trainer.tensors(), trainer.description))
            # The speed excludes evaluation and checkpoints.
            started += time.perf_counter() - paused
            if stopping and done < trainer.steps:
                writer.wait()
                raise Interrupted(
                    f"Stopped at step {done} of {trainer.steps}; {path} contains the state. Run the same command again "
                    "to resume."
                )
    return first


class _Means:
    """Means of logged values. Sums of values on a device stay on the device until they are read."""

    def __init__(self) -> None:
        self.sums: dict[str, float | Tensor] = {}
        self.count = 0

    def add(self, values: dict[str, float | Tensor]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.count += 1

    def read(self) -> dict[str, float]:
        with record_function("train: log"):
            return {name: float(total) / self.count for name, total in self.sums.items()}


def _check_finite(loss: float, done: int, folder: Path) -> None:
    if not math.isfinite(loss):
        raise RcdmError(
            f"The loss is {loss} at step {done}: the training in {folder} has diverged. Start again in another folder "
            "with a lower optimization.lr, or with optimization.precision=fp32."
        )


def _resume(trainer: Trainer, path: Path) -> int:
    if not path.exists():
        return 0
    checkpoint = load_checkpoint(path)
    key = json.loads(json.dumps(trainer.resume_key()))
    if differing := sorted(_differences(checkpoint.resume_key, key)):
        raise InputError(
            f"{path} is from another run: {'; '.join(differing)}. Choose another `out` folder, or delete this folder."
        )
    try:
        trainer.restore(checkpoint)
    except (RuntimeError, LookupError, ValueError, TypeError) as error:
        raise InputError(f"The tensors in {path} do not fit its recipe: {error}") from error
    return checkpoint.step


def _differences(old: object, new: object, key: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            line
            for name in old.keys() | new.keys()
            for line in _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
        ]
    return [] if old == new else [f"{key} was {old!r}, now {new!r}"]


class _Log:
    """``log.jsonl``, without the lines that were written after the checkpoint of step ``step``, and other loggers.

    The loggers record the lines of the file first, so that they contain every step of a resumed run once.
    """

    def __init__(self, path: Path, step: int, loggers: Sequence[RecordValues]) -> None:
        self.path, self.loggers = path, loggers
        valid = [values for values in read_json_lines(path) if values["step"] <= step]
        write_text(path, "".join(f"{json.dumps(values)}\n" for values in valid))
        for values in valid:
            self._record(values)

    def write(self, values: dict[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
        self._record(values)

    def _record(self, values: dict[str, float]) -> None:
        for record in self.loggers:
            record(int(values["step"]), {name: value for name, value in values.items() if name != "step"})
