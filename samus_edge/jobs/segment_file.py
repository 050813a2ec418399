"""Segment frames of one image file and write what was asked for: the work of `samus-edge infer`."""

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge.errors import BadArgumentError
from samus_edge.jobs.mask_files import MaskFiles, check_masks
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
    proposed_prompts,
    refuse_warnings,
)
from samus_edge.runtime.backends.backend_selection import check_backend, check_threads
from samus_edge.runtime.bundle.bundle import Bundle, check_precision
from samus_edge.runtime.bundle.manifest import IMAGE_ENCODER
from samus_edge.runtime.cine.cine_source import CineSource, FileFrames, open_frames
from samus_edge.runtime.dicom.dicom_frames import require_highdicom
from samus_edge.runtime.images.image_io import GreyFrame
from samus_edge.runtime.images.output_files import (
    check_output,
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
from samus_edge.runtime.measurement.lesion_measurements import (
    BreastLocation,
    LesionMeasurements,
    PixelSpacing,
)
from samus_edge.runtime.notes import Note
from samus_edge.runtime.prediction import Prediction, upsample_logits
from samus_edge.runtime.prompts import Prompts
from samus_edge.runtime.quality import Quality
from samus_edge.runtime.segmenter import Segmenter

if TYPE_CHECKING:
    from samus_edge.runtime.dicom.dicom_frames import DicomFrames
    from samus_edge.runtime.dicom.dicom_results import LesionFrame

Mask: TypeAlias = npt.NDArray[np.bool_]

ALTERNATIVES = 3
"""Masks of a prompt, where alternatives are asked for."""
_MASK_LOGIT = np.float32(12.0)  # of a pixel well inside a given mask; predicted ones reach 40

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
        max_lesions: Without prompts: at most so many lesions that the model proposes; 0 for none.
        bundle: Folder of a bundle, a zip file of one, or one that is open; None for the default
            bundle.
        backend: See `select_backend`.
        precision: See `Segmenter.load`.
        threads: CPU threads; None for all cores, at most 8.
        device: See `Segmenter.load`.
        mask_file: PNG for the masks, see `mask_image`; of several frames a folder or an NPZ file,
            see `MaskFiles`; None for none.
        overlay_file: PNG or JPEG for people, see `draw_overlay`, of one frame; None for none.
        spacing: Size of a pixel; None takes it from a DICOM file, and else measures in pixels.
        location: Where the lesion is, for JSON and DICOM results; None if it is not said.
        has_callipers: Whether diameters are drawn on the overlay.
        is_strict: Whether a note of level warning is an error; then nothing is written.
        frames: Indices of frames of a DICOM file or pages of an image file, from 0; the prompts are
            the same in each.
        dicom_seg_file: DICOM file for the masks of a DICOM image; None for none.
        dicom_sr_file: DICOM file for their measurements, which refer to that; None for none.
        masks: (H, W), bool, to be refined: one for each box, or none.
        has_alternatives: Whether each prompt gives three masks, the one with the best predicted
            IoU first; it alone goes into files but for the probabilities.
        probability_file: NPZ file of one frame's `probabilities`, (N, M, H, W), float32, of N
            prompts with M masks; None for none.
    """

    image: Path
    boxes: Sequence[Box] = ()
    points: Sequence[Point] = ()
    max_lesions: int = 0
    bundle: Path | Bundle | None = None
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    device: str | None = None
    mask_file: Path | None = None
    overlay_file: Path | None = None
    spacing: PixelSpacing | None = None
    location: BreastLocation | None = None
    has_callipers: bool = False
    is_strict: bool = False
    frames: Sequence[int] = (0,)
    dicom_seg_file: Path | None = None
    dicom_sr_file: Path | None = None
    masks: Sequence[Mask] = ()
    has_alternatives: bool = False
    probability_file: Path | None = None


@dataclass(frozen=True)
class SegmentationReport:
    """The result of segmenting one file.

    Attributes:
        job: What was asked for.
        image_sha256: SHA-256 of the file.
        original_hw: (H, W) of the image, pixels.
        frames: Indices of the frames, from 0; empty for an image file of one.
        masks: One for each prompt in each frame, or several where alternatives were asked for, in
            the order of the frames, then of the prompts, then from the best to the worst.
        timings_ms: Wall time of each step by its name, and "total".
        computed_by: See `computed_by`.
        notes: What a user should know about the file, the prompts and the masks.
        presence: The model's estimate of the probability that the image shows a lesion; None where
            it was not asked for a proposal.
    """

    job: FileSegmentation
    image_sha256: str
    original_hw: tuple[int, int]
    frames: tuple[int, ...]
    masks: tuple[MaskRecord, ...]
    timings_ms: Mapping[str, float]
    computed_by: Mapping[str, Any]
    notes: tuple[Note, ...] = ()
    presence: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As the document that `samus-edge infer --json` prints."""
        height, width = self.original_hw
        job = self.job
        files = {
            "mask_file": job.mask_file,
            "overlay_file": job.overlay_file,
            "dicom_seg_file": job.dicom_seg_file,
            "dicom_sr_file": job.dicom_sr_file,
            **({} if job.probability_file is None else {"probability_file": job.probability_file}),
        }
        return {
            "image": {
                "path": str(job.image),
                "sha256": self.image_sha256,
                "width": width,
                "height": height,
                "frame": self.frames[0] if len(self.frames) == 1 else None,
            },
            "masks": [
                {"frame": frame, **self._alternative(index), **mask.to_json()}
                for index, (frame, mask) in enumerate(
                    zip(self._frame_of_masks(), self.masks, strict=True)
                )
            ],
            "presence": self.presence,
            "notes": [note.to_json() for note in self.notes],
            "timings_ms": dict(self.timings_ms),
            **self.computed_by,
            **{name: None if path is None else str(path) for name, path in files.items()},
        }

    def _frame_of_masks(self) -> list[int | None]:
        each = len(self.masks) // max(1, len(self.frames))
        return [frame for frame in self.frames or (None,) for _ in range(each)]

    def _alternative(self, index: int) -> dict[str, int]:
        """Which of a prompt's masks it is, from 0, the best; nothing where each has one."""
        return {"alternative": index % ALTERNATIVES} if self.job.has_alternatives else {}

    def lines(self) -> list[str]:
        """As the lines that `samus-edge infer` prints for people."""
        height, width = self.original_hw
        job, computed = self.job, self.computed_by
        frame = f", frame {self.frames[0]}" if len(self.frames) == 1 else ""
        lines = [f"{job.image}{frame}: {width} x {height} pixels"]
        each = len(self.masks) // max(1, len(self.frames))
        for index, (number, mask) in enumerate(
            zip(self._frame_of_masks(), self.masks, strict=True)
        ):
            frame = f"frame {number}, " if len(self.frames) > 1 else ""
            described = _describe_mask(mask, width * height)
            which = f"mask {index % each + 1}"
            if job.has_alternatives:
                prompt, alternative = divmod(index % each, ALTERNATIVES)
                which = f"prompt {prompt + 1}, mask {alternative + 1}"
            lines.append(f"  {frame}{which}: {described}")
            if mask.measurements is not None and mask.measurements.unit == "mm":
                lines.append(f"    {calliper_text(mask.measurements)}")
            if mask.measurements is not None and mask.quality is not None:
                lines.append(f"    {_intervals(mask.quality, mask.measurements)}")
            if mask.measurements is not None and mask.measurements.location is not None:
                lines.append(f"    {mask.measurements.location}")
            if mask.prompt.was_clipped:
                lines.append(f"    its box was cut to the image: {_coordinates(mask.prompt.box)}")
        lines += [f"  {note.level}: {note.text}" for note in self.notes]
        labels = each // (ALTERNATIVES if job.has_alternatives else 1)
        values = "0 and 255" if labels == 1 else f"labels 1 to {labels}"
        for kind, path, remark in (
            ("mask file", job.mask_file, values if len(self.frames) < 2 else ""),
            ("overlay", job.overlay_file, ""),
            ("DICOM segmentation", job.dicom_seg_file, "identifies the patient"),
            ("DICOM report", job.dicom_sr_file, "identifies the patient"),
            ("probabilities", job.probability_file, ""),
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
        return f"empty, {_trust(mask)}"
    return (
        f"{mask.area_px} px ({100 * mask.area_px / image_px:.1f} %), "
        f"box {_coordinates(mask.box)}, {_trust(mask)}"
    )


def _trust(mask: MaskRecord) -> str:
    """How far a mask can be trusted, in words."""
    if mask.quality is None:
        return f"predicted IoU {mask.predicted_iou:.2f}"
    return f"quality {100 * mask.quality.probability:.0f} % ({mask.quality.state})"


def _intervals(quality: Quality, found: LesionMeasurements) -> str:
    """Where the true sizes of a lesion are with 90 %."""
    (least, most), (short, long) = quality.area_interval(found), quality.diameter_interval(found)
    return (
        f"90 % interval: area {least:.5g} to {most:.5g} {found.unit}2, longest diameter "
        f"{short:.4g} to {long:.4g} {found.unit}"
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
    opened = open_image(job)
    clock.lap("read")
    with load_segmenter(job) as segmenter:
        clock.lap("load")
        return segment_opened(job, opened, segmenter, clock)


@dataclass(frozen=True)
class OpenedImage:
    """An image file that has been read as far as a first frame.

    Attributes:
        source: The file.
        images: The job's frames of it, in their order; to be read once.
        prompts: Checked for it; None where the model proposes them.
    """

    source: FileFrames
    images: Iterator[GreyFrame]
    prompts: Prompts | None


def open_image(job: FileSegmentation) -> OpenedImage:
    """All that needs no model: check the job, read the image, check the prompts.

    Raises:
        BadArgumentError, ImageFileError, OutputFileError: as `segment_file`.
    """
    _check_job(job)
    source = open_frames(job.image)
    later = map(source.read, job.frames)
    images = chain([next(later)], later)  # the first one before the bundle is loaded
    check_dicom_source(source, job.dicom_seg_file, len(job.frames) * max(1, len(job.boxes)))
    if wrong := [mask.shape for mask in job.masks if mask.shape != source.original_hw]:
        raise BadArgumentError(
            f"a mask to refine has the shape {wrong[0]} and {job.image} {source.original_hw}. Give "
            "a mask of the image's size."
        )
    if job.max_lesions:
        return OpenedImage(source, images, None)
    return OpenedImage(source, images, prompts_for(job.boxes, job.points, source.original_hw))


def load_segmenter(job: FileSegmentation) -> Segmenter:
    """The segmenter that a job asks for; see `Segmenter.load`."""
    return Segmenter.load(
        job.bundle,
        backend=job.backend,
        precision=job.precision,
        threads=job.threads,
        device=job.device,
    )


_NO_TURN = nullcontext()


def segment_opened(
    job: FileSegmentation,
    opened: OpenedImage,
    segmenter: Segmenter,
    clock: Clock,
    *,
    turn: AbstractContextManager[object] = _NO_TURN,
    on_masks: Callable[[Mask], None] = lambda masks: None,
    drafts: Path | None = None,
) -> SegmentationReport:
    """Segment an image that has been read, and write what was asked for.

    Args:
        job: What to do.
        opened: The image.
        segmenter: What computes.
        clock: Times the steps.
        turn: Held while the model computes.
        on_masks: Called with all masks of each frame, (N, H, W), in the order of their records.
        drafts: See `write_files_atomically`.

    Raises:
        BadArgumentError, ImageFileError, BackendError, SamusEdgeError, OutputFileError: as
            `segment_file`.
    """
    source = opened.source
    records: list[MaskRecord] = []
    lesions: list[LesionFrame] = []
    outputs: dict[Path, bytes] = {}
    with ExitStack() as closing:
        files: MaskFiles | None = None
        if job.mask_file is not None and len(job.frames) > 1:
            files = closing.enter_context(MaskFiles(job.mask_file, drafts))
        for frame, image, prediction, every in _segmented(job, opened, segmenter, clock, turn):
            records += every
            on_masks(prediction.masks.reshape(-1, *source.original_hw))
            masks, found = prediction.masks[:, 0], every[:: prediction.masks.shape[1]]
            if files is not None:
                files.add(frame, source.seconds_of(frame), "prompted", masks, found[0].spacing)
            elif job.mask_file is not None:
                outputs[job.mask_file] = encode_image(job.mask_file, mask_image(masks))
            if job.overlay_file is not None:
                overlay = overlay_picture(
                    segmenter, image, masks, found, has_callipers=job.has_callipers
                )
                outputs[job.overlay_file] = encode_image(job.overlay_file, overlay)
            if job.probability_file is not None:
                outputs[job.probability_file] = _probabilities(prediction)
            if job.dicom_seg_file is not None:
                lesions += lesion_frames(frame, masks, found)
        notes = (*_frame_notes(job, source), *all_notes(source, records))
        proposals = prediction.proposals
        if proposals is not None and not records:  # whose notes are those of its masks
            notes = (*prediction.notes, *notes)
        if source.study is not None and job.dicom_seg_file is not None:
            notes += dicom_notes(source.study, len(records), len(lesions))
        if job.is_strict:
            refuse_warnings(notes)
        if source.study is not None and job.dicom_seg_file is not None:
            has_report = job.dicom_sr_file is not None
            seg, report = dicom_files(segmenter, source.study, lesions, with_report=has_report)
            outputs[job.dicom_seg_file] = seg
            if job.dicom_sr_file is not None:
                outputs[job.dicom_sr_file] = report
        write_files_atomically(outputs, drafts)
        clock.lap("write")
        return SegmentationReport(
            job=job,
            image_sha256=sha256_of_file(job.image),
            original_hw=source.original_hw,
            frames=tuple(job.frames) if source.study is not None or len(source) > 1 else (),
            masks=tuple(records),
            timings_ms=clock.timings_ms(),
            computed_by=computed_by(segmenter),
            notes=notes,
            presence=None if proposals is None else round(proposals.presence, 4),
        )


def _frame_notes(job: FileSegmentation, source: FileFrames) -> tuple[Note, ...]:
    """That the first of several frames was taken, where that may not be what was meant."""
    if tuple(job.frames) != (0,) or len(source) == 1:
        return ()
    text = f"Frame 0 of {len(source)} was segmented. --frame takes others, track follows a lesion."
    return (Note("first_frame", "info", text),)


def _segmented(
    job: FileSegmentation,
    opened: OpenedImage,
    segmenter: Segmenter,
    clock: Clock,
    turn: AbstractContextManager[object],
) -> Iterator[tuple[int, GreyFrame, Prediction, tuple[MaskRecord, ...]]]:
    """Each frame with its masks, the best of each prompt first, and their records."""
    for frame, image in zip(job.frames, opened.images, strict=True):
        clock.lap("read")
        with turn:
            embedding = segmenter.encode(image)
            clock.lap("encode")
            if opened.prompts is None:
                prediction = segmenter.propose(embedding, max_lesions=job.max_lesions)
                prompts = proposed_prompts(prediction)
            else:
                prompts = opened.prompts
                prediction = segmenter.predict(
                    embedding,
                    boxes=prompts.boxes,
                    point_coords=prompts.point_coords,
                    point_labels=prompts.point_labels,
                    mask_input=_logits_of(job.masks, segmenter.mask_input_hw)
                    if job.masks
                    else None,
                    multimask_output=job.has_alternatives,
                )
        if len(job.frames) > 1:
            notes = [
                replace(note, text=f"Frame {frame}: {note.text}")
                if note.level == "warning"
                else note
                for note in prediction.notes
            ]
            prediction = replace(prediction, notes=tuple(notes))
        if job.has_alternatives:
            prediction = _best_first(prediction)
        clock.lap("decode")
        found = [
            mask_records(one, prompts, job.boxes, opened.source, job.spacing, job.location)
            for one in _each_alternative(prediction)
        ]
        yield frame, image, prediction, tuple(chain.from_iterable(zip(*found, strict=True)))


def _best_first(prediction: Prediction) -> Prediction:
    """Each prompt's masks by their predicted IoU."""
    order = np.argsort(-prediction.iou_predictions, axis=1, kind="stable")  # (N, M)
    whole = order[..., None, None]
    return replace(
        prediction,
        masks=np.take_along_axis(prediction.masks, whole, axis=1),
        low_res_logits=np.take_along_axis(prediction.low_res_logits, whole, axis=1),
        iou_predictions=np.take_along_axis(prediction.iou_predictions, order, axis=1),
    )


def _each_alternative(prediction: Prediction) -> Iterator[Prediction]:
    """Predictions of one mask for each prompt: the best ones, the second best ones, ..."""
    for which in range(prediction.masks.shape[1]):
        yield replace(
            prediction,
            masks=prediction.masks[:, which : which + 1],
            iou_predictions=prediction.iou_predictions[:, which : which + 1],
        )


def _logits_of(masks: Sequence[Mask], mask_input_hw: tuple[int, int]) -> npt.NDArray[np.float32]:
    """(N, 1, h, w), float32: masks, (H, W) each, as logits that the decoder refines."""
    height, width = mask_input_hw
    shares = [
        cv2.resize(mask.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
        for mask in masks
    ]
    return np.stack([_MASK_LOGIT * (2 * share - 1) for share in shares])[:, None].astype(np.float32)


def _probabilities(prediction: Prediction) -> bytes:
    """An NPZ file of the sigmoid of the logits at the image's size."""
    hw, logits = prediction.original_hw, prediction.low_res_logits
    probabilities = np.empty((*logits.shape[:2], *hw), np.float32)
    for index in np.ndindex(*logits.shape[:2]):
        halved = upsample_logits(logits[index], hw) / 2
        probabilities[index] = (1 + np.tanh(halved)) / 2  # the sigmoid, which cannot overflow so
    content = io.BytesIO()
    np.savez_compressed(content, probabilities=probabilities)
    return content.getvalue()


def _check_job(job: FileSegmentation) -> None:
    """Check all that needs neither the image nor the bundle."""
    has_prompt = bool(job.boxes or job.points)
    if not has_prompt and not job.max_lesions:
        raise BadArgumentError(
            "no prompt was given. Give at least one box (--box x1,y1,x2,y2) or one point "
            "(--point x,y), or have the model suggest something (--auto)."
        )
    if job.max_lesions and (has_prompt or job.has_alternatives or len(job.frames) > 1):
        raise BadArgumentError(
            "what the model suggests (--auto) is of one frame, without prompts and alternatives. "
            "Leave them out."
        )
    if job.mask_file is not None and len(job.boxes) > MAX_LABELS:
        raise BadArgumentError(
            f"a mask file holds at most {MAX_LABELS} masks, got {len(job.boxes)} boxes. "
            "Give fewer boxes."
        )
    check_backend(job.backend)
    check_precision(job.precision)
    check_threads(job.threads)
    mask_file = job.mask_file
    if len(set(job.frames)) != len(job.frames) or not job.frames:
        raise BadArgumentError(
            f"frames must be different, and at least one, got {list(job.frames)}."
        )
    if len(job.frames) > 1:
        if job.overlay_file is not None or job.probability_file is not None:
            raise BadArgumentError(
                f"an overlay and probabilities are of one frame, got {len(job.frames)}. "
                "Leave them out (--overlay, --probabilities), or give one --frame."
            )
        if mask_file is not None:
            check_masks(mask_file, job.image, job.dicom_seg_file, job.dicom_sr_file)
        mask_file = None
    check_output_paths(
        job.image, mask_file, job.overlay_file, job.dicom_seg_file, job.dicom_sr_file
    )
    if job.probability_file is not None:
        check_output(job.probability_file, "probabilities", (".npz",), job.image)
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


def dicom_notes(study: "DicomFrames", frames: int, masks: int) -> tuple[Note, ...]:
    """What a user should know of DICOM results: what they do not repeat of their source, and how
    many frames (of lesions) have no mask."""
    from samus_edge.runtime.dicom.dicom_source import describe_source

    notes = describe_source(study).notes
    if masks == frames:
        return notes
    text = f"{frames - masks} of {frames} frames have no mask; the DICOM files leave them out."
    return (*notes, Note("frames_left_out", "info", text))


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
    text = f"{record.area_px} px, {_trust(record)}"
    found = record.measurements
    return text if found is None or found.location is None else f"{text}, {found.location}"
