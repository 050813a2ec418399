"""What a bundle's graphs do to a frame, and the frame in which they take prompts."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from samus_edge.runtime.json_fields import JsonFields, JsonValue

__all__ = ["Preprocessing", "PromptFrame"]


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
