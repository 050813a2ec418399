"""Engines are used only where they were found to compute what their graphs compute."""

import logging

from samus_edge.errors import BackendError
from samus_edge.runtime.check_frame import load_check_frames
from samus_edge.runtime.graph_contract import IMAGE_ENCODER, MASK_DECODER
from samus_edge.runtime.onnxruntime_backend import OnnxRuntimeBackend
from samus_edge.runtime.segmenter import Segmenter
from samus_edge.runtime.tensorrt.engine_check import EngineCheck, compare_segmenters
from samus_edge.runtime.tensorrt.engine_options import FrameSizes
from samus_edge.runtime.tensorrt.tensorrt_backend import TensorRTBackend

__all__ = ["require_checked_engines"]

_logger = logging.getLogger(__name__)


def require_checked_engines(segmenter: Segmenter) -> EngineCheck:
    """Compare a segmenter's engines with ONNX Runtime, or recall that this was done.

    The result is kept beside the engines, for these engines on this driver.

    Args:
        segmenter: on a `TensorRTBackend`.

    Returns:
        The figures.

    Raises:
        BackendError: if they do not hold; names them, and the limits.
    """
    backend = segmenter.backend
    assert isinstance(backend, TensorRTBackend)
    hashes = segmenter.graph_hashes
    encoder = backend.entry(hashes[IMAGE_ENCODER])
    decoder = backend.entry(hashes[MASK_DECODER])
    driver = backend.gpu.info.driver_version
    check = None
    if encoder is not None and decoder is not None:
        check = backend.cache.check_of(encoder, decoder, driver)
    if check is None:
        frames = load_check_frames(_frame_hw(backend.frame_sizes(hashes[IMAGE_ENCODER])))
        with Segmenter(segmenter.bundle, OnnxRuntimeBackend(), segmenter.precision) as reference:
            check = compare_segmenters(segmenter, reference, frames)
        _logger.info("engines on %s: %s", backend.device, check)
        if encoder is not None and decoder is not None:
            backend.cache.record_check(encoder, decoder, driver, check)
    if check.problems:
        raise BackendError(
            f"the engines of {backend.version} on {backend.device} do not compute what their graphs "
            f"compute on ONNX Runtime ({check.masks} masks on {check.frames} frames): "
            f"{'; '.join(check.problems)}. They are not used. Install another version of TensorRT, build "
            "again, or use the backend onnxruntime."
        )
    return check


def _frame_hw(sizes: FrameSizes | None) -> tuple[int, int] | None:
    """What the frames are resized to; None if the engine takes them as they are."""
    if sizes is None:
        return None
    frames = [frame.image.shape for frame in load_check_frames()]
    fits = all(
        low <= size <= high
        for shape in frames
        for low, size, high in zip(sizes.smallest, shape, sizes.largest, strict=True)
    )
    return None if fits else sizes.typical
