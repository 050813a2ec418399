"""Segment one image file and write what was asked for: the work of `samus-edge infer`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from samus_edge.errors import BadArgumentError
from samus_edge.jobs.record import (
    Box,
    Clock,
    MaskRecord,
    Point,
    all_notes,
    computed_by,
    legend_note,
    mask_records,
    prompts_for,
    refuse_warnings,
)
from samus_edge.runtime.backends.backend_selection import check_backend, check_threads
from samus_edge.runtime.bundle.bundle import check_precision
from samus_edge.runtime.bundle.manifest import IMAGE_ENCODER
from samus_edge.runtime.cine.cine_source import CineSource, open_frames
from samus_edge.runtime.dicom.dicom_frames import require_highdicom
from samus_edge.runtime.images.image_io import GreyFrame
from samus_edge.runtime.images.output_files import (
    check_output_paths,
    sha256_of_file,
    write_files_atomically,
)
from samus_edge.runtime.images.overlay import (
    MAX_LABELS,
    OverlayItem,
    calliper_text,
    draw_overlay,
    encode_image,
    mask_image,
)
from samus_edge.runtime.measurement.lesion_measurements import BreastLocation, PixelSpacing
from samus_edge.runtime.notes import Note
from samus_edge.runtime.segmenter import Segmenter

if TYPE_CHECKING:
    from samus_edge.runtime.dicom.dicom_frames import DicomFrames
    from samus_edge.runtime.dicom.dicom_results import LesionFrame

__all__ = [
    "MAX_SEGMENTATION_BYTES",
    "FileSegmentation",
    "SegmentationReport",
    "check_dicom_files",
    "check_dicom_source",
    "dicom_files",
    "lesion_frames",
    "overlay_picture",
    "segment_file",
    "source_notes",
]

MAX_SEGMENTATION_BYTES = 1 << 30
"""Of the pixels of a DICOM segmentation, one bit each, which are in memory while it is written."""


@dataclass(frozen=True)
class FileSegmentation:
    """What to segment, with what, and where results go.

    Boxes without points give one mask for each box. Points without boxes are one prompt: one mask.
    With one box, points correct its mask, one after the other; with several, a point corrects
    that of each box that contains it.

    Attributes:
        image: A PNG, JPEG, BMP, TIFF, WebP or DICOM file.
        boxes: XYXY, pixels of the image.
        points: (x, y, label), pixels of the image; label 1 foreground, 0 background.
        bundle: Folder of a bundle, or a zip file of one; None for the default bundle.
        backend: See `select_backend`.
        precision: See `Segmenter.load`.
        threads: CPU threads; None for all cores, at most 8.
        mask_file: PNG for the masks, see `mask_image`; None for none.
        overlay_file: PNG or JPEG for people, see `draw_overlay`; None for none.
        spacing: Size of a pixel; None takes it from a DICOM file, and else measures in pixels.
        location: Where the lesion is, for JSON and DICOM results; None if it is not said.
        has_callipers: Whether diameters are drawn on the overlay.
        is_strict: Whether a note of level warning is an error; then nothing is written.
        frame: Index of the frame of a DICOM file or the page of a TIFF file, from 0.
        dicom_seg_file: DICOM file for the masks of a DICOM image; None for none.
        dicom_sr_file: DICOM file for their measurements, which refer to that; None for none.
    """

    image: Path
    boxes: Sequence[Box] = ()
    points: Sequence[Point] = ()
    bundle: Path | None = None
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    mask_file: Path | None = None
    overlay_file: Path | None = None
    spacing: PixelSpacing | None = None
    location: BreastLocation | None = None
    has_callipers: bool = False
    is_strict: bool = False
    frame: int = 0
    dicom_seg_file: Path | None = None
    dicom_sr_file: Path | None = None


@dataclass(frozen=True)
class SegmentationReport:
    """The result of segmenting one file.

    Attributes:
        job: What was asked for.
        image_sha256: SHA-256 of the file.
        original_hw: (H, W) of the image, pixels.
        frame: Index of the frame of a DICOM file, from 0; None for an image file.
        masks: One for each prompt, in the order of the prompts.
        timings_ms: Wall time of each step by its name, and "total".
        computed_by: See `computed_by`.
        notes: What a user should know about the file, the prompts and the masks.
    """

    job: FileSegmentation
    image_sha256: str
    original_hw: tuple[int, int]
    frame: int | None
    masks: tuple[MaskRecord, ...]
    timings_ms: Mapping[str, float]
    computed_by: Mapping[str, Any]
    notes: tuple[Note, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As the document that `samus-edge infer --json` prints."""
        height, width = self.original_hw
        job = self.job
        files = {
            "mask_file": job.mask_file,
            "overlay_file": job.overlay_file,
            "dicom_seg_file": job.dicom_seg_file,
            "dicom_sr_file": job.dicom_sr_file,
        }
        return {
            "image": {
                "path": str(job.image),
                "sha256": self.image_sha256,
                "width": width,
                "height": height,
                "frame": self.frame,
            },
            "masks": [mask.to_json() for mask in self.masks],
            "notes": [note.to_json() for note in self.notes],
            "timings_ms": dict(self.timings_ms),
            **self.computed_by,
            **{name: None if path is None else str(path) for name, path in files.items()},
        }

    def lines(self) -> list[str]:
        """As the lines that `samus-edge infer` prints for people."""
        height, width = self.original_hw
        job, computed = self.job, self.computed_by
        frame = "" if self.frame is None else f", frame {self.frame}"
        lines = [f"{job.image}{frame}: {width} x {height} pixels"]
        for index, mask in enumerate(self.masks):
            lines.append(f"  mask {index + 1}: {_describe_mask(mask, width * height)}")
            if mask.measurements is not None and mask.measurements.unit == "mm":
                lines.append(f"    {calliper_text(mask.measurements)}")
            if mask.measurements is not None and mask.measurements.location is not None:
                lines.append(f"    {mask.measurements.location}")
            if mask.prompt.was_clipped:
                lines.append(f"    its box was cut to the image: {_coordinates(mask.prompt.box)}")
        lines += [f"  {note.level}: {note.text}" for note in self.notes]
        values = "0 and 255" if len(self.masks) == 1 else f"labels 1 to {len(self.masks)}"
        for kind, path, remark in (
            ("mask file", job.mask_file, values),
            ("overlay", job.overlay_file, ""),
            ("DICOM segmentation", job.dicom_seg_file, "identifies the patient"),
            ("DICOM report", job.dicom_sr_file, "identifies the patient"),
        ):
            if path is not None:
                lines.append(f"  {kind}: {path}" + (f" ({remark})" if remark else ""))
        times = ", ".join(f"{name} {value:.0f} ms" for name, value in self.timings_ms.items())
        lines.append(
            f"  {computed['bundle']['name']} ({computed['precision']}) on {computed['backend']}, "
            f"{computed['threads']} threads: {times}"
        )
        lines.append("  Not a medical device; `samus-edge info` says what it is for.")
        return lines


def _describe_mask(mask: MaskRecord, image_px: int) -> str:
    if mask.box is None:
        return f"empty, predicted IoU {mask.predicted_iou:.2f}"
    return (
        f"{mask.area_px} px ({100 * mask.area_px / image_px:.1f} %), "
        f"box {_coordinates(mask.box)}, predicted IoU {mask.predicted_iou:.2f}"
    )


def _coordinates(values: Sequence[float] | None) -> str:
    return ",".join(f"{value:g}" for value in values or ())


def segment_file(job: FileSegmentation) -> SegmentationReport:
    """Segment an image file; all that can be checked early is, and outputs come last and at once.

    Raises:
        BadArgumentError: if an argument is wrong, by itself or for this image.
        ImageFileError: if the image cannot be read.
        BundleError: if the bundle is missing, damaged or of a newer format.
        BackendError: if the backend is not available or fails.
        SamusEdgeError: if the result may be wrong, and the job is strict.
        OutputFileError: if a result cannot be written; then none is.
    """
    clock = Clock()
    _check_job(job)
    source = open_frames(job.image)
    image = source.read(job.frame)
    check_dicom_source(source, job.dicom_seg_file, max(1, len(job.boxes)))
    prompts = prompts_for(job.boxes, job.points, source.original_hw)
    clock.lap("read")
    with Segmenter.load(
        job.bundle, backend=job.backend, precision=job.precision, threads=job.threads
    ) as segmenter:
        clock.lap("load")
        embedding = segmenter.encode(image)
        clock.lap("encode")
        prediction = segmenter.predict(
            embedding,
            boxes=prompts.boxes,
            point_coords=prompts.point_coords,
            point_labels=prompts.point_labels,
        )
        clock.lap("decode")
        masks = prediction.masks[:, 0]  # (N, H, W)
        records = mask_records(prediction, prompts, job.boxes, source, job.spacing, job.location)
        notes = all_notes(source, records)
        if source.study is not None and job.dicom_seg_file is not None:
            notes += source_notes(source.study)
        if job.is_strict:
            refuse_warnings(notes)
        outputs: dict[Path, bytes] = {}
        if job.mask_file is not None:
            outputs[job.mask_file] = encode_image(job.mask_file, mask_image(masks))
        if job.overlay_file is not None:
            overlay = overlay_picture(
                segmenter, image, masks, records, has_callipers=job.has_callipers
            )
            outputs[job.overlay_file] = encode_image(job.overlay_file, overlay)
        if source.study is not None and job.dicom_seg_file is not None:
            seg, report = dicom_files(
                segmenter,
                source.study,
                lesion_frames(job.frame, masks, records),
                with_report=job.dicom_sr_file is not None,
            )
            outputs[job.dicom_seg_file] = seg
            if job.dicom_sr_file is not None:
                outputs[job.dicom_sr_file] = report
        write_files_atomically(outputs)
        clock.lap("write")
        return SegmentationReport(
            job=job,
            image_sha256=sha256_of_file(job.image),
            original_hw=source.original_hw,
            frame=job.frame if source.study is not None or len(source) > 1 else None,
            masks=records,
            timings_ms=clock.timings_ms(),
            computed_by=computed_by(segmenter),
            notes=notes,
        )


def _check_job(job: FileSegmentation) -> None:
    """Check all that needs neither the image nor the bundle."""
    if not job.boxes and not job.points:
        raise BadArgumentError(
            "no prompt was given. Give at least one box (--box x1,y1,x2,y2) or one point "
            "(--point x,y)."
        )
    if job.mask_file is not None and len(job.boxes) > MAX_LABELS:
        raise BadArgumentError(
            f"a mask file holds at most {MAX_LABELS} masks, got {len(job.boxes)} boxes. "
            "Give fewer boxes."
        )
    check_backend(job.backend)
    check_precision(job.precision)
    check_threads(job.threads)
    check_output_paths(
        job.image, job.mask_file, job.overlay_file, job.dicom_seg_file, job.dicom_sr_file
    )
    check_dicom_files(job.dicom_seg_file, job.dicom_sr_file)


def check_dicom_files(seg_file: Path | None, sr_file: Path | None) -> None:
    """Refuse DICOM results that could not be written.

    Raises:
        BadArgumentError: if there is a report without a segmentation.
        MissingExtraError: without highdicom.
    """
    if sr_file is not None and seg_file is None:
        raise BadArgumentError(
            "a DICOM report refers to a DICOM segmentation, which is not written. Give a file for "
            "that as well (--dicom-seg)."
        )
    if seg_file is not None:
        require_highdicom()


def check_dicom_source(source: CineSource, seg_file: Path | None, masks: int) -> None:
    """Refuse a DICOM segmentation of what is not DICOM, and of more masks than it can hold.

    Raises:
        BadArgumentError: if it cannot be made.
    """
    if seg_file is None:
        return
    if source.study is None:
        raise BadArgumentError(
            f"a DICOM segmentation refers to a DICOM image, and {source.name} is none. Write masks "
            "as PNG instead."
        )
    height, width = source.study.original_hw
    if masks * height * width > 8 * MAX_SEGMENTATION_BYTES:
        raise BadArgumentError(
            f"a DICOM segmentation holds at most {MAX_SEGMENTATION_BYTES >> 20} MB, and {masks} "
            f"masks of {width} x {height} pixels are more. Take fewer frames."
        )


def lesion_frames(
    frame: int, masks: npt.NDArray[np.bool_], records: Sequence[MaskRecord], comment: str = ""
) -> list["LesionFrame"]:
    """What of a frame goes into DICOM files: the masks, (N, H, W), that are not empty."""
    from samus_edge.runtime.dicom.dicom_results import LesionFrame

    return [
        LesionFrame.of(number, frame, mask, record.measurements, comment)
        for number, (mask, record) in enumerate(zip(masks, records, strict=True))
        if record.measurements is not None
    ]


def source_notes(study: "DicomFrames") -> tuple[Note, ...]:
    """What DICOM results do not repeat of their source as it stands."""
    from samus_edge.runtime.dicom.dicom_source import describe_source

    return describe_source(study).notes


def dicom_files(
    segmenter: Segmenter,
    study: "DicomFrames",
    found: Sequence["LesionFrame"],
    *,
    with_report: bool = False,
) -> tuple[bytes, bytes]:
    """A DICOM segmentation of masks, and a report of their measurements.

    Args:
        segmenter: What computed the masks.
        study: The image that was segmented.
        found: As `lesion_frames` gives them, of one or several frames.
        with_report: Whether there is a report; else its content is empty.

    Raises:
        BadArgumentError: if there is no mask that is not empty, or there are too many.
        MissingExtraError: without highdicom.
    """
    from samus_edge.runtime.dicom.dicom_results import (
        ModelIdentity,
        dicom_bytes,
        report_of,
        segmentation_of,
    )

    if not found:
        raise BadArgumentError(
            "every mask is empty: there is no DICOM segmentation to write. Give another prompt."
        )
    model = ModelIdentity(
        segmenter.bundle.manifest.name, segmenter.graph_hashes[IMAGE_ENCODER], segmenter.precision
    )
    segmentation = segmentation_of(study, found, model)
    report = b""
    if with_report:
        report = dicom_bytes(report_of(study, found, segmentation, model))
    return dicom_bytes(segmentation), report


def overlay_picture(
    segmenter: Segmenter,
    image: GreyFrame,
    masks: npt.NDArray[np.bool_],
    records: Sequence[MaskRecord],
    *,
    has_callipers: bool,
) -> npt.NDArray[np.uint8]:
    """Masks, (N, H, W), and their prompts drawn on an image, (H, W); see `draw_overlay`."""
    items = [
        OverlayItem(
            mask=mask,
            caption=_caption(record),
            box=record.prompt.box,
            points=record.prompt.points,
            measurements=record.measurements if has_callipers else None,
        )
        for mask, record in zip(masks, records, strict=True)
    ]
    return draw_overlay(image, items, [legend_note(segmenter)])


def _caption(record: MaskRecord) -> str:
    text = f"{record.area_px} px, predicted IoU {record.predicted_iou:.2f}"
    found = record.measurements
    return text if found is None or found.location is None else f"{text}, {found.location}"
