"""Estimates from published figures."""

import pytest

from samus_edge.benchmarking.graph_work import GraphWork
from samus_edge.benchmarking.jetson_modules import JETSON_MODULES, JetsonModule
from samus_edge.benchmarking.planner import estimate


def test_by_hand() -> None:
    module = JetsonModule("m", "M", fp16_tflops=10.0, gbyte_per_s=100.0, memory_gb=8, source="")
    # 10 GFLOP; 4 MB at least and 400 MB at most in float32
    work = {"image_encoder": GraphWork(10**10, 10**6, 4 * 10**6, 4 * 10**8)}
    half, eighth = estimate(module, work)
    assert (half.precision, half.bound, half.is_estimate) == ("fp16", "compute", True)
    assert half.low_ms == pytest.approx(10 / 5 + 0.05)  # 5 TFLOPS
    assert half.high_ms == pytest.approx(10 / 1 + 0.5)  # 1 TFLOPS; 200 MB at 50 GB/s are 4 ms
    assert eighth.low_ms == pytest.approx(10 / 10 + 0.05)
    assert eighth.high_ms == pytest.approx(10 / 2 + 0.5)


def test_memory_decides_where_little_is_computed() -> None:
    module = JetsonModule("m", "M", fp16_tflops=100.0, gbyte_per_s=10.0, memory_gb=8, source="")
    half, _ = estimate(module, {"mask_decoder": GraphWork(10**6, 1, 16 * 10**6, 10**8)})
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


def test_every_module_names_its_source() -> None:
    assert all("data sheet" in module.source for module in JETSON_MODULES.values())
    assert all(name == module.name for name, module in JETSON_MODULES.items())
