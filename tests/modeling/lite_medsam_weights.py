"""Weights of LiteMedSAM's blocks in ours, under our names."""

from collections.abc import Mapping

from torch import nn

BLOCK_NAMES = {
    "attn.norm.": "norm1.",
    "mlp.norm.": "norm2.",
    "local_conv.c.": "local_conv.conv.",
    "local_conv.bn.": "local_conv.norm.",
}
"""LiteMedSAM's parameter names in a block, and ours."""


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
