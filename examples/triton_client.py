"""Segment the example images on a Triton server that serves a bundle; docs/triton.md tells how.

Run it from anywhere: `python examples/triton_client.py --url localhost:8001`. It needs
`pip install opencv-python-headless 'tritonclient[grpc]'`, neither samus-edge nor a GPU: frames and
prompts go out, logits come back. docs/bundle.md explains the numbers that pass between.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import tritonclient.grpc as triton

EXAMPLES_DIR = Path(__file__).resolve().parent
MASK_INPUT_HW = (128, 128)
SERVER_TIMEOUT_US = 500_000  # in the server's queue; it refuses the request after that
CLIENT_TIMEOUT_S = 10.0
# Between masks of the variants; below, an engine computes something else than its graph.
LEAST_MEAN_IOU, LEAST_IOU = 0.995, 0.96
DATATYPES = {"uint8": "UINT8", "float32": "FP32"}


@dataclass(frozen=True)
class ServedBundle:
    """A bundle on a server.

    Attributes:
        image_encoder: name of the model.
        mask_decoder: name of the model.
        name: the bundle's name.
        weights_sha256: of the weights that both models were made from.
        image_size: side of the square frame that the decoder takes prompts in, pixels.
        mask_threshold: a pixel belongs to the mask where its logit is greater than this.
    """

    image_encoder: str
    mask_decoder: str
    name: str
    weights_sha256: str
    image_size: int
    mask_threshold: float


def served_bundle(client: Any, variant: str, prefix: str = "") -> ServedBundle:
    """Ask a server for both models of a bundle.

    Args:
        client: a `tritonclient.grpc.InferenceServerClient`.
        variant: "onnx" or "tensorrt".
        prefix: in front of the models' names.

    Raises:
        RuntimeError: if the models come from different weights: embeddings of one model mean
            nothing to the decoder of another, and no number in the answer would tell.
    """
    names = (f"{prefix}image_encoder_{variant}", f"{prefix}mask_decoder_{variant}")
    encoder, decoder = (
        {
            key: value.string_value
            for key, value in client.get_model_config(name).config.parameters.items()
        }
        for name in names
    )
    key = "samus_edge.weights_sha256"
    if encoder[key] != decoder[key]:
        raise RuntimeError(
            f"{names[0]} and {names[1]} come from different weights ({encoder[key][:12]} and "
            f"{decoder[key][:12]}). Let the server load both from one repository."
        )
    return ServedBundle(
        *names,
        name=decoder["samus_edge.bundle"],
        weights_sha256=decoder[key],
        image_size=int(decoder["samus_edge.image_size"]),
        mask_threshold=float(decoder["samus_edge.mask_threshold"]),
    )


def infer_inputs(arrays: Mapping[str, npt.NDArray[Any]]) -> list[Any]:
    """Tensors of a request, by their names, as `tritonclient.grpc.InferInput`."""
    inputs = []
    for name, array in arrays.items():
        tensor = triton.InferInput(name, list(array.shape), DATATYPES[array.dtype.name])
        tensor.set_data_from_numpy(np.ascontiguousarray(array))
        inputs.append(tensor)
    return inputs


def encoder_arrays(image: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[Any]]:
    """What the image encoder is sent: the raw grey frame, (1, H, W), uint8.

    Args:
        image: (H, W) grey or (H, W, 3) RGB, uint8.
    """
    grey = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return {"image": grey[None]}


def decoder_arrays(
    image_embeddings: npt.NDArray[np.float32],
    boxes: npt.ArrayLike,
    original_hw: tuple[int, int],
    image_size: int,
) -> dict[str, npt.NDArray[Any]]:
    """What the mask decoder is sent for N boxes on one frame.

    Args:
        image_embeddings: (1, 256, 32, 32), float32.
        boxes: (N, 4), XYXY, pixels of the frame; N at most 32.
        original_hw: (H, W) of the frame, pixels.
        image_size: side of the model frame, pixels.

    Returns:
        (N, ...) arrays; the embeddings are repeated, because on Triton's batch axis every row is a
        prompt with an image of its own.
    """
    height, width = original_hw
    corners = np.asarray(boxes, np.float32).reshape(-1, 2, 2)  # (N, 2, 2): two points, (x, y)
    limits = np.array([width - 1, height - 1], np.float32)
    # Pixel centres are at integers, in the frame and in the model frame.
    scale = np.array([image_size / width, image_size / height], np.float32)
    coords = (np.clip(corners, 0, limits) + np.float32(0.5)) * scale - np.float32(0.5)
    rows = len(coords)
    return {
        "image_embeddings": np.repeat(image_embeddings, rows, axis=0),
        "point_coords": coords,
        "point_labels": np.tile(np.array([2, 3], np.float32), (rows, 1)),
        "mask_input": np.zeros((rows, 1, *MASK_INPUT_HW), np.float32),
        "has_mask_input": np.zeros((rows, 1), np.float32),
    }


def infer(client: Any, model: str, arrays: Mapping[str, npt.NDArray[Any]], output: str) -> Any:
    """Run one request on the server and take one of its outputs."""
    result = client.infer(
        model,
        infer_inputs(arrays),
        outputs=[triton.InferRequestedOutput(output)],
        timeout=SERVER_TIMEOUT_US,
        client_timeout=CLIENT_TIMEOUT_S,
    )
    return result.as_numpy(output)


def segment(
    client: Any, bundle: ServedBundle, image: npt.NDArray[np.uint8], boxes: npt.ArrayLike
) -> npt.NDArray[np.bool_]:
    """Masks of N boxes on one image.

    Args:
        client: a `tritonclient.grpc.InferenceServerClient`.
        bundle: what to ask.
        image: (H, W) grey or (H, W, 3) RGB, uint8.
        boxes: (N, 4), XYXY, pixels of the image; N at most 32.

    Returns:
        (N, H, W), bool.

    Raises:
        RuntimeError: if an answer is not finite.
    """
    height, width = image.shape[:2]
    embeddings = infer(client, bundle.image_encoder, encoder_arrays(image), "image_embeddings")
    arrays = decoder_arrays(embeddings, boxes, (height, width), bundle.image_size)
    logits = infer(client, bundle.mask_decoder, arrays, "low_res_masks")[:, :1]  # (N, 1, 128, 128)
    if not np.isfinite(logits).all():
        raise RuntimeError(f"{bundle.mask_decoder} gave NaN or infinite logits.")
    resized = [
        cv2.resize(each[0], (width, height), interpolation=cv2.INTER_LINEAR) for each in logits
    ]
    return np.stack(resized) > bundle.mask_threshold


def iou(first: npt.NDArray[np.bool_], second: npt.NDArray[np.bool_]) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    union = np.count_nonzero(first | second)
    return float(np.count_nonzero(first & second)) / union if union else 1.0


def main() -> None:
    """Print one line per example image."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--url", default="localhost:8001", help="host and gRPC port of the server")
    parser.add_argument("--variant", choices=("onnx", "tensorrt"), default="onnx")
    parser.add_argument("--prefix", default="", help="in front of the models' names")
    parser.add_argument(
        "--compare", action="store_true", help="masks of the variant tensorrt against those of onnx"
    )
    options = parser.parse_args()
    client = triton.InferenceServerClient(options.url)
    variants = ("onnx", "tensorrt") if options.compare else (options.variant,)
    bundles = [served_bundle(client, variant, options.prefix) for variant in variants]
    print(f"{bundles[0].name}, weights {bundles[0].weights_sha256[:12]}")
    ious = []
    for name, box in json.loads((EXAMPLES_DIR / "prompts.json").read_text()).items():
        image = cv2.imread(str(EXAMPLES_DIR / name), cv2.IMREAD_GRAYSCALE)
        if image is None:
            raise FileNotFoundError(f"cannot read {name}. Is the checkout complete?")
        masks = [segment(client, bundle, image.astype(np.uint8), [box]) for bundle in bundles]
        ious.append(iou(masks[0], masks[-1]))
        compared = f", IoU of the variants {ious[-1]:.4f}" if options.compare else ""
        print(f"{name}: {np.count_nonzero(masks[0])} pixels{compared}")
    if np.mean(ious) < LEAST_MEAN_IOU or min(ious) < LEAST_IOU:
        raise SystemExit(
            f"the variants differ: IoU {np.mean(ious):.4f} on average (at least {LEAST_MEAN_IOU}), "
            f"worst {min(ious):.4f} (at least {LEAST_IOU})"
        )


if __name__ == "__main__":
    main()
