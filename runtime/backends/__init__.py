"""The inference engines behind one interface."""

__all__: list[str] = []
