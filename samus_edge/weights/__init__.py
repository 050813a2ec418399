"""Weights in and out of SAMUS-HF: foreign checkpoints, our own safetensors, bundles."""

from samus_edge.weights.account import WeightAccount
from samus_edge.weights.lite_medsam import default_checkpoint, load_lite_medsam
from samus_edge.weights.model_file import load_model, save_model

__all__ = ["WeightAccount", "default_checkpoint", "load_lite_medsam", "load_model", "save_model"]
