"""SAMUS-HF in PyTorch: modules that see only tensors."""

from samus_edge.modeling.builders import samus_hf_tiny
from samus_edge.modeling.samus_hf import SamusHF

__all__ = ["SamusHF", "samus_hf_tiny"]
