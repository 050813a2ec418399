"""`samus-edge track`: follow a lesion through a cine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from samus_edge.cli.console import progress_bar
from samus_edge.cli.options import (
    AsJson,
    BackendName,
    BundlePath,
    ClockHour,
    Depth,
    DeviceName,
    DicomSeg,
    DicomSr,
    FromNipple,
    PrecisionName,
    RequireSignature,
    Side,
    Spacing,
    Strict,
    Threads,
    open_signed,
    parse_box,
    parse_location,
    parse_spacing,
    print_json,
    silence_opencv,
)
from samus_edge.errors import BadArgumentError

if TYPE_CHECKING:
    from samus_edge.jobs.record import FrameRecord
    from samus_edge.jobs.track_cine import CineTracking, TrackReport

_EXIT_LOST = 1


def command(
    video: Annotated[
        str,
        typer.Option(
            "--video",
            metavar="SOURCE",
            help="Video, DICOM or image file, folder of images, or camera (camera:N for another "
            "than the first).",
        ),
    ],
    box: Annotated[
        str | None,
        typer.Option(
            "--box", metavar="X1,Y1,X2,Y2", help="Box around the lesion in the first frame, pixels."
        ),
    ] = None,
    auto: Annotated[
        bool,
        typer.Option(
            "--auto",
            help="Without a box: follow what the model proposes, a suggestion that a person has to "
            "look at.",
        ),
    ] = False,
    from_frame: Annotated[
        int, typer.Option("--from-frame", min=0, metavar="N", help="First frame to use, from 0.")
    ] = 0,
    frames: Annotated[
        int | None, typer.Option("--frames", min=1, metavar="N", help="Use no more than this many.")
    ] = None,
    bundle: BundlePath = None,
    require_signature: RequireSignature = None,
    backend: BackendName = "auto",
    device: DeviceName = None,
    precision: PrecisionName = "auto",
    threads: Threads = None,
    spacing: Spacing = None,
    side: Side = None,
    clock: ClockHour = None,
    from_nipple: FromNipple = None,
    depth: Depth = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", metavar="FILE.mp4", help="Write a video (MP4 or AVI) with contours and sizes."
        ),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option("--csv", metavar="FILE.csv", help="Write a line for each frame."),
    ] = None,
    masks: Annotated[
        Path | None,
        typer.Option(
            "--masks",
            metavar="FOLDER|FILE.npz",
            help="Write the mask of each frame: a folder of PNG files, or one NumPy file.",
        ),
    ] = None,
    dicom_seg: DicomSeg = None,
    dicom_sr: DicomSr = None,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Follow a lesion through the frames of a cine, and measure it in each.

    Where the lesion is not certain a frame is "uncertain"; where it is lost there is no mask, and
    it is looked for. Ctrl-C stops and writes what there is.

    Exit codes: 0 followed to the end; 1 lost at the end, or the job failed (what was found before
    is written); 2 an argument is wrong.
    """
    if auto == (box is not None):
        raise BadArgumentError("give either --box or --auto.")
    lesion = None if box is None else parse_box(box)
    size = parse_spacing(spacing)
    location = parse_location(side, clock, from_nipple, depth)

    # Here, so that --help and a mistyped option answer at once.
    from samus_edge.jobs.record import refuse_warnings
    from samus_edge.jobs.track_cine import CineTracking, TrackReport, track_cine

    silence_opencv()
    job = CineTracking(
        source=video,
        box=lesion,
        from_frame=from_frame,
        max_frames=frames,
        bundle=open_signed(bundle, require_signature),
        backend=backend,
        precision=precision,
        threads=threads,
        device=device,
        spacing=size,
        location=location,
        video_file=out,
        csv_file=csv,
        mask_file=masks,
        dicom_seg_file=dicom_seg,
        dicom_sr_file=dicom_sr,
    )
    report = TrackReport()
    try:
        with progress_bar("opening") as bar:

            def show(frame: "FrameRecord") -> None:
                bar.update(f"frame {frame.frame}, {frame.tracked.state}", advance=1)

            def start(count: int | None) -> None:
                bar.update(total=count)

            track_cine(job, on_start=start, on_frame=show, report=report)
    finally:
        if as_json and report.frames:  # also of a job that fails: what was found before
            print_json(report.to_json())
    if not as_json:
        typer.echo("\n".join(_lines(job, report)))
    if strict:
        refuse_warnings(report.notes)
    if report.is_lost:
        raise typer.Exit(_EXIT_LOST)


def _lines(job: "CineTracking", report: "TrackReport") -> list[str]:
    counts = ", ".join(f"{count} {state}" for state, count in report.counts().items() if count)
    lines = [f"{job.source}: {len(report.frames)} frames: {counts}"]
    if report.frames_dropped:
        lines.append(f"  {report.frames_dropped} frames dropped, because newer ones came")
    if report.times_lost:
        lines.append(f"  times lost: {report.times_lost}, found again: {report.times_found}")
    before = ""
    for frame in report.frames:
        state, reason = frame.tracked.state, frame.tracked.reason
        if state != before:
            lines.append(f"  from frame {frame.frame}: {state}" + (f": {reason}" if reason else ""))
        before = state
    lines += [f"  {note.level}: {note.text}" for note in report.notes]
    if report.was_interrupted:
        lines.append("  stopped by you")
    for path in (job.video_file, job.csv_file, job.mask_file):
        if path is not None:
            lines.append(f"  written: {path}")
    for path in (job.dicom_seg_file, job.dicom_sr_file):
        if path is not None:
            lines.append(f"  written: {path} (identifies the patient)")
    if report.is_lost:
        lines.append("  the lesion was lost: mark it again in a later frame (--from-frame, --box)")
    lines.append("  Not a medical device; `samus-edge info` says what it is for.")
    return lines
