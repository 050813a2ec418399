"""BUSI, the breast ultrasound dataset, in its original folder layout.

```
Dataset_BUSI_with_GT/
    benign/benign (1).png            the image
    benign/benign (1)_mask.png       the first lesion
    benign/benign (1)_mask_1.png     further lesions, if any
    malignant/...
    normal/...                       images without a lesion, with empty masks
```

Facts the reader handles: a few images are stored in colour because of coloured callipers, two masks
are RGBA with an opaque alpha channel, the masks of normal images are black RGB images.

Source:
    W. Al-Dhabyani, M. Gomaa, H. Khaled, A. Fahmy, "Dataset of breast ultrasound images",
    Data in Brief 28 (2020) 104863.
"""

import re
from pathlib import Path
from typing import Final

from samus_edge.data.case import UltrasoundCase, natural_order
from samus_edge.data.listing import DatasetListing

__all__ = ["is_busi", "scan_busi"]

_MASK_NAME: Final = re.compile(r"(?P<stem>.+)_mask(?:_(?P<index>\d+))?")


def is_busi(root: Path) -> bool:
    """Whether a folder has subfolders with masks named as BUSI's."""
    return any(_MASK_NAME.fullmatch(path.stem) for path in root.glob("*/*.png"))


def scan_busi(root: Path) -> DatasetListing:
    """List the cases of a folder, keys such as ``"benign/benign (104)"``, numbers by value.

    Args:
        root: the folder that contains ``benign``, ``malignant`` and ``normal``, or other classes.

    Returns:
        The listing. An image without a mask file and a mask file without an image are broken.
    """
    images: dict[str, Path] = {}
    masks: dict[str, list[tuple[int, Path]]] = {}
    for path in root.glob("*/*.png"):
        match = _MASK_NAME.fullmatch(path.stem)
        if match is None:
            images[f"{path.parent.name}/{path.stem}"] = path
        else:
            index = int(match["index"] or 0)
            masks.setdefault(f"{path.parent.name}/{match['stem']}", []).append((index, path))
    cases: dict[str, UltrasoundCase] = {}
    broken: dict[str, str] = {}
    for key in sorted({*images, *masks}, key=natural_order):
        if key not in images:
            broken[key] = f"no image for '{key}' (expected {root / key}.png)"
        elif key not in masks:
            broken[key] = f"no mask for '{key}' (expected {root / key}_mask.png)"
        else:
            paths = tuple(path for _, path in sorted(masks[key]))
            cases[key] = UltrasoundCase(key, images[key], paths)
    return DatasetListing(root, "busi", cases, broken)
