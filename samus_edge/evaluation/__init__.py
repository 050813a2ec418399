"""Metrics and the evaluation loop."""

__all__: list[str] = []
