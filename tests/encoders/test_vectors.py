"""Files of vectors (N, D)."""

import io
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from rcdm_cli.core.errors import InputError
from rcdm_cli.encoders.embeddings import read_embeddings
from rcdm_cli.encoders.vectors import checked_vectors, is_vectors, read_vectors

VALUES = np.random.default_rng(0).normal(size=(4, 6))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ">f8"])
@pytest.mark.parametrize("suffix", ["npy", "npz", "safetensors"])
def test_vectors_are_read_as_float32_from_every_format(tmp_path, suffix, dtype):
    path, values = tmp_path / f"v.{suffix}", VALUES.astype(dtype)
    if suffix == "npy":
        np.save(path, np.asfortranarray(values))
    elif suffix == "npz":
        np.savez_compressed(path, h=values)
    else:
        save_file({"h": torch.from_numpy(values.astype(values.dtype.newbyteorder("=")))}, path, {"format": "pt"})
    assert is_vectors(path)
    found = read_vectors(path)
    assert found.dtype == torch.float32
    np.testing.assert_array_equal(found.numpy(), values.astype(np.float32))


def test_files_of_rcdm_are_not_vectors(tmp_path):
    np.savez(tmp_path / "e.npz", about="{}", paths=["a"], labels=[""])
    save_file({"h": torch.zeros(1, 2)}, tmp_path / "e.safetensors", {"kind": "embeddings"})
    assert not is_vectors(tmp_path / "e.npz")
    assert not is_vectors(tmp_path / "e.safetensors")
    assert not is_vectors(tmp_path / "image.png")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((0, 6)), r"no vector: its shape is \(0, 6\)"),
        (np.zeros((3, 0)), "no vector"),
        (np.zeros(6), r"shape \(N, D\).*not \(6,\)"),
        (np.zeros((1, 2, 3)), r"not \(1, 2, 3\)"),
        (np.zeros(()), r"not \(\)"),
        (np.zeros((2, 6), np.int64), "floating-point numbers, not of the type int64"),
        (np.zeros((2, 6), bool), "not of the type bool"),
        (np.zeros((2, 6), complex), "not of the type complex128"),
        (np.array([["a", "b"]]), "floating-point"),
        (np.zeros((2,), [("a", "f4")]), "floating-point"),
        (np.where(np.arange(24).reshape(4, 6) == 13, np.nan, VALUES), r"NaN.* in row 2\.$"),
        (np.where(np.arange(24).reshape(4, 6) % 6 == 1, np.inf, VALUES), "in rows 0, 1, 2, 3"),
        (np.full((7, 2), 1e39), "too large for float32 in rows 0, 1, 2, 3, 4 and 2 more"),
    ],
)
def test_wrong_vectors_are_refused(tmp_path, values, words):
    np.save(tmp_path / "v.npy", values)
    with pytest.raises(InputError, match=rf"v\.npy.*{words}"):
        read_vectors(tmp_path / "v.npy")


def test_tensor_is_accepted_without_gradient():
    tensor = torch.zeros(2, 3, dtype=torch.bfloat16, requires_grad=True)
    assert checked_vectors(tensor, "h").dtype == torch.float32
    with pytest.raises(InputError, match=r"torch\.int64"):
        checked_vectors(torch.zeros(2, 3, dtype=torch.int64), "h")


def objects(path):
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)


def objects_in_npz(path):
    np.savez(path, h=np.array([[{"a": 1}]], dtype=object))


def huge_header(path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (10**13, 128)})
    content = header.getvalue() + bytes(512)
    if path.suffix == ".npy":
        path.write_bytes(content)
    else:
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("h.npy", content)


def cut(path):
    np.save(path, VALUES)
    path.write_bytes(path.read_bytes()[:-8])


def damaged_npz(path):
    np.savez(path, h=VALUES)
    content = bytearray(path.read_bytes())
    content[200] ^= 255
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_file_with_one_wrong_byte_is_read_or_refused(tmp_path, suffix):
    path, refused = tmp_path / f"v.{suffix}", 0
    (np.save if suffix == "npy" else np.savez)(path, VALUES)
    content = path.read_bytes()
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :])
        try:
            (read_vectors if is_vectors(path) else read_embeddings)(path)
        except InputError:
            refused += 1
    assert refused > 50


@pytest.mark.parametrize(
    ("name", "write", "words"),
    [
        ("v.npy", objects, "Python objects, which are not read"),
        ("v.npz", objects_in_npz, "Python objects, which are not read"),
        (
            "v.npy",
            lambda path: path.write_bytes(b"\x80\x04K\x01."),
            "not a complete npy file, or contains Python objects",
        ),
        ("v.npy", lambda path: path.write_bytes(b""), "not a complete npy file"),
        ("v.npy", cut, "not a complete npy file"),
        ("v.npy", huge_header, "not a complete npy file"),
        ("v.npz", huge_header, "not a complete npz file"),
        ("v.npz", damaged_npz, "not a complete npz file"),
        ("v.npz", lambda path: np.savez(path, a=VALUES, b=VALUES), r"2 arrays \(a, b\).*one array"),
        ("v.npz", lambda path: np.savez(path), r"0 arrays \(none\)"),
        ("v.safetensors", lambda path: save_file({"a": torch.zeros(2), "b": torch.zeros(2)}, path), "2 arrays"),
        ("v.npy", lambda path: path.mkdir(), "not a file"),
    ],
)
def test_damaged_file_or_objects_are_refused_in_a_sentence(tmp_path, name, write, words):
    write(tmp_path / name)
    with pytest.raises(InputError, match=words):
        read_vectors(tmp_path / name)
