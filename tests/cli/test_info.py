"""`samus-edge info`."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from samus_edge.runtime.bundle import default_bundle_folder

Run = Callable[..., Any]


def test_json_is_one_document_with_the_manifest(run: Run, bundle: Path) -> None:
    outcome = run("info", "--bundle", bundle, "--json")
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    document = json.loads(outcome.stdout)
    assert document["manifest"] == json.loads((bundle / "manifest.json").read_text("utf-8"))
    assert document["hashes_verified"] is True


def test_text_names_graphs_and_hashes(run: Run, bundle: Path) -> None:
    outcome = run("info", "--bundle", bundle)
    assert (outcome.exit_code, outcome.stderr) == (0, "")
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    for graph in manifest["graphs"].values():
        assert graph["sha256"] in outcome.stdout
    assert f"licence: {manifest['licence']}" in outcome.stdout


def test_the_default_bundle_is_shown_without_argument(run: Run) -> None:
    if not default_bundle_folder().is_dir():
        pytest.skip(f"this checkout has no default bundle in {default_bundle_folder()}")
    outcome = run("info")
    assert outcome.exit_code == 0
    assert str(default_bundle_folder()) in outcome.stdout


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


def test_an_unknown_bundle_is_one_line_and_exit_code_1(run: Run, tmp_path: Path) -> None:
    outcome = run("info", "--bundle", tmp_path / "nowhere")
    assert (outcome.exit_code, outcome.stdout) == (1, "")
    assert "nowhere does not exist" in outcome.stderr
    assert outcome.stderr.count("\n") == 1
