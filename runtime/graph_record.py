"""One ONNX file of a bundle: its identity, its precision, what it takes and gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from samus_edge.runtime.file_record import FileRecord, read_sha256
from samus_edge.runtime.json_fields import JsonFields, JsonValue, show_value

__all__ = ["Dimension", "GraphRecord", "TensorSpec"]

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
