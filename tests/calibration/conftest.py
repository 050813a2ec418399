"""A small real graph whose weights are stored in different ways."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

FloatArray = npt.NDArray[np.float32]


@pytest.fixture
def make_matmul() -> Callable[[dict[str, FloatArray]], ModelProto]:
    """Makes a model that multiplies its input by one matrix after the other."""

    def make(matrices: dict[str, FloatArray]) -> ModelProto:
        nodes, earlier = [], "x"
        for name in matrices:
            nodes.append(helper.make_node("MatMul", [earlier, name], [f"times_{name}"]))
            earlier = f"times_{name}"
        first, last = next(iter(matrices.values())), next(reversed(matrices.values()))
        graph = helper.make_graph(
            nodes,
            "products",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", first.shape[0]])],
            [helper.make_tensor_value_info(earlier, TensorProto.FLOAT, ["N", last.shape[1]])],
            [numpy_helper.from_array(matrix, name) for name, matrix in matrices.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
        model.ir_version = 9  # what the oldest supported ONNX Runtime reads
        onnx.checker.check_model(model, full_check=True)
        return model

    return make


@pytest.fixture
def run_model() -> Callable[[ModelProto, FloatArray], FloatArray]:
    """Runs a model on ONNX Runtime."""

    def run(model: ModelProto, x: FloatArray) -> FloatArray:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        output: FloatArray = session.run(None, {"x": x})[0]
        return output

    return run
