"""Near-duplicates: real frames changed as duplicates are, and the real dataset's known groups."""

from collections import defaultdict
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from samus_edge.data.case import UltrasoundCase, read_image
from samus_edge.data.dataset import list_cases
from samus_edge.data.near_duplicates import (
    Similarity,
    connected_groups,
    find_near_duplicates,
    thumbnail,
)
from samus_edge.data.splitting import load_groups

Image = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def frames(asset_frames: list[Any]) -> list[Image]:
    """Ten real frames of different lesions."""
    return [frame.image for frame in asset_frames[:10]]


def pairs(images: list[Image], similarity: Similarity | None = None) -> set[tuple[int, int]]:
    thumbnails = [thumbnail(image) for image in images]
    found = find_near_duplicates(thumbnails, similarity)
    assert all(pair.similarity >= 1 for pair in found)
    return {(pair.first, pair.second) for pair in found}


def test_frames_of_different_lesions_are_not_near_duplicates(frames: list[Image]) -> None:
    assert pairs(frames) == set()


def test_copies_with_another_size_gain_callipers_or_crop_are_found(frames: list[Image]) -> None:
    frame = frames[0]
    height, width = frame.shape
    smaller = cv2.resize(frame, (width // 2, height // 3), interpolation=cv2.INTER_AREA)
    darker = (frame * 0.7).astype(np.uint8)
    marked = frame.copy()
    cv2.drawMarker(marked, (width // 2, height // 2), 255, cv2.MARKER_CROSS, 30, 3)
    cropped = frame[height // 16 :, : width - width // 16]
    images = [*frames, np.asarray(smaller, np.uint8), darker, marked, cropped]
    assert {pair for pair in pairs(images) if pair[0] == 0} == {(0, 10), (0, 11), (0, 12), (0, 13)}


def test_a_shifted_frame_is_found_by_its_details(frames: list[Image]) -> None:
    moved = frames[2]
    shift = moved.shape[1] // 16  # two pixels of a thumbnail
    images = [*frames, moved[:, shift:], moved[:, :-shift]]
    assert (10, 11) in pairs(images, Similarity(threshold=1.0))
    assert (10, 11) not in pairs(images, Similarity(threshold=1.0, detail_threshold=1.0))


def test_flat_images_resemble_nothing() -> None:
    assert pairs([np.full((40, 50), grey, np.uint8) for grey in (0, 0, 128)]) == set()


def test_more_images_than_fit_into_a_block_are_compared(
    frames: list[Image], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [*frames, frames[3], frames[9], frames[3]]
    expected = {(3, 10), (9, 11), (3, 12), (10, 12)}
    assert pairs(images) == expected
    monkeypatch.setattr("samus_edge.data.near_duplicates.BLOCK", 4)
    assert pairs(images) == expected


def test_no_image_has_no_pair() -> None:
    assert find_near_duplicates([]) == []


def test_groups_are_the_connected_components() -> None:
    # 0-3-5 is a chain, 1-2 a pair, 4 alone.
    assert connected_groups(6, [(3, 0), (2, 1), (5, 3), (0, 3)]) == [0, 1, 1, 0, 2, 0]
    assert connected_groups(0, []) == []


@pytest.mark.parametrize("values", [(0.0, 0.5), (0.9, 1.1), (float("nan"), 0.5)])
def test_thresholds_out_of_range_are_named(values: tuple[float, float]) -> None:
    bad = next(value for value in values if not 0 < value <= 1)
    with pytest.raises(ValueError, match=rf"must be in \(0, 1\], got {bad}"):
        Similarity(*values)


@pytest.mark.slow
def test_the_known_near_duplicates_of_the_real_dataset_are_all_found(
    busi_root: Path, busi_split: Path
) -> None:
    cases = list_cases(busi_root)
    found = find_near_duplicates([thumbnail(read_image(case)) for case in cases])
    groups = connected_groups(len(cases), [(pair.first, pair.second) for pair in found])
    known = load_groups(busi_split)
    ours = _pairs_within(cases, {case.key: n for case, n in zip(cases, groups, strict=True)})
    theirs = _pairs_within(cases, known)
    assert len(theirs) == 235
    assert theirs <= ours
    assert len(ours - theirs) <= 20  # 14 of 17 are near-duplicates when looked at


def _pairs_within(cases: list[UltrasoundCase], groups: dict[str, int]) -> set[tuple[str, str]]:
    members: dict[int, list[str]] = defaultdict(list)
    for case in cases:
        members[groups[case.key]].append(case.key)
    return {pair for keys in members.values() for pair in combinations(sorted(keys), 2)}
