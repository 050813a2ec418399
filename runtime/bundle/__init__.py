"""A bundle: its files, its manifest, its graphs."""

__all__: list[str] = []
