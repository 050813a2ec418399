"""Segment one image file and write what was asked for: the work of `samus-edge infer`."""

import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge import __version__
from samus_edge.runtime.atomic_write import write_files_atomically
from samus_edge.runtime.backend_selection import check_backend, check_threads
from samus_edge.runtime.click_correction import predict_with_clicks
from samus_edge.runtime.dicom.require_pydicom import require_highdicom
from samus_edge.runtime.file_hash import sha256_of_file
from samus_edge.runtime.graph_contract import IMAGE_ENCODER
from samus_edge.runtime.image_encoding import encode_image
from samus_edge.runtime.image_source import SourceImage, open_image
from samus_edge.runtime.mask_box import box_around
from samus_edge.runtime.mask_image import MAX_LABELS, mask_image
from samus_edge.runtime.measurement.lesion_measurements import measure_mask
from samus_edge.runtime.measurement.pixel_spacing import PixelSpacing
from samus_edge.runtime.output_paths import check_output_paths
from samus_edge.runtime.overlay import OverlayItem, draw_overlay
from samus_edge.runtime.point_assignment import assign_points_to_boxes
from samus_edge.runtime.precision import check_precision
from samus_edge.runtime.prediction import Embedding, Prediction
from samus_edge.runtime.prompts import PADDING_LABEL, Prompts, check_prompts
from samus_edge.runtime.segmentation_report import MaskReport, PromptReport, SegmentationReport
from samus_edge.runtime.segmenter import Segmenter

__all__ = ["Box", "FileSegmentation", "Point", "segment_file"]

Box: TypeAlias = tuple[float, float, float, float]
Point: TypeAlias = tuple[float, float, int]


@dataclass(frozen=True)
class FileSegmentation:
    """What to segment, with what, and where results go.

    Boxes without points give one mask for each box. Points without boxes are one prompt: one mask.
    With one box, points correct its mask, one after the other (`predict_with_clicks`); with several, a point refines each box
    that contains it.

    Attributes:
        image: a PNG, JPEG, BMP, TIFF or DICOM file; see `open_image`.
        boxes: XYXY, pixels of the image.
        points: (x, y, label), pixels of the image; label 1 foreground, 0 background.
        bundle: folder of a bundle, or a zip file of one; None for the default bundle.
        backend: see `select_backend`.
        precision: see `Segmenter.load`.
        threads: CPU threads; None for all cores, at most 8.
        mask_file: PNG for the masks, see `mask_image`; None for none.
        overlay_file: PNG or JPEG for people, see `draw_overlay`; None for none.
        spacing: size of a pixel; None takes it from a DICOM file, and else measures in pixels.
        has_callipers: whether diameters are drawn on the overlay.
        frame: index of the frame of a DICOM file, from 0.
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
    has_callipers: bool = False
    frame: int = 0
    dicom_seg_file: Path | None = None
    dicom_sr_file: Path | None = None


def segment_file(job: FileSegmentation) -> SegmentationReport:
    """Segment an image file; all that can be checked early is, and outputs come last and at once.

    Raises:
        ValueError: if an argument is wrong, by itself or for this image.
        ImageFileError: if the image cannot be read.
        BundleError: if the bundle is missing, damaged or of a newer format.
        BackendError: if the backend is not available or fails.
        OutputFileError: if a result cannot be written; then none is.
    """
    clock = _Clock()
    _check_job(job)
    source = open_image(job.image, job.frame)
    image = source.image
    _check_dicom_outputs(job, source)
    original_hw = (image.shape[0], image.shape[1])
    prompts = _prompts_for(job, original_hw)
    clock.lap("read")
    with Segmenter.load(
        job.bundle, backend=job.backend, precision=job.precision, threads=job.threads
    ) as segmenter:
        clock.lap("load")
        embedding = segmenter.encode(image)
        clock.lap("encode")
        prediction = _predict(job, segmenter, embedding, prompts)
        clock.lap("decode")
        masks = prediction.masks[:, 0]  # (N, H, W)
        reports = _mask_reports(job, source, prompts, prediction)
        outputs: dict[Path, bytes] = {}
        if job.mask_file is not None:
            outputs[job.mask_file] = encode_image(job.mask_file, mask_image(masks))
        if job.overlay_file is not None:
            overlay = draw_overlay(image, _overlay_items(job, masks, reports), _notes(segmenter))
            outputs[job.overlay_file] = encode_image(job.overlay_file, overlay)
        outputs |= _dicom_outputs(job, source, masks, reports, segmenter)
        write_files_atomically(outputs)
        clock.lap("write")
        return SegmentationReport(
            image=job.image,
            image_sha256=sha256_of_file(job.image),
            original_hw=original_hw,
            masks=reports,
            timings_ms=clock.timings_ms(),
            backend=segmenter.backend.name,
            device=segmenter.backend.device,
            threads=segmenter.backend.threads,
            precision=segmenter.precision,
            bundle=segmenter.bundle,
            versions={
                "samus_edge": __version__,
                "python": platform.python_version(),
                "numpy": np.__version__,
                "opencv": cv2.__version__,
                segmenter.backend.name: segmenter.backend.version,
            },
            mask_file=job.mask_file,
            overlay_file=job.overlay_file,
            frame=None if source.study is None else source.frame,
            dicom_seg_file=job.dicom_seg_file,
            dicom_sr_file=job.dicom_sr_file,
        )


def _predict(
    job: FileSegmentation, segmenter: Segmenter, embedding: Embedding, prompts: Prompts
) -> Prediction:
    if len(job.boxes) == 1 and job.points:
        return predict_with_clicks(
            segmenter,
            embedding,
            box=job.boxes[0],
            point_coords=[point[:2] for point in job.points],
            point_labels=[point[2] for point in job.points],
        )
    return segmenter.predict(
        embedding,
        boxes=prompts.boxes,
        point_coords=prompts.point_coords,
        point_labels=prompts.point_labels,
    )


class _Clock:
    """Wall time of steps that follow one another, milliseconds."""

    def __init__(self) -> None:
        self._start = self._last = time.perf_counter()
        self._laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self._laps[name] = 1000 * (now - self._last)
        self._last = now

    def timings_ms(self) -> dict[str, float]:
        return {**self._laps, "total": 1000 * (time.perf_counter() - self._start)}


def _check_job(job: FileSegmentation) -> None:
    """Check all that needs neither the image nor the bundle."""
    if not job.boxes and not job.points:
        raise ValueError(
            "no prompt was given. Give at least one box (--box x1,y1,x2,y2) or one point "
            "(--point x,y)."
        )
    if job.mask_file is not None and len(job.boxes) > MAX_LABELS:
        raise ValueError(
            f"a mask file holds at most {MAX_LABELS} masks, got {len(job.boxes)} boxes. "
            "Give fewer boxes."
        )
    check_backend(job.backend)
    check_precision(job.precision)
    check_threads(job.threads)
    check_output_paths(
        job.image, job.mask_file, job.overlay_file, job.dicom_seg_file, job.dicom_sr_file
    )
    if job.dicom_sr_file is not None and job.dicom_seg_file is None:
        raise ValueError(
            "a DICOM report refers to a DICOM segmentation, which is not written. Give a file for that as "
            "well (--dicom-seg)."
        )
    if job.dicom_seg_file is not None:
        require_highdicom()


def _check_dicom_outputs(job: FileSegmentation, source: SourceImage) -> None:
    if source.study is None and job.dicom_seg_file is not None:
        raise ValueError(
            f"a DICOM segmentation refers to a DICOM image, and {job.image} is none. Write a mask "
            "instead (--out)."
        )


def _dicom_outputs(
    job: FileSegmentation,
    source: SourceImage,
    masks: npt.NDArray[np.bool_],
    reports: Sequence[MaskReport],
    segmenter: Segmenter,
) -> dict[Path, bytes]:
    """The DICOM files, of masks that are not empty."""
    if source.study is None or job.dicom_seg_file is None:
        return {}
    from samus_edge.runtime.dicom.dicom_report import report_of
    from samus_edge.runtime.dicom.dicom_segmentation import (
        ModelIdentity,
        dicom_bytes,
        segmentation_of,
    )

    measured = [report.measurements for report in reports if report.measurements is not None]
    if not measured:
        raise ValueError("all masks are empty: there is no DICOM segmentation to write.")
    model = ModelIdentity(
        segmenter.bundle.manifest.name, segmenter.graph_hashes[IMAGE_ENCODER], segmenter.precision
    )
    filled = masks[[report.measurements is not None for report in reports]]
    segmentation = segmentation_of(source.study, source.frame, filled, model)
    outputs = {job.dicom_seg_file: dicom_bytes(segmentation)}
    if job.dicom_sr_file is not None:
        report = report_of(source.study, source.frame, segmentation, measured, model)
        outputs[job.dicom_sr_file] = dicom_bytes(report)
    return outputs


def _prompts_for(job: FileSegmentation, original_hw: tuple[int, int]) -> Prompts:
    """Bring boxes and points into the rows that a segmenter takes, and check them."""
    boxes = np.array(job.boxes, np.float64).reshape(-1, 4) if job.boxes else None  # (N, 4)
    if not job.points:
        return check_prompts(original_hw, boxes=boxes)
    coords = np.array([point[:2] for point in job.points], np.float64)  # (P, 2)
    labels = np.array([point[2] for point in job.points], np.int32)  # (P,)
    # First on their own: a point outside the image is that, before it is outside a box.
    checked = check_prompts(original_hw, point_coords=coords, point_labels=labels)
    if boxes is None:
        return checked
    check_prompts(original_hw, boxes=boxes)
    row_coords, row_labels = assign_points_to_boxes(boxes, coords, labels)
    return check_prompts(original_hw, boxes=boxes, point_coords=row_coords, point_labels=row_labels)


def _mask_reports(
    job: FileSegmentation, source: SourceImage, prompts: Prompts, prediction: Prediction
) -> tuple[MaskReport, ...]:
    reports = []
    for index, mask in enumerate(prediction.masks[:, 0]):
        box = box_around(mask)
        spacing = job.spacing if job.spacing is not None or box is None else source.spacing_in(box)
        reports.append(
            MaskReport(
                area_px=int(np.count_nonzero(mask)),
                box=box,
                predicted_iou=round(float(prediction.iou_predictions[index, 0]), 6),
                prompt=_prompt_report(job, prompts, index),
                measurements=measure_mask(mask, spacing),
            )
        )
    return tuple(reports)


def _prompt_report(job: FileSegmentation, prompts: Prompts, index: int) -> PromptReport:
    points = tuple(
        (_reported(x), _reported(y), int(label))
        for (x, y), label in zip(
            prompts.point_coords[index], prompts.point_labels[index], strict=True
        )
        if label != PADDING_LABEL
    )
    if prompts.boxes is None:
        return PromptReport(box=None, points=points)
    x1, y1, x2, y2 = (_reported(value) for value in prompts.boxes[index])
    height, width = prompts.original_hw
    given = job.boxes[index]
    was_clipped = min(given) < -0.5 or given[2] > width - 0.5 or given[3] > height - 0.5
    return PromptReport(box=(x1, y1, x2, y2), points=points, was_clipped=was_clipped)


def _reported(coordinate: np.float32) -> float:
    """As the user wrote it, without the digits that float32 adds: 70.4, not 70.4000015."""
    return round(float(coordinate), 3)


def _overlay_items(
    job: FileSegmentation, masks: npt.NDArray[np.bool_], reports: tuple[MaskReport, ...]
) -> list[OverlayItem]:
    return [
        OverlayItem(
            mask=mask,
            caption=f"{report.area_px} px, predicted IoU {report.predicted_iou:.2f}",
            box=report.prompt.box,
            points=report.prompt.points,
            measurements=report.measurements if job.has_callipers else None,
        )
        for mask, report in zip(masks, reports, strict=True)
    ]


def _notes(segmenter: Segmenter) -> list[str]:
    name = segmenter.bundle.manifest.name
    return [f"samus-edge {__version__}, {name} ({segmenter.precision}). Not a medical device."]
