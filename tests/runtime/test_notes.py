"""What a prediction says of the frame, of the prompts and of its masks."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from samus_edge.runtime import Segmenter
from samus_edge.runtime.bundle.check_frame import load_check_frames
from samus_edge.runtime.notes import grey_range, prediction_notes
from samus_edge.runtime.prompts import check_prompts
from samus_edge.runtime.quality import Quality

NOISE = np.random.default_rng(0).integers(0, 256, (480, 640)).astype(np.uint8)


def codes(
    frame: npt.NDArray[np.uint8],
    mask: npt.NDArray[np.bool_],
    probability: float = 0.9,
    **prompts: npt.ArrayLike,
) -> list[str]:
    checked = check_prompts(frame.shape, **prompts)  # type: ignore[arg-type]  # names of the test
    quality = (Quality(probability, (0.8, 1.2), (0.9, 1.1)),)
    notes = prediction_notes(grey_range(frame), checked, mask[None, None], quality)
    assert all(note.level == "warning" and note.text.endswith(".") for note in notes)
    return [note.code for note in notes]


def box_mask(x1: int, y1: int, x2: int, y2: int) -> npt.NDArray[np.bool_]:
    mask = np.zeros(NOISE.shape, np.bool_)
    mask[y1 : y2 + 1, x1 : x2 + 1] = True
    return mask


BOX = [100, 100, 300, 300]


def test_what_is_right_has_no_notes() -> None:
    assert codes(NOISE, box_mask(*BOX), boxes=[BOX]) == []
    assert codes(NOISE, box_mask(*BOX), point_coords=[[200, 200]]) == []


@pytest.mark.parametrize("grey", [0, 128, 255])
def test_a_blank_frame_and_a_blank_box_are_told_apart(grey: int) -> None:
    blank = np.full_like(NOISE, grey)
    assert codes(blank, box_mask(*BOX), boxes=[BOX]) == ["blank_frame"]
    part = NOISE.copy()
    part[90:310, 90:310] = grey
    assert codes(part, box_mask(*BOX), boxes=[BOX]) == ["blank_box"]
    part[200, 200] = 255 - grey if grey != 128 else 0
    assert codes(part, box_mask(*BOX), boxes=[BOX]) == []


def test_coordinates_up_to_one_are_fractions() -> None:
    tiny = box_mask(0, 0, 1, 1)
    assert codes(NOISE, tiny, boxes=[[0.0, 0.0, 1.0, 1.0]]) == ["normalised_coordinates"]
    assert codes(NOISE, tiny, point_coords=[[0.4, 0.5]]) == ["normalised_coordinates"]
    assert codes(NOISE, tiny, point_coords=[[0.4, 1.4]]) == []


@pytest.mark.parametrize(("share", "expected"), [(0.4, []), (0.6, ["mask_outside_box"])])
def test_a_mask_mostly_outside_its_box(share: float, expected: list[str]) -> None:
    wide = round(100 / (1 - share))  # of which the first 100 columns are in the box
    mask = box_mask(200, 100, 200 + wide - 1, 300)
    assert codes(NOISE, mask, boxes=[[200, 100, 299, 300]]) == expected


def test_a_poor_mask_and_none() -> None:
    assert codes(NOISE, box_mask(*BOX), probability=0.49, boxes=[BOX]) == ["low_quality"]
    assert codes(NOISE, box_mask(*BOX), probability=0.51, boxes=[BOX]) == []
    assert codes(NOISE, np.zeros_like(NOISE, np.bool_), boxes=[BOX]) == ["empty_mask"]


def test_the_note_names_its_prompt() -> None:
    checked = check_prompts(NOISE.shape, boxes=[BOX, BOX])
    masks = np.stack([box_mask(*BOX), np.zeros_like(NOISE, np.bool_)])[:, None]
    note, unknown = prediction_notes(None, checked, masks, None)
    assert (unknown.code, unknown.level) == ("quality_unknown", "info")
    assert note.text.startswith("Prompt 1: ")


@pytest.mark.parametrize("hw", [(1, 1), (3, 700), (63, 65), (1201, 1601)])
def test_the_range_of_grey_values_covers_the_frame(hw: tuple[int, int]) -> None:
    frame = np.add.outer(np.arange(hw[0]), np.arange(hw[1])).astype(np.int64) % 200
    least, greatest = grey_range(frame.astype(np.uint8))
    assert least.shape == tuple(min(64, side) for side in hw)
    assert (least <= greatest).all()
    assert least.min() == frame.min()
    assert greatest.max() >= frame.max() - 8  # every fourth pixel of a large frame


def test_segment_carries_them(disc_bundle: Path) -> None:
    with Segmenter.load(disc_bundle, threads=1) as segmenter:
        black = segmenter.segment(np.zeros((200, 200), np.uint8), boxes=[[50, 50, 150, 150]])
    assert [note.code for note in black.notes] == ["blank_frame", "quality_unknown"]
    frame = load_check_frames()[1]
    with Segmenter.load(threads=1) as segmenter:
        assert segmenter.segment(frame.image, boxes=frame.box[None]).notes == ()


@pytest.mark.parametrize(("label", "expected"), [(1, []), (0, ["click_not_obeyed"])])
def test_a_click_on_the_wrong_side_is_noted(label: int, expected: list[str]) -> None:
    points = [[[200.0, 200.0], [639.4, 479.4], [0.0, 0.0]]]
    labels = [[label, 0, -1]]
    found = codes(NOISE, box_mask(*BOX), boxes=[BOX], point_coords=points, point_labels=labels)
    assert found == expected
