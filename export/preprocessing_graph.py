"""The part of the image encoder graph that takes a raw frame: scaling and the wavelet image."""

import numpy as np
import onnx
from onnx import ModelProto, parser

from samus_edge.high_frequency import MIN_BAND_RANGE, MIN_SUM_RANGE

# Haar analysis of a 2x2 block (rows a b, c d): horizontal, vertical and diagonal details, as
# PyWavelets orders and signs them (cH, cV, cD)
HAAR_DETAILS = 0.5 * np.array(
    [[[[1, 1], [-1, -1]]], [[[1, -1], [1, -1]]], [[[1, -1], [-1, 1]]]], dtype=np.float32
)

_GRAPH = """
<ir_version: {ir_version}, opset_import: ["" : {opset}]>
preprocessing (uint8[batch, height, width] image) => (
    float[batch, 1, {size}, {size}] grey, float[batch, 1, {size}, {size}] high_frequency
)
<
    int64[1] channel_axis = {{1}}, int64[2] pixel_axes = {{2, 3}},
    int64[2] size = {{{size}, {size}}},
    int64[4] one_more_row_and_column = {{0, 0, 1, 1}},
    float per_grey_level = {{{per_grey_level}}},
    float min_band_range = {{{min_band_range}}}, float min_sum_range = {{{min_sum_range}}},
    float[3, 1, 2, 2] haar_details = {{{haar_details}}}
>
{{
    frame_float = Cast <to = 1> (image)
    frame = Unsqueeze (frame_float, channel_axis)

    resized = Resize <mode = "linear", coordinate_transformation_mode = "half_pixel", axes = [2, 3]>
        (frame, , , size)
    grey = Mul (resized, per_grey_level)

    padded = Pad <mode = "edge"> (frame, one_more_row_and_column, , pixel_axes)
    bands = Conv <kernel_shape = [2, 2], strides = [2, 2]> (padded, haar_details)
    band_min = ReduceMin <keepdims = 1> (bands, pixel_axes)
    bands_from_zero = Sub (bands, band_min)
    band_max = ReduceMax <keepdims = 1> (bands_from_zero, pixel_axes)
    band_range = Max (band_max, min_band_range)
    bands_scaled = Div (bands_from_zero, band_range)

    details = ReduceSum <keepdims = 1> (bands_scaled, channel_axis)
    details_min = ReduceMin <keepdims = 1> (details, pixel_axes)
    details_from_zero = Sub (details, details_min)
    details_max = ReduceMax <keepdims = 1> (details_from_zero, pixel_axes)
    details_range = Max (details_max, min_sum_range)
    details_scaled = Div (details_from_zero, details_range)
    high_frequency = Resize
        <mode = "linear", coordinate_transformation_mode = "half_pixel", axes = [2, 3]>
        (details_scaled, , , size)
}}
"""


def preprocessing_graph(*, image_size: int, opset: int, ir_version: int) -> ModelProto:
    """Build the graph from raw frames to the encoder's two inputs.

    Takes `image`, (B, H, W), uint8, any size; gives `grey` and `high_frequency`, (B, 1, S, S),
    float32 in [0, 1]. Every frame is scaled by its own minima and maxima. No shape is computed at
    run time: the odd row or column that PyWavelets pads is always appended, and an even frame's
    convolution leaves it out.

    Args:
        image_size: S, side of the model input, pixels.
        opset: ONNX operator set, 18 or newer (axes of Resize, Pad and the reductions).
        ir_version: ONNX IR version of the model.

    Returns:
        A checked model; bands and sums are scaled to [0, 1] where the reference scales to 0..255.
    """
    text = _GRAPH.format(
        ir_version=ir_version,
        opset=opset,
        size=image_size,
        per_grey_level=repr(float(np.float32(1.0 / 255.0))),
        min_band_range=MIN_BAND_RANGE,
        min_sum_range=MIN_SUM_RANGE / 255.0,
        haar_details=", ".join(str(float(value)) for value in HAAR_DETAILS.ravel()),
    )
    model = parser.parse_model(text)
    for index, node in enumerate(model.graph.node):
        node.name = f"preprocessing/{node.output[0] or index}"
    onnx.checker.check_model(model, full_check=True)
    return model
