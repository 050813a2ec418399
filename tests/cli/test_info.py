"""`samus-edge info`."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from samus_edge.cli.info import bundle_lines
from samus_edge.modeling import samus_hf_tiny
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.weights.model_file import save_model

Run = Callable[..., Any]


def test_json_is_one_document_with_the_manifest(run: Run, bundle: Path) -> None:
    outcome = run("info", "--json")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    document = json.loads(outcome.stdout)
    assert document["manifest"] == json.loads((bundle / "manifest.json").read_text("utf-8"))
    assert document["hashes_verified"] is True
    assert document["path"] == str(bundle)


def test_a_tampered_graph_is_one_line_and_exit_code_1(
    run: Run, bundle: Path, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    graph = copy / "mask_decoder.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    outcome = run("info", "--bundle", copy)
    assert (outcome.exit_code, outcome.stdout) == (1, "")
    assert "mask_decoder.onnx has SHA-256" in outcome.stderr
    assert outcome.stderr.count("\n") == 1


def test_a_zip_is_shown_like_its_folder(run: Run, bundle: Path, tmp_path: Path) -> None:
    path = Path(shutil.make_archive(str(tmp_path / "model"), "zip", bundle.parent, bundle.name))
    outcome = run("info", "--bundle", path, "--json")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    document = json.loads(outcome.stdout)
    assert document["path"] == str(path)
    assert document["manifest"] == json.loads((bundle / "manifest.json").read_text("utf-8"))
    assert str(path) in run("info", "--bundle", path).stdout


@pytest.mark.parametrize("arch", ["tiny", "vit_b"])
def test_an_architecture_is_shown_by_its_parts(run: Run, arch: str) -> None:
    outcome = run("info", "--arch", arch, "--json")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    document = json.loads(outcome.stdout)
    assert (document["arch"], document["hf"], document["gate"]) == (arch, True, True)
    for key, total in (("parameters", "parameters"), ("trainable", "trainable")):
        assert sum(part[key] for part in document["parts"]) == document[total]
    assert (document["trainable"] == document["parameters"]) == (arch == "tiny")
    text = run("info", "--arch", arch)
    assert text.exit_code == 0
    for part in document["parts"]:
        (line,) = (line for line in text.stdout.splitlines() if f"│ {part['part']} " in line)
        assert f"{part['parameters']:,}" in line and f"{part['trainable']:,}" in line
    assert f"{document['parameters']:,}" in text.stdout


def test_weights_are_shown_with_their_switches(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    model = samus_hf_tiny(gate=False)
    save_model(model, path, {"arch": "tiny", "hf": True, "gate": False})
    outcome = run("info", "--weights", path, "--json")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    document = json.loads(outcome.stdout)
    assert document["weights"] == str(path)
    assert (document["arch"], document["hf"], document["gate"]) == ("tiny", True, False)
    assert document["parameters"] == sum(p.numel() for p in model.parameters())
    assert "gate" not in {part["part"] for part in document["parts"]}
    assert "tiny, hf on, gate off" in " ".join(run("info", "--weights", path).stdout.split())


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (("--arch", "vit_h"), 2, "one of tiny, vit_b, got 'vit_h'"),
        (("--arch", "tiny", "--weights", "x"), 2, "exclude each other"),
        (("--weights", "nowhere.safetensors"), 1, "nowhere.safetensors"),
        (("--bundle", "nowhere"), 1, "nowhere does not exist"),
        (("--bundle", __file__), 1, "is neither a folder nor a whole zip file"),
    ],
)
def test_what_cannot_be_shown_is_one_line(
    run: Run, arguments: tuple[str, ...], exit_code: int, message: str
) -> None:
    outcome = run("info", *arguments)
    assert (outcome.exit_code, outcome.stdout) == (exit_code, "")
    assert message in outcome.stderr and outcome.stderr.count("\n") == 1


def test_the_lines_name_all_that_matters(disc_bundle: Path) -> None:
    bundle = Bundle.open(disc_bundle)
    text = "\n".join(bundle_lines(bundle, whole=True))
    for part in (
        "discs: samus_hf (tiny), bundle format 1.2",
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


def test_intended_use_and_limits_come_first_and_the_record_on_demand(disc_bundle: Path) -> None:
    lines = bundle_lines(Bundle.open(disc_bundle))
    assert lines[2] == "intended use"
    assert lines.index("limits") < lines.index("precisions") < lines.index("accuracy")
    assert "parity" not in lines and "credits" not in lines


def test_what_was_not_measured_and_half_stored_weights_are_said(disc_bundle: Path) -> None:
    bundle = Bundle.open(disc_bundle)
    half = dataclasses.replace(bundle.graph_record("image_encoder"), weight_storage="fp16")
    manifest = dataclasses.replace(
        bundle.manifest,
        graphs={**bundle.manifest.graphs, "image_encoder": half},
        parity={},
        accuracy={},
        limits=(),
        credits=(),
    )
    lines = bundle_lines(dataclasses.replace(bundle, manifest=manifest), whole=True)
    assert lines[lines.index("parity") + 1] == "  not measured"
    assert lines[lines.index("accuracy") + 1] == "  not measured"
    assert "limits" not in lines
    assert "fp32 with fp16 weights" in "\n".join(lines)
