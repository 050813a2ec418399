"""Every place in which an ONNX file can hold a tensor is looked at; compared with the onnx package."""

import numpy as np
import onnx
import pytest
from onnx import GraphProto, ModelProto, TensorProto, helper, numpy_helper

from samus_edge.runtime.bundle import default_bundle_folder
from samus_edge.runtime.onnx_external_data import external_data_locations


def external(location: str, *, says_so: bool = True) -> TensorProto:
    """A tensor whose data are in a file."""
    tensor = TensorProto(name="weights", dims=[2], data_type=TensorProto.FLOAT)
    for key, value in (("offset", "0"), ("location", location), ("length", "8")):
        tensor.external_data.add(key=key, value=value)
    if says_so:
        tensor.data_location = TensorProto.EXTERNAL
    return tensor


def holding(*nodes: onnx.NodeProto) -> GraphProto:
    """A graph of these nodes."""
    return helper.make_graph(list(nodes), "graph", [], [])


def everywhere() -> ModelProto:
    """A model with a tensor "1.bin" to "11.bin" in each place that onnx.proto has for one."""
    constant = helper.make_node("Constant", [], ["c"], value=external("1.bin"))
    several = helper.make_node("Custom", [], ["s"])
    several.attribute.add(name="t", type=onnx.AttributeProto.TENSORS).tensors.append(
        external("2.bin")
    )
    inner = holding(helper.make_node("Constant", [], ["i"], value=external("3.bin")))
    branch = helper.make_node("If", ["x"], ["b"], then_branch=inner)
    listed = helper.make_node("Custom", [], ["g"])
    graphs = listed.attribute.add(name="g", type=onnx.AttributeProto.GRAPHS).graphs
    graphs.add(name="deep").initializer.append(external("4.bin"))
    sparse = helper.make_node("Custom", [], ["p"])
    attribute = sparse.attribute.add(name="p", type=onnx.AttributeProto.SPARSE_TENSOR)
    attribute.sparse_tensor.values.CopyFrom(external("5.bin"))
    attribute.sparse_tensors.add().indices.CopyFrom(external("6.bin"))
    model = helper.make_model(holding(constant, several, branch, listed, sparse))
    large = numpy_helper.from_array(np.zeros(5000, np.float32), "large")
    model.graph.initializer.extend([large, external("7.bin", says_so=False)])
    model.graph.sparse_initializer.add().values.CopyFrom(external("8.bin"))
    function = model.functions.add(name="f", domain="d")
    function.node.append(helper.make_node("Constant", [], ["f"], value=external("9.bin")))
    function.attribute_proto.add(name="t", type=onnx.AttributeProto.TENSOR).t.CopyFrom(
        external("10.bin")
    )
    model.training_info.add().algorithm.initializer.append(external("11.bin"))
    return model


def test_locations_are_found_in_every_place() -> None:
    found = external_data_locations(everywhere().SerializeToString())
    assert found == {f"{number}.bin" for number in range(1, 12)}


def test_every_field_of_onnx_that_leads_to_a_tensor_is_walked() -> None:
    """The messages that hold a TensorProto at any depth, by the descriptors of the onnx package."""
    walked = {
        *("ModelProto", "GraphProto", "NodeProto", "AttributeProto", "TensorProto"),
        *("SparseTensorProto", "FunctionProto", "TrainingInfoProto"),
    }
    leading = {"TensorProto"}
    messages = ModelProto.DESCRIPTOR.file.message_types_by_name
    while True:
        more = {
            name
            for name, message in messages.items()
            for field in message.fields
            if field.message_type is not None and field.message_type.name in leading
        }
        if more <= leading:
            break
        leading |= more
    assert leading == walked


def test_the_word_alone_is_no_location() -> None:
    node = helper.make_node("Identity", ["location"], ["out"], name="location")
    model = helper.make_model(holding(node), doc_string="location")
    assert external_data_locations(model.SerializeToString()) == frozenset()


def test_the_default_bundle_keeps_its_tensors_in_the_graphs() -> None:
    graphs = sorted(default_bundle_folder().glob("*.onnx"))
    assert len(graphs) == 2
    for graph in graphs:
        assert external_data_locations(graph.read_bytes()) == frozenset()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x3a\xff\x01" + b"x" * 3, "cut off at byte 0"),
        (b"\x3a", "an integer does not end"),
        (b"\xff" * 11, "an integer does not end"),
        (b"\x8a\x80\x80\x80\x80\x80\x00", "tag is too long"),
        (b"\x3b", "the wire type 3 at byte 0"),
        (b"\x3d\x00", "cut off at byte 0"),
    ],
)
def test_bytes_that_are_no_message_are_an_error(content: bytes, message: str) -> None:
    padding = b"\x3a\x80\x40" + bytes(0) + b"\x2a\xfd\x3f" + bytes(8189)  # long enough to be walked
    with pytest.raises(ValueError, match=message.replace("byte 0", r"byte \d+")):
        external_data_locations(padding + content)
