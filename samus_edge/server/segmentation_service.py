"""The work behind the routes; synchronous, called in threads."""

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import cv2
import numpy as np
import numpy.typing as npt
from starlette.exceptions import HTTPException

from samus_edge.errors import SamusEdgeError
from samus_edge.jobs.record import (
    Box,
    FrameRecord,
    MaskRecord,
    all_notes,
    computed_by,
    mask_records,
    prompts_for,
    refuse_warnings,
)
from samus_edge.jobs.result_formats import ImageResult, result_bytes
from samus_edge.jobs.segment_file import dicom_files, lesion_frames, overlay_picture
from samus_edge.jobs.track_cine import (
    CineTracking,
    Followed,
    follow_lesion,
    followed_writers,
)
from samus_edge.runtime.cine.cine_source import CineFrame
from samus_edge.runtime.dicom.dicom_frames import text_of
from samus_edge.runtime.images.mask_shapes import rle
from samus_edge.runtime.images.overlay import encode_image, mask_image
from samus_edge.runtime.measurement.lesion_measurements import BreastLocation, PixelSpacing
from samus_edge.runtime.prompts import Prompts
from samus_edge.runtime.segmenter import Segmenter
from samus_edge.server.schemas import (
    ImageInfo,
    LesionPrompt,
    MaskFile,
    MaskRequest,
    MaskResult,
    Masks,
    Proposal,
    ProposalRequest,
    Proposals,
    TrackFile,
    TrackRequest,
)
from samus_edge.server.session import FollowedLesion, ReadyFrame, Session

if TYPE_CHECKING:
    from samus_edge.runtime.dicom.dicom_frames import DicomFrames
    from samus_edge.runtime.dicom.dicom_results import LesionFrame

__all__ = ["SegmentationService", "box_of", "contours_of", "describe_image", "png_of"]

_CONTOUR_TOLERANCE_PX = 0.4
_FORMATS: Final[Mapping[MaskFile, str]] = {
    "masks.npz": "npz",
    "measurements.csv": "csv",
    "coco.json": "coco",
}
Mask = npt.NDArray[np.bool_]


class SegmentationService:
    """Masks for sessions.

    Args:
        segmenter: Shared by all; stays open.
        max_frames: Largest number of frames that one request tracks.
    """

    def __init__(self, segmenter: Segmenter, max_frames: int) -> None:
        self._segmenter, self._max_frames = segmenter, max_frames
        self._computed_by = computed_by(segmenter)
        del self._computed_by["bundle"]["path"]  # clients have no business with it
        self.trace = {**self._computed_by, "bundle": segmenter.bundle.manifest.name}

    @property
    def segmenter(self) -> Segmenter:
        """What computes."""
        return self._segmenter

    def masks(self, session: Session, request: MaskRequest, frame: ReadyFrame) -> Masks:
        """Answer a prompt.

        Raises:
            HTTPException: if a note is to be an error, and there is one.
            BadArgumentError: if there is no prompt, or it does not fit the frame.
        """
        masks, records, timings_ms = self._predict(session, request, frame)
        results = [
            MaskResult(
                name=prompt.name,
                contours=contours_of(mask),
                rle=rle(mask) if request.rle else None,
                **record.to_json(),
            )
            for prompt, mask, record in zip(request.prompts, masks, records, strict=True)
        ]
        is_one = request.prompts[0] is request
        return Masks(
            frame=request.frame,
            mask=results[0] if is_one else None,
            masks=[] if is_one else results,
            notes=[note.to_json() for note in all_notes(session.image, records)],
            timings_ms={name: round(value, 3) for name, value in timings_ms.items()},
            **self._computed_by,
            trace={**self.trace, "prompt": request.model_dump(mode="json")},
        )

    def propose(self, session: Session, request: ProposalRequest, frame: ReadyFrame) -> Proposals:
        """Suggest lesions.

        Raises:
            HTTPException: if the bundle suggests none.
        """
        if not self._segmenter.can_propose:
            raise HTTPException(422, "this bundle suggests no lesions. Give a box or a point.")
        embedding, _ = session.embedding(self._segmenter, frame)
        found = self._segmenter.propose(embedding, max_lesions=request.max_lesions)
        assert found.proposals is not None
        each = zip(
            found.proposals.points.tolist(),
            found.proposals.boxes.tolist(),
            found.proposals.scores.tolist(),
            strict=True,
        )
        return Proposals(
            frame=request.frame,
            proposals=[Proposal(point=point, box=box, score=score) for point, box, score in each],
            notes=[note.to_json() for note in found.notes],
        )

    def mask_file(
        self, session: Session, request: MaskRequest, frame: ReadyFrame, name: MaskFile
    ) -> bytes:
        """The masks of prompts as a file; an overlay needs the frame's pixels.

        Raises:
            HTTPException, BadArgumentError: as `masks`; and if the image is not DICOM and the file
                would be, or all masks are empty.
            MissingExtraError: without highdicom.
        """
        if name in ("segmentation.dcm", "report.dcm"):
            _study(session)

            def found() -> "list[LesionFrame]":
                masks, records, _ = self._predict(session, request, frame)
                return lesion_frames(request.frame, masks, records)

            files = self._dicom_files(session, request.model_dump_json(), found)
            return files[name == "report.dcm"]
        masks, records, _ = self._predict(session, request, frame)
        if name == "mask.png":
            return png_of(mask_image(masks))
        if name in _FORMATS:
            result = ImageResult(
                name="masks",
                image=Path(request.file_name or session.image.name),
                masks=masks,
                records=[record.to_json() for record in records],
                labels=[prompt.name or "lesion" for prompt in request.prompts],
                frame=request.frame if len(session.image) > 1 else None,
            )
            return result_bytes(_FORMATS[name], result)
        assert frame.pixels is not None
        picture = overlay_picture(self._segmenter, frame.pixels, masks, records, has_callipers=True)
        return png_of(picture)

    def _dicom_files(
        self, session: Session, of_what: str, found: "Callable[[], list[LesionFrame]]"
    ) -> tuple[bytes, bytes]:
        """A segmentation and its report, made together: saved one after the other, the report
        refers to the segmentation that was saved."""
        kept = session.dicom_files
        if kept is not None and kept[0] == of_what:
            return kept[1]
        files = dicom_files(self._segmenter, _study(session), found(), with_report=True)
        session.dicom_files = of_what, files
        return files

    def frames_to_track(self, session: Session, request: TrackRequest) -> range:
        """The frames that a request follows a lesion through."""
        count = min(self._max_frames, request.max_frames or self._max_frames)
        return range(request.frame, min(len(session.image), request.frame + count))

    def track(
        self, session: Session, request: TrackRequest, frames: Iterable[CineFrame]
    ) -> Iterator[dict[str, Any]]:
        """Follow a lesion, a document for each frame; the first is asked for at once.

        Raises:
            BadArgumentError: if the box does not fit the first frame.
        """
        followed = follow_lesion(
            self._segmenter, frames, box_of(request.box), session.image, _spacing(request)
        )
        first = next(followed)
        kept = session.followed = FollowedLesion()
        kept.report.facts = {
            "box": request.box,
            "from_frame": request.frame,
            "pixel_mm": request.pixel_mm,
            "image": {"sha256": session.file_sha256, "bytes": session.file_bytes},
            **self._computed_by,
        }

        def document(each: Followed) -> dict[str, Any]:
            _, tracked, record = each
            kept.add(record, tracked.mask)
            return _document(each)

        return map(document, chain([first], followed))

    def track_file(self, session: Session, name: TrackFile, until: int | None = None) -> bytes:
        """What came of the lesion that was last followed, as a file.

        Args:
            session: The image.
            name: What to make of it.
            until: The last frame; None for all. Who stops a follow has not seen the frame that was
                under way.

        Raises:
            HTTPException: if none was followed, or the image is not DICOM and the file would be.
            BadArgumentError: if there is no mask for a DICOM file.
            MissingExtraError: without highdicom.
        """
        followed = session.followed
        if followed is None or not followed.report.frames:
            raise HTTPException(404, "no lesion was followed through this image.")
        frames = list(followed.report.frames)  # it may go on in the meantime
        records = [each for each in frames if until is None or each.frame <= until]
        notes = all_notes(session.image, [record.mask for record in records])
        report = replace(followed.report, frames=records, notes=notes)
        if name == "result.json":
            return json.dumps(report.to_json(), indent=1).encode()
        if name == "frames.csv":
            return report.to_csv().encode()
        if name in ("segmentation.dcm", "report.dcm"):
            of_what = f"followed {followed.id}, {len(records)} frames"
            return self._dicom_files(
                session, of_what, partial(self._followed, session, followed, records, "seg.dcm")
            )[name == "report.dcm"]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / name
            self._followed(session, followed, records, file)
            return file.read_bytes()

    def _followed(
        self,
        session: Session,
        followed: FollowedLesion,
        records: list[FrameRecord],
        file: str | Path,
    ) -> "list[LesionFrame]":
        """Write what was followed as `samus-edge track` does; what DICOM files are made of."""
        path, image = Path(file), session.image
        job = CineTracking(
            image.name,
            box_of(followed.report.facts["box"]),
            video_file=path if path.suffix == ".mp4" else None,
            mask_file=path if path.suffix == ".npz" else None,
            dicom_seg_file=path if path.suffix == ".dcm" else None,
        )
        lesions: list[LesionFrame] = []
        with ExitStack() as closing:
            writers = followed_writers(job, image, self._segmenter, closing, lesions)
            blank = np.zeros(image.original_hw, np.uint8)
            for record in records:
                pixels = blank if job.video_file is None else session.frame(record.frame)
                frame = CineFrame(record.frame, record.seconds, pixels)
                tracked = replace(record.tracked, mask=followed.mask(record.frame))
                for write in writers:
                    write(frame, tracked, record)
        return lesions

    def _predict(
        self, session: Session, request: MaskRequest, frame: ReadyFrame
    ) -> tuple[npt.NDArray[np.bool_], list[MaskRecord], dict[str, float]]:
        """The masks of prompts, (N, H, W), their records, and milliseconds of each step."""
        asked = [_checked(prompt, session.image.original_hw) for prompt in request.prompts]
        begun = time.perf_counter()
        embedding, was_there = session.embedding(self._segmenter, frame)
        timings_ms = {
            "encode": 0.0 if was_there else 1000 * (time.perf_counter() - begun),
            "decode": 0.0,
            "measure": 0.0,
        }
        masks, records = list[Mask](), list[MaskRecord]()
        for prompt, (boxes, prompts) in zip(request.prompts, asked, strict=True):
            begun = time.perf_counter()
            prediction = self._segmenter.predict(
                embedding,
                boxes=prompts.boxes,
                point_coords=prompts.point_coords,
                point_labels=prompts.point_labels,
                multimask_output=prompt.alternative is not None,
            )
            if prompt.alternative is not None:
                one = slice(prompt.alternative - 1, prompt.alternative)
                prediction = replace(
                    prediction,
                    masks=prediction.masks[:, one],
                    low_res_logits=prediction.low_res_logits[:, one],
                    iou_predictions=prediction.iou_predictions[:, one],
                )
            decoded = time.perf_counter()
            place = prompt.location
            location = None if place is None else BreastLocation(**place.model_dump())
            records += mask_records(
                prediction, prompts, boxes, session.image, _spacing(request), location
            )
            masks.append(prediction.masks[0, 0])
            timings_ms["decode"] += 1000 * (decoded - begun)
            timings_ms["measure"] += 1000 * (time.perf_counter() - decoded)
        if request.strict:
            try:
                refuse_warnings(all_notes(session.image, records))
            except SamusEdgeError as err:  # what was asked for, not a job that failed
                raise HTTPException(422, str(err)) from err
        return np.stack(masks), records, timings_ms


def _checked(prompt: LesionPrompt, original_hw: tuple[int, int]) -> tuple[list[Box], Prompts]:
    """A prompt as it was given and as a segmenter takes it."""
    boxes = [] if prompt.box is None else [box_of(prompt.box)]
    points = [(point.x, point.y, int(point.label)) for point in prompt.points]
    return boxes, prompts_for(boxes, points, original_hw)


def describe_image(session: Session, box: list[float] | None) -> ImageInfo:
    """What the client learns of an image that it has sent, or of an example with a box."""
    image, study = session.image, session.image.study
    height, width = image.original_hw
    dicom: dict[str, str] | None = None
    notes, boxes = image.notes, [(0.0, 0.0, width - 1.0, height - 1.0)]
    if study is not None:
        from samus_edge.runtime.dicom.dicom_source import describe_source

        with suppress(
            SamusEdgeError
        ):  # that there can be no DICOM result is said when it is asked for
            notes = (*notes, *describe_source(study).notes)
        keywords = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
        dicom = {name: text_of(study.dataset, name) for name in keywords}
        boxes = [box_of([*map(float, region.box)]) for region in study.regions] or boxes
    spacings = [(each, found) for each in boxes if (found := image.spacing_in(each)) is not None]
    return ImageInfo(
        id=session.id,
        kind=image.kind,
        width=width,
        height=height,
        frames=len(image),
        frames_per_second=image.frames_per_second,
        file_bytes=session.file_bytes,
        file_sha256=session.file_sha256,
        dicom=dicom,
        has_pixel_size=study is not None and (bool(study.regions) or bool(spacings)),
        spacings=[{"box": list(each), **found.to_json()} for each, found in spacings],
        notes=[note.to_json() for note in notes],
        box=box,
    )


def _study(session: Session) -> "DicomFrames":
    study = session.image.study
    if study is None:
        raise HTTPException(
            422, "a DICOM result refers to a DICOM image, and this is none. Ask for another file."
        )
    return study


def contours_of(mask: npt.NDArray[np.bool_]) -> list[list[list[float]]]:
    """The outlines of a mask and of its holes, x and y in pixels, simplified by less than half a
    pixel."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    polygons = []
    for contour in contours:
        simple = cv2.approxPolyDP(contour, _CONTOUR_TOLERANCE_PX, True).reshape(-1, 2)
        polygons.append([[float(x), float(y)] for x, y in simple])
    return polygons


def png_of(image: npt.NDArray[np.uint8]) -> bytes:
    """A PNG file of a grey image, (H, W), or of RGB, (H, W, 3)."""
    return encode_image(Path("image.png"), image)


def _document(followed: Followed) -> dict[str, Any]:
    """A frame as in `track --json`, and its mask with contours."""
    _, tracked, record = followed
    mask: dict[str, Any] | None = None
    if tracked.mask is not None and record.mask is not None:
        mask = {"contours": contours_of(tracked.mask), **record.mask.to_json()}
    return {**record.to_json(), "mask": mask}


def _spacing(request: MaskRequest | TrackRequest) -> PixelSpacing | None:
    return None if request.pixel_mm is None else PixelSpacing.square(request.pixel_mm)


def box_of(values: list[float]) -> Box:
    """Four numbers as a box."""
    return values[0], values[1], values[2], values[3]
