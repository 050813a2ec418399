"""A bundle whose masks are known in closed form: discs whose radius is the frame's mean grey
level."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from samus_edge.runtime.bundle.manifest import (
    MANIFEST_FILE,
    GraphRecord,
    Manifest,
    Preprocessing,
    PromptFrame,
    TensorSpec,
)
from samus_edge.runtime.images.output_files import sha256_of_file

OPSET = 18
DTYPE_NAMES: dict[int, str] = {TensorProto.UINT8: "uint8", TensorProto.FLOAT: "float32"}


def tensor(name: str, dtype: int, shape: list[int | str]) -> onnx.ValueInfoProto:
    """A graph input or output."""
    return helper.make_tensor_value_info(name, dtype, shape)


def constant(name: str, value: npt.ArrayLike, dtype: npt.DTypeLike) -> onnx.TensorProto:
    """A graph constant."""
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def mean_grey_encoder() -> onnx.GraphProto:
    """image_embeddings are, everywhere, the frame's mean grey level / 255."""
    nodes = [
        helper.make_node("Cast", ["image"], ["grey"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["grey", "axes"], ["mean"], keepdims=1),
        helper.make_node("Div", ["mean", "white"], ["scaled"]),
        helper.make_node("Unsqueeze", ["scaled", "axis"], ["cell"]),
        helper.make_node("Mul", ["cell", "ones"], ["image_embeddings"]),
    ]
    constants = [
        constant("axes", [1, 2], np.int64),
        constant("axis", [1], np.int64),
        constant("white", 255, np.float32),
        constant("ones", np.ones((1, 256, 32, 32)), np.float32),
    ]
    inputs = [tensor("image", TensorProto.UINT8, ["B", "H", "W"])]
    outputs = [tensor("image_embeddings", TensorProto.FLOAT, ["B", 256, 32, 32])]
    return helper.make_graph(nodes, "image_encoder", inputs, outputs, constants)


def disc_decoder() -> onnx.GraphProto:
    """Discs around the mean of a prompt's points (box corners included, padding left out).

    low_res_masks[n, m] = radius_m + 10 * mean(image_embeddings) - distance of the cell's centre to
    that mean, in pixels of the 256 x 256 frame, + mask_input where has_mask_input; the radii are
    40, 20, 30 and 60. iou_predictions[n, m] = (m + 1) / 10 + P, which tells P, padding included.
    """
    rows, columns = np.mgrid[0:128, 0:128]
    centres = np.stack([columns, rows], axis=-1) * 2 + 0.5  # of cells 2 pixels wide
    nodes = [
        helper.make_node("Less", ["point_labels", "zero"], ["is_padding"]),
        helper.make_node("Cast", ["is_padding"], ["padding"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["one", "padding"], ["weights"]),
        helper.make_node("ReduceSum", ["weights", "axis1"], ["count"], keepdims=1),
        helper.make_node("Unsqueeze", ["weights", "axis2"], ["weights3"]),
        helper.make_node("Mul", ["point_coords", "weights3"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "axis1"], ["sum"], keepdims=0),
        helper.make_node("Div", ["sum", "count"], ["mean"]),  # (N, 2)
        helper.make_node("Unsqueeze", ["mean", "axes123"], ["mean5"]),  # (N, 1, 1, 1, 2)
        helper.make_node("Sub", ["centres", "mean5"], ["offsets"]),
        helper.make_node("ReduceL2", ["offsets", "axis4"], ["distance"], keepdims=0),
        helper.make_node("ReduceMean", ["image_embeddings"], ["brightness"], keepdims=0),
        helper.make_node("Mul", ["brightness", "ten"], ["growth"]),
        helper.make_node("Add", ["radii", "growth"], ["grown"]),
        helper.make_node("Sub", ["grown", "distance"], ["discs"]),  # (N, 4, 128, 128)
        helper.make_node("Unsqueeze", ["has_mask_input", "axes23"], ["has_mask"]),
        helper.make_node("Mul", ["mask_input", "has_mask"], ["earlier"]),
        helper.make_node("Add", ["discs", "earlier"], ["low_res_masks"]),
        helper.make_node("Shape", ["point_labels"], ["points"], start=1, end=2),
        helper.make_node("Cast", ["points"], ["points_f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["count", "zero"], ["per_prompt"]),  # (N, 1)
        helper.make_node("Add", ["tenths", "points_f"], ["ious"]),
        helper.make_node("Add", ["per_prompt", "ious"], ["iou_predictions"]),
    ]
    constants = [
        constant("zero", 0, np.float32),
        constant("one", 1, np.float32),
        constant("ten", 10, np.float32),
        constant("axis1", [1], np.int64),
        constant("axis2", [2], np.int64),
        constant("axis4", [4], np.int64),
        constant("axes23", [2, 3], np.int64),
        constant("axes123", [1, 2, 3], np.int64),
        constant("centres", centres[None, None], np.float32),
        constant("radii", np.reshape([40, 20, 30, 60], (1, 4, 1, 1)), np.float32),
        constant("tenths", [[0.1, 0.2, 0.3, 0.4]], np.float32),
    ]
    inputs = [
        tensor("image_embeddings", TensorProto.FLOAT, [1, 256, 32, 32]),
        tensor("point_coords", TensorProto.FLOAT, ["N", "P", 2]),
        tensor("point_labels", TensorProto.FLOAT, ["N", "P"]),
        tensor("mask_input", TensorProto.FLOAT, ["N", 1, 128, 128]),
        tensor("has_mask_input", TensorProto.FLOAT, ["N", 1]),
    ]
    outputs = [
        tensor("low_res_masks", TensorProto.FLOAT, ["N", 4, 128, 128]),
        tensor("iou_predictions", TensorProto.FLOAT, ["N", 4]),
    ]
    return helper.make_graph(nodes, "mask_decoder", inputs, outputs, constants)


def corner_proposer(presence: float = 0.9) -> onnx.GraphProto:
    """Boxes around (64, 64), (192, 192) and again (64, 64), less and less sure, in any image."""
    boxes = [[[44, 44, 84, 84], [172, 172, 212, 212], [54, 54, 74, 74]]]
    nodes = [
        helper.make_node("ReduceMean", ["image_embeddings"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "b"], ["boxes"]),
        helper.make_node("Add", ["nothing", "s"], ["scores"]),
        helper.make_node("Add", ["nothing", "p"], ["points"]),
        helper.make_node("Add", ["nothing", "m"], ["lesion_map"]),
    ]
    constants = [
        constant("zero", 0, np.float32),
        constant("b", boxes, np.float32),
        constant("s", [[presence, 0.8 * presence, 0.7 * presence]], np.float32),
        constant("p", [[[64, 64], [192, 192], [68, 64]]], np.float32),
        constant("m", np.full((1, 32, 32), 0.5), np.float32),
    ]
    inputs = [tensor("image_embeddings", TensorProto.FLOAT, [1, 256, 32, 32])]
    outputs = [
        tensor("boxes", TensorProto.FLOAT, [1, 3, 4]),
        tensor("scores", TensorProto.FLOAT, [1, 3]),
        tensor("points", TensorProto.FLOAT, [1, 3, 2]),
        tensor("lesion_map", TensorProto.FLOAT, [1, 32, 32]),
    ]
    return helper.make_graph(nodes, "lesion_proposer", inputs, outputs, constants)


def spec_of(value: onnx.ValueInfoProto) -> TensorSpec:
    """As a manifest records it."""
    kind = value.type.tensor_type
    shape = tuple(size.dim_param or size.dim_value for size in kind.shape.dim)
    return TensorSpec(value.name, DTYPE_NAMES[kind.elem_type], shape)


def save_graph(folder: Path, graph: onnx.GraphProto) -> GraphRecord:
    """Write a graph's file and record it."""
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = 9  # what the oldest supported ONNX Runtime reads
    onnx.checker.check_model(model, full_check=True)
    path = folder / f"{graph.name}.onnx"
    onnx.save(model, str(path))
    return GraphRecord(
        file=path.name,
        sha256=sha256_of_file(path),
        size_bytes=path.stat().st_size,
        precision="fp32",
        weight_storage="fp32",
        opset=OPSET,
        inputs=tuple(spec_of(value) for value in graph.input),
        outputs=tuple(spec_of(value) for value in graph.output),
    )


def save_bundle(folder: Path, graphs: list[onnx.GraphProto]) -> Path:
    """Write a bundle of these graphs."""
    folder.mkdir(parents=True, exist_ok=True)
    Manifest(
        name="discs",
        model="samus_hf",
        arch="tiny",
        weights_sha256="0" * 64,
        created_with={"samus_edge": "0.1.0", "onnx": onnx.__version__},
        preprocessing=Preprocessing(256, "by the runtime", "none", "mean / 255", "none"),
        prompts=PromptFrame("model", 256, "half-pixel", {"1": "foreground"}),
        mask_threshold=0.0,
        graphs={graph.name: save_graph(folder, graph) for graph in graphs},
        parity={"image_encoder": {"max_abs_difference": 0.00012}},
        accuracy={"box": {"dice": 0.9, "images": 129}},
        licence="Apache-2.0",
        credits=("nobody",),
        intended_use="Tests of the runtime.",
        limits=("Draws discs.",),
    ).write(folder / MANIFEST_FILE)
    return folder
