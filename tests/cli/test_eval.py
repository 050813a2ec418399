"""The command `samus-edge eval`."""

import csv
import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import typer
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

from samus_edge.cli import eval as eval_command
from samus_edge.errors import BundleError, DataError
from samus_edge.runtime.bundle.manifest import (
    GraphRecord,
    Manifest,
    Preprocessing,
    PromptFrame,
    TensorSpec,
)

IR_VERSION, OPSET = 8, 17


def save_graph(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: dict[str, npt.NDArray[Any]],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
) -> GraphRecord:
    """Write an ONNX file and describe it as a bundle does."""
    types = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}
    values_in, values_out = (
        [helper.make_tensor_value_info(s.name, types[s.dtype], list(s.shape)) for s in specs]
        for specs in (inputs, outputs)
    )
    graph = helper.make_graph(
        nodes,
        path.stem,
        values_in,
        values_out,
        initializer=[numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return GraphRecord(
        file=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        size_bytes=path.stat().st_size,
        precision="fp32",
        weight_storage="fp32",
        opset=OPSET,
        inputs=inputs,
        outputs=outputs,
    )


@pytest.fixture
def box_filling_bundle(tmp_path: Path) -> Path:
    """A real bundle whose decoder fills the first two points as a box: nothing for one point."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    embeddings = TensorSpec("image_embeddings", "float32", (1, 256, 32, 32))
    encoder = save_graph(
        folder / "image_encoder.onnx",
        [
            helper.make_node("Cast", ["image"], ["grey"], to=TensorProto.FLOAT),
            helper.make_node("ReduceMean", ["grey"], ["mean"], axes=[1, 2]),  # (B, 1, 1)
            helper.make_node("Mul", ["mean", "ones"], ["embedding"]),  # (256, 32, 32)
            helper.make_node("Unsqueeze", ["embedding", "first"], ["image_embeddings"]),
        ],
        {"ones": np.ones((256, 32, 32), np.float32), "first": np.array([0])},
        (TensorSpec("image", "uint8", (1, "H", "W")),),
        (embeddings,),
    )
    # Low-resolution pixel i of 128 lies at (i + 0.5) * 2 - 0.5 of the 256x256 prompt frame.
    grid = ((np.arange(128) + 0.5) * 2 - 0.5).astype(np.float32)
    edges = [
        helper.make_node("Sub", ["x", "x1"], ["left"]),
        helper.make_node("Sub", ["x2", "x"], ["right"]),
        helper.make_node("Sub", ["y", "y1"], ["top"]),
        helper.make_node("Sub", ["y2", "y"], ["bottom"]),
    ]
    decoder = save_graph(
        folder / "mask_decoder.onnx",
        [
            helper.make_node("Slice", ["point_coords", "zero", "two", "one"], ["corners"]),
            helper.make_node("Reshape", ["corners", "shape"], ["flat"]),  # (N, 4, 1, 1)
            helper.make_node("Split", ["flat"], ["x1", "y1", "x2", "y2"], axis=1),
            *edges,
            helper.make_node("Min", ["left", "right", "top", "bottom"], ["mask"]),
            helper.make_node("Concat", ["mask"] * 4, ["low_res_masks"], axis=1),
            helper.make_node(
                "ReduceMax", ["low_res_masks"], ["iou_predictions"], axes=[2, 3], keepdims=0
            ),
        ],
        {
            "zero": np.array([0]),
            "one": np.array([1]),
            "two": np.array([2]),
            "shape": np.array([-1, 4, 1, 1]),
            "x": grid.reshape(1, 1, 1, 128),
            "y": grid.reshape(1, 1, 128, 1),
        },
        (
            embeddings,
            TensorSpec("point_coords", "float32", ("N", "P", 2)),
            TensorSpec("point_labels", "float32", ("N", "P")),
            TensorSpec("mask_input", "float32", ("N", 1, 128, 128)),
            TensorSpec("has_mask_input", "float32", ("N", 1)),
        ),
        (
            TensorSpec("low_res_masks", "float32", ("N", 4, 128, 128)),
            TensorSpec("iou_predictions", "float32", ("N", 4)),
        ),
    )
    Manifest(
        name="box filler",
        model="samus_hf",
        arch="tiny",
        weights_sha256="0" * 64,
        created_with={},
        preprocessing=Preprocessing(256, "none", "none", "none", "none"),
        prompts=PromptFrame("model", 256, "half-pixel", {}),
        mask_threshold=0.0,
        graphs={"image_encoder": encoder, "mask_decoder": decoder},
        parity={},
        accuracy={},
        licence="Apache-2.0",
        credits=(),
        intended_use="Tests.",
        limits=(),
    ).write(folder / "manifest.json")
    return folder


@pytest.fixture
def app() -> typer.Typer:
    """An app with this command alone."""
    made = typer.Typer()
    made.command()(eval_command.command)
    return made


def test_a_bundle_is_evaluated_and_reported(
    app: typer.Typer, fake_busi: Path, fake_split: Path, box_filling_bundle: Path, tmp_path: Path
) -> None:
    out, rows = tmp_path / "report.json", tmp_path / "rows.csv"
    arguments = ["--data", str(fake_busi), "--split", str(fake_split), "--seed", "5"]
    arguments += ["--bundle", str(box_filling_bundle), "--out", str(out), "--csv", str(rows)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    document = json.loads(out.read_text())
    assert (document["subset"], document["seed"]) == ("test", 5)
    assert document["bundle"] == "box filler"
    encoder = (box_filling_bundle / "image_encoder.onnx").read_bytes()
    assert document["image_encoder_sha256"] == hashlib.sha256(encoder).hexdigest()
    summaries = [s for s in document["summaries"] if s["size"] == "all"]
    found = {(s["prompt"], s["class_name"]): s for s in summaries}
    assert found["box_5%", "all"]["lesions"] == 3  # two test images, one with two lesions
    # Each edge is off by up to 5 %, which costs a rectangle about 5 % of its area.
    assert 0.9 < found["box_5%", "all"]["dice"]["mean"] < 1.0
    assert found["centre_point", "malignant"]["dice"]["mean"] == 0.0
    with rows.open(newline="") as file:
        keys = [row["key"] for row in csv.DictReader(file)]
    assert keys == ["benign/benign (2)", "benign/benign (2)", "malignant/malignant (1)"] * 2
    assert "box_5%" in result.stdout
    assert f"{found['box_5%', 'all']['dice']['mean']:.4f}" in result.stdout
    assert result.stderr == ""  # no terminal, no progress bar


def test_the_result_is_recorded_in_the_bundle(
    app: typer.Typer, fake_busi: Path, fake_split: Path, box_filling_bundle: Path
) -> None:
    arguments = ["--data", str(fake_busi), "--split", str(fake_split)]
    arguments += ["--bundle", str(box_filling_bundle), "--record"]
    file = box_filling_bundle / "manifest.json"
    before = json.loads(file.read_text())
    before |= {"later": {"nested": [1, None]}, "format_version": "1.7"}
    before["graphs"]["image_encoder"]["later"] = 0.125
    file.write_text(json.dumps(before))
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    after = json.loads(file.read_text())
    assert after | {"accuracy": None} == before | {"accuracy": None}  # what we do not know is kept
    accuracy = Manifest.read(file).accuracy
    assert (accuracy["data"], accuracy["subset"]) == (fake_busi.name, "test")
    results = accuracy["results"]
    assert isinstance(results, dict)
    assert 0.9 < results["box_5%"]["all"]["dice"] < 1.0
    assert (
        results["centre_point"]["malignant"] | {"dice": 0.0, "lesions": 1}
        == (results["centre_point"]["malignant"])
    )


def test_a_zip_is_evaluated_and_never_written(
    app: typer.Typer, fake_busi: Path, fake_split: Path, box_filling_bundle: Path, tmp_path: Path
) -> None:
    path = Path(shutil.make_archive(str(tmp_path / "filler"), "zip", box_filling_bundle))
    before, out = path.read_bytes(), tmp_path / "report.json"
    arguments = ["--data", str(fake_busi), "--split", str(fake_split), "--bundle", str(path)]
    result = CliRunner().invoke(app, [*arguments, "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0
    assert json.loads(out.read_text())["bundle"] == "box filler"
    out.unlink()
    with pytest.raises(
        BundleError, match=r"filler\.zip is a zip file, which is only read\. Unpack it"
    ):
        CliRunner().invoke(app, [*arguments, "--out", str(out), "--record"], catch_exceptions=False)
    assert path.read_bytes() == before
    assert not out.exists()  # refused before the evaluation


def test_record_needs_a_bundle(app: typer.Typer, fake_busi: Path, fake_split: Path) -> None:
    weights = fake_busi.parent / "model.safetensors"
    weights.write_bytes(b"")
    arguments = ["--data", str(fake_busi), "--split", str(fake_split)]
    arguments += ["--weights", str(weights), "--record"]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "400"})
    assert result.exit_code == 2
    assert "--record" in result.stderr


def test_the_sweep_adds_the_other_jitters(
    app: typer.Typer, fake_busi: Path, fake_split: Path, box_filling_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report.json"
    arguments = ["--data", str(fake_busi), "--split", str(fake_split), "--subset", "val"]
    arguments += ["--bundle", str(box_filling_bundle), "--box-sweep", "--out", str(out)]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    summaries = json.loads(out.read_text())["summaries"]
    everything = [s for s in summaries if s["class_name"] == s["size"] == "all"]
    assert [s["prompt"] for s in everything] == [
        "box_5%",
        "centre_point",
        "box_exact",
        "box_10%",
        "box_15%",
        "box_20%",
    ]


def test_robustness_and_an_html_report(
    app: typer.Typer, fake_busi: Path, fake_split: Path, box_filling_bundle: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report.json"
    arguments = ["--data", str(fake_busi), "--split", str(fake_split), "--subset", "val"]
    arguments += ["--bundle", str(box_filling_bundle), "--out", str(out), "--worst", "2"]
    arguments += ["--robustness", "--no-normals", "--html", str(tmp_path)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    document = json.loads(out.read_text())
    loose = {row["prompt"]: row for row in document["robustness"]}["box_loose_15%"]
    # Filled boxes, 1.3 times as wide and high as rectangles: 2 / (1 + 1.69), within a pixel or so.
    assert loose["dice"]["mean"] == pytest.approx(2 / 2.69, abs=0.05)
    assert "box_loose_15%" in result.stdout and "Worst lesions" in result.stdout
    page = (tmp_path / "report.html").read_text()
    encoder = (box_filling_bundle / "image_encoder.onnx").read_bytes()
    assert hashlib.sha256(encoder).hexdigest() in page
    assert "onnxruntime " in page and "box_loose_15%" in page


def test_images_without_a_lesion_are_evaluated_too(
    app: typer.Typer, fake_busi: Path, fake_split: Path, box_filling_bundle: Path, tmp_path: Path
) -> None:
    split = json.loads(fake_split.read_text())
    normal = "normal/normal (1)"
    for name in ("train", "val", "test"):
        split[name] = [key for key in split[name] if key != normal]
    split["test"].append(normal)
    fake_split.write_text(json.dumps(split))
    out = tmp_path / "report.json"
    arguments = ["--data", str(fake_busi), "--split", str(fake_split), "--out", str(out)]
    arguments += ["--bundle", str(box_filling_bundle)]
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    box, point = json.loads(out.read_text())["normals"]
    assert (box["prompt"], box["images"], box["marked_fraction"]) == ("typical_box", 1, 1.0)
    assert (point["marked_fraction"], point["mean_area_fraction"]) == (0.0, 0.0)
    assert "Images without a lesion" in result.stdout


def test_two_outputs_in_one_file_are_a_bad_argument(
    app: typer.Typer, fake_busi: Path, fake_split: Path, tmp_path: Path
) -> None:
    target = str(tmp_path / "result")
    arguments = ["--data", str(fake_busi), "--split", str(fake_split)]
    arguments += ["--csv", target, "--html", target]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "400"})
    assert result.exit_code == 2
    assert f"{target} is that of --csv as well" in result.stderr


def test_a_failed_evaluation_writes_nothing(
    app: typer.Typer, fake_busi: Path, fake_split: Path, tmp_path: Path
) -> None:
    out = tmp_path / "report.json"
    arguments = ["--data", str(fake_busi), "--split", str(fake_split), "--out", str(out)]
    result = CliRunner().invoke(app, [*arguments, "--bundle", str(tmp_path / "nowhere")])
    assert isinstance(result.exception, BundleError)
    (fake_busi / "benign" / "benign (2)_mask.png").unlink()
    (fake_busi / "benign" / "benign (2)_mask_1.png").unlink()
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, DataError)
    assert "no mask for 'benign/benign (2)'" in str(result.exception)
    assert not out.exists()


def test_bundle_and_weights_together_are_a_bad_argument(
    app: typer.Typer, fake_busi: Path, fake_split: Path
) -> None:
    weights = fake_busi.parent / "model.safetensors"
    weights.write_bytes(b"")
    arguments = ["--data", str(fake_busi), "--split", str(fake_split)]
    arguments += ["--bundle", "somewhere", "--weights", str(weights)]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "400"})
    assert result.exit_code == 2
    assert "both --bundle somewhere and --weights" in result.stderr


@pytest.mark.parametrize("option", ["--out", "--csv", "--html"])
def test_an_output_folder_that_does_not_exist_is_found_before_the_work(
    app: typer.Typer, fake_busi: Path, fake_split: Path, option: str
) -> None:
    target = fake_busi.parent / "nowhere" / "file"
    arguments = ["--data", str(fake_busi), "--split", str(fake_split), option, str(target)]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "400"})
    assert result.exit_code == 2
    assert f"the folder of {target} does not exist" in result.stderr


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--data", "nowhere"),
        ("--split", "nowhere"),
        ("--subset", "all"),
        ("--seed", "-1"),
        ("--worst", "-1"),
    ],
)
def test_a_bad_argument_is_named(
    app: typer.Typer, fake_busi: Path, fake_split: Path, option: str, value: str
) -> None:
    arguments = {"--data": str(fake_busi), "--split": str(fake_split), option: value}
    result = CliRunner().invoke(
        app, [item for pair in arguments.items() for item in pair], env={"COLUMNS": "400"}
    )
    assert result.exit_code == 2
    assert option in result.stderr
    assert value in result.stderr


def test_importing_the_command_loads_nothing_heavy() -> None:
    program = (
        "import sys, samus_edge.cli.eval\n"
        "heavy = {'torch', 'cv2', 'numpy', 'onnxruntime', 'pywt'} & set(sys.modules)\n"
        "sys.exit(', '.join(sorted(heavy)) or None)"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", program], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
