"""Which parts are trained, and how large they are."""

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from samus_edge.archs import ARCHS
from samus_edge.modeling import SamusHF, build_samus_hf
from samus_edge.modeling.model_parts import (
    arch_of,
    fold_constants,
    part_sizes,
    parts_of,
    samus_hf_vit,
    select_trainable,
)

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


@pytest.fixture
def small() -> SamusHF:
    """The ViT architecture with blocks 1 and 11 global, as names of one and two digits."""
    return samus_hf_vit(embed_dim=8, depth=12, num_heads=2, global_blocks=(1, 11))


def trained(model: SamusHF) -> set[str]:
    """Names of the trainable parameters."""
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def published(names: Sequence[str]) -> set[str]:
    """What SAMUS's published code trains, by words in the names of ours, blocks 1 and 11 global."""
    words = ("cnn_branch", "position.adapter", "adapter", "cross_branch", "cnn_refine")
    tables = [f"blocks.{block}.attn.rel_pos_{axis}" for block in (1, 11) for axis in "hw"]
    return {
        name
        for name in names
        if any(word in name for word in words) or name.removeprefix("image_encoder.") in tables
    }


def test_vit_trains_what_was_published(small: SamusHF) -> None:
    names = [name for name, _ in small.named_parameters()]
    select_trainable(small)
    assert trained(small) == published(names)
    assert not any("decoder" in name or "prompt" in name for name in trained(small))


def test_the_decoder_is_trained_on_demand_and_again_not(small: SamusHF) -> None:
    select_trainable(small)
    before = trained(small)
    select_trainable(small, train_decoder=True)
    added = trained(small) - before
    assert added == {
        name
        for name, _ in small.named_parameters()
        if name.startswith(("mask_decoder.", "prompt_encoder."))
    }
    select_trainable(small)
    assert trained(small) == before


def test_parts_and_prefixes_are_unfrozen(small: SamusHF) -> None:
    select_trainable(small)
    before = trained(small)
    select_trainable(small, unfreeze=("neck", "image_encoder.blocks.1"))
    added = trained(small) - before
    assert (
        added
        == {
            name
            for name, _ in small.named_parameters()
            if name.startswith(("image_encoder.neck.", "image_encoder.blocks.1."))
        }
        - before
    )
    assert added  # block 11 begins like block 1, but is another
    select_trainable(small, unfreeze=["image_encoder.patch_embed.weight", "image_encoder.blocks."])
    assert "image_encoder.patch_embed.bias" not in trained(small)
    assert "image_encoder.blocks.3.mlp.lin1.weight" in trained(small)


def test_what_there_is_not_to_unfreeze_is_named_with_the_parts(small: SamusHF) -> None:
    with pytest.raises(ValueError, match=r"'necks', 'image_encoder\.blocks\.12'") as caught:
        select_trainable(small, unfreeze=("necks", "neck", "image_encoder.blocks.12"))
    assert "cross_branch_attention, " in str(caught.value)


def test_all_of_tiny_is_trained() -> None:
    with torch.device("meta"):
        model = build_samus_hf("tiny")
    model.requires_grad_(False)
    select_trainable(model)
    assert trained(model) == {name for name, _ in model.named_parameters()}


@pytest.mark.parametrize("arch", ["tiny", "vit_b"])
def test_every_tensor_belongs_to_one_part_and_sizes_add_up(arch: str) -> None:
    with torch.device("meta"):
        model = build_samus_hf(arch)
    assert set(parts_of(model.state_dict())) == set(model.state_dict())
    select_trainable(model)
    sizes = part_sizes(model)
    assert len({size.part for size in sizes}) == len(sizes)
    assert sum(size.parameters for size in sizes) == sum(p.numel() for p in model.parameters())
    expected = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(size.trainable for size in sizes) == expected


def test_sizes_of_vit_b_by_hand() -> None:
    with torch.device("meta"):
        sizes = {size.part: size for size in part_sizes(build_samus_hf("vit_b"))}
    dim = 768
    assert sizes["position_table"].parameters == 64 * 64 * dim
    assert sizes["position_adapter"].parameters == 9 * dim * dim + 2 * dim
    assert sizes["global_relative_positions"].parameters == 4 * 2 * 63 * 64
    assert sizes["cross_branch_attention"].parameters == 4 * 4 * (dim * dim + dim)
    assert sizes["adapters"].parameters == 5 * (2 * dim * dim // 4 + dim + dim // 4)
    assert sizes["high_frequency"].parameters == 9 * 64
