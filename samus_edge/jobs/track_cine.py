"""Follow a lesion through a cine and write what was asked for: the work of `samus-edge track`."""

import csv
import io
import os
import platform
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np
import numpy.typing as npt

from samus_edge import __version__
from samus_edge.errors import BadArgumentError, OutputFileError
from samus_edge.runtime.bundle.records import JsonValue
from samus_edge.runtime.cine.cine_source import CineFrame, CineSource, open_cine
from samus_edge.runtime.cine.lesion_tracker import Box, LesionTracker, State, TrackedFrame
from samus_edge.runtime.cine.stream import Stream
from samus_edge.runtime.images.output_files import check_output, write_files_atomically
from samus_edge.runtime.images.overlay import OverlayItem, draw_overlay
from samus_edge.runtime.measurement.lesion_measurements import (
    LesionMeasurements,
    PixelSpacing,
    measure_lesion,
)
from samus_edge.runtime.segmenter import Segmenter

__all__ = [
    "VIDEO_SUFFIXES",
    "CineTracking",
    "FrameReport",
    "OverlayVideo",
    "TrackReport",
    "track_cine",
]


_CODECS = {".mp4": "mp4v", ".avi": "MJPG"}
VIDEO_SUFFIXES = tuple(_CODECS)
"""MPEG-4 and Motion JPEG: what OpenCV writes everywhere."""


class OverlayVideo:
    """Writes beside the file and takes its place when it is complete.

    Args:
        path: ends in one of `VIDEO_SUFFIXES`.
        frames_per_second: of the video.

    Raises:
        BadArgumentError: if the suffix is another.
    """

    def __init__(self, path: Path, frames_per_second: float) -> None:
        if path.suffix.lower() not in _CODECS:
            raise BadArgumentError(f"the video must end in {' or '.join(_CODECS)}, got {path}.")
        self._path, self._rate = path, frames_per_second
        self._size_wh: tuple[int, int] | None = None
        self._writer: cv2.VideoWriter | None = None
        self._temporary: Path | None = None

    def write(self, picture: npt.NDArray[np.uint8]) -> None:
        """Add a picture; those after the first are cut or padded to its size.

        Args:
            picture: (H, W, 3), uint8, RGB.

        Raises:
            OutputFileError: if it cannot be written.
        """
        if self._writer is None:
            self._open(picture)
        assert self._writer is not None
        assert self._size_wh is not None
        width, height = self._size_wh
        fitted = np.zeros((height, width, 3), np.uint8)
        rows, columns = min(height, picture.shape[0]), min(width, picture.shape[1])
        fitted[:rows, :columns] = picture[:rows, :columns, ::-1]  # BGR
        self._writer.write(fitted)

    def _open(self, picture: npt.NDArray[np.uint8]) -> None:
        # Codecs take even sizes.
        height, width = (size + size % 2 for size in picture.shape[:2])
        try:
            handle, name = tempfile.mkstemp(
                dir=self._path.absolute().parent, prefix=".", suffix=self._path.suffix
            )
        except OSError as err:
            raise OutputFileError(f"{self._path} cannot be written: {err.strerror}.") from err
        os.close(handle)
        self._temporary = Path(name)
        codec = cv2.VideoWriter.fourcc(*_CODECS[self._path.suffix.lower()])
        self._writer = cv2.VideoWriter(name, codec, self._rate, (width, height))
        self._size_wh = (width, height)
        if not self._writer.isOpened():
            self._discard()
            raise OutputFileError(
                f"{self._path} cannot be written: this OpenCV has no encoder for it. Try .avi."
            )

    def close(self) -> None:
        """Put the video in its place; without a frame there is none.

        Raises:
            OutputFileError: if that fails.
        """
        if self._writer is None or self._temporary is None:
            return
        self._writer.release()
        try:
            # As files are that are opened for writing.
            umask = os.umask(0)
            os.umask(umask)
            self._temporary.chmod(0o666 & ~umask)
            self._temporary.replace(self._path)
        except OSError as err:
            self._discard()
            raise OutputFileError(f"{self._path} cannot be written: {err.strerror}.") from err
        self._writer = self._temporary = None

    def _discard(self) -> None:
        if self._temporary is not None:
            self._temporary.unlink(missing_ok=True)
        self._writer = self._temporary = None

    def __enter__(self) -> "OverlayVideo":  # noqa: PYI034  # Self is of Python 3.11
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if exc is None:
            self.close()
        elif self._writer is not None:
            self._writer.release()
            self._discard()


_DEFAULT_RATE = 20.0


@dataclass(frozen=True)
class CineTracking:
    """What to follow, with what, and where results go.

    Attributes:
        source: see `open_cine`.
        box: XYXY around the lesion in the first frame that is used, pixels.
        from_frame: index of that frame.
        most_frames: to use; None for all.
        bundle: folder of a bundle, or a zip file of one; None for the default bundle.
        backend: see `select_backend`.
        precision: see `Segmenter.load`.
        threads: CPU threads; None for all cores, at most 8.
        spacing: size of a pixel; None takes it from a DICOM file, and else measures in pixels.
        video_file: MP4 or AVI with overlays; None for none.
        csv_file: a line for each frame; None for none.
    """

    source: str
    box: Box
    from_frame: int = 0
    most_frames: int | None = None
    bundle: Path | None = None
    backend: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    spacing: PixelSpacing | None = None
    video_file: Path | None = None
    csv_file: Path | None = None


@dataclass(frozen=True)
class FrameReport:
    """A frame without its pixels.

    Attributes:
        frame: index in the source.
        seconds: since the source's first frame; None where it does not say.
        state: see `TrackedFrame`, as are reason, box, predicted_iou, similarity and contrast.
        latency_ms: from the frame to its mask.
        measurements: None where it is lost.
    """

    frame: int
    seconds: float | None
    state: State
    reason: str
    box: Box | None
    predicted_iou: float | None
    similarity: float
    contrast: float | None
    latency_ms: float
    measurements: LesionMeasurements | None

    def to_json(self) -> dict[str, JsonValue]:
        """As a JSON object."""
        return {
            "frame": self.frame,
            "seconds": _rounded(self.seconds),
            "state": self.state,
            "reason": self.reason,
            "box": None if self.box is None else list(self.box),
            "predicted_iou": _rounded(self.predicted_iou),
            "similarity": _rounded(self.similarity),
            "contrast": _rounded(self.contrast),
            "latency_ms": round(self.latency_ms, 2),
            "measurements": None if self.measurements is None else self.measurements.to_json(),
        }


@dataclass
class TrackReport:
    """What came of a cine.

    Attributes:
        frames: in order.
        facts: what makes the result traceable: source, bundle, backend, versions and so on.
        frames_dropped: of a live source, because newer ones came.
        was_interrupted: whether somebody has stopped it.
    """

    frames: list[FrameReport] = field(default_factory=list)
    facts: dict[str, JsonValue] = field(default_factory=dict)
    frames_dropped: int = 0
    was_interrupted: bool = False

    @property
    def is_lost(self) -> bool:
        """Whether the lesion was lost at the end."""
        return bool(self.frames) and self.frames[-1].state in ("lost", "stopped")

    def counts(self) -> dict[str, int]:
        """Frames by state."""
        counted = Counter(frame.state for frame in self.frames)
        return {state: counted[state] for state in ("tracking", "uncertain", "lost", "stopped")}

    def to_json(self) -> dict[str, JsonValue]:
        """As a JSON document."""
        latencies = [frame.latency_ms for frame in self.frames] or [0.0]
        p50, p90, p99 = (round(float(value), 2) for value in np.percentile(latencies, (50, 90, 99)))
        return {
            **self.facts,
            "states": dict(self.counts()),
            "is_lost": self.is_lost,
            "was_interrupted": self.was_interrupted,
            "frames_dropped": self.frames_dropped,
            "latency_ms": {"p50": p50, "p90": p90, "p99": p99},
            "frames": [frame.to_json() for frame in self.frames],
        }

    def to_csv(self) -> str:
        """A line for each frame; lengths in the unit of the line, areas in its square."""
        names = ("area", "longest_diameter", "perpendicular_diameter", "width", "height")
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        plain = ("frame", "seconds", "state", "reason", "predicted_iou", "similarity", "contrast")
        writer.writerow([*plain, "latency_ms", "x1", "y1", "x2", "y2", "unit", *names])
        for frame in self.frames:
            document = frame.to_json()
            found = frame.measurements
            sizes: list[object] = [""] * (1 + len(names))
            if found is not None:
                values = (
                    *(found.area, found.longest.length, found.perpendicular.length),
                    *(found.width, found.height),
                )
                sizes = [found.unit, *(round(value, 3) for value in values)]
            writer.writerow(
                [
                    *("" if document[name] is None else document[name] for name in plain),
                    document["latency_ms"],
                    *(frame.box or [""] * 4),
                    *sizes,
                ]
            )
        return text.getvalue()


def track_cine(
    job: CineTracking,
    *,
    on_start: Callable[[int | None], None] = lambda count: None,
    on_frame: Callable[[FrameReport], None] = lambda frame: None,
    report: TrackReport | None = None,
) -> TrackReport:
    """Follow a lesion; all that can be checked early is, and a stop in between keeps what there is.

    Args:
        job: what to do.
        on_start: called once with the number of frames, or None where it is not known.
        on_frame: called after each frame.
        report: filled as frames come, for what is left of a job that fails; None for a new one.

    Raises:
        BadArgumentError: if an argument is wrong, by itself or for this cine.
        ImageFileError: if a frame cannot be read; what was found before is written.
        BundleError, BackendError: as `Segmenter.load`.
        OutputFileError: if a result cannot be written.
    """
    for path, kind, suffixes in (
        (job.video_file, "video", VIDEO_SUFFIXES),
        (job.csv_file, "table", (".csv",)),
    ):
        if path is not None:
            check_output(path, kind, suffixes, Path(job.source))
    report = TrackReport() if report is None else report
    with ExitStack() as closing:
        source = open_cine(job.source)
        closing.callback(source.close)
        segmenter = closing.enter_context(
            Segmenter.load(
                job.bundle, backend=job.backend, precision=job.precision, threads=job.threads
            )
        )
        report.facts = _facts(job, source, segmenter)
        count = source.frame_count
        if count is not None:
            if job.from_frame >= count:
                raise BadArgumentError(
                    f"{source.name} has {count} frames, from 0 to {count - 1}; there is no frame "
                    f"{job.from_frame}."
                )
            count = min(count - job.from_frame, job.most_frames or count)
        on_start(count)
        video: OverlayVideo | None = None
        if job.video_file is not None:
            rate = source.frames_per_second or _DEFAULT_RATE
            video = closing.enter_context(OverlayVideo(job.video_file, rate))
        frames = (
            _live(job, source, segmenter, report)
            if source.is_live
            else _each(job, source, segmenter)
        )
        try:
            for frame, tracked, latency in frames:
                done = _frame_report(job, source, frame, tracked, latency)
                report.frames.append(done)
                if video is not None:
                    video.write(_picture(frame, tracked, done))
                on_frame(done)
        except KeyboardInterrupt:
            report.was_interrupted = True
        finally:
            _write(job, report)
    return report


def _each(
    job: CineTracking, source: CineSource, segmenter: Segmenter
) -> Iterator[tuple[CineFrame, TrackedFrame, float]]:
    """Every frame of a file."""
    tracker = LesionTracker(segmenter)
    done = 0
    for frame in source:
        if frame.index < job.from_frame:
            continue
        begun = time.perf_counter()
        tracked = tracker.start(frame.image, job.box) if done == 0 else tracker.update(frame.image)
        yield frame, tracked, 1000 * (time.perf_counter() - begun)
        done += 1
        if done == job.most_frames:
            return


def _live(
    job: CineTracking, source: CineSource, segmenter: Segmenter, report: TrackReport
) -> Iterator[tuple[CineFrame, TrackedFrame, float]]:
    """The newest frames of a camera."""
    with Stream(segmenter) as stream:
        stream.mark(job.box)
        times: dict[int, float] = {}
        begun = time.perf_counter()

        def feed() -> None:
            for frame in source:
                if frame.index < job.from_frame:
                    continue
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
                yield frame, result.tracked, result.latency_ms
                if done == job.most_frames:
                    return
        finally:
            report.frames_dropped = stream.statistics().dropped


def _frame_report(
    job: CineTracking, source: CineSource, frame: CineFrame, tracked: TrackedFrame, latency: float
) -> FrameReport:
    measured: LesionMeasurements | None = None
    if tracked.mask is not None and tracked.box is not None:
        spacing = job.spacing or source.spacing_in(tracked.box)
        measured = measure_lesion(tracked.mask, spacing)
    return FrameReport(
        frame.index,
        frame.seconds,
        tracked.state,
        tracked.reason,
        tracked.box,
        tracked.predicted_iou,
        tracked.similarity,
        tracked.contrast,
        latency,
        measured,
    )


def _picture(
    frame: CineFrame, tracked: TrackedFrame, done: FrameReport
) -> "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]":
    items = []
    if tracked.mask is not None:
        items = [OverlayItem(tracked.mask, tracked.state, measurements=done.measurements)]
    time_text = "" if frame.seconds is None else f", {frame.seconds:.2f} s"
    reason = f": {tracked.reason}" if tracked.reason else ""
    notes = [f"frame {frame.index}{time_text}, {tracked.state}{reason}"]
    # As many lines where there is no mask, so that all pictures are of one size.
    notes += [""] * (2 - 2 * len(items))
    notes.append(f"samus-edge {__version__}. Not a medical device.")
    return draw_overlay(frame.image, items, notes)


def _write(job: CineTracking, report: TrackReport) -> None:
    contents: dict[Path, bytes] = {}
    if job.csv_file is not None:
        contents[job.csv_file] = report.to_csv().encode()
    if contents:
        write_files_atomically(contents)


def _facts(job: CineTracking, source: CineSource, segmenter: Segmenter) -> dict[str, JsonValue]:
    backend = segmenter.backend
    return {
        "source": source.name,
        "frame_count": source.frame_count,
        "frames_per_second": source.frames_per_second,
        "from_frame": job.from_frame,
        "box": list(job.box),
        "backend": backend.name,
        "device": backend.device,
        "threads": backend.threads,
        "precision": segmenter.precision,
        "bundle": {
            "name": segmenter.bundle.manifest.name,
            "graphs": dict(segmenter.graph_hashes),
        },
        "versions": {
            "samus_edge": __version__,
            "python": platform.python_version(),
            backend.name: backend.version,
        },
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
