"""Which frames and prompts a verification uses."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from samus_edge.data.dataset import list_cases
from samus_edge.errors import DataError
from samus_edge.evaluation.prompt_protocol import CENTRE_POINT, JITTERED_BOX, case_generator
from samus_edge.evaluation.verification_source import (
    VerificationFrame,
    VerificationSource,
    frames_of_folder,
    frames_of_images,
    lesions_of_cases,
)


def coords(source: VerificationSource) -> list[str]:
    """Every prompt of every frame."""
    return [
        f"{frame.name} {kind} {prompt.coords_text}"
        for frame in source.frames()
        for kind, prompts in frame.prompts.items()
        for prompt in prompts
    ]


def lesions(frames: list[VerificationFrame]) -> int:
    """How many there are."""
    return sum(len(frame.targets or ()) for frame in frames)


def test_lesions_are_prompted_as_in_an_evaluation(fake_busi: Path) -> None:
    cases = list_cases(fake_busi)
    source = lesions_of_cases(cases, groups={"benign/benign (1)": 7}, seed=5, about={"data": "x"})
    frames = list(source.frames())
    assert [frame.name for frame in frames] == [
        case.key for case in cases if case.class_name != "normal"
    ]
    assert len(source) == len(frames) == 5 and lesions(frames) == 6
    assert frames[0].group == "group 7" and frames[1].group == "benign/benign (2)"
    assert (source.seed, source.about) == (5, {"data": "x"})
    two = frames[1]
    assert two.targets is not None
    for instance in (0, 1):
        for protocol in (JITTERED_BOX, CENTRE_POINT):
            rng = case_generator(two.name, instance, 5)
            expected = protocol.prompt(two.targets[instance], rng)
            found = two.prompts[protocol.name][instance]
            assert found.coords_text == expected.coords_text


@pytest.mark.parametrize("limit", [1, 2, 4, 6, 100])
def test_so_many_lesions_are_drawn_by_seed(fake_busi: Path, limit: int) -> None:
    cases = list_cases(fake_busi)
    source = lesions_of_cases(cases, limit=limit, seed=1)
    frames = list(source.frames())
    assert lesions(frames) == min(limit, 6)
    keys = [case.key for case in cases]
    assert [frame.name for frame in frames] == sorted((f.name for f in frames), key=keys.index)
    assert coords(source) == coords(lesions_of_cases(cases, limit=limit, seed=1))


def test_another_seed_draws_others(fake_busi: Path) -> None:
    cases = list_cases(fake_busi)
    drawn = {next(lesions_of_cases(cases, limit=1, seed=s).frames()).name for s in range(20)}
    assert len(drawn) > 2


def test_cases_without_a_lesion_are_refused(fake_busi: Path) -> None:
    with pytest.raises(DataError, match="None of the 1 cases has a lesion to verify on"):
        lesions_of_cases(list_cases(fake_busi, ["normal/normal (1)"]))


def test_frames_of_a_folder_get_drawn_prompts(tmp_path: Path) -> None:
    for name, hw in (("b10.png", (40, 60)), ("b9.bmp", (3, 5)), (".hidden.png", (9, 9))):
        assert cv2.imwrite(str(tmp_path / name), np.full(hw, 9, np.uint8))
    (tmp_path / "notes.txt").write_text("no image")
    source = frames_of_folder(tmp_path, seed=2)
    frames = list(source.frames())
    assert [frame.name for frame in frames] == ["b9.bmp", "b10.png"]
    assert source.about == {"data": tmp_path.name}
    for frame in frames:
        assert frame.targets is None
        height, width = frame.image.shape
        assert list(frame.prompts) == ["drawn_box", "drawn_box_and_point", "drawn_point"]
        for (prompt,) in frame.prompts.values():
            assert (prompt.points >= 0).all()
            assert (prompt.points <= (width - 1, height - 1)).all()
            if prompt.box is not None:
                x1, y1, x2, y2 = prompt.box
                assert 0 <= x1 < x2 <= width - 1 and 0 <= y1 < y2 <= height - 1
    assert len(frames_of_folder(tmp_path, limit=1, seed=2)) == 1
    # A prompt depends on the frame's name and size and the seed, not on the other frames.
    image = {"b10.png": np.zeros((40, 60), np.uint8)}
    assert coords(frames_of_images(image, seed=2)) == coords(source)[3:]
    assert coords(frames_of_images(image, seed=3)) != coords(source)[3:]


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no image to verify on"):
        frames_of_folder(tmp_path)
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        frames_of_folder(tmp_path, limit=0)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        lesions_of_cases([], seed=-1)
    with pytest.raises(ValueError, match="at least one frame"):
        frames_of_images({})
