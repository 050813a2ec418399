"""Names of an exported graph's nodes and tensors."""

import warnings
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import (
    AttributeProto,
    GraphProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument
from torch import Tensor, nn

from samus_edge.export.torch_graph import (
    SCOPES_KEY,
    freeze_frame_size,
    name_by_module,
    preprocessing_graph,
)
from samus_edge.high_frequency import high_frequency_image
from samus_edge.modeling import SamusHF
from samus_edge.modeling.layers import LayerNorm2d
from samus_edge.runtime.bundle.bundle import Bundle, default_bundle_path
from samus_edge.runtime.bundle.manifest import TensorSpec
from tests.conftest import AssetFrame
from tests.export.conftest import RunGraph, run_graph
from tests.stock_tools import TOOLS, assert_taken


class Block(nn.Module):
    """Two linear layers, the second one used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = nn.Linear(8, 16)
        self.fc2 = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 8) to (N, 16)."""
        hidden = self.fc1(x).relu()
        out: Tensor = self.fc2(self.fc2(hidden).relu())
        return out


def test_nodes_and_tensors_are_named_by_module_and_operator() -> None:
    module = nn.Sequential(Block(), Block())
    module[1].fc1 = nn.Linear(16, 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's, about its own internals
        program = torch.onnx.export(
            module.eval(), (torch.rand(3, 8),), dynamo=True, verbose=False, input_names=["x"]
        )
    assert program is not None
    model = program.model_proto
    (output,) = (value.name for value in model.graph.output)
    name_by_module(model)
    onnx.checker.check_model(model, full_check=True)
    gemms = [node.name for node in model.graph.node if node.op_type == "Gemm"]
    assert gemms == [
        *("0/fc1/Gemm", "0/fc2/Gemm", "0/fc2/Gemm_1"),
        *("1/fc1/Gemm", "1/fc2/Gemm", "1/fc2/Gemm_1"),
    ]
    assert model.graph.input[0].name == "x"
    assert model.graph.output[0].name == output
    weights = {initializer.name for initializer in model.graph.initializer}
    assert {"0.fc1.weight", "1.fc2.bias"} <= weights
    for node in model.graph.node[:-1]:
        assert list(node.output) == [node.name]


def test_a_node_without_a_note_belongs_to_the_module_of_the_one_before() -> None:
    nodes = [
        helper.make_node("Neg", ["x"], ["a"], name="n0"),
        helper.make_node("Split", ["a"], ["b", "c"], name="n1", num_outputs=2),
        helper.make_node("Add", ["b", "c"], ["y"], name="n2"),
    ]
    nodes[0].metadata_props.add(key=SCOPES_KEY, value="['', 'stem', 'stem.0', 'neg']")
    nodes[2].metadata_props.add(key=SCOPES_KEY, value="['_stack', 'add']")
    value = [helper.make_tensor_value_info(name, 1, [2]) for name in "xy"]
    model = helper.make_model(helper.make_graph(nodes, "g", value[:1], value[1:]))
    name_by_module(model)
    assert [node.name for node in model.graph.node] == ["stem/0/Neg", "stem/0/Split", "stem/0/Add"]
    assert list(model.graph.node[1].output) == ["stem/0/Split", "stem/0/Split:1"]
    assert list(model.graph.node[2].input) == ["stem/0/Split", "stem/0/Split:1"]
    assert list(model.graph.node[2].output) == ["y"]


def test_the_frozen_encoder_computes_the_same_and_takes_nothing_else(
    random_bundle: Path, run_image_encoder: RunGraph, asset_frames: list[AssetFrame]
) -> None:
    frame = asset_frames[-1].image
    model = onnx.load(str(random_bundle / "image_encoder.onnx"))
    height, width = frame.shape
    freeze_frame_size(model, (height, width))
    onnx.checker.check_model(model, full_check=True)
    shapes = [
        [size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    ]
    assert shapes == [[1, height, width], [1, 256, 32, 32]]
    run = run_graph(model.SerializeToString())
    feeds = {"image": frame[None]}
    np.testing.assert_allclose(
        run(feeds)["image_embeddings"],
        run_image_encoder(feeds)["image_embeddings"],
        rtol=1e-5,
        atol=1e-5,
    )
    with pytest.raises(InvalidArgument, match="image"):
        run({"image": frame[None, :-1]})


def test_a_frame_has_at_least_one_pixel(random_bundle: Path) -> None:
    model = onnx.load(str(random_bundle / "image_encoder.onnx"))
    with pytest.raises(ValueError, match="frame_hw must be at least 1x1, got 0x640"):
        freeze_frame_size(model, (0, 640))


HIGH_FREQUENCY_TOLERANCE = 0.05
"""Grey levels; the contract between all definitions of the wavelet image."""

GREY_TOLERANCE = 0.005
"""Grey levels; OpenCV's interpolation weights differ in the last digits of float32."""

SIZE = 256
GREY_LEVELS = st.one_of(
    st.just(st.integers(0, 255)),
    st.just(st.integers(0, 1)),
    st.just(st.integers(254, 255)),
    st.just(st.sampled_from([0, 255])),
)
SMALL_FRAMES = st.tuples(st.tuples(st.integers(1, 24), st.integers(1, 24)), GREY_LEVELS).flatmap(
    lambda drawn: hnp.arrays(np.uint8, drawn[0], elements=drawn[1])
)

Frame = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def run_preprocessing() -> RunGraph:
    """The preprocessing graph alone, on ONNX Runtime."""
    model = preprocessing_graph(image_size=SIZE, opset=20, ir_version=10)
    return run_graph(model.SerializeToString())


def assert_agrees(run: RunGraph, frame: Frame) -> None:
    """Both outputs for one frame, against the references."""
    outputs = run({"image": frame[None]})
    for output in outputs.values():
        assert output.shape == (1, 1, SIZE, SIZE) and output.dtype == np.float32
    grey = cv2.resize(frame.astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    difference = np.abs(outputs["grey"][0, 0] * 255.0 - grey).max()
    assert difference <= GREY_TOLERANCE
    reference = high_frequency_image(frame, (SIZE, SIZE))
    difference = np.abs(outputs["high_frequency"][0, 0] * 255.0 - reference).max()
    assert difference <= HIGH_FREQUENCY_TOLERANCE


def test_agrees_on_real_frames(run_preprocessing: RunGraph, asset_frames: list[AssetFrame]) -> None:
    for frame in asset_frames:
        assert_agrees(run_preprocessing, frame.image)


@pytest.mark.parametrize(
    "hw",
    [(1, 1), (1, 640), (640, 1), (2, 2), (3, 2), (255, 257), (511, 512), (768, 1025)],
    ids=lambda hw: f"{hw[0]}x{hw[1]}",
)
@pytest.mark.parametrize("kind", ["noise", "saturated", "constant", "one pixel"])
def test_agrees_on_any_size(kind: str, hw: tuple[int, int], run_preprocessing: RunGraph) -> None:
    rng = np.random.default_rng(0)
    frame = np.full(hw, 77, dtype=np.uint8)
    if kind == "noise":
        frame = rng.integers(0, 256, hw, dtype=np.uint8)
    elif kind == "saturated":
        frame = np.where(rng.random(hw) < 0.5, 0, 255).astype(np.uint8)
    elif kind == "one pixel":
        frame[hw[0] // 2, hw[1] // 2] = 78
    assert_agrees(run_preprocessing, frame)


@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_a_constant_frame_has_no_high_frequency(level: int, run_preprocessing: RunGraph) -> None:
    outputs = run_preprocessing({"image": np.full((1, 33, 50), level, np.uint8)})
    assert not outputs["high_frequency"].any()
    np.testing.assert_allclose(outputs["grey"], level / 255.0, rtol=0, atol=1e-6)


@given(frame=SMALL_FRAMES)
@example(frame=np.array([[255, 0, 255, 255, 255, 128], [255, 0, 0, 0, 128, 1]], dtype=np.uint8))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_agrees_on_small_frames(frame: Frame, run_preprocessing: RunGraph) -> None:
    assert_agrees(run_preprocessing, frame)


def test_frames_of_a_batch_are_scaled_by_their_own_range(run_preprocessing: RunGraph) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 41, 30), dtype=np.uint8)
    frames //= np.array([1, 4, 32, 255], np.uint8)[:, None, None]
    together = run_preprocessing({"image": frames})
    for index, frame in enumerate(frames):
        alone = run_preprocessing({"image": frame[None]})
        for name, output in together.items():
            np.testing.assert_allclose(output[index], alone[name][0], rtol=0, atol=1e-6)
        assert_agrees(run_preprocessing, frame)


OPSET = 20

SIGNATURES = {
    "image_encoder": (
        [("image", "uint8", ("dynamic", "dynamic", "dynamic"))],
        [("image_embeddings", "float32", ("dynamic", 256, 32, 32))],
    ),
    "mask_decoder": (
        [
            ("image_embeddings", "float32", (1, 256, 32, 32)),
            ("point_coords", "float32", ("dynamic", "dynamic", 2)),
            ("point_labels", "float32", ("dynamic", "dynamic")),
            ("mask_input", "float32", ("dynamic", 1, 128, 128)),
            ("has_mask_input", "float32", ("dynamic", 1)),
        ],
        [
            ("low_res_masks", "float32", ("dynamic", 4, 128, 128)),
            ("iou_predictions", "float32", ("dynamic", 4)),
        ],
    ),
}

ENCODER_OPERATORS = {
    *("Add", "Cast", "Concat", "Conv", "Div", "Gelu", "LayerNormalization", "MatMul", "Max"),
    *("Mul", "Pad", "ReduceMax", "ReduceMin", "ReduceSum", "Relu", "Reshape", "Resize", "Shape"),
    *("Sigmoid", "Slice", "Softmax", "Squeeze", "Sub", "Transpose", "Unsqueeze"),
}
DECODER_OPERATORS = {
    *("Add", "Cast", "Concat", "Conv", "ConvTranspose", "Cos", "Div", "Equal", "Expand"),
    *("Gather", "Gelu", "Gemm", "LayerNormalization", "MatMul", "Mul", "ReduceSum", "Relu"),
    *("Reshape", "Shape", "Sin", "Softmax", "Squeeze", "Sub", "Transpose", "Unsqueeze"),
}
# An operator that is not here was not checked on the runtimes we ship to: look before adding it.
ALLOWED_OPERATORS = {
    ("tiny", "image_encoder"): ENCODER_OPERATORS | {"AveragePool", "Split"},
    ("tiny", "mask_decoder"): DECODER_OPERATORS,
    ("vit_b", "image_encoder"): ENCODER_OPERATORS | {"MaxPool"},
    ("vit_b", "mask_decoder"): DECODER_OPERATORS,
}

TRACES = (
    *(b"site-packages", b"torch/nn", b"Traceback", b".py", b"pkg.torch", b"/tmp", b"/usr"),
    b"/ho" + b"me",
)
"""Paths and stack traces of the exporting machine."""


@pytest.fixture(scope="module", params=["image_encoder", "mask_decoder"])
def name(request: pytest.FixtureRequest) -> str:
    """Name of a graph."""
    return str(request.param)


@pytest.fixture(scope="module", params=["tiny exported now", "small vit", "default"])
def folder(request: pytest.FixtureRequest, random_bundle: Path, vit_bundle: Path) -> Path:
    """Bundles that this exporter has just written, and the one of the package."""
    now = {"tiny exported now": random_bundle, "small vit": vit_bundle}
    return now.get(request.param) or default_bundle_path()


@pytest.fixture(scope="module")
def arch(folder: Path) -> str:
    """The bundle's architecture."""
    return Bundle.open(folder).manifest.arch


@pytest.fixture(scope="module")
def model(name: str, folder: Path) -> onnx.ModelProto:
    """The graph as it is shipped."""
    return onnx.load(folder / f"{name}.onnx")


def signature(values: list[ValueInfoProto]) -> list[tuple[str, str, tuple[int | str, ...]]]:
    """Names, types and shapes; axes without a fixed size are "dynamic"."""
    found = []
    for value in values:
        tensor = value.type.tensor_type
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        shape = tuple(axis.dim_value or "dynamic" for axis in tensor.shape.dim)
        found.append((value.name, dtype, shape))
    return found


def all_nodes(graph: GraphProto) -> list[NodeProto]:
    """Nodes of a graph and of the graphs in its nodes."""
    nodes = []
    for node in graph.node:
        nodes.append(node)
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                nodes += all_nodes(attribute.g)
    return nodes


def test_signature_is_the_contract(model: onnx.ModelProto, name: str) -> None:
    inputs, outputs = SIGNATURES[name]
    assert signature(list(model.graph.input)) == inputs
    assert signature(list(model.graph.output)) == outputs


def test_axes_of_one_meaning_have_one_name(model: onnx.ModelProto, name: str) -> None:
    names = {
        (value.name, index): axis.dim_param
        for value in (*model.graph.input, *model.graph.output)
        for index, axis in enumerate(value.type.tensor_type.shape.dim)
        if not axis.dim_value
    }
    if name == "image_encoder":
        assert names["image", 0] == names["image_embeddings", 0]
        assert len(set(names.values())) == 3
    else:
        rows = {names[value, 0] for value, index in names if index == 0}
        assert len(rows) == 1
        assert names["point_coords", 1] == names["point_labels", 1]
        assert len(set(names.values())) == 2


def test_the_manifest_says_what_the_graph_says(
    model: onnx.ModelProto, name: str, folder: Path
) -> None:
    record = Bundle.open(folder).manifest.graphs[name]

    def dynamic(specs: tuple[TensorSpec, ...]) -> list[tuple[str, str, tuple[int | str, ...]]]:
        return [
            (
                spec.name,
                spec.dtype,
                tuple("dynamic" if isinstance(axis, str) else axis for axis in spec.shape),
            )
            for spec in specs
        ]

    assert dynamic(record.inputs) == SIGNATURES[name][0]
    assert dynamic(record.outputs) == SIGNATURES[name][1]
    assert record.opset == model.opset_import[0].version == OPSET
    assert record.precision == "fp32"
    assert record.weight_storage == "fp16"


def test_only_standard_and_known_operators(model: onnx.ModelProto, name: str, arch: str) -> None:
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", OPSET)}
    assert not model.functions
    nodes = all_nodes(model.graph)
    assert {node.domain for node in nodes} <= {"", "ai.onnx"}
    assert {node.op_type for node in nodes} - ALLOWED_OPERATORS[arch, name] == set()


def test_an_encoder_computes_no_integers_but_the_sizes_of_resizing(folder: Path) -> None:
    """Other shapes and positions are constants: integers at run time hinder other runtimes."""
    model = onnx.shape_inference.infer_shapes(onnx.load(folder / "image_encoder.onnx"))
    computed = {output for node in model.graph.node for output in node.output}
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    types |= {value.name: value.type.tensor_type.elem_type for value in model.graph.output}
    others = {output for output in computed if types[output] != TensorProto.FLOAT}
    sizes = {
        node.input[3] for node in model.graph.node if node.op_type == "Resize" and node.input[3:]
    }
    assert sizes
    assert others - sizes <= {
        name for node in model.graph.node if node.output[0] in sizes for name in node.input
    }


def test_a_vits_normalisations_and_activations_are_single_nodes(
    vit_bundle: Path, vit_model: SamusHF
) -> None:
    encoder = vit_model.image_encoder
    position = list(encoder.get_submodule("position").modules())  # folded into a constant
    modules = [module for module in encoder.modules() if module not in position]
    graph = onnx.load(vit_bundle / "image_encoder.onnx").graph
    counts = Counter(node.op_type for node in graph.node)
    norms = sum(isinstance(module, nn.LayerNorm | LayerNorm2d) for module in modules)
    assert counts["LayerNormalization"] == norms > 0
    assert counts["Gelu"] == sum(isinstance(module, nn.GELU) for module in modules) > 0
    assert counts["Softmax"] == 3  # two blocks, one of them with cross-branch attention


@pytest.mark.parametrize("graph", ["image_encoder", "mask_decoder"])
@pytest.mark.parametrize("bundle", ["random_bundle", "vit_bundle"])
def test_the_operator_set_is_imported_once(
    graph: str, bundle: str, request: pytest.FixtureRequest
) -> None:
    folder: Path = request.getfixturevalue(bundle)
    assert len(onnx.load(folder / f"{graph}.onnx").opset_import) == 1


@pytest.mark.parametrize("tool", TOOLS)
def test_tools_take_the_file_as_it_is(folder: Path, name: str, tool: str) -> None:
    assert_taken((folder / f"{name}.onnx").read_bytes(), tool)


def test_tensorrt_folds_the_position_biases_of_attention(vit_bundle: Path) -> None:
    for folder in (vit_bundle, default_bundle_path()):
        graph = onnx.load(folder / "image_encoder.onnx").graph
        constants = {tensor.name for tensor in graph.initializer}
        for node in graph.node:
            if constants.issuperset(node.input):
                assert node.op_type in ("Cast", "Concat", "Reshape", "Slice", "Split", "Transpose")
                constants.update(node.output)


def without_weights(model: onnx.ModelProto) -> bytes:
    """The file but for its numbers, in which any three bytes may turn up."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        tensor.ClearField("raw_data")
    content: bytes = copy.SerializeToString()
    return content


def test_nothing_of_the_exporting_machine_is_left(model: onnx.ModelProto, name: str) -> None:
    content = without_weights(model)
    assert [trace for trace in TRACES if trace in content] == []
    assert not any(node.doc_string or node.metadata_props for node in all_nodes(model.graph))
    assert model.producer_name == "samus-edge"
    assert model.graph.name == name


def test_weights_are_inside_and_compact(model: onnx.ModelProto) -> None:
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    arrays = [numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    full = sum(array.nbytes for array in arrays if array.dtype == np.float32)
    # vectors, and the decoder's positional encoding of the image, half a megabyte
    assert full <= 0.15 * sum(array.nbytes for array in arrays)
