"""Arrays in files: complete, interrupted and read by workers."""

import multiprocessing
import pickle
import resource
import signal
from pathlib import Path

import numpy as np
import pytest

from rcdm_cli.core.errors import RcdmError
from rcdm_cli.data.array_file import ArrayWriter, Rows, open_array, partial_path


def values(rows: int, dtype: str = "float16") -> np.ndarray:
    return np.arange(rows * 24).reshape(rows, 2, 3, 4).astype(dtype)


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_written_array_is_a_npy_file_of_the_given_type(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "new" / "a.npy"
    with ArrayWriter(path, (2, 3, 4), dtype) as writer:
        for part in np.split(values(7).astype("float64"), [2, 2, 6]):
            writer.append(part)
        mapped = writer.finish()
    np.testing.assert_array_equal(np.load(path), values(7, dtype))
    assert np.load(path).dtype == mapped.dtype == dtype
    assert isinstance(mapped, np.memmap)
    assert [file.name for file in path.parent.iterdir()] == ["a.npy"]


@pytest.mark.parametrize("removed", [0, 1, 47, 48, 49, 200, 500])
def test_interrupted_array_continues_after_the_last_complete_row(tmp_path: Path, removed: int) -> None:
    path = tmp_path / "a.npy"
    with ArrayWriter(path, (2, 3, 4), "float16") as writer:
        writer.append(values(5))
    assert not path.exists()
    partial = partial_path(path)
    partial.write_bytes(partial.read_bytes()[: -removed or None])
    with ArrayWriter(path, (2, 3, 4), "float16") as writer:
        # A row has 48 bytes.
        assert writer.rows == max(5 - -(-removed // 48), 0)
        writer.append(values(9)[writer.rows :])
        writer.finish()
    np.testing.assert_array_equal(np.load(path), values(9))


def test_rows_of_another_shape_and_unwritable_files_raise(tmp_path: Path) -> None:
    with ArrayWriter(tmp_path / "a.npy", (3,), "uint8") as writer, pytest.raises(ValueError, match="shape"):
        writer.append(np.zeros((2, 4)))
    (tmp_path / "file").touch()
    with pytest.raises(RcdmError, match="Could not write"):
        ArrayWriter(tmp_path / "file" / "a.npy", (3,), "uint8")


@pytest.mark.parametrize("mapped", [False, True])
def test_rows_equal_numpy_indexing(tmp_path: Path, mapped: bool) -> None:
    array = np.random.default_rng(0).random((300, 5, 7))
    np.save(tmp_path / "a.npy", array)
    rows = Rows(open_array(tmp_path / "a.npy") if mapped else array)
    index = np.array([299, 0, 17, 17, 150])
    taken = rows.take(index)
    np.testing.assert_array_equal(taken, array[index])
    assert type(taken) is np.ndarray or taken.base is None
    assert len(rows) == 300


def test_pickled_rows_of_a_mapped_array_contain_no_values(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(100000.0).reshape(1000, 100))
    pickled = pickle.dumps(Rows(open_array(tmp_path / "a.npy")))
    assert len(pickled) < 1000
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        row = pool.apply(pickle.loads(pickled).take, (np.array([999]),))
    np.testing.assert_array_equal(row, [np.arange(99900.0, 100000)])


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs the memory map of Linux")
def test_pages_of_a_mapped_array_are_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "a.npy", np.ones((2000, 1024)))  # 16 MB
    rows = Rows(open_array(tmp_path / "a.npy"))

    def resident() -> int:
        """Return the resident kilobytes of the file."""
        blocks = Path("/proc/self/smaps").read_text().split(str(tmp_path / "a.npy"))[1:]
        return sum(int(block.split("Rss:")[1].split()[0]) for block in blocks)

    everything = np.arange(2000)
    rows.take(everything)
    assert resident() > 15000
    monkeypatch.setattr("rcdm_cli.data.array_file.RELEASE", 1 << 20)
    np.testing.assert_array_equal(rows.take(everything), 1)
    assert resident() < 1000
    np.testing.assert_array_equal(rows.take(everything[::-1]), 1)


def test_full_disk_is_an_error_and_no_signal(tmp_path):
    """Rows are written, not mapped. The limit of the file size stands in for a full disk."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**16, before[1]))
    try:
        writer = ArrayWriter(tmp_path / "h.npy", (64,), np.float32)
        with writer, pytest.raises(RcdmError, match="Could not write"):
            writer.append(np.ones((1000, 64), np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
