"""TinyViT's blocks against loops and against LiteMedSAM's code."""

import types
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from samus_edge.modeling.cross_branch_attention import Adapter, CrossBranchAttention
from samus_edge.modeling.tiny_vit import MBConv, PatchMerging, TinyViTBlock, WindowAttention

TOLERANCE = 1e-4
"""Float32 through several layers, values around 1 to 10."""

BLOCK_NAMES = {
    "attn.norm.": "norm1.",
    "mlp.norm.": "norm2.",
    "local_conv.c.": "local_conv.conv.",
    "local_conv.bn.": "local_conv.norm.",
}
"""LiteMedSAM's parameter names in a block, and ours."""

CONV_NAMES = {"conv1.": "expand.", "conv2.": "depthwise.", "conv3.": "project."}


def copy_weights(reference: nn.Module, ours: nn.Module, names: Mapping[str, str]) -> None:
    """Give our module the reference's weights; its other parts keep theirs."""
    state = ours.state_dict()
    for key, value in reference.state_dict().items():
        if key == "attn.ab":
            continue
        name = key
        for old, new in names.items():
            name = name.replace(old, new)
        name = name.replace(".c.weight", ".conv.weight").replace(".bn.", ".norm.")
        if name == "attn.attention_biases":
            state["attn.bias_table"] = value.view_as(state["attn.bias_table"])
            continue
        assert state[name].shape == value.shape
        state[name] = value
    ours.load_state_dict(state)


def test_position_bias_is_the_table_at_the_distances_of_two_tokens() -> None:
    side, heads = 3, 2
    attention = WindowAttention(4, num_heads=heads, window_size=side)
    with torch.no_grad():
        attention.bias_table.normal_()
        bias = attention.position_bias()
    assert bias.shape == (heads, side * side, side * side)
    for head in range(heads):
        for one in range(side * side):
            for other in range(side * side):
                dy = abs(one // side - other // side)
                dx = abs(one % side - other % side)
                assert bias[head, one, other] == attention.bias_table[head, dy, dx]


def plain_attention(attention: WindowAttention, window: Tensor) -> Tensor:
    """Attention of one window, (B, w*w, C), head by head in PyTorch's own function."""
    dim = window.shape[-1] // attention.num_heads
    heads = attention.qkv(window).split(3 * dim, dim=-1)  # each (B, w*w, 3 d)
    bias = attention.position_bias()
    attended = []
    for index, head in enumerate(heads):
        query, key, value = head.split(dim, dim=-1)
        attended.append(F.scaled_dot_product_attention(query, key, value, attn_mask=bias[index]))
    out: Tensor = attention.proj(torch.cat(attended, dim=-1))
    return out


def test_windows_are_attended_one_by_one(randomise: Callable[[nn.Module], None]) -> None:
    attention = WindowAttention(4, num_heads=2, window_size=3).eval()
    randomise(attention)
    grid = torch.randn(2, 6, 9, 4)
    expected = torch.empty_like(grid)
    with torch.no_grad():
        for row in range(0, 6, 3):
            for column in range(0, 9, 3):
                window = grid[:, row : row + 3, column : column + 3].reshape(2, 9, 4)
                attended = plain_attention(attention, window)
                expected[:, row : row + 3, column : column + 3] = attended.view(2, 3, 3, 4)
        torch.testing.assert_close(attention(grid), expected, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("grid_hw", [(7, 7), (14, 21), (9, 12), (7, 8), (14, 7), (3, 2)])
def test_block_computes_what_lite_medsams_does(
    grid_hw: tuple[int, int],
    lite_medsam_tiny_vit: types.ModuleType,
    randomise: Callable[[nn.Module], None],
) -> None:
    reference = lite_medsam_tiny_vit.TinyViTBlock(8, grid_hw, 2, window_size=7)
    randomise(reference)
    reference.eval()
    ours = TinyViTBlock(8, num_heads=2, window_size=7).eval()
    copy_weights(reference, ours, BLOCK_NAMES)
    x = torch.randn(2, 8, *grid_hw)
    with torch.no_grad():
        tokens = x.flatten(2).transpose(1, 2)
        outcome = ours(tokens, grid_hw)
        torch.testing.assert_close(outcome, reference(tokens), rtol=0, atol=TOLERANCE)


def test_mbconv_computes_what_lite_medsams_does(
    lite_medsam_tiny_vit: types.ModuleType, randomise: Callable[[nn.Module], None]
) -> None:
    reference = lite_medsam_tiny_vit.MBConv(4, 4, 4.0, nn.GELU, 0.0)
    randomise(reference)
    reference.eval()
    ours = MBConv(4).eval()
    copy_weights(reference, ours, CONV_NAMES)
    x = torch.randn(2, 4, 6, 5)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), reference(x), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("out_dim", "stride"), [(8, 2), (320, 1)])
def test_patch_merging_computes_what_lite_medsams_does(
    out_dim: int,
    stride: int,
    lite_medsam_tiny_vit: types.ModuleType,
    randomise: Callable[[nn.Module], None],
) -> None:
    reference = lite_medsam_tiny_vit.PatchMerging((6, 6), 4, out_dim, nn.GELU)
    randomise(reference)
    reference.eval()
    ours = PatchMerging(4, out_dim, stride=stride).eval()
    copy_weights(reference, ours, CONV_NAMES)
    x = torch.randn(1, 4, 6, 6)
    with torch.no_grad():
        expected = reference(x).transpose(1, 2).reshape(1, out_dim, 6 // stride, 6 // stride)
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=TOLERANCE)


def test_fresh_adapter_and_cross_branch_attention_change_nothing(
    randomise: Callable[[nn.Module], None],
) -> None:
    plain = TinyViTBlock(8, num_heads=2, window_size=4).eval()
    randomise(plain)
    cross_branch = CrossBranchAttention(vit_dim=8, cnn_dim=4, inner_dim=8, num_heads=2)
    full = TinyViTBlock(
        8, num_heads=2, window_size=4, adapter=True, cross_branch=cross_branch
    ).eval()
    full.load_state_dict(plain.state_dict(), strict=False)
    tokens, cnn_tokens = torch.randn(1, 16, 8), torch.randn(1, 9, 4)
    with torch.no_grad():
        assert torch.equal(full(tokens, (4, 4), cnn_tokens), plain(tokens, (4, 4), cnn_tokens))


def test_half_of_the_adapter_joins_the_mlp_on_the_normalised_tokens(
    randomise: Callable[[nn.Module], None],
) -> None:
    block = TinyViTBlock(8, num_heads=2, window_size=4, adapter=True).eval()
    randomise(block)
    adapter = block.adapter
    assert isinstance(adapter, Adapter)
    x = torch.randn(1, 16, 8)
    with torch.no_grad():
        with_adapter = block(x, (4, 4))
        block.adapter = None
        without = block(x, (4, 4))
        # what the MLP and the adapter see: recovered from the block without its MLP's last layer
        for name in ("fc2.weight", "fc2.bias"):
            block.mlp.get_parameter(name).zero_()
        tokens = block(x, (4, 4))
        expected = 0.5 * adapter(block.norm2(tokens))
    torch.testing.assert_close(with_adapter - without, expected, rtol=0, atol=TOLERANCE)
