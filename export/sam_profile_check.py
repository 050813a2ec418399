"""What a written SAM pair computes, against the model that it was made from."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnxruntime

from samus_edge.errors import ExportMismatchError
from samus_edge.evaluation.torch_predictor import TorchPredictor
from samus_edge.export.parity import MAX_LOGIT_ERROR
from samus_edge.export.sam_graphs import LOW_RES_SIDE, PROMPT_SIDE
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.runtime.mask_upsampling import upsample_logits

__all__ = ["check_sam_profile"]

FRAME_SIZES = ((300, 400), (401, 301))
"""(H, W), pixels; one of even sides and one of odd ones, lying and standing."""

Array = npt.NDArray[Any]


def check_sam_profile(model: SamusHF, encoder: Path, decoder: Path) -> None:
    """Run the files and the model on the same frames and prompts.

    The frames are blobs with speckle: a pair has no frames of its own to be measured on. The encoder
    gets them at their own size, where no resizing by a tool comes between.

    Args:
        model: what was exported, with folded and rounded weights.
        encoder: the encoder's file.
        decoder: the decoder's file.

    Raises:
        ExportMismatchError: naming the largest difference of the logits at the frames' own size.
    """
    run_encoder, run_decoder = _session(encoder), _session(decoder)
    reference = TorchPredictor(model)
    largest = 0.0
    for frame in _speckled_frames():
        frame_hw = (frame.shape[0], frame.shape[1])
        rgb = np.repeat(frame[..., None], 3, axis=2).astype(np.float32)
        image_embeddings = run_encoder.run(None, {"input_image": rgb})[0]
        embedding = reference.encode(frame)
        for box, points in _prompts(frame_hw):
            expected = reference.predict(
                embedding,
                boxes=None if box is None else box[None],
                point_coords=None if points is None else points[None],
                point_labels=None if points is None else np.ones((1, len(points)), np.int32),
            )
            feeds = _feeds(image_embeddings, box, points, frame_hw)
            masks = run_decoder.run(["masks"], feeds)[0]
            logits = upsample_logits(expected.low_res_logits[0, 0], frame_hw)
            difference = np.abs(np.asarray(masks[0, 0]) - logits).max()
            largest = max(largest, float(difference)) if np.isfinite(difference) else np.inf
    if largest > MAX_LOGIT_ERROR:
        raise ExportMismatchError(
            f"The pair differs from the model on {len(FRAME_SIZES)} frames: max logit error "
            f"{largest:.2e}, allowed {MAX_LOGIT_ERROR:.0e}. Nothing was written."
        )


def _session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(
        str(path), sess_options=options, providers=["CPUExecutionProvider"]
    )


def _speckled_frames() -> Iterator[npt.NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    for height, width in FRAME_SIZES:
        coarse = rng.uniform(0.2, 0.8, (5, 7)).astype(np.float32)
        smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        speckle = rng.rayleigh(0.8, (height, width))
        yield np.clip(255.0 * smooth * speckle, 1.0, 255.0).astype(np.uint8)


def _prompts(
    frame_hw: tuple[int, int],
) -> list[tuple[npt.NDArray[np.float32] | None, npt.NDArray[np.float32] | None]]:
    """A box, a point, and both, in pixels of the frame."""
    wh = np.array(frame_hw[::-1], np.float32)
    box = np.concatenate((0.2 * wh, 0.7 * wh)).astype(np.float32)
    point = (0.4 * wh)[None].astype(np.float32)
    return [(box, None), (None, point), (box, point)]


def _feeds(
    image_embeddings: Array,
    box: npt.NDArray[np.float32] | None,
    points: npt.NDArray[np.float32] | None,
    frame_hw: tuple[int, int],
) -> dict[str, Array]:
    """What tools feed the decoder, a padding point always at the end."""
    coords = np.zeros((0, 2), np.float32) if box is None else box.reshape(2, 2)
    labels = [] if box is None else [2.0, 3.0]
    if points is not None:
        coords = np.concatenate((coords, points))
        labels += [1.0] * len(points)
    height, width = frame_hw
    scale = PROMPT_SIDE / max(height, width)
    resized_wh = np.floor(np.array([width, height]) * scale + 0.5)
    coords = np.concatenate((coords * (resized_wh / (width, height)), np.zeros((1, 2))))
    return {
        "image_embeddings": image_embeddings,
        "point_coords": coords[None].astype(np.float32),
        "point_labels": np.array([[*labels, -1.0]], np.float32),
        "mask_input": np.zeros((1, 1, LOW_RES_SIDE, LOW_RES_SIDE), np.float32),
        "has_mask_input": np.zeros(1, np.float32),
        "orig_im_size": np.array(frame_hw, np.float32),
    }
