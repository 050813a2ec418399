"""Promptable lesion segmentation in ultrasound, built for the edge."""

__all__ = ["__version__"]

__version__ = "0.1.0"
