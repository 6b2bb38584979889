"""Files that were made to harm are refused with a sentence, in bounded memory."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from rcdm_cli.bundle.manifest import read_manifest
from rcdm_cli.cli._output import printable
from rcdm_cli.core.errors import InputError
from rcdm_cli.core.files import read_arrays
from rcdm_cli.data.dataset import index_tar
from tests.bundle.tiny import tiny_bundle


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("hostile") / "tiny") / "manifest.json"


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("schedule", "timesteps"), 200_000_000, "schedule.timesteps: .* equal to 100000,"),
        (("denoiser", "num_res_blocks"), 100_000_000, "denoiser.num_res_blocks: .* equal to 32,"),
        (("denoiser", "size"), 16384, "denoiser.size: .* equal to 2048,"),
        (("denoiser", "channel_mult"), [1] * 1000, "denoiser.channel_mult: .* at most 10 items"),
        (("defaults", "steps"), 10**9, "defaults.steps: .* equal to 10000,"),
        (("defaults", "steps"), 5000, "default of 5000 steps exceeds 1000 timesteps"),
        (("model", "file"), "../../secret.safetensors", "model.file: .* should match pattern"),
        (("model", "file"), "/etc/passwd", "model.file: .* should match pattern"),
        (("trained",), {"loss": float("nan")}, "trained: numbers must be finite; given nan"),
        (
            ("encoders", "dino", "spec", "trunk_options"),
            {"checkpoint_path": "licence.txt"},
            "checkpoint_path is not a known",
        ),
        (("encoders", "dino", "spec", "head", 0, "width"), 50_000_000, "head.0.width: .* equal to 1048576,"),
        (("\x1b[2J",), 1, r"'\\x1b\[2J' is not a known key"),
    ],
)
def test_hostile_value_of_a_manifest_is_refused(manifest, tmp_path, keys, value, message):
    document = json.loads(manifest.read_bytes())
    *parents, last = keys
    place = document
    for key in parents:
        place = place[key]
    place[last] = value
    (tmp_path / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path)


def test_archive_that_expands_a_thousand_times_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "bomb.npz", a=np.zeros(2**25, np.float32))
    with pytest.raises(InputError, match="claims 134217856 bytes"):
        read_arrays(tmp_path / "bomb.npz")


def test_array_with_a_huge_shape_is_refused(tmp_path):
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000, 1000000000), }".ljust(117) + b"\n"
    (tmp_path / "huge.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(InputError, match="not a complete npy file"):
        read_arrays(tmp_path / "huge.npy")


def test_names_of_a_tar_stay_inside_and_links_are_left_out(tmp_path):
    png = io.BytesIO()
    Image.new("RGB", (8, 8)).save(png, "PNG")
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name in ("../../up.png", "/etc/absolute.png"):
            member = tarfile.TarInfo(name)
            member.size = len(png.getvalue())
            tar.addfile(member, io.BytesIO(png.getvalue()))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE):
            link = tarfile.TarInfo("link.png")
            link.type, link.linkname = kind, "/etc/passwd"
            tar.addfile(link)
    assert [entry.key for entry in index_tar(tmp_path / "t.tar")] == ["up.png", "etc/absolute.png"]


def test_tar_with_a_negative_or_huge_size_is_refused(tmp_path):
    for size in (-512, 2**60):
        member = tarfile.TarInfo("a.png")
        member.size = size
        (tmp_path / "t.tar").write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
        with pytest.raises(InputError, match="damaged or incomplete: it breaks off after 0 bytes"):
            index_tar(tmp_path / "t.tar")


def test_control_characters_are_escaped_in_the_terminal():
    assert printable("a\x1b[2J\x9b\u202eb\tc\n") == "a\\x1b[2J\\x9b\\u202eb\tc\n"
