"""GPU memory and streams, through cuda-python or PyCUDA."""

__all__: list[str] = []
