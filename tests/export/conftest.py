"""Bundles written of graphs at hand, and sessions on the exported bundle."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest

from samus_edge.export.bundle_writer import BundleText, write_bundle
from samus_edge.modeling import SamusHF
from tests.conftest import AssetFrame

Array = npt.NDArray[Any]
RunGraph = Callable[[dict[str, Array]], dict[str, Array]]


def run_graph(content: bytes) -> RunGraph:
    """A function that runs a graph on ONNX Runtime's CPU, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(feeds: dict[str, Array]) -> dict[str, Array]:
        return dict(zip(names, session.run(None, feeds), strict=True))

    return run


@pytest.fixture
def write_again(
    spared_export: None, random_model: SamusHF, asset_frames: list[AssetFrame]
) -> Callable[..., None]:
    """Writes a bundle of `exported_graphs` to a folder."""

    def write(folder: Path, *, model: SamusHF = random_model, overwrite: bool = False) -> None:
        write_bundle(
            model,
            folder,
            text=BundleText("random-weights"),
            weights_sha256="0" * 64,
            frames=[frame.image for frame in asset_frames[-2:]],
            overwrite=overwrite,
        )

    return write


@pytest.fixture(scope="session")
def run_image_encoder(random_bundle: Path) -> RunGraph:
    """Runs the shipped image encoder: uint8 frames (B, H, W)."""
    return run_graph((random_bundle / "image_encoder.onnx").read_bytes())


@pytest.fixture(scope="session")
def run_mask_decoder(random_bundle: Path) -> RunGraph:
    """Runs the shipped mask decoder."""
    return run_graph((random_bundle / "mask_decoder.onnx").read_bytes())


@pytest.fixture(scope="session")
def embeddings(run_image_encoder: RunGraph, asset_frames: list[AssetFrame]) -> Array:
    """(1, 256, 32, 32), float32: a real frame's image embeddings."""
    return np.asarray(
        run_image_encoder({"image": asset_frames[-1].image[None]})["image_embeddings"]
    )
