"""An export with the signature of SAM's classic ONNX pair, for tools that load such pairs."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from samus_edge.errors import BadArgumentError, ExportMismatchError
from samus_edge.evaluation.torch_predictor import TorchPredictor
from samus_edge.export.bundle_writer import check_opset, shipped_model
from samus_edge.export.graph_cleanup import GELU_OPSET, downgrade, graph_file
from samus_edge.export.parity import MAX_LOGIT_ERROR
from samus_edge.export.sam_graphs import (
    LOW_RES_SIDE,
    PROMPT_SIDE,
    sam_decoder_graph,
    sam_encoder_graph,
)
from samus_edge.export.torch_graph import DEFAULT_OPSET
from samus_edge.export.weight_storage import store_compactly
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.runtime.agreement import largest_difference
from samus_edge.runtime.images.output_files import draft_folder, write_files_atomically
from samus_edge.runtime.prediction import upsample_logits
from samus_edge.verification.comparison import open_onnx

FRAME_SIZES = ((300, 400), (401, 301))
"""(H, W), pixels; one of even sides and one of odd ones, lying and standing."""

Array = npt.NDArray[Any]


def check_sam_profile(model: SamusHF, encoder: Path, decoder: Path) -> None:
    """Run the files and the model on the same frames and prompts.

    The frames are blobs with speckle: a pair has no frames of its own to be measured on. The
    encoder gets them at their own size, where no resizing by a tool comes between.

    Args:
        model: the exported model, with folded and rounded weights.
        encoder: the encoder's file.
        decoder: the decoder's file.

    Raises:
        ExportMismatchError: naming the largest difference of the logits at the frames' own size.
    """
    run_encoder, run_decoder = open_onnx(str(encoder)), open_onnx(str(decoder))
    reference = TorchPredictor(model)
    largest = 0.0
    for frame in _speckled_frames():
        frame_hw = (frame.shape[0], frame.shape[1])
        rgb = np.repeat(frame[..., None], 3, axis=2).astype(np.float32)
        image_embeddings = run_encoder.run(None, {"input_image": rgb})[0]
        embedding = reference.encode(frame)
        for box, points in _prompts(frame_hw):
            expected = reference.decode(
                embedding,
                boxes=None if box is None else box[None],
                point_coords=None if points is None else points[None],
                point_labels=None if points is None else np.ones((1, len(points)), np.int32),
            )
            feeds = _feeds(image_embeddings, box, points, frame_hw)
            masks = run_decoder.run(["masks"], feeds)[0]
            logits = upsample_logits(expected.low_res_logits[0, 0], frame_hw)
            largest = max(largest, largest_difference(masks[0, 0], logits))
    if largest > MAX_LOGIT_ERROR:
        raise ExportMismatchError(
            f"The pair differs from the model on {len(FRAME_SIZES)} frames: max logit error "
            f"{largest:.2e}, allowed {MAX_LOGIT_ERROR:.0e}. Nothing was written."
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


CONFIG_FILE = "anylabeling.yaml"
"""What AnyLabeling and X-AnyLabeling are given as a custom model; both read the same fields."""

# X-AnyLabeling takes no other letters in a model's name.
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9._-]+")

_CONFIG = """\
# Custom model for AnyLabeling and X-AnyLabeling.
type: segment_anything
name: "{stem}"
display_name: {display_name}
encoder_model_path: "{encoder}"
decoder_model_path: "{decoder}"
input_size: {side}
max_width: {side}
max_height: {side}
"""


@dataclass(frozen=True)
class SamProfile:
    """A written pair.

    Attributes:
        folder: its folder.
        name: name of the model in files and tools.
        encoder: path of the encoder, `NAME.encoder.onnx`.
        decoder: path of the decoder, `NAME.decoder.onnx`.
        config: path of the custom model file for AnyLabeling and X-AnyLabeling.
        opset: ONNX operator set of both graphs.
    """

    folder: Path
    name: str
    encoder: Path
    decoder: Path
    config: Path
    opset: int

    @property
    def files(self) -> tuple[Path, ...]:
        """Everything that was written."""
        return (self.encoder, self.decoder, self.config)


def write_sam_profile(
    model: SamusHF,
    folder: Path,
    *,
    name: str,
    opset: int = DEFAULT_OPSET,
    overwrite: bool = False,
    report: Callable[[str], None] = lambda stage: None,
) -> SamProfile:
    """Export a model as a SAM pair, compare it with the model, and only then put it in place.

    Args:
        model: the model; left as it is. Rounded as in a bundle, so both give the same masks.
        folder: the pair's new folder.
        name: name of the model, shown by the tools; in file names, what is neither an ASCII letter
            nor a digit nor one of `._-` becomes `-`.
        opset: ONNX operator set, from `OLDEST_OPSET` to `NEWEST_OPSET`; ONNX Runtime
            takes 20 from 1.17 on; 17 was run on 1.16.
        overwrite: whether a pair at ``folder`` is replaced.
        report: called with the name of each stage as it starts.

    Returns:
        The written pair.

    Raises:
        BadArgumentError: if ``opset`` is out of range, or nothing of the name can be in a file
            name.
        SamusEdgeError: if ``folder`` exists and is not to be overwritten, or is no such pair.
        ExportMismatchError: if the pair computes something else; nothing is left at ``folder``.
        OutputFileError: if a file cannot be written; nothing is left.
    """
    check_opset(opset)
    stem = _NOT_IN_NAMES.sub("-", name).strip("-.")
    if not stem:
        raise BadArgumentError(f"name must have a letter or digit, got {name!r}.")
    kind = "a SAM pair of samus-edge"
    with draft_folder(folder, kind=kind, marker=CONFIG_FILE, overwrite=overwrite) as draft:
        model = shipped_model(model)
        builders = {"encoder": sam_encoder_graph, "decoder": sam_decoder_graph}
        files = {part: f"{stem}.{part}.onnx" for part in builders}
        for part, build in builders.items():
            report(f"exporting the {part}")
            graph = build(model, opset=max(opset, GELU_OPSET))
            if opset < GELU_OPSET:
                downgrade(graph, opset)
            write_files_atomically({draft / files[part]: _file_of(graph)})
            del graph  # half a gigabyte for a large encoder, before the next one is made
        report("comparing with torch")
        check_sam_profile(model, draft / files["encoder"], draft / files["decoder"])
        config = _CONFIG.format(
            stem=stem,
            # A string in YAML, whose double-quoted strings are those of JSON.
            display_name=json.dumps(name),
            side=PROMPT_SIDE,
            **files,
        )
        # Last: a folder without it is no pair that was finished.
        write_files_atomically({draft / CONFIG_FILE: config.encode()})
    return SamProfile(
        folder=folder,
        name=stem,
        encoder=folder / files["encoder"],
        decoder=folder / files["decoder"],
        config=folder / CONFIG_FILE,
        opset=opset,
    )


def _file_of(graph: ModelProto) -> bytes:
    store_compactly(graph)
    return graph_file(graph)
