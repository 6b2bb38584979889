"""Training loop: resume, stop, log and errors, with a trainer whose state is one number."""

import json

import pytest
import torch

from rcdm_cli.core.errors import InputError, Interrupted, RcdmError
from rcdm_cli.core.resources import CHECKPOINT
from rcdm_cli.training.checkpoint import load_checkpoint
from rcdm_cli.training.loop import LOG, fit


class Counting:
    """Trainer that adds the step numbers, so that a missing or repeated step changes the state."""

    images_per_step, description = 4, "counting"

    def __init__(self, steps=10, **recipe):
        self.steps, self.value, self.done, self.recipe = steps, torch.zeros(()), [], recipe

    def setup(self, step):
        self.began = step

    def train_step(self, step):
        self.done.append(step)
        self.value += step
        return {"loss": torch.tensor(float(step)), "lr": 0.5}

    def tensors(self):
        return {"state/value": self.value}

    def restore(self, checkpoint):
        self.value = checkpoint.group("state")["value"]

    def resume_key(self):
        return {"recipe": self.recipe}

    def on_step_end(self, step, folder):
        return {"accuracy": step / 10} if step % 5 == 0 else {}


def stop_after(trainer, step):
    return lambda: bool(trainer.done) and trainer.done[-1] + 1 >= step


def log_of(folder):
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def test_run_logs_means_and_reports_progress(tmp_path):
    progress = []
    began = fit(
        Counting(),
        tmp_path,
        save_every=100,
        log_every=4,
        show_every=0,
        on_progress=lambda p: progress.append((p.step, p.steps)),
    )
    assert began == 0
    assert progress == [(step, 10) for step in range(1, 11)]
    losses = {line["step"]: line["loss"] for line in log_of(tmp_path) if "loss" in line}
    assert losses == {4: 1.5, 8: 5.5, 10: 8.5}
    assert [line["step"] for line in log_of(tmp_path) if "accuracy" in line] == [5, 10]
    assert load_checkpoint(tmp_path / CHECKPOINT).group("state")["value"] == sum(range(10))


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_loss_that_is_not_finite_ends_the_run_after_the_last_checkpoint(tmp_path, loss):
    class Diverging(Counting):
        def train_step(self, step):
            return super().train_step(step) if step < 6 else {"loss": loss}

    with pytest.raises(RcdmError, match=rf"loss is {loss} at step 7: .* lower optimization\.lr"):
        fit(Diverging(), tmp_path, save_every=3, log_every=1)
    assert load_checkpoint(tmp_path / CHECKPOINT).step == 6
    assert [line["loss"] for line in log_of(tmp_path) if "loss" in line] == [0, 1, 2, 3, 4, 5]


def test_resumed_run_does_every_step_once(tmp_path):
    first = Counting(lr=1)
    with pytest.raises(Interrupted, match=r"Stopped at step 6 of 10.*Run the same command again"):
        fit(first, tmp_path, save_every=100, log_every=4, stop=stop_after(first, 6))
    with (tmp_path / LOG).open("a") as log:
        log.write('{"step": 8, "loss": 99.0}\n{"step": 7, "lo')
    second = Counting(lr=1)
    assert fit(second, tmp_path, save_every=100, log_every=4) == second.began == 6
    assert first.done + second.done == list(range(10))
    assert second.value == sum(range(10))
    # Lines after the checkpoint are removed, a partial line included.
    assert [(line["step"], line.get("loss")) for line in log_of(tmp_path)] == [
        (4, 1.5), (5, None), (8, 6.5), (10, 8.5), (10, None),
    ]  # fmt: skip


def test_finished_run_is_not_changed_and_continues_with_more_steps(tmp_path):
    fit(Counting(), tmp_path, save_every=3)
    done = Counting()
    assert fit(done, tmp_path, save_every=3) == 10
    assert done.done == []
    longer = Counting(steps=12)
    fit(longer, tmp_path, save_every=3)
    assert longer.done == [10, 11]


def test_stop_at_the_last_step_does_not_interrupt(tmp_path):
    trainer = Counting()
    assert fit(trainer, tmp_path, save_every=3, stop=stop_after(trainer, 10)) == 0
    assert load_checkpoint(tmp_path / CHECKPOINT).step == 10


def test_run_of_another_recipe_raises_and_is_not_changed(tmp_path):
    fit(Counting(lr=0.1, betas=(0.9, 0.99)), tmp_path, save_every=3)
    before = (tmp_path / CHECKPOINT).read_bytes()
    other = Counting(lr=0.2, betas=(0.9, 0.99), clip=1)
    with pytest.raises(
        InputError, match=r"another run: recipe\.clip was None, now 1; recipe\.lr was 0\.1, now 0\.2\. "
    ):
        fit(other, tmp_path, save_every=3)
    assert other.done == []
    assert (tmp_path / CHECKPOINT).read_bytes() == before
