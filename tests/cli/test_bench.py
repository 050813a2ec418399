"""`samus-edge bench`."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import pytest

Run = Callable[..., Any]
QUICK = ("--compare", "none", "--batch", "1,2", "--prompts", "1,2", "--rounds", "1", "--runs", "2")
ONE = (*QUICK, "--backend", "onnxruntime")


def test_results_as_tables_file_and_chart(
    run: Run, tmp_path: Path, openvino_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMUS_EDGE_CACHE", str(openvino_cache))
    out, chart = tmp_path / "bench.json", tmp_path / "bench.png"
    outcome = run("bench", *QUICK, "--threads", 2, "--out", out, "--chart", chart)
    assert outcome.exit_code == 0
    assert "onnxruntime fp32" in outcome.stdout
    assert "onnxruntime-gpu[cuda,cudnn]" in outcome.stdout.replace("\n", "")  # no markup
    document = json.loads(out.read_text())
    assert document["runs_in_a_turn"] == 2
    subjects = ["onnxruntime fp32", *(["openvino fp32"] if find_spec("openvino") else [])]
    stages = [("image_encoder", 1), ("image_encoder", 2), ("mask_decoder", 1), ("mask_decoder", 2)]
    for subject in subjects:
        rows = [row for row in document["results"] if row["subject"] == subject]
        assert [(row["stage"], row["items"]) for row in rows] == [*stages, ("end_to_end", 1)]
    assert all(row["latency"]["p50"] > 0 for row in document["results"])
    picture = cv2.imread(str(chart))
    assert picture is not None
    assert min(picture.shape[:2]) > 600


def test_json_is_one_document(run: Run) -> None:
    outcome = run("bench", *ONE, "--frame-size", "48x64", "--json")
    assert outcome.exit_code == 0
    document = json.loads(outcome.stdout)
    assert document["frame_hw"] == [48, 64]


def test_a_frame_of_ones_own(run: Run, image: Path) -> None:
    outcome = run("bench", *ONE, "--image", image, "--json")
    assert json.loads(outcome.stdout)["frame_hw"] == [384, 384]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--batch", "0"), "--batch '0' is not different integers of at least 1"),
        (("--prompts", "2,2"), "--prompts '2,2' is not"),
        (("--compare", "tvm"), "got 'tvm'"),
        (("--backend", "gpu"), "got 'gpu'"),
        (("--backend", "auto"), "leave it out"),
        (("--precision", "fp8"), "got 'fp8'"),
        (("--frame-size", "big"), "is not HxW"),
        (("--out", "x.txt"), "does not end in .json"),
        (("--chart", "nowhere/x.png"), "does not exist"),
    ],
)
def test_bad_arguments(run: Run, arguments: tuple[str, ...], message: str) -> None:
    outcome = run("bench", *arguments)
    assert outcome.exit_code == 2
    assert message in outcome.stderr
    assert outcome.stdout == ""
