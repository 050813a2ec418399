"""What a teacher said, kept on disk."""

from pathlib import Path

import numpy as np
import pytest
import torch

from samus_edge.errors import OutputFileError
from samus_edge.training.teacher_cache import TeacherCache, fingerprint_of


def test_tensors_come_back_and_belong_to_their_fingerprint(tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path / "new" / "views")
    assert not cache.holds(3, "a")
    one, other = torch.arange(6, dtype=torch.uint8).view(2, 3), torch.randn(4).half()
    cache.write(3, "a", {"one": one, "other": other})
    assert cache.holds(3, "a")
    assert not cache.holds(3, "b") and not cache.holds(2, "a")
    assert torch.equal(cache.read(3, "one"), one) and torch.equal(cache.read(3, "other"), other)
    cache.write(3, "b", {"one": one + 1})
    assert cache.holds(3, "b") and not cache.holds(3, "a")
    assert torch.equal(cache.read(3, "one"), one + 1)


@pytest.mark.parametrize("content", [b"", b"{}", b"\x00" * 100])
def test_a_damaged_file_is_as_good_as_none(content: bytes, tmp_path: Path) -> None:
    cache = TeacherCache(tmp_path)
    cache.path(0).write_bytes(content)
    assert not cache.holds(0, "a")
    cache.write(0, "a", {"one": torch.zeros(1)})
    cache.path(0).write_bytes(cache.path(0).read_bytes()[:-1])  # cut short
    assert not cache.holds(0, "a")


def test_a_fingerprint_tells_settings_and_arrays_apart() -> None:
    array = np.arange(6, dtype=np.uint8)
    variants = [
        fingerprint_of({"a": 1, "b": 2}, array),
        fingerprint_of({"a": 1, "b": 3}, array),
        fingerprint_of({"a": 1}, array),
        fingerprint_of({"a": 1, "b": 2}, array[::-1]),
        fingerprint_of({"a": 1, "b": 2}, array.reshape(2, 3)),
        fingerprint_of({"a": 1, "b": 2}, array.view(np.int8)),
        fingerprint_of({"a": 1, "b": 2}, array, array),
    ]
    assert len(set(variants)) == len(variants)
    assert fingerprint_of({"b": 2, "a": 1}, array.copy()) == variants[0]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputFileError, match=r"file/views cannot be created"):
        TeacherCache(tmp_path / "file" / "views")
