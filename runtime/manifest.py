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

from samus_edge import __version__
from samus_edge.errors import BundleError
from samus_edge.runtime.atomic_write import write_files_atomically
from samus_edge.runtime.graph_record import GraphRecord, TensorSpec
from samus_edge.runtime.graph_selection import GraphSelection
from samus_edge.runtime.input_contract import Preprocessing, PromptFrame
from samus_edge.runtime.json_fields import JsonFields, JsonValue, show_value
from samus_edge.runtime.manifest_text import MAX_MANIFEST_BYTES, parse_manifest

__all__ = [
    "FORMAT",
    "FORMAT_VERSION",
    "MANIFEST_FILE",
    "GraphRecord",
    "GraphSelection",
    "Manifest",
    "Preprocessing",
    "PromptFrame",
    "TensorSpec",
]

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
