"""A finished folder takes its place whole, and what was there is not lost."""

from pathlib import Path

import pytest

from samus_edge.export import folder_replacement
from samus_edge.export.folder_replacement import put_in_place


def folder_with(path: Path, content: str) -> Path:
    """A folder that holds one file."""
    path.mkdir(parents=True)
    (path / "file").write_text(content)
    return path


@pytest.mark.parametrize("can_exchange", [True, False])
def test_the_new_takes_the_place_of_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, can_exchange: bool
) -> None:
    if not can_exchange:
        monkeypatch.setattr(folder_replacement, "_exchange", lambda first, second: False)
    draft = folder_with(tmp_path / "drafts" / "draft", "new")
    folder = folder_with(tmp_path / "place", "old")
    put_in_place(draft, folder)
    assert (folder / "file").read_text() == "new"
    (left,) = (tmp_path / "drafts").iterdir()
    assert (left / "file").read_text() == "old"


def test_a_place_that_is_free_is_taken(tmp_path: Path) -> None:
    draft = folder_with(tmp_path / "drafts" / "draft", "new")
    put_in_place(draft, tmp_path / "place")
    assert (tmp_path / "place" / "file").read_text() == "new"
    assert [*(tmp_path / "drafts").iterdir()] == []


def test_a_failure_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_replacement, "_exchange", lambda first, second: False)
    folder = folder_with(tmp_path / "place", "old")
    (tmp_path / "drafts").mkdir()
    with pytest.raises(FileNotFoundError):
        put_in_place(tmp_path / "drafts" / "missing", folder)
    assert (folder / "file").read_text() == "old"
