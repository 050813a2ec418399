"""The identity of one file of a bundle, as the manifest lists it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from samus_edge.runtime.json_fields import JsonFields, JsonValue

__all__ = ["FileRecord", "read_sha256"]

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
