"""Frames by seed."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from samus_edge.calibration.calibration_frames import (
    CalibrationFrame,
    frames_digest,
    frames_of_cases,
    frames_of_folder,
    prompted_frame,
)
from samus_edge.data.dataset import list_cases
from samus_edge.errors import DataError, ImageFileError
from tests.conftest import FRAMES_DIR


def names(frames: list[CalibrationFrame]) -> list[str]:
    return [frame.name for frame in frames]


def prompts(frames: list[CalibrationFrame]) -> list[str]:
    return [prompt.coords_text for frame in frames for prompt in frame.prompts]


def test_a_folder_is_drawn_from_by_seed() -> None:
    first, again, other = (frames_of_folder(FRAMES_DIR, 6, seed) for seed in (0, 0, 1))
    assert len(first) == 6
    assert names(first) == names(again) == sorted(names(first))
    assert prompts(first) == prompts(again)
    assert names(other) != names(first)
    assert all(frame.target is None for frame in first)


def test_prompts_of_a_frame_lie_in_it_and_the_point_in_the_box() -> None:
    for frame in frames_of_folder(FRAMES_DIR, 100, 0):
        box, point = frame.prompts
        assert box.box is not None
        height, width = frame.image.shape
        x1, y1, x2, y2 = box.box
        assert 0 <= x1 < x2 <= width - 1
        assert 0 <= y1 < y2 <= height - 1
        np.testing.assert_allclose(point.points, [[(x1 + x2) / 2, (y1 + y2) / 2]], rtol=1e-6)


def test_prompts_do_not_depend_on_the_other_frames() -> None:
    every = frames_of_folder(FRAMES_DIR, 100, 3)
    alone = prompted_frame(every[4].name, every[4].image, seed=3)
    assert prompts([alone]) == prompts([every[4]])
    assert len(every) == 20  # not frames.json


def test_cases_bring_their_first_lesion(fake_busi: Path) -> None:
    frames = frames_of_cases(list_cases(fake_busi), 100, 0)
    assert names(frames) == [
        "benign/benign (1)",
        "benign/benign (2)",
        "benign/benign (10)",
        "malignant/malignant (1)",
        "malignant/malignant (2)",
    ]
    expected = np.zeros((60, 80), np.bool_)
    expected[10:30, 20:60] = True
    for frame in frames[:2]:
        assert frame.target is not None
        np.testing.assert_array_equal(frame.target, expected)
        box, point = frame.prompts
        assert box.box is not None
        # its edges move by up to 5 % of 40 x 20 pixels, from the outermost pixels or their edges
        np.testing.assert_allclose(box.box[[0, 2]], [20, 59], atol=0.05 * 40 + 1)
        np.testing.assert_allclose(box.box[[1, 3]], [10, 29], atol=0.05 * 20 + 1)
        assert expected[tuple(np.rint(point.points[0, ::-1]).astype(int))]


def test_cases_without_a_mask_are_made_up_for(fake_busi: Path) -> None:
    lesions = list_cases(fake_busi, ["benign/benign (1)", "malignant/malignant (1)"])
    empty = np.zeros((60, 80), np.uint8)
    assert cv2.imwrite(str(fake_busi / "benign" / "benign (1)_mask.png"), empty)
    for seed in range(4):
        (frame,) = frames_of_cases(lesions, 1, seed)
        assert frame.name == "malignant/malignant (1)"


def test_a_count_is_drawn_of_the_cases(fake_busi: Path) -> None:
    cases = list_cases(fake_busi)
    draws = [names(frames_of_cases(cases, 2, seed)) for seed in (*range(6), 0)]
    assert all(len(draw) == 2 for draw in draws)
    assert draws[0] == draws[-1]
    assert len({tuple(draw) for draw in draws}) > 1


def test_the_digest_is_of_pixels_and_sizes() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(3, 4)
    frame = prompted_frame("a", image, seed=0)
    digest = frames_digest([frame])
    assert len(digest) == 64
    assert frames_digest([prompted_frame("b", image.copy(), seed=1)]) == digest
    # transposed memory, the same pixels
    assert frames_digest([prompted_frame("a", np.asfortranarray(image), seed=0)]) == digest
    changed = image.copy()
    changed[2, 3] += 1
    others = [
        [prompted_frame("a", changed, seed=0)],
        [prompted_frame("a", image.reshape(4, 3), seed=0)],
        [frame, frame],
    ]
    assert len({digest, *map(frames_digest, others)}) == 4


def test_nothing_to_calibrate_on_is_an_error(fake_busi: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="None of the 1 cases has a lesion"):
        frames_of_cases(list_cases(fake_busi, ["normal/normal (1)"]), 3, 0)
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("none")
    with pytest.raises(DataError, match=r"empty holds no image \(\.png, "):
        frames_of_folder(empty, 3, 0)
    (empty / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(ImageFileError, match=r"broken\.png"):
        frames_of_folder(empty, 3, 0)
    with pytest.raises(ValueError, match="at least 1, got 0"):
        frames_of_folder(FRAMES_DIR, 0, 0)
