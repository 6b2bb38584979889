"""Kept parts: made once for equal keys, made again for any other."""

import shutil

import pytest
import torch

from rcdm_cli.analyses.step_cache import StepCache, hash_of


class Maker:
    def __init__(self):
        self.calls = 0

    def __call__(self):
        self.calls += 1
        return {"h": torch.arange(6.0).reshape(2, 3).T * self.calls}


def test_a_part_is_made_once_and_comes_back_as_it_was(tmp_path):
    make = Maker()
    first = StepCache(tmp_path, {"seed": 0}).get_or_compute({"level": "backbone"}, make)
    again = StepCache(tmp_path, {"seed": 0}).get_or_compute({"level": "backbone"}, make)
    assert make.calls == 1
    assert torch.equal(first["h"], again["h"])
    assert torch.equal(again["h"], torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]))


@pytest.mark.parametrize(("about", "key"), [({"seed": 1}, {"a": 1}), ({"seed": 0}, {"a": 2}), ({}, {"a": 1})])
def test_another_key_is_another_part(tmp_path, about, key):
    make = Maker()
    StepCache(tmp_path, {"seed": 0}).get_or_compute({"a": 1}, make)
    StepCache(tmp_path, about).get_or_compute(key, make)
    assert make.calls == 2


def test_an_interrupted_part_leaves_nothing(tmp_path):
    def broken():
        raise KeyboardInterrupt

    cache = StepCache(tmp_path, {})
    with pytest.raises(KeyboardInterrupt):
        cache.get_or_compute({}, broken)
    assert list(tmp_path.iterdir()) == []
    make = Maker()
    cache.get_or_compute({}, make)
    assert make.calls == 1


def test_without_a_folder_nothing_is_kept():
    make = Maker()
    cache = StepCache(None, {})
    cache.get_or_compute({}, make)
    cache.get_or_compute({}, make)
    assert make.calls == 2


def test_parts_are_discarded_and_nothing_else_is(tmp_path):
    folder = tmp_path / "parts"
    cache = StepCache(folder, {"seed": 0})
    cache.get_or_compute({"a": 1}, Maker())
    StepCache(folder, {"seed": 1}).get_or_compute({"a": 1}, Maker())
    [part, _] = folder.iterdir()
    (folder / "mine.txt").write_text("mine")
    (folder / "mine.safetensors").write_text("no tensors")
    shutil.copy(part, folder / "copy.safetensors")
    cache.discard()
    assert sorted(path.name for path in folder.iterdir()) == ["copy.safetensors", "mine.safetensors", "mine.txt"]
    for path in folder.iterdir():
        path.unlink()
    cache.get_or_compute({"a": 1}, Maker())
    cache.discard()
    assert not folder.exists()
    cache.discard()
    StepCache(None, {}).discard()


def test_hashes_tell_tensors_apart():
    one = torch.arange(6.0)
    assert hash_of(one) == hash_of(one.clone())
    different = {hash_of(one), hash_of(one.double()), hash_of(one.reshape(2, 3)), hash_of(one + 1), hash_of(one, one)}
    assert len(different) == 5
