"""Verdicts in a manifest."""

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samus_edge.data.dataset import load_subsets
from samus_edge.errors import BackendError, BundleError
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.manifest import FORMAT_VERSION, MANIFEST_FILE, Manifest
from samus_edge.verification.frames import FrameSource, frames_of_images, lesions_of_cases
from samus_edge.verification.gates import GATES
from samus_edge.verification.verify_bundle import (
    PrecisionVerification,
    VerificationResult,
    record_verification,
    verify_bundle,
)

PATIENT = "patient 0815"


@pytest.fixture
def folder(disc_precisions: Callable[..., Path], make_precision: Any) -> Path:
    """A bundle whose fp16 is wrong and whose int8 is its reference again."""
    return disc_precisions({"fp16": make_precision(logit_shift=-5), "int8": make_precision()})


@pytest.fixture
def verify(folder: Path) -> Callable[..., VerificationResult]:
    """Verifies precisions of the bundle on a frame."""
    source = frames_of_images(
        {PATIENT: np.full((64, 64), 51, np.uint8)}, about={"data": "a\x1bb\udc80"}
    )
    return lambda *precisions: verify_bundle(folder, source, precisions or None, threads=1)


def test_verdicts_make_the_round_trip(
    folder: Path, verify: Callable[..., VerificationResult]
) -> None:
    result = verify()
    written = record_verification(Bundle.open(folder), result, command="samus-edge verify")
    read = Bundle.open(folder).manifest
    assert read == written
    assert list(read.verification) == ["fp32", "fp16", "int8"]
    entries: Any = read.verification
    assert [entry["passed"] for entry in entries.values()] == [True, False, True]
    wrong = entries["fp16"]
    assert "allowed_failing" not in wrong
    assert len(wrong["failed"]) == 6 and "mean mask IoU" in wrong["failed"][0]
    assert wrong["command"] == "samus-edge verify"
    assert (wrong["images"], wrong["prompts"], wrong["seed"], wrong["threads"]) == (1, 3, 0, 1)
    assert wrong["backend"].startswith("onnxruntime ")
    assert wrong["data"] == "a?b?"  # a manifest holds neither control characters nor surrogates
    with_graphs = read.precisions["fp16"]
    assert wrong["graphs"] == {
        "image_encoder": read.graphs[with_graphs.image_encoder].sha256,
        "mask_decoder": read.graphs[with_graphs.mask_decoder].sha256,
    }
    box = wrong["figures"]["protocols"][0]
    measured = result.precisions[1].figures.protocols[0]
    assert box["mask_iou_mean"] == pytest.approx(measured.mask_iou_mean, rel=1e-5)
    allowed: Any = record_verification(Bundle.open(folder), result, allow_failing=True).verification
    assert allowed["fp16"]["allowed_failing"] is True
    assert "allowed_failing" not in allowed["int8"]
    # The bundle travels further than the frames it was verified on.
    assert PATIENT not in (folder / MANIFEST_FILE).read_text()


def test_other_precisions_and_unknown_fields_stay(
    folder: Path, verify: Callable[..., VerificationResult]
) -> None:
    path = folder / MANIFEST_FILE
    document = json.loads(path.read_text())
    document |= {"format_version": "1.0", "verification": {"fp8": {"later": 1}}, "also": [1]}
    path.write_text(json.dumps(document))
    record_verification(Bundle.open(folder), verify("int8"))
    after = json.loads(path.read_text())
    assert list(after["verification"]) == ["fp8", "int8"]
    assert after["verification"]["fp8"] == {"later": 1}
    assert after["format_version"] == FORMAT_VERSION
    changed = {"verification": None, "format_version": None}
    assert after | changed == document | changed


@pytest.mark.parametrize("version", ["1.2", "1.10"])
def test_a_newer_format_version_stays(
    folder: Path, verify: Callable[..., VerificationResult], version: str
) -> None:
    bundle = Bundle.open(folder)
    bundle = replace(bundle, manifest=replace(bundle.manifest, format_version=version))
    assert record_verification(bundle, verify("int8")).format_version == version


def test_a_zip_and_the_verification_of_other_graphs_are_refused(
    folder: Path, verify: Callable[..., VerificationResult], tmp_path: Path
) -> None:
    result = verify("fp16")
    path = Path(shutil.make_archive(str(tmp_path / "discs"), "zip", folder))
    with pytest.raises(BundleError, match=r"discs\.zip"):
        record_verification(Bundle.open(path), result)
    bundle = Bundle.open(folder)
    precisions = {"fp16": bundle.manifest.precisions["int8"]}
    other = replace(bundle, manifest=replace(bundle.manifest, precisions=precisions))
    before = (folder / MANIFEST_FILE).read_bytes()
    with pytest.raises(ValueError, match="the verification is of the fp16 image_encoder"):
        record_verification(other, result)
    assert (folder / MANIFEST_FILE).read_bytes() == before
    assert Manifest.read(folder / MANIFEST_FILE).verification == {}


# A disc of this radius is drawn on grey level 51: 40 + 10 * 51 / 255.
RADIUS = 42.0
# A disc's area in whole pixels differs from pi r^2 by a fraction of its circumference.
PIXELS = 0.004
FLOAT32 = 2e-5  # of logits up to 200
FLOAT32_MEAN = 5e-4  # of 262,144 embeddings that the graph sums up in float32


@pytest.fixture
def lesions(disc_lesions: Path) -> FrameSource:
    """The three lesions of the validation images."""
    subsets = load_subsets(disc_lesions, disc_lesions.parent / "split.json", names=("val",))
    return lesions_of_cases(subsets.val, about={"data": "discs"})


def only(result: VerificationResult, precision: str) -> PrecisionVerification:
    """The verdict on a precision."""
    (verified,) = (each for each in result.precisions if each.precision == precision)
    return verified


def failed_gates(verified: PrecisionVerification) -> list[str]:
    """Names of the limits that do not hold."""
    return [outcome.name for outcome in verified.outcomes if not outcome.passed]


def test_a_known_shift_of_the_logits_is_measured(
    disc_precisions: Callable[..., Path], make_precision: Any, lesions: FrameSource
) -> None:
    shift = -4.0
    folder = disc_precisions({"fp16": make_precision(logit_shift=shift, iou_shift=0.25)})
    seen: list[str] = []
    result = verify_bundle(folder, lesions, threads=1, on_frame=seen.append)
    assert seen == ["one", "two"]
    assert result.about["data"] == "discs"
    assert (result.about["images"], result.about["lesions"], result.about["prompts"]) == (2, 3, 6)
    verified = only(result, "fp16")
    small = RADIUS + shift
    for figures in verified.figures.protocols:
        assert figures.prompts == 3
        assert figures.logit_error_max == pytest.approx(4, abs=FLOAT32)
        assert figures.logit_error_mean == pytest.approx(4, abs=FLOAT32)
        assert figures.iou_prediction_error_max == pytest.approx(0.25, abs=1e-6)
        # The smaller disc lies within the larger one.
        assert figures.mask_iou_mean == pytest.approx((small / RADIUS) ** 2, abs=PIXELS)
        assert figures.mask_iou_worst is not None and figures.mask_iou_mean is not None
        assert figures.mask_iou_worst <= figures.mask_iou_mean
    box, point = verified.figures.protocols
    assert (box.prompt, point.prompt) == ("box_5%", "centre_point")
    # Twice the smaller area over the sum of both; the lesion is a disc of the larger radius.
    dice = 2 * small**2 / (small**2 + RADIUS**2)
    assert point.dice_reference == pytest.approx(1.0, abs=PIXELS)
    assert point.dice == pytest.approx(dice, abs=PIXELS)
    assert point.dice_drop == pytest.approx(100 * (1 - dice), abs=100 * PIXELS)
    assert point.dice_drop_interval is not None
    low, high = point.dice_drop_interval
    assert low <= point.dice_drop <= high  # type: ignore[operator]  # measured above
    # Embeddings are the reference's.
    assert verified.figures.embedding_cosine_worst == pytest.approx(1.0, abs=1e-12)
    assert verified.figures.embedding_error_max == 0.0
    assert failed_gates(verified) == ["fp16_dice_drop"] * 2
    assert not result.passed
    assert [line.split(":")[0] for line in result.failures()] == ["fp16", "fp16"]
    assert "Dice drop with centre_point: " in result.failures()[1]
    assert "points, allowed 0.2 points" in result.failures()[1]


def test_the_budget_depends_on_the_precision(
    disc_precisions: Callable[..., Path], make_precision: Any, lesions: FrameSource
) -> None:
    # 2 r^2 / (r^2 + R^2) is about 1 - (R - r) / R: 0.14 of 42 cost a third of a point.
    change = make_precision(logit_shift=-0.14)
    folder = disc_precisions({name: change for name in ("fp16", "int8", "int8-cpu")})
    result = verify_bundle(folder, lesions, threads=1)
    (_, point) = only(result, "fp16").figures.protocols
    assert point.dice_drop is not None and 0.2 < point.dice_drop < 0.5
    assert "fp16_dice_drop" in failed_gates(only(result, "fp16"))
    assert only(result, "int8").passed and only(result, "int8-cpu").passed
    generous = verify_bundle(folder, lesions, threads=1, gates=GATES.with_max_drop(1.0))
    assert generous.passed
    assert not verify_bundle(folder, lesions, threads=1, gates=GATES.with_max_drop(0.0)).passed


def test_the_embeddings_are_compared(
    disc_precisions: Callable[..., Path], make_precision: Any, lesions: FrameSource
) -> None:
    folder = disc_precisions({"fp16": make_precision(embedding_divisor=2)})
    figures = only(verify_bundle(folder, lesions, ["fp16"], threads=1), "fp16").figures
    # Half as large everywhere: the same direction, 0.2 / 2 apart; discs are 10 * 0.1 smaller.
    assert figures.embedding_cosine_mean == pytest.approx(1.0, abs=1e-12)
    assert figures.embedding_error_max == pytest.approx(0.1, abs=1e-7)
    assert figures.protocols[0].logit_error_max == pytest.approx(1.0, abs=FLOAT32_MEAN)


def test_the_reference_is_judged_by_itself(
    disc_precisions: Callable[..., Path], lesions: FrameSource
) -> None:
    result = verify_bundle(disc_precisions({}), lesions, threads=1)
    verified = only(result, "fp32")
    assert result.passed
    figures = verified.figures
    assert (figures.repeat_logit_error, figures.threads_logit_error) == (0.0, 0.0)
    assert figures.embedding_cosine_mean is None and figures.protocols[0].mask_iou_mean is None
    assert figures.protocols[1].dice == pytest.approx(1.0, abs=PIXELS)
    assert figures.iou_prediction_range == pytest.approx((2.1, 2.1))  # 0.1 + two points
    held = {outcome.name: outcome.value for outcome in verified.outcomes}
    assert held["parity_logit_error"] == 1e-4 and held["parity_mask_iou"] == 0.9999


@pytest.mark.parametrize(
    "change", [{"logit_shift": math.nan}, {"embedding_divisor": math.nan}, {"logit_shift": 1e38}]
)
def test_values_that_are_not_finite_fail_without_a_crash(
    disc_precisions: Callable[..., Path],
    make_precision: Any,
    lesions: FrameSource,
    change: dict[str, float],
) -> None:
    folder = disc_precisions({"fp16": make_precision(**change)})
    result = verify_bundle(folder, lesions, threads=1, pictures=1)
    assert only(result, "fp32").passed
    verified = only(result, "fp16")
    figures = verified.figures
    assert not verified.passed
    if change.get("logit_shift") == 1e38:
        assert failed_gates(verified)[0] == "largest_value"
    else:
        assert failed_gates(verified)[0] == "not_finite"
        assert figures.not_finite_prompts == 6
        assert figures.not_finite_frames == (2 if "embedding_divisor" in change else 0)
        assert figures.protocols[0].logit_error_max is None
        # No pixel belongs to a mask of NaN: the whole Dice of the reference is lost.
        assert figures.protocols[1].dice == 0.0
        assert figures.protocols[1].empty_masks == 3
    json.dumps(result.to_json(), allow_nan=False)


def test_a_precision_that_does_not_run_has_failed(
    disc_precisions: Callable[..., Path], make_precision: Any, lesions: FrameSource
) -> None:
    folder = disc_precisions({"fp16": make_precision(runs=False), "int8": make_precision()})
    result = verify_bundle(folder, lesions, threads=1)
    assert failed_gates(only(result, "fp16")) == ["runs"]
    (failure,) = result.failures()
    assert failure.startswith("fp16: graphs that do not run: ONNX Runtime ")
    assert only(result, "int8").passed
    json.dumps(result.to_json(), allow_nan=False)


def test_without_true_masks_the_agreement_is_judged(
    disc_precisions: Callable[..., Path], make_precision: Any
) -> None:
    images = {"a": np.full((256, 256), 51, np.uint8), "b": np.full((100, 300), 51, np.uint8)}
    source = frames_of_images(images, seed=3)
    # (41.5 / 42)^2 = 0.976: too little for fp16's mean, enough for its worst and for int8.
    change = make_precision(logit_shift=-0.5)
    result = verify_bundle(disc_precisions({"fp16": change, "int8": change}), source, threads=1)
    assert "lesions" not in result.about and result.about["prompts"] == 6
    verified = only(result, "fp16")
    assert failed_gates(verified) == ["fp16_mean_mask_iou"] * 3
    assert only(result, "int8").passed
    assert all(figures.dice is None for figures in verified.figures.protocols)
    assert verified.figures.protocols[0].mask_iou_worst_case in images


def test_speed_is_information_and_not_judged_of_a_tensorrt_recipe(
    disc_precisions: Callable[..., Path], make_precision: Any, lesions: FrameSource
) -> None:
    change = make_precision()
    folder = disc_precisions({"fp16": change, "int8": change, "int8-cpu": change})
    result = verify_bundle(folder, lesions, threads=1)
    latency: Any = {each.precision: each.figures.latency for each in result.precisions}
    assert latency["fp32"].ratio is None and latency["fp32"].encoder_ms > 0
    assert latency["fp16"].is_faster in (True, False)
    assert latency["int8"].is_faster is None and "TensorRT" in latency["int8"].note
    assert latency["int8-cpu"].is_faster in (True, False)
    assert not {"speed", "latency"} & {o.name for e in result.precisions for o in e.outcomes}


def test_the_worst_disagreements_are_kept(
    disc_precisions: Callable[..., Path], make_precision: Any, lesions: FrameSource
) -> None:
    folder = disc_precisions(
        {"fp16": make_precision(logit_shift=-2), "int8": make_precision(logit_shift=0)}
    )
    kept = verify_bundle(folder, lesions, threads=1, pictures=2).disagreements
    assert [each.precision for each in kept] == ["fp16", "fp16"]  # equal masks are none
    assert kept[0].comparison.mask_iou <= kept[1].comparison.mask_iou < 1
    assert kept[0].target is not None
    assert (kept[0].mask <= kept[0].reference_mask).all()  # the smaller disc
    assert verify_bundle(folder, lesions, threads=1).disagreements == ()


def test_wrong_arguments_are_refused(
    disc_precisions: Callable[..., Path], lesions: FrameSource
) -> None:
    folder = disc_precisions({})
    with pytest.raises(BackendError, match=r"is in fp32, not in fp16\."):
        verify_bundle(folder, lesions, ["fp16"])
    with pytest.raises(ValueError, match="precisions must name at least one"):
        verify_bundle(folder, lesions, [])
    with pytest.raises(ValueError, match="at least one frame"):
        verify_bundle(folder, FrameSource((), 0, {}))
    with pytest.raises(ValueError, match="pictures must be at least 0, got -1"):
        verify_bundle(folder, lesions, pictures=-1)
