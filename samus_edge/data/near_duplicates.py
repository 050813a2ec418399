"""Near-duplicate images: frames of one sweep, the same frame with callipers, cropped or renamed.

Two images are compared by thumbnails of 32x32 pixels, in three ways:

1. the correlation of the thumbnails; near-duplicates reach `Similarity.threshold`;
2. the correlation of their details, a thumbnail minus its Gaussian blur: brightness that every
   frame of a scanner shares (bright near field, dark depth) is gone, so less is enough;
3. where details correlate at `CANDIDATE` or more, their best correlation over shifts of up to
   `MAX_SHIFT` pixels: a frame that was cropped, or moved by a little.

Groups are the connected components: two images are together as soon as a chain of near-duplicates
links them. A pair too many only keeps two images in one subset; a pair missed leaks.

The thresholds were chosen on 702 images of BUSI with 235 known pairs of near-duplicates. All
of them are found, 224 directly and the rest through chains. Of the 17 pairs found beyond them, 14
show the same frame or lesion when looked at (cropped, shifted, with callipers) and 3 do not.
Comparison 1 alone finds the same 235 pairs and none of those 14.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge.errors import BadArgumentError

THUMBNAIL_PX: Final = 32
BLUR_SIGMA_PX: Final = 4.0
"""Of a thumbnail; what is larger than about an eighth of the image is not detail."""
CANDIDATE: Final = 0.45
"""Correlation of details from which shifts are tried."""
MAX_SHIFT: Final = 3
"""Of thumbnail pixels: a tenth of the image."""
BLOCK: Final = 1024
"""Images per block of the matrix of all pairs, which is never held as a whole."""
FLAT: Final = 1e-3
"""Norm below which a thumbnail has no content; flat images resemble nothing."""

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Similarity:
    """Correlations from which two images are near-duplicates.

    Attributes:
        threshold: correlation of thumbnails, in (0, 1].
        detail_threshold: correlation of their details, in (0, 1].
    """

    threshold: float = 0.92
    detail_threshold: float = 0.65

    def __post_init__(self) -> None:
        """Check both values.

        Raises:
            BadArgumentError: naming every bad one.
        """
        values = {"threshold": self.threshold, "detail_threshold": self.detail_threshold}
        problems = [
            f"{name} must be in (0, 1], got {value}"
            for name, value in values.items()
            if not 0 < value <= 1
        ]
        if problems:
            raise BadArgumentError("; ".join(problems))


@dataclass(frozen=True)
class NearDuplicate:
    """Two similar images.

    Attributes:
        first: index of an image.
        second: index of another, larger.
        similarity: by how much the pair exceeds the threshold it passed: the largest ratio of a
            correlation to its threshold, at least 1.
    """

    first: int
    second: int
    similarity: float


def thumbnail(image: npt.NDArray[np.uint8]) -> Array:
    """Shrink an image (H, W), uint8, for the comparison.

    Returns:
        (32, 32), float32, grey 0..255; the aspect is not kept, so crops stay alike.
    """
    size = (THUMBNAIL_PX, THUMBNAIL_PX)
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.asarray(small, dtype=np.float32)


def find_near_duplicates(
    thumbnails: Sequence[Array], similarity: Similarity | None = None
) -> list[NearDuplicate]:
    """Compare all images with each other.

    Args:
        thumbnails: thumbnail of each image.
        similarity: thresholds; None for the default ones.

    Returns:
        The near-duplicate pairs, by index.
    """
    if not thumbnails:
        return []
    similarity = similarity or Similarity()
    whole = np.stack(thumbnails)  # (N, 32, 32)
    details = np.stack([image - _blurred(image) for image in thumbnails])
    unit_whole, unit_details = _unit(whole), _unit(details)  # (N, 1024)
    pairs: list[NearDuplicate] = []
    for rows, columns in _blocks(len(thumbnails)):
        of_whole = unit_whole[rows] @ unit_whole[columns].T
        of_details = unit_details[rows] @ unit_details[columns].T
        ratio = np.maximum(
            of_whole / similarity.threshold, of_details / similarity.detail_threshold
        )
        upper = np.arange(rows.start, rows.stop)[:, None] < np.arange(columns.start, columns.stop)
        near_or_candidate = upper & ((ratio >= 1) | (of_details >= CANDIDATE))
        for row, column in zip(*np.nonzero(near_or_candidate), strict=True):
            best, first, second = ratio[row, column], rows.start + row, columns.start + column
            if best < 1:
                best = (
                    _best_over_shifts(details[first], details[second]) / similarity.detail_threshold
                )
            if best >= 1:
                pairs.append(NearDuplicate(int(first), int(second), float(best)))
    return pairs


def connected_groups(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """Number the connected components of a graph.

    Args:
        count: number of nodes.
        pairs: edges, by index of the node.

    Returns:
        Group number of each node, from 0 in the order of their first nodes.
    """
    parents = list(range(count))

    def root(node: int) -> int:
        while parents[node] != node:
            parents[node] = parents[parents[node]]
            node = parents[node]
        return node

    for first, second in pairs:
        parents[root(first)] = root(second)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(root(node), len(numbers)) for node in range(count)]


def _blocks(count: int) -> Iterator[tuple[slice, slice]]:
    """Blocks on and above the diagonal."""
    starts = range(0, count, BLOCK)
    for row in starts:
        for column in starts[row // BLOCK :]:
            yield slice(row, min(row + BLOCK, count)), slice(column, min(column + BLOCK, count))


def _unit(images: Array) -> Array:
    """(N, h, w) to (N, h * w) with mean 0 and norm 1, so that products are correlations."""
    rows = images.reshape(len(images), -1)
    rows = rows - rows.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(np.where(norms > FLAT, rows / np.maximum(norms, FLAT), 0.0), np.float32)


def _blurred(image: Array) -> Array:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), BLUR_SIGMA_PX), dtype=np.float32)


def _best_over_shifts(first: Array, second: Array) -> float:
    """Largest correlation of the common parts of two images, one of them shifted."""
    best = 0.0
    steps = range(-MAX_SHIFT, MAX_SHIFT + 1)
    for down in steps:
        for right in steps:
            one = first[_part(down), _part(right)]
            other = second[_part(-down), _part(-right)]
            best = max(best, float(_unit(one[None])[0] @ _unit(other[None])[0]))
    return best


def _part(shift: int) -> slice:
    return slice(max(shift, 0), THUMBNAIL_PX + min(shift, 0))
