"""Readable names for the nodes and tensors of an exported graph."""

import ast
from collections import Counter
from collections.abc import Mapping

from onnx import ModelProto, NodeProto

SCOPES_KEY = "pkg.torch.onnx.name_scopes"
"""Where PyTorch's exporter notes the modules that a node comes from, outermost first."""


def name_by_module(model: ModelProto) -> None:
    """Name every node by its module and operator, and its outputs by the node, in place.

    `stage2/0/attn/qkv/MatMul` is the matrix product of the module `stage2.0.attn.qkv`. A module's
    second node of the same operator gets the suffix `_1`, the third `_2`. A node whose module is not
    noted takes that of the node before it. Inputs, outputs and initialisers of the graph keep their
    names.

    Args:
        model: a graph as PyTorch's exporter gives it, with its notes.
    """
    graph = model.graph
    fixed = {value.name for value in (*graph.input, *graph.output)}
    fixed.update(initializer.name for initializer in graph.initializer)
    used: Counter[str] = Counter()
    tensors: dict[str, str] = {}
    module = ""
    for node in graph.node:
        module = _module_of(node) or module
        stem = f"{module.replace('.', '/')}/{node.op_type}".lstrip("/")
        count = used[stem]
        used[stem] += 1
        node.name = f"{stem}_{count}" if count else stem
        for index, output in enumerate(node.output):
            if output and output not in fixed:
                tensors[output] = node.name if index == 0 else f"{node.name}:{index}"
    _rename_tensors(model, tensors)


def _module_of(node: NodeProto) -> str:
    """Dotted path of the innermost module, "" for the outermost or where none is noted."""
    for item in node.metadata_props:
        if item.key == SCOPES_KEY:
            scopes: list[str] = ast.literal_eval(item.value)
            # the last one is the operation; operations outside any module have the exporter's own
            paths = [scope for scope in scopes[:-1] if not scope.startswith("_")]
            return paths[-1] if paths else ""
    return ""


def _rename_tensors(model: ModelProto, names: Mapping[str, str]) -> None:
    for node in model.graph.node:
        for tensors in (node.input, node.output):
            for index, name in enumerate(tensors):
                tensors[index] = names.get(name, name)
    for value in model.graph.value_info:
        value.name = names.get(value.name, value.name)
