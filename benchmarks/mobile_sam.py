"""MobileSAM's image encoder as an ONNX graph: its architecture, for its speed.

MobileSAM (arXiv 2306.14289) runs TinyViT-5M on 1024x1024 images: a stem of two 3x3 convolutions of
stride 2, then the stages of which LiteMedSAM took all. So LiteMedSAM's encoder with that stem
before it is MobileSAM's. The stem's weights are random, which does not change its speed; the
graph's outputs mean nothing. Needs what `lite_medsam.py` needs.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from lite_medsam import build_lite_medsam, export_graph

INPUT_SIZE: Final = 1024


def export_mobile_sam(cache_dir: Path, on_step: Callable[[str], None] = lambda step: None) -> Path:
    """Export the encoder, checked against torch within 1e-3.

    Args:
        cache_dir: folder for the file; created if missing.
        on_step: called with the name of each step as it begins.

    Returns:
        ONNX file; `image` (1, 3, 1024, 1024) float32 to `image_embeddings` (1, 256, 64, 64)
        float32.
    """
    import torch
    from torch import nn

    cache_dir.mkdir(parents=True, exist_ok=True)
    on_step("exporting MobileSAM's image encoder")
    encoder: Any = build_lite_medsam().get_submodule("image_encoder")
    torch.manual_seed(0)
    encoder.patch_embed = nn.Sequential(
        nn.Conv2d(3, 32, kernel_size=3, stride=2, padding=1),
        nn.GELU(),
        nn.Conv2d(32, 64, kernel_size=3, stride=2, padding=1),
    )
    path = cache_dir / "mobile_sam_image_encoder.onnx"
    image = torch.rand(1, 3, INPUT_SIZE, INPUT_SIZE)
    export_graph(encoder.eval(), {"image": image}, ["image_embeddings"], path)
    return path
