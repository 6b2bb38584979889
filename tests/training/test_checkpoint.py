"""Checkpoints: round trip, errors, and state of the optimizer."""

import threading

import pytest
import torch

from rcdm_cli.core.errors import InputError, RcdmError
from rcdm_cli.core.files import write_tensors
from rcdm_cli.training import checkpoint as module
from rcdm_cli.training.checkpoint import (
    Checkpoint,
    CheckpointWriter,
    grouped,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from tests.training.tiny import equal_tensors


def test_saved_checkpoint_is_loaded_unchanged(tmp_path):
    tensors = grouped(
        model={"a.weight": torch.randn(2, 3), "half": torch.randn(2).bfloat16()},
        ema={"a.weight": torch.tensor(7)},
    )
    assert sorted(tensors) == ["ema/a.weight", "model/a.weight", "model/half"]
    recipe = {"lr": 0.1, "nested": {"list": [1, None, "é"]}}
    save_checkpoint(tmp_path / "c.safetensors", Checkpoint(12, recipe, tensors))
    read = load_checkpoint(tmp_path / "c.safetensors")
    assert (read.step, read.resume_key) == (12, recipe)
    assert equal_tensors(read.tensors, tensors)
    assert equal_tensors(read.group("ema"), {"a.weight": torch.tensor(7)})


def test_file_of_another_kind_raises(tmp_path):
    write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {"kind": "encoder"})
    with pytest.raises(InputError, match=r"x\.safetensors is not a checkpoint of rcdm \(kind encoder\)"):
        load_checkpoint(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({}, "valid resume_key"),
        ({"step": "two", "resume_key": "{}"}, "step: input should be a valid integer"),
        ({"step": "-2", "resume_key": "{}"}, "step: input should be greater"),
        ({"step": "2", "resume_key": "{"}, "valid resume_key"),
        ({"step": "2", "resume_key": "[]"}, "resume_key: input should be a valid dictionary"),
        ({"step": "2", "resume_key": '{"lr": NaN}'}, "numbers must be finite"),
        ({"step": "2", "resume_key": '{"a":' * 100 + "1" + "}" * 100}, "nested more than"),
    ],
)
def test_checkpoint_with_invalid_metadata_raises(tmp_path, metadata, message):
    write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {"kind": "checkpoint", **metadata})
    with pytest.raises(InputError, match=rf"x\.safetensors.*{message}"):
        load_checkpoint(tmp_path / "x.safetensors")


def test_restored_optimizer_continues_with_identical_steps(tmp_path):
    def part(weights, optimizer, steps):
        for step in steps:
            optimizer.zero_grad()
            sum(((w - step) ** 2).sum() for w in weights).backward()
            optimizer.step()

    def new():
        weights = [torch.ones(3, requires_grad=True), torch.full((2, 2), 0.5, requires_grad=True)]
        weights.append(torch.ones(2, 3, 2, 2).to(memory_format=torch.channels_last).requires_grad_())
        return weights, torch.optim.AdamW(weights, lr=0.1, weight_decay=0.1)

    whole, optimizer = new()
    part(whole, optimizer, range(6))

    first, optimizer = new()
    part(first, optimizer, range(3))
    tensors = grouped(w={str(i): w.detach() for i, w in enumerate(first)}, o=optimizer_tensors(optimizer))
    save_checkpoint(tmp_path / "c.safetensors", Checkpoint(3, {}, tensors))
    read = load_checkpoint(tmp_path / "c.safetensors")
    second, optimizer = new()
    with torch.no_grad():
        for i, w in enumerate(second):
            w.copy_(read.group("w")[str(i)])
    restore_optimizer(optimizer, read.group("o"))
    # Files store contiguous tensors; a new optimizer uses the memory format of the parameter.
    assert optimizer.state[second[2]]["exp_avg"].stride() == second[2].stride() == (12, 1, 6, 3)
    part(second, optimizer, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole, second, strict=True))
    assert not torch.equal(first[0], second[0])


def test_checkpoint_in_the_background_contains_the_state_at_the_time_of_the_call(tmp_path, monkeypatch):
    path, started, release = tmp_path / "c.safetensors", threading.Event(), threading.Event()

    def slow(path, checkpoint):
        started.set()
        assert release.wait(20)
        save_checkpoint(path, checkpoint)

    save_checkpoint(path, Checkpoint(1, {}, {"a/w": torch.zeros(3)}))
    monkeypatch.setattr(module, "save_checkpoint", slow)
    weight = torch.ones(3)
    with CheckpointWriter(path) as writer:
        writer.save(Checkpoint(2, {}, {"a/w": weight}))
        assert started.wait(20)
        weight.add_(5)
        # The previous checkpoint is complete until the new file replaces it.
        assert load_checkpoint(path).step == 1
        release.set()
        writer.wait()
        assert load_checkpoint(path).step == 2
        assert load_checkpoint(path).group("a")["w"].tolist() == [1, 1, 1]
        writer.save(Checkpoint(3, {}, {"a/w": weight}))
    assert load_checkpoint(path).group("a")["w"].tolist() == [6, 6, 6]


def test_error_of_the_background_is_raised_by_the_next_call_and_at_the_end(tmp_path):
    (tmp_path / "file").touch()
    checkpoint = Checkpoint(1, {}, {"a/w": torch.zeros(3)})
    writer = CheckpointWriter(tmp_path / "file" / "c.safetensors")
    with pytest.raises(RcdmError, match="Could not write"), writer:
        writer.save(checkpoint)
    again = CheckpointWriter(writer.path)
    again.save(checkpoint)
    with pytest.raises(RcdmError, match="Could not write"):
        again.save(checkpoint)


def test_error_of_the_training_is_not_replaced_by_an_error_of_the_background(tmp_path):
    (tmp_path / "file").touch()

    def train():
        with CheckpointWriter(tmp_path / "file" / "c.safetensors") as writer:
            writer.save(Checkpoint(1, {}, {"a/w": torch.zeros(3)}))
            raise KeyError("training")

    with pytest.raises(KeyError, match="training"):
        train()
