"""Datasets, augmentation and prompts."""

__all__: list[str] = []
