"""A segmenter shared by threads, used again, loaded again."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from samus_edge.runtime import Embedding, Prediction, Segmenter

BLACK = np.zeros((480, 640), np.uint8)


def assert_identical(first: Prediction, second: Prediction) -> None:
    """Equal to the last bit."""
    np.testing.assert_array_equal(first.masks, second.masks)
    np.testing.assert_array_equal(first.low_res_logits, second.low_res_logits)
    np.testing.assert_array_equal(first.iou_predictions, second.iou_predictions)


def segment_all(segmenter: Segmenter, frames: list[Any]) -> list[Prediction]:
    """One box and one point on every frame."""
    predictions = []
    for frame in frames:
        embedding = segmenter.encode(frame.image)
        centre = [(frame.box[:2] + frame.box[2:]) / 2]
        predictions.append(segmenter.predict(embedding, boxes=frame.box[None]))
        predictions.append(segmenter.predict(embedding, point_coords=centre))
    return predictions


def test_threads_that_share_a_segmenter_get_what_one_gets(
    random_bundle: Path, asset_frames: list[Any]
) -> None:
    frames = asset_frames[::4]
    with Segmenter.load(random_bundle, threads=1) as segmenter:
        serial = segment_all(segmenter, frames)
        with ThreadPoolExecutor(4) as pool:
            parallel = list(pool.map(lambda _: segment_all(segmenter, frames), range(4)))
    for predictions in parallel:
        for expected, prediction in zip(serial, predictions, strict=True):
            assert_identical(expected, prediction)


def test_a_real_bundle_gives_the_same_masks_every_time(
    random_bundle: Path, asset_frames: list[Any]
) -> None:
    frames = asset_frames[::5]
    with Segmenter.load(random_bundle, threads=2) as first:
        expected = segment_all(first, frames)
        repeated = segment_all(first, frames)
    with Segmenter.load(random_bundle, threads=2) as second:
        reloaded = segment_all(second, frames)
    for before, again, after in zip(expected, repeated, reloaded, strict=True):
        assert_identical(before, again)
        assert_identical(before, after)


def test_closing_while_others_work_is_harmless(disc_bundle: Path) -> None:
    segmenter = Segmenter.load(disc_bundle, threads=1)

    def work(_: int) -> bool:
        try:
            embedding: Embedding = segmenter.encode(BLACK)
            return segmenter.predict(embedding, boxes=[[100, 50, 300, 250]]).masks.any().item()
        except RuntimeError as err:
            return "is closed" in str(err)

    with ThreadPoolExecutor(4) as pool:
        results = pool.map(work, range(40))
        segmenter.close()
    assert all(results)


def test_a_bundle_may_be_moved_away_once_it_is_loaded(disc_bundle_copy: Path) -> None:
    with Segmenter.load(disc_bundle_copy, threads=1) as segmenter:
        shutil.rmtree(disc_bundle_copy)
        assert segmenter.segment(BLACK, boxes=[[100, 50, 300, 250]]).masks.any()
