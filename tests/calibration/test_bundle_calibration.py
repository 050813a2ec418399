"""Calibration of the default bundle on real frames, its nodes put into two blocks to be quick."""

import json
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from samus_edge.calibration import sensitivity
from samus_edge.calibration.bundle_calibration import (
    CalibrationResult,
    CalibrationSettings,
    calibrate_bundle,
)
from samus_edge.data.prompt_protocol import Prompt
from samus_edge.errors import BundleError, SamusEdgeError
from samus_edge.evaluation.metrics import dice
from samus_edge.runtime import Segmenter
from samus_edge.runtime.bundle.bundle import Bundle, available_precisions, default_bundle_path
from samus_edge.runtime.bundle.manifest import MANIFEST_FILE, Manifest
from samus_edge.verification.frames import PromptedFrame, frames_digest, prompted_frame
from tests.conftest import EXAMPLE_BOXES, AssetFrame, read_example
from tests.stock_tools import TOOLS, assert_taken, refusals_of_tensorrt

EXAMPLE_NAMES = ("benign_80", "malignant_29")

LEAST_DICE = {"fp16": 0.998, "int8": 0.98, "int8-cpu": 0.98}
"""With the float32 masks. A mask of 256x256 has some ten thousand pixels, of which those on its rim
turn: few by half precision, more by 8 bits."""

PRECISIONS = ("fp16", "int8", "int8-cpu")


def two_blocks(node: str) -> str:
    return f"part{zlib.crc32(node.encode()) % 2}"


@pytest.fixture(scope="module", autouse=True)
def few_blocks() -> Iterator[None]:
    """One sensitivity per block and recipe takes a third of a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sensitivity, "block_of", two_blocks)
        yield


@pytest.fixture(scope="module")
def frames() -> list[PromptedFrame]:
    """Two lesions with their boxes."""
    found = []
    for name in EXAMPLE_NAMES:
        box = Prompt(box=np.array(EXAMPLE_BOXES[f"{name}.png"], np.float32))
        mask = read_example(f"{name}_mask.png") > 0
        found.append(PromptedFrame(name, name, read_example(f"{name}.png"), {"box": [box]}, [mask]))
    return found


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    if not default_bundle_path().is_dir():
        pytest.skip("this checkout has no default bundle")
    return Bundle.open()


@pytest.fixture(scope="module")
def calibrated(
    bundle: Bundle,
    frames: list[PromptedFrame],
    tmp_path_factory: pytest.TempPathFactory,
) -> CalibrationResult:
    """All three precisions; do not change its folder."""
    folder = tmp_path_factory.mktemp("calibrated") / "bundle"
    settings = CalibrationSettings(PRECISIONS, seed=7)
    return calibrate_bundle(bundle, folder, frames, settings, data="two examples")


@pytest.fixture
def tiny_frames(asset_frames: list[AssetFrame]) -> list[PromptedFrame]:
    """One frame: what is tested does not depend on the ranges."""
    return [prompted_frame("tiny", asset_frames[-1].image, seed=0)]


def json_of(calibrated: CalibrationResult, graph: str) -> dict[str, Any]:
    text = (calibrated.bundle.folder / MANIFEST_FILE).read_text(encoding="utf-8")
    record: dict[str, Any] = json.loads(text)["graphs"][graph]
    return record


@pytest.mark.parametrize("tool", TOOLS)
@pytest.mark.parametrize(
    "graph",
    ["image_encoder.fp16", "mask_decoder.fp16", "image_encoder.int8", "image_encoder.int8-cpu"],
)
def test_tools_take_the_graphs_as_they_are(
    calibrated: CalibrationResult, graph: str, tool: str
) -> None:
    content = calibrated.bundle.read_graph(graph)
    if graph.endswith("int8-cpu") and tool.startswith("tensorrt"):
        # what CPUs multiply: uint8 with a zero point
        assert any("zero point" in refusal for refusal in refusals_of_tensorrt(content))
    else:
        assert_taken(content, tool)


def test_every_precision_gives_nearly_the_float32_masks(
    calibrated: CalibrationResult, frames: list[PromptedFrame]
) -> None:
    masks = {}
    for precision in ("fp32", *PRECISIONS):
        with Segmenter.load(calibrated.bundle.folder, precision=precision, threads=1) as segmenter:
            assert segmenter.precision == precision
            masks[precision] = [
                segmenter.predict(
                    segmenter.encode(frame.image), boxes=np.array([frame.prompts["box"][0].box])
                ).masks[0, 0]
                for frame in frames
            ]
    for precision, least in LEAST_DICE.items():
        for mask, expected in zip(masks[precision], masks["fp32"], strict=True):
            assert dice(mask, expected) >= least, precision


def test_the_reference_is_untouched(bundle: Bundle, calibrated: CalibrationResult) -> None:
    assert list(available_precisions(calibrated.bundle)) == ["fp32", *PRECISIONS]
    before, after = bundle.manifest, calibrated.bundle.manifest
    for name, record in before.graphs.items():
        assert after.graphs[name] == record
        assert calibrated.bundle.read_graph(name) == bundle.read_graph(name)
    assert replace(after, graphs=before.graphs, precisions={}, format_version="") == replace(
        before, precisions={}, format_version=""
    )


def test_the_manifest_says_how_int8_came_about(
    calibrated: CalibrationResult, frames: list[PromptedFrame], bundle: Bundle
) -> None:
    for precision in ("int8", "int8-cpu"):
        record = json_of(calibrated, f"image_encoder.{precision}")
        about = record["conversion"]
        assert record["precision"] == record["weight_storage"] == "int8"
        assert about["from_sha256"] == bundle.graph_record("image_encoder").sha256
        assert about["data"] == "two examples"
        assert about["frames"] == 2
        assert about["frames_sha256"] == frames_digest(frames)
        assert about["seed"] == 7
        assert about["ranges"] == "minmax"
        choice = calibrated.int8[precision]
        assert about["quantised_blocks"] == [block.block for block in choice.quantised]
        assert about["kept_blocks"] == [block.block for block in choice.kept]
        assert about["dice_drop_on_calibration_frames"] <= about["max_dice_drop"] == 0.5
        assert set(about["sensitivity"]) == {"part0", "part1"}
        for block in calibrated.int8[precision].blocks:
            measured = about["sensitivity"][block.block]
            assert measured["logit_error"] == pytest.approx(block.agreement.logit_error, abs=1e-5)
            assert measured["dice_drop"] == pytest.approx(block.agreement.dice_drop, abs=1e-5)
    assert json_of(calibrated, "image_encoder.int8")["conversion"]["rest"] == "fp16"
    assert json_of(calibrated, "image_encoder.int8-cpu")["conversion"]["rest"] == "fp32"


def test_the_manifest_names_what_half_precision_keeps(
    calibrated: CalibrationResult, frames: list[PromptedFrame]
) -> None:
    for name in ("image_encoder", "mask_decoder"):
        record = json_of(calibrated, f"{name}.fp16")
        about = record["conversion"]
        kept = {node["node"]: node["reason"] for node in about["kept_in_fp32"]}
        assert kept == {node.name: node.reason for node in calibrated.kept_in_fp32[name]}
        assert about["frames_sha256"] == frames_digest(frames)
        assert (about["data"], about["seed"]) == ("two examples", 7)
        graph = onnx.load(calibrated.bundle.folder / record["file"]).graph
        norms = {node.name for node in graph.node if node.op_type == "LayerNormalization"}
        assert norms
        assert norms <= set(kept)
        halves = {item.name for item in graph.initializer if item.data_type == TensorProto.FLOAT16}
        floats = {item.name for item in graph.initializer if item.data_type == TensorProto.FLOAT}
        read = {tensor for node in graph.node if node.name in kept for tensor in node.input}
        # nothing but kept nodes and the scales of a resize has float32 constants
        scales = {node.input[2] for node in graph.node if node.op_type == "Resize"}
        assert floats <= read | scales
        assert len(halves) > len(floats)


def test_the_same_seed_gives_the_same_bytes(
    bundle: Bundle,
    frames: list[PromptedFrame],
    calibrated: CalibrationResult,
    tmp_path: Path,
) -> None:
    settings = CalibrationSettings(("int8-cpu",), seed=7)
    folder = tmp_path / "again"
    again = calibrate_bundle(bundle, folder, frames, settings, data="two examples")
    graph = "image_encoder.int8-cpu"
    assert again.bundle.read_graph(graph) == calibrated.bundle.read_graph(graph)
    assert json_of(again, graph) == json_of(calibrated, graph)


def test_an_impossible_budget_quantises_nothing(
    bundle: Bundle, tiny_frames: list[PromptedFrame], tmp_path: Path
) -> None:
    settings = CalibrationSettings(("int8-cpu",), max_dice_drop=0.0)
    result = calibrate_bundle(bundle, tmp_path / "strict", tiny_frames, settings, data="tiny")
    choice = result.int8["int8-cpu"]
    assert choice.agreement.dice_drop <= 0
    graph = onnx.load(tmp_path / "strict" / "image_encoder.int8-cpu.onnx").graph
    quantised = sum(node.op_type == "QuantizeLinear" for node in graph.node)
    assert (quantised > 0) == bool(choice.quantised)


def test_another_folder_is_replaced_only_if_asked_and_only_if_a_bundle(
    bundle: Bundle, tiny_frames: list[PromptedFrame], tmp_path: Path
) -> None:
    settings = CalibrationSettings(("fp16",))
    other = tmp_path / "other"
    other.mkdir()
    (other / "precious.txt").write_text("mine")
    for overwrite, message in ((False, "exists"), (True, "is not a bundle")):
        with pytest.raises(SamusEdgeError, match=message):
            calibrate_bundle(bundle, other, tiny_frames, settings, data="tiny", overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]
    assert (other / "precious.txt").read_text() == "mine"
    with pytest.raises(SamusEdgeError, match="is within the bundle"):
        calibrate_bundle(bundle, bundle.folder / "new", tiny_frames, settings, data="tiny")


def test_a_bundle_is_calibrated_in_place_and_stale_verification_goes(
    calibrated: CalibrationResult, tiny_frames: list[PromptedFrame], tmp_path: Path
) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(calibrated.bundle.folder, folder)
    manifest = Manifest.read(folder / MANIFEST_FILE)
    replace(
        manifest, verification={name: {"passed": True} for name in ("fp32", *PRECISIONS)}
    ).write(folder / MANIFEST_FILE)
    # fp16 has its mask decoder in common with int8
    settings = CalibrationSettings(("fp16",))
    result = calibrate_bundle(
        Bundle.open(folder), folder, tiny_frames, settings, data="tiny", overwrite=True
    )
    assert result.bundle.folder == folder
    assert set(result.bundle.manifest.verification) == {"fp32", "int8-cpu"}
    assert list(available_precisions(result.bundle)) == ["fp32", *PRECISIONS]
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]
    with Segmenter.load(folder, precision="fp16", threads=1) as segmenter:
        segmenter.encode(tiny_frames[0].image)


def test_a_draft_that_is_refused_leaves_nothing(
    bundle: Bundle, tiny_frames: list[PromptedFrame], tmp_path: Path
) -> None:
    def refuse(draft: Path) -> None:
        assert list(available_precisions(Bundle.open(draft))) == ["fp32", "fp16"]
        raise SamusEdgeError("not good enough")

    settings = CalibrationSettings(("fp16",))
    with pytest.raises(SamusEdgeError, match="not good enough"):
        calibrate_bundle(bundle, tmp_path / "out", tiny_frames, settings, data="tiny", check=refuse)
    assert list(tmp_path.iterdir()) == []


def test_bundles_that_cannot_be_calibrated_are_refused(
    bundle: Bundle, tiny_frames: list[PromptedFrame], tmp_path: Path
) -> None:
    zipped = tmp_path / "model.zip"
    with zipfile.ZipFile(zipped, "w") as archive:
        for path in bundle.folder.iterdir():
            archive.write(path, path.name)
    settings = CalibrationSettings(("int8",))
    with pytest.raises(BundleError, match=r"model\.zip is a zip file, .* Unpack it"):
        calibrate_bundle(Bundle.open(zipped), tmp_path / "a", tiny_frames, settings, data="tiny")

    encoder = bundle.manifest.graphs["image_encoder"]
    (image,) = encoder.inputs
    changes = {
        "is in fp16": replace(encoder, precision="fp16"),
        "has operator set 17, and int8 needs 19 or newer": replace(encoder, opset=17),
        r"frames of 640x480 pixels alone, not tiny \(31x47\)": replace(
            encoder, inputs=(replace(image, shape=("B", 480, 640)),)
        ),
    }
    for message, record in changes.items():
        manifest = replace(
            bundle.manifest, graphs={**bundle.manifest.graphs, "image_encoder": record}
        )
        changed = replace(bundle, manifest=manifest)
        with pytest.raises(SamusEdgeError, match=message):
            calibrate_bundle(changed, tmp_path / "a", tiny_frames, settings, data="tiny")
    with pytest.raises(ValueError, match="at least one frame"):
        calibrate_bundle(bundle, tmp_path / "a", [], settings, data="tiny")
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip"]


def test_nodes_without_modules_are_said(calibrated: CalibrationResult, bundle: Bundle) -> None:
    graph = onnx.load_from_string(bundle.read_graph("mask_decoder")).graph
    has_modules = any(node.name.startswith("prompt_encoder/") for node in graph.node)
    assert bool(calibrated.notes) == (not has_modules)
    assert all("Export the bundle again" in note for note in calibrated.notes)


@pytest.mark.parametrize("precisions", [(), ("fp16", "bf16")])
def test_unknown_precisions_are_refused(precisions: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"must be of fp16, int8, int8-cpu, got (none|bf16)"):
        CalibrationSettings(precisions)


@pytest.mark.parametrize("budget", [-0.1, 101.0, float("nan")])
def test_budgets_are_points(budget: float) -> None:
    with pytest.raises(ValueError, match=f"from 0 to 100 points, got {budget}"):
        CalibrationSettings(("int8",), max_dice_drop=budget)
