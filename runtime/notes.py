"""What a user should know about a result, in words for people and codes for machines."""

from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from samus_edge.runtime.prompts import PADDING_LABEL, Prompts
from samus_edge.runtime.quality import Quality

NoteLevel: TypeAlias = Literal["info", "warning"]


@dataclass(frozen=True)
class Note:
    """Something about a file, a prompt or a result that a user should know.

    Codes are stable and lower case; a released code keeps its meaning. Texts may change.

    | code | level | what |
    | --- | --- | --- |
    | `blank_frame`, `blank_box` | warning | no contrast in the frame, or in the box |
    | `normalised_coordinates` | warning | all coordinates are at most 1, but pixels are expected |
    | `mask_outside_box` | warning | most of the mask lies outside its box |
    | `empty_mask` | warning | no pixel is in the mask |
    | `click_not_obeyed` | warning | a point is on the wrong side of the mask's edge |
    | `low_quality` | warning | the mask is probably not good: it asks for a click |
    | `quality_unknown` | info | the bundle has no calibration to judge masks by |
    | `proposed` | info | nobody marked the lesion: the model suggests it |
    | `no_proposal` | info | the model found nothing to suggest, which rules nothing out |
    | `longest_axis_uncertain` | warning | the mask is too ragged to find it for certain |
    | `side_contradiction` | warning | a DICOM file says that it shows the other breast |
    | `spacing_unknown` | warning | sizes are in pixels; the text says why; info without DICOM |
    | `spacing_implausible` | warning | the size of a pixel is outside 0.005 to 2 mm |
    | `pixels_not_square` | info | sizes are in widths of a pixel, whose shape alone is known |
    | `spacing_contradiction` | warning | tags give different sizes of a pixel; which was taken |
    | `spacing_overridden` | warning | the given size of a pixel is not that of the file |
    | `cine_truncated` | warning | the file has fewer whole frames than it states |
    | `frames_left_out` | info | frames without a mask, which DICOM results leave out |
    | `several_pages` | info | an image file with pages, which are its frames |
    | `first_frame` | info | a file with several frames, of which none was named |
    | `tag_ignored` | warning | a DICOM element is missing, wrong or contradicts others |
    | `window_ignored` | info | a grey value window without an extent was passed over |
    | `header_missing` | info | a DICOM file without a preamble or file meta information |
    | `source_repaired` | warning | a non-conformant element was left out of a DICOM result |

    Attributes:
        code: for programs, such as `spacing_unknown`.
        level: "warning" if the result may be wrong or not what was meant, else "info".
        text: one sentence or two for people. It never quotes text from a DICOM file.
    """

    code: str
    level: NoteLevel
    text: str

    def to_json(self) -> dict[str, str]:
        """As a JSON object."""
        return asdict(self)


PROPOSED = Note(
    "proposed",
    "info",
    "Nobody marked a lesion: the model suggests where one may be. It misses some and marks what is "
    "none; a person has to look.",
)

GreyRange = npt.NDArray[np.uint8]
"""(2, h, w): the least and the greatest grey value of each cell of a frame."""

_CELLS = 64
_SAMPLES = 256  # rows and columns that are looked at: enough for what is blank
BLANK_RANGE = 2  # grey levels: less than the noise of any scanner
OUTSIDE_SHARE = 0.5
QUALITY_UNKNOWN = Note(
    "quality_unknown",
    "info",
    "How good masks are is not known: the bundle has no calibration. Make one from images and "
    "their masks: samus-edge calibrate --quality",
)


def grey_range(frame: npt.NDArray[np.uint8]) -> GreyRange:
    """The range of grey values in the cells of a coarse grid over a (H, W) frame."""
    steps = [max(1, side // _SAMPLES) for side in frame.shape]
    sampled = frame[:: steps[0], :: steps[1]]
    starts = [
        np.unique(np.linspace(0, side, _CELLS, endpoint=False, dtype=int)) for side in sampled.shape
    ]
    least, greatest = sampled, sampled
    for axis in (0, 1):
        least = np.minimum.reduceat(least, starts[axis], axis)
        greatest = np.maximum.reduceat(greatest, starts[axis], axis)
    return np.stack([least, greatest])


def prediction_notes(
    grey: GreyRange | None,
    prompts: Prompts,
    masks: npt.NDArray[np.bool_],
    quality: tuple[Quality, ...] | None,
) -> tuple[Note, ...]:
    """Say what a user should look at again.

    Args:
        grey: range of grey values of the frame; None if it is not known.
        prompts: N checked prompts.
        masks: (N, M, H, W), bool; alternatives (M > 1) are not judged.
        quality: What is to be expected of each of N masks; None if it is not known.
    """
    found: list[tuple[str, str]] = []
    is_blank = grey is not None and _is_blank(grey)
    if is_blank:
        found.append(("blank_frame", "The frame has no contrast: nothing is seen in it."))
    if _looks_normalised(prompts):
        height, width = prompts.original_hw
        text = (
            "All coordinates are at most 1. They are pixels of the image, x from 0 to "
            f"{width - 1} and y from 0 to {height - 1}; multiply fractions by width and height."
        )
        found.append(("normalised_coordinates", text))
    for row in range(len(prompts)):
        box = None if prompts.boxes is None else prompts.boxes[row]
        judged: list[tuple[str, str]] = []
        if grey is not None and not is_blank and box is not None:
            judged += _box_notes(grey, box, prompts.original_hw)
        if masks.shape[1] == 1:
            judged += _mask_notes(masks[row, 0], box, None if quality is None else quality[row])
            judged += _click_notes(masks[row, 0], prompts, row)
        which = "" if len(prompts) == 1 else f"Prompt {row}: "
        found += [(code, which + text) for code, text in judged]
    notes = tuple(Note(code, "warning", text) for code, text in found)
    if quality is None and masks.shape[1] == 1:
        return (*notes, QUALITY_UNKNOWN)
    return notes


def _box_notes(
    grey: GreyRange, box: npt.NDArray[np.float32], original_hw: tuple[int, int]
) -> list[tuple[str, str]]:
    """Whether the cells that lie wholly in a box have no contrast."""
    rows, columns = grey.shape[1:]
    height, width = original_hw
    x1, y1, x2, y2 = (box + 0.5) * np.array([columns / width, rows / height] * 2)
    inside = grey[:, int(np.ceil(y1)) : int(y2), int(np.ceil(x1)) : int(x2)]
    if inside.size == 0 or not _is_blank(inside):
        return []
    return [("blank_box", "The image has no contrast inside the box.")]


def _mask_notes(
    mask: npt.NDArray[np.bool_], box: npt.NDArray[np.float32] | None, quality: Quality | None
) -> list[tuple[str, str]]:
    area = int(np.count_nonzero(mask))
    if area == 0:
        return [("empty_mask", "The mask is empty: no lesion was found there.")]
    notes = []
    if quality is not None and quality.state == "ask for a click":
        text = (
            f"The mask is probably not good (it is with a probability of {quality.probability:.2f})"
            ". Look at it, and correct it with a click or a tighter box."
        )
        notes.append(("low_quality", text))
    outside = 0.0 if box is None else 1 - _area_in(mask, box) / area
    if outside > OUTSIDE_SHARE:
        text = (
            f"{100 * outside:.0f} % of the mask lie outside its box. A box is its corners x1, y1, "
            "x2, y2, not x, y, width, height."
        )
        notes.append(("mask_outside_box", text))
    return notes


def _click_notes(mask: npt.NDArray[np.bool_], prompts: Prompts, row: int) -> list[tuple[str, str]]:
    """Whether a click is on its side: two with different labels may be too near to one another."""
    labels = prompts.point_labels[row]
    clicks = labels != PADDING_LABEL
    last = np.array(mask.shape[::-1]) - 1
    columns, rows = np.minimum(np.floor(prompts.point_coords[row] + 0.5), last).astype(int).T
    count = int(np.count_nonzero((mask[rows, columns] != (labels == 1))[clicks]))
    if count == 0:
        return []
    text = (
        f"The mask is on the wrong side of {count} of its points: points with different labels are "
        "too near to one another. Move them apart."
    )
    return [("click_not_obeyed", text)]


def _is_blank(grey: GreyRange) -> bool:
    return int(grey[1].max()) - int(grey[0].min()) <= BLANK_RANGE


def _looks_normalised(prompts: Prompts) -> bool:
    points = prompts.point_coords[prompts.point_labels != PADDING_LABEL]
    boxes = np.empty(0) if prompts.boxes is None else prompts.boxes
    values = np.concatenate([points.ravel(), boxes.ravel()])
    return bool((values <= 1).all()) and min(prompts.original_hw) > 8


def _area_in(mask: npt.NDArray[np.bool_], box: npt.NDArray[np.float32]) -> int:
    """Pixels of a mask whose centres are in a box."""
    x1, y1, x2, y2 = box
    first_x, first_y = (max(0, int(np.ceil(value))) for value in (x1, y1))
    return int(np.count_nonzero(mask[first_y : int(y2) + 1, first_x : int(x2) + 1]))
