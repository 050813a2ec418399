"""What the mask decoder is fed."""

import numpy as np

from samus_edge.runtime.backend import check_feeds
from samus_edge.runtime.graph_contract import MASK_DECODER
from samus_edge.runtime.manifest import Manifest
from samus_edge.runtime.mask_decoder_feeds import mask_decoder_feeds
from samus_edge.runtime.prompts import DecoderPrompts

EMBEDDINGS = np.zeros((1, 256, 32, 32), np.float32)
GROUP = DecoderPrompts(
    rows=np.array([2, 0]),
    point_coords=np.zeros((2, 3, 2), np.float32),
    point_labels=np.ones((2, 3), np.float32),
)


def test_without_mask_input_there_are_zeros_and_no_flag(disc_manifest: Manifest) -> None:
    feeds = mask_decoder_feeds(EMBEDDINGS, GROUP, None, (128, 128))
    check_feeds(MASK_DECODER, disc_manifest.graphs[MASK_DECODER].inputs, feeds)
    assert not feeds["mask_input"].any()
    np.testing.assert_array_equal(feeds["has_mask_input"], [[0], [0]])


def test_the_masks_of_the_group_s_own_rows_are_fed(disc_manifest: Manifest) -> None:
    masks = np.arange(3, dtype=np.float32).reshape(3, 1, 1, 1) * np.ones((1, 1, 128, 128))
    feeds = mask_decoder_feeds(EMBEDDINGS, GROUP, masks.astype(np.float32), (128, 128))
    check_feeds(MASK_DECODER, disc_manifest.graphs[MASK_DECODER].inputs, feeds)
    np.testing.assert_array_equal(feeds["mask_input"][:, 0, 0, 0], [2, 0])
    np.testing.assert_array_equal(feeds["has_mask_input"], [[1], [1]])
