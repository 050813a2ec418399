"""The callipers of a lesion: the longest straight line inside it, and the longest across that.

The lesion's edge is where its mask, interpolated between the centres of pixels, is a half: a bar of
w pixels is w long. A line is inside where the interpolated mask is at least a quarter all along it,
at steps of a quarter of a pixel: it may graze the edge by a quarter of a pixel, and is nowhere more
than half a pixel from the lesion's pixels. Holes are outside.

Of a lesion that is larger than 4000 pixels, all of this is of square blocks of pixels, and right to
the size of a block.

The perpendicular is the longest of lines that are at most a pixel apart, or a 512th of the axis,
and closer around the longest of them.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]
Pixels = npt.NDArray[np.uint8]
Indices = npt.NDArray[np.intp]

_LESION = np.uint8(254)
_EDGE = 127
_OUTSIDE = 60  # just under a quarter: interpolation rounds
_TOLERANCE = 1e-9

# What bounds the time of the search, whatever the mask.
_MAX_SIDE = 4000  # OpenCV has its own limit for images, 32767
_MAX_ENDS = 8_192
_MAX_CELLS = 128
_MAX_PAIRS = 2_048
_MAX_WORK = 300_000  # samples
_MAX_ACROSS = 513
_MAX_ROUNDS = 4
_NEAREST = 48

_CHUNK, _PART = 512, 8
# How far from the nearest pixel of the region a line inside and interpolation may get.
_SLACK = 2.0


@dataclass(frozen=True, eq=False)
class Callipers:
    """Two lines, each (2, 2): x and y of their ends, in pixels.

    Attributes:
        longest: the longest line inside, from the middle of a pixel's side to another one; a longer
            one that begins between two of them, if `perpendicular` comes upon it.
        perpendicular: the longest line inside that crosses it at a right angle.
        longest_at_most: a bound for every line inside from middle to middle, in the unit of the
            scale: the length of `longest`, except where the mask is so ragged that the search was
            cut short.
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
    size = -(-max(region.shape) // _MAX_SIDE)  # of blocks that are taken for pixels
    if size > 1:
        padded = np.pad(region, [(0, -length % size) for length in region.shape])
        height, width = padded.shape
        blocks = padded.reshape(height // size, size, width // size, size)
        region = np.asarray(blocks.any(axis=(1, 3)))
    scale = np.array(scale_xy) * size
    soft = region * _LESION
    hull = _hull(region)
    distances = np.linalg.norm((hull[:, None] - hull[None]) * scale, axis=2)
    first, second = np.unravel_index(int(np.argmax(distances)), distances.shape)
    longest, at_most = hull[[first, second]], float(distances[first, second])
    if _longest_of(longest[:1], longest[1:], soft, scale)[0] is None:
        longest, at_most = _search(region, soft, scale, at_most)
    for _ in range(_MAX_ROUNDS):
        across = _longest_across(longest, hull, soft, scale)
        if _length(across * scale) <= _length(longest * scale) * (1 + _TOLERANCE):
            break
        # Its ends may be between the middles of sides, so of a disc it can be longer.
        longest, across = across, longest
    at_most = max(at_most, _length(longest * scale))
    return Callipers((longest + 0.5) * size - 0.5, (across + 0.5) * size - 0.5, at_most)


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

    parts = np.linspace(0, 1, samples, dtype=np.float32)
    first, step = starts.astype(np.float32), (stops - starts).astype(np.float32)
    values = np.empty((len(starts), samples), image.dtype)
    for begin in range(0, len(starts), _CHUNK):
        some = slice(begin, begin + _CHUNK)
        x, y = (first[some, axis, None] + step[some, axis, None] * parts for axis in (0, 1))
        values[some] = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return values


def _longest_of(
    starts: Points, stops: Points, soft: Pixels, scale: Points, least: float = 0.0
) -> tuple[Points | None, float]:
    """The longest line inside of some lines, (2, 2), if one is longer than the least.

    Also the length of the longest that was not tested, if work came to its limit, else 0.
    """
    length = np.linalg.norm((stops - starts) * scale, axis=1)
    long = np.flatnonzero(length > least * (1 + _TOLERANCE))
    long = long[np.argsort(-length[long], kind="stable")]
    extents = np.abs(stops - starts).max(axis=1)
    work = 0
    for begin in range(0, len(long), _CHUNK):
        if work > _MAX_WORK:
            return None, float(length[long[begin]])
        left = long[begin : begin + _CHUNK]
        for samples in (9, 33, 129):  # enough for most lines that leave
            work += len(left) * samples
            left = left[_is_inside(starts[left], stops[left], soft, samples)]
        for part in range(0, len(left), _PART):
            some = left[part : part + _PART]
            if work > _MAX_WORK:
                return None, float(length[some[0]])
            samples = 4 * math.ceil(extents[some].max()) + 1
            work += len(some) * samples
            inside = some[_is_inside(starts[some], stops[some], soft, samples)]
            if len(inside):
                return np.stack([starts[inside[0]], stops[inside[0]]]), 0.0
    return None, 0.0


def _is_inside(starts: Points, stops: Points, soft: Pixels, samples: int) -> npt.NDArray[np.bool_]:
    return np.asarray((_sampled(starts, stops, soft, samples) > _OUTSIDE).all(axis=1))


def _search(
    region: npt.NDArray[np.bool_], soft: Pixels, scale: Points, hull_diameter: float
) -> tuple[Points, float]:
    """The longest line inside, (2, 2), and a bound for all of them.

    Branch and bound: ends are taken together by square cells. Of the pairs of cells, those whose
    lines are too short or leave the region are dropped, and those left are divided.
    """
    import cv2

    ends, code, best, is_all = _ends(region)
    at_most = 0.0 if is_all else hull_diameter

    def improve(starts: Points, stops: Points) -> float:
        nonlocal best
        found, untested = _longest_of(starts, stops, soft, scale, _length(best * scale))
        best = best if found is None else found
        return untested

    few = ends[np.linspace(0, len(ends) - 1, min(len(ends), _MAX_CELLS)).astype(np.intp)]
    first, second = np.triu_indices(len(few), 1)
    improve(few[first], few[second])
    # Right to 3 %.
    outside_by = cv2.distanceTransform((~region).astype(np.uint8), cv2.DIST_L2, 5)
    level = 0
    while np.count_nonzero(np.diff(code >> 2 * level)) >= _MAX_CELLS:
        level += 1
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
        kept = np.flatnonzero(bound > _length(best * scale) * (1 + _TOLERANCE))
        for samples in (9, 33):
            slack = 1.03 * np.maximum(reach_px[first[kept]], reach_px[second[kept]]) + _SLACK
            gaps = _sampled(points[first[kept]], points[second[kept]], outside_by, samples)
            kept = kept[gaps.max(axis=1, initial=0.0) <= slack]
            if len(kept) > _MAX_PAIRS:
                kept = kept[np.argsort(-bound[kept], kind="stable")]
                at_most = max(at_most, float(bound[kept[_MAX_PAIRS]]))
                kept = kept[:_MAX_PAIRS]
        first, second = first[kept], second[kept]
        untested = improve(points[first], points[second])
        parents, level = cells, level - 1
    at_most = max(at_most, untested)
    for _ in range(_MAX_ROUNDS):
        before = best
        if at_most <= _length(best * scale):
            break
        near = [np.argsort(np.linalg.norm(ends - end, axis=1))[:_NEAREST] for end in best]
        first, second = (index.ravel() for index in np.meshgrid(*near))
        improve(ends[first], ends[second])
        if best is before:
            break
    return best, at_most


def _ends(region: npt.NDArray[np.bool_]) -> tuple[Points, Indices, Points, bool]:
    """The middles of pixel sides at the edge, (K, 2), in z-order, and their codes.

    Also the longest run of pixels in a row, (2, 2), and whether no middle was left out.
    """
    padded = np.pad(region, 1)
    width = region.shape[1]
    across = np.flatnonzero(padded[1:-1, 1:] != padded[1:-1, :-1])
    down = np.flatnonzero(padded[1:, 1:-1] != padded[:-1, 1:-1])
    row, column = np.divmod(across[2 * np.argmax(np.diff(across)[::2]) :][:2], width + 1)
    longest_run = np.stack([column - 0.5, row], axis=1)
    step = -(-(len(across) + len(down)) // _MAX_ENDS)
    # In half pixels, from the upper left corner.
    y1, x1 = np.divmod(across[::step], width + 1)
    y2, x2 = np.divmod(down[::step], width)
    x, y = np.concatenate([2 * x1, 2 * x2 + 1]), np.concatenate([2 * y1 + 1, 2 * y2])
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
    across = turned / np.abs(turned).max()  # a step of a pixel
    # Steps from the line to what is farthest on either side.
    steps = np.linalg.solve(np.stack([along, across], axis=1), (hull - start).T)[1]
    parts = np.linspace(0, 1, min(math.ceil(np.abs(along).max()) + 1, _MAX_ACROSS))
    for fine in (2, 4, 4):  # lines all along, then more about the longest
        step = across / fine
        # No line inside is longer than the region's side, whose steps are of a pixel at least.
        above, below = (
            math.ceil(fine * min(reach, max(soft.shape))) + 1
            for reach in (-steps.min(), steps.max())
        )
        first = start + parts[0] * along - above * step
        matrix = np.stack([(parts[1] - parts[0]) * along, step, first], axis=1)
        size_wh = len(parts), above + below + 1
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        seen = np.asarray(cv2.warpAffine(soft, matrix, size_wh, flags=flags), np.uint8)
        before, after = _reach(seen[above::-1]), _reach(seen[above:])
        widest = int(np.argmax(before + after))
        middle = start + parts[widest] * along
        found = np.stack([middle - before[widest] * step, middle + after[widest] * step])
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
