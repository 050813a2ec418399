"""Checkpoints of the published architectures in small."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from samus_edge.modeling import SamusHF, samus_hf_tiny
from samus_edge.modeling.model_parts import samus_hf_vit

DIM, HEADS, DEPTH, GLOBAL_BLOCKS = 16, 2, 3, (1,)
OUT_CHANS, GRID, WINDOW, MLP_DIM = 256, 32, 14, 64


def layer_norm(name: str, dim: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a normalisation."""
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def linear(name: str, dim_in: int, dim_out: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a linear layer."""
    return {f"{name}.weight": (dim_out, dim_in), f"{name}.bias": (dim_out,)}


def conv_step(name: str, first: int, dim_in: int, dim_out: int) -> dict[str, tuple[int, ...]]:
    """Shapes of a 3x3 convolution and its normalisation in a sequence."""
    return {
        f"{name}.{first}.weight": (dim_out, dim_in, 3, 3),
        **layer_norm(f"{name}.{first + 1}", dim_out),
    }


def sam_encoder_shapes(*, global_side: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors of Segment Anything's image encoder."""
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, 64, 64, DIM),
        "patch_embed.proj.weight": (DIM, 3, 16, 16),
        "patch_embed.proj.bias": (DIM,),
        "neck.0.weight": (OUT_CHANS, DIM, 1, 1),
        "neck.2.weight": (OUT_CHANS, OUT_CHANS, 3, 3),
        **layer_norm("neck.1", OUT_CHANS),
        **layer_norm("neck.3", OUT_CHANS),
    }
    for index in range(DEPTH):
        side = global_side if index in GLOBAL_BLOCKS else WINDOW
        block = f"blocks.{index}"
        shapes |= layer_norm(f"{block}.norm1", DIM) | layer_norm(f"{block}.norm2", DIM)
        shapes |= linear(f"{block}.attn.qkv", DIM, 3 * DIM) | linear(f"{block}.attn.proj", DIM, DIM)
        shapes |= linear(f"{block}.mlp.lin1", DIM, MLP_DIM) | linear(
            f"{block}.mlp.lin2", MLP_DIM, DIM
        )
        shapes |= {f"{block}.attn.rel_pos_{axis}": (2 * side - 1, DIM // HEADS) for axis in "hw"}
    return shapes


def samus_encoder_shapes() -> dict[str, tuple[int, ...]]:
    """Those of SAMUS's published image encoder."""
    shapes = sam_encoder_shapes(global_side=GRID)
    shapes |= conv_step("post_pos_embed.downs.0.maxpool_conv", 1, DIM, DIM)
    shapes |= conv_step("cnn_embed.inc.conv", 0, 3, 64)
    for index, (dim_in, dim_out) in enumerate(((64, 128), (128, 256), (256, DIM))):
        shapes |= conv_step(f"cnn_embed.downs.{index}.maxpool_conv", 1, dim_in, dim_out)
    adapters = ["input_Adapter", *(f"blocks.{index}.MLP_Adapter" for index in GLOBAL_BLOCKS)]
    for adapter in adapters:
        shapes |= linear(f"{adapter}.D_fc1", DIM, DIM // 4) | linear(
            f"{adapter}.D_fc2", DIM // 4, DIM
        )
    for index in GLOBAL_BLOCKS:
        for name in ("q", "k", "v", "proj"):
            shapes |= linear(f"blocks.{index}.Space_Adapter.{name}", DIM, DIM)
        shapes |= conv_step(f"blocks.{index}.refine_Adapter.conv", 0, DIM, DIM)
    return shapes


@pytest.fixture(scope="session")
def decoder_state() -> dict[str, Tensor]:
    """Random tensors of Segment Anything's prompt encoder and mask decoder; it has our names."""
    with torch.device("meta"):
        state = samus_hf_tiny().state_dict()
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(tensor.shape, generator=generator)
        for name, tensor in state.items()
        if not name.startswith("image_encoder.")
    }


@pytest.fixture(scope="session")
def samus_state(decoder_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A small SAMUS's state dict, random."""
    return random_state(samus_encoder_shapes()) | decoder_state


@pytest.fixture(scope="session")
def sam_state(decoder_state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A small SAM's state dict, random; 64x64 tokens, as SAM has."""
    return random_state(sam_encoder_shapes(global_side=64)) | decoder_state


def random_state(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Random tensors under the names of an image encoder."""
    generator = torch.Generator().manual_seed(0)
    return {
        f"image_encoder.{name}": torch.randn(shape, generator=generator)
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="session")
def small_vit() -> Callable[..., SamusHF]:
    """Builds the ViT architecture at the size of `samus_state` and `sam_state`, from seed 0."""

    def build(*, hf: bool = True, gate: bool = True) -> SamusHF:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return samus_hf_vit(
                embed_dim=DIM,
                depth=DEPTH,
                num_heads=HEADS,
                global_blocks=GLOBAL_BLOCKS,
                hf=hf,
                gate=gate,
            )

    return build
