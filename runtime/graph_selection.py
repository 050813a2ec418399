"""Which graphs of a bundle make up one precision."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from samus_edge.runtime.graph_contract import IMAGE_ENCODER, MASK_DECODER
from samus_edge.runtime.json_fields import JsonFields, JsonValue, show_value

__all__ = ["GraphSelection"]


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
