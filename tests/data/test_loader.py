"""Batches of worker processes and their copies on a device."""

import subprocess
import sys
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from rcdm_cli.data.loader import copied, load_batches

CPU = torch.device("cpu")


class Pair(NamedTuple):
    number: int
    tensors: list[Tensor]
    nothing: None = None


class Squares:
    def __getitem__(self, key: int) -> list[Pair]:
        return [Pair(key, [torch.full((2, 3), float(key**2)), torch.arange(key)])]


def check(batches: list[list[Pair]], keys: range, device: str) -> None:
    for (pair,), key in zip(batches, keys, strict=True):
        assert isinstance(pair, Pair)
        assert (pair.number, pair.nothing) == (key, None)
        square, numbers = pair.tensors
        assert torch.equal(square.cpu(), torch.full((2, 3), float(key**2)))
        assert numbers.tolist() == list(range(key))
        assert {tensor.device.type for tensor in pair.tensors} == {device}


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_in_the_order_of_the_keys(workers: int) -> None:
    keys = range(3, 20)
    check(list(load_batches(Squares(), keys, CPU, workers)), keys, "cpu")


def test_error_of_a_worker_is_raised() -> None:
    class Failing:
        def __getitem__(self, key: int) -> Tensor:
            raise ValueError(f"no batch {key}")

    with pytest.raises(ValueError, match="no batch 7"):
        next(load_batches(Failing(), [7], CPU, 1))


def test_copies_keep_the_structure_of_a_batch() -> None:
    batch = (Pair(1, [torch.ones(2)]), [None, 3])
    meta = copied(batch, torch.device("meta"))
    assert (type(meta[0]), meta[0].number, meta[1]) == (Pair, 1, [None, 3])
    assert meta[0].tensors[0].is_meta


def test_process_with_an_open_loader_ends() -> None:
    code = """
import torch
from rcdm_cli.data.loader import load_batches

class Zeros:
    def __getitem__(self, key):
        return torch.zeros(3)

batches = load_batches(Zeros(), range(1000), torch.device("cpu"), 2)
next(batches)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.gpu
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("count", [1, 2, 9])
def test_batches_on_a_gpu_equal_those_in_memory(workers: int, count: int) -> None:
    keys = range(count)
    check(list(load_batches(Squares(), keys, torch.device("cuda"), workers)), keys, "cuda")
