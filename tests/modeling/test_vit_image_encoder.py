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

from samus_edge.modeling.vit_image_encoder import VitImageEncoder

TOLERANCE = 1e-4
"""Float32; the neck normalises, so values are around 1."""

SIZE, GRID, DIM, HEADS, WINDOW = 48, 6, 24, 3, 4


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


def conv_step(x: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """Convolution, normalisation over channels, GELU."""
    x = F.conv2d(x, state[f"{name}.conv.weight"], padding=1).permute(0, 2, 3, 1)
    weight, bias = state[f"{name}.norm.weight"], state[f"{name}.norm.bias"]
    return F.gelu(F.layer_norm(x, weight.shape, weight, bias, 1e-6)).permute(0, 3, 1, 2)


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
