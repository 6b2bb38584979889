"""The loop that every training shares: steps, log, checkpoints, resume, a clean stop."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from rcdm_cli.core.errors import InputError, Interrupted, RcdmError
from rcdm_cli.core.files import write_text
from rcdm_cli.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from rcdm_cli.training.distributed import Share

CHECKPOINT = "checkpoint.safetensors"
LOG = "log.jsonl"


class Trainer(Protocol):
    """What the loop drives. ``train_step`` must be a pure function of the state and the step number."""

    steps: int
    images_per_step: int
    description: str

    def setup(self, step: int) -> None:
        """Called once, before the first ``train_step``, with the steps already done."""

    def train_step(self, step: int) -> dict[str, float]:
        """Do one optimizer step; returns what is logged, the loss among it."""

    def tensors(self) -> dict[str, Tensor]:
        """Everything that the next step depends on."""

    def restore(self, checkpoint: Checkpoint) -> None:
        """Take up ``tensors`` again."""

    def resume_key(self) -> dict[str, object]:
        """What must be the same for a run to go on: the recipe and the data."""

    def on_step_end(self, step: int, folder: Path) -> dict[str, float]:
        """Called after every step; does its periodic work when it is due and returns what to log."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands, for a progress display."""

    step: int
    steps: int
    values: dict[str, float]
    images_per_second: float


def train(
    trainer: Trainer,
    folder: Path,
    *,
    save_every: int,
    log_every: int = 50,
    show_every: float = 1.0,
    stop: Callable[[], bool] = lambda: False,
    on_progress: Callable[[Progress], None] = lambda _: None,
    share: Share | None = None,
) -> int:
    """Run ``trainer`` to its last step in ``folder``, from the checkpoint there if there is one.

    Of several processes, one writes into the folder, and all stop when one is asked to.

    Returns:
        The step that it began at.

    Raises:
        InputError: the folder holds a run of another recipe or other images.
        Interrupted: ``stop`` said so; a checkpoint is written first.
        RcdmError: the loss is not a finite number; nothing is written any more.
    """
    path, share = folder / CHECKPOINT, share or Share()
    first = _resume(trainer, path, share)
    log = _Log(folder / LOG, first) if share.writes else None
    trainer.setup(first)
    sums: dict[str, float] = {}
    started, counted = time.perf_counter(), 0
    shown = started
    for step in range(first, trainer.steps):
        values = trainer.train_step(step)
        if not math.isfinite(values["loss"]):
            raise RcdmError(
                f"The loss is {values['loss']} at step {step + 1}: training in {folder} has diverged and will not "
                "recover. Start again in another folder with a lower optimization.lr, or optimization.precision=fp32."
            )
        for name, value in values.items():
            sums[name] = sums.get(name, 0.0) + value
        counted += 1
        done = step + 1
        rate = counted * trainer.images_per_step / (time.perf_counter() - started)
        means = {name: total / counted for name, total in sums.items()}
        if done % log_every == 0 or done == trainer.steps:
            if log:
                log.write({"step": done, **means, "images_per_second": round(rate, 2)})
            sums, started, counted = {}, time.perf_counter(), 0
        before = time.perf_counter()
        if before - shown >= show_every or done == trainer.steps:
            on_progress(Progress(done, trainer.steps, means, rate))
            shown = before
        if log and (reached := trainer.on_step_end(done, folder)):
            log.write({"step": done, **reached})
        stopping = share.any(stop())
        if share.writes and (stopping or done % save_every == 0 or done == trainer.steps):
            save_checkpoint(path, Checkpoint(done, trainer.resume_key(), trainer.tensors(), trainer.description))
        # Images per second are those of training: samples and checkpoints are not counted.
        started += time.perf_counter() - before
        if stopping and done < trainer.steps:
            raise Interrupted(
                f"Stopped at step {done} of {trainer.steps}; {path} has all of it. Run the same command again to go on."
            )
    return first


def _resume(trainer: Trainer, path: Path, share: Share) -> int:
    if share.writes:
        # What a process that was killed while writing has left behind.
        for torn in path.parent.glob(f".{path.stem}.*{path.suffix}"):
            torn.unlink()
    if not path.exists():
        return 0
    checkpoint = load_checkpoint(path)
    ours = json.loads(json.dumps(trainer.resume_key()))
    if differing := sorted(_differences(checkpoint.recipe, ours)):
        raise InputError(
            f"{path} is from another run: {'; '.join(differing)}. Give another --out, or delete that folder."
        )
    trainer.restore(checkpoint)
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
    """log.jsonl, without what was logged after the checkpoint that the run goes on from."""

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        # A killed process can leave half a last line.
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        write_text(path, "".join(f"{line}\n" for line in kept))

    def write(self, values: dict[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(values) + "\n")
