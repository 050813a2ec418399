"""Statistics on disk."""

from pathlib import Path

import numpy as np
import pytest

from samus_edge.calibration.activation_statistics import BINS, TensorStatistics
from samus_edge.calibration.statistics_cache import read_statistics, write_statistics
from samus_edge.errors import DataError, OutputFileError


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = tmp_path / "ranges.npz"
    write_statistics(
        path,
        "key",
        {
            "a": TensorStatistics(-0.1, 1 / 3, np.arange(BINS)),
            "b/MatMul": TensorStatistics(0.0, 7.0, np.ones(BINS, np.int64)),
        },
    )
    return path


def test_what_was_written_is_read(cache: Path) -> None:
    found = read_statistics(cache, "key", ["b/MatMul", "a"])
    assert found is not None
    assert list(found) == ["b/MatMul", "a"]
    assert (found["a"].minimum, found["a"].maximum) == (-0.1, 1 / 3)
    np.testing.assert_array_equal(found["a"].counts, np.arange(BINS))
    np.testing.assert_array_equal(found["b/MatMul"].counts, np.ones(BINS))


def test_another_key_a_missing_tensor_and_no_file_are_no_statistics(cache: Path) -> None:
    assert read_statistics(cache, "other", ["a"]) is None
    assert read_statistics(cache, "key", ["a", "c"]) is None
    assert read_statistics(cache.with_name("none.npz"), "key", ["a"]) is None


def test_files_that_are_no_cache_are_named(cache: Path) -> None:
    whole = cache.read_bytes()
    array = cache.with_name("array.npy")
    np.save(array, np.zeros(3))
    other = cache.with_name("other.npz")
    np.savez(other, something=np.zeros(3))
    middle = len(whole) // 2
    changed = whole[:middle] + bytes(byte ^ 0xFF for byte in whole[middle : middle + 20])
    contents = {
        "empty": b"",
        "text": b"no cache\n",
        "cut off": whole[:-30],
        "changed": changed + whole[middle + 20 :],
        "an array": array.read_bytes(),
        "another npz": other.read_bytes(),
    }
    for name, content in contents.items():
        path = cache.with_name(f"{name}.npz")
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}\.npz is no calibration cache .*Delete it"):
            read_statistics(path, "key", ["a"])


def test_a_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no calibration cache"):
        read_statistics(tmp_path, "key", ["a"])
    with pytest.raises(OutputFileError, match="cannot be written"):
        write_statistics(tmp_path / "nowhere" / "x.npz", "key", {})
