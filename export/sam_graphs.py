"""The two graphs of SAM's classic ONNX pair, around a model that knows no padding.

Tools that run such a pair scale an image so that its long side is 1024 pixels, the *prompt frame*.
Some give the encoder exactly that, some a canvas that is black to the right of the image or below
it; the decoder's `orig_im_size` is then the canvas' size. The model takes the image itself,
stretched to 256x256. So the encoder leaves out what is black, and hands on to the decoder how large
the rest is: a tool keeps the embeddings and does not look into them, so they have one more channel,
whose first two numbers are the image's width and height in pixels of the prompt frame.

The decoder translates between three frames by pixel edges, not centres: an edge at x of the prompt
frame is at x / width of the image, so at 256 x / width of the model's frame. Bilinear interpolation
is written as products with matrices of weights, whose shapes do not depend on the image's size on
its canvas: TensorRT takes no size that is computed from pixels. The size of `masks` is the value of
an input, so it does not take the decoder, as it takes none of this signature.
"""

import onnx
from onnx import ModelProto, TensorProto, compose, helper, parser

from samus_edge.export.graph_cleanup import remove_unused, rendered
from samus_edge.export.torch_graph import (
    PREPROCESSING_NUMBERS,
    image_encoder_graph,
    mask_decoder_graph,
)
from samus_edge.modeling.samus_hf import SamusHF

PROMPT_SIDE = 1024
"""Long side of the frame that prompts are in, pixels."""

LOW_RES_SIDE = 256
"""Side of `low_res_masks` and `mask_input`; it shows the prompt frame, padded to a square."""

OUTSIDE_LOGIT = -32.0
"""Logit where there is no image."""

EDGE_PX = PROMPT_SIDE / LOW_RES_SIDE
"""Masks go on this far beyond the image, pixels of the prompt frame: what resizes `low_res_masks`
interpolates with the next pixel outside."""


def sam_encoder_graph(model: SamusHF, *, opset: int) -> ModelProto:
    """Build the encoder: `input_image` (H, W, 3) to `image_embeddings` (1, C + 1, h, w), float32.

    `input_image` is float32 RGB, 0..255, rows and columns first, of any size. What is black in it
    to the right of the last pixel that is not, and below, does not count; of an image without such
    a margin, everything does. One that is black throughout is taken whole.

    Args:
        model: the model, constants folded, in evaluation mode.
        opset: ONNX operator set, as for `image_encoder_graph`.

    Returns:
        A graph whose last channel of embeddings holds the size of what was encoded.
    """
    side, size = model.prompt_encoder.embedding_size, model.prompt_encoder.image_size
    encoder = _without_preprocessing(image_encoder_graph(model, opset=opset), size)
    frame = _parsed(
        "frame",
        ir_version=encoder.ir_version,
        opset=opset,
        side=side,
        size=size,
        padding=side * side - 2,
        prompt_side=PROMPT_SIDE,
        model_centres=[index + 0.5 for index in range(size)],
        **PREPROCESSING_NUMBERS,
    )
    names = [value.name for value in encoder.graph.input]
    merged = compose.merge_models(frame, encoder, io_map=[(name, name) for name in names])
    graph = merged.graph
    last = next(node for node in graph.node if "image_embeddings" in node.output)
    last.output[0] = "frame_embeddings"
    graph.node.append(
        helper.make_node(
            "Concat",
            ["frame_embeddings", "frame_size"],
            ["image_embeddings"],
            "frame/image_embeddings",
            axis=1,
        )
    )
    channels = model.mask_decoder.mask_tokens.embedding_dim + 1
    del graph.output[:]
    graph.output.append(
        helper.make_tensor_value_info(
            "image_embeddings", TensorProto.FLOAT, [1, channels, side, side]
        )
    )
    return _finished(merged, "sam_image_encoder")


def sam_decoder_graph(model: SamusHF, *, opset: int) -> ModelProto:
    """Build the decoder, with the inputs and outputs of segment-anything's `SamOnnxModel`.

    | | name | shape, all float32 | meaning |
    | --- | --- | --- | --- |
    | in | `image_embeddings` | (1, C + 1, h, w) | of `sam_encoder_graph` |
    | in | `point_coords` | (1, P, 2) | (x, y) times the prompt frame's size by the image's |
    | in | `point_labels` | (1, P) | 1, 0, 2 and 3 for a box, -1 for what does not count |
    | in | `mask_input` | (1, 1, 256, 256) | earlier `low_res_masks`, or zeros |
    | in | `has_mask_input` | (1,) | 1 where `mask_input` counts, else 0 |
    | in | `orig_im_size` | (2,) | (H, W), pixels |
    | out | `masks` | (1, 1, H, W) | logits |
    | out | `iou_predictions` | (1, 1) | the model's estimate of the mask's IoU |
    | out | `low_res_masks` | (1, 1, 256, 256) | logits in the prompt frame, padded to a square |

    The model ends points without a box with one padding point, and a box with none. Tools always
    add one, or never, so those given are dropped and the right number is put there.

    Args:
        model: the model, constants folded, in evaluation mode.
        opset: ONNX operator set, as for `mask_decoder_graph`.

    Returns:
        A graph that gives one mask, the one that answers a clear prompt.
    """
    # its inputs have the names that the pair's have
    core = compose.add_prefix(
        mask_decoder_graph(model, opset=opset),
        "model/",
        rename_nodes=False,
        rename_edges=False,
        rename_initializers=False,
        rename_value_infos=False,
    )
    embed_channels = model.mask_decoder.mask_tokens.embedding_dim
    side = model.prompt_encoder.embedding_size
    logits = 4 * side
    sizes = {
        "logits": logits,
        "low_res": LOW_RES_SIDE,
        "ir_version": core.ir_version,
        "opset": opset,
    }
    prompts = _parsed(
        "prompts",
        **sizes,
        side=side,
        embed_channels=embed_channels,
        prompt_side=PROMPT_SIDE,
        image_size=model.prompt_encoder.image_size,
        logit_centres=[(index + 0.5) / logits for index in range(logits)],
        low_res_cells=[float(index) for index in range(LOW_RES_SIDE)],
    )
    masks = _parsed(
        "masks",
        **sizes,
        edge=EDGE_PX,
        outside=OUTSIDE_LOGIT,
        logits_cells=[float(index) for index in range(logits)],
        low_res_centres=[(index + 0.5) * EDGE_PX for index in range(LOW_RES_SIDE)],
    )
    merged = compose.merge_models(
        prompts,
        core,
        io_map=[
            ("frame_embeddings", "model/image_embeddings"),
            ("model_coords", "model/point_coords"),
            ("model_labels", "model/point_labels"),
            ("model_mask", "model/mask_input"),
            ("model_has_mask", "model/has_mask_input"),
        ],
    )
    merged = compose.merge_models(
        merged,
        masks,
        io_map=[
            ("model/low_res_masks", "model_logits"),
            ("model/iou_predictions", "model_ious"),
            *((name, name) for name in ("frame_wh", "prompt_scale_wh", "output_hw")),
        ],
    )
    return _finished(merged, "sam_mask_decoder")


def _without_preprocessing(encoder: ModelProto, size: int) -> ModelProto:
    """An image encoder from the images of its two branches on: `grey` and `high_frequency`."""
    graph = encoder.graph
    nodes = [node for node in graph.node if not node.name.startswith("preprocessing/")]
    read = {name for node in nodes for name in node.input}
    del graph.node[:], graph.input[:]
    graph.node.extend(nodes)
    graph.input.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, size, size])
        for name in ("grey", "high_frequency")
        if name in read
    )
    remove_unused(encoder)
    return encoder


def _parsed(part: str, **values: object) -> ModelProto:
    """A checked model from its template; nodes and inner tensors get the part's name in front."""
    model = parser.parse_model(rendered(f"sam_{part}.onnx.jinja", **values))
    onnx.checker.check_model(model, full_check=True)
    model = compose.add_prefix(model, f"{part}/", rename_inputs=False, rename_outputs=False)
    for node in model.graph.node:
        node.name = f"{part}/{node.output[0].removeprefix(f'{part}/')}"
    return model


def _finished(model: ModelProto, name: str) -> ModelProto:
    # merging lists the operator set once for each part, but a model has to name a domain once
    del model.opset_import[1:]
    model.graph.name = name
    remove_unused(model)
    return model
