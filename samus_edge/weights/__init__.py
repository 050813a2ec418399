"""Weights in and out of SAMUS-HF: foreign checkpoints and our own safetensors."""

from samus_edge.weights.account import WeightAccount
from samus_edge.weights.lite_medsam import default_checkpoint, load_lite_medsam

__all__ = ["WeightAccount", "default_checkpoint", "load_lite_medsam"]
