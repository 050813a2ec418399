"""Estimates from published figures."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch.utils.flop_counter import FlopCounterMode

from samus_edge.benchmarking.planner import (
    JETSON_MODULES,
    Ceiling,
    GraphWork,
    JetsonModule,
    count_flop,
    count_traffic,
    cpu_ceiling,
    estimate,
    roofline,
    work_of_bundle,
)
from samus_edge.benchmarking.subject import Workload
from samus_edge.benchmarking.turns import Timed
from samus_edge.evaluation.torch_predictor import TorchPredictor
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


Fake = Callable[..., Any]


def two_nodes() -> onnx.ModelProto:
    """y = relu(x @ w), with x (3, 4) and w (4, 5)."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in "xy"]
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node("Relu", ["h"], ["y"], name="relu"),
    ]
    constants = [numpy_helper.from_array(np.ones((4, 5), np.float32), "w")]
    constants.append(numpy_helper.from_array(np.ones(1000, np.float32), "unused"))
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def test_traffic_by_hand() -> None:
    weights, least, most = count_traffic(two_nodes(), {"x": np.zeros((3, 4), np.float32)})
    assert (weights, least) == (4 * 20, 4 * (12 + 20 + 15))
    assert most == least + 2 * 4 * 15  # what is between the nodes is written and read


def test_the_default_bundle_is_counted(workload: Workload) -> None:
    work = work_of_bundle(Bundle.open(), workload)
    encoder = work["image_encoder"]
    assert encoder.flop == pytest.approx(6.6e9, rel=0.02)
    assert encoder.weight_bytes < encoder.least_bytes < encoder.most_bytes
    assert encoder.least_bytes - encoder.weight_bytes == 48 * 64 + 256 * 32 * 32 * 4
    assert encoder.intensity == encoder.flop / encoder.least_bytes


def test_points_are_under_the_lower_limit(fake: Fake) -> None:
    ceilings = {"cpu fp32": Ceiling(100.0, 10.0, ""), "gpu fp16": Ceiling(1000.0, 100.0, "")}
    work = {"image_encoder": GraphWork(2_000_000_000, 1, 100_000_000, 1)}  # 20 FLOP per byte
    cpu = fake("cpu", [])
    gpu = fake("gpu", [], precision="fp16", is_on_gpu=True)
    other = fake("int8", [], precision="int8")
    timed = [Timed(subject, subject.stages[0], [[40.0]]) for subject in (cpu, gpu, other)]
    timed[1].device_rounds = [[5.0]]
    first, second = roofline(timed, work, ceilings)
    assert (first.subject, first.gflop_per_s, first.limit_gflop_per_s) == ("cpu", 50.0, 100.0)
    assert (first.reached, first.bound) == (0.5, "compute")  # 20 x 10 GB/s would allow 200
    assert (second.flop_per_byte, second.gflop_per_s) == (40.0, 400.0)  # half as many bytes
    assert (second.limit_gflop_per_s, second.bound) == (1000.0, "compute")
    memory_bound = Ceiling(1000.0, 10.0, "")
    (third,) = roofline(timed[:1], work, {"cpu fp32": memory_bound})
    assert (third.limit_gflop_per_s, third.bound) == (200.0, "memory")


def test_the_processor_has_limits() -> None:
    ceiling = cpu_ceiling(1)
    assert ceiling.gflop_per_s > 1
    assert ceiling.gbyte_per_s > 0.1


def module(fp16_tflops: float, gbyte_per_s: float) -> JetsonModule:
    return JetsonModule("m", "M", fp16_tflops, gbyte_per_s, memory_gb=8, source="")


def test_estimates_by_hand() -> None:
    # 10 GFLOP; 4 MB at least and 400 MB at most in float32
    work = {"image_encoder": GraphWork(10**10, 10**6, 4 * 10**6, 4 * 10**8)}
    half, eighth = estimate(module(10.0, 100.0), work)
    assert (half.precision, half.bound, half.is_estimate) == ("fp16", "compute", True)
    assert half.low_ms == pytest.approx(10 / 5 + 0.05)  # 5 TFLOPS
    assert half.high_ms == pytest.approx(10 / 1 + 0.5)  # 1 TFLOPS; 200 MB at 50 GB/s are 4 ms
    assert eighth.low_ms == pytest.approx(10 / 10 + 0.05)
    assert eighth.high_ms == pytest.approx(10 / 2 + 0.5)


def test_memory_decides_where_little_is_computed() -> None:
    half, _ = estimate(
        module(100.0, 10.0), {"mask_decoder": GraphWork(10**6, 1, 16 * 10**6, 10**8)}
    )
    assert half.bound == "memory"
    assert half.low_ms == pytest.approx(8 / 8 + 0.05)  # 8 MB at 8 GB/s
    assert half.high_ms == pytest.approx(50 / 5 + 0.5)


@pytest.mark.parametrize(
    ("name", "sparse_int8_tops"),
    # As NVIDIA advertises the GPU alone, without the DLA.
    [("orin-nano-8gb", 40), ("orin-nano-super", 67), ("orin-nx-16gb", 60), ("agx-orin-64gb", 170)],
)
def test_figures_agree_with_what_is_advertised(name: str, sparse_int8_tops: float) -> None:
    assert JETSON_MODULES[name].fp16_tflops * 4 == pytest.approx(sparse_int8_tops, rel=0.03)
