"""Outputs are checked before any work is done."""

import os
import stat
from pathlib import Path

import pytest

from samus_edge.errors import OutputFileError
from samus_edge.runtime.images.output_files import check_output_paths, write_files_atomically


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An input image."""
    path = tmp_path / "image.png"
    path.write_bytes(b"an image")
    return path


def test_good_paths_pass(image: Path) -> None:
    folder = image.parent
    check_output_paths(image, None, None)
    for overlay in ("o.png", "o.jpg", "o.JPEG"):
        check_output_paths(image, folder / "mask.PNG", folder / overlay)


@pytest.mark.parametrize("name", ["m.jpg", "m.tiff", "m", "m.png.txt", ".png"])
def test_a_mask_is_a_png(image: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"the mask must be a file ending in \.png, got /"):
        check_output_paths(image, image.parent / name, None)


@pytest.mark.parametrize("name", ["o.bmp", "o.webp", "o"])
def test_an_overlay_is_a_png_or_a_jpeg(image: Path, name: str) -> None:
    message = r"the overlay must be a file ending in \.png or \.jpg or \.jpeg, got"
    with pytest.raises(ValueError, match=message):
        check_output_paths(image, None, image.parent / name)


@pytest.mark.parametrize(
    "spelling", ["image.png", "folder/../image.png", "symlink.png", "hard.png"]
)
def test_the_input_is_never_overwritten(image: Path, spelling: str) -> None:
    (image.parent / "folder").mkdir()
    (image.parent / "symlink.png").symlink_to(image)
    os.link(image, image.parent / "hard.png")
    with pytest.raises(ValueError, match=r"would overwrite the input image .*image\.png"):
        check_output_paths(image, image.parent / spelling, None)
    with pytest.raises(ValueError, match=r"would overwrite the input image .*image\.png"):
        check_output_paths(image, None, image.parent / spelling)


def test_mask_and_overlay_are_two_files(image: Path) -> None:
    with pytest.raises(ValueError, match="mask and overlay are the same file"):
        check_output_paths(image, image.parent / "x.png", image.parent / "." / "x.png")


def test_a_missing_folder_is_named(image: Path) -> None:
    with pytest.raises(OutputFileError, match=r"nowhere/m\.png is in a folder that does not exist"):
        check_output_paths(image, image.parent / "nowhere" / "m.png", None)


def test_a_folder_is_no_file(image: Path) -> None:
    (image.parent / "m.png").mkdir()
    with pytest.raises(OutputFileError, match=r"m\.png is a folder"):
        check_output_paths(image, image.parent / "m.png", None)


def test_a_folder_without_permission_is_named(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # tests may run as root, who may
    with pytest.raises(OutputFileError, match="in a folder that you may not write to"):
        check_output_paths(image, image.parent / "m.png", None)


def test_files_are_written(tmp_path: Path) -> None:
    first, second = tmp_path / "a.png", tmp_path / "b.json"
    write_files_atomically({first: b"one", second: b""})
    assert (first.read_bytes(), second.read_bytes()) == (b"one", b"")
    assert sorted(tmp_path.iterdir()) == [first, second]


def test_nothing_to_write_is_fine() -> None:
    write_files_atomically({})


def test_an_existing_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"old and longer")
    write_files_atomically({path: b"new"})
    assert path.read_bytes() == b"new"


def test_the_umask_decides_who_may_read(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    before = os.umask(0o027)
    try:
        write_files_atomically({path: b"x"})
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target.png", tmp_path / "link.png"
    target.write_bytes(b"old")
    link.symlink_to(target)
    write_files_atomically({link: b"new"})
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_a_failure_leaves_everything_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    kept, new = tmp_path / "kept.png", tmp_path / "new.png"
    kept.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    if failing == "write":
        real = os.open

        def open_or_fail(path: str, flags: int, mode: int = 0o777) -> int:
            if any(tmp_path.glob(".*")):  # the first is staged, the second fails
                fail()
            return real(path, flags, mode)

        monkeypatch.setattr(os, "open", open_or_fail)
    else:
        monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OutputFileError, match=r"\.png cannot be written \(No space left on dev"):
        write_files_atomically({kept: b"changed", new: b"x"})
    assert kept.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [kept]


def test_an_interruption_leaves_no_temporary_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_files_atomically({tmp_path / "a.png": b"x"})
    assert [*tmp_path.iterdir()] == []


def test_content_is_on_the_disk_before_it_has_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        calls.append("fsync")
        real_fsync(descriptor)

    def replace(source: Path, target: Path) -> None:
        calls.append("replace")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    write_files_atomically({tmp_path / "a": b"1", tmp_path / "b": b"2"})
    assert calls == ["fsync", "fsync", "replace", "replace", "fsync"]  # the last is the folder's


@pytest.mark.parametrize("name", ["missing/a.png", "file/a.png", "."])
def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / name
    with pytest.raises(OutputFileError, match="cannot be written") as caught:
        write_files_atomically({path: b"x"})
    assert str(path) in str(caught.value)
    assert [*tmp_path.iterdir()] == [tmp_path / "file"]
