"""The bundle's image encoder graph: raw uint8 frames to image embeddings."""

from onnx import ModelProto, compose

from samus_edge.export.graph_cleanup import remove_unused
from samus_edge.export.preprocessing_graph import preprocessing_graph
from samus_edge.export.torch_graph import encoder_core_graph
from samus_edge.modeling.samus_hf import SamusHF


def image_encoder_graph(model: SamusHF, *, opset: int) -> ModelProto:
    """Build `image_encoder`: `image` (B, H, W) uint8 to `image_embeddings` (B, 256, 32, 32).

    Args:
        model: the model, constants folded, in evaluation mode.
        opset: ONNX operator set.

    Returns:
        One graph with resizing, scaling and the wavelet inside; a model without the switch `hf` has
        no wavelet.
    """
    core = encoder_core_graph(model, opset=opset)
    preprocessing = preprocessing_graph(
        image_size=model.prompt_encoder.image_size, opset=opset, ir_version=core.ir_version
    )
    merged: ModelProto = compose.merge_models(
        preprocessing,
        core,
        io_map=[("grey", "grey"), ("high_frequency", "high_frequency")],
        outputs=["image_embeddings"],
        name="image_encoder",
    )
    # merging lists the operator set once for each part, but a model has to name a domain once
    del merged.opset_import[1:]
    remove_unused(merged)
    return merged
