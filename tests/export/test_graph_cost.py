"""Operations are counted as by hand, and as torch counts them."""

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from samus_edge.evaluation.torch_predictor import TorchPredictor
from samus_edge.export.graph_cost import count_flop
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.weights.bundle_file import load_bundle_model


def one_node(operator: str, weights: tuple[int, ...], **attributes: Any) -> onnx.ModelProto:
    """`y = operator(x, weights)`."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    node = helper.make_node(operator, ["x", "w"], ["y"], name="product", **attributes)
    weight = numpy_helper.from_array(np.zeros(weights, np.float32), "w")
    graph = helper.make_graph([node], "g", values[:1], values[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        # 8 channels of 10x10 from 4 channels by 3x3
        (one_node("Conv", (8, 4, 3, 3)), (1, 4, 12, 12), 2 * 8 * 100 * 4 * 9),
        # depthwise: each output channel sees one input channel
        (one_node("Conv", (8, 1, 3, 3), group=8), (1, 8, 12, 12), 2 * 8 * 100 * 9),
        # each of 36 pixels spreads 4 channels over 2x2 pixels of 6 channels
        (one_node("ConvTranspose", (4, 6, 2, 2), strides=[2, 2]), (1, 4, 6, 6), 2 * 36 * 4 * 24),
        (one_node("MatMul", (16, 32)), (3, 5, 16), 2 * 15 * 16 * 32),
        (one_node("Gemm", (16, 32)), (5, 16), 2 * 5 * 16 * 32),
        (one_node("Gemm", (32, 16), transA=1, transB=1), (16, 5), 2 * 5 * 16 * 32),
    ],
)
def test_products_by_hand(model: onnx.ModelProto, shape: tuple[int, ...], expected: int) -> None:
    assert count_flop(model, {"x": np.zeros(shape, np.float32)}) == {"product": expected}


def test_the_image_encoder_counts_as_in_torch() -> None:
    frame: npt.NDArray[np.uint8] = np.full((64, 80), 7, np.uint8)
    graph = onnx.load_from_string(Bundle.open().read_graph("image_encoder"))
    counted = sum(count_flop(graph, {"image": frame[None]}).values())
    predictor = TorchPredictor(load_bundle_model())
    with FlopCounterMode(display=False) as counter:
        predictor.encode(frame)
    # the wavelet of the frame itself is a convolution in the graph alone: 3 bands of 33x41 (padded
    # 65x81 leaves 32x40), 4 products each
    wavelet = 2 * 3 * 32 * 40 * 4
    assert counted - wavelet == pytest.approx(counter.get_total_flops(), rel=0.01)
