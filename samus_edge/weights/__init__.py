"""Weights in and out of SAMUS-HF: foreign checkpoints, our own safetensors, bundles."""

from samus_edge.weights.checkpoint_file import CheckpointFile, read_checkpoint
from samus_edge.weights.checkpoint_loading import load_start_weights, model_from_checkpoint
from samus_edge.weights.foreign_checkpoints import default_checkpoint
from samus_edge.weights.model_file import load_model, save_model
from samus_edge.weights.transfer import WeightAccount

__all__ = [
    "CheckpointFile",
    "WeightAccount",
    "default_checkpoint",
    "load_model",
    "load_start_weights",
    "model_from_checkpoint",
    "read_checkpoint",
    "save_model",
]
