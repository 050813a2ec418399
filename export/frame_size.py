"""Image encoders frozen to one frame size."""

from onnx import ModelProto


def freeze_frame_size(model: ModelProto, frame_hw: tuple[int, int]) -> None:
    """Let an image encoder take one frame of one size, in place: all its shapes are constants.

    That is what CUDA graphs need and what lets an engine plan all memory beforehand.

    Args:
        model: `image` (B, H, W) to `image_embeddings` (B, C, h, w).
        frame_hw: (H, W) of every frame, pixels, at least 1.

    Raises:
        ValueError: if a size is less than 1.
    """
    if min(frame_hw) < 1:
        raise ValueError(f"frame_hw must be at least 1x1, got {frame_hw[0]}x{frame_hw[1]}.")
    (image,), (embeddings,) = model.graph.input, model.graph.output
    for dimension, size in zip(image.type.tensor_type.shape.dim, (1, *frame_hw), strict=True):
        dimension.dim_value = size
    embeddings.type.tensor_type.shape.dim[0].dim_value = 1
    del model.graph.value_info[:]  # they name the sizes that varied
