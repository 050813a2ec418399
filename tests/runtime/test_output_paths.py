"""Outputs are checked before any work is done."""

import os
from pathlib import Path

import pytest

from samus_edge.errors import OutputFileError
from samus_edge.runtime.output_paths import check_output_paths


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
