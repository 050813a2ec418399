"""Tools that people have, on an ONNX file as it is: nothing of samus-edge comes between."""

import importlib
from collections.abc import Mapping
from typing import Any

import onnx
import pytest

TOOLS = ("onnx", "openvino", "tensorrt, sizes that vary", "tensorrt, fixed sizes")

OPSET, IR_VERSION = 20, 9
"""The newest that ONNX Runtime 1.17 takes, by its table of versions."""

Shape = tuple[int, ...]

# Smallest, typical and largest; of inputs whose sizes the file leaves open.
SHAPES: dict[str, tuple[Shape, Shape, Shape]] = {
    "image": ((1, 32, 32), (1, 480, 640), (4, 1200, 1920)),
    "image_embeddings": ((1, 256, 32, 32), (2, 256, 32, 32), (16, 256, 32, 32)),
    "point_coords": ((1, 2, 2), (2, 3, 2), (16, 16, 2)),
    "point_labels": ((1, 2), (2, 3), (16, 16)),
    "mask_input": ((1, 1, 128, 128), (2, 1, 128, 128), (16, 1, 128, 128)),
    "has_mask_input": ((1, 1), (2, 1), (16, 1)),
    "input_image": ((32, 32, 3), (683, 1024, 3), (1024, 1024, 3)),
}


def assert_taken(graph: bytes, tool: str) -> None:
    """Fail if a tool refuses a file, skip if it is not installed.

    Args:
        graph: the file.
        tool: one of `TOOLS`.
    """
    if tool == "onnx":
        model = onnx.load_model_from_string(graph)
        onnx.checker.check_model(model, full_check=True)
        assert [(item.domain, item.version) for item in model.opset_import] == [("", OPSET)]
        assert model.ir_version == IR_VERSION
    elif tool == "openvino":
        openvino: Any = pytest.importorskip("openvino", reason="OpenVINO is not installed")
        core = openvino.Core()
        core.compile_model(core.read_model(graph), "CPU")
    else:
        shapes = SHAPES
        if tool == "tensorrt, fixed sizes":
            shapes = {name: (typical,) * 3 for name, (_, typical, _) in SHAPES.items()}
        assert refusals_of_tensorrt(graph, shapes) == []


def refusals_of_tensorrt(
    graph: bytes, shapes: Mapping[str, tuple[Shape, Shape, Shape]] = SHAPES
) -> list[str]:
    """What TensorRT-RTX's parser or builder say against a file; nothing if there is an engine."""
    pytest.importorskip(
        "tensorrt_rtx",
        reason="TensorRT-RTX is not installed: pip install 'samus-edge[tensorrt-rtx]'",
        exc_type=ImportError,
    )
    trt: Any = importlib.import_module("tensorrt_rtx")
    messages: list[str] = []

    class Log(trt.ILogger):  # type: ignore[misc]  # its class is known only when it is imported
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.ERROR:
                messages.append(message)

    log = Log()
    builder = trt.Builder(log)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    if not trt.OnnxParser(network, log).parse(graph):
        return messages
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if -1 in tuple(tensor.shape):
            profile.set_shape(tensor.name, *shapes[tensor.name])
    config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    return [] if engine is not None and engine.nbytes > 0 else messages or ["no engine"]
