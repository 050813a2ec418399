"""From weights to a verified ONNX bundle."""

__all__: list[str] = []
