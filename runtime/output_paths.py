"""Checks of where results are to be written, made before any work."""

import os
from pathlib import Path

from samus_edge.errors import OutputFileError

__all__ = [
    "DICOM_SUFFIXES",
    "MASK_SUFFIXES",
    "OVERLAY_SUFFIXES",
    "check_output",
    "check_output_paths",
]

# A mask is exact; JPEG would smear its edges.
MASK_SUFFIXES = (".png",)
OVERLAY_SUFFIXES = (".png", ".jpg", ".jpeg")
DICOM_SUFFIXES = (".dcm",)


def check_output_paths(
    image: Path,
    mask: Path | None = None,
    overlay: Path | None = None,
    dicom_seg: Path | None = None,
    dicom_sr: Path | None = None,
) -> None:
    """Refuse output paths that could not be written, or that would overwrite the input.

    Args:
        image: the input image.
        mask: where the mask goes; None if nowhere.
        overlay: where the overlay goes; None if nowhere.
        dicom_seg: where the DICOM segmentation goes; None if nowhere.
        dicom_sr: where the DICOM report goes; None if nowhere.

    Raises:
        ValueError: if a suffix is not of a supported format, or two of the paths are one file.
        OutputFileError: if a path is a folder, or its folder is missing or not writable.
    """
    outputs = (
        ("mask", mask, MASK_SUFFIXES),
        ("overlay", overlay, OVERLAY_SUFFIXES),
        ("DICOM segmentation", dicom_seg, DICOM_SUFFIXES),
        ("DICOM report", dicom_sr, DICOM_SUFFIXES),
    )
    given: list[tuple[str, Path]] = []
    for kind, path, suffixes in outputs:
        if path is None:
            continue
        check_output(path, kind, suffixes, image)
        for other_kind, other in given:
            if _is_same_file(other, path):
                raise ValueError(
                    f"{other_kind} and {kind} are the same file, {path}. Give two different files."
                )
        given.append((kind, path))


def check_output(path: Path, kind: str, suffixes: tuple[str, ...], image: Path) -> None:
    """Refuse one output path.

    Args:
        path: where something goes.
        kind: what, for messages.
        suffixes: one of which it must have.
        image: the input.

    Raises:
        ValueError, OutputFileError: as `check_output_paths`.
    """
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
