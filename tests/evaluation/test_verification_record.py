"""Verdicts in a manifest."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samus_edge.errors import BundleError
from samus_edge.evaluation.bundle_verification import VerificationResult, verify_bundle
from samus_edge.evaluation.verification_record import record_verification
from samus_edge.evaluation.verification_source import frames_of_images
from samus_edge.runtime.bundle import Bundle
from samus_edge.runtime.manifest import FORMAT_VERSION, MANIFEST_FILE, Manifest

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
    # The bundle travels further than the frames it was verified on.
    assert PATIENT not in (folder / MANIFEST_FILE).read_text()


def test_only_what_failed_was_allowed_to(
    folder: Path, verify: Callable[..., VerificationResult]
) -> None:
    written: Any = record_verification(Bundle.open(folder), verify(), allow_failing=True)
    assert written.verification["fp16"]["allowed_failing"] is True
    assert "allowed_failing" not in written.verification["int8"]


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


@pytest.mark.parametrize("version", ["1.1", "1.10"])
def test_a_newer_format_version_stays(
    folder: Path, verify: Callable[..., VerificationResult], version: str
) -> None:
    bundle = Bundle.open(folder)
    bundle = replace(bundle, manifest=replace(bundle.manifest, format_version=version))
    assert record_verification(bundle, verify("int8")).format_version == version


def test_a_zip_is_never_written(
    folder: Path, verify: Callable[..., VerificationResult], tmp_path: Path
) -> None:
    path = Path(shutil.make_archive(str(tmp_path / "discs"), "zip", folder))
    with pytest.raises(BundleError, match=r"discs\.zip is a zip file, which is only read"):
        record_verification(Bundle.open(path), verify("int8"))


def test_the_verification_of_other_graphs_is_refused(
    folder: Path, verify: Callable[..., VerificationResult]
) -> None:
    result = verify("fp16")
    bundle = Bundle.open(folder)
    precisions = {"fp16": bundle.manifest.precisions["int8"]}
    other = replace(bundle, manifest=replace(bundle.manifest, precisions=precisions))
    before = (folder / MANIFEST_FILE).read_bytes()
    with pytest.raises(ValueError, match="the verification is of the fp16 image_encoder"):
        record_verification(other, result)
    assert (folder / MANIFEST_FILE).read_bytes() == before
    assert Manifest.read(folder / MANIFEST_FILE).verification == {}
