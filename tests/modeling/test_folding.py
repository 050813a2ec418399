"""Folding changes what a model computes from, not what it computes."""

import torch
from torch import nn

from samus_edge.modeling import SamusHF
from samus_edge.modeling.builders import samus_hf_vit
from samus_edge.modeling.folding import fold_constants

TOLERANCE = 1e-4
"""Float32; embeddings are normalised, and the folded kernels are rounded once more."""

BLOCK = "image_encoder.blocks.0.attn"


def small_vit() -> SamusHF:
    return samus_hf_vit(embed_dim=16, depth=2, num_heads=2, global_blocks=(1,))


def test_a_folded_model_gives_the_same_embeddings() -> None:
    model = small_vit().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
        image, high_frequency = torch.rand(2, 1, 1, 256, 256)
        expected = model.image_encoder(image, high_frequency)
        for _ in range(2):  # the second time does nothing
            fold_constants(model)
            found = model.image_encoder(image, high_frequency)
            torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_positions_of_a_vit_become_constants() -> None:
    model = small_vit()
    assert f"{BLOCK}.offsets" in dict(model.named_buffers())
    fold_constants(model)
    state = model.state_dict()
    assert not any(".position.adapter." in name for name in state)
    assert state["image_encoder.position.table"].shape == (1, 32, 32, 16)
    assert state[f"{BLOCK}.rel_pos_h"].shape == (14, 8, 14)
    assert not any(name.endswith(".offsets") for name, _ in model.named_buffers())
