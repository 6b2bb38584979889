"""State dicts of other programs, and files that only look like one."""

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


def same(found, expected=STATE):
    assert sorted(found) == sorted(expected)
    for name, tensor in found.items():
        assert type(tensor) is torch.Tensor
        torch.testing.assert_close(tensor, expected[name].detach(), rtol=0, atol=0)


def in_front(prefix, state=STATE):
    return OrderedDict((f"{prefix}{name}", tensor) for name, tensor in state.items())


@pytest.mark.parametrize("zipped", [True, False], ids=["zip format", "older format"])
@pytest.mark.parametrize(
    "content",
    [
        STATE,
        in_front("module."),
        {"state_dict": in_front("module."), "epoch": 3},
        {"epoch": 3, "model": in_front("_orig_mod.module."), "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}},
        {"student": in_front("module.", {"a": torch.ones(2)}), "teacher": in_front("module.")},
        {"teacher": {"state_dict": in_front("module.")}},
        {"state_dict": in_front("model."), "hyper_parameters": {"lr": 0.1}},
        {name: torch.nn.Parameter(tensor) if tensor.is_floating_point() else tensor for name, tensor in STATE.items()},
    ],
    ids=["plain", "ddp", "lightning", "compiled", "dino", "dino nested", "lightning model", "parameters"],
)
def test_the_usual_nests_are_opened(tmp_path, content, zipped):
    path = tmp_path / "a.pt"
    torch.save(content, path, _use_new_zipfile_serialization=zipped)
    same(load_state_dict_file(path))


def test_state_dicts_side_by_side_are_joined_as_in_vissl(tmp_path):
    parts = {"trunk": {"conv1.weight": torch.ones(2)}, "heads": {"0.clf.0.weight": torch.zeros(3)}}
    content = {"phase_idx": 9, "classy_state_dict": {"base_model": {"model": parts, "meta": {"iteration": 1}}}}
    torch.save(content, tmp_path / "a.torch")
    same(
        load_state_dict_file(tmp_path / "a.torch"),
        {"trunk.conv1.weight": torch.ones(2), "heads.0.clf.0.weight": torch.zeros(3)},
    )


def test_only_a_prefix_that_all_names_have_is_taken_off(tmp_path):
    mixed = {"module.a": torch.ones(1), "b": torch.ones(1)}
    save_file(mixed, tmp_path / "a.safetensors")
    same(load_state_dict_file(tmp_path / "a.safetensors"), mixed)
    save_file(in_front("module.model."), tmp_path / "b.safetensors")
    same(load_state_dict_file(tmp_path / "b.safetensors"))


def test_what_training_scripts_leave_beside_the_weights_is_harmless(tmp_path):
    """DINO keeps its arguments as a Namespace, others keep numpy scalars; neither is built."""
    content = {
        "teacher": in_front("module."),
        "args": argparse.Namespace(lr=0.1, out=tmp_path),
        "loss": np.float64(1.5),
        "history": np.arange(3),
    }
    torch.save(content, tmp_path / "a.pth")
    same(load_state_dict_file(tmp_path / "a.pth"))


def test_zip_files_are_mapped_not_read(tmp_path):
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


def refused(path, *words):
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
def test_a_hostile_pickle_is_not_run(tmp_path, make, how):
    path, trace = tmp_path / "a.pt", tmp_path / "trace"
    content = {"state_dict": STATE, "more": make(trace)}
    if how.startswith("plain"):
        path.write_bytes(pickle.dumps(make(trace), protocol=4 if how.endswith("4") else 2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "zip format")
    message = refused(path)
    if how.endswith("format"):
        assert ("system" if make is Hostile else "eval") in message
    assert not trace.exists()
    # The same bytes would have done it, were they trusted: the test tests something.
    if how == "plain pickle":
        pickle.loads(path.read_bytes())
        assert trace.exists()


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("left", [0, 1, 3, 100, 0.5, 0.9, 0.999])
def test_a_file_cut_short(tmp_path, left, zipped):
    torch.save({"a": torch.randn(100, 100)}, tmp_path / "whole.pt", _use_new_zipfile_serialization=zipped)
    whole = (tmp_path / "whole.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(whole[: left if isinstance(left, int) else int(left * len(whole))])
    refused(tmp_path / "a.pt", "not a whole file of torch.save")


@pytest.mark.parametrize("left", [0, 7, 20, 0.9])
def test_a_safetensors_file_cut_short(tmp_path, left):
    save_file({"a": torch.randn(100, 100)}, tmp_path / "a.safetensors")
    whole = (tmp_path / "a.safetensors").read_bytes()
    (tmp_path / "a.safetensors").write_bytes(whole[: left if isinstance(left, int) else int(left * len(whole))])
    refused(tmp_path / "a.safetensors", "not a whole safetensors file")


def repacked(source, target, change):
    """A zip again, with ``change(name, bytes)`` → (name, bytes, compression) of each member."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for member in old.infolist():
            name, content, compression = change(member.filename, old.read(member))
            new.writestr(name, content, compression)


def test_a_zip_bomb(tmp_path):
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "a.pt")
    repacked(tmp_path / "a.pt", tmp_path / "b.pt", lambda name, content: (name, content, zipfile.ZIP_DEFLATED))
    assert (tmp_path / "b.pt").stat().st_size < 10_000
    refused(tmp_path / "b.pt", "compressed or claim more bytes")


def test_members_that_lie_about_their_size(tmp_path):
    torch.save({"a": torch.zeros(10)}, tmp_path / "a.pt")
    content = bytearray((tmp_path / "a.pt").read_bytes())
    # Both sizes in the central directory of the member with the tensor's 40 bytes.
    entry = content.rindex(b"PK\x01\x02", 0, content.rindex(b"data/0"))
    content[entry + 20 : entry + 28] = (1 << 30).to_bytes(4, "little") * 2
    (tmp_path / "a.pt").write_bytes(content)
    refused(tmp_path / "a.pt", "claim more bytes")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_tensor_that_claims_more_than_there_is(tmp_path, zipped):
    torch.save({"a": torch.zeros(1).expand(1 << 40)}, tmp_path / "a.pt", _use_new_zipfile_serialization=zipped)
    assert (tmp_path / "a.pt").stat().st_size < 3000
    refused(tmp_path / "a.pt", f"claim {4 << 40} bytes")


def test_a_storage_that_claims_more_than_its_member(tmp_path):
    torch.save({"a": torch.zeros(250)}, tmp_path / "a.pt")

    def longer(name, content):
        # BININT1 250, the number of elements, becomes BININT of 2^31 - 1.
        return name, content.replace(b"K\xfa", b"J\xff\xff\xff\x7f"), zipfile.ZIP_STORED

    repacked(tmp_path / "a.pt", tmp_path / "b.pt", longer)
    refused(tmp_path / "b.pt")


@pytest.mark.parametrize("name", ["../../outside", "/outside", "a\\..\\..\\outside"])
def test_a_zip_that_leads_outside(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"")
        archive.writestr(name, b"outside")
    refused(tmp_path / "a.pt", "leads out of it")


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_that_leads_outside(tmp_path, mode):
    folder = tmp_path / "inside"
    folder.mkdir()
    with tarfile.open(folder / "a.pt", mode) as archive:
        for name in ("storages", "../outside", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))
    refused(folder / "a.pt", "is a tar")
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
def test_what_is_no_state_dict(tmp_path, content, words):
    torch.save(content, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", words)


def test_a_whole_module_and_a_script_are_told_from_a_state_dict(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    refused(tmp_path / "module.pt", "torch.nn.modules.linear.Linear", "state_dict()")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("script/data.pkl", b"")
        archive.writestr("script/constants.pkl", b"")
    refused(tmp_path / "script.pt", "TorchScript")


def test_a_nest_that_holds_itself_ends(tmp_path):
    first, second = {}, {}
    first["model"], second["state_dict"] = second, first
    torch.save(first, tmp_path / "a.pt")
    refused(tmp_path / "a.pt", "no state dict")


def test_attributes_on_a_tensor_change_nothing(tmp_path):
    tensor = torch.ones(3)
    tensor.numel, tensor.layout_of = 0, types.SimpleNamespace()
    torch.save({"a": tensor}, tmp_path / "a.pt")
    [found] = load_state_dict_file(tmp_path / "a.pt").values()
    assert found.numel() == 3
    assert vars(found) == {}


@pytest.mark.parametrize("content", [b"", b"\x80", b"hello", b"PK\x03\x04", bytes(1000), b"{}" * 300])
def test_other_files(tmp_path, content):
    (tmp_path / "a.pt").write_bytes(content)
    refused(tmp_path / "a.pt")


def test_no_file(tmp_path):
    refused(tmp_path / "a.pt", "is not a file")
    refused(tmp_path, "is not a file")


@pytest.mark.parametrize("name", ["a\x1b[2Jb", "a\nb", "a" * 301])
def test_names_that_would_spoil_a_message(tmp_path, name):
    torch.save({name: torch.ones(1)}, tmp_path / "a.pt")
    assert name not in refused(tmp_path / "a.pt", "names")
    save_file({name: torch.ones(1)}, tmp_path / "a.safetensors")
    refused(tmp_path / "a.safetensors", "names")
