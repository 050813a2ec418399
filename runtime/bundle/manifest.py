"""The contract of a bundle: what its `manifest.json` says, as frozen dataclasses.

A manifest is written by `samus-edge export` and read by the runtime. Fields that this version does
not know are kept when a manifest is read and written again, so that a tool of an older minor
version does not strip what a newer one recorded.
"""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from samus_edge import __version__
from samus_edge.errors import BundleError
from samus_edge.runtime.bundle.json_fields import (
    MAX_MANIFEST_BYTES,
    JsonFields,
    JsonValue,
    parse_manifest,
    show_value,
)
from samus_edge.runtime.images.output_files import write_files_atomically

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "IMAGE_ENCODER",
    "MANIFEST_FILE",
    "MASK_DECODER",
    "Dimension",
    "FileRecord",
    "GraphRecord",
    "GraphSelection",
    "Manifest",
    "Preprocessing",
    "PromptFrame",
    "TensorSpec",
    "check_image_encoder",
    "check_mask_decoder",
    "mask_input_hw",
    "read_sha256",
]


_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class FileRecord:
    """One file that goes with a graph.

    Attributes:
        file: path relative to the bundle's folder, with forward slashes; may not leave it.
        sha256: of the file, 64 lower-case hexadecimal digits.
        size_bytes: size of the file ("bytes" in the JSON).
        extra: fields of a later format version, kept as they were read.
    """

    file: str
    sha256: str
    size_bytes: int
    extra: Mapping[str, JsonValue] = field(default_factory=dict)

    @staticmethod
    def from_json(value: object, where: str, problems: list[str]) -> "FileRecord":
        """Read it; what is wrong with it is appended to `problems`."""
        fields = JsonFields(value, where, problems)
        return FileRecord(
            file=fields.text("file"),
            sha256=read_sha256(fields, problems),
            size_bytes=fields.integer("bytes"),
            extra=fields.unknown(),
        )

    def to_json(self) -> dict[str, JsonValue]:
        """As a JSON object, unknown fields included."""
        return {
            "file": self.file,
            "sha256": self.sha256,
            "bytes": self.size_bytes,
            **self.extra,
        }


def read_sha256(fields: JsonFields, problems: list[str]) -> str:
    """The field `sha256` of an object; what is wrong with it is appended to `problems`."""
    sha256 = fields.text("sha256")
    if sha256 and not _SHA256.fullmatch(sha256):
        problems.append(
            f"{fields.path_of('sha256')} must be 64 lower-case hex digits, got {sha256[:80]!r}"
        )
    return sha256


Dimension = int | str


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph.

    Attributes:
        name: the tensor's name in the graph, for example "image".
        dtype: numpy's name of the element type, for example "uint8" or "float32".
        shape: one entry per axis; an int is a fixed size, a str names a size that may vary.
        extra: fields of a later format version, kept as they were read.
    """

    name: str
    dtype: str
    shape: tuple[Dimension, ...]
    extra: Mapping[str, JsonValue] = field(default_factory=dict)

    @staticmethod
    def from_json(value: object, where: str, problems: list[str]) -> "TensorSpec":
        """Read a spec; what is wrong with it is appended to `problems`."""
        fields = JsonFields(value, where, problems)
        shape: list[Dimension] = []
        for axis, size in enumerate(fields.items("shape")):
            if isinstance(size, str) or (isinstance(size, int) and not isinstance(size, bool)):
                shape.append(size)
            else:
                problems.append(
                    f"{fields.path_of('shape')}[{axis}] must be an integer or a name, "
                    f"got {show_value(size)}"
                )
        return TensorSpec(
            name=fields.text("name"),
            dtype=fields.text("dtype"),
            shape=tuple(shape),
            extra=fields.unknown(),
        )

    def to_json(self) -> dict[str, JsonValue]:
        """The spec as a JSON object, unknown fields included."""
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape), **self.extra}

    def accepts(self, dtype: str, shape: tuple[int | str | None, ...]) -> bool:
        """Whether a tensor of this dtype and shape fits; only sizes known on both sides must agree.

        Args:
            dtype: numpy's name of the element type.
            shape: sizes of the tensor; a str or None stands for a size that may vary.
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


@dataclass(frozen=True)
class GraphRecord:
    """One ONNX file of a bundle, with the files that it keeps tensors in.

    Attributes:
        file: path relative to the bundle's folder, with forward slashes; may not leave it.
        sha256: of the file, 64 lower-case hexadecimal digits.
        size_bytes: size of the file ("bytes" in the JSON).
        precision: in which the graph computes: "fp32", "fp16" or "int8".
        weight_storage: in which its weights are stored: "fp32", "fp16" or "int8".
        opset: version of the default ONNX operator set.
        inputs: what the graph takes, in its order.
        outputs: what the graph gives, in its order.
        external_data: every file that the graph keeps tensors in; empty for a graph in one file, as
            `samus-edge export` writes it. Left out of the JSON where it is empty.
        conversion: how the graph was made from the fp32 one, as `samus-edge calibrate` records it:
            method, data, and what was kept in higher precision. Left out of the JSON where it is empty.
        extra: fields of a later format version, kept as they were read.
    """

    file: str
    sha256: str
    size_bytes: int
    precision: str
    weight_storage: str
    opset: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    external_data: tuple[FileRecord, ...] = ()
    conversion: Mapping[str, JsonValue] = field(default_factory=dict)
    extra: Mapping[str, JsonValue] = field(default_factory=dict)

    @staticmethod
    def from_json(value: object, where: str, problems: list[str]) -> "GraphRecord":
        """Read it; what is wrong with it is appended to `problems`."""
        fields = JsonFields(value, where, problems)
        tensors: dict[str, tuple[TensorSpec, ...]] = {}
        for kind in ("inputs", "outputs"):
            tensors[kind] = tuple(
                TensorSpec.from_json(item, f"{fields.path_of(kind)}[{index}]", problems)
                for index, item in enumerate(fields.items(kind))
            )
        return GraphRecord(
            file=fields.text("file"),
            sha256=read_sha256(fields, problems),
            size_bytes=fields.integer("bytes"),
            precision=fields.text("precision"),
            weight_storage=fields.text("weight_storage"),
            opset=fields.integer("opset"),
            inputs=tensors["inputs"],
            outputs=tensors["outputs"],
            external_data=tuple(
                FileRecord.from_json(item, f"{fields.path_of('external_data')}[{index}]", problems)
                for index, item in enumerate(fields.optional_items("external_data"))
            ),
            conversion=fields.optional_mapping("conversion"),
            extra=fields.unknown(),
        )

    def to_json(self) -> dict[str, JsonValue]:
        """As a JSON object, unknown fields included."""
        external_data = [record.to_json() for record in self.external_data]
        return {
            "file": self.file,
            "sha256": self.sha256,
            "bytes": self.size_bytes,
            "precision": self.precision,
            "weight_storage": self.weight_storage,
            "opset": self.opset,
            "inputs": [spec.to_json() for spec in self.inputs],
            "outputs": [spec.to_json() for spec in self.outputs],
            **({"external_data": external_data} if external_data else {}),
            **({"conversion": dict(self.conversion)} if self.conversion else {}),
            **self.extra,
        }


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


@dataclass(frozen=True)
class GraphSelection:
    """The image encoder and the mask decoder that run together.

    Attributes:
        image_encoder: its name among the manifest's graphs.
        mask_decoder: its name among the manifest's graphs.
        extra: fields of a later format version, kept as they were read.
    """

    image_encoder: str = IMAGE_ENCODER
    mask_decoder: str = MASK_DECODER
    extra: Mapping[str, JsonValue] = field(default_factory=dict)

    @staticmethod
    def from_json(
        value: object, where: str, graphs: Collection[str], problems: list[str]
    ) -> "GraphSelection":
        """Read it; what is wrong with it is appended to `problems`.

        Args:
            value: the parsed JSON value.
            where: how messages name it.
            graphs: names of the manifest's graphs.
            problems: of the whole document.
        """
        fields = JsonFields(value, where, problems)
        names = {kind: fields.text(kind) for kind in (IMAGE_ENCODER, MASK_DECODER)}
        for kind, name in names.items():
            if name and name not in graphs:
                problems.append(
                    f"{fields.path_of(kind)} is {show_value(name)}, which is not among the graphs"
                )
        return GraphSelection(names[IMAGE_ENCODER], names[MASK_DECODER], extra=fields.unknown())

    def to_json(self) -> dict[str, JsonValue]:
        """As a JSON object, unknown fields included."""
        return {
            IMAGE_ENCODER: self.image_encoder,
            MASK_DECODER: self.mask_decoder,
            **self.extra,
        }


@dataclass(frozen=True)
class Preprocessing:
    """What the image encoder graph does to a raw frame, for the reader; an integrator does nothing.

    Attributes:
        image_size: side of the square model input, pixels.
        grey: how colour becomes grey before the graph (the runtime does that).
        resize: how a frame becomes image_size x image_size.
        scaling: how grey levels become network input.
        high_frequency: how the wavelet high-frequency image is made.
        extra: fields of a later format version, kept as they were read.
    """

    image_size: int
    grey: str
    resize: str
    scaling: str
    high_frequency: str
    extra: Mapping[str, JsonValue] = field(default_factory=dict)

    @staticmethod
    def from_json(value: object, where: str, problems: list[str]) -> "Preprocessing":
        """Read it; what is wrong with it is appended to `problems`."""
        fields = JsonFields(value, where, problems)
        return Preprocessing(
            image_size=fields.integer("image_size"),
            grey=fields.text("grey"),
            resize=fields.text("resize"),
            scaling=fields.text("scaling"),
            high_frequency=fields.text("high_frequency"),
            extra=fields.unknown(),
        )

    def to_json(self) -> dict[str, JsonValue]:
        """As a JSON object, unknown fields included."""
        return {
            "image_size": self.image_size,
            "grey": self.grey,
            "resize": self.resize,
            "scaling": self.scaling,
            "high_frequency": self.high_frequency,
            **self.extra,
        }


@dataclass(frozen=True)
class PromptFrame:
    """The frame in which the mask decoder graph takes prompts.

    Attributes:
        frame: "model": prompts are given in pixels of the square model input.
        size: side of that square, pixels.
        rule: how a pixel of the original image becomes one of that frame, in words.
        labels: meaning of each point label, keyed by the label as text ("-1" to "3").
        extra: fields of a later format version, kept as they were read.
    """

    frame: str
    size: int
    rule: str
    labels: Mapping[str, str]
    extra: Mapping[str, JsonValue] = field(default_factory=dict)

    @staticmethod
    def from_json(value: object, where: str, problems: list[str]) -> "PromptFrame":
        """Read it; what is wrong with it is appended to `problems`."""
        fields = JsonFields(value, where, problems)
        frame = fields.text("frame")
        if frame and frame != "model":
            problems.append(f'{fields.path_of("frame")} must be "model", got {frame!r}')
        return PromptFrame(
            frame=frame,
            size=fields.integer("size"),
            rule=fields.text("rule"),
            labels=fields.text_mapping("labels"),
            extra=fields.unknown(),
        )

    def to_json(self) -> dict[str, JsonValue]:
        """As a JSON object, unknown fields included."""
        return {
            "frame": self.frame,
            "size": self.size,
            "rule": self.rule,
            "labels": dict(self.labels),
            **self.extra,
        }


FORMAT = "samus-edge-bundle"
FORMAT_VERSION = "1.1"
MANIFEST_FILE = "manifest.json"

_FORMAT_VERSION = re.compile(r"([0-9]{1,6})\.[0-9]{1,6}")
_SUPPORTED_MAJOR = int(FORMAT_VERSION.split(".")[0])


@dataclass(frozen=True)
class Manifest:
    """Everything a bundle says about itself.

    Attributes:
        name: the bundle's name, for people.
        model: "samus_hf".
        arch: "tiny" or "vit_b".
        weights_sha256: SHA-256 of the weights file that the graphs were exported from.
        created_with: versions of samus_edge, torch, onnx, onnxruntime at export.
        preprocessing: what the image encoder does to a frame.
        prompts: the frame of the decoder's prompts.
        mask_threshold: a pixel belongs to the mask where its logit is greater than this.
        graphs: by name; "image_encoder" and "mask_decoder" are the reference, all others conversions
            of these.
        parity: measured differences between the shipped graphs and the model.
        accuracy: measured accuracy of the shipped graphs, with the data it was measured on.
        licence: SPDX expression of the bundle's licence.
        credits: whose data and weights went into it.
        intended_use: what it is for, in a sentence or two.
        limits: what it is not for and where it is known to fail.
        precisions: by the name of a precision, which graph of `graphs` is its "image_encoder" and
            which its "mask_decoder"; see `GraphSelection`. Left out of the JSON where it is empty: the
            bundle then has the reference graphs alone.
        verification: by the name of a precision, what `samus-edge verify` has measured. Left out of
            the JSON where it is empty.
        format: always "samus-edge-bundle".
        format_version: "major.minor"; a larger major version than ours is refused.
        extra: fields of a later format version, kept as they were read.
    """

    name: str
    model: str
    arch: str
    weights_sha256: str
    created_with: Mapping[str, str]
    preprocessing: Preprocessing
    prompts: PromptFrame
    mask_threshold: float
    graphs: Mapping[str, GraphRecord]
    parity: Mapping[str, JsonValue]
    accuracy: Mapping[str, JsonValue]
    licence: str
    credits: tuple[str, ...]
    intended_use: str
    limits: tuple[str, ...]
    precisions: Mapping[str, GraphSelection] = field(default_factory=dict)
    verification: Mapping[str, JsonValue] = field(default_factory=dict)
    format: str = FORMAT
    format_version: str = FORMAT_VERSION
    extra: Mapping[str, JsonValue] = field(default_factory=dict)

    @staticmethod
    def read(path: Path) -> "Manifest":
        """Read a manifest file.

        Args:
            path: a regular file.

        Raises:
            BundleError: if the file is missing or unreadable, and as `from_bytes`.
        """
        try:
            if path.exists() and not path.is_file():  # a pipe would be waited for
                raise BundleError(
                    f"{path} is not a regular file. Name a folder that `samus-edge export` has made."
                )
            with path.open("rb") as file:
                content = file.read(MAX_MANIFEST_BYTES + 1)
        except OSError as err:
            raise BundleError(
                f"{path} cannot be read ({err.strerror}). "
                "Name a folder that `samus-edge export` has made."
            ) from err
        return Manifest.from_bytes(content, str(path))

    @staticmethod
    def from_bytes(content: bytes, source: str) -> "Manifest":
        """Read a manifest's content.

        Args:
            content: of the file; more than `MAX_MANIFEST_BYTES` of it need not be given.
            source: where it is from, for messages.

        Raises:
            BundleError: if it is too large or no JSON that has one meaning, is not a bundle manifest,
                is of a newer major format version, or has missing or mistyped fields (all of them are
                named).
        """
        if len(content) > MAX_MANIFEST_BYTES:
            raise BundleError(
                f"{source} has more than {MAX_MANIFEST_BYTES} bytes, and no manifest has. "
                "Export the bundle again."
            )
        try:
            value = parse_manifest(content)
        except (ValueError, RecursionError) as err:
            raise BundleError(
                f"{source} is not valid JSON ({err}). Export or copy the bundle again."
            ) from err
        try:
            return Manifest.from_json(value)
        except BundleError as err:
            raise BundleError(f"{source}: {err}") from err

    def write(self, path: Path) -> None:
        """Write the manifest, unknown fields included; a reader never sees half of it.

        Raises:
            OutputFileError: if the file cannot be written.
        """
        text = json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False)
        write_files_atomically({path: text.encode() + b"\n"})

    @staticmethod
    def from_json(value: object) -> "Manifest":
        """Build a manifest from parsed JSON.

        Raises:
            BundleError: as `read`, for what can be wrong with the content.
        """
        problems: list[str] = []
        fields = JsonFields(value, "", problems)
        found_format = fields.text("format")
        format_version = fields.text("format_version")
        # Nothing else can be said about a document that is not ours, or of a version we do not know.
        _raise_all(problems)
        _check_format(found_format, format_version)
        graphs = {
            name: GraphRecord.from_json(graph, f"graphs.{name}", problems)
            for name, graph in fields.mapping("graphs").items()
        }
        precisions = {
            name: GraphSelection.from_json(item, f"precisions.{name}", graphs, problems)
            for name, item in fields.optional_mapping("precisions").items()
        }
        manifest = Manifest(
            name=fields.text("name"),
            model=fields.text("model"),
            arch=fields.text("arch"),
            weights_sha256=fields.text("weights_sha256"),
            created_with=fields.text_mapping("created_with"),
            preprocessing=Preprocessing.from_json(
                fields.value("preprocessing"), "preprocessing", problems
            ),
            prompts=PromptFrame.from_json(fields.value("prompts"), "prompts", problems),
            mask_threshold=fields.number("mask_threshold"),
            graphs=graphs,
            parity=fields.mapping("parity"),
            accuracy=fields.mapping("accuracy"),
            licence=fields.text("licence"),
            credits=fields.texts("credits"),
            intended_use=fields.text("intended_use"),
            limits=fields.texts("limits"),
            precisions=precisions,
            verification=fields.optional_mapping("verification"),
            format=found_format,
            format_version=format_version,
            extra=fields.unknown(),
        )
        _raise_all(problems)
        return manifest

    def to_json(self) -> dict[str, JsonValue]:
        """As a JSON object, unknown fields included."""
        precisions = {name: graphs.to_json() for name, graphs in self.precisions.items()}
        return {
            "format": self.format,
            "format_version": self.format_version,
            "name": self.name,
            "model": self.model,
            "arch": self.arch,
            "weights_sha256": self.weights_sha256,
            "created_with": dict(self.created_with),
            "preprocessing": self.preprocessing.to_json(),
            "prompts": self.prompts.to_json(),
            "mask_threshold": self.mask_threshold,
            "graphs": {name: graph.to_json() for name, graph in self.graphs.items()},
            **({"precisions": precisions} if precisions else {}),
            "parity": dict(self.parity),
            "accuracy": dict(self.accuracy),
            **({"verification": dict(self.verification)} if self.verification else {}),
            "licence": self.licence,
            "credits": list(self.credits),
            "intended_use": self.intended_use,
            "limits": list(self.limits),
            **self.extra,
        }


def _check_format(found_format: str, format_version: str) -> None:
    if found_format != FORMAT:
        raise BundleError(
            f'format is {show_value(found_format)}, expected "{FORMAT}". '
            "Name the folder of a samus-edge bundle."
        )
    match = _FORMAT_VERSION.fullmatch(format_version)
    if match is None:
        raise BundleError(f'format_version must look like "1.0", got {show_value(format_version)}.')
    major = int(match[1])
    if major > _SUPPORTED_MAJOR:
        raise BundleError(
            f"the bundle has format version {format_version}, and samus-edge {__version__} reads up "
            f"to {_SUPPORTED_MAJOR}.x. Upgrade it: pip install --upgrade samus-edge"
        )
    if major < _SUPPORTED_MAJOR:
        raise BundleError(
            f"the bundle has format version {format_version}, and samus-edge {__version__} reads "
            f"{_SUPPORTED_MAJOR}.x. Export the bundle again."
        )


def _raise_all(problems: list[str]) -> None:
    if problems:
        raise BundleError("; ".join(problems) + ". Export the bundle again.")
