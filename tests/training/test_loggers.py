"""Loggers of a training: the values of ``log.jsonl`` in TensorBoard and W&B, also after an interruption."""

import json
import struct
import sys
from types import ModuleType, SimpleNamespace

import pytest

from rcdm_cli.core.errors import InputError, Interrupted
from rcdm_cli.exporting.distillation import distill
from rcdm_cli.training import loggers, loop
from rcdm_cli.training.loggers import require_loggers
from rcdm_cli.training.loop import LOG, fit
from rcdm_cli.training.run import pretrain, train, train_autoencoder
from tests.training.test_loop import Counting, stop_after


def logged_values(folder):
    """Return the lines of ``log.jsonl`` as {name: [(step, value)]}."""
    found = {}
    for line in map(json.loads, (folder / LOG).read_text().splitlines()):
        step = line.pop("step")
        for name, value in line.items():
            found.setdefault(name, []).append((step, value))
    return found


def interrupted_and_resumed(folder, first_part, second_part):
    """Run 6 of 10 steps, log steps 7 and 8 as a killed process would, and resume at step 6."""
    first = Counting()
    with pytest.raises(Interrupted):
        fit(first, folder, save_every=100, log_every=2, stop=stop_after(first, 6), loggers=first_part)
    with (folder / LOG).open("a") as log:
        log.write('{"step": 8, "loss": 99.0}\n')
    fit(Counting(), folder, save_every=100, log_every=2, loggers=second_part)


@pytest.mark.parametrize("first_part", [["tensorboard"], []])
def test_tensorboard_contains_each_step_of_the_log_once(tmp_path, first_part):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    interrupted_and_resumed(tmp_path, first_part, ["tensorboard", "tensorboard"])
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    expected = logged_values(tmp_path)
    assert [step for step, _ in expected["loss"]] == [2, 4, 6, 8, 10]
    assert set(events.Tags()["scalars"]) == set(expected) == {"loss", "lr", "images_per_second", "accuracy"}
    for name, values in expected.items():
        found = [(event.step, event.value) for event in events.Scalars(name)]
        # TensorBoard stores float32 values.
        assert found == [(step, pytest.approx(value, rel=1e-6)) for step, value in values]


class StubWandb(ModuleType):
    """Module ``wandb`` that records the calls. ``recorded`` is the next step of a run that is resumed online."""

    Settings = SimpleNamespace
    Error = RuntimeError

    def __init__(self):
        super().__init__("wandb")
        self.__spec__ = SimpleNamespace()
        self.runs, self.recorded = [], 0

    def init(self, **arguments):
        self.runs.append(StubRun(arguments, self.recorded))
        return self.runs[-1]


class StubRun:
    def __init__(self, arguments, step):
        self.arguments, self.step, self.logged, self.finished = arguments, step, {}, False

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.finished = True

    def log(self, values, *, step):
        for name, value in values.items():
            self.logged.setdefault(name, []).append((step, value))


@pytest.fixture
def wandb(monkeypatch):
    stub = StubWandb()
    monkeypatch.setitem(sys.modules, "wandb", stub)
    return stub


def test_wandb_run_has_one_id_and_each_step_of_the_log_once(tmp_path, wandb):
    interrupted_and_resumed(tmp_path, ["wandb"], ["wandb"])
    first, second = wandb.runs
    assert first.finished
    assert second.finished
    assert first.arguments["id"] == second.arguments["id"]
    assert second.arguments["resume"] == "allow"
    assert second.arguments["dir"] == tmp_path
    assert [step for step, _ in first.logged["loss"]] == [2, 4, 6]
    assert second.logged == logged_values(tmp_path)


def test_wandb_run_that_is_resumed_online_skips_the_steps_of_the_server(tmp_path, wandb):
    fit(Counting(steps=6), tmp_path, save_every=100, log_every=2)
    wandb.recorded = 5
    fit(Counting(), tmp_path, save_every=100, log_every=2, loggers=["wandb"])
    assert [step for step, _ in wandb.runs[0].logged["loss"]] == [6, 8, 10]


def records_of(content):
    """Return the records of a file in the log format of LevelDB, after the 7 bytes of W&B."""
    records, position = [], 7
    while position < len(content):
        if 32768 - position % 32768 < 7:  # The rest of a block is padding.
            position += 32768 - position % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        chunk = content[position + 7 : position + 7 + length]
        if kind in (1, 2):  # A whole record, or its first part.
            records.append(chunk)
        else:
            records[-1] += chunk
        position += 7 + length
    return records


def test_offline_file_of_wandb_contains_each_step_of_the_log_once(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    records = pytest.importorskip("wandb.proto.wandb_internal_pb2")
    monkeypatch.setenv("WANDB_MODE", "offline")
    interrupted_and_resumed(tmp_path, ["wandb"], ["wandb"])
    wandb.teardown()
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"), key=lambda path: path.stat().st_mtime_ns)
    found = {}
    for data in records_of(files[-1].read_bytes()):
        record = records.Record.FromString(data)
        if record.WhichOneof("record_type") == "history":
            line = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            for name in line.keys() - {"_step", "_runtime", "_timestamp"}:
                found.setdefault(name, []).append((line["_step"], line[name]))
    assert found == logged_values(tmp_path)


def test_only_the_main_process_opens_loggers(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "is_main_process", lambda: False)
    monkeypatch.setattr(loop, "LOGGERS", {})
    fit(Counting(), tmp_path, save_every=100, loggers=["tensorboard"])
    assert not (tmp_path / "tensorboard").exists()


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_missing_package_is_an_error_that_names_the_extra(tmp_path, monkeypatch, name):
    monkeypatch.setattr(loggers, "find_spec", lambda package: None)
    out = tmp_path / "out"
    message = rf"`log` {name} needs {name}, .*'rcdm\[{name}\]'"
    with pytest.raises(InputError, match=message):
        train("own64", tmp_path, out, log=[name])
    with pytest.raises(InputError, match=message):
        pretrain("clothing32-encoders", "dino", tmp_path, out, log=[name])
    with pytest.raises(InputError, match=message):
        train_autoencoder("clothing64-autoencoder", tmp_path, out, log=[name])
    with pytest.raises(InputError, match=message):
        distill("tiny", tmp_path, out, log=[name])
    assert not out.exists()


def test_unknown_logger_is_an_error():
    with pytest.raises(InputError, match=r"Unknown logger 'tensorbord'.*'tensorboard'"):
        require_loggers(["tensorbord"])
