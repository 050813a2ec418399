"""A small model with the real interface, and a few cases that can be learned."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from samus_edge.data.busi import UltrasoundCase, list_cases
from samus_edge.modeling.mask_decoder import MaskDecoder
from samus_edge.modeling.prompt_encoder import PromptEncoder
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.modeling.two_way_transformer import TwoWayTransformer

EMBED_DIM = 16


class SmallEncoder(nn.Module):
    """One convolution to 32x32 with batch normalisation and an integer buffer."""

    offsets: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, EMBED_DIM, kernel_size=8, stride=8)
        self.norm = nn.BatchNorm2d(EMBED_DIM)
        self.register_buffer("offsets", torch.arange(16), persistent=False)
        self.poisoned = False

    def forward(self, image: Tensor, high_frequency: Tensor) -> Tensor:
        """Embed; NaN while poisoned."""
        embeddings: Tensor = self.norm(self.conv(torch.cat((image, high_frequency), dim=1)))
        return embeddings * float("nan") if self.poisoned else embeddings


@pytest.fixture
def make_small_model() -> Callable[[], SamusHF]:
    """Makes a model with 16-dimensional embeddings, always with the same random weights."""

    def make() -> SamusHF:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            transformer = TwoWayTransformer(
                depth=2, embedding_dim=EMBED_DIM, num_heads=2, mlp_dim=EMBED_DIM
            )
            return SamusHF(
                image_encoder=SmallEncoder(),
                prompt_encoder=PromptEncoder(embed_dim=EMBED_DIM, mask_in_chans=4),
                mask_decoder=MaskDecoder(
                    transformer=transformer, embed_dim=EMBED_DIM, iou_head_hidden_dim=EMBED_DIM
                ),
            )

    return make


@pytest.fixture(scope="session")
def bright_cases(tmp_path_factory: pytest.TempPathFactory) -> list[UltrasoundCase]:
    """Five cases in BUSI's layout: a bright ellipse, which is the lesion, in dark noise."""
    root: Path = tmp_path_factory.mktemp("bright") / "Dataset"
    (root / "benign").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(1, 6):
        height, width = 90 + 7 * number, 120 - 5 * number
        rows, columns = np.mgrid[0:height, 0:width]
        y, x = rng.uniform(0.35, 0.65, 2) * (height, width)
        lesion = ((rows - y) / (0.2 * height)) ** 2 + ((columns - x) / (0.25 * width)) ** 2 < 1
        image = rng.integers(0, 60, (height, width)) + 150 * lesion
        stem = root / "benign" / f"benign ({number})"
        assert cv2.imwrite(f"{stem}.png", image.astype(np.uint8))
        assert cv2.imwrite(f"{stem}_mask.png", lesion.astype(np.uint8) * 255)
    return list_cases(root)
