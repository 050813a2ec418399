"""Checks of where results are to be written, made before any work."""

import os
from pathlib import Path

from samus_edge.errors import OutputFileError

__all__ = ["MASK_SUFFIXES", "OVERLAY_SUFFIXES", "check_output_paths"]

# A mask is exact; JPEG would smear its edges.
MASK_SUFFIXES = (".png",)
OVERLAY_SUFFIXES = (".png", ".jpg", ".jpeg")


def check_output_paths(image: Path, mask: Path | None, overlay: Path | None) -> None:
    """Refuse output paths that could not be written, or that would overwrite the input.

    Args:
        image: the input image.
        mask: where the mask goes; None if nowhere.
        overlay: where the overlay goes; None if nowhere.

    Raises:
        ValueError: if a suffix is not of a supported format, or two of the paths are one file.
        OutputFileError: if a path is a folder, or its folder is missing or not writable.
    """
    if mask is not None:
        _check_output(mask, "mask", MASK_SUFFIXES, image)
    if overlay is not None:
        _check_output(overlay, "overlay", OVERLAY_SUFFIXES, image)
    if mask is not None and overlay is not None and _is_same_file(mask, overlay):
        raise ValueError(f"mask and overlay are the same file, {mask}. Give two different files.")


def _check_output(path: Path, kind: str, suffixes: tuple[str, ...], image: Path) -> None:
    if path.suffix.lower() not in suffixes:
        raise ValueError(
            f"the {kind} must be a file ending in {' or '.join(suffixes)}, got {path}."
        )
    if _is_same_file(path, image):
        raise ValueError(f"the {kind} would overwrite the input image {image}. Give another file.")
    folder = Path(os.path.realpath(path)).parent
    if path.is_dir():
        raise OutputFileError(f"the {kind} {path} is a folder. Give a file in it.")
    if not folder.is_dir():
        raise OutputFileError(f"the {kind} {path} is in a folder that does not exist. Create it.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputFileError(f"the {kind} {path} is in a folder that you may not write to.")


def _is_same_file(first: Path, second: Path) -> bool:
    """Also true for links to one file, and for names that differ only where it does not matter."""
    try:
        return first.samefile(second)
    except OSError:  # one of them does not exist
        return os.path.realpath(first) == os.path.realpath(second)
