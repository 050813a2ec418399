"""Removal of what the exporter and a merge leave in a graph that nothing needs."""

from onnx import ModelProto, NodeProto, helper

SPATIAL_AXES = [2, 3]


def fix_resize_sizes(model: ModelProto) -> None:
    """Let every resizing to a constant size name that size alone, in place.

    The exporter gives all four sizes, batch and channels read from the tensor's own shape, which is
    arithmetic on shapes at run time. With the axes as an attribute two constants are enough.

    Args:
        model: a model of operator set 18 or newer.
    """
    producers = {node.output[0]: node for node in model.graph.node}
    pairs = {item.name for item in model.graph.initializer if list(item.dims) == [2]}
    for node in model.graph.node:
        if node.op_type != "Resize" or len(node.input) < 4:
            continue
        sizes = producers.get(node.input[3])
        if sizes is None or sizes.op_type != "Concat" or len(sizes.input) != 2:
            continue
        kept, size = sizes.input
        if kept in producers and producers[kept].op_type == "Shape" and size in pairs:
            node.input[3] = size
            node.attribute.append(helper.make_attribute("axes", SPATIAL_AXES))
    remove_unused(model)


def complete_resize_sizes(model: ModelProto) -> None:
    """Undo `fix_resize_sizes`, in place: every resizing names the sizes of all four axes.

    Operator sets before 18 have no axes there, and TensorRT's parser takes none with a batch of
    varying size.

    Args:
        model: a model of operator set 18 or newer.
    """
    graph = model.graph
    nodes: list[NodeProto] = []
    for node in graph.node:
        axes = next((item for item in node.attribute if item.name == "axes"), None)
        if node.op_type == "Resize" and axes is not None and list(axes.ints) == SPATIAL_AXES:
            kept, sizes = f"{node.output[0]}.kept_sizes", f"{node.output[0]}.sizes"
            nodes.append(helper.make_node("Shape", [node.input[0]], [kept], kept, start=0, end=2))
            nodes.append(helper.make_node("Concat", [kept, node.input[3]], [sizes], sizes, axis=0))
            node.input[3] = sizes
            node.attribute.remove(axes)
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def remove_unused(model: ModelProto) -> None:
    """Remove nodes and initialisers that no output depends on, in place.

    Args:
        model: a model whose nodes are in order and hold no graphs of their own.
    """
    graph = model.graph
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    if len(kept) < len(graph.node):
        del graph.node[:]
        graph.node.extend(reversed(kept))
    for items in (graph.initializer, graph.value_info):
        for index in reversed(range(len(items))):
            if items[index].name not in needed:
                del items[index]
