"""Names of an exported graph's nodes and tensors."""

import warnings

import onnx
import torch
from onnx import helper
from torch import Tensor, nn

from samus_edge.export.node_names import SCOPES_KEY, name_by_module


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
