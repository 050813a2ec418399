"""A mask decoder that takes one image for each prompt instead of one for all."""

from onnx import ModelProto

__all__ = ["batch_mask_decoder"]

_IMAGE_EMBEDDINGS = "image_embeddings"
_POINT_COORDS = "point_coords"


def batch_mask_decoder(model: ModelProto) -> None:
    """Let the image embeddings have one row per prompt, in place: (1, C, h, w) to (N, C, h, w).

    The decoder's first use of the embeddings is a sum with the N dense prompt embeddings, which
    broadcasts one image over all prompts; with N images the same sum takes row i with row i, and
    from there on everything has N rows. So only the declared size of the input changes. That is a
    property of SAM's decoder as exported here and not of every decoder:
    :func:`samus_edge.export.served_graph_check.check_served_graph` measures it.

    Args:
        model: the graph `mask_decoder` of a bundle, weights included.

    Raises:
        ValueError: if it lacks one of the inputs that are to have the same first axis.
    """
    inputs = {value.name: value.type.tensor_type.shape.dim for value in model.graph.input}
    missing = sorted({_IMAGE_EMBEDDINGS, _POINT_COORDS} - inputs.keys())
    if missing:
        raise ValueError(
            f"the graph has no input {' and no input '.join(missing)}, only {', '.join(inputs)}. "
            "Give the mask decoder of a bundle."
        )
    rows = inputs[_IMAGE_EMBEDDINGS][0]
    rows.ClearField("dim_value")
    rows.dim_param = inputs[_POINT_COORDS][0].dim_param
