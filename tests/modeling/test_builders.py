"""Models by the name of their architecture."""

import pytest
import torch

from samus_edge.archs import ARCHS
from samus_edge.modeling.builders import arch_of, build_samus_hf, samus_hf_vit


@pytest.mark.parametrize("arch", ARCHS)
def test_every_architecture_is_built_with_its_switches(arch: str) -> None:
    with torch.device("meta"):
        models = [build_samus_hf(arch, hf=hf, gate=True) for hf in (True, False)]
        plain = build_samus_hf(arch, hf=False, gate=False)
    assert {arch_of(model) for model in (*models, plain)} == {arch}
    sizes = [sum(p.numel() for p in model.parameters()) for model in (*models, plain)]
    assert sizes[0] > sizes[1] > sizes[2]


def test_small_vits_belong_to_the_same_architecture() -> None:
    model = samus_hf_vit(embed_dim=16, depth=2, num_heads=2, global_blocks=(1,))
    assert arch_of(model) == "vit_b"


def test_an_unknown_architecture_is_named() -> None:
    with pytest.raises(ValueError, match=r"one of tiny, vit_b, got 'vit_h'"):
        build_samus_hf("vit_h")
