"""A plain folder of images and a folder of masks with the same names.

```
my_dataset/
    images/case_7.png                the image: PNG, JPEG, BMP or TIFF
    masks/case_7.png                 the first lesion, same name, any of these formats
    masks/case_7_1.png               further lesions, if any
```

Images may lie in one level of class folders, ``images/benign/...`` with ``masks/benign/...``. The
images of a class folder called ``normal`` show no lesion and need no mask.

A mask file belongs to the image of its own name; only if there is none, its ending ``_1``, ``_2``
... is taken for the number of a further lesion.
"""

import re
from pathlib import Path
from typing import Final

from samus_edge.data.case import NORMAL_CLASS, UltrasoundCase, natural_order
from samus_edge.data.listing import DatasetListing

__all__ = ["IMAGE_SUFFIXES", "is_image_mask_folders", "scan_image_mask_folders"]

IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
"""Endings, in lower case, of the files that are looked at."""

_IMAGES, _MASKS = "images", "masks"
_FURTHER: Final = re.compile(r"(?P<stem>.+)_(?P<index>\d+)")


def is_image_mask_folders(root: Path) -> bool:
    """Whether a folder has the subfolders ``images`` and ``masks``."""
    return (root / _IMAGES).is_dir() and (root / _MASKS).is_dir()


def scan_image_mask_folders(root: Path) -> DatasetListing:
    """List the cases of a folder, keys such as ``"case_7"`` or ``"benign/case_7"``.

    Args:
        root: the folder that contains ``images`` and ``masks``.

    Returns:
        The listing. Broken are images without a mask, masks without an image, and names that
        several files share because they differ in their format alone.
    """
    images, masks = _files(root / _IMAGES), _files(root / _MASKS)
    broken: dict[str, str] = {}
    lesions: dict[str, list[tuple[int, Path]]] = {}
    for name, paths in masks.items():
        key, index = _owner(name, images)
        if key not in images:
            broken[name] = f"no image for the mask {paths[0]} (expected {root / _IMAGES / key}.png)"
        elif len(paths) > 1:
            broken[key] = _several("masks", paths)
        else:
            lesions.setdefault(key, []).append((index, paths[0]))
    cases: dict[str, UltrasoundCase] = {}
    for key in sorted(images, key=natural_order):
        paths = images[key]
        is_normal = key.rpartition("/")[0] == NORMAL_CLASS
        if len(paths) > 1:
            broken[key] = _several("images", paths)
        elif key not in lesions and key not in broken and not is_normal:
            broken[key] = f"no mask for '{key}' (expected {root / _MASKS / key}.png)"
        if key not in broken:
            found = tuple(path for _, path in sorted(lesions.get(key, [])))
            cases[key] = UltrasoundCase(key, paths[0], found)
    missing_text = f"no image for '{{key}}' (expected {{root}}/{_IMAGES}/{{key}}.png)"
    return DatasetListing(root, "folders", cases, broken, missing_text=missing_text)


def _owner(name: str, images: dict[str, list[Path]]) -> tuple[str, int]:
    """Key of the image that a mask belongs to, and the number of the lesion."""
    match = _FURTHER.fullmatch(name)
    if name in images or match is None or match["stem"] not in images:
        return name, 0
    return match["stem"], int(match["index"])


def _files(folder: Path) -> dict[str, list[Path]]:
    """Image files of a folder and its subfolders by their path without ending; hidden ones not."""
    found: dict[str, list[Path]] = {}
    for pattern in ("*", "*/*"):
        for path in sorted(folder.glob(pattern)):
            relative = path.relative_to(folder)
            hidden = any(part.startswith(".") for part in relative.parts)
            if not hidden and path.suffix.lower() in IMAGE_SUFFIXES and path.is_file():
                found.setdefault(relative.with_suffix("").as_posix(), []).append(path)
    return found


def _several(kind: str, paths: list[Path]) -> str:
    return f"several {kind} of one name: {', '.join(map(str, paths))} (keep one of them)"
