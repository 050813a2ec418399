"""The comparator of predictions, its gates and its report."""

__all__: list[str] = []
