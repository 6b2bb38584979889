"""Loggers of a training: TensorBoard and Weights & Biases, with the values of ``log.jsonl``."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path

from rcdm_cli.core.errors import InputError, RcdmError, unknown_name_message
from rcdm_cli.core.files import write_text

RecordValues = Callable[[int, Mapping[str, float]], None]
"""Function that records the values of a step."""

TENSORBOARD = "tensorboard"
WANDB = "wandb"


def require_loggers(names: Sequence[str]) -> None:
    """Check the names of loggers, and that their packages are installed, without importing them.

    Raises:
        InputError: a logger is unknown, or its package is not installed.
    """
    for name in names:
        if name not in LOGGERS:
            raise InputError(unknown_name_message("logger", name, tuple(LOGGERS)))
        # The name of each logger is also the name of its package and of its extra.
        if find_spec(name) is None:
            raise InputError(f"`log` {name} needs {name}, which is not installed: `pip install 'rcdm[{name}]'`.")


@contextmanager
def _tensorboard(folder: Path) -> Iterator[RecordValues]:
    from torch.utils.tensorboard import SummaryWriter

    for events in (folder / TENSORBOARD).glob("events.out.tfevents.*"):
        events.unlink()

    def record(step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)

    # A running TensorBoard discards the events of the deleted files from step 0 on.
    with SummaryWriter(str(folder / TENSORBOARD), purge_step=0) as writer:
        yield record


@contextmanager
def _wandb(folder: Path) -> Iterator[RecordValues]:
    import wandb

    id_file = folder / WANDB / "id"
    if not id_file.exists():
        id_file.parent.mkdir(exist_ok=True)
        write_text(id_file, secrets.token_hex(4))
    settings = wandb.Settings(silent=True, console="off")
    try:
        opened = wandb.init(dir=folder, id=id_file.read_text(encoding="utf-8"), resume="allow", settings=settings)
    except wandb.Error as error:
        raise RcdmError(f"wandb could not start a run: {error}") from error
    with opened as run:
        # Step of the server above 0 in a run that is resumed online.
        recorded = run.step

        def record(step: int, values: Mapping[str, float]) -> None:
            if step >= recorded:
                run.log(dict(values), step=step)

        yield record


LOGGERS: dict[str, Callable[[Path], AbstractContextManager[RecordValues]]] = {TENSORBOARD: _tensorboard, WANDB: _wandb}
"""Loggers by name. Each one opens a log in the folder of a run, without the values of earlier parts of the run."""
