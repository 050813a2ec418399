"""The command `samus-edge eval`, on the bundle of discs of `tests/discs.py`."""

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from samus_edge.runtime.bundle.manifest import Manifest
from samus_edge.runtime.images.output_files import sha256_of_file

Run = Callable[..., Any]

# Discs of radius 42 in whole pixels, and boxes whose middle is off by up to 5 % of 84 pixels.
PIXELS, JITTER = 0.004, 0.1


@pytest.fixture
def options(disc_lesions: Path, disc_bundle: Path) -> list[object]:
    """Disc lesions, and the bundle that draws such discs."""
    split = disc_lesions.parent / "split.json"
    return ["--data", disc_lesions, "--split", split, "--subset", "val", "--bundle", disc_bundle]


@pytest.fixture
def busi(fake_busi: Path, fake_split: Path) -> list[object]:
    """A dataset with classes and a normal image."""
    return ["--data", fake_busi, "--split", fake_split]


def test_a_bundle_is_evaluated_and_reported(
    run: Run, options: list[object], disc_bundle: Path, tmp_path: Path
) -> None:
    out, rows = tmp_path / "report.json", tmp_path / "rows.csv"
    outcome = run("eval", *options, "--seed", 5, "--out", out, "--csv", rows, "--box-sweep")
    assert (outcome.exit_code, outcome.stderr) == (0, "")  # no terminal, no progress bar
    document = json.loads(out.read_text())
    assert (document["subset"], document["seed"], document["bundle"]) == ("val", 5, "discs")
    encoder_sha256 = sha256_of_file(disc_bundle / "image_encoder.onnx")
    assert document["image_encoder_sha256"] == encoder_sha256
    summaries = document["summaries"]
    every = {s["prompt"]: s for s in summaries if s["class_name"] == s["size"] == "all"}
    swept = ["box_exact", "box_10%", "box_15%", "box_20%"]
    assert list(every) == ["box_5%", "centre_point", *swept]
    assert every["box_5%"]["lesions"] == 3  # two images, one with two lesions
    assert every["centre_point"]["dice"]["mean"] == pytest.approx(1, abs=PIXELS)
    assert every["box_5%"]["dice"]["mean"] == pytest.approx(1, abs=JITTER)
    with rows.open(newline="") as file:
        keys = [row["key"] for row in csv.DictReader(file) if row["prompt"] == "box_5%"]
    assert keys == ["one", "two", "two"]
    assert f"{every['box_5%']['dice']['mean']:.4f}" in outcome.stdout


def test_the_result_is_recorded_in_the_bundle(
    run: Run, busi: list[object], disc_bundle_copy: Path
) -> None:
    file = disc_bundle_copy / "manifest.json"
    before = json.loads(file.read_text())
    before |= {"later": {"nested": [1, None]}, "format_version": "1.7"}
    before["graphs"]["image_encoder"]["later"] = 0.125
    file.write_text(json.dumps(before))
    assert run("eval", *busi, "--bundle", disc_bundle_copy, "--record").exit_code == 0
    after = json.loads(file.read_text())
    assert after | {"accuracy": None} == before | {"accuracy": None}  # what we do not know is kept
    accuracy: Any = Manifest.read(file).accuracy
    assert (accuracy["data"], accuracy["subset"]) == ("Dataset_BUSI_with_GT", "test")
    assert list(accuracy["results"]["box_5%"]) == ["all", "benign", "malignant"]
    assert accuracy["results"]["box_5%"]["all"]["lesions"] == 3


def test_a_zip_is_evaluated_and_never_written(
    run: Run, busi: list[object], disc_bundle: Path, tmp_path: Path
) -> None:
    path = Path(shutil.make_archive(str(tmp_path / "discs"), "zip", disc_bundle))
    before, out = path.read_bytes(), tmp_path / "report.json"
    arguments = ["eval", *busi, "--bundle", path, "--out", out]
    assert run(*arguments).exit_code == 0
    out.unlink()
    outcome = run(*arguments, "--record")
    assert outcome.exit_code == 1
    assert "discs.zip is a zip file, which is only read. Unpack it" in outcome.stderr
    assert path.read_bytes() == before
    assert not out.exists()  # refused before the evaluation


def test_robustness_and_an_html_report(run: Run, options: list[object], tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    extra = ("--worst", 2, "--robustness", "--no-normals", "--html", tmp_path)
    outcome = run("eval", *options, "--out", out, *extra)
    assert outcome.exit_code == 0
    document = json.loads(out.read_text())
    loose = {row["prompt"]: row for row in document["robustness"]}["box_loose_15%"]
    assert loose["dice"]["mean"] == pytest.approx(1, abs=PIXELS)  # the box has the same middle
    assert "box_loose_15%" in outcome.stdout and "Worst lesions" in outcome.stdout
    page = (tmp_path / "report.html").read_text()
    for text in (document["image_encoder_sha256"], "onnxruntime ", "box_loose_15%"):
        assert text in page


def test_images_without_a_lesion_are_evaluated_too(
    run: Run, busi: list[object], fake_split: Path, disc_bundle: Path, tmp_path: Path
) -> None:
    split = json.loads(fake_split.read_text())
    split["train"].remove("normal/normal (1)")
    split["test"].append("normal/normal (1)")
    fake_split.write_text(json.dumps(split))
    out = tmp_path / "report.json"
    outcome = run("eval", *busi, "--bundle", disc_bundle, "--out", out)
    for found in json.loads(out.read_text())["normals"]:
        assert (found["images"], found["marked_fraction"]) == (1, 1.0)
        # A disc in the middle; its radius is 40 to 50 pixels of 256, as the frame is dark or light.
        assert np.pi * 40**2 / 256**2 < found["mean_area_fraction"] < np.pi * 50**2 / 256**2
    assert "Images without a lesion" in outcome.stdout


def test_a_failed_evaluation_writes_nothing(
    run: Run, busi: list[object], fake_busi: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report.json"
    missing = run("eval", *busi, "--out", out, "--bundle", tmp_path / "nowhere")
    for path in fake_busi.glob("benign/benign (2)_mask*.png"):
        path.unlink()
    damaged = run("eval", *busi, "--out", out)
    assert (missing.exit_code, damaged.exit_code) == (1, 1)
    assert "nowhere" in missing.stderr
    assert "no mask for 'benign/benign (2)'" in damaged.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--bundle", "b", "--weights", "w"), "both --bundle b and --weights w"),
        (("--weights", "w", "--record"), "--record"),
        (("--weights", "w", "--precision", "fp16"), "--precision"),
        (("--weights", "w", "--backend", "openvino"), "--backend"),
        (("--csv", "x", "--html", "x"), "x is that of --csv as well"),
        (("--out", "nowhere/x"), "the folder of nowhere/x does not exist"),
        (("--csv", "nowhere/x"), "the folder of nowhere/x does not exist"),
        (("--html", "nowhere/x"), "the folder of nowhere/x does not exist"),
        (("--data", "nowhere"), "nowhere"),
        (("--split", "nowhere"), "nowhere"),
        (("--subset", "all"), "'all'"),
        (("--seed", "-1"), "must be at least 0, got -1"),
        (("--worst", "-1"), "must be at least 0, got -1"),
    ],
)
def test_a_bad_argument_is_exit_code_2(
    run: Run,
    busi: list[object],
    fake_busi: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(fake_busi.parent)
    Path("w").write_bytes(b"")
    pairs = zip(busi[::2], busi[1::2], strict=True)
    given = [word for pair in pairs if pair[0] not in arguments for word in pair]
    outcome = run("eval", *given, *arguments)
    assert (outcome.exit_code, outcome.stdout) == (2, "")
    assert message in outcome.stderr


def test_importing_the_command_loads_nothing_heavy() -> None:
    program = (
        "import sys, samus_edge.cli.eval\n"
        "heavy = {'torch', 'cv2', 'numpy', 'onnxruntime', 'pywt'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or None)"
    )
    subprocess.run([sys.executable, "-I", "-c", program], check=True)


def test_several_datasets_have_a_table_each_and_one_of_means(
    run: Run, disc_lesions: Path, disc_bundle: Path, fake_folders: Path, tmp_path: Path
) -> None:
    root = tmp_path / "data"
    shutil.copytree(disc_lesions, root / "discs")
    shutil.copy(disc_lesions.parent / "split.json", root / "split.json")
    shutil.copytree(fake_folders, root / "folders")
    config, out = tmp_path / "config.yaml", tmp_path / "report.json"
    config.write_text(
        "datasets:\n- {folder: discs, split: split.json}\n"
        "- {folder: folders, name: rectangles, skip: ^normal, fractions: [0, 1, 0]}\n"
    )
    several = ("eval", "--data", root, "--config", config, "--bundle", disc_bundle)
    outcome = run(*several, "--subset", "val", "--out", out)
    assert outcome.exit_code == 0, outcome.stderr
    documents = json.loads(out.read_text())["datasets"]
    dices = {}
    for name, lesions in (("discs", 3), ("rectangles", 5)):
        every, point = (
            next(s for s in documents[name]["summaries"] if s["prompt"] == prompt)
            for prompt in ("box_5%", "centre_point")
        )
        assert every["lesions"] == lesions
        dices[name] = (every["dice"]["mean"], point["dice"]["mean"])
        assert f"{name}: Means over lesions" in " ".join(outcome.stdout.split())
    last = outcome.stdout.strip().splitlines()[-1].split()
    means = [f"{sum(values) / 2:.4f}" for values in zip(*dices.values(), strict=True)]
    assert last == ["mean", *means]
    for option in (("--record",), ("--csv", tmp_path / "x.csv")):
        refused = run(*several, *option)
        assert refused.exit_code == 2 and option[0] in refused.stderr
