"""The published image encoder: formula, size, switches."""

import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from samus_edge.modeling.vit_image_encoder import (
    SamusCnnBranch,
    VitAttention,
    VitBlock,
    VitImageEncoder,
    decomposed_relative_bias,
    relative_offsets,
    resized_table,
    table_by_position,
)

BLOCK_TOLERANCE = 1e-3
"""Float32; with these random weights values reach hundreds."""

TOLERANCE = 1e-4
"""Float32; with these random weights values reach tens."""

POSITION_TOLERANCE = 1e-5
"""Float32 sums of a few products of unit variance."""

SIZE, GRID, DIM, HEADS, WINDOW = 48, 6, 24, 3, 4


@pytest.mark.parametrize("window_size", [None, 4], ids=["global", "windows"])
def test_a_fresh_block_computes_segment_anythings(
    segment_anything_modeling: types.ModuleType,
    randomise: Callable[[nn.Module], None],
    window_size: int | None,
) -> None:
    """Adapter and cross-branch attention add nothing before they are trained."""
    theirs = segment_anything_modeling.image_encoder.Block(
        DIM,
        HEADS,
        norm_layer=lambda dim: nn.LayerNorm(dim, eps=1e-6),
        use_rel_pos=True,
        window_size=window_size or 0,
        input_size=(GRID, GRID),
    )
    randomise(theirs)
    ours = VitBlock(DIM, num_heads=HEADS, grid_size=GRID, window_size=window_size)
    ours.load_state_dict({**ours.state_dict(), **theirs.state_dict()})
    x, cnn = (
        torch.randn(2, GRID, GRID, DIM),
        torch.randn(2, DIM, GRID, GRID),
    )
    with torch.no_grad():
        tokens, refined = ours(x, cnn)
        torch.testing.assert_close(tokens, theirs(x), rtol=1e-5, atol=BLOCK_TOLERANCE)
    assert torch.equal(refined, cnn) == (window_size is not None)


def test_only_global_blocks_carry_samus_parts() -> None:
    plain = VitBlock(DIM, num_heads=HEADS, grid_size=GRID, window_size=3)
    names = {name.split(".")[0] for name in plain.state_dict()}
    assert names == {"norm1", "attn", "norm2", "mlp"}
    whole = VitBlock(DIM, num_heads=HEADS, grid_size=GRID)
    names = {name.split(".")[0] for name in whole.state_dict()} - names
    assert names == {"adapter", "cross_branch", "cnn_refine"}


def test_bias_is_segment_anythings(segment_anything_modeling: types.ModuleType) -> None:
    side, dim, batch, heads = 5, 8, 2, 3
    query = torch.randn(batch, heads, side * side, dim)
    table_h, table_w = torch.randn(2 * side - 1, dim), torch.randn(2 * side - 1, dim)
    scores = torch.zeros(batch * heads, side * side, side * side)
    expected = segment_anything_modeling.image_encoder.add_decomposed_rel_pos(
        scores, query.flatten(0, 1), table_h, table_w, (side, side), (side, side)
    )
    offsets = relative_offsets(side)
    rows, columns = table_by_position(table_h, offsets), table_by_position(table_w, offsets)
    assert rows.shape == columns.shape == (side, dim, side)
    bias = decomposed_relative_bias(query, rows, columns)
    torch.testing.assert_close(bias.flatten(0, 1), expected, rtol=0, atol=POSITION_TOLERANCE)


def test_offsets_count_from_the_farthest_key_after_the_query() -> None:
    assert relative_offsets(3).view(3, 3).tolist() == [[2, 1, 0], [3, 2, 1], [4, 3, 2]]


@pytest.mark.parametrize("side", [8, 3])
def test_a_table_is_resized_as_segment_anything_does(
    segment_anything_modeling: types.ModuleType, side: int
) -> None:
    table = torch.randn(2 * 5 - 1, 4)
    theirs = segment_anything_modeling.image_encoder.get_rel_pos(side, side, table)
    resized = resized_table(table, 2 * side - 1)
    ours = resized[relative_offsets(side)].view(side, side, 4)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=POSITION_TOLERANCE)


def step(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """Normalisation over channels and GELU after a convolution's sums."""
    channels_last = x.permute(0, 2, 3, 1)
    weight, bias = state[f"{name}.norm.weight"], state[f"{name}.norm.bias"]
    normalised = F.layer_norm(channels_last, weight.shape, weight, bias, eps=1e-6)
    return F.gelu(normalised.permute(0, 3, 1, 2))


def conv_step(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """Convolution, normalisation over channels, GELU."""
    return step(F.conv2d(x, state[f"{name}.conv.weight"], padding=1), state, name)


@pytest.mark.parametrize("hf", [True, False])
def test_the_cnn_branch_is_four_steps_with_max_pooling_between(
    hf: bool, randomise: Callable[[nn.Module], None]
) -> None:
    branch = SamusCnnBranch(48, hf=hf, gate=False)
    randomise(branch)
    state = branch.state_dict()
    image, high_frequency = torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16)
    x = F.conv2d(image, state["stem.conv.weight"], padding=1)
    if hf:
        x = x + F.conv2d(high_frequency, state["hf_conv.weight"], padding=1)
    x = step(x, state, "stem")
    for index, channels in enumerate((128, 256, 48)):
        x = F.max_pool2d(x, kernel_size=2, stride=2)
        x = conv_step(x, state, f"downs.{index}")
        assert x.shape[1] == channels
    with torch.no_grad():
        torch.testing.assert_close(
            branch(image, high_frequency), x, rtol=1e-5, atol=BLOCK_TOLERANCE
        )


def test_fresh_additions_change_nothing(randomise: Callable[[nn.Module], None]) -> None:
    plain = SamusCnnBranch(16, hf=False, gate=False)
    randomise(plain)
    image, high_frequency = torch.rand(1, 1, 16, 16), torch.rand(1, 1, 16, 16)
    for hf, gate in ((True, False), (False, True), (True, True)):
        branch = SamusCnnBranch(16, hf=hf, gate=gate)
        branch.load_state_dict({**branch.state_dict(), **plain.state_dict()})
        for training in (True, False):
            branch.train(training)
            with torch.no_grad():
                assert torch.equal(branch(image, high_frequency), plain(image, high_frequency))


def test_fresh_additions_receive_a_gradient() -> None:
    """Zero is no fixed point: the first step already moves them."""
    branch = SamusCnnBranch(16)
    (
        branch(torch.rand(2, 1, 16, 16), torch.rand(2, 1, 16, 16)) * torch.randn(16, 1, 1)
    ).sum().backward()
    for name in ("hf_conv.weight", "gate.scale"):
        parameter = branch.get_parameter(name)
        assert not parameter.any()
        assert parameter.grad is not None and bool(parameter.grad.any())


@pytest.mark.parametrize("window_size", [None, 3, 4], ids=["global", "fitting", "padded"])
def test_attends_as_segment_anything(
    segment_anything_modeling: types.ModuleType,
    randomise: Callable[[nn.Module], None],
    window_size: int | None,
) -> None:
    encoder = segment_anything_modeling.image_encoder
    side = window_size or GRID
    theirs = encoder.Attention(DIM, num_heads=HEADS, use_rel_pos=True, input_size=(side, side))
    randomise(theirs)
    ours = VitAttention(
        DIM,
        num_heads=HEADS,
        grid_size=GRID,
        window_size=window_size,
    )
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, GRID, GRID, DIM)
    with torch.no_grad():
        windows, padded_hw = encoder.window_partition(x, side)
        expected = encoder.window_unpartition(theirs(windows), side, padded_hw, (GRID, GRID))
        torch.testing.assert_close(ours(x), expected, rtol=0, atol=TOLERANCE)
        unfolded = ours(x)
        for _ in range(2):  # the second time does nothing
            ours.fold()
            assert torch.equal(ours(x), unfolded)
    assert ours.rel_pos_h.shape == ours.rel_pos_w.shape == (side, DIM // HEADS, side)


def test_heads_that_do_not_divide_the_dimension_are_refused() -> None:
    with pytest.raises(ValueError, match=r"multiple of num_heads, got 24 and 5"):
        VitAttention(DIM, num_heads=5, grid_size=GRID)


def small_encoder(*, hf: bool, gate: bool) -> VitImageEncoder:
    """Three blocks, the second one global; windows that do not fit the grid."""
    return VitImageEncoder(
        image_size=SIZE,
        embed_dim=DIM,
        depth=3,
        num_heads=HEADS,
        window_size=WINDOW,
        global_blocks=(1,),
        out_chans=16,
        hf=hf,
        gate=gate,
    )


def sam_blocks(modeling: types.ModuleType, state: dict[str, Tensor]) -> list[Any]:
    """Segment Anything's own blocks with the encoder's weights."""
    blocks = []
    for index, window in enumerate((WINDOW, 0, WINDOW)):
        block = modeling.image_encoder.Block(
            DIM,
            HEADS,
            norm_layer=lambda dim: nn.LayerNorm(dim, eps=1e-6),
            use_rel_pos=True,
            window_size=window,
            input_size=(GRID, GRID),
        )
        prefix = f"blocks.{index}."
        block.load_state_dict(
            {name: state[prefix + name] for name in block.state_dict()}, strict=True
        )
        blocks.append(block)
    return blocks


def linear(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """A linear layer."""
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def cross_branch(tokens: Tensor, cnn: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """PyTorch's own multi-head attention, tokens asking the CNN features."""
    queries = tokens.flatten(1, 2).transpose(0, 1)  # (HW, B, C)
    memory = cnn.flatten(2).permute(2, 0, 1)  # (HW, B, C)
    in_weight = torch.cat((state[f"{name}.query.weight"], state[f"{name}.key_value.weight"]))
    in_bias = torch.cat((state[f"{name}.query.bias"], state[f"{name}.key_value.bias"]))
    attended, _ = F.multi_head_attention_forward(
        *(queries, memory, memory, DIM, HEADS, in_weight, in_bias, None, None, False, 0.0),
        state[f"{name}.proj.weight"],
        state[f"{name}.proj.bias"],
        training=False,
        need_weights=False,
    )
    return attended.transpose(0, 1).reshape(tokens.shape)


def restated(modeling: types.ModuleType, state: dict[str, Tensor], image: Tensor) -> Tensor:
    """The encoder without HF and gate, from the paper and Segment Anything's blocks."""
    cnn = conv_step(image, state, "cnn_branch.stem")
    for index in range(3):
        cnn = conv_step(F.max_pool2d(cnn, 2), state, f"cnn_branch.downs.{index}")
    enlarged = F.interpolate(image, size=(SIZE + 8, SIZE + 8), mode="bilinear")
    patches = F.unfold(enlarged, kernel_size=16, stride=8)  # (B, 256, HW)
    x = state["patch_embed.weight"].flatten(1) @ patches + state["patch_embed.bias"][:, None]
    x = x.transpose(1, 2).reshape(-1, GRID, GRID, DIM)
    x = x + linear(F.gelu(linear(x, state, "input_adapter.down")), state, "input_adapter.up")
    table = F.max_pool2d(state["position.table"].permute(0, 3, 1, 2), 2)
    x = x + conv_step(table, state, "position.adapter").permute(0, 2, 3, 1)
    first, second, third = sam_blocks(modeling, state)
    x = first(x)
    normalised = second.norm1(x)
    normalised = normalised + cross_branch(normalised, cnn, state, "blocks.1.cross_branch")
    cnn = conv_step(cnn, state, "blocks.1.cnn_refine")
    x = x + second.attn(normalised)
    normalised = second.norm2(x)
    adapted = linear(
        F.gelu(linear(normalised, state, "blocks.1.adapter.down")), state, "blocks.1.adapter.up"
    )
    x = x + second.mlp(normalised) + 0.5 * adapted
    x = third(x).permute(0, 3, 1, 2) + 0.5 * cnn
    norms = []
    for index in (1, 3):
        norm = modeling.common.LayerNorm2d(16)
        norm.load_state_dict({name: state[f"neck.{index}.{name}"] for name in ("weight", "bias")})
        norms.append(norm)
    x = norms[0](F.conv2d(x, state["neck.0.weight"]))
    out: Tensor = norms[1](F.conv2d(x, state["neck.2.weight"], padding=1))
    return out


def test_agrees_with_an_independent_restatement(
    segment_anything_modeling: types.ModuleType, randomise: Callable[[nn.Module], None]
) -> None:
    encoder = small_encoder(hf=False, gate=False).eval()
    randomise(encoder)
    image = torch.rand(2, 1, SIZE, SIZE)
    with torch.no_grad():
        expected = restated(segment_anything_modeling, encoder.state_dict(), image)
        embeddings = encoder(image, image)
    assert embeddings.shape == (2, 16, GRID, GRID)
    torch.testing.assert_close(embeddings, expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize(("hf", "gate"), [(True, False), (False, True), (True, True)])
def test_the_switches_add_nothing_until_trained(
    hf: bool, gate: bool, randomise: Callable[[nn.Module], None]
) -> None:
    plain = small_encoder(hf=False, gate=False).eval()
    randomise(plain)
    encoder = small_encoder(hf=hf, gate=gate).eval()
    added = encoder.state_dict().keys() - plain.state_dict().keys()
    assert any("hf_conv" in name for name in added) == hf
    assert any(".gate." in name for name in added) == gate
    encoder.load_state_dict({**encoder.state_dict(), **plain.state_dict()})
    image, high_frequency = torch.rand(1, 1, SIZE, SIZE), torch.rand(1, 1, SIZE, SIZE)
    with torch.no_grad():
        expected = plain(image, high_frequency)
        assert torch.equal(encoder(image, high_frequency), expected)
        for name in added:
            if name.endswith(("hf_conv.weight", "gate.scale")):
                encoder.get_parameter(name).normal_()
        assert not torch.allclose(encoder(image, high_frequency), expected, atol=TOLERANCE)


def test_every_parameter_can_learn(randomise: Callable[[nn.Module], None]) -> None:
    """After the zero projections have moved, a gradient reaches each parameter."""
    encoder = small_encoder(hf=True, gate=True).train()
    randomise(encoder)
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.mul_(0.3)
    image = torch.rand(2, 1, SIZE, SIZE)
    (encoder(image, 1 - image) * torch.randn(2, 16, GRID, GRID)).sum().backward()
    unreached = [
        name
        for name, parameter in encoder.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    assert unreached == []


def test_mixed_precision_stays_close_to_float32(randomise: Callable[[nn.Module], None]) -> None:
    encoder = small_encoder(hf=True, gate=True).eval()
    image = torch.rand(1, 1, SIZE, SIZE)
    with torch.no_grad():
        expected = encoder(image, image)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = encoder(image, image)
    assert (
        float((mixed.float() - expected).abs().max()) <= 0.1
    )  # bf16 keeps 8 bits; values around 1


def test_size_and_cost_are_the_published_ones() -> None:
    """129 M parameters and 325 GFLOP, less what the same function is computed without."""
    with FakeTensorMode():
        encoder = VitImageEncoder(hf=False, gate=False).eval()
        image = torch.rand(1, 1, 256, 256)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            assert encoder(image, image).shape == (1, 256, 32, 32)
    dim, window_tokens, padding_tokens = 768, 9 * 14 * 14, 9 * 14 * 14 - 32 * 32
    assert window_tokens == 1764
    unpadded = 8 * padding_tokens * 2 * 4 * dim * dim  # queries, keys, values, projection: 8 blocks
    one_channel = 2 * 2 * (32 * 32 * 16 * 16 * dim + 256 * 256 * 9 * 64)
    published = counter.get_total_flops() + unpadded + one_channel
    assert abs(published - 325e9) < 0.5e9
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    published_parameters = parameters + 2 * (16 * 16 * dim + 9 * 64)  # of three channels
    assert abs(published_parameters - 129e6) < 0.5e6


def test_bad_sizes_are_named() -> None:
    with pytest.raises(ValueError, match=r"multiple of 8, got 250"):
        VitImageEncoder(image_size=250)
    with pytest.raises(ValueError, match=r"0\.\.2, got \[5, 8\]"):
        VitImageEncoder(depth=3, global_blocks=(2, 5, 8))
