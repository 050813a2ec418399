"""The preprocessing inside the exported graph against OpenCV and the wavelet reference."""

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from samus_edge.export.preprocessing_graph import preprocessing_graph
from samus_edge.high_frequency import high_frequency_image
from tests.conftest import AssetFrame
from tests.export.conftest import RunGraph, run_graph

HIGH_FREQUENCY_TOLERANCE = 0.05
"""Grey levels; the contract between all definitions of the wavelet image."""

GREY_TOLERANCE = 0.005
"""Grey levels; OpenCV's interpolation weights differ in the last digits of float32."""

SIZE = 256
GREY_LEVELS = st.one_of(
    st.just(st.integers(0, 255)),
    st.just(st.integers(0, 1)),
    st.just(st.integers(254, 255)),
    st.just(st.sampled_from([0, 255])),
)
SMALL_FRAMES = st.tuples(st.tuples(st.integers(1, 24), st.integers(1, 24)), GREY_LEVELS).flatmap(
    lambda drawn: hnp.arrays(np.uint8, drawn[0], elements=drawn[1])
)

Frame = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def run_preprocessing() -> RunGraph:
    """The preprocessing graph alone, on ONNX Runtime."""
    model = preprocessing_graph(image_size=SIZE, opset=20, ir_version=10)
    return run_graph(model.SerializeToString())


def assert_agrees(run: RunGraph, frame: Frame) -> None:
    """Both outputs for one frame, against the references."""
    outputs = run({"image": frame[None]})
    for output in outputs.values():
        assert output.shape == (1, 1, SIZE, SIZE) and output.dtype == np.float32
    grey = cv2.resize(frame.astype(np.float32), (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)
    difference = np.abs(outputs["grey"][0, 0] * 255.0 - grey).max()
    assert difference <= GREY_TOLERANCE
    reference = high_frequency_image(frame, (SIZE, SIZE))
    difference = np.abs(outputs["high_frequency"][0, 0] * 255.0 - reference).max()
    assert difference <= HIGH_FREQUENCY_TOLERANCE


def test_agrees_on_real_frames(run_preprocessing: RunGraph, asset_frames: list[AssetFrame]) -> None:
    for frame in asset_frames:
        assert_agrees(run_preprocessing, frame.image)


@pytest.mark.parametrize(
    "hw",
    [(1, 1), (1, 640), (640, 1), (2, 2), (3, 2), (255, 257), (511, 512), (768, 1025)],
    ids=lambda hw: f"{hw[0]}x{hw[1]}",
)
@pytest.mark.parametrize("kind", ["noise", "saturated", "constant", "one pixel"])
def test_agrees_on_any_size(kind: str, hw: tuple[int, int], run_preprocessing: RunGraph) -> None:
    rng = np.random.default_rng(0)
    frame = np.full(hw, 77, dtype=np.uint8)
    if kind == "noise":
        frame = rng.integers(0, 256, hw, dtype=np.uint8)
    elif kind == "saturated":
        frame = np.where(rng.random(hw) < 0.5, 0, 255).astype(np.uint8)
    elif kind == "one pixel":
        frame[hw[0] // 2, hw[1] // 2] = 78
    assert_agrees(run_preprocessing, frame)


@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_a_constant_frame_has_no_high_frequency(level: int, run_preprocessing: RunGraph) -> None:
    outputs = run_preprocessing({"image": np.full((1, 33, 50), level, np.uint8)})
    assert not outputs["high_frequency"].any()
    np.testing.assert_allclose(outputs["grey"], level / 255.0, rtol=0, atol=1e-6)


@given(frame=SMALL_FRAMES)
@example(frame=np.array([[255, 0, 255, 255, 255, 128], [255, 0, 0, 0, 128, 1]], dtype=np.uint8))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_agrees_on_small_frames(frame: Frame, run_preprocessing: RunGraph) -> None:
    assert_agrees(run_preprocessing, frame)


def test_frames_of_a_batch_are_scaled_by_their_own_range(run_preprocessing: RunGraph) -> None:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 41, 30), dtype=np.uint8)
    frames //= np.array([1, 4, 32, 255], np.uint8)[:, None, None]
    together = run_preprocessing({"image": frames})
    for index, frame in enumerate(frames):
        alone = run_preprocessing({"image": frame[None]})
        for name, output in together.items():
            np.testing.assert_allclose(output[index], alone[name][0], rtol=0, atol=1e-6)
        assert_agrees(run_preprocessing, frame)
