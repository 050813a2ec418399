"""What goes in and out, as the OpenAPI document says."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from samus_edge.runtime.cine.cine_source import FileKind

__all__ = [
    "BoundedBox",
    "Example",
    "ImageInfo",
    "LesionPlace",
    "LesionPrompt",
    "LiveCommand",
    "Login",
    "MaskFile",
    "MaskRequest",
    "MaskResult",
    "Masks",
    "PointPrompt",
    "Proposal",
    "ProposalRequest",
    "Proposals",
    "ServiceInfo",
    "TrackFile",
    "TrackRequest",
]

# Strict: true is no number, nor is "1".
Coordinate = Annotated[float, Field(strict=True, ge=-1e6, le=1e6, allow_inf_nan=False)]
BoundedBox = Annotated[list[Coordinate], Field(min_length=4, max_length=4)]
Millimetres = Annotated[float, Field(strict=True, gt=0, le=1000, allow_inf_nan=False)]
PlaceMillimetres = Annotated[float, Field(strict=True, ge=0, le=500, allow_inf_nan=False)]


TrackFile = Literal[
    "result.json", "frames.csv", "masks.npz", "segmentation.dcm", "report.dcm", "overlay.mp4"
]
"""What a followed lesion is saved as."""

MaskFile = Literal[
    "mask.png",
    "overlay.png",
    "masks.npz",
    "measurements.csv",
    "coco.json",
    "segmentation.dcm",
    "report.dcm",
]
"""What the masks of an image are saved as."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Login(_Strict):
    """The token of the service."""

    token: Annotated[str, Field(max_length=1000)]


class PointPrompt(_Strict):
    """A click."""

    x: Coordinate
    y: Coordinate
    label: Literal[0, 1] = 1
    """1 on the lesion, 0 beside it."""


class LesionPlace(_Strict):
    """Where in the breast the lesion is, as the examiner says; at least one of them."""

    side: Literal["left", "right"] | None = None
    clock: Annotated[int, Field(strict=True, ge=1, le=12)] | None = None
    """Hour of the clock face."""
    nipple_mm: PlaceMillimetres | None = None
    """Distance from the nipple."""
    depth_mm: PlaceMillimetres | None = None
    """Distance from the skin."""


class LesionPrompt(_Strict):
    """A box, points, or a box and points that correct it, in the order in which they were clicked:
    one mask."""

    box: BoundedBox | None = None
    """XYXY, pixels of the frame."""
    points: Annotated[list[PointPrompt], Field(max_length=64)] = []
    location: LesionPlace | None = None
    """Comes back in the measurements, and goes into DICOM results."""
    name: Annotated[str, Field(max_length=64)] = ""
    """Comes back with the mask, and goes into tables; nothing of a patient, please."""
    alternative: Annotated[int, Field(strict=True, ge=1, le=3)] | None = None
    """Which of the three masks of an ambiguous prompt; without it the single mask."""


class MaskRequest(LesionPrompt):
    """One prompt, several boxes, or several prompts of a frame."""

    frame: Annotated[int, Field(strict=True, ge=0, le=10_000_000)] = 0
    boxes: Annotated[list[BoundedBox], Field(max_length=64)] = []
    """One mask for each."""
    lesions: Annotated[list[LesionPrompt], Field(max_length=64)] = []
    """One mask for each."""
    pixel_mm: Millimetres | None = None
    """Size of a pixel; without it as a DICOM file says."""
    file_name: Annotated[str, Field(max_length=255)] = ""
    """What tables and COCO call the image."""
    rle: Annotated[bool, Field(strict=True)] = False
    """Whether masks come as run lengths as well: every pixel, where contours are simplified."""
    strict: Annotated[bool, Field(strict=True)] = False
    """Whether a note of level warning is an error (422)."""

    @model_validator(mode="after")
    def _check(self) -> "MaskRequest":
        own = self.box or self.points or self.location or self.name or self.alternative
        if bool(own) + bool(self.boxes) + bool(self.lesions) > 1:
            raise ValueError(
                "give one prompt (box, points), or boxes, or lesions with prompts of their own"
            )
        return self

    @property
    def prompts(self) -> list[LesionPrompt]:
        """One for each mask."""
        return self.lesions or [LesionPrompt(box=box) for box in self.boxes] or [self]


class ProposalRequest(_Strict):
    """A frame to look for lesions in."""

    frame: Annotated[int, Field(strict=True, ge=0, le=10_000_000)] = 0
    max_lesions: Annotated[int, Field(strict=True, ge=1, le=3)] = 1


class TrackRequest(_Strict):
    """A lesion to follow."""

    frame: Annotated[int, Field(strict=True, ge=0, le=10_000_000)] = 0
    box: BoundedBox
    max_frames: Annotated[int, Field(strict=True, ge=1, le=100_000)] | None = None
    pixel_mm: Millimetres | None = None


class LiveCommand(BaseModel):
    """A text message of a live connection; at least one of them."""

    model_config = ConfigDict(strict=True)
    mark: BoundedBox | None = None
    """A lesion to follow from the next frame on, XYXY in pixels."""
    unmark: bool = False
    """Whether to follow none."""
    pixel_mm: Millimetres | None = None
    """Size of a pixel from now on."""


class ImageInfo(BaseModel):
    """An image that is kept."""

    id: str
    kind: FileKind
    width: int
    height: int
    frames: int
    frames_per_second: float | None
    file_bytes: int
    file_sha256: str | None
    """None for an example."""
    dicom: dict[str, str] | None
    """UIDs of a study, series and instance; nothing of the patient."""
    has_pixel_size: bool
    """Whether the file says how large a pixel is, at least in a part of it."""
    spacings: list[dict[str, Any]]
    """Where the file says how large a pixel is: `box`, XYXY, and its `row`, `column`, `unit`."""
    notes: list[dict[str, Any]]
    """What a user should know of the file, and of DICOM results of it."""
    box: list[float] | None = None
    """Of an example: a box to begin with."""


class MaskResult(BaseModel):
    """A mask, as `samus-edge infer --json` gives it, and its contours."""

    name: str
    contours: list[list[list[float]]]
    """Polygons, x and y in pixels of the frame; holes are polygons as well (even-odd rule)."""
    rle: dict[str, Any] | None
    """COCO's compressed run lengths: `size`, [H, W], and `counts`; null unless asked for."""
    area_px: int
    box: list[float] | None
    predicted_iou: float
    quality: dict[str, Any] | None
    """Calibrated probability that the mask is good, what follows from it, and intervals of its
    sizes; null where the bundle has no calibration."""
    prompt: dict[str, Any]
    """The prompt as it was used, cut to the image."""
    spacing: dict[str, Any] | None
    """The size of a pixel and where it is from; null where sizes are in pixels."""
    measurements: dict[str, Any] | None


class Masks(BaseModel):
    """The answer to a prompt; what computed it is named as by `samus-edge infer --json`."""

    frame: int
    mask: MaskResult | None
    """Of a request with one prompt of its own; else null."""
    masks: list[MaskResult]
    """Of a request with `boxes` or `lesions`, in their order; else empty."""
    notes: list[dict[str, Any]]
    """What a user should know, each with a stable code."""
    timings_ms: dict[str, float]
    backend: str
    device: str
    threads: int
    precision: str
    graphs: dict[str, str]
    bundle: dict[str, Any]
    versions: dict[str, str]
    trace: dict[str, Any]
    """The same with the bundle's name alone, and the request."""


class Proposal(BaseModel):
    """Where a lesion may be: a person has to look."""

    point: list[float]
    """x and y; as a click on the lesion it gives the mask that was meant."""
    box: list[float]
    score: float
    """The model's probability that there is a lesion."""


class Proposals(BaseModel):
    """What the model suggests without a prompt, best first; there may be none."""

    frame: int
    proposals: list[Proposal]
    notes: list[dict[str, Any]]


class Example(BaseModel):
    """An image that is installed along."""

    name: str
    width: int
    height: int


class ServiceInfo(BaseModel):
    """What the service is and what it allows."""

    version: str
    trace: dict[str, Any]
    limits: dict[str, float]
    can_propose: bool
    """Whether the bundle suggests lesions without a prompt."""
    notice: str
