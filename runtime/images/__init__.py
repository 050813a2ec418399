"""Image files in and out, overlays."""

__all__: list[str] = []
