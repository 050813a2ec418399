"""Follow a lesion through a cine and write what was asked for: the work of `samus-edge track`."""

import csv
import io
import os
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge.errors import BadArgumentError, OutputFileError
from samus_edge.jobs.mask_files import MaskFiles, check_masks
from samus_edge.jobs.record import (
    Clock,
    FrameRecord,
    all_notes,
    computed_by,
    frame_record,
    legend_note,
)
from samus_edge.jobs.segment_file import (
    check_dicom_files,
    check_dicom_source,
    dicom_files,
    dicom_notes,
    lesion_frames,
)
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.cine.cine_source import CineFrame, CineSource, open_cine
from samus_edge.runtime.cine.lesion_tracker import Box, LesionTracker, TrackedFrame
from samus_edge.runtime.cine.stream import Stream
from samus_edge.runtime.images.output_files import (
    check_output,
    check_output_paths,
    sha256_of_file,
    write_files_atomically,
)
from samus_edge.runtime.images.overlay import OverlayItem, draw_overlay
from samus_edge.runtime.measurement.lesion_measurements import BreastLocation, PixelSpacing
from samus_edge.runtime.notes import PROPOSED, Note
from samus_edge.runtime.segmenter import Segmenter

if TYPE_CHECKING:
    from samus_edge.runtime.dicom.dicom_results import LesionFrame

_CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
VIDEO_SUFFIXES = tuple(_CODECS)
"""MPEG-4 and Motion JPEG: what OpenCV writes everywhere."""


class OverlayVideo:
    """A video that is written beside its file and takes its place when the block ends well.

    Args:
        path: Ends in one of `VIDEO_SUFFIXES`.
        frames_per_second: Of the video.

    Raises:
        BadArgumentError: if the suffix is another.
    """

    def __init__(self, path: Path, frames_per_second: float) -> None:
        if path.suffix.lower() not in _CODECS:
            raise BadArgumentError(f"the video must end in {' or '.join(_CODECS)}, got {path}.")
        try:
            str(path.absolute()).encode()
        except UnicodeEncodeError as err:  # at which OpenCV crashes
            raise BadArgumentError(
                f"the video {path} has bytes in its path that are not UTF-8. Give another path."
            ) from err
        self._path, self._rate = path, frames_per_second
        self._size_wh = (0, 0)
        self._writer: cv2.VideoWriter | None = None
        self._temporary: Path | None = None

    def write(self, picture: npt.NDArray[np.uint8]) -> None:
        """Add a picture; those after the first are cut or padded to its size.

        Args:
            picture: (H, W, 3), uint8, RGB.

        Raises:
            OutputFileError: if it cannot be written.
        """
        writer = self._writer = self._writer or self._opened(picture)
        width, height = self._size_wh
        fitted = np.zeros((height, width, 3), np.uint8)
        rows, columns = min(height, picture.shape[0]), min(width, picture.shape[1])
        fitted[:rows, :columns] = picture[:rows, :columns, ::-1]  # BGR
        writer.write(fitted)

    def _opened(self, picture: npt.NDArray[np.uint8]) -> cv2.VideoWriter:
        # Codecs take even sizes.
        height, width = (size + size % 2 for size in picture.shape[:2])
        self._size_wh = (width, height)
        suffix = self._path.suffix.lower()
        try:
            handle, name = tempfile.mkstemp(suffix, ".", self._path.absolute().parent)
        except OSError as err:
            raise OutputFileError(f"{self._path} cannot be written: {err.strerror}.") from err
        os.close(handle)
        self._temporary = Path(name)
        codec = cv2.VideoWriter.fourcc(*_CODECS[suffix])
        writer = cv2.VideoWriter(name, codec, self._rate, self._size_wh)
        if not writer.isOpened():
            raise OutputFileError(
                f"{self._path} cannot be written: this OpenCV has no encoder for it. Try .avi."
            )
        return writer

    def __enter__(self) -> "OverlayVideo":  # noqa: PYI034  # Self is of Python 3.11
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Put the video in its place; without a frame, or after an error, there is none.

        Raises:
            OutputFileError: if that fails.
        """
        if self._writer is not None:
            self._writer.release()
        if self._temporary is None:
            return
        try:
            if exc is None:
                # As files are that are opened for writing.
                umask = os.umask(0)
                os.umask(umask)
                self._temporary.chmod(0o666 & ~umask)
                self._temporary.replace(self._path)
        except OSError as err:
            raise OutputFileError(f"{self._path} cannot be written: {err.strerror}.") from err
        finally:
            self._temporary.unlink(missing_ok=True)


_DEFAULT_RATE = 20.0


@dataclass(frozen=True)
class CineTracking:
    """What to follow, with what, and where results go.

    Attributes:
        source: See `open_cine`.
        box: XYXY around the lesion in the first frame that is used, pixels; None to begin with what
            the model proposes.
        from_frame: Index of that frame.
        max_frames: Number of frames to use; None for all.
        bundle: Folder of a bundle, a zip file of one, or one that is open; None for the default
            bundle.
        backend: See `select_backend`.
        precision: See `Segmenter.load`.
        threads: CPU threads; None for all cores, at most 8.
        device: See `Segmenter.load`.
        spacing: Size of a pixel; None takes it from a DICOM file, and else measures in pixels.
        location: Where the lesion is, for JSON and DICOM results; None if it is not said.
        video_file: MP4 or AVI with overlays; None for none.
        csv_file: A line for each frame; None for none.
        mask_file: Folder or NPZ file for the masks, see `MaskFiles`; None for none.
        dicom_seg_file: DICOM file for the masks of a DICOM cine; None for none.
        dicom_sr_file: DICOM file for their measurements, which refer to that; None for none.
    """

    source: str
    box: Box | None
    from_frame: int = 0
    max_frames: int | None = None
    bundle: Path | Bundle | None = None
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    device: str | None = None
    spacing: PixelSpacing | None = None
    location: BreastLocation | None = None
    video_file: Path | None = None
    csv_file: Path | None = None
    mask_file: Path | None = None
    dicom_seg_file: Path | None = None
    dicom_sr_file: Path | None = None


@dataclass
class TrackReport:
    """What came of a cine.

    Attributes:
        frames: In order.
        facts: What makes the result traceable: source, image, bundle, backend, versions, timings.
        notes: What a user should know about the cine.
        frames_dropped: Number of frames of a live source that newer ones replaced.
        was_interrupted: Whether somebody has stopped it.
    """

    frames: list[FrameRecord] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    frames_dropped: int = 0
    was_interrupted: bool = False

    @property
    def is_lost(self) -> bool:
        """Whether the lesion was lost at the end."""
        return bool(self.frames) and self.frames[-1].tracked.state in ("lost", "stopped")

    def counts(self) -> dict[str, int]:
        """Frames by state."""
        counted = Counter(frame.tracked.state for frame in self.frames)
        return {state: counted[state] for state in ("tracking", "uncertain", "lost", "stopped")}

    @property
    def times_lost(self) -> int:
        """How often the lesion was lost."""
        has_mask = [frame.mask is not None for frame in self.frames]
        return sum(before and not now for before, now in pairwise(has_mask))

    @property
    def times_found(self) -> int:
        """How often it was found again."""
        return sum(frame.tracked.was_found for frame in self.frames)

    def to_json(self) -> dict[str, Any]:
        """As the document that `samus-edge track --json` prints."""
        latencies = [frame.latency_ms for frame in self.frames] or [0.0]
        p50, p90, p99 = (round(float(value), 2) for value in np.percentile(latencies, (50, 90, 99)))
        return {
            **self.facts,
            "notes": [note.to_json() for note in self.notes],
            "states": self.counts(),
            "times_lost": self.times_lost,
            "times_found": self.times_found,
            "is_lost": self.is_lost,
            "was_interrupted": self.was_interrupted,
            "frames_dropped": self.frames_dropped,
            "latency_ms": {"p50": p50, "p90": p90, "p99": p99},
            "frames": [frame.to_json() for frame in self.frames],
        }

    def to_csv(self) -> str:
        """A line for each frame; lengths in the unit of the line, areas in its square."""
        sizes = ("area", "longest_diameter", "perpendicular_diameter", "width", "height")
        plain = ("frame", "seconds", "state", "reason", "predicted_iou", "similarity", "contrast")
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        judged = ("state", "probability", "area_interval", "longest_diameter_interval")
        ends = ("area_low", "area_high", "longest_diameter_low", "longest_diameter_high")
        placed = ("latency_ms", "x1", "y1", "x2", "y2", "unit")
        writer.writerow([*plain, *placed, *sizes, "quality_state", "quality_probability", *ends])
        for frame in self.frames:
            document = frame.to_json()
            measured = document["measurements"] or {}
            values = [measured.get(name) for name in ("unit", *sizes)]
            quality = document["quality"] or {}
            state, probability, *intervals = map(quality.get, judged)
            writer.writerow(
                [
                    *(document[name] for name in plain),
                    document["latency_ms"],
                    *(document["box"] or [None] * 4),
                    *(value["length"] if isinstance(value, dict) else value for value in values),
                    *(state, probability),
                    *(end for interval in intervals for end in interval or (None, None)),
                ]
            )
        return text.getvalue()


def track_cine(
    job: CineTracking,
    *,
    on_start: Callable[[int | None], None] = lambda count: None,
    on_frame: Callable[[FrameRecord], None] = lambda frame: None,
    report: TrackReport | None = None,
) -> TrackReport:
    """Follow a lesion; all that can be checked early is, and a stop in between keeps what there is.

    Args:
        job: What to do.
        on_start: Called once with the number of frames, or None where it is not known.
        on_frame: Called after each frame.
        report: Filled as frames come, for what is left of a job that fails; None for a new one.

    Raises:
        BadArgumentError: if an argument is wrong, by itself or for this cine.
        ImageFileError: if a frame cannot be read; what was found before is written.
        BundleError, BackendError: as `Segmenter.load`.
        OutputFileError: if a result cannot be written.
    """
    _check_outputs(job)
    report = TrackReport() if report is None else report
    clock = Clock()
    with ExitStack() as closing:
        source = open_cine(job.source)
        closing.callback(source.close)
        count = source.frame_count
        if count is not None:
            if job.from_frame >= count:
                raise BadArgumentError(
                    f"{source.name} has {count} frames, from 0 to {count - 1}; there is no frame "
                    f"{job.from_frame}."
                )
            count = min(count - job.from_frame, job.max_frames or count)
        check_dicom_source(source, job.dicom_seg_file, count or 0)
        clock.lap("read")
        segmenter = closing.enter_context(
            Segmenter.load(
                job.bundle,
                backend=job.backend,
                precision=job.precision,
                threads=job.threads,
                device=job.device,
            )
        )
        clock.lap("load")
        report.facts = _facts(job, source, segmenter)
        on_start(count)
        lesions: list[LesionFrame] = []
        writers = followed_writers(job, source, segmenter, closing, lesions)
        follow = _follow_live if source.is_live else _follow_file
        try:
            for frame, tracked, record in follow(job, source, segmenter, report):
                height, width = frame.image.shape
                report.facts["image"] |= {"width": width, "height": height}
                report.frames.append(record)
                for write in writers:
                    write(frame, tracked, record)
                on_frame(record)
            if not report.frames:  # of a source that does not say how many it has
                raise BadArgumentError(f"{source.name} ends before frame {job.from_frame}.")
        except KeyboardInterrupt:
            if not report.frames:
                raise
            report.was_interrupted = True
        finally:
            report.notes = all_notes(source, (frame.mask for frame in report.frames))
            if job.box is None:
                report.notes = (PROPOSED, *report.notes)
            clock.lap("track")
            if job.csv_file is not None and report.frames:
                write_files_atomically({job.csv_file: report.to_csv().encode()})
            clock.lap("write")
            report.facts["timings_ms"] = clock.timings_ms()
    # After the other files are in their place: without any mask these two cannot be made.
    if source.study is not None and job.dicom_seg_file is not None:
        report.notes += dicom_notes(source.study, len(report.frames), len(lesions))
        has_report = job.dicom_sr_file is not None
        seg, measured = dicom_files(segmenter, source.study, lesions, with_report=has_report)
        outputs = {job.dicom_seg_file: seg}
        if job.dicom_sr_file is not None:
            outputs[job.dicom_sr_file] = measured
        write_files_atomically(outputs)
        clock.lap("write")
        report.facts["timings_ms"] = clock.timings_ms()
    return report


def _check_outputs(job: CineTracking) -> None:
    source = Path(job.source)
    for path, kind, suffixes in (
        (job.video_file, "video", VIDEO_SUFFIXES),
        (job.csv_file, "table", (".csv",)),
    ):
        if path is not None:
            check_output(path, kind, suffixes, source)
    check_output_paths(source, dicom_seg=job.dicom_seg_file, dicom_sr=job.dicom_sr_file)
    check_dicom_files(job.dicom_seg_file, job.dicom_sr_file)
    if job.mask_file is not None:
        others = (job.video_file, job.csv_file, job.dicom_seg_file, job.dicom_sr_file)
        check_masks(job.mask_file, source, *others)


def followed_writers(
    job: CineTracking,
    source: CineSource,
    segmenter: Segmenter,
    closing: ExitStack,
    lesions: "list[LesionFrame]",
) -> list[Callable[[CineFrame, TrackedFrame, FrameRecord], None]]:
    """What takes each followed frame as it comes.

    Args:
        job: Names the video and the masks; with a DICOM segmentation, `lesions` are collected.
        source: Where the frames are from.
        segmenter: What computed.
        closing: When it ends well, the files appear.
        lesions: What DICOM files are made of.
    """
    writers: list[Callable[[CineFrame, TrackedFrame, FrameRecord], None]] = []
    if job.video_file is not None:
        rate = source.frames_per_second or _DEFAULT_RATE
        video = closing.enter_context(OverlayVideo(job.video_file, rate))
        note = legend_note(segmenter)
        writers.append(lambda *followed: video.write(_picture(*followed, note=note)))
    if job.mask_file is not None:
        files = closing.enter_context(MaskFiles(job.mask_file))

        def add(frame: CineFrame, tracked: TrackedFrame, record: FrameRecord) -> None:
            masks = np.empty((0, *frame.image.shape), np.bool_)
            spacing = None if record.mask is None else record.mask.spacing
            if tracked.mask is not None:
                masks = tracked.mask[None]
            files.add(frame.index, frame.seconds, tracked.state, masks, spacing)

        writers.append(add)
    if job.dicom_seg_file is not None:

        def keep(frame: CineFrame, tracked: TrackedFrame, record: FrameRecord) -> None:
            if tracked.mask is not None and record.mask is not None:
                comment = f"{tracked.state}: {tracked.reason}" if tracked.reason else ""
                masks, records = tracked.mask[None], [record.mask]
                lesions.extend(lesion_frames(frame.index, masks, records, comment))

        writers.append(keep)
    return writers


def _facts(job: CineTracking, source: CineSource, segmenter: Segmenter) -> dict[str, Any]:
    path = Path(job.source)
    return {
        "source": source.name,
        "frame_count": source.frame_count,
        "frames_per_second": source.frames_per_second,
        "from_frame": job.from_frame,
        "box": None if job.box is None else list(job.box),
        "image": {
            "path": source.name,
            "sha256": sha256_of_file(path) if path.is_file() else None,
            "width": None,
            "height": None,
            "frame": job.from_frame,
        },
        **computed_by(segmenter),
        "video_file": None if job.video_file is None else str(job.video_file),
        "csv_file": None if job.csv_file is None else str(job.csv_file),
        "mask_file": None if job.mask_file is None else str(job.mask_file),
        "dicom_seg_file": None if job.dicom_seg_file is None else str(job.dicom_seg_file),
        "dicom_sr_file": None if job.dicom_sr_file is None else str(job.dicom_sr_file),
    }


Followed = tuple[CineFrame, TrackedFrame, FrameRecord]


def follow_lesion(
    segmenter: Segmenter,
    frames: Iterable[CineFrame],
    box: Box | None,
    source: CineSource,
    spacing: PixelSpacing | None,
    location: BreastLocation | None = None,
) -> Iterator[Followed]:
    """Follow a lesion through frames, each of which is used.

    Args:
        segmenter: What computes.
        frames: At least one; the box is in the first.
        box: XYXY around the lesion, pixels; None to begin with what the model proposes.
        source: Where the frames are from.
        spacing: Size of a pixel; None takes what the source says.
        location: Where the lesion is, as it was given.

    Raises:
        BadArgumentError: if the box does not fit the frame.
        BackendError: if the backend fails.
        ImageFileError: if a frame cannot be read.
    """
    tracker = LesionTracker(segmenter)
    for done, frame in enumerate(frames):
        begun = time.perf_counter()
        tracked = tracker.update(frame.image) if done else tracker.start(frame.image, box)
        latency_ms = 1000 * (time.perf_counter() - begun)
        record = frame_record(
            frame.index, frame.seconds, tracked, latency_ms, source, spacing, location
        )
        yield frame, tracked, record


def _follow_file(
    job: CineTracking, source: CineSource, segmenter: Segmenter, report: TrackReport
) -> Iterator[Followed]:
    frames = source.part(job.from_frame, job.max_frames)
    return follow_lesion(segmenter, frames, job.box, source, job.spacing, job.location)


def _follow_live(
    job: CineTracking, source: CineSource, segmenter: Segmenter, report: TrackReport
) -> Iterator[Followed]:
    """Follow a lesion through the newest frames of a camera."""
    with Stream(segmenter) as stream:
        stream.mark(job.box)
        times: dict[int, float] = {}
        begun = time.perf_counter()

        def feed() -> None:
            for frame in source.part(job.from_frame, None):
                try:
                    number = stream.submit(frame.image)
                except RuntimeError:  # closed
                    return
                times[number] = time.perf_counter() - begun
            stream.close(drains=True)

        feeder = threading.Thread(target=feed, name="camera", daemon=True)
        feeder.start()
        try:
            for done, result in enumerate(stream, 1):
                assert result.tracked is not None
                frame = CineFrame(result.number, times.pop(result.number, None), result.frame)
                record = frame_record(
                    frame.index,
                    frame.seconds,
                    result.tracked,
                    result.latency_ms,
                    source,
                    job.spacing,
                    job.location,
                )
                yield frame, result.tracked, record
                if done == job.max_frames:
                    return
        finally:
            report.frames_dropped = stream.statistics().dropped


def _picture(
    frame: CineFrame, tracked: TrackedFrame, record: FrameRecord, *, note: str
) -> npt.NDArray[np.uint8]:
    items = []
    if tracked.mask is not None and record.mask is not None:
        measured = record.mask.measurements
        items = [OverlayItem(tracked.mask, tracked.state, measurements=measured)]
    time_text = "" if frame.seconds is None else f", {frame.seconds:.2f} s"
    reason = f": {tracked.reason}" if tracked.reason else ""
    notes = [f"frame {frame.index}{time_text}, {tracked.state}{reason}"]
    # As many lines where there is no mask, so that all pictures are of one size.
    notes += [""] * (2 - 2 * len(items))
    return draw_overlay(frame.image, items, [*notes, note])
