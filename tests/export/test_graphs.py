"""What the exported graphs are made of: the bundle's contract, and nothing that must not leave."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import (
    AttributeProto,
    GraphProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    helper,
    numpy_helper,
)
from torch import nn

from samus_edge.modeling import SamusHF
from samus_edge.modeling.layer_norm_2d import LayerNorm2d
from samus_edge.runtime.bundle import Bundle, default_bundle_folder
from samus_edge.runtime.graph_record import TensorSpec

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
    *("Mul", "Pad", "ReduceMax", "ReduceMin", "ReduceSum", "Relu", "Reshape", "Resize"),
    *("Sigmoid", "Slice", "Softmax", "Squeeze", "Sub", "Transpose", "Unsqueeze"),
}
DECODER_OPERATORS = {
    *("Add", "Cast", "Concat", "Conv", "ConvTranspose", "Cos", "Div", "Equal", "Expand"),
    *("Gather", "Gelu", "Gemm", "LayerNormalization", "MatMul", "Mul", "Relu", "Reshape"),
    *("Shape", "Sin", "Softmax", "Squeeze", "Sub", "Transpose", "Unsqueeze"),
}
# An operator that is not here was not checked on the runtimes we ship to: look before adding it.
ALLOWED_OPERATORS = {
    ("tiny", "image_encoder"): ENCODER_OPERATORS | {"AveragePool", "Gather"},
    ("tiny", "mask_decoder"): DECODER_OPERATORS,
    ("vit_b", "image_encoder"): ENCODER_OPERATORS | {"MaxPool"},
    ("vit_b", "mask_decoder"): DECODER_OPERATORS,
}

WEIGHT_STORAGE = {
    ("tiny", "image_encoder"): "fp16",
    ("tiny", "mask_decoder"): "int8",
    ("vit_b", "image_encoder"): "fp16",
    ("vit_b", "mask_decoder"): "fp16",
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
    return now.get(request.param) or default_bundle_folder()


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
    model: onnx.ModelProto, name: str, folder: Path, arch: str
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
    assert record.weight_storage == WEIGHT_STORAGE[arch, name]
    stored = {tensor.data_type for tensor in model.graph.initializer}
    assert (TensorProto.INT8 in stored) == (record.weight_storage == "int8")


def test_only_standard_and_known_operators(model: onnx.ModelProto, name: str, arch: str) -> None:
    assert {(entry.domain, entry.version) for entry in model.opset_import} == {("", OPSET)}
    assert not model.functions
    nodes = all_nodes(model.graph)
    assert {node.domain for node in nodes} <= {"", "ai.onnx"}
    assert {node.op_type for node in nodes} - ALLOWED_OPERATORS[arch, name] == set()


def test_an_encoder_computes_no_integers(folder: Path) -> None:
    """Shapes and positions are constants: integers at run time hinder other runtimes."""
    model = onnx.shape_inference.infer_shapes(onnx.load(folder / "image_encoder.onnx"))
    computed = {output for node in model.graph.node for output in node.output}
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    types |= {value.name: value.type.tensor_type.elem_type for value in model.graph.output}
    assert {types[output] for output in computed} == {TensorProto.FLOAT}


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
