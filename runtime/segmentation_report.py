"""What `samus-edge infer` reports: masks, timings, and all that makes a result traceable."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from samus_edge.runtime.bundle import Bundle
from samus_edge.runtime.json_fields import JsonValue
from samus_edge.runtime.measurement.callipers import calliper_text
from samus_edge.runtime.measurement.lesion_measurements import LesionMeasurements

__all__ = ["MaskReport", "PromptReport", "SegmentationReport"]


@dataclass(frozen=True)
class PromptReport:
    """One prompt as it was used.

    Attributes:
        box: XYXY, pixels of the image, clipped to it; None without a box.
        points: (x, y, label), pixels of the image; label 1 foreground, 0 background.
        was_clipped: whether a part of the box outside the image was cut off.
    """

    box: tuple[float, float, float, float] | None
    points: tuple[tuple[float, float, int], ...] = ()
    was_clipped: bool = False

    def to_json(self) -> dict[str, JsonValue]:
        """As a JSON object."""
        return {
            "box": None if self.box is None else list(self.box),
            "points": [list(point) for point in self.points],
            "was_clipped": self.was_clipped,
        }


@dataclass(frozen=True)
class MaskReport:
    """One mask.

    Attributes:
        area_px: pixels inside.
        box: the smallest box around it, XYXY, pixel centres, both ends inside; None if empty.
        predicted_iou: the model's estimate of the mask's IoU; not clipped, may leave [0, 1].
        prompt: what it was prompted by.
        measurements: of its largest component; None if empty.
    """

    area_px: int
    box: tuple[int, int, int, int] | None
    predicted_iou: float
    prompt: PromptReport
    measurements: LesionMeasurements | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """As a JSON object."""
        return {
            "area_px": self.area_px,
            "box": None if self.box is None else list(self.box),
            "predicted_iou": self.predicted_iou,
            "prompt": self.prompt.to_json(),
            "measurements": None if self.measurements is None else self.measurements.to_json(),
        }


@dataclass(frozen=True)
class SegmentationReport:
    """The result of segmenting one file.

    Attributes:
        image: path as it was given.
        image_sha256: of the file.
        original_hw: (H, W) of the image, pixels.
        masks: one for each prompt, in the order of the prompts.
        timings_ms: wall time of each step by its name, and "total".
        backend: name of the backend.
        device: what computed.
        threads: CPU threads that computed one graph.
        precision: of the image encoder.
        bundle: that computed.
        versions: of what took part, by name.
        mask_file: where the mask was written; None if nowhere.
        overlay_file: where the overlay was written; None if nowhere.
        frame: index of the frame of a DICOM file, from 0; None for an image file.
        dicom_seg_file: where the DICOM segmentation was written; None if nowhere.
        dicom_sr_file: where the DICOM report was written; None if nowhere.
    """

    image: Path
    image_sha256: str
    original_hw: tuple[int, int]
    masks: tuple[MaskReport, ...]
    timings_ms: Mapping[str, float]
    backend: str
    device: str
    threads: int
    precision: str
    bundle: Bundle
    versions: Mapping[str, str] = field(default_factory=dict)
    mask_file: Path | None = None
    overlay_file: Path | None = None
    frame: int | None = None
    dicom_seg_file: Path | None = None
    dicom_sr_file: Path | None = None

    def to_json(self) -> dict[str, JsonValue]:
        """As the document that `samus-edge infer --json` prints."""
        height, width = self.original_hw
        manifest = self.bundle.manifest
        return {
            "image": {
                "path": str(self.image),
                "sha256": self.image_sha256,
                "width": width,
                "height": height,
                "frame": self.frame,
            },
            "masks": [mask.to_json() for mask in self.masks],
            "timings_ms": {name: round(value, 3) for name, value in self.timings_ms.items()},
            "backend": self.backend,
            "device": self.device,
            "threads": self.threads,
            "precision": self.precision,
            "bundle": {
                "name": manifest.name,
                "path": str(self.bundle.path),
                "format_version": manifest.format_version,
                "model": manifest.model,
                "arch": manifest.arch,
                "weights_sha256": manifest.weights_sha256,
                "graphs": {name: graph.sha256 for name, graph in manifest.graphs.items()},
            },
            "versions": dict(self.versions),
            "mask_file": None if self.mask_file is None else str(self.mask_file),
            "overlay_file": None if self.overlay_file is None else str(self.overlay_file),
            "dicom_seg_file": None if self.dicom_seg_file is None else str(self.dicom_seg_file),
            "dicom_sr_file": None if self.dicom_sr_file is None else str(self.dicom_sr_file),
        }

    def lines(self) -> list[str]:
        """As the lines that `samus-edge infer` prints for people."""
        height, width = self.original_hw
        frame = "" if self.frame is None else f", frame {self.frame}"
        lines = [f"{self.image}{frame}: {width} x {height} pixels"]
        for index, mask in enumerate(self.masks):
            lines.append(f"  mask {index + 1}: {_describe_mask(mask, width * height)}")
            if mask.measurements is not None and mask.measurements.unit == "mm":
                lines.append(f"    {calliper_text(mask.measurements)}")
            if mask.prompt.was_clipped:
                lines.append(f"    its box was cut to the image: {_coordinates(mask.prompt.box)}")
        if self.mask_file is not None:
            values = "0 and 255" if len(self.masks) == 1 else f"labels 1 to {len(self.masks)}"
            lines.append(f"  mask file: {self.mask_file} ({values})")
        if self.overlay_file is not None:
            lines.append(f"  overlay: {self.overlay_file}")
        if self.dicom_seg_file is not None:
            lines.append(f"  DICOM segmentation: {self.dicom_seg_file} (identifies the patient)")
        if self.dicom_sr_file is not None:
            lines.append(f"  DICOM report: {self.dicom_sr_file} (identifies the patient)")
        times = ", ".join(f"{name} {value:.0f} ms" for name, value in self.timings_ms.items())
        lines.append(
            f"  {self.bundle.manifest.name} ({self.precision}) on {self.backend}, "
            f"{self.threads} threads: {times}"
        )
        lines.append("  Not a medical device; `samus-edge info` says what it is for.")
        return lines


def _describe_mask(mask: MaskReport, image_px: int) -> str:
    if mask.box is None:
        return f"empty, predicted IoU {mask.predicted_iou:.2f}"
    return (
        f"{mask.area_px} px ({100 * mask.area_px / image_px:.1f} %), "
        f"box {_coordinates(mask.box)}, predicted IoU {mask.predicted_iou:.2f}"
    )


def _coordinates(values: tuple[float, ...] | None) -> str:
    return ",".join(f"{value:g}" for value in values or ())
