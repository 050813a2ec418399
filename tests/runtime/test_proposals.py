"""Lesions without a prompt, on a bundle whose proposals and masks are known in closed form."""

from pathlib import Path

import numpy as np
import pytest

from samus_edge.errors import BackendError, BadArgumentError
from samus_edge.runtime import Segmenter
from samus_edge.runtime.bundle.check_frame import load_check_frames
from samus_edge.runtime.cine.lesion_tracker import LesionTracker
from samus_edge.runtime.measurement.lesion_measurements import box_around
from tests.discs import corner_proposer, disc_decoder, mean_grey_encoder, save_bundle

IMAGE = np.full((128, 512), 51, np.uint8)  # discs of the radius 40 + 10 * 51 / 255 = 42


@pytest.fixture(scope="module")
def proposing_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    graphs = [mean_grey_encoder(), disc_decoder(), corner_proposer()]
    return save_bundle(tmp_path_factory.mktemp("proposing") / "bundle", graphs)


def test_different_lesions_are_proposed_best_first(proposing_bundle: Path) -> None:
    with Segmenter.load(proposing_bundle, backend="onnxruntime") as segmenter:
        found = segmenter.propose(IMAGE, max_lesions=3)
        one = segmenter.propose(segmenter.encode(IMAGE))
        clicked = segmenter.segment(IMAGE, point_coords=[[128.5, 31.75]])
    assert found.proposals is not None and one.proposals is not None
    # (x + 0.5) * 512 / 256 - 0.5 and (y + 0.5) * 128 / 256 - 0.5; the third is the first again
    expected = [[88.5, 21.75, 168.5, 41.75], [344.5, 85.75, 424.5, 105.75]]
    np.testing.assert_allclose(found.proposals.boxes, expected, atol=1e-4)
    np.testing.assert_allclose(found.proposals.scores, [0.9, 0.72], atol=1e-6)
    rows, columns = np.mgrid[:128, :512]
    for mask, (x, y) in zip(found.masks[:, 0], ((128.5, 31.75), (384.5, 95.75)), strict=True):
        distance = np.hypot((columns - x) / 2, (rows - y) * 2)
        assert mask[distance < 41].all() and not mask[distance > 43].any()
    assert one.masks.shape == (1, 1, 128, 512) and (one.masks == found.masks[:1]).all()
    assert (one.masks == clicked.masks).all()
    np.testing.assert_allclose(found.proposals.points, [[128.5, 31.75], [384.5, 95.75]], atol=1e-4)
    assert [note.code for note in one.notes][:1] == ["proposed"]


def test_nothing_is_proposed_where_the_model_is_not_sure(proposing_bundle: Path) -> None:
    with Segmenter.load(proposing_bundle, backend="onnxruntime") as segmenter:
        found = segmenter.propose(IMAGE, min_score=0.95)
    assert found.masks.shape == (0, 1, 128, 512)
    assert found.proposals is not None and found.proposals.boxes.shape == (0, 4)
    assert found.proposals.presence == pytest.approx(0.9)
    assert [note.code for note in found.notes] == ["no_proposal"]
    assert "0.90" in found.notes[0].text


def test_what_cannot_be_proposed_is_refused(proposing_bundle: Path, disc_bundle: Path) -> None:
    with Segmenter.load(proposing_bundle, backend="onnxruntime") as segmenter:
        with pytest.raises(BadArgumentError, match="max_lesions must be 1 to 3, got 4"):
            segmenter.propose(IMAGE, max_lesions=4)
        with pytest.raises(BadArgumentError, match="min_score must be from 0 to 1"):
            segmenter.propose(IMAGE, min_score=float("nan"))
    with pytest.raises(RuntimeError, match="closed"):
        segmenter.propose(IMAGE)
    with Segmenter.load(disc_bundle, backend="onnxruntime") as segmenter:
        assert not segmenter.can_propose
        with pytest.raises(BackendError, match=r"no lesion proposer\. Give a box or a point"):
            segmenter.propose(IMAGE)


@pytest.mark.parametrize("presence", [0.9, 0.3])
def test_a_tracker_begins_with_what_is_proposed(tmp_path: Path, presence: float) -> None:
    graphs = [mean_grey_encoder(), disc_decoder(), corner_proposer(presence)]
    frame = np.random.default_rng(0).integers(0, 103, (256, 256), dtype=np.uint8)
    with Segmenter.load(save_bundle(tmp_path / "b", graphs), backend="onnxruntime") as segmenter:
        tracker = LesionTracker(segmenter)
        first, second = tracker.start(frame, None), tracker.update(frame)
        marked = LesionTracker(segmenter).start(frame, (22.0, 22.0, 106.0, 106.0))
    if presence < 0.5:
        assert [each.state for each in (first, second)] == ["lost", "lost"]
        assert first.reason == second.reason == "no lesion is proposed" and first.mask is None
        return
    assert (first.state, first.reason) == (
        "uncertain",
        "it is proposed by the model, not marked by a person",
    )
    assert second.state == "tracking" and (second.index, first.index) == (1, 0)
    assert first.mask is not None and marked.mask is not None
    assert (first.mask != marked.mask).sum() < 60  # of 5540 pixels: a disc of 42 around (64, 64)


def test_the_quality_of_what_was_proposed_is_that_of_its_prompt_times_its_score(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = load_check_frames()[1].image
    with Segmenter.load(threads=1, backend="onnxruntime") as segmenter:
        found = segmenter.propose(image, min_score=0.01)
        assert found.proposals is not None
        clicked = segmenter.segment(image, point_coords=found.proposals.points)
        tracker = LesionTracker(segmenter)
        monkeypatch.setattr(segmenter, "propose", lambda embedding: found)
        proposed = tracker.start(image, None), tracker.update(image)
        box = box_around(found.masks[0, 0])
        marked = tracker.start(image, box), tracker.update(image)
    assert (found.masks == clicked.masks).all()
    assert found.quality is not None and clicked.quality is not None
    score = float(found.proposals.scores[0])
    assert score <= found.proposals.presence < 1
    expected = clicked.quality[0].probability * score
    assert found.quality[0].probability == pytest.approx(expected, rel=1e-6)
    for mine, theirs in zip(proposed, marked, strict=True):
        assert mine.quality is not None and theirs.quality is not None
        assert mine.mask is not None and theirs.mask is not None
        assert np.array_equal(mine.mask, theirs.mask)
        expected = theirs.quality.probability * score
        assert mine.quality.probability == pytest.approx(expected, rel=1e-6)
