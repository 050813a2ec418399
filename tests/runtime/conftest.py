"""A bundle whose masks are known in closed form, and image files written byte by byte."""

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from samus_edge.runtime.bundle import Bundle
from samus_edge.runtime.file_hash import sha256_of_file
from samus_edge.runtime.manifest import (
    MANIFEST_FILE,
    GraphRecord,
    Manifest,
    Preprocessing,
    PromptFrame,
    TensorSpec,
)
from samus_edge.runtime.segmenter import Segmenter

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
    that mean, in pixels of the 256 x 256 frame, + mask_input where has_mask_input; the radii are 40,
    20, 30 and 60. iou_predictions[n, m] = (m + 1) / 10 + P, which tells P, padding included.
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


@pytest.fixture(scope="session")
def disc_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a bundle of `mean_grey_encoder` and `disc_decoder`; do not change it."""
    folder = tmp_path_factory.mktemp("bundles") / "discs"
    return save_bundle(folder, [mean_grey_encoder(), disc_decoder()])


@pytest.fixture
def disc_bundle_copy(disc_bundle: Path, tmp_path: Path) -> Path:
    """A copy of `disc_bundle` to be damaged."""
    return Path(shutil.copytree(disc_bundle, tmp_path / "bundle"))


@pytest.fixture(scope="session")
def disc_manifest(disc_bundle: Path) -> Manifest:
    """The manifest of `disc_bundle`."""
    return Bundle.open(disc_bundle).manifest


@pytest.fixture(scope="session")
def disc_segmenter(disc_bundle: Path) -> Segmenter:
    """A segmenter on `disc_bundle`; do not close it."""
    return Segmenter.load(disc_bundle, threads=1)


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[[list[onnx.GraphProto]], Path]:
    """Writes a bundle of other graphs and gives its folder."""
    return lambda graphs: save_bundle(tmp_path / "made", graphs)


@pytest.fixture
def disc_graphs() -> list[onnx.GraphProto]:
    """The graphs of `disc_bundle`, to be changed and given to `make_bundle`."""
    return [mean_grey_encoder(), disc_decoder()]


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """A chunk with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_file(
    pixels: npt.NDArray[np.uint8] | npt.NDArray[np.uint16],
    colour_type: int,
    *,
    stated_wh: tuple[int, int] | None = None,
    extra: bytes = b"",
) -> bytes:
    """A PNG without filters or interlacing, by the specification and not by OpenCV.

    Args:
        pixels: (H, W, samples), uint8 or uint16; samples as the colour type asks for.
        colour_type: 0 grey, 2 RGB, 4 grey and alpha, 6 RGB and alpha.
        stated_wh: (W, H) for the header to state instead of the true one.
        extra: chunks between header and pixels.
    """
    height, width = pixels.shape[:2]
    stated_width, stated_height = stated_wh or (width, height)
    depth = pixels.dtype.itemsize * 8
    header = struct.pack(">IIBBBBB", stated_width, stated_height, depth, colour_type, 0, 0, 0)
    rows = [b"\0" + row.astype(row.dtype.newbyteorder(">")).tobytes() for row in pixels]
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", zlib.compress(b"".join(rows)))
        + png_chunk(b"IEND", b"")
    )


@pytest.fixture(scope="session")
def make_png() -> Callable[..., bytes]:
    """`png_file`."""
    return png_file


@pytest.fixture(scope="session")
def make_png_chunk() -> Callable[[bytes, bytes], bytes]:
    """`png_chunk`."""
    return png_chunk
