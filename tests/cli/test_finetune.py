"""The command `samus-edge finetune`."""

import csv
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from samus_edge.runtime import Segmenter

Run = Callable[..., Any]


def drawn_lesion(number: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """An image with a dark ellipse in bright noise, and the ellipse; of another place each time."""
    rng = np.random.default_rng(number)
    rows, columns = np.mgrid[0:96, 0:128]
    y, x = rng.uniform(0.3, 0.7, 2) * (96, 128)
    a, b = rng.uniform(0.12, 0.25, 2) * (96, 128)
    lesion = ((rows - y) / a) ** 2 + ((columns - x) / b) ** 2 < 1
    texture = cv2.GaussianBlur(rng.normal(0, 200, lesion.shape), (0, 0), 4)
    image = np.clip(150 + texture - 110 * lesion, 0, 255).astype(np.uint8)
    return image, lesion


@pytest.fixture
def drawn_folder(tmp_path: Path) -> Path:
    """Six such images with masks."""
    root = tmp_path / "drawn"
    for number in range(6):
        image, lesion = drawn_lesion(number)
        for folder, pixels in (("images", image), ("masks", lesion.astype(np.uint8) * 255)):
            (root / folder).mkdir(parents=True, exist_ok=True)
            assert cv2.imwrite(str(root / folder / f"case_{number}.png"), pixels)
    return root


@pytest.mark.slow
def test_a_folder_becomes_a_bundle_and_a_report_also_after_ctrl_c(
    run: Run, drawn_folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "mine"
    arguments = ("finetune", "--data", drawn_folder, "--out", out, "--test", "[45]$")
    ended = threading.Event()

    def interrupt_when_a_state_is_there() -> None:
        while not ended.wait(0.02):
            if (out / "training" / "state.pt").exists():
                os.kill(os.getpid(), signal.SIGINT)
                return

    thread = threading.Thread(target=interrupt_when_a_state_is_there)
    thread.start()
    stopped = run(*arguments, "--minutes", "1000")
    ended.set()
    thread.join()
    assert stopped.exit_code == 130 and "run the same command again" in stopped.stderr

    outcome = run(*arguments, "--minutes", "0.04", "--name", "mine", "--credit", "Drawn by a test.")
    assert outcome.exit_code == 0, outcome.stderr
    assert "images with lesions: train 3, val 1, test 2;" in outcome.stdout
    with (out / "training" / "history.csv").open(newline="") as file:
        losses = {int(row["epoch"]): float(row["val_loss"]) for row in csv.DictReader(file)}
    assert len(losses) >= 2

    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["images"] == {"train": 3, "val": 1, "test": 2} and report["subset"] == "test"
    assert report["training"]["best_epoch"] == min(losses, key=losses.__getitem__)  # 0: the start
    assert list(report["dice"]) == ["box_5%", "box_20%", "centre_point"]
    with Segmenter.load(out / "bundle") as segmenter:
        dices = []
        for number in (4, 5):
            image, lesion = drawn_lesion(number)
            rows, columns = np.nonzero(lesion)
            point = [[columns.mean(), rows.mean()]]
            mask = segmenter.segment(image, point_coords=[point], point_labels=[[1]]).masks[0, 0]
            dices.append(2 * (mask & lesion).sum() / (mask.sum() + lesion.sum()))
    assert np.mean(dices) == pytest.approx(report["dice"]["centre_point"]["mean_second"], abs=1e-6)
    manifest = json.loads((out / "bundle" / "manifest.json").read_text(encoding="utf-8"))
    assert (manifest["name"], manifest["credits"][0]) == ("mine", "Drawn by a test.")
    assert manifest["verification"]["fp32"]["passed"] is True
    assert manifest["quality"]["data"]["adapted_from"]["data"] == "tiny_many"
    recorded = manifest["accuracy"]["results"]["centre_point"]["all"]["dice"]
    assert recorded == pytest.approx(np.mean(dices), abs=1e-4)
    assert "data:image/jpeg;base64," in (out / "report.html").read_text(encoding="utf-8")

    before = (out / "bundle" / "image_encoder.onnx").stat().st_mtime_ns
    again = run(*arguments, "--minutes", "0.04")
    assert again.exit_code == 0, again.stderr
    assert (out / "bundle" / "image_encoder.onnx").stat().st_mtime_ns == before
    assert json.loads((out / "report.json").read_text(encoding="utf-8")) == report


def leave_one_image(root: Path) -> None:
    """Nothing to split."""
    for path in [*root.glob("*/case_[1-5].png")]:
        path.unlink()


def repeat_one_image(root: Path) -> None:
    """Near-duplicates alone."""
    for folder in ("images", "masks"):
        for path in root.glob(f"{folder}/case_[1-5].png"):
            path.write_bytes((root / folder / "case_0.png").read_bytes())


def enlarge_a_mask(root: Path) -> None:
    """A mask of another size."""
    assert cv2.imwrite(str(root / "masks" / "case_3.png"), np.full((50, 60), 255, np.uint8))


def remove_the_masks(root: Path) -> None:
    """Images alone."""
    for path in root.glob("masks/*"):
        path.unlink()
    (root / "masks").rmdir()


def empty_a_mask(root: Path) -> None:
    """Nothing is marked."""
    assert cv2.imwrite(str(root / "masks" / "case_3.png"), np.zeros((96, 128), np.uint8))


@pytest.mark.parametrize(
    ("spoil", "options", "exit_code", "messages"),
    [
        (leave_one_image, (), 2, ("1 cases in 1 groups", "Add cases")),
        (repeat_one_image, (), 2, ("6 cases in 1 groups", "Add cases")),
        (enlarge_a_mask, (), 1, ("masks/case_3.png is 60x50", "128x96")),
        (remove_the_masks, (), 1, ("does not fit any layout", "masks/NAME")),
        (empty_a_mask, (), 1, ("every mask of 'case_3' is empty",)),
        (None, ("--test", "nothing"), 2, ("'nothing' of test finds nothing",)),
        (None, ("--minutes", "0"), 2, ("--minutes",)),
        (None, ("--split", __file__, "--test", "4"), 2, ("--split",)),
    ],
)
def test_what_cannot_be_learned_from_is_refused_before_the_training(
    run: Run,
    drawn_folder: Path,
    tmp_path: Path,
    spoil: Callable[[Path], None] | None,
    options: tuple[str, ...],
    exit_code: int,
    messages: tuple[str, ...],
) -> None:
    if spoil is not None:
        spoil(drawn_folder)
    out = tmp_path / "mine"
    outcome = run("finetune", "--data", drawn_folder, "--out", out, *options)
    assert outcome.exit_code == exit_code and outcome.stderr.count("\n") == 1, outcome.stderr
    for message in messages:
        assert message in outcome.stderr
    assert not (out / "training").exists()
