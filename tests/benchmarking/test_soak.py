"""Many frames in a row."""

from samus_edge.benchmarking.soak import soak
from samus_edge.runtime import Segmenter
from samus_edge.runtime.bundle.check_frame import load_check_frames


def test_masks_stay_the_same_and_memory_is_given_back() -> None:
    frames = load_check_frames((96, 128))[:3]
    done: list[None] = []
    with Segmenter.load(threads=1) as segmenter:
        result = soak(segmenter, frames, 40, on_frame=lambda: done.append(None))
    assert (result.frames, result.differing, len(done)) == (40, 0, 40)
    assert result.latency.runs == 40
    assert result.gpu_memory_growth_bytes is None
    assert result.memory_growth_bytes is not None
    assert result.memory_growth_bytes < 20_000_000


def test_a_mask_that_changes_is_counted() -> None:
    frames = load_check_frames((96, 128))[:1]
    with Segmenter.load(threads=1) as segmenter:
        segment, calls = segmenter.segment, iter(range(100))

        def sometimes_wrong(image, **prompts):  # type: ignore[no-untyped-def]
            prediction = segment(image, **prompts)
            if next(calls) == 4:  # two passes of warm-up, then the third that counts
                prediction.masks[0, 0, 0, 0] ^= True
            return prediction

        segmenter.segment = sometimes_wrong  # type: ignore[method-assign]
        assert soak(segmenter, frames, 5).differing == 1
