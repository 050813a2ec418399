"""The verification as a page, and the pictures in it."""

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from samus_edge.data.dataset import load_subsets
from samus_edge.verification.frames import frames_of_images, lesions_of_cases
from samus_edge.verification.html_report import draw_disagreement, render_verification
from samus_edge.verification.verify_bundle import VerificationResult, verify_bundle
from tests.reporting.pages import checked_page

CYAN, YELLOW, MAGENTA = (0, 229, 255), (255, 214, 0), (255, 92, 255)
JPEG_PX = 3  # how far JPEG may move a size


def has_colour(picture: Any, colour: tuple[int, int, int]) -> bool:
    """Whether an RGB picture shows a line of this colour above the legend's swatches."""
    image = picture[: picture.shape[1] * 3 // 4]
    return bool((np.abs(image.astype(int) - colour).max(axis=2) < 8).sum() > 50)


@pytest.fixture
def result(
    disc_precisions: Callable[..., Path], make_precision: Any, disc_lesions: Path
) -> VerificationResult:
    """An fp16 whose discs are smaller, an int8 that is the reference again, one that fails."""
    folder = disc_precisions(
        {
            "fp16": make_precision(logit_shift=-6),
            "int8": make_precision(),
            "int8-cpu": make_precision(runs=False),
        }
    )
    cases = load_subsets(disc_lesions, disc_lesions.parent / "split.json", names=("val",)).val
    source = lesions_of_cases(cases, about={"data": "<BUSI> & more"})
    return verify_bundle(folder, source, threads=1, pictures=2)


def test_the_page_says_what_failed_and_shows_it(result: VerificationResult) -> None:
    page = checked_page(render_verification(result, {"command": "samus-edge verify"}))
    assert "Verification: failed" in page.text
    assert "<BUSI> & more" in page.text and "samus-edge verify" in page.text
    for line in result.failures():
        assert line.partition(": ")[2] in page.text
    point = result.precisions[1].figures.protocols[1]
    assert f"{point.dice:.4f}" in page.text and f"{point.dice_drop:+.3f}" in page.text
    assert result.precisions[1].graphs["mask_decoder"] in page.text
    assert "made for TensorRT" in page.text
    assert len(page.images) == 2  # of fp16 alone: int8's masks are the reference's
    worst = result.disagreements[0]
    assert worst.caption in page.text
    encoded = base64.b64decode(page.images[0].partition(",")[2])
    picture = cv2.imdecode(np.frombuffer(encoded, np.uint8), cv2.IMREAD_COLOR)
    drawn = draw_disagreement(worst)
    assert picture is not None
    ratio = picture.shape[0] / picture.shape[1]
    assert ratio == pytest.approx(drawn.shape[0] / drawn.shape[1], abs=JPEG_PX / 560)


def test_truth_reference_and_precision_are_drawn(result: VerificationResult) -> None:
    worst = result.disagreements[0]
    picture = draw_disagreement(worst)
    # The reference's disc hides most of the truth, which is as large; the smaller hides nothing.
    assert has_colour(picture, YELLOW) and has_colour(picture, MAGENTA)
    assert "mask IoU 0.7" in worst.caption and "Dice " in worst.caption  # (36 / 42)^2 = 0.735
    # What is shown is the part around the masks, enlarged: 84 pixels with a margin of 30 %.
    assert picture.shape[1] >= 800


def test_without_differences_or_true_masks(
    disc_precisions: Callable[..., Path], make_precision: Any
) -> None:
    source = frames_of_images({"a": np.full((64, 64), 51, np.uint8)})
    folder = disc_precisions({"fp16": make_precision(logit_shift=-20)})
    passed = verify_bundle(folder, source, ["fp32"], threads=1, pictures=1)
    page = checked_page(render_verification(passed, {}))
    assert "Verification: passed" in page.text
    assert "true masks of these frames are not known" in page.text
    assert page.images == [] and "every mask equals" in page.text
    failed = verify_bundle(folder, source, threads=1, pictures=1)
    picture = draw_disagreement(failed.disagreements[0])
    assert has_colour(picture, CYAN) and has_colour(picture, YELLOW)
    assert not has_colour(picture, MAGENTA)
    assert len(checked_page(render_verification(failed, {})).images) == 1


def test_an_empty_mask_can_be_drawn(
    disc_precisions: Callable[..., Path], make_precision: Any
) -> None:
    source = frames_of_images({"a": np.full((50, 70), 51, np.uint8)})
    folder = disc_precisions({"fp16": make_precision(logit_shift=float("nan"))})
    failed = verify_bundle(folder, source, threads=1, pictures=1)
    assert not failed.disagreements[0].mask.any()
    assert "NaN or infinite logits" in failed.disagreements[0].caption
    assert draw_disagreement(failed.disagreements[0]).ndim == 3
