"""TensorRT-RTX, which builds engines without a GPU."""

import pytest

from samus_edge.runtime.backends.tensorrt.tensorrt_library import TensorRTLibrary, find_tensorrt


@pytest.fixture(scope="session")
def rtx() -> TensorRTLibrary:
    """TensorRT-RTX; skips where it is not installed."""
    pytest.importorskip(
        "tensorrt_rtx",
        reason="TensorRT-RTX is not installed: pip install 'samus-edge[tensorrt-rtx]'",
        exc_type=ImportError,
    )
    return find_tensorrt("tensorrt_rtx")
