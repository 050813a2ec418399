"""Calibration of quantised graphs."""

__all__: list[str] = []
