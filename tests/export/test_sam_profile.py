"""The SAM pair, in the code of the tools that load such pairs and by its signature.

What a mask should be comes from the radiologists' masks of the example images and from our own
runtime on the bundle that the pair was made from.
"""

import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
import yaml

from samus_edge.errors import ExportMismatchError, SamusEdgeError
from samus_edge.evaluation.metrics import dice, iou
from samus_edge.export import sam_graphs, sam_profile
from samus_edge.export.sam_graphs import OUTSIDE_LOGIT
from samus_edge.export.sam_profile import (
    CONFIG_FILE,
    SamProfile,
    check_sam_profile,
    write_sam_profile,
)
from samus_edge.export.weight_storage import expand_weights
from samus_edge.modeling import SamusHF
from samus_edge.runtime import Segmenter
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.weights.bundle_file import load_bundle_model
from tests.conftest import EXAMPLE_BOXES, read_example, spare_export
from tests.export.conftest import RunGraph, run_graph
from tests.stock_tools import TOOLS, assert_taken

MIN_RUNTIME_IOU = 0.99
"""Tools resize the image before the model and the mask after it, the runtime does neither; lowest
of the cases below: 0.994, in a lesion of 52x39 pixels."""

MAX_DICE_LOSS = 0.005
"""Against the radiologist's mask, compared with the runtime's; largest below: about 0.001."""

MIN_DICE = 0.8
"""The runtime's lowest is 0.818."""

MIN_FEEDBACK_IOU = 0.985
"""Logits go from 128x128 to 256x256 and back, which blurs them a little."""

EXACT_LOGITS = 1e-3
"""As the parity gate of a bundle."""

Grey = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Example:
    """An example image, perhaps changed, with its lesion's mask and box."""

    image: Grey
    """(H, W), uint8."""
    target: Mask
    """(H, W), bool."""
    box: npt.NDArray[np.float32]
    """(4,), float32, XYXY."""

    @property
    def centre(self) -> list[float]:
        """Of the box, (x, y)."""
        x1, y1, x2, y2 = self.box.tolist()
        return [(x1 + x2) / 2, (y1 + y2) / 2]


def example(name: str, shape: str = "landscape") -> Example:
    """One of `examples/`, as it is (all are landscapes), transposed, or cut to a square."""
    grey, mask = read_example(f"{name}.png"), read_example(f"{name}_mask.png") > 127
    box = np.array(EXAMPLE_BOXES[f"{name}.png"], np.float32)
    assert grey.shape[0] < grey.shape[1]
    if shape == "portrait":
        return Example(np.ascontiguousarray(grey.T), mask.T, box[[1, 0, 3, 2]])
    if shape == "square":
        side, (x, _) = grey.shape[0], Example(grey, mask, box).centre
        left = int(np.clip(x - side / 2, 0, grey.shape[1] - side))
        columns = slice(left, left + side)
        offset = np.array([left, 0, left, 0], np.float32)
        return Example(np.ascontiguousarray(grey[:, columns]), mask[:, columns], box - offset)
    return Example(grey, mask, box)


@pytest.fixture(scope="module")
def default_model() -> SamusHF:
    """The default bundle's model."""
    return load_bundle_model()


@pytest.fixture(scope="module")
def pair(default_model: SamusHF, tmp_path_factory: pytest.TempPathFactory) -> SamProfile:
    """The pair of the default bundle, around the bundle's own graphs; do not change it."""
    folder: Path = tmp_path_factory.mktemp("sam") / "pair"
    graphs = {}
    for name in ("image_encoder", "mask_decoder"):
        graph = onnx.load_model_from_string(Bundle.open().read_graph(name))
        expand_weights(graph)
        del graph.metadata_props[:]
        graphs[f"{name}_graph"] = graph
    with pytest.MonkeyPatch.context() as patch:
        spare_export(patch, sam_graphs, graphs)
        return write_sam_profile(default_model, folder, name="SAMUS-HF tiny")


@pytest.fixture(scope="module")
def encode(pair: SamProfile) -> RunGraph:
    """Runs the encoder."""
    return run_graph(pair.encoder.read_bytes())


@pytest.fixture(scope="module")
def decode(pair: SamProfile) -> RunGraph:
    """Runs the decoder."""
    return run_graph(pair.decoder.read_bytes())


@pytest.fixture(scope="module")
def segmenter() -> Iterator[Segmenter]:
    """The runtime with the default bundle."""
    with Segmenter.load(backend="onnxruntime") as loaded:
        yield loaded


@pytest.fixture(scope="module")
def samexporter_model(pair: SamProfile) -> Any:
    """samexporter's own inference with the pair."""
    if importlib.util.find_spec("samexporter") is None:
        pytest.skip("needs samexporter: pip install --no-deps samexporter==0.5.0 (Python 3.11)")
    module: Any = importlib.import_module("samexporter.sam_onnx")
    return module.SegmentAnythingONNX(str(pair.encoder), str(pair.decoder), providers="cpu")


@pytest.fixture(scope="module")
def anylabeling_model(pair: SamProfile) -> Iterator[Any]:
    """AnyLabeling's own inference with the pair; X-AnyLabeling's does the same arithmetic.

    Its package imports Qt for the window, its inference does not: that is imported under a parent
    whose `__init__.py` has not run.
    """
    spec = importlib.util.find_spec("anylabeling")
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("needs AnyLabeling: pip install --no-deps anylabeling==0.4.43 (Python 3.11)")
    name = "anylabeling.services.auto_labeling"
    parent = importlib.util.module_from_spec(
        importlib.machinery.ModuleSpec(name, loader=None, is_package=True)
    )
    parent.__path__ = [
        str(Path(folder) / "services" / "auto_labeling")
        for folder in spec.submodule_search_locations
    ]
    sys.modules[name] = parent
    try:
        module: Any = importlib.import_module(f"{name}.sam_onnx")
        yield module.SegmentAnythingONNX(str(pair.encoder), str(pair.decoder))
    finally:
        for imported in [key for key in sys.modules if key.split(".")[0] == "anylabeling"]:
            del sys.modules[imported]


@pytest.fixture(params=["samexporter", "anylabeling"])
def tool(request: pytest.FixtureRequest) -> Any:
    """A tool with the pair loaded: `encode(bgr)` and `predict_masks(embedding, marks)`."""
    return request.getfixturevalue(f"{request.param}_model")


def feeds(
    embeddings: Array,
    image_hw: tuple[int, ...],
    coords: npt.ArrayLike,
    labels: list[float],
    mask_input: Array | None = None,
) -> dict[str, Array]:
    """What SAM's ONNX example notebook feeds the decoder; coords are pixels of the image."""
    height, width = image_hw
    scale = 1024 / max(height, width)
    new_wh = np.array([int(width * scale + 0.5), int(height * scale + 0.5)])
    scaled = np.asarray(coords, np.float64).reshape(1, -1, 2) * (new_wh / (width, height))
    return {
        "image_embeddings": embeddings,
        "point_coords": scaled.astype(np.float32),
        "point_labels": np.array([labels], np.float32),
        "mask_input": np.zeros((1, 1, 256, 256), np.float32) if mask_input is None else mask_input,
        "has_mask_input": np.array([mask_input is not None], np.float32),
        "orig_im_size": np.array(image_hw, np.float32),
    }


def rgb(image: Grey) -> npt.NDArray[np.float32]:
    """(H, W, 3), float32, 0..255."""
    return np.repeat(image[..., None], 3, axis=2).astype(np.float32)


@pytest.mark.parametrize("shape", ["landscape", "portrait", "square"])
@pytest.mark.parametrize("name", ["benign_80", "malignant_29", "benign_162"])
def test_tools_give_the_masks_of_the_runtime(
    tool: Any, segmenter: Segmenter, name: str, shape: str
) -> None:
    case = example(name, shape)
    box, point = case.box.tolist(), case.centre
    rectangle = {"type": "rectangle", "data": box, "label": 1}
    click = {"type": "point", "data": point, "label": 1}
    embedding = tool.encode(np.repeat(case.image[..., None], 3, axis=2))
    runtime_embedding = segmenter.encode(case.image)
    for marks in ([rectangle], [click], [rectangle, click]):
        masks = np.asarray(tool.predict_masks(embedding, marks))
        assert masks.shape == (1, 1, *case.image.shape)
        mask = masks[0, 0] > 0
        expected = segmenter.decode(
            runtime_embedding,
            boxes=[box] if rectangle in marks else None,
            point_coords=[[point]] if click in marks else None,
        ).masks[0, 0]
        kinds = [mark["type"] for mark in marks]
        assert iou(mask, expected) >= MIN_RUNTIME_IOU, kinds
        assert dice(mask, case.target) >= MIN_DICE, kinds
        assert dice(mask, case.target) >= dice(expected, case.target) - MAX_DICE_LOSS, kinds


def test_a_background_point_takes_away_from_the_mask(tool: Any, segmenter: Segmenter) -> None:
    case = example("benign_80")
    x, y = case.box[2] - 30, case.centre[1]
    marks = [
        {"type": "rectangle", "data": case.box.tolist(), "label": 1},
        {"type": "point", "data": [float(x), y], "label": 0},
    ]
    embedding = tool.encode(np.repeat(case.image[..., None], 3, axis=2))
    mask = np.asarray(tool.predict_masks(embedding, marks))[0, 0] > 0
    without = np.asarray(tool.predict_masks(embedding, marks[:1]))[0, 0] > 0
    expected = segmenter.decode(
        segmenter.encode(case.image),
        boxes=[case.box],
        point_coords=[[[x, y]]],
        point_labels=[[0]],
    ).masks[0, 0]
    assert iou(mask, expected) >= MIN_RUNTIME_IOU
    assert mask.sum() < without.sum()


def test_the_signature_is_that_of_sams_onnx_pair(pair: SamProfile) -> None:
    encoder, decoder = (
        onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        for path in (pair.encoder, pair.decoder)
    )
    (image,) = encoder.get_inputs()
    # rank 3 tells samexporter to send RGB rows x columns x 3; float tells AnyLabeling the type
    assert (image.type, image.shape[2:], len(image.shape)) == ("tensor(float)", [3], 3)
    (embeddings,) = encoder.get_outputs()
    inputs = {item.name: item for item in decoder.get_inputs()}
    assert list(inputs) == [
        "image_embeddings",
        "point_coords",
        "point_labels",
        "mask_input",
        "has_mask_input",
        "orig_im_size",
    ]
    assert {item.type for item in inputs.values()} == {"tensor(float)"}
    assert inputs["image_embeddings"].shape == embeddings.shape
    assert inputs["mask_input"].shape == [1, 1, 256, 256]
    assert inputs["has_mask_input"].shape == [1]
    assert inputs["orig_im_size"].shape == [2]
    # AnyLabeling takes the first of exactly three outputs
    outputs = decoder.get_outputs()
    assert [item.name for item in outputs] == ["masks", "iou_predictions", "low_res_masks"]
    assert outputs[2].shape == [1, 1, 256, 256]


def test_nodes_have_names(pair: SamProfile) -> None:
    for path in (pair.encoder, pair.decoder):
        names = [node.name for node in onnx.load(path).graph.node]
        assert all(names) and len(set(names)) == len(names)


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_take_the_encoder_as_it_is(pair: SamProfile, tool: str) -> None:
    assert_taken(pair.encoder.read_bytes(), tool)


@pytest.mark.parametrize("tool", ["onnx", "openvino"])
def test_all_tools_but_tensorrt_take_the_decoder(pair: SamProfile, tool: str) -> None:
    """TensorRT takes no output whose size is the value of a float input, `orig_im_size`."""
    assert_taken(pair.decoder.read_bytes(), tool)


def test_at_its_own_size_the_image_gives_the_runtimes_masks_exactly(
    encode: RunGraph, decode: RunGraph, segmenter: Segmenter
) -> None:
    case = example("malignant_29")
    embeddings = encode({"input_image": rgb(case.image)})["image_embeddings"]
    mask = decode(feeds(embeddings, case.image.shape, case.box, [2, 3]))
    expected = segmenter.decode(segmenter.encode(case.image), boxes=[case.box])
    logits = cv2.resize(expected.low_res_logits[0, 0], case.image.shape[::-1])
    np.testing.assert_allclose(mask["masks"][0, 0], logits, atol=EXACT_LOGITS)
    np.testing.assert_allclose(mask["iou_predictions"], expected.iou_predictions, atol=EXACT_LOGITS)


@pytest.mark.parametrize(("coords", "labels"), [([135, 88, 446, 368], [2, 3]), ([290, 228], [1])])
def test_padding_points_change_nothing(
    encode: RunGraph, decode: RunGraph, coords: list[float], labels: list[float]
) -> None:
    case = example("benign_80")
    embeddings = encode({"input_image": rgb(case.image)})["image_embeddings"]
    hw = case.image.shape
    without = decode(feeds(embeddings, hw, coords, labels))
    for count in (1, 3):
        padded = decode(
            feeds(embeddings, hw, [*coords, *[0.0] * 2 * count], [*labels, *[-1.0] * count])
        )
        np.testing.assert_array_equal(padded["masks"], without["masks"])


def test_fed_back_logits_refine_like_the_runtimes(
    encode: RunGraph, decode: RunGraph, segmenter: Segmenter
) -> None:
    for shape in ("landscape", "portrait", "square"):
        case = example("malignant_29", shape)
        hw, point = case.image.shape, case.centre
        embeddings = encode({"input_image": rgb(case.image)})["image_embeddings"]
        first = decode(feeds(embeddings, hw, case.box, [2, 3]))
        second = decode(feeds(embeddings, hw, point, [1], first["low_res_masks"]))
        embedding = segmenter.encode(case.image)
        before = segmenter.decode(embedding, boxes=[case.box])
        expected = segmenter.decode(
            embedding, point_coords=[[point]], mask_input=before.low_res_logits
        )
        mask = second["masks"][0, 0] > 0
        assert iou(mask, expected.masks[0, 0]) >= MIN_FEEDBACK_IOU, shape
        # the earlier mask is heard: without it the point gives another one
        alone = decode(feeds(embeddings, hw, point, [1]))["masks"]
        assert np.abs(second["masks"] - alone).max() > 1.0, shape


def test_mask_input_counts_only_where_it_is_said_to(encode: RunGraph, decode: RunGraph) -> None:
    case = example("benign_162")
    embeddings = encode({"input_image": rgb(case.image)})["image_embeddings"]
    inputs = feeds(embeddings, case.image.shape, case.box, [2, 3])
    expected = decode(inputs)["masks"]
    ignored = np.full((1, 1, 256, 256), 20.0, np.float32)
    np.testing.assert_array_equal(decode({**inputs, "mask_input": ignored})["masks"], expected)
    counted = {**inputs, "mask_input": ignored, "has_mask_input": np.ones(1, np.float32)}
    assert np.abs(decode(counted)["masks"] - expected).max() > 1.0


@pytest.mark.parametrize("shape", ["landscape", "portrait", "square"])
def test_low_res_masks_are_the_masks_in_the_padded_prompt_frame(
    encode: RunGraph, decode: RunGraph, shape: str
) -> None:
    """By segment-anything's `mask_postprocessing`: to 1024x1024, cut, to the image's size."""
    case = example("benign_80", shape)
    height, width = case.image.shape
    embeddings = encode({"input_image": rgb(case.image)})["image_embeddings"]
    outputs = decode(feeds(embeddings, (height, width), case.box, [2, 3]))
    scale = 1024 / max(height, width)
    rows, columns = int(height * scale + 0.5), int(width * scale + 0.5)
    large = cv2.resize(outputs["low_res_masks"][0, 0], (1024, 1024))[:rows, :columns]
    mask = np.asarray(cv2.resize(large, (width, height))) > 0
    assert iou(mask, outputs["masks"][0, 0] > 0) >= MIN_RUNTIME_IOU
    # and nowhere else, but for the one pixel that interpolation needs
    assert (outputs["low_res_masks"][0, 0, rows // 4 + 2 :] == OUTSIDE_LOGIT).all()
    assert (outputs["low_res_masks"][0, 0, :, columns // 4 + 2 :] == OUTSIDE_LOGIT).all()


def test_a_black_margin_is_not_encoded(encode: RunGraph, decode: RunGraph) -> None:
    case = example("benign_80")
    height, width = case.image.shape
    alone = encode({"input_image": rgb(case.image)})["image_embeddings"]
    canvas = np.zeros((height + 300, width, 3), np.float32)
    canvas[:height, :width] = rgb(case.image)
    padded = encode({"input_image": canvas})["image_embeddings"]
    np.testing.assert_array_equal(padded[:, :-1], alone[:, :-1])
    # the size of the image in a frame whose long side, here the canvas' height, is 1024
    scale = 1024 / (height + 300)
    np.testing.assert_allclose(
        padded[0, -1].ravel()[:3], [width * scale, height * scale, 0], rtol=1e-6
    )
    masks = decode(feeds(padded, canvas.shape[:2], case.box, [2, 3]))["masks"]
    expected = decode(feeds(alone, (height, width), case.box, [2, 3]))["masks"]
    assert iou(masks[0, 0, :height] > 0, expected[0, 0] > 0) >= MIN_RUNTIME_IOU
    assert (masks[0, 0, height + 5 :] == OUTSIDE_LOGIT).all()


def test_a_black_image_is_taken_whole(encode: RunGraph, decode: RunGraph) -> None:
    embeddings = encode({"input_image": np.zeros((512, 1024, 3), np.float32)})["image_embeddings"]
    np.testing.assert_array_equal(embeddings[0, -1].ravel()[:2], [1024, 512])
    masks = decode(feeds(embeddings, (512, 1024), [100, 100, 300, 300], [2, 3]))["masks"]
    assert masks.shape == (1, 1, 512, 1024) and np.isfinite(masks).all()


def test_colour_becomes_grey_as_in_the_runtime(encode: RunGraph, segmenter: Segmenter) -> None:
    grey = example("benign_162").image
    colour = np.stack((grey, grey // 2, 255 - grey), axis=2)
    embeddings = encode({"input_image": colour.astype(np.float32)})["image_embeddings"]
    expected = segmenter.encode(colour).image_embeddings
    # OpenCV rounds in fixed point: a few pixels differ by one grey level
    difference = np.abs(embeddings[:, :-1] - expected)
    assert difference.mean() < 0.005 * np.abs(expected).mean()


def test_the_config_is_a_custom_model_of_anylabeling(pair: SamProfile) -> None:
    config = yaml.safe_load(pair.config.read_text(encoding="utf-8"))
    # what SegmentAnything.Meta.required_config_names has in both, and what its __init__ reads
    assert config.keys() >= {
        *("type", "name", "display_name", "encoder_model_path", "decoder_model_path"),
        *("input_size", "max_width", "max_height"),
    }
    assert config["type"] == "segment_anything"
    assert (config["name"], config["display_name"]) == ("SAMUS-HF-tiny", "SAMUS-HF tiny")
    assert pair.config.parent / config["encoder_model_path"] == pair.encoder
    assert pair.config.parent / config["decoder_model_path"] == pair.decoder
    assert pair.files == (pair.encoder, pair.decoder, pair.config)
    assert sorted(pair.folder.iterdir()) == sorted(pair.files)


@pytest.fixture
def spared_graphs(pair: SamProfile, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `write_sam_profile` start from the graphs of `pair`: an export takes a while."""
    for part, path in (("encoder", pair.encoder), ("decoder", pair.decoder)):

        def build(model: object, *, opset: int, path: Path = path) -> onnx.ModelProto:
            assert opset == 20
            return onnx.load(path)

        monkeypatch.setattr(sam_profile, f"sam_{part}_graph", build)


@pytest.mark.usefixtures("spared_graphs")
def test_opset_17_gives_the_same_masks(
    default_model: SamusHF, tmp_path: Path, encode: RunGraph, decode: RunGraph
) -> None:
    old = write_sam_profile(default_model, tmp_path / "old", name="old", opset=17)
    for path in (old.encoder, old.decoder):
        model = onnx.load(path)
        assert [item.version for item in model.opset_import] == [17]
        assert model.ir_version == 8
    case = example("benign_80", "portrait")
    image = {"input_image": rgb(case.image)}
    embeddings = run_graph(old.encoder.read_bytes())(image)["image_embeddings"]
    np.testing.assert_allclose(embeddings, encode(image)["image_embeddings"], atol=EXACT_LOGITS)
    inputs = feeds(embeddings, case.image.shape, case.box, [2, 3])
    masks = run_graph(old.decoder.read_bytes())(inputs)["masks"]
    np.testing.assert_allclose(masks, decode(inputs)["masks"], atol=EXACT_LOGITS)


@pytest.mark.usefixtures("spared_graphs")
def test_only_a_pair_is_replaced_and_only_when_asked(
    default_model: SamusHF, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sam_profile, "check_sam_profile", lambda *arguments: None)
    folder = tmp_path / "pair"
    stages: list[str] = []
    first = write_sam_profile(default_model, folder, name="first", report=stages.append)
    assert stages == ["exporting the encoder", "exporting the decoder", "comparing with torch"]
    with pytest.raises(SamusEdgeError, match="exists"):
        write_sam_profile(default_model, folder, name="second")
    assert first.encoder.is_file()
    second = write_sam_profile(default_model, folder, name="second", overwrite=True)
    assert sorted(folder.iterdir()) == sorted(second.files)
    assert list(tmp_path.iterdir()) == [folder]


def test_other_folders_and_bad_arguments_are_refused(
    default_model: SamusHF, tmp_path: Path
) -> None:
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(SamusEdgeError, match=CONFIG_FILE):
        write_sam_profile(default_model, tmp_path, name="pair", overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(ValueError, match="got 16"):
        write_sam_profile(default_model, tmp_path / "pair", name="pair", opset=16)
    with pytest.raises(ValueError, match=r"got '\.\./'"):
        write_sam_profile(default_model, tmp_path / "pair", name="../")


def test_a_pair_of_another_model_is_not_left_behind(
    shipped_random_model: SamusHF,
    pair: SamProfile,
    spared_graphs: None,
    random_model: SamusHF,
    tmp_path: Path,
) -> None:
    with pytest.raises(ExportMismatchError, match="max logit error"):
        check_sam_profile(shipped_random_model, pair.encoder, pair.decoder)
    with pytest.raises(ExportMismatchError, match="Nothing was written"):
        write_sam_profile(random_model, tmp_path / "pair", name="pair")
    assert not list(tmp_path.iterdir())
