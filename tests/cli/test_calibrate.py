"""The command `samus-edge calibrate`."""

import json
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from samus_edge.calibration import sensitivity
from samus_edge.runtime.quality import FEATURES
from samus_edge.verification import verify_bundle as bundle_proof
from tests.conftest import FRAMES_DIR

Run = Callable[..., Any]


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """A folder of two small real frames."""
    folder = tmp_path / "frames"
    folder.mkdir()
    for name in ("malignant_36_256x256.png", "benign_188_128x128.png"):
        shutil.copy(FRAMES_DIR / name, folder)
    return folder


@pytest.fixture(autouse=True)
def two_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer blocks, to be quick."""
    monkeypatch.setattr(
        sensitivity, "block_of", lambda node: f"part{zlib.crc32(node.encode()) % 2}"
    )


def test_frames_of_a_folder_give_a_bundle_and_a_chart(
    run: Run, bundle: Path, frames: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    proved: list[tuple[str, ...]] = []

    def prove(draft: Path, source: object, precisions: tuple[str, ...], **options: object) -> None:
        proved.append(precisions)

    # which takes longer than all else, and has tests of its own
    monkeypatch.setattr(bundle_proof, "prove", prove)
    out, charts = tmp_path / "out", tmp_path / "charts"
    outcome = run(
        *("calibrate", "--bundle", bundle, "--out", out, "--frames", frames, "--seed", 3),
        *("--precision", "fp16", "--precision", "int8-cpu", "--budget", 100),
        *("--chart", charts),
    )
    assert outcome.exit_code == 0, outcome.stderr
    assert proved == [("fp32", "fp16", "int8-cpu")]
    assert "2 of 2 blocks" in outcome.stdout
    assert "int8-cpu on the calibration frames: Dice drop" in outcome.stdout
    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert list(manifest["precisions"]) == ["fp16", "int8-cpu"]
    about = manifest["graphs"]["image_encoder.int8-cpu"]["conversion"]
    assert (about["data"], about["frames"], about["seed"]) == ("frames", 2, 3)
    assert (about["ranges"], about["max_dice_drop"]) == ("minmax", 100)
    assert "image_encoder.int8" not in manifest["graphs"]
    assert [path.name for path in charts.iterdir()] == ["sensitivity_int8-cpu.png"]
    outcome = run("calibrate", "--out", out, "--frames", frames, "--precision", "fp16")
    assert (outcome.exit_code, outcome.stdout) == (1, "")
    assert outcome.stderr.startswith(f"error: {out} exists.")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give either --data or --frames."),
        (("--frames", "FRAMES", "--data", "FRAMES"), "give either --data or --frames."),
        (("--frames", "FRAMES", "--split", "SPLIT"), "--split: goes with --data"),
        (("--frames", "FRAMES", "--precision", "int4"), "int8, int8-cpu, got int4."),
        (("--frames", "FRAMES", "--budget", "-1"), "from 0 to 100 points, got -1.0."),
        (("--frames", "FRAMES", "--budget", "nan"), "from 0 to 100 points, got nan."),
        (("--frames", "FRAMES", "--count", "0"), "'--count'"),
        (("--frames", "nowhere"), "'nowhere' does not exist"),
    ],
)
def test_bad_arguments_are_one_line(
    options: tuple[str, ...], message: str, run: Run, frames: Path, tmp_path: Path
) -> None:
    split = tmp_path / "split.json"
    split.write_text("{}")
    places = {"FRAMES": frames, "SPLIT": split}
    given = [places.get(option, option) for option in options]
    outcome = run("calibrate", "--precision", "fp16", "--out", tmp_path / "out", *given)
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert outcome.stderr.startswith("error: ")
    assert outcome.stderr.count("\n") == 1
    assert message in outcome.stderr
    assert not (tmp_path / "out").exists()


def test_a_folder_without_images_and_a_missing_bundle_are_one_line(
    run: Run, frames: Path, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    for options, message in (
        (("--frames", empty), "holds no image"),
        (("--frames", frames, "--bundle", tmp_path / "nowhere"), "nowhere does not exist"),
    ):
        outcome = run("calibrate", "--precision", "fp16", "--out", tmp_path / "out", *options)
        assert (outcome.exit_code, outcome.stdout) == (1, "")
        assert message in outcome.stderr
        assert outcome.stderr.count("\n") == 1


def test_how_far_masks_can_be_trusted_is_fitted_on_several_datasets(
    run: Run, disc_bundle: Path, two_datasets: tuple[Path, Path], tmp_path: Path
) -> None:
    """Few lesions adapt the calibration that the bundle has; nothing else of it changes."""
    data, config = two_datasets
    mine = shutil.copytree(disc_bundle, tmp_path / "mine")
    before = json.loads((mine / "manifest.json").read_text(encoding="utf-8"))
    earlier = {
        "version": 1,
        "coefficients": {**dict.fromkeys(FEATURES, 0.0), "intercept": 0.0},
        "factors": [{"from_probability": 0.0, "area": [0.9, 1.1], "diameter": [0.9, 1.1]}],
        "data": {"data": "another"},
    }
    (mine / "manifest.json").write_text(json.dumps(before | {"quality": earlier}))
    arguments = ("calibrate", "--quality", "--bundle", mine, "--data", data, "--config", config)
    outcome = run(*arguments)
    assert outcome.exit_code == 0, outcome.stderr
    after = json.loads((mine / "manifest.json").read_text(encoding="utf-8"))
    about = after.pop("quality")["data"]
    assert after == before
    assert (about["adapted_from"], about["subset"]) == ({"data": "another"}, "val")
    assert set(about["lesions"]) == {"busi", "discs"}
    assert about["masks"] == 5 * sum(about["lesions"].values())
    refused = run(*arguments, "--out", tmp_path / "out")
    assert refused.exit_code == 2 and "--quality" in refused.stderr
