"""Ranges of shapes."""

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from samus_edge.errors import BackendError, BundleError
from samus_edge.runtime.backends.tensorrt.engine_build import (
    BuildProgress,
    EngineProfile,
    ShapeRange,
    build_engine,
    image_encoder_profile,
    mask_decoder_profile,
)
from samus_edge.runtime.backends.tensorrt.tensorrt_library import TensorRTLibrary
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.manifest import mask_input_hw


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((1,), (1, 2), (1, 2)), "same number of axes"),
        (((0,), (1,), (1,)), r"positive integers, got \(0,\)"),
        (((1.5,), (2,), (3,)), "positive integers"),
        (((True,), (2,), (3,)), "positive integers"),
        (((2,), (1,), (3,)), "smallest <= typical <= largest"),
        (((1, 1), (1, 4), (1, 3)), "smallest <= typical <= largest"),
    ],
)
def test_a_range_out_of_order_is_refused(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ShapeRange(*shapes)


def test_the_largest_frame_is_the_typical_one_unless_said() -> None:
    profile = image_encoder_profile((30, 40), largest_hw=(60, 80))
    assert profile == {"image": ShapeRange((1, 30, 40), (1, 60, 80), (1, 60, 80))}


def test_the_inputs_of_the_decoder_share_their_numbers() -> None:
    profile = mask_decoder_profile((128, 96), typical_prompts=2, max_prompts=4, max_points=5)
    assert profile == {
        "point_coords": ShapeRange((1, 1, 2), (2, 2, 2), (4, 5, 2)),
        "point_labels": ShapeRange((1, 1), (2, 2), (4, 5)),
        "mask_input": ShapeRange((1, 1, 128, 96), (2, 1, 128, 96), (4, 1, 128, 96)),
        "has_mask_input": ShapeRange((1, 1), (2, 1), (4, 1)),
    }


DEFAULT_BUNDLE = Path(__file__).parents[4] / "runtime" / "default_bundle"
LOGGER = "samus_edge.runtime.backends.tensorrt.tensorrt_library"
# What the builder logs of an engine's inputs and outputs: a machine without a GPU cannot load it.
TENSOR = re.compile(
    r"Name: (\w+), IOMode: (Input|Output), DataType: (\w+), Dimensions: \[(.*?)\].*"
)
FRAME_HW = (512, 640)
VARYING_FRAMES = image_encoder_profile((64, 64), FRAME_HW, (2048, 2048))


@pytest.fixture(scope="module")
def default_graph() -> Callable[[str], bytes]:
    """Reads a graph of the default bundle."""
    return Bundle.open(DEFAULT_BUNDLE).read_graph


@pytest.fixture(scope="module")
def decoder_profile() -> EngineProfile:
    """Up to 16 prompts of up to 16 points for the default bundle's mask decoder."""
    return mask_decoder_profile(
        mask_input_hw(Bundle.open(DEFAULT_BUNDLE).graph_record("mask_decoder"))
    )


def small_graph(
    operator: str = "MatMul",
    shape: tuple[int | str, ...] = ("rows", 8),
    dtype: int = onnx.TensorProto.FLOAT,
) -> bytes:
    """x (rows, 8) by a constant matrix (8, 8)."""
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    product = onnx.TensorProto.INT32 if operator == "MatMulInteger" else dtype
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "matrix"], ["y"], name="the_product")],
        "small",
        [helper.make_tensor_value_info("x", dtype, shape)],
        [helper.make_tensor_value_info("y", product, shape)],
        [numpy_helper.from_array(np.eye(8, dtype=kind), "matrix")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    content: bytes = model.SerializeToString()
    return content


ROWS: EngineProfile = {"x": ShapeRange((1, 8), (4, 8), (16, 8))}


def tensors_of_engine(caplog: pytest.LogCaptureFixture) -> dict[str, tuple[str, str, str]]:
    """Direction, type and dimensions of every input and output of the last engine in the log."""
    (layers,) = [text for text in caplog.messages if text.startswith("Layers:")]
    return {name: (mode, kind, size) for name, mode, kind, size in TENSOR.findall(layers)}


@pytest.mark.parametrize("compute_capability", ["8.6", "12.0"])
def test_the_image_encoder_builds_for_frames_of_many_sizes(
    rtx: TensorRTLibrary,
    default_graph: Callable[[str], bytes],
    caplog: pytest.LogCaptureFixture,
    compute_capability: str,
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    engine = build_engine(
        default_graph("image_encoder"),
        library=rtx,
        profiles=[VARYING_FRAMES],
        compute_capability=compute_capability,
        workspace_bytes=1 << 30,
        log_layers=True,
    )
    assert len(engine) > 10_000_000
    assert tensors_of_engine(caplog) == {
        "image": ("Input", "UInt8", "1,-1,-1"),
        "image_embeddings": ("Output", "Float", "1,256,32,32"),
    }
    assert "MinShape: [1,64,64], OptShape: [1,512,640], MaxShape: [1,2048,2048]" in caplog.text


def test_one_frame_size_becomes_a_constant_of_the_engine(
    rtx: TensorRTLibrary,
    default_graph: Callable[[str], bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    build_engine(
        default_graph("image_encoder"),
        library=rtx,
        profiles=[image_encoder_profile(FRAME_HW)],
        compute_capability="8.6",
        log_layers=True,
    )
    assert tensors_of_engine(caplog)["image"] == ("Input", "UInt8", "1,512,640")


def test_the_mask_decoder_builds_for_many_prompts_and_points(
    rtx: TensorRTLibrary,
    default_graph: Callable[[str], bytes],
    decoder_profile: EngineProfile,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    build_engine(
        default_graph("mask_decoder"),
        library=rtx,
        profiles=[decoder_profile],
        compute_capability="8.6",
        log_layers=True,
    )
    assert tensors_of_engine(caplog) == {
        "image_embeddings": ("Input", "Float", "1,256,32,32"),
        "point_coords": ("Input", "Float", "-1,-1,2"),
        "point_labels": ("Input", "Float", "-1,-1"),
        "mask_input": ("Input", "Float", "-1,1,128,128"),
        "has_mask_input": ("Input", "Float", "-1,1"),
        "low_res_masks": ("Output", "Float", "-1,4,128,128"),
        "iou_predictions": ("Output", "Float", "-1,4"),
    }
    assert "MinShape: [1,1,2], OptShape: [1,2,2], MaxShape: [16,16,2]" in caplog.text


def test_an_engine_has_one_range_for_each_profile(
    rtx: TensorRTLibrary, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    many: EngineProfile = {"x": ShapeRange((32, 8), (64, 8), (128, 8))}
    build_engine(
        small_graph(),
        library=rtx,
        profiles=[ROWS, many],
        compute_capability="8.6",
        log_layers=True,
    )
    assert "MinShape: [1,8], OptShape: [4,8], MaxShape: [16,8]" in caplog.text
    assert "MinShape: [32,8], OptShape: [64,8], MaxShape: [128,8]" in caplog.text


def test_the_engine_has_the_types_of_the_graph(
    rtx: TensorRTLibrary, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    build_engine(
        small_graph(dtype=onnx.TensorProto.FLOAT16),
        library=rtx,
        profiles=[ROWS],
        compute_capability="8.6",
        log_layers=True,
    )
    assert tensors_of_engine(caplog) == {
        "x": ("Input", "Half", "-1,8"),
        "y": ("Output", "Half", "-1,8"),
    }


def test_a_graph_of_fixed_shapes_needs_no_profile(rtx: TensorRTLibrary) -> None:
    assert build_engine(small_graph(shape=(4, 8)), library=rtx)


def test_a_refused_operator_is_named_with_its_node(rtx: TensorRTLibrary) -> None:
    graph = small_graph("MatMulInteger", dtype=onnx.TensorProto.INT8)
    message = r"refuses graph 'broken': node 'the_product' \(MatMulInteger\): it is not supported$"
    with pytest.raises(BackendError, match=message):
        build_engine(graph, library=rtx, name="broken", profiles=[ROWS])


def test_batches_of_frames_have_an_engine(
    rtx: TensorRTLibrary,
    default_graph: Callable[[str], bytes],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    build_engine(
        default_graph("image_encoder"),
        library=rtx,
        profiles=[{"image": ShapeRange((1, 64, 64), (1, 64, 64), (2, 64, 64))}],
        log_layers=True,
    )
    assert tensors_of_engine(caplog)["image"] == ("Input", "UInt8", "-1,64,64")


@pytest.mark.parametrize(
    ("profiles", "message"),
    [
        ([], r"no profile gives x a range.*Its inputs are x \(-1, 8\)"),
        ([{}], "x has no range"),
        ([{"X": ROWS["x"], "x": ROWS["x"]}], "X has the range .* in the graph no such input"),
        ([{"x": ShapeRange.fixed((4, 9))}], r"x has the range \(4, 9\).*in the graph \(4, 8\)"),
        ([{"x": ShapeRange.fixed((4, 8, 1))}], r"x has the range \(4, 8, 1\)"),
        ([ROWS, {"x": ShapeRange.fixed((4,))}], "the same numbers of axes"),
        ([ROWS, {"y": ROWS["x"]}], "the same inputs"),
    ],
)
def test_profiles_that_do_not_fit_are_refused(
    rtx: TensorRTLibrary, profiles: list[EngineProfile], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_engine(small_graph(), library=rtx, profiles=profiles)


@pytest.mark.parametrize(
    "content", [b"", b"not a graph", b"\x08\x07", b"\x3a\x02\xff\xff", small_graph()[:-5]]
)
def test_bytes_that_are_no_graph_are_refused(rtx: TensorRTLibrary, content: bytes) -> None:
    with pytest.raises(BundleError, match="graph 'broken' is not a valid ONNX graph"):
        build_engine(content, library=rtx, name="broken")


@pytest.mark.parametrize("compute_capability", ["9.0", "8.7", "CURRENT", ""])
def test_an_unknown_compute_capability_is_refused_with_the_known_ones(
    rtx: TensorRTLibrary, compute_capability: str
) -> None:
    with pytest.raises(
        BackendError, match=rf"'{compute_capability}', only for .*8\.6, 8\.9, 12\.0"
    ):
        build_engine(
            small_graph(), library=rtx, profiles=[ROWS], compute_capability=compute_capability
        )


def test_what_the_builder_refuses_is_said_once(rtx: TensorRTLibrary) -> None:
    # Turing has no float32 products in TensorRT-RTX, which only the builder finds out.
    with pytest.raises(BackendError, match=r"cannot build graph 'small': .*Turing") as caught:
        build_engine(
            small_graph(), library=rtx, name="small", profiles=[ROWS], compute_capability="7.5"
        )
    assert "\n" not in str(caught.value)
    assert "catchCudaError" not in str(caught.value)


def test_progress_is_reported(rtx: TensorRTLibrary) -> None:
    seen: list[BuildProgress] = []
    build_engine(small_graph(), library=rtx, profiles=[ROWS], on_progress=seen.append)
    whole = [progress for progress in seen if progress.within is None]
    assert whole
    assert [progress.done for progress in whole] == sorted(progress.done for progress in whole)
    assert whole[-1].done == whole[-1].steps


def test_a_build_can_be_stopped_from_the_progress(rtx: TensorRTLibrary) -> None:
    def stop(progress: BuildProgress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_engine(small_graph(), library=rtx, profiles=[ROWS], on_progress=stop)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of TensorRT-RTX, which has none
def test_a_timing_cache_that_is_refused_or_cannot_be_kept_costs_no_engine(
    rtx: TensorRTLibrary,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As `tensorrt` does it with a cache of another version: it refuses, and then has none."""
    library, profiles = replace(rtx, flavour="tensorrt"), [{"x": ShapeRange.fixed((4, 8))}]
    path = tmp_path / "timing"
    path.write_bytes(b"of another version")
    for name, answer in (("set_timing_cache", False), ("get_timing_cache", None)):
        monkeypatch.setattr(rtx.module.IBuilderConfig, name, lambda *_, answer=answer, **__: answer)
    assert build_engine(small_graph(), library=library, profiles=profiles, timing_cache=path)
    assert f"TensorRT refuses the timing cache {path}" in caplog.text
    assert path.read_bytes() == b"of another version"
    monkeypatch.undo()
    blocked = path / "timing"
    assert build_engine(small_graph(), library=library, profiles=profiles, timing_cache=blocked)
    assert "the timing cache is not kept" in caplog.text


def test_a_negative_workspace_is_refused(rtx: TensorRTLibrary) -> None:
    with pytest.raises(ValueError, match="workspace_bytes must not be negative, got -1"):
        build_engine(small_graph(), library=rtx, profiles=[ROWS], workspace_bytes=-1)


def test_an_engine_is_told_from_garbage_without_a_gpu(rtx: TensorRTLibrary) -> None:
    trt = rtx.module
    runtime = trt.Runtime(trt.Logger(trt.Logger.INTERNAL_ERROR))
    malformed = int(trt.EngineInvalidityDiagnostics.MALFORMED_ENGINE)
    engine = build_engine(small_graph(), library=rtx, profiles=[ROWS], compute_capability="8.6")
    _, problems = runtime.get_engine_validity(engine)
    assert not problems & malformed
    _, problems = runtime.get_engine_validity(b"not an engine" * 100)
    assert problems & malformed
