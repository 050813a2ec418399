"""The two graphs of SAM's classic ONNX pair, around a model that knows no padding.

Tools that run such a pair scale an image so that its long side is 1024 pixels, the *prompt frame*.
Some give the encoder exactly that, some a canvas that is black to the right of the image or below it;
the decoder's `orig_im_size` is then the canvas' size. The model takes the image itself, stretched to
256x256. So the encoder cuts off what is black, and hands on to the decoder how large the rest is: a
tool keeps the embeddings and does not look into them, so they have one more channel, whose first two
numbers are the image's width and height in pixels of the prompt frame.

The decoder translates between three frames by pixel edges, not centres: an edge at x of the prompt
frame is at x / width of the image, so at 256 x / width of the model's frame. Bilinear interpolation is
written as products with matrices of weights, which needs no more than elementary operators.
"""

from collections.abc import Iterable

import onnx
from onnx import ModelProto, TensorProto, compose, helper, parser

from samus_edge.export.graph_cleanup import remove_unused
from samus_edge.export.torch_graph import image_encoder_graph, mask_decoder_graph
from samus_edge.modeling.samus_hf import SamusHF

__all__ = ["LOW_RES_SIDE", "OUTSIDE_LOGIT", "PROMPT_SIDE", "sam_decoder_graph", "sam_encoder_graph"]

PROMPT_SIDE = 1024
"""Long side of the frame that prompts are in, pixels."""

LOW_RES_SIDE = 256
"""Side of `low_res_masks` and `mask_input`; it shows the prompt frame, padded to a square."""

OUTSIDE_LOGIT = -32.0
"""Logit where there is no image."""

EDGE_PX = PROMPT_SIDE / LOW_RES_SIDE
"""Masks go on this far beyond the image, pixels of the prompt frame: what resizes `low_res_masks`
interpolates with the next pixel outside."""

_CUT_FRAME = """
<ir_version: {ir_version}, opset_import: ["" : {opset}]>
sam_frame (float[image_height, image_width, 3] input_image) => (
    uint8[1, height, width] image, float[1, 1, {side}, {side}] frame_size
)
<
    float[3] grey_of_rgb = {{0.299, 0.587, 0.114}}, float black = {{0}}, float white = {{255}},
    float one = {{1}}, float[1] nothing = {{0}}, float prompt_side = {{{prompt_side}}},
    int64[1] rows = {{0}}, int64[1] columns = {{1}}, int64[1] two = {{2}}, int64[2] both = {{0, 1}},
    int64[2] origin = {{0, 0}}, int64[2] padding = {{0, {padding}}},
    int64[4] frame_size_shape = {{1, 1, {side}, {side}}}
>
{{
    grey_exact = MatMul (input_image, grey_of_rgb)
    grey_rounded = Round (grey_exact)
    grey_canvas = Clip (grey_rounded, black, white)

    canvas_hw_int = Shape <start = 0, end = 2> (input_image)
    canvas_hw = Cast <to = 1> (canvas_hw_int)
    {last_row}
    {last_column}
    image_hw = Concat <axis = 0> (image_height_px, image_width_px)
    image_hw_int = Cast <to = 7> (image_hw)
    grey_image = Slice (grey_canvas, origin, image_hw_int, both)
    grey_uint8 = Cast <to = 2> (grey_image)
    image = Unsqueeze (grey_uint8, rows)

    canvas_side = ReduceMax <keepdims = 1> (canvas_hw)
    image_wh = Concat <axis = 0> (image_width_px, image_height_px)
    image_wh_scaled = Mul (image_wh, prompt_side)
    prompt_frame_wh = Div (image_wh_scaled, canvas_side)
    frame_size_values = Pad (prompt_frame_wh, padding)
    frame_size = Reshape (frame_size_values, frame_size_shape)
}}
"""

# For the rows ({axis} = rows, {others} = columns) and again for the columns.
_LAST_LIT = """
    {name}_size = Slice (canvas_hw, {axis}, {axis_end})
    {name}_size_scalar = Squeeze ({name}_size)
    {name}_brightest = ReduceMax <keepdims = 0> (grey_canvas, {others})
    {name}_is_lit = Greater ({name}_brightest, black)
    {name}_lit = Cast <to = 1> ({name}_is_lit)
    {name}_end = Add ({name}_size_scalar, one)
    {name}_numbers = Range (one, {name}_end, one)
    {name}_lit_numbers = Mul ({name}_lit, {name}_numbers)
    {name}_last = ReduceMax <keepdims = 1> ({name}_lit_numbers)
    {name}_any = Greater ({name}_last, nothing)
    {name} = Where ({name}_any, {name}_last, {name}_size)
"""

_PROMPTS = """
<ir_version: {ir_version}, opset_import: ["" : {opset}]>
sam_prompts (
    float[1, {channels}, {side}, {side}] image_embeddings, float[1, num_points, 2] point_coords,
    float[1, num_points] point_labels, float[1, 1, {low_res}, {low_res}] mask_input,
    float[1] has_mask_input, float[2] orig_im_size
) => (
    float[1, {embed_channels}, {side}, {side}] frame_embeddings, float[1, points, 2] model_coords,
    float[1, points] model_labels, float[1, 1, {logits}, {logits}] model_mask,
    float[1, 1] model_has_mask, float[2] frame_wh, float[2] prompt_scale_wh, float[2] output_hw
)
<
    int64[1] zero_int = {{0}}, int64[1] one_int = {{1}}, int64[1] two_int = {{2}},
    int64[1] all = {{-1}}, int64[2] swapped = {{1, 0}},
    int64[1] embed_channels = {{{embed_channels}}}, int64[1] channels = {{{channels}}},
    float zero = {{0}}, float half = {{0.5}}, float one = {{1}}, float[1] one_row = {{1}},
    float prompt_side = {{{prompt_side}}}, float image_size = {{{image_size}}},
    float above_padding = {{-0.5}}, float above_points = {{1.5}},
    float low_res_scale = {{{low_res_scale}}}, float low_res_last = {{{low_res_last}}},
    float[{logits}] logit_centres = {{{logit_centres}}},
    float[{low_res}] low_res_cells = {{{low_res_cells}}}
>
{{
    frame_embeddings = Slice (image_embeddings, zero_int, embed_channels, one_int)
    frame_size = Slice (image_embeddings, embed_channels, channels, one_int)
    frame_size_values = Reshape (frame_size, all)
    encoded_wh = Slice (frame_size_values, zero_int, two_int)

    output_hw = Round (orig_im_size)
    output_wh = Gather (output_hw, swapped)
    long_side = ReduceMax <keepdims = 1> (output_wh)
    output_wh_scaled = Mul (output_wh, prompt_side)
    resized_wh_exact = Div (output_wh_scaled, long_side)
    resized_wh_half_up = Add (resized_wh_exact, half)
    resized_wh = Floor (resized_wh_half_up)
    prompt_scale_wh = Div (resized_wh, output_wh)

    size_difference = Sub (encoded_wh, resized_wh)
    size_distance = Abs (size_difference)
    is_rounding = Less (size_distance, one)
    frame_wh = Where (is_rounding, resized_wh, encoded_wh)

    half_pixel = Mul (prompt_scale_wh, half)
    edge_coords = Add (point_coords, half_pixel)
    relative_coords = Div (edge_coords, frame_wh)
    model_edge_coords = Mul (relative_coords, image_size)
    all_coords = Sub (model_edge_coords, half)

    flat_labels = Reshape (point_labels, all)
    is_prompt = Greater (flat_labels, above_padding)
    prompt_coords = Compress <axis = 1> (all_coords, is_prompt)
    prompt_labels = Compress <axis = 1> (point_labels, is_prompt)
    is_corner = Greater (prompt_labels, above_points)
    is_corner_float = Cast <to = 1> (is_corner)
    corner_count = ReduceSum <keepdims = 0> (is_corner_float, one_int)
    has_box = Min (corner_count, one_row)
    padding_count_float = Sub (one_row, has_box)
    padding_count = Cast <to = 7> (padding_count_float)
    padding_labels_shape = Concat <axis = 0> (one_int, padding_count)
    padding_labels = ConstantOfShape <value = float[1] {{-1.0}}> (padding_labels_shape)
    padding_coords_shape = Concat <axis = 0> (padding_labels_shape, two_int)
    padding_coords = ConstantOfShape <value = float[1] {{0.0}}> (padding_coords_shape)
    model_coords = Concat <axis = 1> (prompt_coords, padding_coords)
    model_labels = Concat <axis = 1> (prompt_labels, padding_labels)

    low_res_wh = Mul (frame_wh, low_res_scale)
    mask_width = Slice (low_res_wh, zero_int, one_int)
    mask_height = Slice (low_res_wh, one_int, two_int)
    mask_x_edges = Mul (logit_centres, mask_width)
    mask_x = Sub (mask_x_edges, half)
    mask_y_edges = Mul (logit_centres, mask_height)
    mask_y = Sub (mask_y_edges, half)
    {mask_x_weights}
    {mask_y_weights}
    mask_rows = MatMul (mask_y_weights, mask_input)
    mask_x_weights_transposed = Transpose <perm = [1, 0]> (mask_x_weights)
    model_mask = MatMul (mask_rows, mask_x_weights_transposed)
    model_has_mask = Unsqueeze (has_mask_input, zero_int)
}}
"""

# Bilinear weights, (n, m), of m cells at n positions: 1 - distance, at the edges the last cell's.
_WEIGHTS = """
    {at}_inside = Clip ({at}, zero, {cells}_last)
    {at}_column = Unsqueeze ({at}_inside, one_int)
    {at}_offsets = Sub ({at}_column, {cells}_cells)
    {at}_distances = Abs ({at}_offsets)
    {at}_closeness = Sub (one, {at}_distances)
    {at}_weights = Relu ({at}_closeness)
"""

_MASKS = """
<ir_version: {ir_version}, opset_import: ["" : {opset}]>
sam_masks (
    float[1, masks, {logits}, {logits}] model_logits, float[1, masks] model_ious,
    float[2] frame_wh, float[2] prompt_scale_wh, float[2] output_hw
) => (
    float[1, 1, original_height, original_width] masks, float[1, 1] iou_predictions,
    float[1, 1, {low_res}, {low_res}] low_res_masks
)
<
    int64[1] zero_int = {{0}}, int64[1] one_int = {{1}}, int64[1] two_int = {{2}},
    float zero = {{0}}, float half = {{0.5}}, float one = {{1}},
    float edge = {{{edge}}}, float outside = {{{outside}}},
    float logits_side = {{{logits}}}, float logits_last = {{{logits_last}}},
    float[{logits}] logits_cells = {{{logits_cells}}},
    float[{low_res}] low_res_centres = {{{low_res_centres}}}
>
{{
    iou_predictions = Slice (model_ious, zero_int, one_int, one_int)
    logits = Slice (model_logits, zero_int, one_int, one_int)
    frame_width = Slice (frame_wh, zero_int, one_int)
    frame_height = Slice (frame_wh, one_int, two_int)
    right_end = Add (frame_width, edge)
    bottom_end = Add (frame_height, edge)

    output_height = Slice (output_hw, zero_int, one_int)
    output_height_scalar = Squeeze (output_height)
    output_width = Slice (output_hw, one_int, two_int)
    output_width_scalar = Squeeze (output_width)
    scale_x = Slice (prompt_scale_wh, zero_int, one_int)
    scale_y = Slice (prompt_scale_wh, one_int, two_int)
    pixel_columns = Range (zero, output_width_scalar, one)
    pixel_rows = Range (zero, output_height_scalar, one)
    pixel_columns_centred = Add (pixel_columns, half)
    pixel_rows_centred = Add (pixel_rows, half)
    pixel_x = Mul (pixel_columns_centred, scale_x)
    pixel_y = Mul (pixel_rows_centred, scale_y)
    {masks}
    {low_res_masks}
}}
"""

# Logits at the columns {x} and rows {y}, (n,), pixel centres in the prompt frame from its edge.
_SAMPLED = """
    {name}_relative_x = Div ({x}, frame_width)
    {name}_relative_y = Div ({y}, frame_height)
    {name}_edge_x = Mul ({name}_relative_x, logits_side)
    {name}_edge_y = Mul ({name}_relative_y, logits_side)
    {name}_x = Sub ({name}_edge_x, half)
    {name}_y = Sub ({name}_edge_y, half)
    {x_weights}
    {y_weights}
    {name}_rows = MatMul ({name}_y_weights, logits)
    {name}_x_weights_transposed = Transpose <perm = [1, 0]> ({name}_x_weights)
    {name}_logits = MatMul ({name}_rows, {name}_x_weights_transposed)
    {name}_column_is_inside = Less ({x}, right_end)
    {name}_row_is_inside = Less ({y}, bottom_end)
    {name}_row_is_inside_column = Unsqueeze ({name}_row_is_inside, one_int)
    {name}_is_inside = And ({name}_row_is_inside_column, {name}_column_is_inside)
    {name} = Where ({name}_is_inside, {name}_logits, outside)
"""


def sam_encoder_graph(model: SamusHF, *, opset: int) -> ModelProto:
    """Build the encoder: `input_image` (H, W, 3) to `image_embeddings` (1, C + 1, h, w), float32.

    `input_image` is float32 RGB, 0..255, rows and columns first, of any size. What is black in it to
    the right of the last pixel that is not, and below, does not count; of an image without such a
    margin, everything does. One that is black throughout is taken whole.

    Args:
        model: the model, constants folded, in evaluation mode.
        opset: ONNX operator set, as for `image_encoder_graph`.

    Returns:
        A graph whose last channel of embeddings holds the size of what was encoded.
    """
    side = model.prompt_encoder.embedding_size
    encoder = image_encoder_graph(model, opset=opset)
    text = _CUT_FRAME.format(
        ir_version=encoder.ir_version,
        opset=opset,
        side=side,
        padding=side * side - 2,
        prompt_side=PROMPT_SIDE,
        last_row=_LAST_LIT.format(
            name="image_height_px", axis="rows", axis_end="columns", others="columns"
        ),
        last_column=_LAST_LIT.format(
            name="image_width_px", axis="columns", axis_end="two", others="rows"
        ),
    )
    frame = _parsed(text, "frame")
    merged = compose.merge_models(frame, encoder, io_map=[("image", "image")])
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
    sizes = {"logits": logits, "low_res": LOW_RES_SIDE, "ir_version": core.ir_version}
    prompts = _parsed(
        _PROMPTS.format(
            **sizes,
            opset=opset,
            side=side,
            embed_channels=embed_channels,
            channels=embed_channels + 1,
            prompt_side=PROMPT_SIDE,
            image_size=model.prompt_encoder.image_size,
            low_res_scale=LOW_RES_SIDE / PROMPT_SIDE,
            low_res_last=LOW_RES_SIDE - 1,
            logit_centres=_numbers((index + 0.5) / logits for index in range(logits)),
            low_res_cells=_numbers(range(LOW_RES_SIDE)),
            mask_x_weights=_WEIGHTS.format(at="mask_x", cells="low_res"),
            mask_y_weights=_WEIGHTS.format(at="mask_y", cells="low_res"),
        ),
        "prompts",
    )
    masks = _parsed(
        _MASKS.format(
            **sizes,
            opset=opset,
            edge=EDGE_PX,
            outside=OUTSIDE_LOGIT,
            logits_last=logits - 1,
            logits_cells=_numbers(range(logits)),
            low_res_centres=_numbers((index + 0.5) * EDGE_PX for index in range(LOW_RES_SIDE)),
            masks=_sampled("masks", "pixel_x", "pixel_y"),
            low_res_masks=_sampled("low_res_masks", "low_res_centres", "low_res_centres"),
        ),
        "masks",
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


def _sampled(name: str, x: str, y: str) -> str:
    return _SAMPLED.format(
        name=name,
        x=x,
        y=y,
        x_weights=_WEIGHTS.format(at=f"{name}_x", cells="logits"),
        y_weights=_WEIGHTS.format(at=f"{name}_y", cells="logits"),
    )


def _numbers(values: Iterable[float]) -> str:
    return ", ".join(repr(float(value)) for value in values)


def _parsed(text: str, part: str) -> ModelProto:
    """A checked model from its text; nodes and inner tensors get the part's name in front."""
    model = parser.parse_model(text)
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
