"""State dicts of other programs, damaged files and hostile files."""

import argparse
import io
import os
import pickle
import tarfile
import types
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rcdm_cli.core.errors import InputError
from rcdm_cli.core.state_dict import load_state_dict_file

STATE = {"conv.weight": torch.arange(12.0).view(3, 4), "bn.num_batches_tracked": torch.tensor(7)}


def assert_equal(found, expected=STATE):
    assert sorted(found) == sorted(expected)
    for name, tensor in found.items():
        assert type(tensor) is torch.Tensor
        torch.testing.assert_close(tensor, expected[name].detach(), rtol=0, atol=0)


def with_prefix(prefix, state=STATE):
    return OrderedDict((f"{prefix}{name}", tensor) for name, tensor in state.items())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip format", "older format"])
@pytest.mark.parametrize(
    "content",
    [
        STATE,
        with_prefix("module."),
        {"state_dict": with_prefix("module."), "epoch": 3},
        {
            "epoch": 3,
            "model": with_prefix("_orig_mod.module."),
            "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}},
        },
        {"student": with_prefix("module.", {"a": torch.ones(2)}), "teacher": with_prefix("module.")},
        {"teacher": {"state_dict": with_prefix("module.")}},
        {"state_dict": with_prefix("model."), "hyper_parameters": {"lr": 0.1}},
        {name: torch.nn.Parameter(tensor) if tensor.is_floating_point() else tensor for name, tensor in STATE.items()},
    ],
    ids=["plain", "ddp", "lightning", "compiled", "dino", "dino nested", "lightning model", "parameters"],
)
def test_nested_state_dicts_are_found(tmp_path, content, zipped):
    path = tmp_path / "a.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    assert_equal(load_state_dict_file(path))


def test_state_dicts_side_by_side_are_merged(tmp_path):
    parts = {"trunk": {"conv1.weight": torch.ones(2)}, "heads": {"0.clf.0.weight": torch.zeros(3)}}
    content = {"phase_idx": 9, "classy_state_dict": {"base_model": {"model": parts, "meta": {"iteration": 1}}}}
    torch.save(content, tmp_path / "a.torch")
    assert_equal(
        load_state_dict_file(tmp_path / "a.torch"),
        {"trunk.conv1.weight": torch.ones(2), "heads.0.clf.0.weight": torch.zeros(3)},
    )


def test_prefix_is_removed_if_all_names_have_it(tmp_path):
    mixed = {"module.a": torch.ones(1), "b": torch.ones(1)}
    save_file(mixed, tmp_path / "a.safetensors")
    assert_equal(load_state_dict_file(tmp_path / "a.safetensors"), mixed)
    save_file(with_prefix("module.model."), tmp_path / "b.safetensors")
    assert_equal(load_state_dict_file(tmp_path / "b.safetensors"))


def test_other_objects_of_training_scripts_are_ignored(tmp_path):
    """DINO saves its arguments as a Namespace, other programs save numpy scalars. Neither object is built."""
    content = {
        "teacher": with_prefix("module."),
        "args": argparse.Namespace(lr=0.1, out=tmp_path),
        "loss": np.float64(1.5),
        "history": np.arange(3),
    }
    torch.save(content, tmp_path / "a.pth")
    assert_equal(load_state_dict_file(tmp_path / "a.pth"))


def test_zip_format_is_memory_mapped(tmp_path):
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "a.pt")
    [tensor] = load_state_dict_file(tmp_path / "a.pt").values()
    with open("/proc/self/maps") as maps:
        assert str(tmp_path / "a.pt") in maps.read()
    assert tensor.sum() == 0


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


class Evaluates(Hostile):
    def __reduce__(self):
        return eval, (f"open({str(self.path)!r}, 'w').close()",)


def assert_refused(path, *words):
    with pytest.raises(InputError) as caught:
        load_state_dict_file(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 400
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize("make", [Hostile, Evaluates])
@pytest.mark.parametrize("how", ["zip format", "older format", "plain pickle", "plain pickle 4"])
def test_hostile_pickle_is_not_executed(tmp_path, make, how):
    path, trace = tmp_path / "a.pt", tmp_path / "trace"
    content = {"state_dict": STATE, "more": make(trace)}
    if how.startswith("plain"):
        path.write_bytes(pickle.dumps(make(trace), protocol=4 if how.endswith("4") else 2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip format")
    message = assert_refused(path)
    if how.endswith("format"):
        assert ("system" if make is Hostile else "eval") in message
    assert not trace.exists()
    # Sanity check: unpickling the same bytes without restrictions does write the file.
    if how == "plain pickle":
        pickle.loads(path.read_bytes())
        assert trace.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("left", [0, 1, 3, 100, 0.5, 0.9, 0.999])
def test_truncated_torch_file_is_refused(tmp_path, left, zipped):
    torch.save({"a": torch.randn(100, 100)}, tmp_path / "complete.pt", _use_new_zipfile_serialization=zipped)
    complete = (tmp_path / "complete.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(complete[: left if isinstance(left, int) else int(left * len(complete))])
    assert_refused(tmp_path / "a.pt", "not a complete torch.save file")


@pytest.mark.parametrize("left", [0, 7, 20, 0.9])
def test_truncated_safetensors_file_is_refused(tmp_path, left):
    save_file({"a": torch.randn(100, 100)}, tmp_path / "a.safetensors")
    complete = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(complete[: left if isinstance(left, int) else int(left * len(complete))])
    assert_refused(tmp_path / "a.safetensors", "not a complete safetensors file")


def repacked(source, target, change):
    """Copy a zip, with ``change(name, bytes)`` → (name, bytes, compression) applied to each member."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.infolist():
            name, content, compression = change(member.filename, old.read(member))
            new.writestr(name, content, compression)


def test_zip_bomb_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "a.pt")
    repacked(tmp_path / "a.pt", tmp_path / "b.pt", lambda name, content: (name, content, zipfile.ZIP_DEFLATED))
    assert (tmp_path / "b.pt").stat().st_size < 10_000
    assert_refused(tmp_path / "b.pt", "compressed or claim more bytes")


def test_members_with_wrong_sizes_are_refused(tmp_path):
    torch.save({"a": torch.zeros(10)}, tmp_path / "a.pt")
    content = bytearray((tmp_path / "a.pt").read_bytes())
    # Both sizes in the central directory of the member with the tensor's 40 bytes.
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"data/0"))
    content[entry + 20 : entry + 28] = (1 << 30).to_bytes(4, "little") * 2
    (tmp_path / "a.pt").write_bytes(content)
    assert_refused(tmp_path / "a.pt", "claim more bytes")


@pytest.mark.parametrize("zipped", [True, False])
def test_tensor_larger_than_the_file_is_refused(tmp_path, zipped):
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert (tmp_path / "a.pt").stat().st_size < 3000
    assert_refused(tmp_path / "a.pt", f"claim {4 << 40} bytes")


def test_storage_larger_than_its_member_is_refused(tmp_path):
    torch.save({"a": torch.zeros(250)}, tmp_path / "a.pt")

    def longer(name, content):
        # BININT1 250, the number of elements, becomes BININT of 2^31 - 1.
        return name, content.replace(b"K\xfa", b"J\xff\xff\xff\x7f"), zipfile.ZIP_STORED

    repacked(tmp_path / "a.pt", tmp_path / "b.pt", longer)
    assert_refused(tmp_path / "b.pt")


@pytest.mark.parametrize("name", ["../../outside", "/outside", "a\\..\\..\\outside"])
def test_zip_with_paths_outside_is_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
        archive.writestr(name, b"outside")
    assert_refused(tmp_path / "a.pt", "path outside the archive")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_tar_is_refused_and_not_unpacked(tmp_path, mode):
    folder = tmp_path / "inside"
    folder.mkdir()
    with tarfile.open(folder / "a.pt", mode) as archive:
        for name in ("storages", "../outside", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))
    assert_refused(folder / "a.pt", "is a tar")
    assert [path.name for path in tmp_path.iterdir()] == ["inside"]
    assert [path.name for path in folder.iterdir()] == ["a.pt"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "no state dict"),
        ({"epoch": 3}, "no state dict"),
        ([torch.ones(2)], "no state dict"),
        (torch.ones(2), "no state dict"),
        ({0: torch.ones(2)}, "no state dict"),
        ({"model": {"model": {}}}, "no state dict"),
        ({"a": torch.ones(2).to_sparse()}, "'a'"),
        ({"a": torch.ones(2, device="meta")}, "'a'"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor")  # torch, while it reads one
def test_content_without_state_dict_is_refused(tmp_path, content, words):
    torch.save(content, tmp_path / "a.pt")
    assert_refused(tmp_path / "a.pt", words)


def test_pickled_module_and_torchscript_are_refused(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    assert_refused(tmp_path / "module.pt", "torch.nn.modules.linear.Linear", "state_dict()")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/data.pkl", b"")
        archive.writestr("script/constants.pkl", b"")
    assert_refused(tmp_path / "script.pt", "TorchScript")


def test_self_containing_checkpoint_is_refused(tmp_path):
    first, second = {}, {}
    first["model"], second["state_dict"] = second, first
    torch.save(first, tmp_path / "a.pt")
    assert_refused(tmp_path / "a.pt", "no state dict")


def test_attributes_of_tensors_are_dropped(tmp_path):
    tensor = torch.ones(3)
    tensor.numel, tensor.layout_of = 0, types.SimpleNamespace()
    torch.save({"a": tensor}, tmp_path / "a.pt")
    [found] = load_state_dict_file(tmp_path / "a.pt").values()
    assert found.numel() == 3
    assert vars(found) == {}


@pytest.mark.parametrize("content", [b"", b"\x80", b"hello", b"PK\x03\x04", bytes(1000), b"{}" * 300])
def test_files_of_other_types_are_refused(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    assert_refused(tmp_path / "a.pt")


def test_missing_file_is_refused(tmp_path):
    assert_refused(tmp_path / "a.pt", "is not a file")
    assert_refused(tmp_path, "is not a file")


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "a\nb", "a" * 301])
def test_long_or_unprintable_names_are_refused(tmp_path, name):
    torch.save({name: torch.ones(1)}, tmp_path / "a.pt")
    assert name not in assert_refused(tmp_path / "a.pt", "names")
    save_file({name: torch.ones(1)}, tmp_path / "a.safetensors")
    assert_refused(tmp_path / "a.safetensors", "names")


# OmegaConf in checkpoints of Lightning


def save_omegaconf(path, content=None, **options):
    omegaconf = pytest.importorskip("omegaconf")
    values = {"lr": 0.1, "list": [1, 2.5, "x", None, True], "inner": {"link": "${lr}", "path": path}}
    config = omegaconf.OmegaConf.create(content or values)
    torch.save({"state_dict": with_prefix("model."), "hyper_parameters": config, "part": config}, path, **options)


@pytest.mark.parametrize("zipped", [True, False])
def test_omegaconf_objects_are_ignored(zipped, tmp_path):
    save_omegaconf(tmp_path / "a.ckpt", _use_new_zipfile_serialization=zipped)
    assert_equal(load_state_dict_file(tmp_path / "a.ckpt"))


def test_omegaconf_object_that_calls_a_function_is_refused(tmp_path):
    """A pickle with an allowed class may still contain a call."""
    omegaconf = pytest.importorskip("omegaconf")

    class Call:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'executed'}",)

    config = omegaconf.OmegaConf.create({"lr": 0.1}, flags={"allow_objects": True})
    config.call = Call()
    torch.save({"state_dict": with_prefix(""), "hyper_parameters": config}, tmp_path / "a.ckpt")
    assert_refused(tmp_path / "a.ckpt", "system")
    assert not (tmp_path / "executed").exists()
