"""The work behind the routes; synchronous, called in threads."""

import platform
import time
from collections.abc import Iterator
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge import __version__
from samus_edge.runtime.bundle.manifest import IMAGE_ENCODER
from samus_edge.runtime.cine.lesion_tracker import Box, LesionTracker, TrackedFrame
from samus_edge.runtime.images.overlay import OverlayItem, draw_overlay
from samus_edge.runtime.measurement.lesion_measurements import (
    PixelSpacing,
    box_around,
    measure_lesion,
)
from samus_edge.runtime.segmenter import Segmenter, predict_with_clicks
from samus_edge.server.problem import Problem
from samus_edge.server.schemas import MaskRequest, MaskResult, Masks, TrackRequest
from samus_edge.server.session import Session

__all__ = ["SegmentationService", "contours_of", "png_of"]

_CONTOUR_TOLERANCE_PX = 0.4


class SegmentationService:
    """Masks for sessions.

    Args:
        segmenter: shared by all; stays open.
        max_frames: of a cine, tracked in one request.
    """

    def __init__(self, segmenter: Segmenter, max_frames: int) -> None:
        self._segmenter, self._max_frames = segmenter, max_frames
        backend, manifest = segmenter.backend, segmenter.bundle.manifest
        self.trace: dict[str, Any] = {
            "bundle": manifest.name,
            "graphs": dict(segmenter.graph_hashes),
            "precision": segmenter.precision,
            "backend": backend.name,
            "device": backend.device,
            "versions": {
                "samus_edge": __version__,
                "python": platform.python_version(),
                backend.name: backend.version,
            },
        }

    @property
    def segmenter(self) -> Segmenter:
        """What computes."""
        return self._segmenter

    def masks(self, session: Session, request: MaskRequest) -> Masks:
        """Answer a prompt.

        Raises:
            Problem: if there is no such frame, or no prompt.
            ValueError: if the prompt does not fit the frame.
        """
        mask, iou, timings = self._predict(session, request)
        begun = time.perf_counter()
        result = _mask_result(session, mask, iou, request.pixel_mm)
        timings["measure"] = 1000 * (time.perf_counter() - begun)
        return Masks(
            frame=request.frame,
            mask=result,
            timings_ms={name: round(value, 3) for name, value in timings.items()},
            trace={**self.trace, "prompt": request.model_dump(mode="json")},
        )

    def mask_png(self, session: Session, request: MaskRequest) -> bytes:
        """The mask as a PNG file, 0 and 255."""
        mask, _, _ = self._predict(session, request)
        return png_of(mask.astype(np.uint8) * 255)

    def overlay_png(self, session: Session, request: MaskRequest) -> bytes:
        """The picture for people as a PNG file."""
        mask, iou, _ = self._predict(session, request)
        measured = measure_lesion(mask, _spacing(session, mask, request.pixel_mm))
        points = [(point.x, point.y, int(point.label)) for point in request.points]
        item = OverlayItem(mask, f"predicted IoU {iou:.2f}", _box(request.box), points, measured)
        name = self._segmenter.bundle.manifest.name
        notes = [f"samus-edge {__version__}, {name}. Not a medical device."]
        picture = draw_overlay(session.frame(request.frame), [item], notes)
        return png_of(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))

    def dicom_seg(self, session: Session, request: MaskRequest) -> bytes:
        """The mask as a DICOM segmentation.

        Raises:
            Problem: if the image is not DICOM, or the mask is empty.
            MissingExtraError: without highdicom.
        """
        study = session.image.study
        if study is None:
            raise Problem(
                422,
                "a DICOM segmentation refers to a DICOM image, and this is none. Ask for a PNG.",
            )
        mask, _, _ = self._predict(session, request)
        if not mask.any():
            raise Problem(422, "the mask is empty: there is nothing to write.")
        from samus_edge.runtime.dicom.dicom_results import (
            ModelIdentity,
            dicom_bytes,
            segmentation_of,
        )

        segmenter = self._segmenter
        model = ModelIdentity(
            segmenter.bundle.manifest.name,
            segmenter.graph_hashes[IMAGE_ENCODER],
            segmenter.precision,
        )
        return dicom_bytes(segmentation_of(study, request.frame, mask[None], model))

    def track(self, session: Session, request: TrackRequest) -> Iterator[dict[str, Any]]:
        """Follow a lesion, a document for each frame.

        Raises:
            Problem, ValueError: as `masks`, before the first.
        """
        tracker = LesionTracker(self._segmenter)
        box = _box(request.box)
        assert box is not None
        count = len(session.image) - request.frame
        most = min(count, self._max_frames, request.max_frames or count)
        first = tracker.start(session.frame(request.frame), box)

        def documents() -> Iterator[dict[str, Any]]:
            yield _tracked(session, request.frame, first, request.pixel_mm)
            for index in range(request.frame + 1, request.frame + most):
                begun = time.perf_counter()
                found = tracker.update(session.frame(index))
                document = _tracked(session, index, found, request.pixel_mm)
                document["latency_ms"] = round(1000 * (time.perf_counter() - begun), 2)
                yield document

        return documents()

    def _predict(
        self, session: Session, request: MaskRequest
    ) -> tuple[npt.NDArray[np.bool_], float, dict[str, float]]:
        if request.box is None and not request.points:
            raise Problem(422, "there is no prompt. Give a box, points, or both.")
        begun = time.perf_counter()
        embedding, was_there = session.embedding(self._segmenter, request.frame)
        encoded = time.perf_counter()
        points = [[point.x, point.y] for point in request.points]
        labels = [int(point.label) for point in request.points]
        prediction = predict_with_clicks(
            self._segmenter,
            embedding,
            box=request.box,
            point_coords=points,
            point_labels=labels,
        )
        timings = {
            "encode": 0.0 if was_there else 1000 * (encoded - begun),
            "decode": 1000 * (time.perf_counter() - encoded),
        }
        return prediction.masks[0, 0], float(prediction.iou_predictions[0, 0]), timings


def contours_of(mask: npt.NDArray[np.bool_]) -> list[list[list[float]]]:
    """The outlines of a mask and of its holes, x and y in pixels, simplified by less than half a
    pixel."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    polygons = []
    for contour in contours:
        simple = cv2.approxPolyDP(contour, _CONTOUR_TOLERANCE_PX, True).reshape(-1, 2)
        polygons.append([[float(x), float(y)] for x, y in simple])
    return polygons


def png_of(image: npt.NDArray[Any]) -> bytes:
    """A PNG file; colour is BGR."""
    _, content = cv2.imencode(".png", image)
    return bytes(content)


def _tracked(
    session: Session, index: int, found: TrackedFrame, pixel_mm: float | None
) -> dict[str, Any]:
    result = None
    if found.mask is not None and found.predicted_iou is not None:
        result = _mask_result(session, found.mask, found.predicted_iou, pixel_mm).model_dump()
    return {
        "frame": index,
        "state": found.state,
        "reason": found.reason,
        "similarity": round(found.similarity, 4),
        "mask": result,
    }


def _mask_result(
    session: Session, mask: npt.NDArray[np.bool_], iou: float, pixel_mm: float | None
) -> MaskResult:
    measured = measure_lesion(mask, _spacing(session, mask, pixel_mm))
    box = box_around(mask)
    return MaskResult(
        contours=contours_of(mask),
        box=None if box is None else list(box),
        area_px=int(np.count_nonzero(mask)),
        predicted_iou=round(iou, 4),
        measurements=None if measured is None else dict(measured.to_json()),
    )


def _spacing(
    session: Session, mask: npt.NDArray[np.bool_], pixel_mm: float | None
) -> PixelSpacing | None:
    if pixel_mm is not None:
        return PixelSpacing.square(pixel_mm)
    box = box_around(mask)
    return None if box is None else session.image.spacing_in(box)


def _box(values: list[float] | None) -> Box | None:
    return None if values is None else (values[0], values[1], values[2], values[3])
