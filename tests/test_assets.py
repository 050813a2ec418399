"""The committed assets are what their README says, and the shared fixtures hand them out."""

import importlib.util
import types
from pathlib import Path

import numpy as np

from tests.conftest import AssetFrame

ASSETS_DIR = Path(__file__).parent / "assets"

# Frames are documented as "the same to the pixel"; one grey level is left for the rounding of
# INTER_AREA, which OpenCV may change between versions.
GREY_LEVEL_TOLERANCE = 1


def test_frames_have_the_size_their_name_says(asset_frames: list[AssetFrame]) -> None:
    assert len(asset_frames) == 20
    for frame in asset_frames:
        width, height = frame.name.removesuffix(".png").split("_")[-1].split("x")
        assert frame.image.shape == (int(height), int(width)), frame.name
        assert frame.image.max() > frame.image.min(), frame.name


def test_boxes_lie_inside_their_frame(asset_frames: list[AssetFrame]) -> None:
    for frame in asset_frames:
        x1, y1, x2, y2 = frame.box
        height, width = frame.image.shape
        assert 0 <= x1 < x2 <= width - 1, frame.name
        assert 0 <= y1 < y2 <= height - 1, frame.name


def test_the_frames_are_made_by_the_committed_script(
    asset_frames: list[AssetFrame], busi_root: Path
) -> None:
    spec = importlib.util.spec_from_file_location("make_frames", ASSETS_DIR / "make_frames.py")
    assert spec is not None and spec.loader is not None
    make_frames = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make_frames)

    for recipe, committed in zip(make_frames.RECIPES, asset_frames, strict=True):
        made = make_frames.make_frame(busi_root, recipe)
        assert committed.name == recipe.file_name
        difference = np.abs(made.image.astype(int) - committed.image.astype(int))
        assert difference.max() <= GREY_LEVEL_TOLERANCE, committed.name
        np.testing.assert_allclose(committed.box, made.box, atol=0.05)  # written with one decimal


def test_segment_anything_modeling_is_metas(segment_anything_modeling: types.ModuleType) -> None:
    assert segment_anything_modeling.__name__ == "segment_anything.modeling"
    for name in ("PromptEncoder", "MaskDecoder", "TwoWayTransformer", "ImageEncoderViT"):
        assert hasattr(segment_anything_modeling, name)
