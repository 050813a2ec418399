"""Masks as outlines and as run lengths, without loss, and back: what exchange formats hold.

Two frames of coordinates are in use. Here, as everywhere in samus-edge, (0, 0) is the centre of the
upper left pixel. COCO, YOLO and LabelMe put it at that pixel's upper left corner, so their
coordinates are larger by `CORNER`, which only their readers and writers add and take away.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from samus_edge.errors import BadArgumentError, missing_extra
from samus_edge.runtime.measurement.lesion_measurements import box_around

CORNER: Final = 0.5
"""From the centre of a pixel to its lower right corner, in x and in y."""

Polygon = npt.NDArray[np.float64]


def outlines(mask: npt.NDArray[np.bool_]) -> list[Polygon]:
    """The outlines of a mask along the edges of its pixels, so that they hold exactly its pixels.

    Args:
        mask: (H, W), bool.

    Returns:
        One (P, 2), float64, for each part and each hole: corners (x, y), pixels of the image, half
        way between pixel centres; parts and holes turn in opposite directions. A pixel is inside
        the mask if it is inside an odd number of them.
    """
    import cv2

    box = box_around(mask)
    if box is None:
        return []
    x1, y1, x2, y2 = box
    part = mask[y1 : y2 + 1, x1 : x2 + 1].astype(np.uint8)
    # On a grid of half pixels the border pixels of a part tell on which side of theirs the edge is.
    doubled = np.repeat(np.repeat(part, 2, axis=0), 2, axis=1)
    contours, _ = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    found = []
    for contour in contours:
        edge = (contour[:, 0] + 1) // 2  # (P, 2)
        edge = edge[(edge != np.roll(edge, 1, axis=0)).any(axis=1)]
        before, after = edge - np.roll(edge, 1, axis=0), np.roll(edge, -1, axis=0) - edge
        is_corner = before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]
        found.append(edge[is_corner] + (x1 - CORNER, y1 - CORNER))
    return found


def has_hole(polygons: Sequence[Polygon]) -> bool:
    """Whether one of a mask's outlines turns as those of holes do."""
    return any(
        (x * np.roll(y, -1) - y * np.roll(x, -1)).sum() > 0 for x, y in (p.T for p in polygons)
    )


def joined(polygons: Sequence[Polygon]) -> Polygon:
    """One polygon of several outlines, joined by lines there and back, which have no area."""
    start = polygons[0][:1]
    return np.concatenate([part for each in polygons for part in (each, each[:1], start)])


def fill_polygons(
    polygons: Sequence[Polygon], original_hw: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """The pixels inside any of some polygons, by COCO's rule, which takes a fifth of a pixel.

    Args:
        polygons: (P, 2) each, pixels of the image; inside is what is inside an odd number of times.
        original_hw: (H, W) of the image, pixels.

    Returns:
        (H, W), bool.

    Raises:
        BadArgumentError: if one has fewer than three corners, or some far outside the image.
        MissingExtraError: without pycocotools.
    """
    try:
        from pycocotools import mask as coco_masks
    except ModuleNotFoundError as err:
        raise missing_extra("a mask from a polygon", "pycocotools") from err
    for polygon in polygons:
        if len(polygon) < 3:
            raise BadArgumentError(f"a polygon has three corners or more, got {len(polygon)}.")
        # pycocotools walks along every edge, and crashes where that is too long.
        if not (np.abs(polygon) <= 2 * max(original_hw)).all():
            raise BadArgumentError(
                f"a polygon has corners far outside the image of {original_hw[1]} x "
                f"{original_hw[0]} pixels. Give its corners in pixels of the image."
            )
    rings = [(polygon + CORNER).ravel().tolist() for polygon in polygons]
    united = coco_masks.merge(coco_masks.frPyObjects(rings, *original_hw))
    return mask_from_rle(united["counts"].decode("ascii"), original_hw)


def run_lengths(mask: npt.NDArray[np.bool_]) -> list[int]:
    """COCO's run lengths of a mask, (H, W): column by column, the first run is of background."""
    pixels = mask.ravel(order="F")
    ends = np.flatnonzero(pixels[1:] != pixels[:-1]) + 1
    runs: list[int] = np.diff([0, *ends, pixels.size]).tolist()
    return [0, *runs] if pixels[0] else runs


def rle(mask: npt.NDArray[np.bool_]) -> dict[str, Any]:
    """A mask as COCO's compressed run lengths, ready for JSON: `{"size": [H, W], "counts": text}`.

    Args:
        mask: (H, W), bool.

    Source: rleEncode and rleToString of pycocotools' maskApi.c, which gives the same text.
    """
    counts = run_lengths(mask)
    text = []
    for index, count in enumerate(counts):
        value = count - counts[index - 2] if index > 2 else count
        while True:  # five bits at a time, the lowest first; the sixth says that more follow
            bits, value = value & 31, value >> 5
            more = value != (-1 if bits & 16 else 0)
            text.append(chr(48 + bits + 32 * more))
            if not more:
                break
    return {"size": list(mask.shape), "counts": "".join(text)}


def mask_from_rle(
    counts: str | Sequence[int], original_hw: tuple[int, int]
) -> npt.NDArray[np.bool_]:
    """The (H, W) mask of COCO's run lengths, compressed (a text) or not.

    pycocotools does not check that compressed ones reach the end of the image.

    Raises:
        BadArgumentError: if they do not fit the size of the image.
    """
    runs = _uncompressed(counts) if isinstance(counts, str) else list(counts)
    height, width = original_hw
    if min(runs, default=0) < 0 or sum(runs) != height * width:
        raise BadArgumentError(
            f"run lengths of an image of {width} x {height} pixels must be positive and add up to "
            f"{height * width}, got {sum(runs)}."
        )
    pixels = np.repeat(np.arange(len(runs)) % 2 == 1, runs)  # (W * H,), column by column
    return np.asarray(pixels.reshape(width, height).T, np.bool_)


def _uncompressed(text: str) -> list[int]:
    runs: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << (shift - 4)
            runs.append(value + runs[-2] if len(runs) > 2 else value)
            value = shift = 0
    return runs


def coco_shape(mask: npt.NDArray[np.bool_], as_polygons: bool = False) -> dict[str, Any] | None:
    """What of a COCO annotation says where it is, as `pycocotools` computes it.

    Args:
        mask: (H, W), bool.
        as_polygons: Polygons unless the mask has a hole, which they cannot have; else run lengths.

    Returns:
        `segmentation`, `area`, `bbox` and `iscrowd`; None for an empty mask.
    """
    box = box_around(mask)
    if box is None:
        return None
    polygons = outlines(mask) if as_polygons else []
    x1, y1, x2, y2 = box
    return {
        "segmentation": [(each + CORNER).ravel().tolist() for each in polygons]
        if polygons and not has_hole(polygons)
        else rle(mask),
        "area": int(np.count_nonzero(mask)),
        "bbox": [x1, y1, x2 - x1 + 1, y2 - y1 + 1],
        "iscrowd": 0,
    }
