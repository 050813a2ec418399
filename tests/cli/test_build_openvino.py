"""`samus-edge build --backend openvino`, where OpenVINO is installed."""

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from samus_edge.runtime import Segmenter

pytestmark = pytest.mark.skipif(
    find_spec("openvino") is None,
    reason="OpenVINO is not installed: pip install 'samus-edge[openvino]'",
)

Run = Callable[..., Any]


def test_it_is_compared_once_and_again_where_that_is_asked(
    run: Run, disc_bundle: Path, tmp_path: Path
) -> None:
    arguments = ("build", "--backend", "openvino", "--bundle", disc_bundle, "--cache", tmp_path)
    documents = []
    for more in ((), (), ("--rebuild",)):
        outcome = run(*arguments, "--threads", "1", "--json", *more)
        assert (outcome.exit_code, outcome.stderr) == (0, "")
        documents.append(json.loads(outcome.stdout))
    first, kept, again = (document["precisions"]["fp32"] for document in documents)
    assert (documents[0]["device"], documents[0]["threads"]) == ("CPU", 1)
    assert first["check"]["masks"] == 32
    assert first["is_faster"] == (
        first["milliseconds"][first["precision"]] < 0.95 * first["milliseconds"]["onnxruntime"]
    )
    # Times to a hundredth of a millisecond are not the same twice.
    assert kept["milliseconds"] == first["milliseconds"] != again["milliseconds"]


def test_what_it_says_is_what_auto_does(
    run: Run, disc_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMUS_EDGE_CACHE", str(tmp_path))
    said = run("build", "--backend", "openvino", "--bundle", disc_bundle).stdout
    with Segmenter.load(disc_bundle) as segmenter:
        taken = segmenter.backend.name
    assert ("auto takes it" if taken == "openvino" else "auto keeps to ONNX Runtime") in said


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (("--backend", "onnxruntime"), 2, "must be tensorrt or openvino, got 'onnxruntime'"),
        (("--backend", "openvino", "--device", "tpu"), 1, "no device TPU on this machine"),
        (("--backend", "openvino", "--precision", "fp16"), 1, "is in fp32, not in fp16"),
    ],
)
def test_what_cannot_be_compared_is_one_line(
    run: Run,
    disc_bundle: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    exit_code: int,
    message: str,
) -> None:
    outcome = run("build", "--bundle", disc_bundle, "--cache", tmp_path, *arguments)
    assert (outcome.exit_code, outcome.stdout) == (exit_code, "")
    assert message in outcome.stderr
    assert outcome.stderr.count("\n") == 1
