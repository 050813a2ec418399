"""SAMUS-HF in PyTorch: modules that see only tensors."""

from samus_edge.modeling.model_parts import build_samus_hf, samus_hf_tiny
from samus_edge.modeling.samus_hf import SamusHF

__all__ = ["SamusHF", "build_samus_hf", "samus_hf_tiny"]
