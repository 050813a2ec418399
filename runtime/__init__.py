"""Segmentation on ONNX Runtime; never imports torch."""

from samus_edge.runtime.prediction import Embedding, Prediction
from samus_edge.runtime.segmenter import Segmenter

__all__ = ["Embedding", "Prediction", "Segmenter"]
