"""TensorRT and TensorRT-RTX engines: built, cached, checked, run."""

__all__: list[str] = []
