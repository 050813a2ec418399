"""Work, limits, and what is reached of them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from samus_edge.benchmarking.ceilings import Ceiling, cpu_ceiling
from samus_edge.benchmarking.graph_work import GraphWork, work_of_bundle
from samus_edge.benchmarking.roofline import roofline
from samus_edge.benchmarking.turns import Timed
from samus_edge.benchmarking.workload import Workload
from samus_edge.export.graph_traffic import count_traffic
from samus_edge.runtime.bundle import Bundle

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
    traffic = count_traffic(two_nodes(), {"x": np.zeros((3, 4), np.float32)})
    assert (traffic.inputs, traffic.weights, traffic.outputs) == (4 * 12, 4 * 20, 4 * 15)
    assert traffic.between == 2 * 4 * 15  # h is written and read
    assert traffic.least == 4 * (12 + 20 + 15)
    assert traffic.most == traffic.least + traffic.between


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
