"""The contract of a bundle: what its `manifest.json` says, as frozen dataclasses.

A manifest is written by `samus-edge export` and read by the runtime. Fields that this version does
not know are kept when a manifest is read and written again, so that a tool of an older minor
version does not strip what a newer one recorded.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from samus_edge import __version__
from samus_edge.errors import BundleError
from samus_edge.runtime.bundle.records import (
    LEFT_OUT_IF_EMPTY,
    Bound,
    JsonValue,
    RecordError,
    Size,
    Text,
    from_json,
    parse_json,
    show_value,
    to_json,
)
from samus_edge.runtime.images.output_files import write_files_atomically

Sha256 = Annotated[str, Bound("64 lower-case hex digits", re.compile(r"[0-9a-f]{64}").fullmatch)]


@dataclass(frozen=True)
class FileRecord:
    """One file that goes with a graph.

    Attributes:
        file: Path relative to the bundle's folder, with forward slashes; may not leave it.
        sha256: SHA-256 of the file, 64 lower-case hexadecimal digits.
        size_bytes: Size of the file ("bytes" in the JSON).
        extra: Fields of a later format version, kept as they were read.
    """

    file: Text
    sha256: Sha256
    size_bytes: Size = field(metadata={"json": "bytes"})
    extra: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph.

    Attributes:
        name: Name of the tensor in the graph, for example "image".
        dtype: Element type by numpy's name, for example "uint8" or "float32".
        shape: One entry per axis; an int is a fixed size, a str names a size that may vary.
        extra: Fields of a later format version, kept as they were read.
    """

    name: Text
    dtype: Text
    shape: tuple[int | str, ...]
    extra: Mapping[str, JsonValue] = field(default_factory=dict)

    def accepts(self, dtype: str, shape: tuple[int | str | None, ...]) -> bool:
        """Whether a tensor of this dtype and shape fits; only sizes known on both sides must agree.

        Args:
            dtype: Element type by numpy's name.
            shape: Sizes of the tensor; a str or None stands for a size that may vary.
        """
        if dtype != self.dtype or len(shape) != len(self.shape):
            return False
        pairs = zip(self.shape, shape, strict=True)
        return all(
            mine == theirs
            for mine, theirs in pairs
            if isinstance(mine, int) and isinstance(theirs, int)
        )

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} ({', '.join(map(str, self.shape))})"


@dataclass(frozen=True, kw_only=True)
class GraphRecord(FileRecord):
    """One ONNX file of a bundle, with the files that it keeps tensors in.

    Attributes:
        precision: Precision that the graph computes in: "fp32", "fp16" or "int8".
        weight_storage: Precision that its weights are stored in: "fp32", "fp16" or "int8".
        opset: Version of the default ONNX operator set.
        inputs: Inputs of the graph, in its order.
        outputs: Outputs of the graph, in its order.
        external_data: Every file that the graph keeps tensors in; empty for a graph in one file, as
            `samus-edge export` writes it. Left out of the JSON where it is empty.
        conversion: How the graph was made from the fp32 one, as `samus-edge calibrate` records it:
            method, data, and what was kept in higher precision. Left out of the JSON where it is
            empty.
    """

    precision: Text
    weight_storage: Text
    opset: Size
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    external_data: tuple[FileRecord, ...] = field(default=(), metadata=LEFT_OUT_IF_EMPTY)
    conversion: Mapping[str, JsonValue] = field(default_factory=dict, metadata=LEFT_OUT_IF_EMPTY)


IMAGE_ENCODER = "image_encoder"
MASK_DECODER = "mask_decoder"
LESION_PROPOSER = "lesion_proposer"

# Of the masks that the decoder gives for a prompt, as in SAM: the first is the answer to a prompt
# that is clear, the other three are alternatives for one that is ambiguous.
MASKS_PER_PROMPT = 4

# By graph: its inputs, and the outputs that it has to have.
_CONTRACTS = {
    IMAGE_ENCODER: (
        (TensorSpec("image", "uint8", ("B", "H", "W")),),
        (TensorSpec("image_embeddings", "float32", ("B", "C", "h", "w")),),
    ),
    MASK_DECODER: (
        (
            TensorSpec("image_embeddings", "float32", (1, "C", "h", "w")),
            TensorSpec("point_coords", "float32", ("N", "P", 2)),
            TensorSpec("point_labels", "float32", ("N", "P")),
            TensorSpec("mask_input", "float32", ("N", 1, "mask_h", "mask_w")),
            TensorSpec("has_mask_input", "float32", ("N", 1)),
        ),
        (
            TensorSpec("low_res_masks", "float32", ("N", MASKS_PER_PROMPT, "mask_h", "mask_w")),
            TensorSpec("iou_predictions", "float32", ("N", MASKS_PER_PROMPT)),
        ),
    ),
    LESION_PROPOSER: (
        (TensorSpec("image_embeddings", "float32", ("B", "C", "h", "w")),),
        (
            TensorSpec("boxes", "float32", ("B", "K", 4)),
            TensorSpec("scores", "float32", ("B", "K")),
            TensorSpec("points", "float32", ("B", "K", 2)),
            TensorSpec("lesion_map", "float32", ("B", "h", "w")),
        ),
    ),
}


def check_graph(part: str, record: GraphRecord) -> None:
    """Check that a recorded graph is one that the runtime can use.

    Args:
        part: `IMAGE_ENCODER`, `MASK_DECODER` or `LESION_PROPOSER`.
        record: The graph's record.

    Raises:
        BundleError: naming every input and output that is missing or of another kind.
    """
    problems: list[str] = []
    inputs, outputs = _CONTRACTS[part]
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
    known = {spec.name for spec in inputs}
    problems += [f"unknown input {spec}" for spec in record.inputs if spec.name not in known]
    if problems:
        raise BundleError(
            f"{record.file} does not follow the bundle contract: {'; '.join(problems)}. "
            "Export the bundle again."
        )
    if part == MASK_DECODER:
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


@dataclass(frozen=True)
class GraphSelection:
    """The image encoder and the mask decoder that run together.

    Attributes:
        image_encoder: Name of the image encoder among the manifest's graphs.
        mask_decoder: Name of the mask decoder among the manifest's graphs.
        extra: Fields of a later format version, kept as they were read.
    """

    image_encoder: Text = IMAGE_ENCODER
    mask_decoder: Text = MASK_DECODER
    extra: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True)
class Preprocessing:
    """What the image encoder graph does to a raw frame, for the reader; an integrator does nothing.

    Attributes:
        image_size: Side of the square model input, pixels.
        grey: How colour becomes grey before the graph (the runtime does that).
        resize: How a frame becomes image_size x image_size.
        scaling: How grey levels become network input.
        high_frequency: How the wavelet high-frequency image is made.
        extra: Fields of a later format version, kept as they were read.
    """

    image_size: Size
    grey: Text
    resize: Text
    scaling: Text
    high_frequency: Text
    extra: Mapping[str, JsonValue] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptFrame:
    """The frame in which the mask decoder graph takes prompts.

    Attributes:
        frame: "model": prompts are given in pixels of the square model input.
        size: Side of that square, pixels.
        rule: How a pixel of the original image becomes one of that frame, in words.
        labels: Meaning of each point label, keyed by the label as text ("-1" to "3").
        extra: Fields of a later format version, kept as they were read.
    """

    frame: Literal["model"]
    size: Size
    rule: Text
    labels: Mapping[str, str]
    extra: Mapping[str, JsonValue] = field(default_factory=dict)


FORMAT = "samus-edge-bundle"
FORMAT_VERSION = "1.2"
MANIFEST_FILE = "manifest.json"
MAX_MANIFEST_BYTES = 4 << 20

_FORMAT_VERSION = re.compile(r"([0-9]{1,6})\.[0-9]{1,6}")
_SUPPORTED_MAJOR = int(FORMAT_VERSION.split(".")[0])


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything a bundle says about itself.

    Attributes:
        format: Always "samus-edge-bundle".
        format_version: "major.minor"; a larger major version than ours is refused.
        name: Name of the bundle, for people.
        model: "samus_hf".
        arch: "tiny" or "vit_b".
        weights_sha256: SHA-256 of the weights file that the graphs were exported from.
        created_with: Versions of samus_edge, torch, onnx, onnxruntime at export.
        preprocessing: What the image encoder does to a frame.
        prompts: Frame of the decoder's prompts.
        mask_threshold: A pixel belongs to the mask where its logit is greater than this.
        graphs: Graphs by name; "image_encoder" and "mask_decoder" are the reference,
            "lesion_proposer", which not every bundle has, serves every precision, and all others
            are conversions of the first two.
        precisions: Graphs that run together, by the name of a precision. Left out of the JSON where
            it is empty: the bundle then has the reference graphs alone.
        parity: Measured differences between the shipped graphs and the model.
        accuracy: Measured accuracy of the shipped graphs, with the data it was measured on.
        verification: Measurements of `samus-edge verify`, by the name of a precision. Left out of
            the JSON where it is empty.
        quality: How masks are judged, see `samus_edge.runtime.quality.read_calibration`. Left out
            of the JSON where it is empty.
        licence: SPDX expression of the bundle's licence.
        credits: Sources of data and weights.
        intended_use: Intended use, in a sentence or two.
        limits: What it is not for and where it is known to fail.
        extra: Fields of a later format version, kept as they were read.
    """

    format: Text = FORMAT
    format_version: Text = FORMAT_VERSION
    name: Text
    model: Text
    arch: Text
    weights_sha256: Text
    created_with: Mapping[str, str]
    preprocessing: Preprocessing
    prompts: PromptFrame
    mask_threshold: float
    graphs: Mapping[str, GraphRecord]
    precisions: Mapping[str, GraphSelection] = field(
        default_factory=dict, metadata=LEFT_OUT_IF_EMPTY
    )
    parity: Mapping[str, JsonValue]
    accuracy: Mapping[str, JsonValue]
    verification: Mapping[str, JsonValue] = field(default_factory=dict, metadata=LEFT_OUT_IF_EMPTY)
    quality: Mapping[str, JsonValue] = field(default_factory=dict, metadata=LEFT_OUT_IF_EMPTY)
    licence: Text
    credits: tuple[str, ...]
    intended_use: Text
    limits: tuple[str, ...]
    extra: Mapping[str, JsonValue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the names of graphs.

        Raises:
            ValueError: if a precision names a graph that the manifest does not have.
        """
        problems = [
            f"precisions.{precision}.{kind} is {show_value(name)}, which is not among the graphs"
            for precision, graphs in self.precisions.items()
            for kind, name in (
                (IMAGE_ENCODER, graphs.image_encoder),
                (MASK_DECODER, graphs.mask_decoder),
            )
            if name not in self.graphs
        ]
        if problems:
            raise RecordError(problems)

    @staticmethod
    def read(path: Path) -> "Manifest":
        """Read a manifest file.

        Args:
            path: A regular file.

        Raises:
            BundleError: if the file is missing or unreadable, and as `from_bytes`.
        """
        return Manifest.from_bytes(read_manifest_file(path), str(path))

    @staticmethod
    def from_bytes(content: bytes, source: str) -> "Manifest":
        """Read a manifest's content.

        Args:
            content: Content of the file, or its first `MAX_MANIFEST_BYTES` + 1 bytes.
            source: Where it comes from, for messages.

        Raises:
            BundleError: if it is too large, not unambiguous JSON, not a bundle manifest or of
                another major format version, or has missing or mistyped fields (all of them are
                named).
        """
        if len(content) > MAX_MANIFEST_BYTES:
            raise BundleError(
                f"{source} has more than {MAX_MANIFEST_BYTES} bytes, and no manifest has. "
                "Export the bundle again."
            )
        try:
            value = parse_json(content)
        except ValueError as err:
            raise BundleError(
                f"{source} is not valid JSON ({err}). Export or copy the bundle again."
            ) from err
        try:
            # Nothing else can be said about a document that is not ours, or of an unknown version.
            _check_format(from_json(_Format, value), source)
            return from_json(Manifest, value)
        except RecordError as err:
            raise BundleError(f"{source}: {err}. Export the bundle again.") from err

    def write(self, path: Path) -> None:
        """Write the manifest, unknown fields included; a reader never sees half of it.

        Raises:
            OutputFileError: if the file cannot be written.
        """
        text = json.dumps(to_json(self), indent=2, ensure_ascii=False, allow_nan=False)
        write_files_atomically({path: text.encode() + b"\n"})


def read_manifest_file(path: Path) -> bytes:
    """Content of a manifest's file, or its first `MAX_MANIFEST_BYTES` + 1 bytes.

    Raises:
        BundleError: if the file is missing, not a regular one or unreadable.
    """
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise BundleError(
                f"{path} is not a regular file. Name a folder that `samus-edge export` has made."
            )
        with path.open("rb") as file:
            return file.read(MAX_MANIFEST_BYTES + 1)
    except OSError as err:
        raise BundleError(
            f"{path} cannot be read ({err.strerror}). "
            "Name a folder that `samus-edge export` has made."
        ) from err


@dataclass(frozen=True)
class _Format:
    """What says whether a document can be read."""

    format: Text
    format_version: Text
    extra: Mapping[str, JsonValue]


def _check_format(found: _Format, source: str) -> None:
    version = found.format_version
    if found.format != FORMAT:
        raise BundleError(
            f'{source}: format is {show_value(found.format)}, expected "{FORMAT}". '
            "Name the folder of a samus-edge bundle."
        )
    match = _FORMAT_VERSION.fullmatch(version)
    if match is None:
        raise BundleError(
            f'{source}: format_version must look like "1.0", got {show_value(version)}.'
        )
    major = int(match[1])
    if major != _SUPPORTED_MAJOR:
        is_newer = major > _SUPPORTED_MAJOR
        raise BundleError(
            f"{source}: the bundle has format version {version}, and samus-edge {__version__} "
            f"reads {'up to ' if is_newer else ''}{_SUPPORTED_MAJOR}.x. "
            + (
                "Upgrade it: pip install --upgrade samus-edge"
                if is_newer
                else "Export the bundle again."
            )
        )
