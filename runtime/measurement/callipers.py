"""The callipers of a lesion: the longest straight line inside it, and the longest across that.

The lesion's edge is where its mask, interpolated between the centres of pixels, is a half: a bar of
w pixels is w long. A line is inside where the interpolated mask is a quarter all along it, at steps
of half a pixel: it may graze a corner by a quarter of a pixel, and is nowhere more than half a
pixel from the lesion's pixels. Holes are outside.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Callipers", "Points", "callipers_of"]

Points = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.intp]

_LESION = np.uint8(254)
_EDGE = 127
_OUTSIDE = 60  # just under a quarter: interpolation rounds
_TOLERANCE = 1e-9

# What bounds the time of the search, whatever the mask.
_MAX_ENDS = 16_384
_MAX_CELLS = 128
_MAX_PAIRS = 8_192
_MAX_TESTED = 128
_CHUNK = 512
# How far from the nearest pixel of the region a line inside and interpolation may get.
_SLACK = 2.0
_MAX_ACROSS = 1025
_MAX_SWAPS = 4


@dataclass(frozen=True, eq=False)
class Callipers:
    """Two lines, each (2, 2): x and y of their ends, in pixels.

    Attributes:
        longest: the longest line inside, from the middle of a pixel's side to another one.
        perpendicular: the longest line inside that crosses it at a right angle.
        longest_at_most: a bound for every line inside, in the unit of the scale: the length of
            `longest`, except where the mask is so ragged that the search was cut short.
    """

    longest: Points
    perpendicular: Points
    longest_at_most: float


def callipers_of(region: npt.NDArray[np.bool_], scale_xy: tuple[float, float]) -> Callipers:
    """Find the callipers of a region; lengths and right angles are those of the scaled image.

    Args:
        region: (H, W), one component, filling its box.
        scale_xy: size of a pixel across and down.
    """
    scale = np.array(scale_xy)
    soft = region * _LESION
    hull = _hull(region)
    distances = np.linalg.norm((hull[:, None] - hull[None]) * scale, axis=2)
    first, second = np.unravel_index(int(np.argmax(distances)), distances.shape)
    longest, at_most = hull[[first, second]], float(distances[first, second])
    if _first_inside(longest[:1], longest[1:], soft)[0] is None:
        longest, at_most = _search(region, soft, scale, at_most)
    for _ in range(_MAX_SWAPS):
        across = _longest_across(longest, hull, soft, scale)
        if _length(across * scale) <= _length(longest * scale) * (1 + _TOLERANCE):
            break
        # Its ends may be between the middles of sides, so of a disc it can be longer.
        longest, across = across, longest
    return Callipers(longest, across, max(at_most, _length(longest * scale)))


def _length(line: Points) -> float:
    return math.dist(line[0], line[1])


def _hull(region: npt.NDArray[np.bool_]) -> Points:
    """(K, 2): the convex hull of the middles of a region's outer sides."""
    import cv2

    height, width = region.shape
    rows, columns = np.flatnonzero(region.any(axis=1)), np.flatnonzero(region.any(axis=0))
    left = region[rows].argmax(axis=1) - 0.5
    right = width - 0.5 - region[rows, ::-1].argmax(axis=1)
    top = region[:, columns].argmax(axis=0) - 0.5
    bottom = height - 0.5 - region[::-1, columns].argmax(axis=0)
    x = np.concatenate([left, right, columns, columns])
    y = np.concatenate([rows, rows, top, bottom])
    corners = cv2.convexHull(np.stack([x, y], axis=1).astype(np.float32))
    return np.asarray(corners.reshape(-1, 2), np.float64)


def _sampled(
    starts: Points, stops: Points, image: npt.NDArray[Any], samples: int
) -> npt.NDArray[Any]:
    """(N, samples): an image, interpolated, along lines from end to end; 0 outside it."""
    import cv2

    if len(starts) == 0:
        return np.empty((0, samples), image.dtype)
    parts = np.linspace(0, 1, samples, dtype=np.float32)
    first, step = starts.astype(np.float32), (stops - starts).astype(np.float32)
    x, y = (first[:, axis, None] + step[:, axis, None] * parts for axis in (0, 1))
    return np.asarray(cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT))


def _first_inside(starts: Points, stops: Points, soft: Pixels) -> tuple[int | None, int]:
    """The first of some lines that is inside, and how many were tested before the limit."""
    extents = np.abs(stops - starts).max(axis=1)
    tested = 0
    for begin in range(0, len(starts), _CHUNK):
        left = np.arange(begin, min(begin + _CHUNK, len(starts)))
        for samples in (9, 33, 129):  # enough for most lines that leave
            left = left[(_sampled(starts[left], stops[left], soft, samples) > _OUTSIDE).all(axis=1)]
        for part in range(0, len(left), 16):
            some = left[part : part + 16]
            if tested >= _MAX_TESTED:
                return None, int(some[0])
            tested += len(some)
            samples = 2 * math.ceil(extents[some].max()) + 1
            values = _sampled(starts[some], stops[some], soft, samples)
            inside = np.flatnonzero((values > _OUTSIDE).all(axis=1))
            if len(inside):
                return int(some[inside[0]]), len(starts)
    return None, len(starts)


def _search(
    region: npt.NDArray[np.bool_], soft: Pixels, scale: Points, hull_diameter: float
) -> tuple[Points, float]:
    """The longest line inside, (2, 2), and a bound for all of them.

    Branch and bound: ends are taken together by square cells. Of the pairs of cells, those whose
    lines are too short or leave the region are dropped, and those left are divided.
    """
    import cv2

    ends, code, best, is_all = _ends(region)
    outside_by = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, 5)
    level = 0
    while np.count_nonzero(np.diff(code >> 2 * level)) >= _MAX_CELLS:
        level += 1
    longest, at_most = _length(best * scale), 0.0 if is_all else hull_diameter
    parents = first = second = np.zeros(1, np.intp)
    while level >= 0:
        cells = np.flatnonzero(np.diff(code >> 2 * level, prepend=-1))
        first, second = _divided(first, second, np.searchsorted(cells, parents), len(cells))
        points = ends[cells]
        offsets = ends - np.repeat(points, np.diff(cells, append=len(ends)), axis=0)
        reach_px = np.maximum.reduceat(np.linalg.norm(offsets, axis=1), cells)
        reach = np.maximum.reduceat(np.linalg.norm(offsets * scale, axis=1), cells)
        length = np.linalg.norm((points[first] - points[second]) * scale, axis=1)
        bound = length + reach[first] + reach[second]
        kept = np.flatnonzero(bound > longest * (1 + _TOLERANCE))
        if len(kept) > _MAX_PAIRS:
            kept = kept[np.argsort(-bound[kept], kind="stable")]
            at_most = max(at_most, float(bound[kept[_MAX_PAIRS]]))
            kept = kept[:_MAX_PAIRS]
        for samples in (9, 33):
            slack = np.maximum(reach_px[first[kept]], reach_px[second[kept]]) + _SLACK
            gaps = _sampled(points[first[kept]], points[second[kept]], outside_by, samples)
            kept = kept[gaps.max(axis=1, initial=0.0) <= slack]
        first, second, length = first[kept], second[kept], length[kept]
        long = np.flatnonzero(length > longest * (1 + _TOLERANCE))
        long = long[np.argsort(-length[long], kind="stable")]
        found, tested = _first_inside(points[first[long]], points[second[long]], soft)
        if found is not None:
            best = points[[first[long[found]], second[long[found]]]]
            longest = float(length[long[found]])
        elif level == 0 and tested < len(long):
            at_most = max(at_most, float(length[long[tested]]))
        parents, level = cells, level - 1
    return best, at_most


def _ends(region: npt.NDArray[np.bool_]) -> tuple[Points, Indices, Points, bool]:
    """The middles of pixel sides at the edge, (K, 2), in z-order, and their codes.

    Also the longest run of pixels in a row, (2, 2), and whether no middle was left out.
    """
    padded = np.pad(region, 1)
    across = np.argwhere(padded[1:-1, 1:] != padded[1:-1, :-1])
    down = np.argwhere(padded[1:, 1:-1] != padded[:-1, 1:-1])
    runs = across.reshape(-1, 2, 2)[:, :, ::-1] - (0.5, 0)
    longest_run = runs[np.argmax(runs[:, 1, 0] - runs[:, 0, 0])]
    # In half pixels, from the upper left corner of the frame.
    doubled = np.concatenate([across * 2 + (1, 0), down * 2 + (0, 1)])
    step = -(-len(doubled) // _MAX_ENDS)
    y, x = doubled[::step].T
    code = np.zeros(len(x), np.intp)
    for bit in range(int(max(x.max(), y.max())).bit_length()):
        code |= ((x >> bit & 1) << 2 * bit) | ((y >> bit & 1) << 2 * bit + 1)
    order = np.argsort(code)
    return np.stack([x, y], axis=1)[order] / 2 - 0.5, code[order], longest_run, step == 1


def _divided(
    first: Indices, second: Indices, starts: Indices, count: int
) -> tuple[Indices, Indices]:
    """Each pair of cells as the pairs of their parts, of which cell i's begin at `starts[i]`."""
    sizes = np.diff(starts, append=count)
    parts = sizes[first] * sizes[second]
    pair = np.repeat(np.arange(len(first)), parts)
    index = np.arange(len(pair)) - np.repeat(np.cumsum(parts) - parts, parts)
    across = sizes[second[pair]]
    one, other = starts[first[pair]] + index // across, starts[second[pair]] + index % across
    is_first = one <= other
    return one[is_first], other[is_first]


def _longest_across(longest: Points, hull: Points, soft: Pixels, scale: Points) -> Points:
    """(2, 2): the longest line inside that crosses a line at a right angle."""
    import cv2

    start, along = longest[0], longest[1] - longest[0]
    turned = along[::-1] * scale[::-1] * (-1, 1) / scale
    across = turned / (2 * np.abs(turned).max())  # a step of half a pixel
    # Steps from the line to what is farthest on either side.
    steps = np.linalg.solve(np.stack([along, across], axis=1), (hull - start).T)[1]
    above, below = math.ceil(-steps.min()) + 1, math.ceil(steps.max()) + 1
    count = min(math.ceil(np.abs(along).max()) + 1, _MAX_ACROSS)
    parts = np.linspace(0, 1, count)
    for _ in range(2):  # a line at each pixel, then more about the longest
        first, step = start + parts[0] * along, (parts[1] - parts[0]) * along
        matrix = np.stack([step, across, first - above * across], axis=1)
        size_wh = len(parts), above + below + 1
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        seen = np.asarray(cv2.warpAffine(soft, matrix, size_wh, flags=flags), np.uint8)
        before, after = _reach(seen[above::-1]), _reach(seen[above:])
        widest = int(np.argmax(before + after))
        middle = start + parts[widest] * along
        found = np.stack([middle - before[widest] * across, middle + after[widest] * across])
        parts = np.linspace(parts[max(widest - 1, 0)], parts[min(widest + 1, len(parts) - 1)], 17)
    return found


def _reach(values: Pixels) -> npt.NDArray[np.float64]:
    """(W,): steps from the first row to the last place where the edge is crossed inside."""
    is_lesion = values > _EDGE
    is_lesion &= np.logical_and.accumulate(values > _OUTSIDE, axis=0)
    last = len(values) - 1 - np.argmax(is_lesion[::-1], axis=0)
    has_any = is_lesion.any(axis=0)
    last[~has_any] = 0
    column = np.arange(values.shape[1])
    inner, outer = (values[last + next_, column].astype(np.float64) for next_ in (0, 1))
    part = (inner - _EDGE) / np.maximum(inner - outer, 1)
    return np.asarray(np.where(has_any, last + part, 0.0))
