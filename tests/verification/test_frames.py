"""Which frames and prompts a verification uses."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from samus_edge.data.dataset import list_cases
from samus_edge.data.prompt_protocol import CENTRE_POINT, JITTERED_BOX, case_generator
from samus_edge.errors import DataError, ImageFileError
from samus_edge.verification.frames import (
    FrameSource,
    PromptedFrame,
    frames_digest,
    frames_of_cases,
    frames_of_folder,
    frames_of_images,
    lesions_of_cases,
    prompted_frame,
)
from tests.conftest import FRAMES_DIR


def coords(source: FrameSource) -> list[str]:
    """Every prompt of every frame."""
    return [
        f"{frame.name} {kind} {prompt.coords_text}"
        for frame in source.frames()
        for kind, prompts in frame.prompts.items()
        for prompt in prompts
    ]


def lesions(frames: list[PromptedFrame]) -> int:
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


def test_wrong_arguments_are_refused(fake_busi: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(DataError, match=r"holds no image \(\.bmp, "):
        frames_of_folder(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    with pytest.raises(ImageFileError, match=r"broken\.png"):
        list(frames_of_folder(tmp_path).frames())
    normal = list_cases(fake_busi, ["normal/normal (1)"])
    for draw in (lambda: lesions_of_cases(normal), lambda: frames_of_cases(normal, 3, 0)):
        with pytest.raises(DataError, match=r"None of the \d cases has a lesion"):
            draw()
    with pytest.raises(ValueError, match="limit must be at least 1, got 0"):
        frames_of_folder(tmp_path, limit=0)
    with pytest.raises(ValueError, match="seed must be at least 0, got -1"):
        lesions_of_cases([], seed=-1)
    with pytest.raises(ValueError, match="at least one frame"):
        frames_of_images({})


def names(frames: list[PromptedFrame]) -> list[str]:
    return [frame.name for frame in frames]


def test_a_folder_is_drawn_from_by_seed() -> None:
    first, again, other = (frames_of_folder(FRAMES_DIR, limit=6, seed=seed) for seed in (0, 0, 1))
    drawn = names(list(first.frames()))
    assert len(drawn) == 6
    assert coords(first) == coords(again)
    assert names(list(other.frames())) != drawn
    every = list(frames_of_folder(FRAMES_DIR, seed=0).frames())
    assert len(every) == 20  # not frames.json
    assert drawn == [name for name in names(every) if name in drawn]


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
        assert frame.targets is not None
        (target,) = frame.targets
        np.testing.assert_array_equal(target, expected)
        ((box,), (point,)) = frame.prompts.values()
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


def test_another_seed_draws_others(fake_busi: Path) -> None:
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
