"""Checkpoints: what is written is what is read, and an optimizer goes on as if nothing had happened."""

import pytest
import torch

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import write_tensors
from rcdm_cli.training.checkpoint import (
    Checkpoint,
    grouped,
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)
from tests.training.tiny import equal_tensors


def test_round_trip(tmp_path):
    tensors = grouped(
        model={"a.weight": torch.randn(2, 3), "half": torch.randn(2).bfloat16()},
        average={"a.weight": torch.tensor(7)},
    )
    assert sorted(tensors) == ["average/a.weight", "model/a.weight", "model/half"]
    recipe = {"lr": 0.1, "nested": {"list": [1, None, "é"]}}
    save_checkpoint(tmp_path / "c.safetensors", Checkpoint(12, recipe, tensors))
    read = load_checkpoint(tmp_path / "c.safetensors")
    assert (read.step, read.recipe) == (12, recipe)
    assert equal_tensors(read.tensors, tensors)
    assert equal_tensors(read.group("average"), {"a.weight": torch.tensor(7)})


def test_another_file_is_an_error(tmp_path):
    write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(1)}, {"kind": "encoder"})
    with pytest.raises(InputError, match=r"x\.safetensors is not a checkpoint of rcdm \(kind encoder\)"):
        load_checkpoint(tmp_path / "x.safetensors")


def test_a_restored_optimizer_takes_the_same_next_steps(tmp_path):
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
    # As a fresh optimizer would have it, which a file does not keep.
    assert optimizer.state[second[2]]["exp_avg"].stride() == second[2].stride() == (12, 1, 6, 3)
    part(second, optimizer, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole, second, strict=True))
    assert not torch.equal(first[0], second[0])
