"""`samus-edge build`, with real engines by TensorRT-RTX."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from samus_edge.runtime.backends.gpu import find_device

Run = Callable[..., Any]


@pytest.fixture(autouse=True)
def rtx() -> None:
    """TensorRT-RTX."""
    pytest.importorskip(
        "tensorrt_rtx",
        reason="TensorRT-RTX is not installed: pip install 'samus-edge[tensorrt-rtx]'",
        exc_type=ImportError,
    )


def test_both_engines_are_built_once_and_listed(run: Run, tmp_path: Path) -> None:
    arguments: tuple[Any, ...] = (
        "build",
        "--flavour",
        "tensorrt_rtx",
        "--compute-capability",
        "8.6",
    )
    arguments += ("--cache", tmp_path)
    for was_built in (True, False):
        outcome = run(*arguments, "--json")
        assert (outcome.exit_code, outcome.stderr) == (0, "")
        document = json.loads(outcome.stdout)
        assert (document["gpu"], document["compute_capability"]) == (None, "8.6")
        assert list(document["engines"]) == ["image_encoder", "mask_decoder", "lesion_proposer"]
        for engine in document["engines"].values():
            assert engine["was_built"] is was_built
            assert Path(engine["file"]).stat().st_size == engine["bytes"] > 200_000
    assert "from the cache" in run(*arguments).stdout
    listed = json.loads(run("build", "--list", "--cache", tmp_path, "--json").stdout)
    assert {engine["graph"] for engine in listed["engines"]} == set(document["engines"])
    assert "3 engines" in run("build", "--list", "--cache", tmp_path).stdout


def test_one_frame_size_is_another_engine(run: Run, disc_bundle: Path, tmp_path: Path) -> None:
    arguments: tuple[Any, ...] = (
        *("build", "--bundle", disc_bundle),
        "--flavour",
        "tensorrt_rtx",
        "--compute-capability",
        "8.9",
        "--json",
    )
    arguments += ("--cache", tmp_path, "--frame-size", "300x400", "--max-prompts", "1")
    assert run(*arguments).exit_code == 0
    listed = json.loads(run("build", "--list", "--cache", tmp_path, "--json").stdout)["engines"]
    profiles = {engine["graph"]: json.loads(engine["profiles"]) for engine in listed}
    assert profiles["image_encoder"] == [{"image": [[1, 300, 400]] * 3}]
    assert len(profiles["mask_decoder"]) == 1


def test_engines_that_could_not_be_kept_are_an_error(
    run: Run, disc_bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("no folder")
    options = (
        "--bundle",
        disc_bundle,
        "--flavour",
        "tensorrt_rtx",
        "--compute-capability",
        "8.9",
        "--frame-size",
        "64x64",
    )
    outcome = run("build", *options, "--cache", tmp_path / "file" / "cache")
    assert outcome.exit_code == 1
    assert "engines of image_encoder, mask_decoder were built, but could not" in outcome.stderr


def test_without_a_gpu_a_capability_is_asked_for(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from samus_edge.errors import BackendError

    def find(*_: object, **__: object) -> None:
        raise BackendError("no driver.")

    monkeypatch.setattr(find_device, "find_device", find)
    outcome = run("build", "--flavour", "tensorrt_rtx", "--cache", tmp_path)
    assert (outcome.exit_code, outcome.stdout) == (1, "")
    assert "no driver. To build for a GPU that is not here: --compute-capability" in outcome.stderr
    assert outcome.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        (("--precision", "int8-cpu"), 2, "zero points other than 0"),
        (("--precision", "fp64"), 2, "precision must be one of"),
        (("--precision", "fp16"), 1, "calibrate --precision fp16"),
        (("--compute-capability", "9.0"), 1, "does not build for the compute capability '9.0'"),
        (("--frame-size", "300"), 2, "is not HxW"),
        (("--frame-range", "1x1,2x2"), 2, "has 2 sizes, expected 3"),
        (("--frame-range", "9x9,2x2,3x3"), 2, "smallest <= typical <= largest"),
        (("--frame-range", "1x1,2x2,3x3", "--frame-size", "2x2"), 2, "goes without --frame-size"),
        (("--max-prompts", "0"), 2, "--max-prompts"),
        (("--flavour", "rtx"), 2, "flavour must be one of"),
        (("--bundle", "nowhere"), 1, "nowhere"),
    ],
)
def test_what_cannot_be_built_is_one_line(
    run: Run, tmp_path: Path, arguments: tuple[str, ...], exit_code: int, message: str
) -> None:
    defaults = () if "--compute-capability" in arguments else ("--compute-capability", "8.6")
    flavour = () if "--flavour" in arguments else ("--flavour", "tensorrt_rtx")
    outcome = run("build", "--cache", tmp_path, *defaults, *flavour, *arguments)
    assert (outcome.exit_code, outcome.stdout) == (exit_code, "")
    assert message in outcome.stderr
    assert outcome.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*.json"))
