"""What the runtime needs of the two graphs of a bundle."""

from samus_edge.errors import BundleError
from samus_edge.runtime.graph_record import GraphRecord, TensorSpec

__all__ = [
    "IMAGE_ENCODER",
    "MASK_DECODER",
    "check_image_encoder",
    "check_mask_decoder",
    "mask_input_hw",
]

IMAGE_ENCODER = "image_encoder"
MASK_DECODER = "mask_decoder"

# Of the masks that the decoder gives for a prompt, as in SAM: the first is the answer to a prompt
# that is clear, the other three are alternatives for one that is ambiguous.
MASKS_PER_PROMPT = 4

_ENCODER_INPUTS = (TensorSpec("image", "uint8", ("B", "H", "W")),)
_ENCODER_OUTPUTS = (TensorSpec("image_embeddings", "float32", ("B", "C", "h", "w")),)
_DECODER_INPUTS = (
    TensorSpec("image_embeddings", "float32", (1, "C", "h", "w")),
    TensorSpec("point_coords", "float32", ("N", "P", 2)),
    TensorSpec("point_labels", "float32", ("N", "P")),
    TensorSpec("mask_input", "float32", ("N", 1, "mask_h", "mask_w")),
    TensorSpec("has_mask_input", "float32", ("N", 1)),
)
_DECODER_OUTPUTS = (
    TensorSpec("low_res_masks", "float32", ("N", MASKS_PER_PROMPT, "mask_h", "mask_w")),
    TensorSpec("iou_predictions", "float32", ("N", MASKS_PER_PROMPT)),
)


def check_image_encoder(record: GraphRecord) -> None:
    """Check that a recorded graph is an image encoder that the runtime can use.

    Raises:
        BundleError: naming every input and output that is missing or of another kind.
    """
    _check(record, _ENCODER_INPUTS, _ENCODER_OUTPUTS)


def check_mask_decoder(record: GraphRecord) -> None:
    """Check that a recorded graph is a mask decoder that the runtime can use.

    Raises:
        BundleError: naming every input and output that is missing or of another kind.
    """
    _check(record, _DECODER_INPUTS, _DECODER_OUTPUTS)
    mask_input_hw(record)


def mask_input_hw(record: GraphRecord) -> tuple[int, int]:
    """(h, w) of the mask input of a mask decoder.

    Raises:
        BundleError: if they are not fixed sizes.
    """
    (spec,) = (spec for spec in record.inputs if spec.name == "mask_input")
    height, width = spec.shape[-2:]
    if not (isinstance(height, int) and isinstance(width, int)):
        raise BundleError(f"{record.file}: {spec} must have fixed sizes on its last two axes.")
    return height, width


def _check(
    record: GraphRecord, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> None:
    problems: list[str] = []
    for kind, needed, recorded in (
        ("input", inputs, record.inputs),
        ("output", outputs, record.outputs),
    ):
        found = {spec.name: spec for spec in recorded}
        for spec in needed:
            other = found.get(spec.name)
            if other is None:
                problems.append(f"no {kind} {spec}")
            elif not spec.accepts(other.dtype, other.shape):
                problems.append(f"{kind} {other}, expected {spec}")
        known = {spec.name for spec in needed}
        if kind == "input":
            problems += [f"unknown input {spec}" for spec in recorded if spec.name not in known]
    if problems:
        raise BundleError(
            f"{record.file} does not follow the bundle contract: {'; '.join(problems)}. "
            "Export the bundle again."
        )
