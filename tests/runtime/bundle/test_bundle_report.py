"""What `samus-edge info` says."""

import dataclasses
import json
from pathlib import Path

from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.bundle_report import bundle_json, bundle_lines


def test_the_document_is_the_manifest_and_where_it_was_found(disc_bundle: Path) -> None:
    document = json.loads(json.dumps(bundle_json(Bundle.open(disc_bundle)), allow_nan=False))
    assert document["path"] == str(disc_bundle)
    assert document["hashes_verified"] is True
    assert document["manifest"] == json.loads((disc_bundle / "manifest.json").read_text())


def test_the_lines_name_all_that_matters(disc_bundle: Path) -> None:
    bundle = Bundle.open(disc_bundle)
    text = "\n".join(bundle_lines(bundle))
    for part in (
        "discs: samus_hf (tiny), bundle format 1.1",
        str(disc_bundle),
        "made with: samus_edge 0.1.0",
        "SHA-256 of each verified",
        bundle.graph_record("image_encoder").sha256,
        "fp32, opset 18",
        "input   image uint8 (B, H, W)",
        "output  low_res_masks float32 (N, 4, 128, 128)",
        "max_abs_difference: 0.00012",
        "    dice: 0.9",
        "Tests of the runtime.",
        "  - Draws discs.",
        "licence: Apache-2.0",
        "  - nobody",
    ):
        assert part in text


def test_what_was_not_measured_is_said(disc_bundle: Path) -> None:
    bundle = Bundle.open(disc_bundle)
    manifest = dataclasses.replace(bundle.manifest, parity={}, accuracy={}, limits=(), credits=())
    lines = bundle_lines(dataclasses.replace(bundle, manifest=manifest))
    assert lines[lines.index("parity") + 1] == "  not measured"
    assert lines[lines.index("accuracy") + 1] == "  not measured"
    assert "limits" not in lines


def test_half_stored_weights_are_said(disc_bundle: Path) -> None:
    bundle = Bundle.open(disc_bundle)
    half = dataclasses.replace(bundle.graph_record("image_encoder"), weight_storage="fp16")
    manifest = dataclasses.replace(
        bundle.manifest, graphs={**bundle.manifest.graphs, "image_encoder": half}
    )
    text = "\n".join(bundle_lines(dataclasses.replace(bundle, manifest=manifest)))
    assert "fp32 with fp16 weights" in text
