"""The `samus-edge` command line."""

__all__: list[str] = []
