"""The loop: resume, stop, log and refusal, driven with a trainer whose state is one number."""

import json

import pytest
import torch

from rcdm_cli.core.errors import InputError, Interrupted, RcdmError
from rcdm_cli.training.checkpoint import load_checkpoint
from rcdm_cli.training.loop import CHECKPOINT, LOG, train


class Counting:
    """Adds the step number at each step, so that a step left out or done twice is seen."""

    images_per_step, description = 4, "counts"

    def __init__(self, steps=10, **identity):
        self.steps, self.value, self.seen, self.known = steps, torch.zeros(()), [], identity

    def setup(self, step):
        self.began = step

    def train_step(self, step):
        self.seen.append(step)
        self.value += step
        return {"loss": float(step)}

    def tensors(self):
        return {"state/value": self.value}

    def restore(self, checkpoint):
        self.value = checkpoint.group("state")["value"]

    def resume_key(self):
        return {"recipe": self.known}

    def on_step_end(self, step, folder):
        return {"accuracy": step / 10} if step % 5 == 0 else {}


def stop_after(trainer, step):
    return lambda: bool(trainer.seen) and trainer.seen[-1] + 1 >= step


def log_of(folder):
    return [json.loads(line) for line in (folder / LOG).read_text().splitlines()]


def test_a_run_logs_means_and_says_how_far_it_is(tmp_path):
    shown = []
    began = train(
        Counting(),
        tmp_path,
        save_every=100,
        log_every=4,
        show_every=0,
        on_progress=lambda p: shown.append((p.step, p.steps)),
    )
    assert began == 0
    assert shown == [(step, 10) for step in range(1, 11)]
    losses = {line["step"]: line["loss"] for line in log_of(tmp_path) if "loss" in line}
    assert losses == {4: 1.5, 8: 5.5, 10: 8.5}
    assert [line["step"] for line in log_of(tmp_path) if "accuracy" in line] == [5, 10]
    assert load_checkpoint(tmp_path / CHECKPOINT).group("state")["value"] == sum(range(10))


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_checkpoint(tmp_path, loss):
    class Diverging(Counting):
        def train_step(self, step):
            return super().train_step(step) if step < 6 else {"loss": loss}

    with pytest.raises(RcdmError, match=rf"loss is {loss} at step 7: .* lower optimization\.lr"):
        train(Diverging(), tmp_path, save_every=3, log_every=1)
    assert load_checkpoint(tmp_path / CHECKPOINT).step == 6
    assert [line["loss"] for line in log_of(tmp_path) if "loss" in line] == [0, 1, 2, 3, 4, 5]


def test_stopped_and_resumed_every_step_is_done_once(tmp_path):
    first = Counting(lr=1)
    with pytest.raises(Interrupted, match=r"Stopped at step 6 of 10.*Run the same command again"):
        train(first, tmp_path, save_every=100, log_every=4, stop=stop_after(first, 6))
    with (tmp_path / LOG).open("a") as log:
        log.write('{"step": 8, "loss": 99.0}\n{"step": 7, "lo')
    second = Counting(lr=1)
    assert train(second, tmp_path, save_every=100, log_every=4) == second.began == 6
    assert first.seen + second.seen == list(range(10))
    assert second.value == sum(range(10))
    # What a killed part logged after its checkpoint is gone, half a line too.
    assert [(line["step"], line.get("loss")) for line in log_of(tmp_path)] == [
        (4, 1.5), (5, None), (8, 6.5), (10, 8.5), (10, None),
    ]  # fmt: skip


def test_a_finished_run_stays_as_it_is_and_more_steps_go_on(tmp_path):
    train(Counting(), tmp_path, save_every=3)
    done = Counting()
    assert train(done, tmp_path, save_every=3) == 10
    assert done.seen == []
    longer = Counting(steps=12)
    train(longer, tmp_path, save_every=3)
    assert longer.seen == [10, 11]


def test_a_stop_at_the_last_step_is_the_end_and_no_interruption(tmp_path):
    trainer = Counting()
    assert train(trainer, tmp_path, save_every=3, stop=stop_after(trainer, 10)) == 0
    assert load_checkpoint(tmp_path / CHECKPOINT).step == 10


def test_a_run_of_another_recipe_is_refused_and_left_alone(tmp_path):
    train(Counting(lr=0.1, betas=(0.9, 0.99)), tmp_path, save_every=3)
    before = (tmp_path / CHECKPOINT).read_bytes()
    other = Counting(lr=0.2, betas=(0.9, 0.99), clip=1)
    with pytest.raises(
        InputError, match=r"another run: recipe\.clip was None, now 1; recipe\.lr was 0\.1, now 0\.2\. "
    ):
        train(other, tmp_path, save_every=3)
    assert other.seen == []
    assert (tmp_path / CHECKPOINT).read_bytes() == before
